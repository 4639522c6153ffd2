"""When the database is away: a page that says that nothing is lost, and tries again."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from farebox.console.app import ConsoleDeps, build_console
from farebox.kit.errors import UnavailableError
from farebox.operations.attribution import Names
from farebox.operations.key_status import KeyStatuses
from tests.support.console_people import Visitor


class Away:
    """A store whose database is away."""

    def __getattr__(self, name: str) -> Any:
        async def away(*_: Any, **__: Any) -> None:
            raise UnavailableError("The database is away: secret host")

        return away


class AwayConnection:
    """Cannot be opened."""

    async def __aenter__(self) -> None:
        raise UnavailableError("The database is away: secret host")

    async def __aexit__(self, *_: object) -> None:
        """Nothing was opened."""


class AwayDesk:
    """The same for the native API."""

    def connect(self) -> Any:
        return AwayConnection()

    def new_id(self, at: datetime | None = None) -> UUID:
        return UUID(int=0)

    def mark(self, data: bytes) -> bytes:
        return data

    def seal(self, body: bytes) -> bytes:
        return body

    def open(self, sealed: bytes) -> bytes:
        return sealed


class AwayKeys:
    """The same for keys that ask about themselves."""

    async def read(self, digest: bytes, names: Names) -> Any:
        raise UnavailableError("The database is away: secret host")


@pytest.fixture
def alone() -> Any:
    """A real installation's console without its database."""
    return build_console(
        ConsoleDeps(
            store=Away(),
            api=AwayDesk(),
            keys=KeyStatuses(AwayKeys(), monotonic=lambda: 0.0),
            chance=lambda count: bytes(range(count)),
            monotonic=lambda: 0.0,
            sandbox=False,
            login_place=".farebox/ready.json",
        )
    )


async def test_a_page_says_that_nothing_is_lost_and_tries_again(alone: Any) -> None:
    """503 with the time to wait, friendly to people, and without inner details."""
    async with Visitor(alone) as visitor:
        visitor.cookies.set("farebox_session", "a" * 43)
        answer = await visitor.get("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "Nothing is lost" in answer.text
    assert '<meta http-equiv="refresh" content="5">' in answer.text
    assert "secret host" not in answer.text


async def test_signing_in_without_a_database_is_not_a_wrong_password(alone: Any) -> None:
    """The answer to a posted form refreshes to the first page, never posts again."""
    async with Visitor(alone) as visitor:
        answer = await visitor.sign_in()
    assert answer.status_code == 503
    assert 'content="5; url=/"' in answer.text


async def test_health_and_readiness_differ(alone: Any) -> None:
    """The process is alive; it is not ready."""
    async with Visitor(alone) as visitor:
        health, ready = await visitor.get("/healthz"), await visitor.get("/readyz")
    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json()) == (
        503,
        {"status": "unavailable", "reason": "database"},
    )


async def test_ready_with_its_database(visitor: Visitor) -> None:
    """A console on a database is ready."""
    assert (await visitor.get("/readyz")).json() == {"status": "ready"}


async def test_a_key_is_told_503_in_the_shape_that_its_client_knows(alone: Any) -> None:
    """DESIGN.md, fixed contracts: errors on ``/v1`` have the OpenAI shape, on this port too."""
    headers = {"authorization": "Bearer fbx_test_" + "1" * 44}
    async with Visitor(alone) as visitor:
        away = await visitor.get("/v1/key", headers=headers)
        nothing = await visitor.get("/v1/nothing")
        wrong = await visitor.post("/v1/key")
    assert (away.status_code, away.json()["error"]["code"]) == (503, "billing_unavailable")
    assert "secret host" not in away.text
    assert away.headers["retry-after"] == "5"
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "unknown_url")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    for answer in (away, nothing, wrong):
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_api_says_503_never_401(alone: Any) -> None:
    """DESIGN.md, fixed contracts: a key is not wrong because the database is away."""
    key = "fbx_admin_" + "1" * 44
    async with Visitor(alone) as visitor:
        headers = {"authorization": f"Bearer {key}"}
        answer = await visitor.get("/api/v1/calls/req_" + "0" * 32, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "billing_unavailable")
    assert "secret host" not in answer.text


async def test_a_real_installation_is_not_marked_and_tells_no_login(alone: Any) -> None:
    """Only a sandbox says that it is one, and where its login is."""
    async with Visitor(alone) as visitor:
        page = (await visitor.get("/sign-in")).text
    assert "andbox" not in page
    assert "ready.json" not in page


async def test_a_page_that_is_not_there(visitor: Visitor) -> None:
    """404 is a page with a way back."""
    answer = await visitor.get("/nothing")
    assert answer.status_code == 404
    assert "There is no such page" in answer.text
    assert 'href="/"' in answer.text
