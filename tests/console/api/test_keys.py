"""Keys, service accounts and management keys by the native API."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from farebox.kit.ids import format_id
from farebox.storage.request_store import PostgresRequestStore
from farebox.tenancy.permissions import Role
from tests.support.api_clients import Caller, House, problem_of

FUTURE = "2199-01-01T00:00:00Z"


async def test_a_key_s_text_is_in_the_answer_to_its_making_alone(house: House) -> None:
    """ORG-03, ORG-15: a key of one project, its text shown once."""
    path = f"{house.path}/keys"
    order = {"name": "ci", "project_id": format_id("proj", house.payer.project_id)}
    async with house.member(Role.DEVELOPER) as developer:
        made = await developer.done("POST", path, order | {"expires_at": FUTURE})
        read = await developer.done("GET", f"{path}/{made['id']}")
        every = await developer.every(path, limit=1)
        revoked = await developer.done("DELETE", f"{path}/{made['id']}")
        again = await developer.done("DELETE", f"{path}/{made['id']}")
    text = made.pop("key")
    assert text.startswith("fbx_test_")
    assert read == made
    assert (read["state"], read["expires_at"]) == ("active", FUTURE)
    assert [each["name"] for each in every] == ["laptop", "ci"]
    assert text not in str(every)
    assert revoked == again
    assert revoked["state"] == "revoked"


async def test_a_rotated_key_has_its_limits_and_both_work(house: House) -> None:
    """ORG-16: rotation leaves no gap and no hole."""
    path = f"{house.path}/keys"
    key = format_id("key", house.payer.key_id)
    async with house.member(Role.OWNER) as owner:
        limit = {"scope_kind": "key", "scope_id": key, "period": "month", "maximum": "5"}
        await owner.done("PUT", f"{house.path}/limits", limit)
        new = await owner.done("POST", f"{path}/{key}/rotate", {"overlap_hours": 1})
        twice = await owner.ask("POST", f"{path}/{key}/rotate", {"overlap_hours": 1})
        old = await owner.done("GET", f"{path}/{key}")
        limits = await owner.every(f"{house.path}/limits")
    assert (new["replaces_id"], old["replaced_by_id"]) == (key, new["id"])
    assert old["state"] == new["state"] == "active"
    assert old["expires_at"] is not None
    assert {each["scope_id"] for each in limits} == {key, new["id"]}
    assert problem_of(twice, 409)["code"] == "conflict"


async def test_a_rotation_that_died_shows_its_key_after_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ORG-16: the new key and the memory of its answer commit together; a fault between the copied
    limits and both leaves no key that nobody knows, and the repetition makes the same one.
    """
    path = f"{house.path}/keys/{format_id('key', house.payer.key_id)}"
    limit = {
        "scope_kind": "key",
        "scope_id": format_id("key", house.payer.key_id),
        "period": "month",
        "maximum": "3",
    }
    finish = PostgresRequestStore.finish

    async def dying(store: Any, caller: str, key: str, answer: Any) -> None:
        monkeypatch.setattr(PostgresRequestStore, "finish", finish)
        raise RuntimeError("died")

    async with house.operator() as operator:
        await operator.done("PUT", f"{house.path}/limits", limit)
        monkeypatch.setattr(PostgresRequestStore, "finish", dying)
        problem_of(await operator.ask("POST", f"{path}/rotate", {}, key="k"), 500)
        assert (await operator.done("GET", path))["replaced_by_id"] is None
        waits = await operator.ask("POST", f"{path}/rotate", {}, key="k")
        assert problem_of(waits, 409)["code"] == "request_in_progress"
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("UPDATE api_request SET taken_at = taken_at - interval '5 minutes'")
        made = await operator.done("POST", f"{path}/rotate", {}, key="k")
        again = await operator.done("POST", f"{path}/rotate", {}, key="k")
        limits = await operator.every(f"{house.path}/limits")
    assert again == made
    scopes = {each["scope_id"]: each["maximum"] for each in limits}
    assert scopes == {limit["scope_id"]: "3.00", made["id"]: "3.00"}


async def test_a_service_account_owns_keys_and_takes_them_along(house: House) -> None:
    """ORG-18: keys outlive whoever made them, and end with their service account."""
    project = format_id("proj", house.payer.project_id)
    accounts = f"{house.path}/service-accounts"
    async with house.member(Role.OWNER) as owner:
        account = await owner.done("POST", accounts, {"name": "nightly", "project_id": project})
        order = {"name": "n", "project_id": project, "service_account_id": account["id"]}
        key = await owner.done("POST", f"{house.path}/keys", order)
        both = await owner.ask(
            "POST", f"{house.path}/keys", order | {"user_id": "user_" + "0" * 32}
        )
        listed = await owner.every(accounts)
        disabled = await owner.done("DELETE", f"{accounts}/{account['id']}")
        read = await owner.done("GET", f"{house.path}/keys/{key['id']}")
    assert (key["service_account_name"], listed) == ("nightly", [account])
    assert problem_of(both, 422)["errors"][0]["field"] == "user_id"
    assert disabled["disabled_at"] is not None
    assert read["state"] == "revoked"


async def test_a_management_key_does_what_its_role_may(house: House, app: Any) -> None:
    """ORG-01: a key for a program, of one organisation and one role; revoked, it opens nothing."""
    path = f"{house.path}/management-keys"
    async with house.member(Role.OWNER) as owner:
        made = await owner.done("POST", path, {"name": "billing", "role": "finance_viewer"})
        async with Caller(app, made["key"]) as program:
            assert (await program.ask("GET", f"{house.path}/ledger")).status_code == 200
            problem_of(await program.ask("GET", path), 403)
            revoked = await owner.done("DELETE", f"{path}/{made['id']}")
            problem_of(await program.ask("GET", f"{house.path}/ledger"), 401)
        past = await owner.ask(
            "POST", path, {"name": "x", "role": "owner", "expires_at": "2020-01-01T00:00:00Z"}
        )
    assert revoked["state"] == "revoked"
    assert problem_of(past, 422)["errors"][0]["field"] == "expires_at"


async def test_what_is_another_organisation_s_is_not_there(house: House, app: Any) -> None:
    """Decision 18: in the path and in the body, for keys, projects and accounts."""
    other = House(app, house.dsn, "Zoo")
    theirs = format_id("proj", other.payer.project_id)
    async with house.member(Role.OWNER) as owner, other.member(Role.OWNER) as zoe:
        account = await zoe.done(
            "POST", f"{other.path}/service-accounts", {"name": "z", "project_id": theirs}
        )
        manager = await zoe.done(
            "POST", f"{other.path}/management-keys", {"name": "z", "role": "viewer"}
        )
        asked: list[tuple[str, str, object]] = [
            ("POST", "/keys", {"name": "x", "project_id": theirs}),
            ("GET", f"/keys/{format_id('key', other.payer.key_id)}", None),
            ("DELETE", f"/keys/{format_id('key', other.payer.key_id)}", None),
            ("GET", f"/keys?project_id={theirs}", None),
            ("POST", "/service-accounts", {"name": "x", "project_id": theirs}),
            ("DELETE", f"/service-accounts/{account['id']}", None),
            ("DELETE", f"/management-keys/{manager['id']}", None),
            ("GET", f"/projects/{theirs}", None),
            ("PATCH", f"/projects/{theirs}", {"name": "mine"}),
            ("POST", f"/projects/{theirs}/archive", None),
            (
                "POST",
                "/keys",
                {
                    "name": "x",
                    "project_id": format_id("proj", house.payer.project_id),
                    "service_account_id": account["id"],
                },
            ),
        ]
        for method, path, body in asked:
            answer = await owner.ask(method, house.path + path, body)
            assert answer.status_code == 404, (method, path, answer.text)
        (key,) = await zoe.every(f"{other.path}/keys")
    assert key["state"] == "active"
    with psycopg.connect(house.dsn) as sql:
        assert sql.execute("SELECT count(*) FROM api_key").fetchone() == (2,)


async def test_an_archived_project_gets_no_more_keys(house: House) -> None:
    """A project that is closed stays closed, and its keys with it."""
    project = format_id("proj", house.payer.project_id)
    async with house.member(Role.OWNER) as owner:
        await owner.done("POST", f"{house.path}/projects/{project}/archive")
        refused = await owner.ask(
            "POST", f"{house.path}/keys", {"name": "late", "project_id": project}
        )
        (key,) = await owner.every(f"{house.path}/keys")
    assert problem_of(refused, 409)["code"] == "conflict"
    assert key["state"] == "project_archived"


async def test_keys_that_nobody_uses_are_found(house: House) -> None:
    """ORG-15, ORG-03: when a key was last used and for which project, and of whom it is."""
    path = f"{house.path}/keys"
    order = {"name": "forgotten", "project_id": format_id("proj", house.payer.project_id)}
    with psycopg.connect(house.dsn, autocommit=True) as sql:
        sql.execute(
            "INSERT INTO key_use (key_id, project_id, used_at) VALUES (%s, %s, %s)",
            (house.payer.key_id, house.payer.project_id, "2026-11-20 12:00Z"),
        )
    async with house.member(Role.DEVELOPER) as developer:
        await developer.done("POST", path, order)
        used, forgotten = await developer.every(path)
    assert used["last_used_at"] == "2026-11-20T12:00:00Z"
    assert used["last_project_id"] == order["project_id"]
    assert (forgotten["last_used_at"], forgotten["last_project_id"]) == (None, None)
    assert forgotten["organization_name"] == "Acme"
    assert forgotten["organization_id"] == format_id("org", house.payer.id)


async def test_a_management_key_that_ends_gives_none_that_lasts(house: House) -> None:
    """ADR 22: what is left of an owner's key is all that keys made with it have; what it does to
    keys for models stays: one that never ends is rotated, and the new one never ends.
    """
    path = f"{house.path}/management-keys"
    order = {"name": "ci", "role": "owner"}
    async with house.operator() as operator:
        short = await operator.done("POST", path, order | {"expires_at": FUTURE})
        lasting = await operator.done("POST", path, order)
        keys = await operator.every(f"{house.path}/keys")
    async with house.bearer(short["key"]) as holder:
        made = await holder.done("POST", path, order)
        late = await holder.ask("POST", path, order | {"expires_at": "2999-01-01T00:00:00Z"})
        rotated = await holder.done("POST", f"{house.path}/keys/{keys[0]['id']}/rotate", {})
    async with house.bearer(made["key"]) as holder:
        next_made = await holder.done("POST", path, order)
    assert made["expires_at"] == next_made["expires_at"] == FUTURE
    assert lasting["expires_at"] is None
    (error,) = problem_of(late, 422)["errors"]
    assert error["field"] == "expires_at"
    assert FUTURE in str(error)
    assert keys[0]["expires_at"] is rotated["expires_at"] is None
