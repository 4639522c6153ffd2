"""The audit log by the native API."""

from __future__ import annotations

from typing import Any

import psycopg

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_every_change_names_who_made_it(house: House, app: Any) -> None:
    """Every settings and money action is noted with its caller; an organisation sees its own."""
    other = House(app, house.dsn, "Zoo")
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        me = await owner.done("GET", "/me")
        await owner.done("PATCH", house.path, {"name": "Acme Labs"})
        await operator.done("POST", f"{house.path}/grants", {"amount": "5", "source": "promo"})
        await operator.done("PATCH", other.path, {"name": "Zoo Inc"})
        mine = await owner.every(f"{house.path}/audit", limit=1)
        by_me = await owner.every(f"{house.path}/audit?actor_id={me['id']}")
        every = await operator.every("/audit")
    assert [each["action"] for each in mine] == ["credit.granted", "organization.changed"]
    assert [each["action"] for each in by_me] == ["organization.changed"]
    (changed,) = by_me
    assert (changed["before"], changed["after"]) == ({"name": "Acme"}, {"name": "Acme Labs"})
    assert changed["actor"]["address"] == "192.0.2.7"
    assert [each["organization_id"] for each in every[:3]] == [
        other.path.rpartition("/")[2],
        house.path.rpartition("/")[2],
        house.path.rpartition("/")[2],
    ]


async def test_the_chain_is_checked_and_a_rewriting_is_found(house: House) -> None:
    """Issue 4, 6: hash-chained, with a verification that says where it was broken."""
    async with house.operator() as operator:
        await operator.done("PATCH", house.path, {"name": "One"})
        whole = await operator.done("GET", "/audit/verification")
        await operator.done("PATCH", house.path, {"name": "Two"})
        later = await operator.done("GET", f"/audit/verification?anchor={whole['head']}")
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("ALTER TABLE audit_event DISABLE TRIGGER ALL")
            sql.execute("UPDATE audit_event SET actor_name = 'somebody else' WHERE sequence = 1")
        broken = await operator.done("GET", "/audit/verification")
        wrong = await operator.ask("GET", "/audit/verification?anchor=1:00")
    assert whole["status"] == later["status"] == "whole"
    assert later["checked"] == whole["checked"] + 1
    assert (broken["status"], broken["broken_at"]) == ("broken", 1)
    assert problem_of(wrong, 422)["errors"][0]["field"] == "anchor"
