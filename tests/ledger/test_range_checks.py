"""Commands: what is range-checked before a batch, and how a replay is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import AMOUNT_NANOS_MAX, Nanos, price_half_even
from farebox.ledger import commands
from farebox.ledger.commands import (
    AnyCommand,
    Attribution,
    LineItem,
    Usage,
    fingerprint,
    hold_amount,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.range_checks import (
    COUNT_MAX,
    COUNTER_MAX,
    HOLD_SECONDS_MAX,
    HTTP_STATUS_MAX,
    LINES_MAX,
    NAME_CHARACTERS_MAX,
    YEAR_MAX,
    check,
)
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import DAY, NOON, TOKEN, Scene

SCENE = Scene()
ADMIT = SCENE.admit("call", 5, price=TOKEN, tokens=(0, 10))
SETTLE = SCENE.settle("call", 5)
GRANT = SCENE.grant("lot", 5)
ALLOCATION: dict[str, Any] = {
    "scope_kind": ScopeKind.PROJECT,
    "scope_ref": SCENE.named("project").hex,
    "effect": Effect.ALLOCATION,
    "period": Period.TOTAL,
}
STOP: dict[str, Any] = {
    "scope_kind": ScopeKind.RUN,
    "scope_ref": "r-1",
    "measure": Measure.PARALLEL,
    "effect": Effect.STOP,
}
DEPTH: dict[str, Any] = {
    "scope_kind": ScopeKind.RUN,
    "scope_ref": "r-1",
    "measure": Measure.DEPTH,
    "period": Period.TOTAL,
}
ZONE = commands.SetZone(organization_id=SCENE.id, zone="Asia/Kolkata")
FORGET = commands.Forget(organization_id=SCENE.id, numbers=(0, 2**63 - 1))

GOOD: list[AnyCommand] = [
    ADMIT,
    SCENE.extend("call", 1),
    SETTLE,
    SCENE.settle("call", 0),
    SCENE.release("call"),
    ZONE,
    FORGET,
    SCENE.limit(None, **DEPTH | {"effect": Effect.THROTTLE}),
    SCENE.limit(5, effect=Effect.THROTTLE),
    SCENE.limit(5, measure=Measure.PARALLEL, effect=Effect.THROTTLE),
    SCENE.limit(5, origin=Origin.TIER),
    SCENE.lapse("call"),
    SCENE.report("call", 5),
    GRANT,
    SCENE.grant("lot", AMOUNT_NANOS_MAX, starts=NOON, ends=NOON + DAY),
    SCENE.grant("lot", 5, ends=datetime(YEAR_MAX, 12, 31, tzinfo=UTC)),
    SCENE.expire_command(),
    SCENE.refund("back", "lot", 1),
    SCENE.dispute_command("lot", "opened"),
    SCENE.correct("fix", 1),
    SCENE.limit(0),
    SCENE.limit(None),
    SCENE.limit(AMOUNT_NANOS_MAX, raised_to=0, raised_until=NOON, thresholds=(1, 1000)),
    SCENE.limit(1, scope_ref="whatever", models="gpt-5*", owner="é" * NAME_CHARACTERS_MAX),
    SCENE.limit(1, scope_kind=ScopeKind.PROJECT, scope_ref=SCENE.named("project").hex),
    SCENE.limit(1, scope_kind=ScopeKind.KEY),
    SCENE.limit(1, scope_kind=ScopeKind.TAG, scope_ref="a=b=c", period=Period.MINUTE),
    SCENE.limit(1, scope_kind=ScopeKind.TAG, measure=Measure.PARALLEL),
    SCENE.limit(1, scope_kind=ScopeKind.RUN, measure=Measure.DEPTH, period=Period.TOTAL),
    SCENE.limit(1, **ALLOCATION),
    SCENE.limit(0, **STOP),
    SCENE.limit(None, **STOP),
    structs.replace(ADMIT, fixed=Nanos(0), output_min=10, latest_end_after=HOLD_SECONDS_MAX),
    structs.replace(ADMIT, output_min=0, output_max=COUNT_MAX, output_price=0),
    structs.replace(ADMIT, attribution=Attribution(retry_count=COUNTER_MAX)),
    structs.replace(ADMIT, output_min=0, output_max=1_000_000, output_price=AMOUNT_NANOS_MAX),
    SCENE.extend("call", AMOUNT_NANOS_MAX, step=COUNTER_MAX),
    structs.replace(SETTLE, http_status=HTTP_STATUS_MAX, latency_ms=COUNT_MAX),
    structs.replace(SETTLE, usage=Usage(input_tokens=COUNT_MAX, output_tokens=COUNT_MAX)),
    structs.replace(
        SETTLE,
        lines=(
            LineItem("in", COUNT_MAX, AMOUNT_NANOS_MAX, Nanos(5)),
            *[LineItem("x", 0, 0, Nanos(0))] * (LINES_MAX - 1),
        ),
    ),
]

BAD: list[tuple[AnyCommand, dict[str, Any], str]] = [
    (ADMIT, {"fixed": -1}, "fixed"),
    (ADMIT, {"fixed": AMOUNT_NANOS_MAX + 1}, "fixed"),
    (ADMIT, {"output_min": -1}, "output_max"),
    (ADMIT, {"output_min": 11}, "output_max"),
    (ADMIT, {"output_max": COUNT_MAX + 1}, "output_max"),
    (ADMIT, {"output_price": -1}, "output_price"),
    (ADMIT, {"output_price": AMOUNT_NANOS_MAX + 1}, "output_price"),
    (ADMIT, {"output_max": COUNT_MAX, "output_price": AMOUNT_NANOS_MAX}, "output_max"),
    (ADMIT, {"latest_end_after": timedelta(0)}, "latest_end_after"),
    (ADMIT, {"latest_end_after": HOLD_SECONDS_MAX + timedelta.resolution}, "latest_end_after"),
    (ADMIT, {"attribution": Attribution(retry_count=-1)}, "retry_count"),
    (ADMIT, {"attribution": Attribution(retry_count=COUNTER_MAX + 1)}, "retry_count"),
    (SCENE.extend("call", 1), {"amount": 0}, "amount"),
    (SCENE.extend("call", 1), {"step": 0}, "step"),
    (SCENE.extend("call", 1), {"step": COUNTER_MAX + 1}, "step"),
    (SETTLE, {"metered": -1}, "metered"),
    (SETTLE, {"metered": 6}, "lines"),
    (SETTLE, {"lines": ()}, "lines"),
    (SETTLE, {"cost": -1}, "cost"),
    (SETTLE, {"cost": AMOUNT_NANOS_MAX + 1}, "cost"),
    (SETTLE, {"http_status": HTTP_STATUS_MAX + 1}, "http_status"),
    (SETTLE, {"latency_ms": -1}, "latency_ms"),
    (SETTLE, {"usage": Usage(input_tokens=-1)}, "usage.input_tokens"),
    (SETTLE, {"usage": Usage(reasoning_tokens=COUNT_MAX + 1)}, "usage.reasoning_tokens"),
    (SETTLE, {"lines": (*SETTLE.lines, *[LineItem("x", 0, 0, Nanos(0))] * LINES_MAX)}, "lines"),
    (SETTLE, {"lines": (LineItem("in", -5, TOKEN, Nanos(5)),)}, "lines.in"),
    (SETTLE, {"lines": (LineItem("in", 5, -1, Nanos(5)),)}, "lines.in"),
    (SETTLE, {"lines": (LineItem("in", COUNT_MAX + 1, 0, Nanos(5)),)}, "lines.in"),
    (SETTLE, {"lines": (LineItem("in", 0, AMOUNT_NANOS_MAX + 1, Nanos(5)),)}, "lines.in"),
    (
        SETTLE,
        {"lines": (LineItem("a", 1, 1, Nanos(9)), LineItem("b", 1, 1, Nanos(-4)))},
        "lines.b",
    ),
    (SCENE.release("call"), {"http_status": -1}, "http_status"),
    (SCENE.report("call", 5), {"metered": -1}, "metered"),
    (SCENE.report("call", 5), {"cost": -1}, "cost"),
    (SCENE.report("call", 5), {"input_tokens": -1}, "input_tokens"),
    (SCENE.report("call", 5), {"output_tokens": COUNT_MAX + 1}, "output_tokens"),
    (GRANT, {"amount": 0}, "amount"),
    (GRANT, {"amount": AMOUNT_NANOS_MAX + 1}, "amount"),
    (GRANT, {"effective_at": NOON.replace(tzinfo=None)}, "effective_at"),
    (GRANT, {"expires_at": NOON.replace(tzinfo=None)}, "expires_at"),
    (GRANT, {"effective_at": NOON.replace(year=YEAR_MAX + 1)}, "effective_at"),
    (GRANT, {"effective_at": NOON, "expires_at": NOON}, "expires_at"),
    (SCENE.refund("back", "lot", 1), {"amount": 0}, "amount"),
    (SCENE.correct("fix", 1), {"amount": -1}, "amount"),
    (SCENE.limit(0), {"maximum": -1}, "maximum"),
    (SCENE.limit(0), {"maximum": AMOUNT_NANOS_MAX + 1}, "maximum"),
    (SCENE.limit(0), {"raised_to": -1}, "raised_to"),
    (SCENE.limit(0), {"raised_to": AMOUNT_NANOS_MAX + 1}, "raised_to"),
    (SCENE.limit(0), {"raised_until": NOON.replace(tzinfo=None)}, "raised_until"),
    (SCENE.limit(0), {"raised_from": NOON.replace(year=YEAR_MAX + 1)}, "raised_from"),
    (SCENE.limit(0), {"raised_from": NOON, "raised_until": NOON}, "raised_until"),
    (SCENE.limit(0), {"raised_until": NOON.replace(year=YEAR_MAX + 1)}, "raised_until"),
    (SCENE.limit(0), {"thresholds": (0,)}, "thresholds"),
    (SCENE.limit(0), {"thresholds": (50, 1001)}, "thresholds"),
    (SCENE.limit(0), {"thresholds": tuple(range(1, 12))}, "thresholds"),
    (SCENE.limit(0), {"models": "m" * (NAME_CHARACTERS_MAX + 1)}, "models"),
    (SCENE.limit(0), {"models": "a\x00b"}, "models"),
    (SCENE.limit(0), {"owner": "\ud800"}, "owner"),
    (SCENE.limit(0), {"count_failed": False}, "count_failed"),
    (SCENE.limit(0), {"count_failed": False, "measure": Measure.CALLS}, "count_failed"),
    (SCENE.limit(0), {"count_failed": False, "period": Period.MINUTE}, "count_failed"),
    (SCENE.limit(0), {"measure": Measure.PARALLEL}, "period"),
    (SCENE.limit(0), {"measure": Measure.SECONDS}, "period"),
    (SCENE.limit(0), {"measure": Measure.DEPTH, "period": Period.TOTAL}, "scope_kind"),
    (SCENE.limit(0), {"effect": Effect.ALLOCATION}, "effect"),
    (SCENE.limit(0, **ALLOCATION), {"scope_ref": ""}, "effect"),
    (SCENE.limit(0, **ALLOCATION), {"measure": Measure.TOKENS}, "effect"),
    (SCENE.limit(0, **ALLOCATION), {"models": "gpt*"}, "effect"),
    (SCENE.limit(0, **STOP), {"measure": Measure.CALLS}, "effect"),
    (SCENE.limit(0), {"effect": Effect.THROTTLE, "period": Period.TOTAL}, "effect"),
    (SCENE.limit(0, **DEPTH), {"effect": Effect.THROTTLE}, "effect"),
    (SCENE.limit(0), {"origin": Origin.TIER, "effect": Effect.ALERT}, "origin"),
    (SCENE.limit(0, **DEPTH), {"origin": Origin.TIER}, "origin"),
    (SCENE.limit(0, **STOP), {"maximum": 1}, "effect"),
    (SCENE.limit(0, **STOP), {"raised_to": 1}, "effect"),
    (SCENE.limit(0, **STOP), {"models": "gpt*"}, "effect"),
    (SCENE.limit(0), {"scope_kind": ScopeKind.PROJECT, "scope_ref": "search"}, "scope_ref"),
    (SCENE.limit(0), {"scope_kind": ScopeKind.KEY, "scope_ref": "A" * 32}, "scope_ref"),
    (SCENE.limit(0), {"scope_kind": ScopeKind.TAG, "scope_ref": "team"}, "scope_ref"),
    (SCENE.limit(0), {"scope_kind": ScopeKind.TAG, "scope_ref": "=blue"}, "scope_ref"),
    (SCENE.limit(0), {"scope_kind": ScopeKind.USER, "scope_ref": "a" * 401}, "scope_ref"),
    (SCENE.limit(0), {"scope_kind": ScopeKind.USER, "scope_ref": "a\x00"}, "scope_ref"),
    (SCENE.floor_command(0), {"floor": -1}, "floor"),
    (ZONE, {"zone": "Mars/Base"}, "zone"),
    (FORGET, {"numbers": ()}, "numbers"),
    (FORGET, {"numbers": (1,) * 1_001}, "numbers"),
    (FORGET, {"numbers": (-1,)}, "numbers"),
    (FORGET, {"numbers": (2**63,)}, "numbers"),
]


@pytest.mark.parametrize(
    "command", GOOD, ids=[f"{type(command).__name__}-{i}" for i, command in enumerate(GOOD)]
)
def test_what_the_rows_can_hold_is_let_through(command: AnyCommand) -> None:
    """DED-16: every kind of command, at the edges of what is allowed."""
    check(command)
    assert isinstance(command, get_args(commands.AnyCommand))


@pytest.mark.parametrize(("command", "changes", "field"), BAD)
def test_what_the_rows_could_not_hold_is_refused(
    command: AnyCommand, changes: dict[str, Any], field: str
) -> None:
    """DED-16: a value that the engine or the database could not take is named before the batch."""
    with pytest.raises(InvalidInputError) as caught:
        check(structs.replace(command, **changes))
    assert caught.value.field == field


def test_credit_cannot_leave_by_any_command() -> None:
    """CRD-18, CRD-19, CRD-22: there is no transfer, no withdrawal and no interest to ask for."""
    names = {kind.__name__ for kind in get_args(commands.AnyCommand)}
    assert names == {
        *("Admit", "Extend", "Settle", "Release", "Lapse", "Report"),
        *("GrantCredit", "ExpireGrants", "Refund", "Dispute", "Correct", "SetLimit", "SetFloor"),
        *("SetZone", "Forget"),
    }
    for kind in get_args(commands.AnyCommand):
        named = [field for field in kind.__struct_fields__ if "organization" in field]
        assert named == ["organization_id"], "a command speaks of one organisation"


@pytest.mark.parametrize("command", [ADMIT, SETTLE, GRANT], ids=["admit", "settle", "grant"])
def test_a_fingerprint_covers_every_field(command: Any) -> None:
    """DED-17: a command that differs in any field is another command."""
    seen = {fingerprint(command)}
    other: dict[type, Any] = {str: "other", bool: True, int: 77}
    for name in command.__struct_fields__:
        value = getattr(command, name)
        changed = {
            "usage": Usage(output_tokens=9),
            "lines": (),
            "attribution": Attribution(user="somebody"),
            "dimensions": structs.replace(ADMIT.dimensions, feature="search"),
            "source": Source.PROMO,
            "latest_end_after": DAY,
            "effective_at": NOON,
            "expires_at": NOON,
            "reference": "form",
            "default_expiry": True,
            "price_id": SCENE.named("another price"),
        }.get(name, other.get(type(value), SCENE.named("another")))
        if value != changed:
            seen.add(fingerprint(structs.replace(command, **{name: changed})))
    assert len(seen) == 1 + len(command.__struct_fields__)
    assert fingerprint(structs.replace(command)) in seen


@given(
    fixed=st.integers(0, 10**6),
    price=st.integers(0, 10**9),
    held=st.integers(0, 10**5),
    used=st.integers(0, 10**5),
)
def test_a_hold_covers_the_charge_of_what_it_allows(
    fixed: int, price: int, held: int, used: int
) -> None:
    """DED-16: with the output limit granted, no output within it costs more than is held."""
    command = SCENE.admit("call", fixed, price=price, tokens=(0, held))
    assert hold_amount(command, held) >= fixed + price_half_even(min(used, held), price)
    assert hold_amount(command, 0) == fixed
