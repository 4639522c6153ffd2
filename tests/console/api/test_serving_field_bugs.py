"""Settings and amounts that other gateways took silently, by the native API.

Each test is one public bug report; ``tests/FIELD_BUGS.md`` has the whole list.
"""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from farebox.console.api.table import ROUTES
from farebox.tenancy.permissions import Role
from tests.support.api_clients import API, House, problem_of

BUDGET = {"period": "month", "maximum": "100.00"}


def structs_of(kind: Any) -> set[type[msgspec.Struct]]:
    """Every struct that a body may consist of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=False)
        return {kind}.union(*(structs_of(each) for each in hints.values()))
    return set().union(*(structs_of(each) for each in typing.get_args(kind)))


async def test_unknown_config_field_is_an_error(house: House) -> None:
    """Field bug 10: a setting that is not known here is refused by name, never dropped silently.

    At any depth of any body and in any query; what was refused has changed nothing, and what is
    taken is in the answer and in force.
    """
    for route in ROUTES:
        for kind in structs_of(route.body) | structs_of(route.query):
            config: Any = kind.__struct_config__
            assert config.forbid_unknown_fields, (route.name, kind)
    path = f"{house.path}/limits"
    async with house.member(Role.OWNER) as owner:
        for name in ("max_budget", "maximum_budget", "Maximum", "budget_duration"):
            answer = await owner.ask("PUT", path, BUDGET | {name: "5"})
            assert name in str(problem_of(answer, 422)["errors"])
        assert (await owner.done("GET", path))["data"] == []
        made = await owner.done("PUT", path, BUDGET)
        assert (await owner.done("GET", path))["data"] == [made]
    assert made["maximum"] == "100.00"


AMOUNTS = ["NaN", "nan", "Infinity", "-Infinity", "inf", "1e400", "1E2", "", "-5",
           "0x10", "1_000", "5,00", "\u0665", "1.0000000001", "9" * 400]  # fmt: skip


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "1e400", "-1", "1.5", "true"])
async def test_reject_nan_inf(house: House, raw: str) -> None:
    """Field bug 33: no amount is a thing that every later comparison with it lets pass.

    Neither as a number of JSON nor as a text, wherever an amount is taken.
    """
    writes = {
        ("PUT", f"{house.path}/limits"): ('{"period":"month","maximum":%s}', "maximum"),
        ("POST", f"{house.path}/grants"): ('{"source":"promo","amount":%s}', "amount"),
        ("POST", f"{house.path}/corrections"): ('{"note":"x","amount":%s}', "amount"),
    }
    async with house.operator() as operator:
        for (method, path), (body, field) in writes.items():
            for given in (raw, *(f'"{each}"' for each in AMOUNTS)):
                answer = await operator.request(
                    method,
                    API + path,
                    content=(body % given).encode(),
                    headers={"content-type": "application/json"},
                )
                if answer.status_code == 400:
                    assert given in {"NaN", "Infinity", "-Infinity"}, "no JSON at all"
                    continue
                assert field in str(problem_of(answer, 422)["errors"]), (path, given)
        balance = await operator.done("GET", f"{house.path}/balance")
        limits = await operator.done("GET", f"{house.path}/limits")
    assert (balance["available"], balance["granted"], limits["data"]) == ("0.00", "0.00", [])


async def test_amount_domain_checked_before_payment(house: House) -> None:
    """Field bug 64, DED-16: what can be paid can be credited, whole; what cannot is refused before.

    Beyond 32 bits of cents and of hundredths; past the bound nothing is booked.
    """
    path = f"{house.path}/grants"
    async with house.operator() as operator:
        for amount in ("4294.97", "21474836.48", "429496729.60"):
            made = await operator.done("POST", path, {"source": "promo", "amount": amount})
            assert made["amount"] == amount
        before = await operator.done("GET", f"{house.path}/balance")
        for amount in ("1000000000.01", "9223372036.854775808", "9" * 30):
            answer = await operator.ask("POST", path, {"source": "promo", "amount": amount})
            (error,) = problem_of(answer, 422)["errors"]
            assert error["field"] == "amount"
        after = await operator.done("GET", f"{house.path}/balance")
    assert before["available"] == "450975861.05" == after["available"]
