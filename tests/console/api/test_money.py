"""Credit by the native API."""

from __future__ import annotations

from typing import Any

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_credit_given_is_credit_shown(house: House) -> None:
    """CRD-01..13: grant, balance and journal say the same, exactly."""
    async with house.operator() as operator, house.member(Role.FINANCE_VIEWER) as viewer:
        order = {"amount": "5.000000001", "source": "promo", "reference": "welcome"}
        made = await operator.done("POST", f"{house.path}/grants", order)
        balance = await viewer.done("GET", f"{house.path}/balance")
        read = await viewer.done("GET", f"{house.path}/grants/{made['id']}")
        (posting,) = await viewer.every(f"{house.path}/ledger")
    assert made["amount"] == made["available"] == "5.000000001"
    assert read == made
    assert balance["available"] == balance["granted"] == "5.000000001"
    assert [each["source"] for each in balance["sources"]] == ["promo"]
    assert "grants" not in balance
    assert (posting["change"], posting["grant_id"]) == ("5.000000001", made["id"])


async def test_credit_is_not_the_customer_s_to_give(house: House) -> None:
    """CRD-25: no role of an organisation makes money."""
    async with house.member(Role.OWNER) as owner:
        answer = await owner.ask(
            "POST", f"{house.path}/grants", {"amount": "5", "source": "purchased"}
        )
    assert problem_of(answer, 403)["code"] == "permission_denied"


async def test_a_developer_sees_the_balance_and_no_bills(house: House) -> None:
    """ORG-11: developers know whether calls will go through, and no billing data."""
    async with house.member(Role.DEVELOPER) as developer:
        assert (await developer.ask("GET", f"{house.path}/balance")).status_code == 200
        problem_of(await developer.ask("GET", f"{house.path}/grants"), 403)
        problem_of(await developer.ask("GET", f"{house.path}/ledger"), 403)


async def test_refunds_and_corrections_follow_the_rules(house: House) -> None:
    """CRD-07..09: refunds by exception and of bought credit alone; a correction is owed."""
    async with house.operator() as operator:
        grants = f"{house.path}/grants"
        bought = await operator.done("POST", grants, {"amount": "5", "source": "purchased"})
        promo = await operator.done("POST", grants, {"amount": "5", "source": "promo"})
        body = {"exception": "billing_error", "amount": "2"}
        refund = await operator.done("POST", f"{grants}/{bought['id']}/refunds", body, key="r")
        again = await operator.done("POST", f"{grants}/{bought['id']}/refunds", body, key="r")
        given = await operator.ask("POST", f"{grants}/{promo['id']}/refunds", body)
        too_much = await operator.ask(
            "POST", f"{grants}/{bought['id']}/refunds", body | {"amount": "4"}
        )
        correction = {"amount": "10", "note": "chargeback"}
        await operator.done("POST", f"{house.path}/corrections", correction)
        balance = await operator.done("GET", f"{house.path}/balance")
        listed = await operator.every(grants, limit=1)
    assert refund == again
    assert refund["amount"] == "2.00"
    assert problem_of(given, 409)["code"] == "given_credit_is_not_refundable"
    assert too_much.status_code == 409
    assert (balance["available"], balance["owed"]) == ("-2.00", "2.00")
    assert [each["id"] for each in listed] == [promo["id"], bought["id"]]


async def test_another_organisation_s_grant_is_not_there(house: House, app: Any) -> None:
    """Decision 18: by path, under one's own organisation."""
    other = House(app, house.dsn, "Zoo")
    await other.payer.grant("5")
    async with house.member(Role.OWNER) as owner, other.member(Role.OWNER) as zoe:
        (theirs,) = await zoe.every(f"{other.path}/grants")
        foreign = await owner.ask("GET", f"{house.path}/grants/{theirs['id']}")
        none = await owner.ask("GET", f"{house.path}/grants/grant_{'0' * 32}")
    assert foreign.status_code == none.status_code == 404


async def test_amounts_that_are_none_are_refused(house: House) -> None:
    """Amounts are decimal text, more than zero, exact to a nanodollar."""
    async with house.operator() as operator:
        for amount in ("0", "-5", "1e3", "5.", "NaN", "1,000", "0.0000000001", "", 5, None, "٣"):
            answer = await operator.ask(
                "POST", f"{house.path}/grants", {"amount": amount, "source": "promo"}
            )
            (error,) = problem_of(answer, 422)["errors"]
            assert error["field"] == "amount", amount
