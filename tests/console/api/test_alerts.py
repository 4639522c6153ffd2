"""Alerts by the native API."""

from __future__ import annotations

import json

import psycopg

from farebox.kit.ids import format_id
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of

FACTS = {
    "scope_kind": "organization",
    "scope_ref": "0" * 31 + "1",
    "spent_nanos": "9000000000",
    "usual_nanos": "1000000000",
    "anomaly_id": "1",
}


def tell(house: House, times: int) -> None:
    """So many anomalies, the first of which was acted on."""
    with psycopg.connect(house.dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO anomaly (organization_id, kind, subject, period_start, at, facts, action)"
            " VALUES (%s, 'spend_rate', 's', farebox_now(), farebox_now(), '{}', 'stopped')",
            (house.payer.id,),
        )
        for number in range(times):
            facts = FACTS if number == 0 else {"run": "r"}
            connection.execute(
                "INSERT INTO outbox (organization_id, kind, at, facts)"
                " VALUES (%s, %s, farebox_now(), %s::jsonb)",
                (house.payer.id, "run_growth" if number else "spend_rate", json.dumps(facts)),
            )


async def test_alerts_are_listed_with_their_evidence(house: House) -> None:
    """ANO-09: newest first, page by page, with the action taken; another's are not there."""
    tell(house, 5)
    async with house.member(Role.VIEWER) as viewer:
        every = await viewer.every(f"{house.path}/alerts")
        narrowed = await viewer.done("GET", f"{house.path}/alerts?kind=spend_rate")
        wrong = await viewer.ask("GET", f"{house.path}/alerts?kind=nonsense")
        cursor = await viewer.ask("GET", f"{house.path}/alerts?cursor=xx")
    assert [each["kind"] for each in every] == [*["run_growth"] * 4, "spend_rate"]
    assert narrowed["data"] == [every[-1]]
    assert every[-1]["action"] == "stopped"
    assert every[-1]["facts"] == {
        "scope_kind": "organization",
        "scope_id": "org_" + "0" * 31 + "1",
        "spent": "9.00",
        "usual": "1.00",
    }
    problem_of(wrong, 422)
    problem_of(cursor, 422)


async def test_settings_are_patched_and_noted(house: House) -> None:
    """What is left out stays; a project must be the organisation's own; the audit log has it."""
    path, project = f"{house.path}/alert-settings", format_id("proj", house.payer.project_id)
    async with house.member(Role.BILLING_ADMIN) as admin, house.operator() as operator:
        before = await admin.done("GET", path)
        changes = {
            "stop_repeats_projects": [project],
            "day_minimum": "7.25",
            "run_calls_min": 9,
            "users": False,
        }
        after = await admin.done("PATCH", path, changes)
        again = await admin.done("GET", path)
        wrong = await admin.ask("PATCH", path, {"repeats_per_minute": 1})
        stranger = await admin.ask(
            "PATCH", path, {"stop_repeats_projects": ["proj_" + "0" * 31 + "9"]}
        )
        unknown = await admin.ask("PATCH", path, {"nonsense": 1})
        events = await operator.done("GET", "/audit?action=alert_settings.changed")
    assert after == before | changes == again
    assert problem_of(wrong, 422)["errors"][0]["field"] == "repeats_per_minute"
    assert problem_of(stranger, 422)["errors"][0]["field"] == "stop_repeats_projects"
    problem_of(unknown, 422)
    assert [each["after"]["day_minimum"] for each in events["data"]] == ["7.25"]


async def test_a_stop_is_set_and_released(house: House) -> None:
    """ANO-01: a person may stop a run, too; a release of what is not stopped is 404."""
    stop = {
        "scope_kind": "run",
        "scope_id": "crawl-17",
        "measure": "parallel",
        "period": "total",
        "effect": "stop",
        "maximum": 0,
    }
    key = format_id("key", house.payer.key_id)
    async with house.member(Role.OWNER) as owner:
        await owner.done("PUT", f"{house.path}/limits", stop)
        await owner.done(
            "PUT", f"{house.path}/limits", stop | {"scope_kind": "key", "scope_id": key}
        )
        order = {"scope_kind": "run", "scope_id": "crawl-17"}
        await owner.done("POST", f"{house.path}/alerts/release", order)
        again = await owner.ask("POST", f"{house.path}/alerts/release", order)
        by_id = {"scope_kind": "key", "scope_id": key}
        await owner.done("POST", f"{house.path}/alerts/release", by_id)
        left = await owner.done("GET", f"{house.path}/limits")
        many = await owner.ask("PUT", f"{house.path}/limits", stop | {"maximum": 1})
    problem_of(again, 404)
    assert left["data"] == []
    problem_of(many, 422)


async def test_what_operators_are_told_is_theirs_alone(house: House) -> None:
    """ERR-08: our own accounts at providers; page by page, the newest first, for no organisation's
    eyes.
    """
    facts = {"provider": "openai", "account": "main", "status": "429", "request_id": "req_1"}
    with psycopg.connect(house.dsn, autocommit=True) as connection:
        for number in range(3):
            connection.execute(
                "INSERT INTO outbox (kind, at, facts)"
                " VALUES ('upstream_quota_exhausted', farebox_now(), %s::jsonb)",
                (json.dumps(facts | {"status": str(400 + number)}),),
            )
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        every = await operator.every("/alerts")
        of_organization = await operator.every(f"{house.path}/alerts")
        refused = await owner.ask("GET", "/alerts")
    assert [each["facts"]["status"] for each in every] == ["402", "401", "400"]
    assert {each["kind"] for each in every} == {"upstream_quota_exhausted"}
    assert of_organization == []
    assert problem_of(refused, 403)["code"] == "permission_denied"
