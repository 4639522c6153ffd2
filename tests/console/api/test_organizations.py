"""Organisations by the native API."""

from __future__ import annotations

from farebox.kit.ids import format_id
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_an_operator_sees_every_organisation_page_by_page(house: House) -> None:
    """DESIGN.md, fixed contracts: lists page by cursor, and every row comes once."""
    async with house.operator() as operator:
        for number in range(4):
            await operator.done("POST", "/organizations", {"name": f"Number {number}"})
        names = [each["name"] for each in await operator.every("/organizations")]
    assert names == ["Acme", "Number 0", "Number 1", "Number 2", "Number 3"]


async def test_a_member_sees_their_own_alone(house: House) -> None:
    """DESIGN.md decision 18: another organisation is not there."""
    async with house.operator() as operator, house.member(Role.VIEWER) as viewer:
        other = await operator.done("POST", "/organizations", {"name": "Zoo"})
        page = await viewer.done("GET", "/organizations")
        foreign = await viewer.ask("GET", f"/organizations/{other['organization']['id']}")
        none = await viewer.ask("GET", f"/organizations/{'org_' + '0' * 32}")
    assert [(each["name"], each["role"]) for each in page["data"]] == [("Acme", "viewer")]
    assert problem_of(foreign, 404) == problem_of(none, 404)


async def test_a_customer_is_made_whole(house: House) -> None:
    """Provisioning: organisation, projects and the owner's invitation, or nothing of it."""
    order = {
        "name": "Zoo",
        "currency": "eur",
        "zone": "Europe/Berlin",
        "on_overrun": "owe",
        "split": True,
        "owner_email": "zoe@example.org",
    }
    async with house.operator() as operator:
        made = await operator.done("POST", "/organizations", order)
        path = f"/organizations/{made['organization']['id']}"
        projects = await operator.done("GET", f"{path}/projects")
        invitations = await operator.done("GET", f"{path}/invitations")
        again = await operator.ask("POST", "/organizations", order | {"zone": "UTC"})
        listed = await operator.done("GET", "/organizations")
    assert made["organization"]["currency"] == "EUR"
    assert made["organization"]["on_overrun"] == "owe"
    assert [each["id"] for each in projects["data"]] == made["projects"]
    assert made["invitation_token"].startswith("fbx_invite_")
    (invitation,) = invitations["data"]
    assert (invitation["email"], invitation["role"]) == ("zoe@example.org", "owner")
    assert "token" not in invitation
    assert problem_of(again, 409)["code"] == "conflict"
    assert len(listed["data"]) == 2


async def test_an_owner_changes_what_is_theirs(house: House) -> None:
    """ORG-02: the name is the owner's; who bears overruns is the operator's to say."""
    async with house.member(Role.OWNER) as owner, house.operator() as operator:
        changed = await owner.done("PATCH", house.path, {"name": "Acme Labs"})
        refused = await owner.ask("PATCH", house.path, {"on_overrun": "owe"})
        await operator.done("PATCH", house.path, {"active": False})
        reopened = await owner.ask("PATCH", house.path, {"active": True})
        floored = await operator.done("PUT", f"{house.path}/floor", {"floor": "2.5"})
        denied = await owner.ask("PUT", f"{house.path}/floor", {"floor": "1"})
    assert changed["name"] == "Acme Labs"
    assert problem_of(refused, 403)["code"] == "permission_denied"
    assert problem_of(reopened, 403)["code"] == "permission_denied", "closed by the operator"
    assert floored["floor"] == "2.50"
    assert "operator" in problem_of(denied, 403)["detail"]


async def test_an_owner_changes_the_zone_under_limits(house: House) -> None:
    """BUD-01: months that are counted begin by the new zone at once; an unknown one is named."""
    async with house.member(Role.OWNER) as owner:
        await owner.done("PUT", f"{house.path}/limits", {"period": "month", "maximum": "5"})
        changed = await owner.done("PATCH", house.path, {"zone": "Asia/Tokyo", "name": "Far"})
        unknown = await owner.ask("PATCH", house.path, {"zone": "Mars/Base"})
        refused = await owner.ask("PATCH", house.path, {"zone": "UTC", "on_overrun": "owe"})
        (limit,) = await owner.every(f"{house.path}/limits")
    assert (changed["zone"], changed["name"]) == ("Asia/Tokyo", "Far")
    assert problem_of(unknown, 422)["errors"][0]["field"] == "zone"
    assert problem_of(refused, 403)["code"] == "permission_denied"
    assert limit["starts_at"].endswith("T15:00:00Z")


async def test_a_model_key_manages_nothing(house: House) -> None:
    """Issue 4, 6: model keys cannot manage, and the answer says which key can."""
    async with house.model_key() as models, house.nobody() as nobody:
        listed = await models.ask("GET", "/organizations")
        made = await models.ask("POST", "/organizations", {"name": "Zoo"})
        unknown = await nobody.ask("GET", "/organizations")
    assert problem_of(listed, 403)["code"] == "model_key_manages_nothing"
    assert problem_of(made, 403)["code"] == "model_key_manages_nothing"
    assert problem_of(unknown, 401)["code"] == "invalid_api_key"
    assert format_id("org", house.payer.id) in house.path
