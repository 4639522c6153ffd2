"""Projects by the native API."""

from __future__ import annotations

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of


async def test_a_project_is_set_and_bounds_are_taken_away(house: House) -> None:
    """ORG-10, ORG-17, SAV-12: what is left out stays; null takes a bound away."""
    path = f"{house.path}/projects"
    order = {
        "name": "Search",
        "owner": "ada@example.org",
        "purpose": "answers",
        "allowed_models": ["gpt-5*"],
        "output_tokens_max": 4_000,
    }
    async with house.member(Role.OWNER) as owner:
        taken = await owner.ask("POST", path, order)
        made = await owner.done("POST", path, order | {"name": "Answers"})
        changed = await owner.done(
            "PATCH", f"{path}/{made['id']}", {"allowed_models": None, "purpose": "more"}
        )
        wrong = await owner.ask("PATCH", f"{path}/{made['id']}", {"default_output_tokens": 9_999})
        every = await owner.every(path, limit=1)
    assert problem_of(taken, 409)["code"] == "conflict"
    assert (made["allowed_models"], made["output_tokens_max"]) == (["gpt-5*"], 4_000)
    assert (changed["allowed_models"], changed["output_tokens_max"]) == (None, 4_000)
    assert changed["purpose"] == "more"
    assert problem_of(wrong, 422)["errors"][0]["field"] == "default_output_tokens"
    assert [each["name"] for each in every] == ["search", "Answers"]


async def test_a_feature_of_a_project_has_output_caps_of_its_own(house: House) -> None:
    """SAV-12: a map by feature, set as a whole, bounded, and noted."""
    caps = {
        "chat": {"default_output_tokens": 500, "output_tokens_max": 2_000},
        "batch": {"default_output_tokens": None, "output_tokens_max": 9_000},
    }
    path = f"{house.path}/projects"
    async with house.member(Role.OWNER) as owner:
        made = await owner.done("POST", path, {"name": "Answers", "feature_caps": caps})
        one = f"{path}/{made['id']}"
        named = await owner.done("PATCH", one, {"purpose": "more"})
        fewer = await owner.done("PATCH", one, {"feature_caps": {"chat": caps["chat"]}})
        wrong = await owner.ask("PATCH", one, {"feature_caps": {"chat": {"output_tokens_max": 0}}})
        many = await owner.ask("PATCH", one, {"feature_caps": {str(n): {} for n in range(101)}})
        events = await owner.done("GET", f"{house.path}/audit")
    assert made["feature_caps"] == named["feature_caps"] == caps
    assert fewer["feature_caps"] == {"chat": caps["chat"]}
    assert events["data"][0]["before"]["feature_caps"] == caps
    for answer in (wrong, many):
        assert problem_of(answer, 422)["errors"][0]["field"].startswith("feature_caps")


async def test_a_project_without_an_owner_is_listed_until_it_has_one(house: House) -> None:
    """ORG-10: a lint finding with its code and remedy; archived projects have none, nor do those of
    another organisation show here.
    """
    path = f"{house.path}/project-findings"
    async with house.member(Role.OWNER) as owner, house.member(Role.VIEWER) as viewer:
        await owner.done("POST", f"{house.path}/project-split")
        told = await viewer.every(path)
        for each in told[:4]:
            patch = {"owner": "Ada"}
            await owner.done("PATCH", f"{house.path}/projects/{each['project_id']}", patch)
        await owner.done("POST", f"{house.path}/projects/{told[4]['project_id']}/archive")
        after = await viewer.every(path)
    assert {each["code"] for each in told} == {"D90"}
    assert [each["project_name"] for each in told][:2] == ["search", "testing"]
    assert told[0]["remedy"].startswith("Name an owner")
    assert after == []
