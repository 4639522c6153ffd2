"""Usage by the native API."""

from __future__ import annotations

import psycopg
import pytest

from farebox.kit.ids import format_id
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def spend(house: House, calls: int = 3) -> None:
    """Make some calls: two to one model, the rest to another."""
    await house.payer.grant("50")
    for number in range(calls):
        call_id = await house.payer.admit("1", model="gpt-5.4" if number < 2 else "gpt-5-mini")
        await house.payer.settle(call_id, 1_000, 100)


async def test_usage_is_summed_by_what_is_asked(house: House) -> None:
    """ATT-02: by any dimension, in one question, and the groups make up the total."""
    await spend(house)
    path = f"{house.path}/usage"
    async with house.member(Role.VIEWER) as viewer:
        whole = await viewer.done("GET", path)
        models = await viewer.done("GET", f"{path}?by=model,project")
        users = await viewer.done("GET", f"{path}?by=user")
        days = await viewer.done("GET", f"{path}?bucket=day&by=model&model=gpt-5.4")
    assert [each["calls"] for each in whole["data"]] == [3]
    assert whole["data"][0]["model"] is None
    assert [(each["model"], each["calls"], each["charge"]) for each in models["data"]] == [
        ("gpt-5.4", 2, "0.008"),
        ("gpt-5-mini", 1, "0.004"),
    ]
    assert {each["project_name"] for each in models["data"]} == {"search"}
    assert models["total"]["charge"] == "0.012"
    assert [(each["user"], each["calls"]) for each in users["data"]] == [("", 3)]
    assert [(each["calls"], each["at"][-10:]) for each in days["data"]] == [(2, "T00:00:00Z")]
    assert days["total"]["calls"] == 2


async def test_the_unattributed_share_is_shown(house: House) -> None:
    """ATT-03: what names no feature is said to be so, with its share of the charge."""
    await spend(house)
    async with house.member(Role.VIEWER) as viewer:
        usage = await viewer.done("GET", f"{house.path}/usage")
    assert usage["unattributed"]["feature"] == {
        "calls": 3,
        "charge": "0.012",
        "share_percent": "100.00",
    }
    assert usage["unattributed"]["environment"]["share_percent"] == "0.00"


async def test_shares_and_age_stand_beside_the_figures(house: House) -> None:
    """ATT-04, ATT-10: each group's share of charge and calls, and until when all is counted."""
    await spend(house)
    async with house.member(Role.VIEWER) as viewer:
        usage = await viewer.done("GET", f"{house.path}/usage?by=model")
    shares = [(each["charge_percent"], each["calls_percent"]) for each in usage["data"]]
    assert shares == [("66.66", "66.66"), ("33.33", "33.33")]
    assert usage["newest_call_at"] < usage["as_of"] < usage["until"]
    assert usage["total"]["output_per_input"] == "0.1000"


async def test_users_of_dropped_months_are_not_summed_too_low(house: House) -> None:
    """Field bug 56: what single calls are needed for is refused where they are gone, and says what
    is still known.
    """
    await spend(house)
    with psycopg.connect(house.dsn, autocommit=True) as sql:
        sql.execute("INSERT INTO dropped_month VALUES ('call', '2025-12-01', 7, 9)")
    span = "since=2025-12-20T00:00:00Z&until=2026-01-10T00:00:00Z"
    async with house.member(Role.VIEWER) as viewer:
        for query in (f"usage?by=user&{span}", f"usage/quality?{span}"):
            answer = await viewer.ask("GET", f"{house.path}/{query}")
            (error,) = problem_of(answer, 422)["errors"]
            assert error["field"] == "since"
            assert "2026-01-01" in answer.text
        assert (await viewer.ask("GET", f"{house.path}/usage?by=project&{span}")).is_success


async def test_what_it_cost_us_is_the_operator_s_alone(house: House) -> None:
    """What upstreams bill is no customer's business."""
    await spend(house)
    async with house.member(Role.OWNER) as owner, house.operator() as operator:
        mine = await owner.done("GET", f"{house.path}/usage?by=model")
        ours = await operator.done("GET", f"{house.path}/usage?by=model")
    assert {each["cost"] for each in [mine["total"], *mine["data"]]} == {None}
    assert ours["total"]["cost"] == "0.012"


async def test_usage_comes_in_pages(house: House) -> None:
    """Groups come in one order, each once."""
    await spend(house, 4)
    async with house.member(Role.VIEWER) as viewer:
        rows = await viewer.every(f"{house.path}/usage?by=model", limit=1)
    assert [each["model"] for each in rows] == ["gpt-5-mini", "gpt-5.4"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("by=colour", "by"),
        ("bucket=year", "bucket"),
        ("since=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("since=2020-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", "since"),
        ("since=2026-01-01T00:00:00Z&until=2026-03-01T00:00:00Z&by=user", "since"),
        ("by=tag", "tag"),
        ("tag=prompt", "tag"),
        ("since=yesterday", "since"),
        ("project_id=search", "project_id"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    query: str, field: str, house: House
) -> None:
    """The field is named; spans have an end."""
    async with house.operator() as operator:
        answer = await operator.ask("GET", f"{house.path}/usage?{query}")
    (error,) = problem_of(answer, 422)["errors"]
    assert error["field"] == field


async def test_calls_are_narrowed_and_paged(house: House) -> None:
    """ATT-01: a list of calls by any dimension; running and refused ones are calls too."""
    await spend(house)
    await house.payer.admit("1")
    house.payer.refuse("monthly_limit")
    path = f"{house.path}/calls"
    key = format_id("key", house.payer.key_id)
    async with house.member(Role.DEVELOPER) as developer:
        every = await developer.every(path)
        settled = await developer.every(f"{path}?status=settled&model=gpt-5.4")
        running = await developer.every(f"{path}?status=open&key_id={key}")
        none = await developer.every(f"{path}?user=ada")
        past = await developer.every(f"{path}?until=2020-01-01T00:00:00Z")
        shown = await developer.done("GET", f"/calls/{every[-1]['id']}")
    statuses = [each["status"] for each in every]
    assert statuses == ["refused", "open", "settled", "settled", "settled"]
    assert len({each["id"] for each in every}) == 5
    assert [each["model"] for each in settled] == ["gpt-5.4", "gpt-5.4"]
    assert [each["status"] for each in running] == ["open"]
    assert none == past == []
    assert shown["charge"] == every[-1]["charge"]
