"""Price plans by the native API."""

from __future__ import annotations

from farebox.tenancy.permissions import Role
from tests.support.api_clients import House, problem_of

ORDER = {
    "name": "Retail",
    "markup_basis_points": 1_500,
    "minimum_margin_basis_points": 500,
    "own_prices": [{"models": "gpt-5*", "prices": {"input": "3", "output": "20.25"}}],
    "free_models": ["gpt-5-nano"],
}


async def test_a_plan_is_revised_by_versions(house: House) -> None:
    """Decision 16: a version is never edited, and nothing is taken over from the one before."""
    async with house.operator() as operator:
        first = await operator.done("POST", "/price-plans", ORDER)
        second = await operator.done("POST", "/price-plans", {"name": "retail"})
        versions = await operator.done("GET", f"/price-plans/{first['id']}/versions")
        other = await operator.done("POST", "/price-plans", {"name": "Partners"})
        every = await operator.every("/price-plans", limit=1)
        read = await operator.done("GET", f"/price-plans/{first['id']}")
    assert first["version"]["own_prices"] == [
        {
            "models": "gpt-5*",
            "lane": "standard",
            "prices": {"input": "3.00", "output": "20.25"},
            "long_context_prices": {},
        }
    ]
    assert second["id"] == first["id"]
    assert (second["versions"], second["version"]["markup_basis_points"]) == (2, 0)
    assert [each["number"] for each in versions["data"]] == [1, 2]
    assert [each["id"] for each in every] == [first["id"], other["id"]]
    assert read == second


async def test_a_plan_is_chosen_and_left(house: House) -> None:
    """An organisation is rated by its plan, or passes prices through."""
    path = f"{house.path}/price-plan"
    async with house.operator() as operator, house.member(Role.OWNER) as owner:
        plan = await operator.done("POST", "/price-plans", ORDER)
        chosen = await operator.done("PUT", path, {"plan_id": plan["id"]})
        profile = await owner.done("GET", house.path)
        none = await operator.ask("PUT", path, {"plan_id": "plan_" + "0" * 32})
        left = await operator.done("PUT", path, {"plan_id": None})
        denied = await owner.ask("PUT", path, {"plan_id": None})
    assert (chosen["plan_name"], profile["plan_id"]) == ("Retail", plan["id"])
    assert left["plan_id"] is None
    problem_of(none, 404)
    problem_of(denied, 403)


async def test_terms_that_cannot_be_are_refused(house: House) -> None:
    """The field is named."""
    cases: list[tuple[dict[str, object], str]] = [
        ({"markup_basis_points": -10_001}, "markup_basis_points"),
        ({"minimum_margin_basis_points": 10_000}, "minimum_margin_basis_points"),
        ({"effective_at": "2020-01-01T00:00:00Z"}, "effective_at"),
        ({"name": ""}, "name"),
    ]
    async with house.operator() as operator:
        for change, field in cases:
            answer = await operator.ask("POST", "/price-plans", ORDER | change)
            assert problem_of(answer, 422)["errors"][0]["field"] == field
