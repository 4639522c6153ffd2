"""The whole table once more: whatever can be changed by the native API leaves its trace."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from farebox.console.api.table import ROUTES
from farebox.kit.ids import format_id
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from tests.support.api_clients import API, Caller, House, quarantine

PASSWORD = "a long enough password"


class Walk:
    """Asks for writes one by one, and looks for each in the audit log."""

    def __init__(self, house: House, operator: Caller, nobody: Caller) -> None:
        self.house = house
        self.operator = operator
        self.nobody = nobody
        self.done: set[str] = set()
        self.silent: list[str] = []

    async def step(self, name: str, path: str, body: object = None) -> Any:
        """One write; its event must name the request, its caller and the address it came from."""
        (route,) = (each for each in ROUTES if each.name == name)
        caller = self.nobody if route.open else self.operator
        prefix = self.house.path if path[:1] != "/" else ""
        where = f"{prefix}/{path}" if prefix else path
        answer = await caller.ask(route.method, where, body)
        assert answer.is_success, (name, answer.status_code, answer.text)
        with psycopg.connect(self.house.dsn) as sql:
            found = sql.execute(
                "SELECT count(*) FROM audit_event WHERE request_id = %s AND actor_id <> ''"
                " AND address = '192.0.2.7' AND door = 'api' AND outcome = 'done'",
                (answer.headers["x-request-id"],),
            ).fetchone()
        assert found is not None
        if not found[0]:
            self.silent.append(name)
        self.done.add(name)
        return answer.json() if answer.content else None


@pytest.fixture
async def walk(house: House) -> Any:
    """A walk in an organisation with credit."""
    await house.payer.grant("50")
    async with house.operator() as operator, house.nobody() as nobody:
        yield Walk(house, operator, nobody)


async def people(walk: Walk) -> None:
    """Everything about people."""
    order = {"email": "bob@example.org", "role": "viewer"}
    made = await walk.step("invite", "invitations", order)
    body = {"token": made["token"], "password": PASSWORD}
    bob = (await walk.step("acceptInvitation", "/invitations/accept", body))["user_id"]
    await walk.step("changeMember", f"members/{bob}", {"role": "developer"})
    await walk.step("removeMember", f"members/{bob}")
    made = await walk.step("invite", "invitations", order | {"email": "eve@example.org"})
    await walk.step("revokeInvitation", f"invitations/{made['id']}")
    await walk.step("changeUser", f"/users/{bob}", {"operator": True})
    await walk.step("changeDeployment", "/deployment", {"self_sign_up": True})
    await walk.step("addMember", "members", {"email": "bob@example.org", "role": "viewer"})
    zoe = {"email": "zoe@example.org", "password": PASSWORD, "organization_name": "Zoe's"}
    await walk.step("signUp", "/sign-up", zoe)


async def settings(walk: Walk) -> None:
    """Organisations, projects and keys."""
    await walk.step("createOrganization", "/organizations", {"name": "New"})
    await walk.step("changeOrganization", walk.house.path, {"name": "Acme Ltd"})
    await walk.step("setFloor", "floor", {"floor": "1.00"})
    await walk.step("splitProjects", "project-split")
    project = (await walk.step("createProject", "projects", {"name": "web"}))["id"]
    await walk.step("changeProject", f"projects/{project}", {"owner": "Ada"})
    order = {"name": "ci", "project_id": project}
    key = (await walk.step("createKey", "keys", order))["id"]
    await walk.step("rotateKey", f"keys/{key}/rotate", {})
    await walk.step("revokeKey", f"keys/{key}")
    account = (await walk.step("createServiceAccount", "service-accounts", order))["id"]
    await walk.step("disableServiceAccount", f"service-accounts/{account}")
    order = {"name": "ci", "role": "viewer"}
    key = (await walk.step("createManagementKey", "management-keys", order))["id"]
    await walk.step("revokeManagementKey", f"management-keys/{key}")
    await walk.step("changeAlertSettings", "alert-settings", {"enabled": False})
    await walk.step("forgetContent", "content")
    await walk.step("archiveProject", f"projects/{project}/archive")


async def money(walk: Walk) -> None:
    """Credit, limits, tiers, plans, prices and providers."""
    grant = (await walk.step("giveGrant", "grants", {"amount": "5", "source": "purchased"}))["id"]
    refund = {"exception": "billing_error", "amount": "1"}
    await walk.step("refundGrant", f"grants/{grant}/refunds", refund)
    await walk.step("correct", "corrections", {"amount": "1", "note": "a slip"})
    limit = await walk.step("setLimit", "limits", {"period": "month", "maximum": "9"})
    await walk.step("removeLimit", f"limits/{limit['id']}")
    payer = walk.house.payer
    stop = SetLimit(
        organization_id=payer.id, scope_kind=ScopeKind.KEY, scope_ref=payer.key_id.hex,
        measure=Measure.PARALLEL, period=Period.TOTAL, effect=Effect.STOP, maximum=0,
    )  # fmt: skip
    await payer.send(stop)
    stopped = {"scope_kind": "key", "scope_id": format_id("key", payer.key_id)}
    await walk.step("releaseStop", "alerts/release", stopped)
    await walk.step("setTier", "/tiers/USD/Plus", {"position": 1, "purchases": "500"})
    await walk.step("chooseTier", "tier", {"tier": "Plus"})
    await walk.step("setTier", "/tiers/USD/Basic", {"position": 0})
    await walk.step("chooseTier", "tier", {"tier": "Basic"})
    await walk.step("removeTier", "/tiers/USD/Plus")
    plan = (await walk.step("revisePlan", "/price-plans", {"name": "Retail"}))["id"]
    await walk.step("choosePlan", "price-plan", {"plan_id": plan})
    price = {"provider": "local", "model": "llama", "prices": {"input": "1", "output": "2"}}
    await walk.step("setPrice", "/prices", price)
    order = {"name": "local", "base_url": "https://llm.example.org/v1"}
    provider = (await walk.step("addProvider", "/providers", order))["id"]
    await walk.step("removeProvider", f"/providers/{provider}")


async def operating(walk: Walk) -> None:
    """What operators alone do."""
    quarantine(walk.house)
    (waiting,) = (await walk.operator.done("GET", "/quarantine"))["data"]
    await walk.step("ruleQuarantined", f"/quarantine/{waiting['id']}/ruling")
    await walk.step("advanceClock", "/clock/advance", {"seconds": 90})


async def test_every_write_is_in_the_audit_log_with_its_request(walk: Walk) -> None:
    """ORG-14: each settings and money action names its request, who asked and from where; a write
    that is added to the table without a trace fails here, and so does one that is not walked.
    """
    await people(walk)
    await settings(walk)
    await money(walk)
    await operating(walk)
    assert walk.silent == []
    assert walk.done == {route.name for route in ROUTES if route.is_write}
    checked = await walk.operator.done("GET", "/audit/verification")
    assert checked["status"] == "whole"
    assert checked["checked"] >= len(walk.done)
    assert (await walk.nobody.get(f"{API}/audit")).status_code == 401
