"""The API's one answer so far: a call, explained to whoever may see it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from farebox.kit.ids import format_id, uuid7
from farebox.tenancy.api_keys import KeyKind, digest, make_key, shown_prefix
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of
from tests.support.console_people import Payer, Visitor
from tests.support.contents import ANSWER, REQUEST, store_content


def model_key(payer: Payer, number: int = 1) -> str:
    """Give the payer's key a text that is known."""
    key = make_key(KeyKind.TEST, bytes([number]) * 32)
    with psycopg.connect(payer.dsn, autocommit=True) as sql:
        sql.execute("UPDATE api_key SET digest = %s WHERE id = %s", (digest(key), payer.key_id))
    return key


def management_key(dsn: str) -> str:
    """Make one."""
    key = make_key(KeyKind.ADMIN, bytes([9]) * 32)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(
            "INSERT INTO management_key (id, name, digest, prefix)"
            " VALUES (gen_random_uuid(), 'ops', %s, %s)",
            (digest(key), shown_prefix(key)),
        )
    return key


async def ask(app: Any, call: str, key: str | None) -> Any:
    """The answer for a call."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with Visitor(app) as client:
        return await client.get(f"/api/v1/calls/{call}", headers=headers)


async def test_a_call_is_explained_to_its_own_key(app: Any, dsn: str) -> None:
    """DESIGN.md, fixed contracts: every charge is at its x-request-id, exact."""
    payer = Payer(dsn)
    await payer.grant("5")
    call_id = await payer.admit("1")
    await payer.settle(call_id, 4_808, 10)
    answer = await ask(app, format_id("req", call_id), model_key(payer))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert (document["id"], document["status"]) == (format_id("req", call_id), "settled")
    assert document["charge"] == "0.01217"
    assert "operator" not in document, "what the upstream bills is the operator's alone"


async def test_a_management_key_sees_every_call(app: Any, dsn: str) -> None:
    """The operator sees all organisations' calls, and their cost."""
    payer = Payer(dsn)
    refused = payer.refuse("monthly_limit")
    answer = await ask(app, format_id("req", refused), management_key(dsn))
    assert (answer.status_code, answer.json()["status"]) == (200, "refused")
    assert "operator" in answer.json()


async def test_another_organisations_call_is_not_there(app: Any, dsn: str) -> None:
    """DESIGN.md decision 18: a foreign call and none at all get the same answer."""
    acme, zoo = Payer(dsn, "Acme"), Payer(dsn, "Zoo")
    theirs = zoo.refuse("monthly_limit")
    key = model_key(acme)
    foreign = await ask(app, format_id("req", theirs), key)
    none = await ask(app, format_id("req", zoo.id), key)
    assert foreign.status_code == none.status_code == 404
    assert foreign.headers["content-type"] == "application/problem+json"
    assert foreign.json() == none.json()
    assert foreign.json()["code"] == "not_found"


@pytest.mark.parametrize("text", ["req_1", "nothing", "org_" + "0" * 32, "x" * 3_000])
async def test_a_text_that_is_no_id_is_not_there(text: str, app: Any, dsn: str) -> None:
    """A wrong id is answered as a call that is not there."""
    assert (await ask(app, text, management_key(dsn))).status_code == 404


@pytest.mark.parametrize(
    "key",
    [None, "", "wrong", make_key(KeyKind.ADMIN, bytes(32)), make_key(KeyKind.LIVE, bytes(32))],
)
async def test_without_a_valid_key_nothing_is_said(key: str | None, app: Any, dsn: str) -> None:
    """401 with what to send, whether the call is there or not."""
    refused = Payer(dsn).refuse("monthly_limit")
    answers = [await ask(app, format_id("req", one), key) for one in (refused, uuid7_of_none())]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json() == answers[1].json()
    assert answers[0].headers["www-authenticate"] == "Bearer"
    assert answers[0].json()["code"] == "invalid_api_key"


async def test_a_revoked_key_opens_nothing(app: Any, dsn: str) -> None:
    """A model key and a management key alike."""
    payer = Payer(dsn)
    call = format_id("req", payer.refuse("monthly_limit"))
    keys = [model_key(payer), management_key(dsn)]
    assert [(await ask(app, call, key)).status_code for key in keys] == [200, 200]
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE api_key SET revoked_at = farebox_now()")
        sql.execute("UPDATE management_key SET revoked_at = farebox_now()")
    assert [(await ask(app, call, key)).status_code for key in keys] == [401, 401]


async def test_a_key_of_an_organisation_that_is_off_still_reads(app: Any, dsn: str) -> None:
    """Why its calls are refused can be asked by the one whose calls they are."""
    payer = Payer(dsn)
    call = format_id("req", payer.refuse("organization_inactive"))
    key = model_key(payer)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE organization SET active = false")
    assert (await ask(app, call, key)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("DELETE", "/api/v1/calls/req_1", 405),
        ("GET", "/api/v2", 404),
    ],
)
async def test_programs_get_documents(
    method: str, path: str, status: int, visitor: Visitor
) -> None:
    """An error on the API is a problem document, not a page."""
    answer = await visitor.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def uuid7_of_none() -> Any:
    """A call that never was."""
    from datetime import UTC, datetime

    return uuid7(datetime(2026, 1, 1, tzinfo=UTC), bytes(10))


async def test_content_is_for_those_who_may_see_it(app: Any, dsn: str) -> None:
    """Owners and developers see what a call said, and whether it was cut; for a finance viewer,
    another organisation's owner and a key for models there is nothing.
    """
    house, other = House(app, dsn), House(app, dsn, "Zoo")
    call_id = house.payer.refuse("monthly_limit")
    store_content(dsn, house.payer.id, house.payer.project_id, call_id)
    path = f"/calls/{format_id('req', call_id)}/content"
    for role in (Role.OWNER, Role.DEVELOPER):
        found = await house.member(role).done("GET", path)
        assert (found["request"], found["answer"]) == (REQUEST.decode(), ANSWER.decode())
        assert (found["request_truncated"], found["answer_truncated"]) == (False, True)
    for caller in (house.member(Role.FINANCE_VIEWER), other.member(Role.OWNER)):
        problem_of(await caller.ask("GET", path), 404)
    assert (await house.model_key().ask("GET", path)).status_code == 403


async def test_content_is_deleted_per_organisation_and_project(app: Any, dsn: str) -> None:
    """What is stored of one goes at once, what is stored of another stays; it is in the log."""
    house, other = House(app, dsn), House(app, dsn, "Zoo")
    for each in (house, other):
        store_content(dsn, each.payer.id, each.payer.project_id, each.payer.id)
    project = format_id("proj", house.payer.project_id)
    owner = house.member(Role.OWNER)
    problem_of(await house.member(Role.DEVELOPER).ask("DELETE", f"{house.path}/content"), 403)
    stranger = format_id("proj", other.payer.project_id)
    assert (await owner.ask("DELETE", f"{house.path}/content?project_id={stranger}")).is_success
    with psycopg.connect(dsn) as sql:
        assert sql.execute("SELECT count(*) FROM call_content").fetchone() == (2,)
    assert (await owner.ask("DELETE", f"{house.path}/content?project_id={project}")).is_success
    with psycopg.connect(dsn) as sql:
        left = sql.execute("SELECT organization_id FROM call_content").fetchall()
        logged = sql.execute(
            "SELECT action, after ->> 'calls' FROM audit_event WHERE action = 'content.forgotten'"
            " ORDER BY sequence"
        ).fetchall()
    assert left == [(other.payer.id,)]
    assert logged == [("content.forgotten", "0"), ("content.forgotten", "1")]


async def test_a_dropped_call_says_that_it_is_past_retention(app: Any, dsn: str) -> None:
    """A month that is gone is told by the id's time alone: it gives away no other's call."""
    payer = Payer(dsn)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("INSERT INTO dropped_month VALUES ('call', '2025-03-01', 7, 9)")
    old = uuid7(datetime(2025, 3, 31, 23, 59, tzinfo=UTC), bytes(10))
    new = uuid7(datetime(2025, 4, 1, tzinfo=UTC), bytes(10))
    key = model_key(payer)
    gone = (await ask(app, format_id("req", old), key)).json()
    never = (await ask(app, format_id("req", new), key)).json()
    assert gone["status"] == never["status"] == 404
    assert "past retention: calls from before 2025-04-01" in gone["detail"]
    assert "retention" not in never["detail"]
