"""Faults of ours in the middle of a request: nothing half done, nothing done twice."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from msgspec import Struct

from farebox.assembly.console_api import DatabaseApiDesk
from farebox.assembly.database import open_pool
from farebox.console.api.routing import Context, Route
from farebox.console.api.serving import NativeApi
from farebox.console.passwords import PasswordDesk
from farebox.console.reception import Reception
from farebox.console.throttle import ApiThrottle, SignInThrottle
from farebox.kit.errors import UnavailableError
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.tenants import OrganizationChange
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.tenancy.api_keys import KeyKind
from farebox.tenancy.permissions import Action
from tests.support.api_clients import Caller, House, problem_of

Serve = Callable[..., Caller]


class Done(Struct):
    """An answer."""

    times: int


@pytest.fixture
async def serve(dsn: str, tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves one route with a handler of the test's own, to an operator."""
    connector = Connector(dsn, name="test", durable=False)
    pool = await open_pool(connector, size=2)
    bookkeeper = Bookkeeper([PostgresBatchStore(connector)], monotonic=lambda: 0.0)
    desk = DatabaseApiDesk(pool, bookkeeper, tmp_path, key_kind=KeyKind.TEST)
    house = House(None, dsn)
    key = house.operator().headers["authorization"].removeprefix("Bearer ")

    def serving(handler: Callable[[Context], Awaitable[object]], *, atomic: bool) -> Caller:
        route = Route(
            method="POST",
            path=house.path.replace(house.path.rpartition("/")[2], "{organization_id}"),
            name="test",
            summary="",
            tag="",
            handler=handler,
            action=Action.ORGANIZATION_CHANGE,
            answer=Done,
            atomic=atomic,
        )
        api = NativeApi(
            desk,
            (route,),
            b"{}",
            throttle=ApiThrottle(monotonic=lambda: 0.0),
            reception=Reception(
                PasswordDesk(chance=os.urandom), SignInThrottle(monotonic=lambda: 0.0)
            ),
        )

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            path = scope["path"].removeprefix("/api/v1")
            await api({**scope, "path": path, "raw_path": path.encode()}, receive, send)

        caller = Caller(mounted, key)
        caller.base_url = httpx2.URL("http://console.test")
        return caller

    serving.path = house.path  # type: ignore[attr-defined]
    yield serving
    await pool.close()


class Trouble:
    """A handler that changes something, and fails afterwards as often as it is told."""

    def __init__(self, error: Exception, *, failures: int = 1) -> None:
        self.error = error
        self.failures = failures
        self.effect_ids: list[str] = []

    async def __call__(self, context: Context) -> Done:
        self.effect_ids.append(context.effect_id.hex)
        change = OrganizationChange(name=f"Changed {len(self.effect_ids)} {os.urandom(4).hex()}")
        await context.session.administration.change_organization(context.organization.id, change)
        if len(self.effect_ids) <= self.failures:
            raise self.error
        return Done(len(self.effect_ids))


def events(dsn: str) -> int:
    """How often the organisation was changed."""
    with psycopg.connect(dsn) as sql:
        row = sql.execute(
            "SELECT count(*) FROM audit_event WHERE action = 'organization.changed'"
        ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("a fault"), 500), (UnavailableError("away"), 503)]
)
async def test_a_change_that_fails_in_the_middle_is_not_half_done(
    error: Exception, status: int, serve: Any, dsn: str
) -> None:
    """A change of tables and the memory of its answer commit together: the repetition does it."""
    trouble = Trouble(error)
    async with serve(trouble, atomic=True) as caller:
        first = await caller.ask("POST", serve.path, key="k")
        before = events(dsn)
        second = await caller.ask("POST", serve.path, key="k")
        third = await caller.ask("POST", serve.path, key="k")
    problem = problem_of(first, status)
    assert "fault" not in str(problem.get("detail")).replace("The fault is ours", "")
    assert before == 0
    assert (second.status_code, second.json()) == (200, {"times": 2})
    assert third.content == second.content
    assert events(dsn) == 1


async def test_what_may_have_taken_effect_is_repeated_with_the_same_id(
    serve: Any, dsn: str
) -> None:
    """A command in doubt: the repetition waits until the first is surely gone, and meets its id."""
    trouble = Trouble(UnavailableError("in doubt"))
    async with serve(trouble, atomic=False) as caller:
        first = await caller.ask("POST", serve.path, key="k")
        waiting = await caller.ask("POST", serve.path, key="k")
        with psycopg.connect(dsn, autocommit=True) as sql:
            sql.execute("UPDATE api_request SET taken_at = taken_at - interval '5 minutes'")
        second = await caller.ask("POST", serve.path, key="k")
    problem_of(first, 503)
    assert problem_of(waiting, 409)["code"] == "request_in_progress"
    assert second.status_code == 200
    assert len(trouble.effect_ids) == 2
    assert len(set(trouble.effect_ids)) == 1


async def test_a_fault_is_answered_and_told_apart_from_bad_input(serve: Any, dsn: str) -> None:
    """500 is ours: it says so, names the request, and repeats nothing of the inside."""
    trouble = Trouble(RuntimeError("secret inside"), failures=9)
    async with serve(trouble, atomic=True) as caller:
        answer = await caller.ask("POST", serve.path)
    assert problem_of(answer, 500)["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"].startswith("api_")
    assert events(dsn) == 0, "without a key, too"


@pytest.mark.parametrize(
    "statement", ["SELECT nothing", "SELECT 1 / 0", "INSERT INTO node DEFAULT VALUES"]
)
async def test_a_statement_that_is_refused_is_no_absence(statement: str, serve: Any) -> None:
    """A wrong statement is a fault of ours, logged as one; 503 would have it repeated for ever."""

    async def wrong(context: Context) -> Done:
        store: Any = context.session.tenants
        await store._connection.execute(statement)
        return Done(1)

    async with serve(wrong, atomic=True) as caller:
        answer = await caller.ask("POST", serve.path, key="k")
        again = await caller.ask("POST", serve.path, key="k")
    assert problem_of(answer, 500)["code"] == problem_of(again, 500)["code"] == "internal_error"
    assert "column" not in answer.text
