"""What limits in shadow would have refused: exactly what the same limit refuses when it is hard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from msgspec import structs
from psycopg import AsyncConnection
from typing_extensions import override

from farebox.kit.money import parse_amount
from farebox.ledger.commands import Admit, Admitted, AnyCommand, Attribution, SetLimit
from farebox.ledger.limits import OBSERVED, Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.shadow_limits import ShadowRefusals
from farebox.storage import shadow_store
from farebox.storage.balance_store import list_limits
from farebox.storage.connecting import Connector
from tests.support.console_people import Payer


class Runner(Payer):
    """Somebody whose calls belong to a run within a run."""

    @override
    async def send(self, *commands: AnyCommand) -> list[Any]:
        about = Attribution(run="crawl/page")
        return await super().send(
            *(
                structs.replace(each, attribution=about) if isinstance(each, Admit) else each
                for each in commands
            )
        )


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
    """A connection of our own, closed behind us."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        yield connection


async def found(payer: Payer) -> dict[tuple[str, str], ShadowRefusals | None]:
    """Every limit by its kind and effect (a default's own row: ``each KIND``)."""
    async with connected(payer.dsn) as connection:
        limits = await list_limits(connection, payer.id)
        counted = await shadow_store.read_shadow_refusals(connection, payer.id, limits)
    names = [f"{'' if view.scope_ref else 'each '}{view.scope_kind.value}" for view in limits]
    return {
        (name, view.rule.effect.value): each
        for name, view, each in zip(names, limits, counted, strict=True)
    }


async def limit(payer: Payer, effect: Effect, maximum: int, **fields: Any) -> None:
    """Set a limit of a month's money, unless told otherwise."""
    values: dict[str, Any] = {"period": Period.MONTH, **fields}
    await payer.send(SetLimit(organization_id=payer.id, maximum=maximum, effect=effect, **values))


@pytest.mark.parametrize(
    ("measure", "period", "maximum"),
    [
        (Measure.MONEY, Period.MONTH, parse_amount("2.5")),
        (Measure.MONEY, Period.TOTAL, parse_amount("0.999999999")),
        (Measure.CALLS, Period.DAY, 2),
        (Measure.PARALLEL, Period.TOTAL, 1),
        (Measure.TOKENS, Period.UTC_DAY, 1),
        (Measure.SECONDS, Period.TOTAL, 0),
        (Measure.DEPTH, Period.TOTAL, 0),
    ],
)
async def test_a_shadow_counts_what_its_twin_refuses(
    measure: Measure, period: Period, maximum: int, dsn: str
) -> None:
    """BUD-03: two organisations with the same calls, one under a hard limit, one in its shadow: the
    first call that the one refuses is the first that the other counts.
    """
    hard, shadowed = Runner(dsn, "Hard"), Runner(dsn, "Shadow")
    scope: dict[str, Any] = {}
    if measure in OBSERVED:
        scope = {"scope_kind": ScopeKind.RUN, "scope_ref": "crawl"}
    key = (scope.get("scope_kind", ScopeKind.ORGANIZATION).value, "shadow")
    for payer, effect in ((hard, Effect.HARD), (shadowed, Effect.SHADOW)):
        await payer.grant("50")
        await limit(payer, effect, maximum, measure=measure, period=period, **scope)
    refused = None
    for number in range(4):
        if isinstance(await hard.ask("1"), Admitted):
            await shadowed.admit("1")
            counted = (await found(shadowed))[key]
            assert counted is not None
            assert (counted.calls, counted.last_call_id) == (0, None), number
        else:
            refused = await shadowed.admit("1")
            break
    assert refused is not None, "the hard limit refused nothing"
    open_one = (await found(shadowed))[key]
    await shadowed.settle(refused, 1_000, 10)
    closed = (await found(shadowed))[key]
    for counted in (open_one, closed):
        assert counted is not None
        assert (counted.calls, counted.last_call_id) == (1, refused)
        assert counted.last_call_at is not None
        assert counted.since < counted.last_call_at


async def test_only_shadows_are_counted_each_by_itself(dsn: str) -> None:
    """Limits of other effects, scopes, periods and models say nothing of a shadow; a default has
    the calls of all its scopes.
    """
    payer = Payer(dsn)
    await payer.grant("50")
    await limit(payer, Effect.ALERT, 0)
    await limit(payer, Effect.SHADOW, 0, models="gpt-4*")
    await limit(payer, Effect.SHADOW, 0, scope_kind=ScopeKind.KEY)
    await limit(
        payer, Effect.SHADOW, parse_amount("9"),
        scope_kind=ScopeKind.PROJECT, scope_ref=payer.project_id.hex,
    )  # fmt: skip
    for _ in range(3):
        await payer.settle(await payer.admit("1"), 1_000, 10)
    counted = await found(payer)
    assert counted["organization", "alert"] is None
    calls = {name: each.calls for (name, _), each in counted.items() if each is not None}
    assert calls == {"organization": 0, "each key": 3, "key": 3, "project": 0}


async def test_so_many_of_the_newest_calls_are_looked_at(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost of an answer is bounded, and it says since when it counts."""
    payer = Payer(dsn)
    await payer.grant("50")
    await limit(payer, Effect.SHADOW, 0)
    calls = [await payer.admit("0.1") for _ in range(5)]
    for call_id in calls:
        await payer.settle(call_id, 1_000, 10)
    whole = (await found(payer))["organization", "shadow"]
    monkeypatch.setattr(shadow_store, "CALLS_LOOKED_AT_MAX", 2)
    newest = (await found(payer))["organization", "shadow"]
    assert whole is not None
    assert newest is not None
    assert (whole.calls, newest.calls) == (5, 2)
    assert (whole.last_call_id, newest.last_call_id) == (calls[-1], calls[-1])
    with psycopg.connect(dsn) as sql:
        rows = sql.execute("SELECT admitted_at FROM call ORDER BY id DESC").fetchall()
    assert newest.since == rows[1][0]
    payer.advance_clock(timedelta(days=32))
    later = (await found(payer))["organization", "shadow"]
    assert later is not None
    assert (later.calls, later.last_call_at) == (0, None)


async def test_where_nothing_is_in_shadow_no_call_is_read(dsn: str) -> None:
    """A page of other limits costs nothing more."""
    payer = Payer(dsn)
    await limit(payer, Effect.HARD, 5)
    async with connected(dsn) as connection:
        limits = await list_limits(connection, payer.id)
    # A connection that is closed would not answer.
    assert await shadow_store.read_shadow_refusals(connection, payer.id, limits) == [None]
    assert await shadow_store.read_shadow_refusals(connection, payer.id, ()) == []
