"""Usage and trust tiers by the native API."""

from __future__ import annotations

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of

RATES = [{"models": "gpt-5*", "calls_per_minute": 60, "tokens_per_day": 1_000_000}]


async def test_tiers_are_data(house: House) -> None:
    """LIM-05, LIM-07: the table is changed by hand, and organisations follow."""
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        basic = await operator.done(
            "PUT", "/tiers/usd/Basic", {"position": 0, "monthly_maximum": "100", "rates": RATES}
        )
        await operator.done(
            "PUT", "/tiers/USD/Plus", {"position": 1, "purchases": "50", "monthly_maximum": "500"}
        )
        table = await operator.every("/tiers", limit=1)
        before = await owner.done("GET", f"{house.path}/tier")
        await operator.done("PUT", f"{house.path}/tier", {"tier": "plus"})
        after = await owner.done("GET", f"{house.path}/tier")
        in_use = await operator.ask("DELETE", "/tiers/USD/Plus")
        ruled = await operator.done("PUT", f"{house.path}/tier", {"tier": None})
        removed = await operator.ask("DELETE", "/tiers/USD/Plus")
    assert [(each["name"], each["currency"]) for each in table] == [
        ("Basic", "USD"),
        ("Plus", "USD"),
    ]
    assert basic == table[0] | {"all_follow": True}
    assert table[0]["rates"][0]["calls_per_minute"] == 60
    assert (before["tier"]["name"], before["next"]["purchases_missing"]) == ("Basic", "50.00")
    assert (after["tier"]["name"], after["fixed"]) == ("Plus", True)
    assert problem_of(in_use, 409)["code"] == "tier_in_use"
    assert ruled["tier"]["name"] == "Basic"
    assert removed.status_code == 204


async def test_a_tier_that_cannot_be_is_refused(house: House) -> None:
    """The field is named; what is not there is 404."""
    async with house.operator() as operator:
        currency = await operator.ask("PUT", "/tiers/dollars/x", {"position": 0})
        negative = await operator.ask("PUT", "/tiers/USD/x", {"position": 0, "purchases": "-1"})
        none = await operator.ask("PUT", f"{house.path}/tier", {"tier": "none"})
    assert problem_of(currency, 422)["errors"][0]["field"] == "currency"
    assert problem_of(negative, 422)["errors"][0]["field"] == "purchases"
    problem_of(none, 404)
