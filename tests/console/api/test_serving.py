"""How requests are served: once, within bounds, and with a problem document where it is wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import conninfo
from psycopg import sql as sql_names

from farebox.console.api import reading
from farebox.tenancy.permissions import Role
from tests.support.api_clients import API, House, problem_of

ORDER = {"name": "Zoo"}


async def test_a_repeated_write_is_done_once_and_answered_the_same(house: House) -> None:
    """DESIGN.md, fixed contracts: the same Idempotency-Key with the same request is one request."""
    grant = {"amount": "5.00", "source": "promo"}
    async with house.operator() as operator:
        first = await operator.ask("POST", f"{house.path}/grants", grant, key="one")
        second = await operator.ask("POST", f"{house.path}/grants", grant, key="one")
        third = await operator.ask("POST", f"{house.path}/grants", grant, key="two")
        balance = await operator.done("GET", f"{house.path}/balance")
    assert (first.status_code, second.status_code, third.status_code) == (201, 201, 201)
    assert first.content == second.content
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert third.json()["id"] != first.json()["id"]
    assert balance["available"] == "10.00"


async def test_a_key_with_another_request_is_refused(house: House) -> None:
    """The key belongs to its first request: method, path and body."""
    async with house.operator() as operator:
        await operator.done("POST", "/organizations", ORDER, key="k")
        body = await operator.ask("POST", "/organizations", {"name": "Ark"}, key="k")
        path = await operator.ask("POST", "/price-plans", ORDER, key="k")
        listed = await operator.done("GET", "/organizations")
    for answer in (body, path):
        assert problem_of(answer, 422)["code"] == "idempotency_key_reused"
    assert [each["name"] for each in listed["data"]] == ["Acme", "Zoo"]


async def test_two_callers_may_choose_the_same_key(house: House) -> None:
    """A key is its caller's: nobody gets somebody else's answer."""
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        first = await operator.done("PATCH", house.path, {"name": "One"}, key="k")
        second = await owner.done("PATCH", house.path, {"name": "Two"}, key="k")
    assert (first["name"], second["name"]) == ("One", "Two")


async def test_of_the_same_request_twice_at_once_one_is_done(house: House) -> None:
    """The second waits outside: 409 while the first is being done, or its answer afterwards."""
    grant = {"amount": "5.00", "source": "promo"}
    async with house.operator() as operator:
        answers = await asyncio.gather(
            *(operator.ask("POST", f"{house.path}/grants", grant, key="k") for _ in range(6))
        )
        balance = await operator.done("GET", f"{house.path}/balance")
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {201, 409}
    assert 201 in statuses
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "request_in_progress"
            assert answer.headers["retry-after"] == "1"
    assert balance["available"] == "5.00"


async def test_a_refusal_is_remembered_too(house: House) -> None:
    """The same key gives the same answer even when what stood in the way is gone."""
    async with house.operator() as operator:
        made = await operator.done("POST", "/organizations", ORDER)
        first = await operator.ask("POST", "/organizations", ORDER, key="k")
        await operator.done("PATCH", f"/organizations/{made['organization']['id']}", {"name": "A"})
        second = await operator.ask("POST", "/organizations", ORDER, key="k")
        fresh = await operator.ask("POST", "/organizations", ORDER, key="l")
    assert problem_of(first, 409) == problem_of(second, 409)
    assert fresh.status_code == 201


async def test_what_is_malformed_does_not_use_its_key_up(house: House) -> None:
    """A request that was never begun may be mended and sent again with its key."""
    async with house.operator() as operator:
        wrong = await operator.ask("POST", "/organizations", {"name": 5}, key="k")
        right = await operator.ask("POST", "/organizations", ORDER, key="k")
    assert (wrong.status_code, right.status_code) == (422, 201)


async def test_a_secret_is_remembered_encrypted(house: House) -> None:
    """A key's text is never kept: its remembered answer is sealed, and still the same answer."""
    order = {"name": "ci", "role": "developer"}
    path = f"{house.path}/management-keys"
    async with house.member(Role.OWNER) as owner:
        first = await owner.ask("POST", path, order, key="k")
        second = await owner.ask("POST", path, order, key="k")
        listed = await owner.done("GET", path)
    text = first.json()["key"]
    assert first.content == second.content
    assert len(listed["data"]) == 2
    assert text not in str(listed)
    with psycopg.connect(house.dsn) as sql:
        bodies = sql.execute("SELECT body FROM api_request").fetchall()
    assert len(bodies) == 1
    assert text.encode() not in bytes(bodies[0][0])


async def test_a_request_that_died_is_done_again_with_the_same_id(house: House) -> None:
    """A crash between an effect and its answer: the repetition meets the same grant."""
    grant = {"amount": "5.00", "source": "promo"}
    async with house.operator() as operator:
        first = await operator.done("POST", f"{house.path}/grants", grant, key="k")
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("UPDATE api_request SET status = NULL, content_type = NULL, body = NULL")
            in_progress = await operator.ask("POST", f"{house.path}/grants", grant, key="k")
            sql.execute("UPDATE api_request SET taken_at = taken_at - interval '5 minutes'")
        again = await operator.done("POST", f"{house.path}/grants", grant, key="k")
        balance = await operator.done("GET", f"{house.path}/balance")
    assert problem_of(in_progress, 409)["code"] == "request_in_progress"
    assert again["id"] == first["id"]
    assert balance["available"] == "5.00"


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
async def test_a_key_that_is_none_is_refused(key: str, house: House) -> None:
    """The header names the field, so that nobody believes in a promise that was not taken."""
    async with house.operator() as operator:
        answer = await operator.ask("POST", "/organizations", ORDER, key=key)
    (error,) = problem_of(answer, 422)["errors"]
    assert error["field"] == "Idempotency-Key"


async def test_a_wrong_value_names_its_field(house: House) -> None:
    """Bad input gets a clear error: the field, and what is wrong with it."""
    cases: list[tuple[object, str]] = [
        ({}, "name"),
        ({"name": 5}, "name"),
        ({"name": "Zoo", "colour": "red"}, "colour"),
        ({"name": "Zoo", "on_lapse": "never"}, "on_lapse"),
        ({"name": "Zoo", "zone": "Mars/Base"}, "zone"),
        ({"name": "Zo\u0000o"}, "name"),
        ({"name": "Zoo", "plan_id": "plan_1"}, "plan_id"),
        ([], "body"),
    ]
    async with house.operator() as operator:
        for body, field in cases:
            answer = await operator.ask("POST", "/organizations", body)
            (error,) = problem_of(answer, 422)["errors"]
            assert error["field"] == field, body
            assert error["reason"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1000", "limit=x", "colour=red", "limit=1&limit=2", "cursor=%00"]
)
async def test_a_wrong_parameter_names_itself(query: str, house: House) -> None:
    """Unknown, repeated and impossible parameters are refused, not ignored."""
    async with house.operator() as operator:
        answer = await operator.ask("GET", f"/organizations?{query}")
    (error,) = problem_of(answer, 422)["errors"]
    assert error["field"] == query.partition("=")[0]


@pytest.mark.parametrize("cursor", ["x", "!!", "b3JnXzE", "AAAA", "_w", "9" * 400])
@pytest.mark.parametrize("name", ["organizations", "audit", "tiers", "providers", "price-plans"])
async def test_a_cursor_that_is_none_of_ours_is_refused(
    cursor: str, name: str, house: House
) -> None:
    """A cursor is opaque, so whatever else comes is named, never a page of something else."""
    async with house.operator() as operator:
        answer = await operator.ask("GET", f"/{name}?cursor={cursor}")
    (error,) = problem_of(answer, 422)["errors"]
    assert error["field"] == "cursor"


async def test_what_is_no_json_is_refused(house: House) -> None:
    """Malformed is 400, another type 415, an unwanted answer 406, too much 413, however deep."""
    path = f"{API}/organizations"
    json = {"content-type": "application/json"}
    async with house.operator() as operator:
        answers = [
            await operator.post(path, content=b"{", headers=json),
            await operator.post(path, content=b"\xff", headers=json),
            await operator.post(path, content=b"[" * 5_000, headers=json),
            await operator.post(path, content=b"name=Zoo"),
            await operator.post(path, data={"name": "Zoo"}),
            await operator.get(path, headers={"accept": "text/html"}),
            await operator.post(path, content=b" " * (reading.BODY_BYTES_MAX + 1), headers=json),
        ]
    assert [answer.status_code for answer in answers] == [400, 400, 422, 415, 415, 406, 413]
    for answer in answers:
        problem_of(answer, answer.status_code)


async def test_methods_are_what_the_table_says(house: House) -> None:
    """HEAD works where GET does; what is not there is 405 with all that is, or 404."""
    async with house.operator() as operator:
        head = await operator.ask("HEAD", house.path)
        wrong = await operator.ask("DELETE", house.path)
        nothing = await operator.ask("GET", "/nothing")
        slash = await operator.ask("GET", f"{house.path}/")
        document = await operator.ask("POST", "/openapi.json")
    assert head.status_code == 200
    assert problem_of(wrong, 405)["code"] == "method_not_allowed"
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "PATCH"}
    assert problem_of(nothing, 404)["code"] == "not_found"
    problem_of(slash, 404)
    problem_of(document, 405)


async def test_every_answer_has_an_id_of_its_own(house: House) -> None:
    """The audit log and the logs name a request by it; refusals of the router have one too."""
    async with house.operator() as operator:
        answers = [await operator.ask("GET", path) for path in ("/me", "/nothing", "/prices?x=1")]
        made = await operator.ask("POST", "/organizations", ORDER)
        events = await operator.done("GET", "/audit?action=organization.created")
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert all(each.startswith("api_") for each in ids)
    assert events["data"][0]["actor"]["request_id"] == made.headers["x-request-id"]
    assert events["data"][0]["actor"]["door"] == "api"


async def test_the_database_away_is_503_and_never_a_wrong_key(app: Any, house: House) -> None:
    """ERR: a client that is told 401 throws its key away; a client that is told 503 waits."""
    async with house.operator() as operator:
        with psycopg.connect(conninfo.make_conninfo(house.dsn, dbname="postgres")) as sql:
            sql.autocommit = True
            database = str(conninfo.conninfo_to_dict(house.dsn)["dbname"])
            name = sql_names.Identifier(database)
            doors = sql_names.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            sql.execute(doors.format(name, sql_names.SQL("false")))
            sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (database,),
            )
            answer = await operator.ask("GET", "/me")
            sql.execute(doors.format(name, sql_names.SQL("true")))
        after = await operator.ask("GET", "/me")
    assert problem_of(answer, 503)["code"] == "billing_unavailable"
    assert answer.headers["retry-after"]
    assert after.status_code == 200
