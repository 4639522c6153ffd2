"""What a window has used, read from the rows: for limits that begin in the middle of traffic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from msgspec import structs

from farebox.kit.money import Nanos
from farebox.kit.periods import day_start, month_start, week_start
from farebox.ledger.commands import Admit, Attribution, SetLimit, Usage
from farebox.ledger.limits import Measure, Period, rule_number
from farebox.ledger.scopes import ScopeKind
from tests.support.engine_shadow import Shadow
from tests.support.shop import Shop
from tests.support.till import Till

ODD = 'é "\\ %s ='
MODELS = ("gpt-5.4", "gpt-5.4-mini", "o3")
FILTERS = ("", "gpt-5.4", "gpt-5.4*", "o*", "*", "gpt-5")
COUNTED = (Measure.MONEY, Measure.TOKENS, Measure.CALLS)
LIMITS_AT_ONCE = 128
EDGES = [timedelta(seconds=seconds) for seconds in (-5400, -2400, -600, 0, 600, 2400, 5400)]


def scopes_of(till: Till) -> list[tuple[ScopeKind, str]]:
    """Scopes that some of the calls below are counted under, and some that none is."""
    return [
        (ScopeKind.ORGANIZATION, ""),
        (ScopeKind.PROJECT, till.project_id.hex),
        (ScopeKind.PROJECT, till.key_id.hex),
        (ScopeKind.KEY, till.key_id.hex),
        (ScopeKind.USER, "ada"),
        (ScopeKind.USER, ODD),
        (ScopeKind.FEATURE, "search"),
        (ScopeKind.FEATURE, "Search"),
        (ScopeKind.ENVIRONMENT, "live"),
        (ScopeKind.RUN, "r-1"),
        (ScopeKind.RUN, "r-1/a"),
        (ScopeKind.RUN, "r-1/"),
        (ScopeKind.TAG, "team=blue"),
        (ScopeKind.TAG, "team="),
        (ScopeKind.TAG, f"team={ODD}"),
    ]


LABELS = (("ada", "search", "", "blue"), (ODD, "", "r-1", ODD), ("", "", "r-1/a/b", ""))
"""User, feature, run and team of each model's call."""


def calls_of(till: Till, number: int) -> list[Admit]:
    """Some calls of one instant, each with another part of the labels."""
    found: list[Admit] = []
    for model, (user, feature, run, team) in zip(MODELS, LABELS, strict=True):
        call = till.admit(100)
        dimensions = structs.replace(
            call.dimensions, model=model, feature=feature, environment="live" if number % 2 else ""
        )
        about = Attribution(user=user, run=run, tags={"team": team} if number % 3 else {})
        found.append(structs.replace(call, dimensions=dimensions, attribution=about))
    return found


def at(shop: Shop, instant: datetime) -> None:
    """Set the deployment's clock."""
    shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", instant)


@pytest.mark.parametrize(
    ("zone", "month"),
    [("UTC", 3), ("Asia/Kolkata", 3), ("America/St_Johns", 11), ("Pacific/Chatham", 4)],
)
async def test_a_new_limit_finds_what_its_window_has_used(
    shop: Shop, zone: str, month: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUD-01, BUD-12..14: of every scope, measure, window and model, as the calls say one by one.

    Calls lie on both sides of the beginnings of month, week, day, hour and minute; some were
    released, some lapsed and were answered late. The windows begin inside a UTC hour, too.
    """
    till = shop.new_till(zone=zone)
    begins = month_start(datetime(2027, month, 15, tzinfo=UTC), zone)
    shadow = Shadow(shop.dsn)
    shadow.stand_in(monkeypatch)
    at(shop, begins - timedelta(hours=3))
    await shop.run(till.grant(1_000_000))
    week, day = (start(begins + timedelta(days=9), zone) for start in (week_start, day_start))
    assert begins < week < day
    for number, (start, edge) in enumerate(product((begins, week, day), EDGES)):
        at(shop, start + edge)
        settled, released, lapsed = calls_of(till, number)
        await shop.run(settled, released, lapsed)
        await shop.run(
            till.settle(settled, 1 << number % 7, usage=Usage(input_tokens=number, output_tokens=5))
        )
        await shop.run(till.release(released) if number % 2 else till.settle(released, 3))
        if number % 4:
            shop.sql("UPDATE node SET epoch = epoch + 1 WHERE id = %s", till.node_id)
            await shop.run(till.report(lapsed, 7))
            await shop.run(till.lapse(lapsed))
            till.epoch += 1
        if number % 4 > 1:
            await shop.run(till.settle(lapsed, 9))
    limits = [
        SetLimit(
            organization_id=till.organization_id,
            scope_kind=kind,
            scope_ref=ref,
            measure=measure,
            period=period,
            models=models,
            maximum=10**9,
        )
        for (kind, ref), measure, period, models in product(
            scopes_of(till), COUNTED, Period, FILTERS
        )
    ]
    # The shadow compares what is loaded for each of them; the counters must then stay sound. A few
    # at a time: it takes longer than the store, and the server ends transactions that idle.
    for first in range(0, len(limits), LIMITS_AT_ONCE):
        await shop.run(*limits[first : first + LIMITS_AT_ONCE])
    found = shop.sql("SELECT kind, ref, rule, used FROM scope_window WHERE used > 0")
    used = {(kind, ref, rule): amount for kind, ref, rule, amount in found}
    assert len(used) > len(limits) // 4

    def of_all(period: str, models: str) -> int:
        number = rule_number("calls", period, "hard", models)
        return int(used["organization", till.organization_id.hex, number])

    assert of_all("total", "") == of_all("total", "gpt-5.4*") + of_all("total", "o*")
    assert of_all("minute", "") < of_all("day", "") < of_all("week", "") < of_all("month", "")


async def test_falling_back_to_a_default_counts_from_its_beginning(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUD-14: a default set in the middle of a window, and of an hour, counts what came since."""
    till = shop.till
    shadow = Shadow(shop.dsn)
    shadow.stand_in(monkeypatch)
    start = datetime(2027, 3, 10, 12, 20, tzinfo=UTC)

    def limit(kind: ScopeKind, ref: str, maximum: int | None) -> SetLimit:
        return SetLimit(
            organization_id=till.organization_id,
            scope_kind=kind,
            scope_ref=ref,
            period=Period.MONTH,
            maximum=maximum,
        )

    async def use(amount: int) -> None:
        call = till.admit(amount)
        await shop.run(call)
        await shop.run(till.settle(call, amount))

    at(shop, start)
    await shop.run(till.grant(1_000_000))
    scopes = [(ScopeKind.USER, "u"), (ScopeKind.PROJECT, till.project_id.hex)]
    await shop.run(*(limit(kind, ref, 1_000) for kind, ref in scopes))
    await use(1)
    at(shop, start + timedelta(minutes=10))
    await shop.run(*(limit(kind, "", 1_000) for kind, _ in scopes))
    await use(2)
    at(shop, start + timedelta(minutes=110))
    await use(4)
    await shop.run(till.admit(50))
    await shop.run(*(limit(kind, ref, None) for kind, ref in scopes))
    windows = shop.sql("SELECT kind, used, held FROM scope_window ORDER BY kind")
    assert windows == [("project", 6, 50), ("user", 6, 50)]


async def test_a_call_finds_its_default_when_it_ends_alone(shop: Shop) -> None:
    """BUD-14: the batch that ends it brings no call of its scope, and counts it all the same."""
    till = shop.till
    await shop.run(till.grant(1_000))
    await shop.run(
        SetLimit(
            organization_id=till.organization_id,
            scope_kind=ScopeKind.USER,
            measure=Measure.PARALLEL,
            period=Period.TOTAL,
            maximum=1,
        )
    )
    for _ in range(2):
        call = till.admit(10)
        await shop.run(call)
        assert (await shop.run(till.admit(10))).code == "rate_limit_exceeded"
        await shop.run(till.settle(call, 10))
    assert shop.sql("SELECT used, held FROM scope_window") == [(0, 0)]


async def test_a_name_that_no_database_keeps_is_counted_as_what_is_kept(shop: Shop) -> None:
    """ATT-01, BUD-14: the scope is the same before and after; no odd name gets round a limit."""
    till = shop.till
    await shop.run(till.grant(1_000))
    await shop.run(
        SetLimit(
            organization_id=till.organization_id,
            scope_kind=ScopeKind.USER,
            period=Period.TOTAL,
            maximum=Nanos(15),
        )
    )
    codes = []
    for odd in ("ada\x00", "ada\ufffd"):
        call = till.admit(10, attribution=Attribution(user=odd))
        codes.append(getattr(await shop.run(call), "code", ""))
        await shop.run(till.settle(call, 10))
    assert codes == ["", "user_spend_limit_exceeded"]
    assert shop.sql("SELECT ref, used, held FROM scope_window") == [("ada\ufffd", 10, 0)]
