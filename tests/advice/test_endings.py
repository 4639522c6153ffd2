"""How a call ended, or why it has not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from farebox.advice.codes import Code
from farebox.advice.endings import explain
from farebox.advice.facts import CallRecord
from farebox.advice.findings import Severity
from tests.support.doctor_cases import CALL_ID, NOW, case, money, units


def call(reason: str = "", status: str = "settled", **changes: Any) -> CallRecord:
    """A call that ended a minute ago."""
    values: dict[str, Any] = {
        "id": CALL_ID,
        "status": status,
        "code": reason,
        "at": NOW - timedelta(minutes=2),
        "ended_at": NOW - timedelta(minutes=1),
        "needed": units(0.5),
        "http_status": 200,
    }
    return CallRecord(**(values | changes))


def test_an_ordinary_end_is_nothing() -> None:
    """A call that was charged and ended as it should has no finding."""
    assert explain(case(), call(charge=units(0.1)), None) == []


@pytest.mark.parametrize(
    ("reason", "code", "severity"),
    [
        ("usage_missing", Code.D79, Severity.NOTE),
        ("usage_invalid: usage has 5 tokens", Code.D79, Severity.NOTE),
        ("client_disconnected", Code.D78, Severity.NOTE),
        ("latest_end", Code.D78, Severity.WARNING),
        ("node_gone", Code.D78, Severity.WARNING),
        ("upstream_broken", Code.D69, Severity.WRONG),
        ("upstream_not_reached", Code.D69, Severity.WRONG),
        ("upstream_status_500", Code.D69, Severity.WRONG),
        ("upstream_status_429", Code.D69, Severity.WRONG),
        ("upstream_status_400", Code.D68, Severity.WRONG),
        ("upstream_status_401", Code.D70, Severity.WRONG),
        ("upstream_status_402", Code.D42, Severity.WRONG),
        ("upstream_region_unsupported", Code.D80, Severity.WRONG),
    ],
)
def test_every_other_end_is_explained(reason: str, code: Code, severity: Severity) -> None:
    """DOC-01, ERR-08: whose trouble it was, what was charged, and what to do."""
    (found,) = explain(case(), call(reason, "released"), None)
    assert (found.code, found.severity) == (code, severity)
    assert found.evidence
    assert found.fixes
    assert not any(fix.buys for fix in found.fixes)


def test_what_the_client_was_told_says_more() -> None:
    """ERR-08: a provider's 429 may be its quota: the error that the client got tells which."""
    (found,) = explain(case(), call("upstream_status_429", "released"), Code.D42)
    assert found.code is Code.D42
    assert "No tenant's balance is the cause" in found.cause


def test_an_answer_that_was_cut_off() -> None:
    """A slice that could not be held: the balance says why; with money there again it is mended."""
    (found,) = explain(case(money=money(0, granted=units(5), spent=units(5))),
                       call("slice_refused"), None)  # fmt: skip
    assert found.code in {Code.D12, Code.D65}
    (found,) = explain(case(), call("slice_refused"), None)
    assert (found.code, found.mended) == (Code.D64, True)


def test_usage_beyond_the_hold_is_told() -> None:
    """NEG-03: what the operator bore is shown, and is nothing wrong for the tenant."""
    (found,) = explain(case(), call(absorbed=units(0.2)), None)
    assert (found.code, found.severity) == (Code.D77, Severity.NOTE)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, Code.D86),
        ({"node_alive": False}, Code.D74),
        ({"latest_end": NOW - timedelta(minutes=1)}, Code.D74),
    ],
)
def test_a_call_that_is_open(changes: dict[str, Any], code: Code) -> None:
    """An open hold runs, or should have ended: then a worker is missing."""
    values = {"latest_end": NOW + timedelta(hours=1)} | changes
    (found,) = explain(case(), call(status="open", ended_at=None, **values), None)
    assert found.code is code
    assert (found.severity is Severity.NOTE) is (code is Code.D86)
