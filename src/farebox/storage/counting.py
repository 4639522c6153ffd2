"""What the calls of scopes have used, for limits that begin in the middle of traffic.

Scopes that the hourly rollup knows are read from it under the lock (ADR 6). Users, runs and tags,
and everything when the zone changes, are counted from the calls in two steps (ENGINE.md, "Limits"):
page by page outside the lock, up to the organisation's number of then; under it what has ended
since, and what may have been answered late. The organisation's numbers have no gap, so that a call
that was not found is noticed; then, and where the window has turned meanwhile, all is read under
the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from farebox.kit.periods import hour_start
from farebox.ledger import limiting
from farebox.ledger.commands import AnyCommand, SetLimit, SetZone
from farebox.ledger.counters import UNCOUNTED, Amounts
from farebox.ledger.limits import ZONED, Micros, Rule, ScopeLimits, instant, window_bounds
from farebox.ledger.scopes import EVERY, ID_KINDS, Scope, ScopeKind
from farebox.ledger.state import OrganizationState
from farebox.storage.arrays import instants, numbers, texts, uuids
from farebox.storage.exchange import Exchange, Row
from farebox.storage.rows import limits as read_limits
from farebox.storage.rows import utc
from farebox.storage.sql import queries

PAGE_CALLS: Final = 20_000
"""Calls of one page: a fraction of a second, so that no snapshot is held for long."""

CLOCK_SKEW_MILLIS: Final = 60_000
"""How far the nodes' clocks, which make the calls' ids, may lie apart for the short way."""

_FIRST: Final = UUID(int=0)
_TIME_SHIFT: Final = 80
"""Bits of an id below its time."""

_EVERY_NUMBER: Final = 2**62

ROLLED_UP: Final = ID_KINDS | {ScopeKind.FEATURE, ScopeKind.ENVIRONMENT}
"""Kinds of scopes that the hourly rollup knows."""

Key = tuple[int, int, int]
"""Scope, rule's tally and start, as in :attr:`OrganizationState.used`."""

Sums = dict[int, Amounts]
"""By place, from one."""


class Wanted(NamedTuple):
    """One limit's window that must be counted."""

    scope: Scope
    rule: Rule
    start: Micros
    end: Micros
    from_calls: bool
    """Rather than from the rollup."""

    @property
    def key(self) -> Key:
        """What the engine knows it by."""
        return self.scope.number, self.rule.tally, self.start


class Scan(msgspec.Struct, frozen=True):
    """What the pages have counted outside the lock."""

    wanted: list[Wanted]
    sums: Sums
    sequence: int
    """Calls of later numbers are not in it..."""
    newest: UUID
    open: list[UUID]
    lapsed: list[UUID]
    """...nor are these."""
    dropped: int


def counts(command: AnyCommand) -> bool:
    """Whether a command may have something counted."""
    return isinstance(command, SetLimit | SetZone)


async def scan(
    exchange: Exchange, commands: Sequence[AnyCommand], *, seconds: float
) -> dict[UUID, Scan]:
    """Count outside the lock what the commands' limits will need, by organisation.

    Args:
        exchange: Outside a transaction.
        commands: A batch.
        seconds: The most that one page may take.
    """
    found: dict[UUID, Scan] = {}
    for organization_id in sorted({c.organization_id for c in commands if counts(c)}):
        mine = [c for c in commands if c.organization_id == organization_id]
        async with asyncio.timeout(seconds):
            begun = await _begin(exchange, organization_id, mine)
        if begun is not None:
            sums, lapsed = await _pages(
                exchange, organization_id, begun.wanted, begun.sequence, seconds=seconds
            )
            found[organization_id] = msgspec.structs.replace(begun, sums=sums, lapsed=lapsed)
    return found


async def _begin(
    exchange: Exchange, organization_id: UUID, commands: Sequence[AnyCommand]
) -> Scan | None:
    """Where the pages begin and end; None where there is nothing for them."""
    sql, orgs = queries("engine"), uuids((organization_id,))
    scopes = [c.scope.number for c in commands if isinstance(c, SetLimit)]
    changes_zone = any(isinstance(c, SetZone) for c in commands)
    exchange.send(queries("counting")["begin"], (organization_id.hex,))
    of = uuids(organization_id for _ in scopes)
    exchange.send(sql["read_limits"], (of, numbers(scopes), uuids(()), orgs))
    exchange.send(sql["read_limits_of"], (orgs if changes_zone else uuids(()),))
    begun, named, every = (answer.rows for answer in await exchange.answers())
    if not begun:
        return None
    now, zone, last_time, sequence, newest, open_calls, dropped = begun[0]
    limits = {scope.number: scope for scope in map(read_limits, (*named, *every))}
    engine_time = max(utc(now), utc(last_time))
    wanted = [
        each
        for each in wanted_by(commands, list(limits.values()), engine_time, zone)
        if each.from_calls
    ]
    if not wanted:
        return None
    return Scan(wanted, {}, sequence, newest or _FIRST, open_calls, [], dropped)


async def count(
    exchange: Exchange,
    organizations: Mapping[UUID, OrganizationState],
    commands: Sequence[AnyCommand],
    now: datetime,
    scans: Mapping[UUID, Scan],
) -> None:
    """Fill in what limits that begin have used, under the lock."""
    for organization_id in {c.organization_id for c in commands if counts(c)}:
        mine = organizations.get(organization_id)
        if mine is None:
            continue
        org = mine.organization
        asked = [c for c in commands if c.organization_id == organization_id]
        wanted = {
            each.key: each
            for each in wanted_by(asked, mine.limits, max(now, org.last_time), org.zone)
        }
        known = scans.get(organization_id)
        if known is not None:
            mine.used.update(await _since(exchange, mine, known))
        missing = [each for key, each in wanted.items() if key not in mine.used]
        from_calls = [each for each in missing if each.from_calls]
        if from_calls:
            sums, _ = await _pages(exchange, organization_id, from_calls, None)
            _add(sums, await _dropped(exchange, organization_id, from_calls))
            mine.used.update(_used(from_calls, sums))
        for each in missing:
            if not each.rule.count_failed:
                mine.used[each.key] = await _not_failed(exchange, organization_id, each)
            elif not each.from_calls:
                mine.used[each.key] = await _rolled_up(exchange, organization_id, each)


def wanted_by(
    commands: Sequence[AnyCommand], limits: Sequence[ScopeLimits], now: datetime, zone: str
) -> Iterator[Wanted]:
    """What one organisation's commands may have counted.

    A limit that is set and was not there; the default that stands in its place again when it is
    removed; every day, week and month by each zone that is set.

    Args:
        commands: One organisation's part of a batch.
        limits: Its scopes as they stand, the defaults of their kinds among them.
        now: Engine time.
        zone: Its zone before the batch.
    """
    zones = [c.zone for c in commands if isinstance(c, SetZone)]
    last_zone = zones[-1] if zones else zone
    removed = {
        (c.scope.number, c.number)
        for c in commands
        if isinstance(c, SetLimit) and c.maximum is None
    }
    standing = {
        (scope.number, rule.number, rule.count_failed) for scope in limits for rule in scope.rules
    }
    # One that is set to count failed calls, or not, counts anew; back again too, in the same batch.
    meant = standing | {
        (c.scope.number, c.number, c.count_failed) for c in commands if isinstance(c, SetLimit)
    }
    for command in commands:
        if isinstance(command, SetLimit):
            scope = command.scope
            for rule in _beginning(command, limits):
                which = scope.number, rule.number
                if (
                    which in removed
                    or (*which, rule.count_failed) not in standing
                    or (*which, not rule.count_failed) in meant
                ):
                    # A minute's calls are few enough to be read under the lock.
                    from_calls = scope.kind not in ROLLED_UP and rule.count_failed
                    yield Wanted(scope, rule, *window_bounds(rule, now, last_zone), from_calls)
    for each in zones if len(limits) <= limiting.ZONED_SCOPES_MAX else ():
        for row in limits:
            for rule in _rules(row, limits):
                if rule.period in ZONED:
                    start, end = window_bounds(rule, now, each)
                    yield Wanted(Scope(row.kind, row.ref), rule, start, end, from_calls=True)


def _beginning(command: SetLimit, limits: Iterable[ScopeLimits]) -> Iterator[Rule]:
    """The rule that a command may begin; limits of open calls and defaults need no past."""
    if command.measure in UNCOUNTED or command.scope.ref == EVERY:
        return
    if command.maximum is not None:
        yield Rule(
            measure=command.measure,
            period=command.period,
            effect=command.effect,
            models=command.models,
            origin=command.origin,
            count_failed=command.count_failed,
            maximum=command.maximum,
        )
        return
    for scope in limits:
        default = scope.rule(command.number) if scope.is_default else None
        if default is not None and scope.kind is command.scope.kind:
            yield default


def _rules(row: ScopeLimits, limits: Iterable[ScopeLimits]) -> Iterable[Rule]:
    """The rules that count a scope's calls: its own, and defaults that it has not."""
    if row.is_default:
        return ()
    defaults = next((s.rules for s in limits if s.is_default and s.kind is row.kind), ())
    return {rule.number: rule for rule in (*defaults, *row.rules)}.values()


async def _since(exchange: Exchange, mine: OrganizationState, known: Scan) -> dict[Key, int]:
    """The scan's figures, brought up to now; nothing where they cannot be."""
    organization_id = mine.organization.id
    floor = max(0, (known.newest.int >> _TIME_SHIFT) - CLOCK_SKEW_MILLIS) << _TIME_SHIFT
    exchange.send(
        queries("counting")["rest"],
        (
            organization_id.hex,
            UUID(int=floor).hex,
            str(known.sequence),
            uuids(known.open),
            uuids(known.lapsed),
            *_parameters(known.wanted),
        ),
    )
    (answer,) = await exchange.answers()
    explained, dropped, *arrays = answer.rows[0]
    if known.sequence + explained != mine.organization.sequence or dropped != known.dropped:
        return {}
    sums = dict(known.sums)
    _add(sums, _sums(arrays))
    _add(sums, await _dropped(exchange, organization_id, known.wanted))
    return _used(known.wanted, sums)


async def _pages(
    exchange: Exchange,
    organization_id: UUID,
    wanted: Sequence[Wanted],
    sequence: int | None,
    *,
    seconds: float | None = None,
) -> tuple[Sums, list[UUID]]:
    """Count page by page.

    Args:
        exchange: In a transaction or not.
        organization_id: Whose calls.
        wanted: What is counted.
        sequence: Up to which number; None under the lock, where nothing changes.
        seconds: The most that one page may take.

    Returns:
        The sums, and the lapsed calls that are not in them.
    """
    sums: Sums = {}
    lapsed: list[UUID] = []
    after, parameters = _FIRST, _parameters(wanted)
    is_final = sequence is None
    while True:
        exchange.send(
            queries("counting")["page"],
            (
                organization_id.hex,
                after.hex,
                str(_EVERY_NUMBER if sequence is None else sequence),
                str(PAGE_CALLS),
                "t" if is_final else "f",
                *parameters,
            ),
        )
        async with asyncio.timeout(seconds):
            (answer,) = await exchange.answers()
        last, calls, waiting, *arrays = answer.rows[0]
        _add(sums, _sums(arrays))
        lapsed += [] if is_final else waiting
        if calls < PAGE_CALLS:
            return sums, lapsed
        after = last


async def _dropped(exchange: Exchange, organization_id: UUID, wanted: Sequence[Wanted]) -> Sums:
    sql = queries("counting")["dropped"]
    exchange.send(sql, (organization_id.hex, *_parameters(wanted)))
    (answer,) = await exchange.answers()
    return _sums(answer.rows[0])


async def _rolled_up(exchange: Exchange, organization_id: UUID, each: Wanted) -> int:
    """The same from whole hours of the rollup, and from the calls of an hour that is cut."""
    start, end = instant(each.start), instant(each.end)
    first_hour = hour_start(start)
    if first_hour < start:
        first_hour += timedelta(hours=1)
    model, prefix = _models(each.rule)
    exchange.send(
        queries("engine")["read_used"],
        (
            organization_id.hex,
            each.scope.kind,
            _ref(each.scope),
            first_hour.isoformat(),
            end.isoformat(),
            model,
            prefix,
            start.isoformat(),
        ),
    )
    (answer,) = await exchange.answers()
    return Amounts(*answer.rows[0]).of(each.rule.measure)


async def _not_failed(exchange: Exchange, organization_id: UUID, each: Wanted) -> int:
    """Calls of one minute that have ended and did not fail."""
    sql, parameters = queries("counting")["not_failed"], _parameters([each])
    exchange.send(sql, (organization_id.hex, *parameters))
    (answer,) = await exchange.answers()
    calls: int = answer.rows[0][0]
    return calls


def _parameters(wanted: Sequence[Wanted]) -> tuple[str, ...]:
    return (
        texts(each.scope.kind for each in wanted),
        texts(_ref(each.scope) for each in wanted),
        texts(_models(each.rule)[0] for each in wanted),
        texts(_models(each.rule)[1] for each in wanted),
        instants(instant(each.start) for each in wanted),
        instants(instant(each.end) for each in wanted),
    )


def _ref(scope: Scope) -> str:
    return str(UUID(scope.ref)) if scope.kind in ID_KINDS else scope.ref


def _models(rule: Rule) -> tuple[str, str]:
    """The exact name, and the beginning of one."""
    return ("", rule.models[:-1]) if rule.models.endswith("*") else (rule.models, "")


def _sums(arrays: Row | list[Any]) -> Sums:
    return {
        place: Amounts(money, tokens, calls)
        for place, money, tokens, calls in zip(*arrays, strict=True)
    }


def _add(sums: Sums, more: Sums) -> None:
    for place, amounts in more.items():
        had = sums.get(place, Amounts(0, 0, 0))
        sums[place] = Amounts(
            had.money + amounts.money, had.tokens + amounts.tokens, had.calls + amounts.calls
        )


def _used(wanted: Sequence[Wanted], sums: Sums) -> dict[Key, int]:
    nothing = Amounts(0, 0, 0)
    return {
        each.key: sums.get(place, nothing).of(each.rule.measure)
        for place, each in enumerate(wanted, 1)
    }
