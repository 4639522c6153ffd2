"""The whole table of routes, walked along as everybody."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from farebox.console.api.routing import Route
from farebox.console.api.table import ROUTES
from farebox.kit.ids import format_id
from farebox.tenancy.actors import SYSTEM
from farebox.tenancy.permissions import PERMITTED, Action, Role, Standing
from tests.support.api_clients import Caller, House, quarantine
from tests.support.contents import store_content

_PARAMETER = re.compile(r"\{(\w+)\}")

ABSENT = {
    "project_id": "proj_" + "0" * 32,
    "key_id": "key_" + "0" * 32,
    "user_id": "user_" + "0" * 32,
    "invitation_id": "inv_" + "0" * 32,
    "service_account_id": "svc_" + "0" * 32,
    "plan_id": "plan_" + "0" * 32,
    "provider_id": "prov_" + "0" * 32,
    "grant_id": "grant_" + "0" * 32,
    "call_id": "req_" + "0" * 32,
    "limit_number": "0" * 32,
    "currency": "USD",
    "tier_name": "none",
    "quarantine_number": "999",
}
"""Things that are not there: a write that is let through finds nothing to change."""


async def furnished(house: House, operator: Caller) -> dict[str, str]:
    """One of everything that can be looked at."""
    await house.payer.grant("5")
    call_id = await house.payer.admit("1")
    await house.payer.settle(call_id, 10, 10)
    store_content(house.dsn, house.payer.id, house.payer.project_id, call_id)
    limit = await operator.done(
        "PUT", f"{house.path}/limits", {"period": "month", "maximum": "100.00"}
    )
    plan = await operator.done("POST", "/price-plans", {"name": "Retail"})
    order = {"name": "local", "base_url": "https://llm.example.org/v1"}
    provider = await operator.done("POST", "/providers", order)
    project_id = format_id("proj", house.payer.project_id)
    account = await operator.done(
        "POST", f"{house.path}/service-accounts", {"name": "job", "project_id": project_id}
    )
    invitation = await operator.done(
        "POST", f"{house.path}/invitations", {"email": "bob@example.org", "role": "viewer"}
    )
    managing = await operator.done(
        "POST", f"{house.path}/management-keys", {"name": "ci", "role": "viewer"}
    )
    grants = await operator.done("GET", f"{house.path}/grants")
    quarantine(house)
    (waiting,) = (await operator.done("GET", "/quarantine"))["data"]
    return ABSENT | {
        "organization_id": format_id("org", house.payer.id),
        "project_id": project_id,
        "user_id": house.join(Role.VIEWER),
        "invitation_id": invitation["id"],
        "service_account_id": account["id"],
        "provider_id": provider["id"],
        "management_key_id": managing["id"],
        "key_id": format_id("key", house.payer.key_id),
        "call_id": format_id("req", call_id),
        "limit_number": limit["id"],
        "plan_id": plan["id"],
        "grant_id": grants["data"][0]["id"],
        "quarantine_number": waiting["id"],
    }


def filled(route: Route, there: dict[str, str]) -> str:
    """A path of the route: to what is there, or for a write, to what is not."""
    if route.method != "GET":
        there = there | ABSENT
    elif "/management-keys/" in route.path:
        there = there | {"key_id": there["management_key_id"]}
    return _PARAMETER.sub(lambda found: there[found[1]], route.path)


def expected(route: Route, caller: str, standing: Standing | None, house: House) -> int:
    """The status that the permissions table says."""
    if route.open:
        return 403 if caller == "model key" else 415
    if standing is None:
        if caller == "nobody":
            return 401
        return 200 if route.model_keys else 403
    organization_id = house.payer.id if route.of_organization else None
    action = Action.CALLS_VIEW if route.name == "showCall" else route.action
    if route.name == "showCall":
        organization_id = house.payer.id
    if route.name == "showCallContent":
        return 200 if standing.may(Action.CONTENT_VIEW, house.payer.id) else 404
    if action is not None and not standing.may(action, organization_id):
        stranger = organization_id is not None and standing.role_in(organization_id) is None
        return 404 if stranger else 403
    if route.method == "GET" or route.name == "splitProjects":
        return 200
    if route.name == "forgetContent":
        return 204
    return 404 if route.body is None else 415


async def test_every_route_asks_for_its_permission_from_everybody(app: Any, dsn: str) -> None:
    """Issue 4: every route as every role, as another organisation's owner, as nobody, with a model
    key: the status that the permissions table says, without an exception.
    """
    house, other = House(app, dsn), House(app, dsn, "Zoo")
    everybody: dict[str, tuple[Caller, Standing | None]] = {
        "nobody": (house.nobody(), None),
        "model key": (house.model_key(), None),
        "operator": (house.operator(), Standing(actor=SYSTEM, operator=True)),
        "stranger": (
            other.member(Role.OWNER),
            Standing(actor=SYSTEM, roles={other.payer.id: Role.OWNER}),
        ),
    }
    for role in Role:
        mine = Standing(actor=SYSTEM, roles={house.payer.id: role})
        everybody[role.value] = (house.member(role), mine)
    there = await furnished(house, everybody["operator"][0])
    wrong = []
    for route in ROUTES:
        for name, (caller, standing) in everybody.items():
            answer = await caller.ask(route.method, filled(route, there))
            wanted = expected(route, name, standing, house)
            if answer.status_code != wanted:
                wrong.append((route.method, route.path, name, answer.status_code, wanted))
            if answer.status_code == 200:
                # Exactly the documented fields: nothing missing, nothing undocumented.
                msgspec.convert(answer.json(), route.answer)
    for caller, _ in everybody.values():
        await caller.aclose()
    assert wrong == []


def test_a_route_of_an_organisation_has_a_permission() -> None:
    """Decision 18: no route can be added that forgets to ask; what asks for none is named here."""
    free = {route.name for route in ROUTES if route.action is None}
    calls = {"showCall", "showCallContent"}
    assert free == {"listOrganizations", "showCaller", *calls, "acceptInvitation", "signUp"}
    assert {route.name for route in ROUTES if route.open} == {"acceptInvitation", "signUp"}
    assert all(route.action in PERMITTED for route in ROUTES if route.action is not None)
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_a_route_that_nobody_but_an_operator_may_ask_names_no_role() -> None:
    """Prices, providers, tiers and plans are the deployment's: no role of one organisation opens
    them.
    """
    deployment = [route for route in ROUTES if not route.of_organization and route.action]
    assert deployment
    for route in deployment:
        assert route.action is not None
        assert PERMITTED[route.action] == frozenset(), route.path


def test_every_path_parameter_is_walked() -> None:
    """A new kind of path cannot be left out of the walk."""
    assert {name for route in ROUTES for name in _PARAMETER.findall(route.path)} == {
        *ABSENT,
        "organization_id",
    }
