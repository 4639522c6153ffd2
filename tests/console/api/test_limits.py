"""Limits by the native API."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from farebox.kit.ids import format_id
from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_a_limit_is_set_read_changed_and_removed(house: House) -> None:
    """BUD-01..16: one limit per scope, measure, period, effect and models, by one id for good."""
    path = f"{house.path}/limits"
    order: dict[str, Any] = {
        "scope_kind": "project",
        "scope_id": format_id("proj", house.payer.project_id),
        "measure": "money",
        "period": "month",
        "maximum": "100.5",
        "thresholds_percent": [50, 80, 100],
        "owner": "ada@example.org",
    }
    async with house.member(Role.BILLING_ADMIN) as admin:
        made = await admin.done("PUT", path, order)
        raised = await admin.done(
            "PUT",
            path,
            order | {"raised_to": "200.00", "raised_until": "2030-01-01T00:00:00+01:00"},
        )
        read = await admin.done("GET", f"{path}/{made['id']}")
        removed = await admin.ask("DELETE", f"{path}/{made['id']}")
        gone = await admin.ask("GET", f"{path}/{made['id']}")
        events = await admin.done("GET", f"{house.path}/audit")
    assert (made["maximum"], made["left"], made["used"]) == ("100.50", "100.50", "0.00")
    assert made["thresholds_percent"] == [50, 80, 100]
    assert raised["id"] == made["id"]
    assert (raised["maximum"], raised["raised_to"]) == ("200.00", "200.00")
    assert raised["raised_until"] == "2029-12-31T23:00:00Z"
    assert read == raised
    assert (removed.status_code, removed.content) == (204, b"")
    problem_of(gone, 404)
    actions = [event["action"] for event in events["data"]]
    assert actions == ["limit.removed", "limit.set", "limit.set"]
    assert events["data"][1]["before"]["maximum"] == "100.50"


async def test_counts_are_whole_numbers_and_money_is_text(house: House) -> None:
    """A number that a reader may round is no amount; a count is no text."""
    path = f"{house.path}/limits"
    calls = {"measure": "calls", "period": "minute", "maximum": 60, "scope_kind": "key"}
    async with house.operator() as operator:
        made = await operator.done("PUT", path, calls)
        text = await operator.ask("PUT", path, calls | {"maximum": "60"})
        number = await operator.ask("PUT", path, {"period": "month", "maximum": 5})
    assert (made["maximum"], made["is_default"], made["scope_id"]) == (60, True, "")
    for answer in (text, number):
        (error,) = problem_of(answer, 422)["errors"]
        assert error["field"] == "maximum"


async def test_failed_calls_count_unless_a_limit_leaves_them_out(house: House) -> None:
    """LIM-03: a field of the limit, true where nothing is said; changed, it is the same limit."""
    path = f"{house.path}/limits"
    calls = {"measure": "calls", "period": "minute", "maximum": 60}
    async with house.operator() as operator:
        made = await operator.done("PUT", path, calls)
        lenient = await operator.done("PUT", path, calls | {"count_failed": False})
        (listed,) = (await operator.done("GET", path))["data"]
        events = await operator.done("GET", f"{house.path}/audit")
    assert (made["count_failed"], lenient["count_failed"]) == (True, False)
    assert listed == lenient | {"id": made["id"]}
    assert events["data"][0]["after"]["count_failed"] is False


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"count_failed": False}, "count_failed"),
        ({"period": "minute", "measure": "parallel", "maximum": 2}, "period"),
        ({"maximum": "-1"}, "maximum"),
        ({"maximum": "0.0000000001"}, "maximum"),
        ({"scope_kind": "tag", "scope_id": "team"}, "scope_id"),
        ({"scope_kind": "project", "scope_id": "proj_" + "0" * 32}, "scope_id"),
        ({"scope_kind": "key", "scope_id": "key_" + "0" * 32}, "scope_id"),
        ({"scope_kind": "project", "scope_id": "search"}, "scope_id"),
        ({"scope_id": "org_" + "0" * 32}, "scope_id"),
        ({"thresholds_percent": [0]}, "thresholds_percent"),
        ({"raised_to": "5", "raised_until": "tomorrow"}, "raised_until"),
        ({"raised_to": "5", "raised_until": "2030-01-01T00:00:00"}, "raised_until"),
        ({"raised_to": "5", "raised_until": "0001-01-01T00:00:00Z"}, "raised_until"),
        ({"measure": "calls", "maximum": 10**30}, "maximum"),
    ],
)
async def test_a_limit_that_cannot_be_is_refused(
    change: dict[str, Any], field: str, house: House
) -> None:
    """Bad input names its field, whoever checks it."""
    async with house.operator() as operator:
        answer = await operator.ask(
            "PUT", f"{house.path}/limits", {"period": "month", "maximum": "5"} | change
        )
    (error,) = problem_of(answer, 422)["errors"]
    assert error["field"] == field


async def test_another_organisation_s_project_has_no_limit_here(house: House, app: Any) -> None:
    """Decision 18: an id in a body is a wall too."""
    other = House(app, house.dsn, "Zoo")
    order = {
        "scope_kind": "project",
        "scope_id": format_id("proj", other.payer.project_id),
        "period": "month",
        "maximum": "5",
    }
    async with house.member(Role.OWNER) as owner:
        problem_of(await owner.ask("PUT", f"{house.path}/limits", order), 422)


async def test_limits_are_listed_by_scope_and_page(house: House) -> None:
    """Every limit once, narrowed by what is asked."""
    path = f"{house.path}/limits"
    async with house.operator() as operator:
        for feature in ("chat", "search", "mail"):
            order = {"scope_kind": "feature", "scope_id": feature, "period": "day"}
            await operator.done("PUT", path, order | {"maximum": "5"})
        await operator.done("PUT", path, {"period": "month", "maximum": "50"})
        every = await operator.every(path)
        features = await operator.every(f"{path}?scope_kind=feature")
        one = await operator.every(f"{path}?scope_kind=feature&scope_id=mail")
    assert len(every) == len({each["id"] for each in every}) == 4
    assert {each["scope_id"] for each in features} == {"chat", "search", "mail"}
    assert [each["scope_id"] for each in one] == ["mail"]


async def test_a_page_of_limits_reads_no_more_than_its_scopes(house: House) -> None:
    """A default for runs makes a scope of every run: pages go from scope to scope, in whatever
    order, narrowed or not, and every limit comes once.
    """
    path = f"{house.path}/limits"
    async with house.operator() as operator:
        await operator.done("PUT", path, {"scope_kind": "run", "period": "total", "maximum": "9"})
        for number in range(7):
            order = {"scope_kind": "run", "scope_id": f"r{number}", "period": "day"}
            await operator.done("PUT", path, order | {"maximum": "5"})
            counted: dict[str, object] = {**order, "measure": "calls", "maximum": 5}
            await operator.done(
                "PUT", path, counted if number % 3 == 0 else order | {"maximum": "6"}
            )
        whole = (await operator.done("GET", f"{path}?limit=200"))["data"]
        pages = [await operator.every(path, limit=size) for size in (1, 2, 3, 5)]
        calls = await operator.every(f"{path}?measure=calls", limit=1)
        runs = await operator.every(f"{path}?scope_kind=run&measure=money", limit=3)
        one = await operator.done("GET", f"{path}/{whole[0]['id']}")
        for cursor in ("zz", "f" * 32, "0" * 31, "8" + "0" * 31):
            text = base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")
            problem_of(await operator.ask("GET", f"{path}?cursor={text}"), 422)
        problem_of(await operator.ask("GET", f"{path}/{'f' * 32}"), 404)
    assert len(whole) == len({each["id"] for each in whole}) == 1 + 7 + 7 + 3
    assert all(page == whole for page in pages)
    assert calls == [each for each in whole if each["measure"] == "calls"]
    assert runs == [each for each in whole if each["measure"] == "money"]
    assert one == whole[0]


async def test_a_tier_s_limit_is_the_tier_s(house: House) -> None:
    """LIM-06: an organisation sets its own limits beside the tier's, and never the tier's."""
    path = f"{house.path}/limits"
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        await operator.done("PUT", "/tiers/USD/Basic", {"position": 0, "monthly_maximum": "100"})
        (limit,) = await owner.every(path)
        removed = await owner.ask("DELETE", f"{path}/{limit['id']}")
        await owner.done("PUT", path, {"period": "month", "maximum": "50"})
        both = await owner.every(path)
    assert limit["owner"] == "tier Basic"
    assert problem_of(removed, 409)["code"] == "limit_is_the_tiers"
    assert {(each["maximum"], each["origin"]) for each in both} == {
        ("100.00", "tier"),
        ("50.00", "manual"),
    }


async def test_a_budget_tells_at_three_thresholds_unless_told_otherwise(house: House) -> None:
    """BUD-06: left out, 50, 80 and 100 percent; an empty list tells nothing."""
    order = {"period": "month", "maximum": "100.00"}
    async with house.member(Role.OWNER) as owner:
        usual = await owner.done("PUT", f"{house.path}/limits", order)
        own = await owner.done("PUT", f"{house.path}/limits", order | {"thresholds_percent": [90]})
        none = await owner.done("PUT", f"{house.path}/limits", order | {"thresholds_percent": []})
    assert [each["thresholds_percent"] for each in (usual, own, none)] == [[50, 80, 100], [90], []]


async def test_what_a_shadow_would_have_refused_is_counted_in_its_limit(house: House) -> None:
    """BUD-03: one list of the limits in shadow, each with its calls, since when and the last one;
    other limits have none.
    """
    path, payer = f"{house.path}/limits", house.payer
    await payer.grant("5")
    async with house.member(Role.OWNER) as owner:
        shadow = await owner.done(
            "PUT", path, {"period": "month", "maximum": "0.5", "effect": "shadow"}
        )
        hard = await owner.done("PUT", path, {"period": "month", "maximum": "5"})
        calls = [await payer.admit("0.4") for _ in range(3)]
        (listed,) = await owner.every(f"{path}?effect=shadow", limit=1)
        read = await owner.done("GET", f"{path}/{shadow['id']}")
        problem_of(await owner.ask("GET", f"{path}?effect=none"), 422)
    assert (shadow["would_have_refused"]["calls"], hard["would_have_refused"]) == (0, None)
    assert listed["id"] == read["id"] == shadow["id"]
    told = read["would_have_refused"]
    assert (told["calls"], told["last_call_id"]) == (2, format_id("req", calls[-1]))
    assert told["since"] < told["last_call_at"]
