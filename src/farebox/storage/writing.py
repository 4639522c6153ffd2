"""What a decided batch writes: one statement per table that changed, from rows of texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import msgspec

from farebox.kit.texts import storable
from farebox.ledger.commands import LineItem, Usage
from farebox.ledger.grants import Grant
from farebox.ledger.holds import Dimensions, Hold
from farebox.ledger.journal import Posting
from farebox.ledger.limits import Rule, ScopeLimits
from farebox.ledger.organizations import Organization
from farebox.ledger.state import (
    Changes,
    ClosedCall,
    Closing,
    Event,
    LateChange,
    NewHold,
    RollupDelta,
    RollupKey,
)
from farebox.storage.arrays import texts
from farebox.storage.batch_forms import (
    Text,
    batch_queries,
    flag,
    instant,
    literal,
    number,
    text,
    uuid,
    uuid_or_null,
)

Statement = tuple[str, str, tuple[Text, ...], int]
"""The query's name, the query, its parameters, and how many rows it must touch."""

ORGANIZATIONS: Final = "write_organizations"
"""The first statement of a batch that writes anything."""

NO_VERSIONS: Final[Mapping[UUID, str]] = MappingProxyType({})

_json: Final = msgspec.json.Encoder()


def statements(changes: Changes, versions: Mapping[UUID, str] = NO_VERSIONS) -> Iterator[Statement]:
    """The statements of a batch, parents before what refers to them.

    Args:
        changes: What was decided.
        versions: Of organisations that are not locked yet: only those are written, which are still
            the version that is remembered.
    """
    forms = batch_queries()

    organizations = changes.organizations
    if versions:
        # Every process locks them in the same order, as those that read do.
        organizations = sorted(organizations, key=lambda o: o.id.int)

    def organization(o: Organization) -> tuple[Text, ...]:
        return (*_organization(o), versions.get(o.id))

    writers: tuple[tuple[str, Collection[Any], Callable[[Any], tuple[Text, ...]]], ...] = (
        (ORGANIZATIONS, organizations, organization),
        ("insert_grants", changes.new_grants, _new_grant),
        ("write_grants", changes.grants, _grant),
        ("forget_scopes", changes.forgotten, _forgotten),
        ("write_limits", changes.limits, _limits),
        ("write_counters", changes.counters, _counter),
        ("insert_holds", changes.new_holds, _new_hold),
        ("write_holds", changes.holds, _hold),
        ("close_holds", changes.closings, _closing),
        ("write_late", changes.late, _late),
        ("add_rollups", changes.rollups and _ordered(changes.rollups), _rollup),
        ("insert_postings", changes.postings, _posting),
        ("insert_events", changes.events, _event),
        ("insert_money_commands", changes.commands, _command),
    )
    for name, changed, row in writers:
        if changed:
            rows = [row(each) for each in changed]
            sql, parameters = forms[name].of(rows)
            yield name, sql, parameters, len(rows)


def _organization(o: Organization) -> tuple[Text, ...]:
    return (
        uuid(o.id),
        flag(o.active),
        str(o.floor),
        o.last_time.isoformat(),
        str(o.sequence),
        str(o.granted),
        str(o.owed),
        str(o.spent),
        str(o.reserved),
        str(o.unreserved),
        str(o.frozen),
        str(o.expired),
        str(o.refunded),
        str(o.unsecured_held),
        str(o.absorbed),
        o.zone,
    )


def _new_grant(g: Grant) -> tuple[Text, ...]:
    return (
        uuid(g.id),
        uuid(g.organization_id),
        str(g.sequence),
        g.source,
        str(g.amount),
        str(g.remaining),
        str(g.reserved),
        str(g.frozen),
        str(g.repaid),
        str(g.expired),
        str(g.refunded),
        g.effective_at.isoformat(),
        instant(g.expires_at),
        g.state,
        flag(g.repays),
        text(g.reference),
    )


def _grant(g: Grant) -> tuple[Text, ...]:
    return (
        uuid(g.id),
        str(g.remaining),
        str(g.reserved),
        str(g.frozen),
        str(g.repaid),
        str(g.expired),
        str(g.refunded),
        g.state,
        flag(g.repays),
    )


def _forgotten(row: tuple[UUID, int]) -> tuple[Text, ...]:
    return (uuid(row[0]), str(row[1]))


def _limits(s: ScopeLimits) -> tuple[Text, ...]:
    return (
        uuid(s.organization_id),
        str(s.number),
        s.kind,
        storable(s.ref),
        flag(s.is_everywhere),
        _rules_text(s.rules),
        literal(_flat(s)),
    )


def _counter(s: ScopeLimits) -> tuple[Text, ...]:
    return uuid(s.organization_id), str(s.number), literal(_flat(s))


@lru_cache(maxsize=1 << 14)
def _rules_text(rules: tuple[Rule, ...]) -> str:
    return json_text(rules)


def _flat(scope: ScopeLimits) -> list[int]:
    """The windows of a scope, six numbers each."""
    return [
        n
        for rule, kept in scope.windows.items()
        for w in kept
        for n in (rule, w.start, w.end, w.used, w.held, w.told)
    ]


def _new_hold(row: NewHold) -> tuple[Text, ...]:
    hold, command = row.hold, row.command
    about, dims = command.attribution, hold.dimensions
    return (
        uuid(hold.call_id),
        uuid(hold.organization_id),
        uuid(hold.node_id),
        str(hold.epoch),
        str(hold.amount),
        str(hold.unsecured),
        *_earmarks(hold),
        *_raised(hold),
        hold.admitted_at.isoformat(),
        hold.latest_end.isoformat(),
        *_dimensions(dims),
        hold.fingerprint.hex(),
        number(hold.output_limit),
        str(hold.tokens),
        storable(about.user),
        storable(about.run),
        storable(about.priority),
        json_text(about.tags) if about.tags else None,
        text(about.client_request_id),
        number(about.retry_count),
        flag(command.streamed),
        uuid_or_null(command.price_id),
        uuid_or_null(command.upstream_account_id),
        literal((command.fixed, command.output_price, command.output_min, command.output_max)),
        str(row.available_before),
        json_text(row.limits) if row.limits else None,
    )


def _hold(h: Hold) -> tuple[Text, ...]:
    used = h.progress
    return (
        uuid(h.call_id),
        str(h.amount),
        str(h.unsecured),
        *_earmarks(h),
        *_raised(h),
        str(h.tokens),
        str(h.steps),
        None
        if used is None
        else literal((used.metered, used.cost, used.input_tokens, used.output_tokens)),
    )


def _earmarks(hold: Hold) -> tuple[str, str]:
    return (
        literal([uuid(mark.grant_id) for mark in hold.earmarks]),
        literal([mark.amount for mark in hold.earmarks]),
    )


def _raised(hold: Hold) -> tuple[Text, Text]:
    """The scopes by themselves, for a batch to find their counters by; and all of it."""
    if not hold.raised:
        return None, None
    return (
        literal([item.scope for item in hold.raised]),
        literal([n for i in hold.raised for n in (i.scope, i.rule, i.start, i.amount)]),
    )


def _dimensions(dims: Dimensions) -> tuple[str, ...]:
    return (
        uuid(dims.project_id),
        uuid(dims.key_id),
        storable(dims.feature),
        storable(dims.environment),
        storable(dims.model),
        storable(dims.lane),
        storable(dims.endpoint),
    )


def _closing(row: Closing) -> tuple[Text, ...]:
    call, ending = row.call, row.ending
    return (
        uuid(call.call_id),
        str(call.sequence),
        call.state,
        storable(call.dimensions.lane),
        row.ended_at.isoformat(),
        number(ending.latency_ms),
        number(ending.http_status),
        text(ending.reason),
        flag(ending.estimated),
        str(call.held),
        str(call.charge),
        str(call.absorbed),
        str(call.owed),
        str(call.cost),
        uuid_or_null(ending.price_id),
        *_usage(call.usage),
        *_lines(ending.lines),
        *_draws(call),
        _settle_mark(call),
    )


def _late(row: LateChange) -> tuple[Text, ...]:
    call, ending = row.call, row.ending
    return (
        uuid(call.call_id),
        call.state,
        str(call.charge),
        str(call.absorbed),
        str(call.owed),
        str(call.cost),
        str(call.late_charge),
        str(call.late_absorbed),
        flag(ending.estimated),
        storable(ending.reason or "late"),
        *_usage(call.usage),
        *_lines(ending.lines),
        *_draws(call),
        _settle_mark(call),
        storable(call.dimensions.lane),
        uuid_or_null(ending.price_id),
        number(ending.http_status),
        number(ending.latency_ms),
    )


def _usage(usage: Usage) -> tuple[str, ...]:
    return (
        str(usage.input_tokens),
        str(usage.cached_tokens),
        str(usage.cache_write_tokens),
        str(usage.output_tokens),
        str(usage.reasoning_tokens),
    )


def _lines(lines: Sequence[LineItem]) -> tuple[str, ...]:
    return (
        texts([line.unit for line in lines]),
        literal([line.quantity for line in lines]),
        literal([line.price for line in lines]),
        literal([line.amount for line in lines]),
    )


def _draws(call: ClosedCall) -> tuple[str, str]:
    return (
        literal([uuid(draw.grant_id) for draw in call.draws]),
        literal([draw.amount for draw in call.draws]),
    )


def _settle_mark(call: ClosedCall) -> Text:
    mark = call.settle_fingerprint
    return None if mark is None else mark.hex()


def _ordered(
    rollups: dict[RollupKey, RollupDelta],
) -> list[tuple[UUID, RollupKey, RollupDelta]]:
    """The same order in every process: two batches never wait for each other in a circle."""
    keyed = [(bucket(key), key, delta) for key, delta in rollups.items()]
    return sorted(keyed, key=lambda row: (row[1].hour, row[0]))


def _rollup(row: tuple[UUID, RollupKey, RollupDelta]) -> tuple[Text, ...]:
    name, key, delta = row
    return (
        uuid(key.organization_id),
        key.hour.isoformat(),
        uuid(name),
        *_dimensions(key.dimensions),
        str(delta.calls),
        str(delta.charge),
        str(delta.absorbed),
        str(delta.cost),
        str(delta.input_tokens),
        str(delta.cached_tokens),
        str(delta.cache_write_tokens),
        str(delta.output_tokens),
        str(delta.reasoning_tokens),
    )


def bucket(key: RollupKey) -> UUID:
    """A short, stable name of a rollup row's dimensions."""
    return _bucket(key.dimensions)


@lru_cache(maxsize=1 << 11)
def _bucket(dimensions: Dimensions) -> UUID:
    digest = blake2b(msgspec.msgpack.encode(dimensions), digest_size=16).digest()
    return UUID(bytes=digest)


def _posting(p: Posting) -> tuple[Text, ...]:
    return (
        uuid(p.organization_id),
        p.kind,
        p.at.isoformat(),
        texts(p.accounts),
        literal(p.amounts),
        uuid_or_null(p.grant_id),
        uuid_or_null(p.call_id),
        number(p.first_sequence),
        number(p.last_sequence),
        text(p.note),
    )


def _event(e: Event) -> tuple[Text, ...]:
    return uuid(e.organization_id), e.kind, e.at.isoformat(), json_text(e.facts)


def _command(row: tuple[UUID, UUID, bytes]) -> tuple[Text, ...]:
    organization_id, command_id, mark = row
    return uuid(command_id), uuid(organization_id), mark.hex()


def json_text(value: object) -> str:
    """JSON for a jsonb column; text that it refuses is mended as in an array of texts."""
    try:
        text = _json.encode(value).decode()
        if "\\u0000" not in text:
            return text
    except UnicodeEncodeError:
        pass
    return _json.encode(_mended(msgspec.to_builtins(value))).decode()


def _mended(value: object) -> object:
    match value:
        case str():
            return storable(value)
        case dict():
            return {_mended(key): _mended(item) for key, item in value.items()}
        case list() | tuple():
            return [_mended(item) for item in value]
        case _:
            return value
