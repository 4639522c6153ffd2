"""Operating by the native API: rulings on rejected commands, and the sandbox's clock."""

from __future__ import annotations

from datetime import datetime

import psycopg
import pytest

from farebox.kit.ids import format_id
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of, quarantine


async def test_a_ruling_ends_the_wait(house: House) -> None:
    """ENGINE.md, "A batch": a rejected command is shown, ruled on once, and gone from the list;
    the same request again answers the same.
    """
    for _ in range(3):
        quarantine(house)
    async with house.operator() as operator:
        first, second, third = await operator.every("/quarantine")
        path = f"/quarantine/{second['id']}"
        shown = await operator.done("GET", path)
        ruled = await operator.done("POST", f"{path}/ruling", key="k")
        assert await operator.done("POST", f"{path}/ruling", key="k") == ruled
        again = await operator.ask("POST", f"{path}/ruling")
        waiting = await operator.every("/quarantine")
        every = await operator.every("/quarantine?ruled=true")
        events = await operator.every("/audit?subject_id=" + second["id"])
        for odd in ("0", "x", "9" * 30, "-1", "٣"):
            problem_of(await operator.ask("GET", f"/quarantine/{odd}"), 404)
        problem_of(await operator.ask("GET", "/quarantine?ruled=maybe"), 422)
    call = format_id("req", house.payer.id)
    assert (second["organization_name"], second["command_kind"], second["call_id"]) == (
        "Acme",
        "settle",
        call,
    )
    assert shown == second | {"command": {"call_id": str(house.payer.id)}}
    assert ruled["ruled_at"] is not None
    assert "waits for a ruling" in problem_of(again, 404)["detail"]
    assert waiting == [first, third]
    assert [each["ruled_at"] is not None for each in every] == [False, True, False]
    assert [event["action"] for event in events] == ["quarantine.ruled"]


async def test_a_sandbox_clock_moves_once_for_each_key(house: House) -> None:
    """Decision 17: forwards, by operators; a request that is repeated moves it no second time."""
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        before = await operator.done("GET", "/clock")
        day = {"seconds": 86_400}
        moved = await operator.done("POST", "/clock/advance", day, key="k")
        assert await operator.done("POST", "/clock/advance", day, key="k") == moved
        for seconds in (0, -1, 3_660 * 86_400 + 1):
            wrong = await operator.ask("POST", "/clock/advance", {"seconds": seconds})
            problem_of(wrong, 422)
        end = [
            await operator.ask("POST", "/clock/advance", {"seconds": 3_660 * 86_400})
            for _ in range(20)
        ][-1]
        refused = await owner.ask("POST", "/clock/advance", {"seconds": 1})
        hidden = await owner.ask("GET", "/clock")
    assert before["sandbox"]
    assert moved["offset_seconds"] - before["offset_seconds"] == 86_400
    passed = datetime.fromisoformat(moved["now"]) - datetime.fromisoformat(before["now"])
    assert passed.days == 1
    assert problem_of(end, 409)["code"] == "end_of_time"
    problem_of(refused, 403)
    problem_of(hidden, 403)


async def test_real_time_is_never_moved(house: House) -> None:
    """Decision 17: real credit expires by real time alone."""
    with psycopg.connect(house.dsn, autocommit=True) as sql:
        sql.execute("UPDATE deployment SET sandbox = false")
    async with house.operator() as operator:
        refused = await operator.ask("POST", "/clock/advance", {"seconds": 60})
        shown = await operator.done("GET", "/clock")
    assert problem_of(refused, 409)["code"] == "not_a_sandbox"
    assert (shown["sandbox"], shown["offset_seconds"]) == (False, 0)


@pytest.mark.parametrize("role", [Role.OWNER, Role.BILLING_ADMIN])
async def test_rulings_are_the_operators_alone(house: House, role: Role) -> None:
    """What a command was to do is of any organisation: no member sees it."""
    quarantine(house)
    async with house.member(role) as member:
        problem_of(await member.ask("GET", "/quarantine"), 403)
        problem_of(await member.ask("POST", "/quarantine/1/ruling"), 403)
