"""Who asks too often waits, and nobody else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of
from tests.support.console_people import running_console

REQUESTS_MAX = 5


@pytest.fixture
async def narrow(dsn: str, tmp_path: Path) -> AsyncIterator[Any]:
    """A console that lets one key ask a few times a minute."""
    async with running_console(dsn, tmp_path / ".farebox", requests_max=REQUESTS_MAX) as app:
        yield app


async def test_a_key_in_a_loop_is_told_to_wait(narrow: Any, dsn: str) -> None:
    """429 as a problem document with retry-after, before anything is done; other keys go on."""
    house = House(narrow, dsn)
    project = {"name": "web"}
    async with house.member(Role.OWNER) as owner, house.member(Role.OWNER) as other:
        await owner.done("GET", "/me")  # the first is counted on its address
        for _ in range(REQUESTS_MAX):
            await owner.done("GET", "/me")
        refused = await owner.ask("POST", f"{house.path}/projects", project, key="k")
        listed = await other.done("GET", f"{house.path}/projects")
        made = await other.ask("POST", f"{house.path}/projects", project, key="k")
    assert problem_of(refused, 429)["code"] == "too_many_requests"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-request-id"].startswith("api_")
    assert [each["name"] for each in listed["data"]] == ["search"]
    assert made.status_code == 201
