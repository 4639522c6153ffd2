"""What a decided batch writes: one statement per table that changed, arrays as parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.texts import storable
from farebox.ledger.grants import Grant
from farebox.ledger.holds import Hold
from farebox.ledger.journal import Posting
from farebox.ledger.limits import Rule, ScopeLimits
from farebox.ledger.organizations import Organization
from farebox.ledger.state import (
    Changes,
    ClosedCall,
    Closing,
    Ending,
    Event,
    LateChange,
    NewHold,
    RollupDelta,
    RollupKey,
)
from farebox.storage.arrays import flags, instants, literals, numbers, texts, uuids
from farebox.storage.sql import queries

Statement = tuple[str, str, tuple[str, ...], int]
"""The query's name, the query, its parameters, and how many rows it must touch."""

_json: Final = msgspec.json.Encoder()


def statements(changes: Changes) -> Iterator[Statement]:
    """The statements of a batch, parents before what refers to them."""
    sql = queries("engine")
    writers: tuple[tuple[str, Sequence[object], Callable[..., tuple[str, ...]]], ...] = (
        ("write_organizations", changes.organizations, _organizations),
        ("insert_grants", changes.new_grants, _new_grants),
        ("write_grants", changes.grants, _grants),
        ("write_limits", changes.limits, _limits),
        ("write_counters", changes.counters, _counters),
        ("insert_holds", changes.new_holds, _new_holds),
        ("write_holds", changes.holds, _holds),
        ("close_holds", changes.closings, _closings),
        ("write_late", changes.late, _late),
        ("add_rollups", list(changes.rollups.items()), _rollups),
        ("insert_postings", changes.postings, _postings),
        ("insert_events", changes.events, _events),
        ("insert_money_commands", changes.commands, _commands),
    )
    for name, rows, parameters in writers:
        if rows:
            yield name, sql[name], parameters(rows), len(rows)


def _organizations(rows: list[Organization]) -> tuple[str, ...]:
    return (
        uuids(o.id for o in rows),
        flags(o.active for o in rows),
        numbers(o.floor for o in rows),
        instants(o.last_time for o in rows),
        numbers(o.sequence for o in rows),
        numbers(o.granted for o in rows),
        numbers(o.owed for o in rows),
        numbers(o.spent for o in rows),
        numbers(o.reserved for o in rows),
        numbers(o.unreserved for o in rows),
        numbers(o.frozen for o in rows),
        numbers(o.expired for o in rows),
        numbers(o.refunded for o in rows),
        numbers(o.unsecured_held for o in rows),
        numbers(o.absorbed for o in rows),
    )


def _new_grants(rows: list[Grant]) -> tuple[str, ...]:
    return (
        uuids(g.id for g in rows),
        uuids(g.organization_id for g in rows),
        numbers(g.sequence for g in rows),
        texts(g.source for g in rows),
        numbers(g.amount for g in rows),
        numbers(g.remaining for g in rows),
        numbers(g.reserved for g in rows),
        numbers(g.frozen for g in rows),
        numbers(g.repaid for g in rows),
        numbers(g.expired for g in rows),
        numbers(g.refunded for g in rows),
        instants(g.effective_at for g in rows),
        instants(g.expires_at for g in rows),
        texts(g.state for g in rows),
        flags(g.repays for g in rows),
        texts(g.reference for g in rows),
    )


def _grants(rows: list[Grant]) -> tuple[str, ...]:
    return (
        uuids(g.id for g in rows),
        numbers(g.remaining for g in rows),
        numbers(g.reserved for g in rows),
        numbers(g.frozen for g in rows),
        numbers(g.repaid for g in rows),
        numbers(g.expired for g in rows),
        numbers(g.refunded for g in rows),
        texts(g.state for g in rows),
        flags(g.repays for g in rows),
    )


def _limits(rows: list[ScopeLimits]) -> tuple[str, ...]:
    return (
        uuids(s.organization_id for s in rows),
        numbers(s.number for s in rows),
        texts(s.kind for s in rows),
        texts(s.ref for s in rows),
        flags(s.is_everywhere for s in rows),
        texts(_rules_text(s.rules) for s in rows),
        literals(numbers(_flat(s)) for s in rows),
    )


def _counters(rows: list[ScopeLimits]) -> tuple[str, ...]:
    return (
        uuids(s.organization_id for s in rows),
        numbers(s.number for s in rows),
        literals(numbers(_flat(s)) for s in rows),
    )


@lru_cache(maxsize=1 << 14)
def _rules_text(rules: tuple[Rule, ...]) -> str:
    return json_text(rules)


def _flat(scope: ScopeLimits) -> Iterator[int]:
    """The windows of a scope, six numbers each."""
    for rule, kept in scope.windows.items():
        for window in kept:
            yield from (rule, window.start, window.end, window.used, window.held, window.told)


def _new_holds(rows: list[NewHold]) -> tuple[str, ...]:
    holds = [row.hold for row in rows]
    commands = [row.command for row in rows]
    about = [row.command.attribution for row in rows]
    dims = [hold.dimensions for hold in holds]
    return (
        uuids(h.call_id for h in holds),
        uuids(h.organization_id for h in holds),
        uuids(h.node_id for h in holds),
        numbers(h.epoch for h in holds),
        numbers(h.amount for h in holds),
        numbers(h.unsecured for h in holds),
        *_earmarks(holds),
        *_raised(holds),
        instants(h.admitted_at for h in holds),
        instants(h.latest_end for h in holds),
        uuids(d.project_id for d in dims),
        uuids(d.key_id for d in dims),
        texts(d.feature for d in dims),
        texts(d.environment for d in dims),
        texts(d.model for d in dims),
        texts(d.lane for d in dims),
        texts(d.endpoint for d in dims),
        texts(h.fingerprint.hex() for h in holds),
        numbers(h.output_limit for h in holds),
        numbers(h.tokens for h in holds),
        texts(a.user for a in about),
        texts(a.run for a in about),
        texts(a.priority for a in about),
        texts(json_text(a.tags) if a.tags else None for a in about),
        texts(a.client_request_id for a in about),
        numbers(a.retry_count for a in about),
        flags(c.streamed for c in commands),
        uuids(c.price_id for c in commands),
        uuids(c.upstream_account_id for c in commands),
        literals(numbers((c.fixed, c.output_price, c.output_min, c.output_max)) for c in commands),
        numbers(row.available_before for row in rows),
        texts(json_text(row.limits) if row.limits else None for row in rows),
    )


def _holds(rows: list[Hold]) -> tuple[str, ...]:
    return (
        uuids(h.call_id for h in rows),
        numbers(h.amount for h in rows),
        numbers(h.unsecured for h in rows),
        *_earmarks(rows),
        *_raised(rows),
        numbers(h.tokens for h in rows),
        numbers(h.steps for h in rows),
        literals(
            None
            if (p := h.progress) is None
            else numbers((p.metered, p.cost, p.input_tokens, p.output_tokens))
            for h in rows
        ),
    )


def _earmarks(rows: list[Hold]) -> tuple[str, str]:
    return (
        literals(uuids(mark.grant_id for mark in h.earmarks) for h in rows),
        literals(numbers(mark.amount for mark in h.earmarks) for h in rows),
    )


def _raised(rows: list[Hold]) -> tuple[str, str]:
    """The scopes by themselves, for a batch to find their counters by; and all of it."""
    return (
        literals(numbers(item.scope for item in h.raised) if h.raised else None for h in rows),
        literals(
            numbers(number for i in h.raised for number in (i.scope, i.rule, i.start, i.amount))
            if h.raised
            else None
            for h in rows
        ),
    )


def _closings(rows: list[Closing]) -> tuple[str, ...]:
    calls = [row.call for row in rows]
    endings = [row.ending for row in rows]
    return (
        uuids(c.call_id for c in calls),
        numbers(c.sequence for c in calls),
        texts(c.state for c in calls),
        texts(c.dimensions.lane for c in calls),
        instants(row.ended_at for row in rows),
        numbers(e.latency_ms for e in endings),
        numbers(e.http_status for e in endings),
        texts(e.reason for e in endings),
        flags(e.estimated for e in endings),
        numbers(c.held for c in calls),
        numbers(c.charge for c in calls),
        numbers(c.absorbed for c in calls),
        numbers(c.owed for c in calls),
        numbers(c.cost for c in calls),
        uuids(e.price_id for e in endings),
        *_usage(calls),
        *_lines(endings),
        literals(uuids(draw.grant_id for draw in c.draws) for c in calls),
        literals(numbers(draw.amount for draw in c.draws) for c in calls),
        texts(None if (f := c.settle_fingerprint) is None else f.hex() for c in calls),
    )


def _late(rows: list[LateChange]) -> tuple[str, ...]:
    calls = [row.call for row in rows]
    endings = [row.ending for row in rows]
    return (
        uuids(c.call_id for c in calls),
        texts(c.state for c in calls),
        numbers(c.charge for c in calls),
        numbers(c.absorbed for c in calls),
        numbers(c.owed for c in calls),
        numbers(c.cost for c in calls),
        numbers(c.late_charge for c in calls),
        numbers(c.late_absorbed for c in calls),
        flags(e.estimated for e in endings),
        texts(e.reason or "late" for e in endings),
        *_usage(calls),
        *_lines(endings),
        literals(uuids(draw.grant_id for draw in c.draws) for c in calls),
        literals(numbers(draw.amount for draw in c.draws) for c in calls),
        texts(None if (f := c.settle_fingerprint) is None else f.hex() for c in calls),
        texts(c.dimensions.lane for c in calls),
        uuids(e.price_id for e in endings),
        numbers(e.http_status for e in endings),
        numbers(e.latency_ms for e in endings),
    )


def _usage(calls: list[ClosedCall]) -> tuple[str, ...]:
    return (
        numbers(c.usage.input_tokens for c in calls),
        numbers(c.usage.cached_tokens for c in calls),
        numbers(c.usage.cache_write_tokens for c in calls),
        numbers(c.usage.output_tokens for c in calls),
        numbers(c.usage.reasoning_tokens for c in calls),
    )


def _lines(rows: Sequence[Ending]) -> tuple[str, ...]:
    return (
        texts(texts(line.unit for line in row.lines) for row in rows),
        literals(numbers(line.quantity for line in row.lines) for row in rows),
        literals(numbers(line.price for line in row.lines) for row in rows),
        literals(numbers(line.amount for line in row.lines) for row in rows),
    )


def _rollups(rows: list[tuple[RollupKey, RollupDelta]]) -> tuple[str, ...]:
    # The same order in every process: two batches never wait for each other in a circle.
    keyed = sorted(
        ((bucket(key), key, delta) for key, delta in rows), key=lambda row: (row[1].hour, row[0])
    )
    keys = [key for _, key, _ in keyed]
    deltas = [delta for _, _, delta in keyed]
    dims = [key.dimensions for key in keys]
    return (
        uuids(k.organization_id for k in keys),
        instants(k.hour for k in keys),
        uuids(b for b, _, _ in keyed),
        uuids(d.project_id for d in dims),
        uuids(d.key_id for d in dims),
        texts(d.feature for d in dims),
        texts(d.environment for d in dims),
        texts(d.model for d in dims),
        texts(d.lane for d in dims),
        texts(d.endpoint for d in dims),
        numbers(d.calls for d in deltas),
        numbers(d.charge for d in deltas),
        numbers(d.absorbed for d in deltas),
        numbers(d.cost for d in deltas),
        numbers(d.input_tokens for d in deltas),
        numbers(d.cached_tokens for d in deltas),
        numbers(d.cache_write_tokens for d in deltas),
        numbers(d.output_tokens for d in deltas),
        numbers(d.reasoning_tokens for d in deltas),
    )


def bucket(key: RollupKey) -> UUID:
    """A short, stable name of a rollup row's dimensions."""
    digest = blake2b(msgspec.msgpack.encode(key.dimensions), digest_size=16).digest()
    return UUID(bytes=digest)


def _postings(rows: list[Posting]) -> tuple[str, ...]:
    return (
        uuids(p.organization_id for p in rows),
        texts(p.kind for p in rows),
        instants(p.at for p in rows),
        texts(texts(p.accounts) for p in rows),
        literals(numbers(p.amounts) for p in rows),
        uuids(p.grant_id for p in rows),
        uuids(p.call_id for p in rows),
        numbers(p.first_sequence for p in rows),
        numbers(p.last_sequence for p in rows),
        texts(p.note for p in rows),
    )


def _events(rows: list[Event]) -> tuple[str, ...]:
    return (
        uuids(e.organization_id for e in rows),
        texts(e.kind for e in rows),
        instants(e.at for e in rows),
        texts(json_text(e.facts) for e in rows),
    )


def _commands(rows: list[tuple[UUID, UUID, bytes]]) -> tuple[str, ...]:
    return (
        uuids(command for _, command, _ in rows),
        uuids(org for org, _, _ in rows),
        texts(mark.hex() for _, _, mark in rows),
    )


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
