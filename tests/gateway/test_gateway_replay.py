"""A slice of a real trace through the HTTP gateway, by ``farebox replay``: the sums are exact."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.cli.main import main
from farebox.kit.money import Nanos, format_amount
from tests.support.house import House
from tests.support.tenants import MODEL, NewTenant, Tenant

TRACE = Path(__file__).resolve().parents[1] / "data" / "azure_llm_2023_code.csv"
INPUT, OUTPUT = 2_500, 15_000

Replay = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def replay(
    house: House,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Replay:
    """``farebox replay`` on the house in the name of a tenant; its exit status and document."""
    monkeypatch.setenv("FAREBOX_HOME", str(tmp_path))

    def run(tenant: Tenant, file: Path, *flags: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setenv("REPLAY_KEY", tenant.key)
        where = ("--base-url", house.base_url, "--api-key-env", "REPLAY_KEY")
        status = main(["replay", str(file), "--model", MODEL, "--json", *where, *flags])
        return status, json.loads(capsys.readouterr().out)

    return run


def expected(calls: int | None = None) -> tuple[int, int, int]:
    """Input tokens, output tokens and the charge in nanos of the first so many calls."""
    with TRACE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:][:calls]
    inputs, outputs = sum(int(row[1]) for row in rows), sum(int(row[2]) for row in rows)
    return inputs, outputs, inputs * INPUT + outputs * OUTPUT


def check(tenant: Tenant, found: dict[str, Any], calls: int, limit: int | None) -> None:
    """The document, the rows and the balance all have the sum that was worked out here."""
    inputs, outputs, charge = expected(limit)
    assert found["errors"] == {}
    assert (found["calls"], found["answered"]) == (calls, calls)
    assert (found["input_tokens"], found["output_tokens"]) == (inputs, outputs)
    assert found["charge"] == format_amount(Nanos(charge))
    rows = tenant.calls()
    assert len(rows) == calls
    assert sum(row.charge for row in rows) == charge == tenant.spent()
    assert {row.estimated for row in rows} == {False}
    assert {row.feature for row in rows} == {"replay"}
    tenant.check_books()


@pytest.mark.parametrize("flags", [(), ("--stream",)], ids=["json", "stream"])
def test_a_slice_sums_exactly(
    new_tenant: NewTenant, replay: Replay, flags: tuple[str, ...]
) -> None:
    """DED-16: what 150 real calls are charged, one by one over HTTP, is their sum by hand."""
    tenant = new_tenant(credit="50")
    status, found = replay(tenant, TRACE, "--limit", "150", "--concurrency", "16", *flags)
    assert status == 0
    check(tenant, found, 150, 150)


@pytest.mark.long
def test_the_whole_trace_costs_what_it_costs(new_tenant: NewTenant, replay: Replay) -> None:
    """8,819 real calls at gpt-5.4's prices come to exactly $48.838375."""
    tenant = new_tenant(credit="100")
    status, found = replay(tenant, TRACE, "--concurrency", "64")
    assert status == 0
    assert found["charge"] == "48.838375"
    check(tenant, found, 8_819, None)


def test_a_slice_that_there_is_no_money_for(new_tenant: NewTenant, replay: Replay) -> None:
    """Calls that are refused are counted by their code, charged nothing, and the status says so."""
    tenant = new_tenant(credit="0.05")
    status, found = replay(tenant, TRACE, "--limit", "20", "--concurrency", "1")
    assert status == 1
    assert found["answered"] + found["errors"]["429 credit_balance_exhausted"] == 20
    assert 0 < found["answered"] < 20
    assert found["charge"] == format_amount(Nanos(tenant.spent()))
    tenant.check_books()


def test_a_key_that_opens_nothing(tenant: Tenant, replay: Replay) -> None:
    """A wrong key is an error of every call, not a traceback."""
    last = "2" if tenant.key[-1] != "2" else "3"
    tenant.key = tenant.key[:-1] + last
    status, found = replay(tenant, TRACE, "--limit", "3")
    assert (status, found["errors"]) == (1, {"401 invalid_api_key": 3})
