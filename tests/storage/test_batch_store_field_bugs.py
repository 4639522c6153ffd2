"""Bugs of other gateways that live between the engine and its rows, on PostgreSQL.

Each test is one public bug report; ``tests/FIELD_BUGS.md`` has the whole list.
"""

from __future__ import annotations

import asyncio
from typing import Any

from farebox.ledger.commands import (
    Admit,
    Admitted,
    Closed,
    Done,
    Refused,
    SetLimit,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Effect, Measure, Period, rule_number
from farebox.ledger.scopes import ScopeKind
from tests.support.shop import Shop

BUDGET = 1_000
MEASURES = (Measure.MONEY, Measure.TOKENS, Measure.CALLS)


def limit(shop: Shop, maximum: int | None, kind: ScopeKind, ref: str, **more: Any) -> SetLimit:
    """A limit of the till's organisation."""
    fields: dict[str, Any] = {"period": Period.MONTH, **more}
    return SetLimit(
        organization_id=shop.till.organization_id,
        scope_kind=kind,
        scope_ref=ref,
        maximum=maximum,
        **fields,
    )


def limits(shop: Shop, maximum: int | None) -> list[SetLimit]:
    """A limit of money, tokens and calls on every scope that a till's call is counted under."""
    refs = {
        ScopeKind.ORGANIZATION: "",
        ScopeKind.PROJECT: shop.till.project_id.hex,
        ScopeKind.KEY: shop.till.key_id.hex,
        ScopeKind.USER: "u",
        ScopeKind.FEATURE: "f",
        ScopeKind.ENVIRONMENT: "production",
        ScopeKind.TAG: "team=blue",
        ScopeKind.RUN: "r",
    }
    return [
        limit(shop, maximum, kind, ref, measure=measure)
        for kind, ref in refs.items()
        for measure in MEASURES
    ]


async def test_fallback_rechecks_budget(shop: Shop) -> None:
    """Field bug 18, BUD-02: a call that began free is checked anew before anything dearer leaves.

    Ten at once: the budget is not passed by one of them; what does not fit keeps what it had.
    """
    till = shop.till
    await shop.run(till.grant(10 * BUDGET))
    await shop.run(limit(shop, BUDGET, ScopeKind.KEY, till.key_id.hex))
    calls = [till.admit(0) for _ in range(10)]
    assert all(isinstance(each, Admitted) for each in await shop.run(*calls))
    answers = await asyncio.gather(*(_one(shop, till.extend(call, 300)) for call in calls))
    grown = [call for call, each in zip(calls, answers, strict=True) if isinstance(each, Done)]
    assert len(grown) == 3
    for each in answers:
        if isinstance(each, Refused):
            assert each.limit is not None
            assert each.limit.scope_kind == ScopeKind.KEY
    held = dict(shop.sql("SELECT call_id, amount_nanos FROM hold"))
    assert {held[call.call_id] for call in grown} == {300}
    assert sum(held.values()) == 900
    assert (await shop.run(till.settle(grown[0], 300))).charge == 300


async def test_counter_rebuildable_from_ledger(shop: Shop) -> None:
    """Field bug 21, BUD-02: a counter is a projection: thrown away, it comes back the same.

    After settles, releases, overruns, lapses and late answers, with a call still open.
    """
    till = shop.till
    await shop.run(till.grant(100 * BUDGET))
    await shop.run(*limits(shop, 10**9))
    calls = [till.admit(40, input_tokens=3) for _ in range(7)]
    await shop.run(*calls)
    await shop.run(till.settle(calls[0], 40), till.settle(calls[1], 11), till.settle(calls[2], 90))
    await shop.run(till.release(calls[3]))
    await shop.run(till.report(calls[4], 20), till.report(calls[5], 20))
    shop.sql("UPDATE node SET epoch = epoch + 1")
    await shop.run(till.lapse(calls[4]), till.lapse(calls[5]))
    await shop.run(till.settle(calls[5], 33))
    before = _counters(shop)
    assert len(before) == 24
    money = {(used, held) for _, measure, used, held in before if measure == Measure.MONEY}
    assert money == {(40 + 11 + 90 + 20 + 33, 40)}
    await shop.run(*limits(shop, None))
    assert _counters(shop) == []
    await shop.run(*limits(shop, 10**9))
    assert _counters(shop) == before


async def test_sharded_counters_or_append_only(shop: Shop) -> None:
    """Field bug 55, decision 3: no call costs an UPDATE of a counter; a whole batch costs one.

    256 calls of one organisation under 24 limits change its row once, and each counter row once.
    """
    till = shop.till
    await shop.run(till.grant(100 * BUDGET))
    await shop.run(*limits(shop, 10**9))
    shop.sql("CREATE TABLE changed (of text, at xid8 DEFAULT pg_current_xact_id())")
    shop.sql("GRANT ALL ON changed TO PUBLIC")
    shop.sql(
        "CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO changed (of) VALUES (TG_TABLE_NAME); RETURN NULL; END $$"
    )
    for table in ("organization", "scope_limit", "credit_grant"):
        shop.sql(
            f"CREATE TRIGGER note_change AFTER UPDATE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION note_change()"
        )
    calls: list[Admit] = [till.admit(10) for _ in range(256)]
    assert all(isinstance(each, Admitted) for each in await shop.run(*calls))
    await shop.run(*(till.settle(call, 7) for call in calls))
    counted = dict(shop.sql("SELECT of, count(*) FROM changed GROUP BY of"))
    assert counted == {"organization": 2, "scope_limit": 2 * 8, "credit_grant": 2}
    assert shop.totals()[0] == 256 * 7


async def test_funding_source_choice_deterministic(shop: Shop) -> None:
    """Field bug 15, DED-02, DED-03: which credit pays does not depend on when it came, or on luck.

    A subscription's credit is spent before anything is bought with, and nothing is owed meanwhile.
    """
    draws = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        till = shop.new_till()
        grants = [
            till.grant(100, Source.PURCHASED),
            till.grant(100, Source.CONTRACT, expires_at=_far(shop), reference="form 7"),
            till.grant(100, Source.FREE),
        ]
        for number in order:
            await shop.run(grants[number])
        source = {each.grant_id: each.source.value for each in grants}
        for _ in range(9):
            call = till.admit(30)
            await shop.run(call)
            assert isinstance(await shop.run(till.settle(call, 25)), Closed)
        spent = shop.sql(
            "SELECT id, amount_nanos - remaining_nanos FROM credit_grant"
            " WHERE organization_id = %s",
            till.organization_id,
        )
        draws.append({source[grant]: amount for grant, amount in spent})
        assert shop.sql(
            "SELECT owed_nanos FROM organization WHERE id = %s", till.organization_id
        ) == [(0,)]
    assert draws == [{"free": 100, "contract": 100, "purchased": 25}] * 3


async def _one(shop: Shop, command: Any) -> Any:
    """One command through a store of its own, as another node sends it."""
    store = shop.new_store()
    try:
        return (await store.run([command], resent=False))[0]
    finally:
        await store.aclose()


def _far(shop: Shop) -> Any:
    return shop.sql("SELECT farebox_now() + interval '300 days'")[0][0]


def _counters(shop: Shop) -> list[tuple[str, str, int, int]]:
    """Scope, measure, used and held of every limit's only window."""
    measures = {rule_number(each, Period.MONTH, Effect.HARD, ""): each.value for each in MEASURES}
    rows = shop.sql(
        "SELECT kind, rule, used, held FROM scope_window WHERE organization_id = %s",
        shop.till.organization_id,
    )
    return sorted((kind, measures[rule], used, held) for kind, rule, used, held in rows)
