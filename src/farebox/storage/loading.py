"""What a batch loads: the locks first, then every row that its commands touch, then the time.

All of it travels together; only replays, late answers and new limits need a second question.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Attribution,
    Correct,
    Dispute,
    Extend,
    Forget,
    GrantCredit,
    Lapse,
    Refund,
    Release,
    Report,
    SetLimit,
    Settle,
    SetZone,
)
from farebox.ledger.holds import CallState
from farebox.ledger.scopes import scope_number, scopes_of
from farebox.ledger.state import ClosedCall, OrganizationState, State
from farebox.storage import rows
from farebox.storage.arrays import numbers, uuids
from farebox.storage.batch_forms import batch_queries, literal, number, uuid, uuid_or_null
from farebox.storage.counting import Scan, count, counts
from farebox.storage.exchange import Exchange, Row
from farebox.storage.remembered import AHEAD_MAX, BEHIND_MAX, Read, Recalled
from farebox.storage.sql import queries


async def load(
    exchange: Exchange,
    commands: Sequence[AnyCommand],
    scans: Mapping[UUID, Scan],
    *,
    resent: bool,
) -> Read:
    """Begin the transaction, lock the organisations, read what the commands touch.

    Args:
        exchange: Outside a transaction.
        commands: The batch.
        scans: What was counted outside the lock for limits that begin.
        resent: Admissions may have been committed before: look for their holds.

    Returns:
        The rows, their versions, and the database's time after the locks.
    """
    questions = _Questions(exchange)
    orgs = sorted({c.organization_id for c in commands})
    called = _called(commands, resent=resent)
    limited = {c.organization_id for c in commands if counts(c)}
    forgetting = {c.organization_id for c in commands if isinstance(c, Forget)}
    zoned = {c.organization_id for c in commands if isinstance(c, SetZone)}
    scopes = list(_scopes(commands))
    exchange.send("BEGIN")
    questions.ask_for("lock_organizations", orgs)
    questions.ask_for("read_grants", orgs)
    questions.ask(
        "read_limits",
        uuids(organization for organization, _ in scopes),
        numbers(number for _, number in scopes),
        uuids(called),
        uuids(orgs),
    )
    questions.ask_for("read_named_grants", _named_grants(commands))
    questions.ask_for("read_keys", {c.dimensions.key_id for c in commands if isinstance(c, Admit)})
    questions.ask_for("read_holds", called)
    questions.ask_for("read_holds_of", limited | forgetting)
    questions.ask_for("read_limits_of", zoned)
    questions.ask_for(
        "read_money_commands", [c.command_id for c in commands if isinstance(c, Refund | Correct)]
    )
    questions.ask("read_time", uuids(_nodes(commands)))
    found = await questions.answers(skipped=1)

    clock = found["read_time"]
    organizations = {
        row[0]: OrganizationState(rows.organization(row)) for row in found["lock_organizations"]
    }
    state = State(
        organizations=organizations,
        epochs={row[2]: row[3] for row in clock if row[2] is not None},
        catalogue_revision=clock[0][1],
    )
    _fill(organizations, found)
    now = rows.utc(clock[0][0])
    await _load_closed(exchange, state, called)
    for organization_id in zoned & organizations.keys():
        mine = organizations[organization_id]
        mine.limits = list({scope.number: scope for scope in mine.limits}.values())
    if limited:
        await count(exchange, organizations, commands, now, scans)
    return Read(
        state,
        now,
        versions={row[0]: row[20] for row in found["lock_organizations"]},
        scopes=scopes,
        transaction=clock[0][4],
    )


def send_check(exchange: Exchange, recalled: Recalled, written: Container[UUID]) -> None:
    """Queue the statement that ends the transaction unless all is as remembered.

    Args:
        exchange: In a transaction that has written organisations, and nothing else yet.
        recalled: What the batch was decided by.
        written: Which organisations it has written.
    """
    versions = {i: None if i in written else v for i, v in recalled.versions.items()}
    epochs = recalled.state.epochs
    bounds = (
        (recalled.now - AHEAD_MAX).isoformat(),
        (recalled.now + BEHIND_MAX).isoformat(),
    )
    revision = str(recalled.state.catalogue_revision)
    sql = queries("engine")
    if len(versions) == 1 and len(epochs) <= 1:
        ((organization_id, version),) = versions.items()
        node_id, epoch = next(iter(epochs.items()), (None, None))
        node = uuid_or_null(node_id), number(epoch)
        exchange.send(sql["check_one"], (uuid(organization_id), version, revision, *node, *bounds))
        return
    exchange.send(
        sql["check_many"],
        (
            uuids(versions),
            literal("NULL" if v is None else v for v in versions.values()),
            revision,
            uuids(epochs),
            literal(epochs.values()),
            *bounds,
        ),
    )


class _Questions:
    """Named queries that travel together."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sql = queries("engine")
        self._names: list[str] = []

    def ask(self, name: str, *parameters: str) -> None:
        self._exchange.send(self._sql[name], parameters)
        self._names.append(name)

    def ask_for(self, name: str, ids: Iterable[UUID]) -> None:
        """Ask about ids, if there are any."""
        rows = [(uuid(each),) for each in ids]
        if rows:
            sql, parameters = batch_queries()[name].of(rows)
            self._exchange.send(sql, parameters)
            self._names.append(name)

    async def answers(self, *, skipped: int = 0) -> dict[str, list[Row]]:
        """The rows of each query; those that were not asked have none."""
        answers = (await self._exchange.answers())[skipped:]
        found = dict.fromkeys(self._sql, _NO_ROWS)
        found.update({name: answer.rows for name, answer in zip(self._names, answers, strict=True)})
        return found


_NO_ROWS: list[Row] = []


def _fill(organizations: dict[UUID, OrganizationState], found: dict[str, list[Row]]) -> None:
    """Put every row to its organisation; rows of organisations that are not locked are left out."""

    def rows_of(*names: str, column: int = 1) -> Iterator[tuple[OrganizationState, Row]]:
        for name in names:
            for row in found[name]:
                mine = organizations.get(row[column])
                if mine is not None:
                    yield mine, row

    for mine, row in rows_of("read_grants", "read_named_grants"):
        mine.grants.append(rows.grant(row))
    for mine, row in rows_of("read_limits", "read_limits_of", column=0):
        mine.limits.append(rows.limits(row))
    for mine, row in rows_of("read_keys"):
        mine.keys[row[0]] = rows.key(row)
    for mine, row in rows_of("read_holds", "read_holds_of"):
        mine.holds[row[0]] = rows.hold(row)
    for mine, (_, command_id, mark) in rows_of("read_money_commands", column=0):
        mine.known_commands[command_id] = mark


async def _load_closed(exchange: Exchange, state: State, called: Iterable[UUID]) -> None:
    """Calls that are open no more: only replays and late answers come here."""
    open_now = {call_id for o in state.organizations.values() for call_id in o.holds}
    missing = [call_id for call_id in called if call_id not in open_now]
    if not missing:
        return
    questions = _Questions(exchange)
    questions.ask("read_closed", uuids(missing))
    drawn: set[UUID] = set()
    late: set[UUID] = set()
    lapsed: list[ClosedCall] = []
    for row in (await questions.answers())["read_closed"]:
        if row[1] in state.organizations:
            call = rows.closed(row)
            state.organizations[row[1]].closed[call.call_id] = call
            drawn.update(draw.grant_id for draw in call.draws)
            if call.state is CallState.LAPSED:
                lapsed.append(call)
                if call.charge:
                    late.add(call.organization_id)
    if lapsed:
        await _load_limits_of(exchange, state, lapsed)
    loaded = {g.id for o in state.organizations.values() for g in o.grants}
    if drawn - loaded or late:
        # A late answer may give money back: to the grants it drew, and to those that repaid what
        # was owed for it, all of which may be empty by now.
        questions = _Questions(exchange)
        questions.ask("read_empty_grants", uuids(drawn), uuids(late))
        for row in (await questions.answers())["read_empty_grants"]:
            if row[0] not in loaded and row[1] in state.organizations:
                state.organizations[row[1]].grants.append(rows.grant(row))


async def _load_limits_of(exchange: Exchange, state: State, lapsed: list[ClosedCall]) -> None:
    """The limits that a lapsed call's answer may still count under."""
    known = {
        (organization_id, scope.number)
        for organization_id, mine in state.organizations.items()
        for scope in mine.limits
    }
    wanted = set().union(*(_numbers_of(call.organization_id, call, call) for call in lapsed))
    scopes = list(wanted - known)  # the defaults are there already
    questions = _Questions(exchange)
    questions.ask(
        "read_limits",
        uuids(organization for organization, _ in scopes),
        numbers(number for _, number in scopes),
        uuids(()),
        uuids(()),
    )
    for row in (await questions.answers())["read_limits"]:
        state.organizations[row[0]].limits.append(rows.limits(row))


def _scopes(commands: Sequence[AnyCommand]) -> set[tuple[UUID, int]]:
    """Every scope whose limits the commands may touch, before open holds are known."""
    found: set[tuple[UUID, int]] = set()
    for command in commands:
        mine = command.organization_id
        if isinstance(command, Admit):
            found |= _numbers_of(mine, command, command.attribution)
        elif isinstance(command, SetLimit):
            found.add((mine, command.scope.number))
        elif isinstance(command, Forget):
            found.update((mine, number) for number in command.numbers)
    return found


def _numbers_of(
    organization_id: UUID, call: Admit | ClosedCall, about: Attribution | ClosedCall
) -> set[tuple[UUID, int]]:
    """The scopes of a call."""
    return {
        (organization_id, scope_number(kind, ref))
        for kind, ref in scopes_of(
            organization_id, call.dimensions, user=about.user, run=about.run, tags=about.tags
        )
    }


def _called(commands: Sequence[AnyCommand], *, resent: bool) -> list[UUID]:
    """Calls whose holds may exist; an admission's only where it is sent again."""
    return [
        c.call_id
        for c in commands
        if isinstance(c, Settle | Release | Lapse | Report | Extend)
        or (resent and isinstance(c, Admit))
    ]


def _named_grants(commands: Sequence[AnyCommand]) -> list[UUID]:
    """Grants that commands name: they may have no money left, or may exist already."""
    return [c.grant_id for c in commands if isinstance(c, GrantCredit | Refund | Dispute)]


def _nodes(commands: Sequence[AnyCommand]) -> set[UUID]:
    return {c.node_id for c in commands if isinstance(c, Admit | Extend | Lapse)}
