"""Which finding an error code means; and that the doctor knows every code there is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import farebox
from farebox.advice.codes import Code
from farebox.advice.doctor import diagnose
from farebox.advice.endings import REASONS, finding_of_reason
from farebox.advice.error_codes import (
    FINDING_PATH,
    KNOWN,
    finding_of,
    finding_of_error,
    finding_url,
)
from farebox.ledger import turning_away
from farebox.ledger.scopes import ScopeKind
from tests.support.doctor_cases import REQ_TEXT, case, refusal

SOURCE = Path(farebox.__file__).parent

REFUSING = ("ledger/admission.py", "ledger/turning_away.py", "ledger/decide.py", "gateway")
"""Where calls are refused: files and rooms."""

ENDING = ("gateway", "operations/sweep.py", "operations/lane.py")
"""Where the reasons of calls that ended are given."""


def trees(places: tuple[str, ...]) -> Iterator[ast.Module]:
    """The parsed sources of files and rooms."""
    for place in places:
        path = SOURCE / place
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        for file in files:
            yield ast.parse(file.read_text(encoding="utf-8"))


def texts(node: ast.expr, names: dict[str, set[str]]) -> set[str]:
    """Every text that an expression may be: constants, choices, patterns of scope and measure."""
    match node:
        case ast.Constant(value=str() as text):
            return {text}
        case ast.IfExp():
            return texts(node.body, names) | texts(node.orelse, names)
        case ast.Name():
            return names.get(node.id, set())
        case ast.JoinedStr():
            return patterns(node)
        case _:
            pass
    return set()


def patterns(node: ast.JoinedStr) -> set[str]:
    """What ``{kind}_stopped`` and ``{kind}_{word}_limit_exceeded`` may come to."""
    tail = "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
    if tail == "_stopped":
        return {f"{kind}_stopped" for kind in ScopeKind}
    if not tail.endswith("_limit_exceeded"):
        return set()
    words = turning_away._BUDGET_WORDS.values()
    return {f"{kind}_{word}_limit_exceeded" for kind in ScopeKind for word in words}


def assigned(tree: ast.Module) -> dict[str, set[str]]:
    """What the names of a module may hold, as far as they are texts; twice, for chains."""
    names: dict[str, set[str]] = {}
    for _ in range(2):
        for node in ast.walk(tree):
            targets: list[ast.expr] = []
            value: ast.expr = ast.Constant("")
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                targets, value = [node.target], node.value
            for target in targets:
                if isinstance(target, ast.Name):
                    names.setdefault(target.id, set()).update(texts(value, names))
    return names


def codes_given() -> set[str]:
    """Every ``code=`` of a refusal or an answer in the sources that refuse calls."""
    found = set()
    for tree in trees(REFUSING):
        names = assigned(tree) | {"RATE_LIMIT_EXCEEDED": {"rate_limit_exceeded"}}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for word in node.keywords:
                    if word.arg == "code":
                        found |= texts(word.value, names)
    return found


def reasons_given() -> set[str]:
    """Every reason with which a hold is settled, released or left to lapse."""
    found = set()
    for tree in trees(ENDING):
        names = assigned(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for word in node.keywords:
                    if word.arg == "reason":
                        found |= texts(word.value, names)
                called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                if called in {"release", "_charge"} and node.args:
                    found |= texts(node.args[0], names)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                first = node.targets[0].elts[0]
                if isinstance(first, ast.Name) and first.id == "reason":
                    assert isinstance(node.value, ast.Tuple)
                    found |= texts(node.value.elts[0], names)
    return found


def test_the_walk_finds_the_codes_it_should() -> None:
    """The walk over the source sees what is certainly there: it cannot pass by blindness."""
    given = codes_given()
    assert {
        "credit_balance_exhausted",
        "balance_held",
        "rate_limit_exceeded",
        "key_revoked",
        "project_archived",
        "organization_suspended",
        "user_token_limit_exceeded",
        "project_spend_limit_exceeded",
        "run_stopped",
        "billing_unavailable",
        "invalid_api_key",
        "model_not_found",
        "upstream_quota_exhausted",
    } <= given
    assert {"client_disconnected", "node_gone", "upstream_broken", "slice_refused"} <= (
        reasons_given()
    )


def test_every_refusal_code_of_the_source_is_known() -> None:
    """DOC-16, ERR-02: whatever the engine or the gateway refuses with, the doctor knows it.

    A new code gets its finding in ``advice/error_codes.py``.
    """
    assert sorted(code for code in codes_given() if finding_of(code) is None) == []


@pytest.mark.parametrize("code", sorted(codes_given()))
def test_every_refusal_code_is_explained(code: str) -> None:
    """DOC-01: a recorded refusal with that code gives findings with a cause and a fix."""
    call = refusal(code)
    diagnosis = diagnose(case(REQ_TEXT, call=call))
    assert diagnosis.findings
    assert all(each.cause and each.fixes for each in diagnosis.findings)
    assert Code.D82 not in {each.code for each in diagnosis.findings}
    pasted = diagnose(case(f'{{"error": {{"code": "{code}", "message": "x", "type": "y"}}}}'))
    assert pasted.findings
    assert all(each.cause for each in pasted.findings)


def test_every_reason_of_the_source_is_known() -> None:
    """DOC-01: whatever ended a call, the doctor can say what that means."""
    given = {reason for reason in reasons_given() if not reason.startswith("upstream_status_")}
    assert sorted(given - REASONS.keys()) == []
    statuses = {200: Code.D69, 400: Code.D68, 401: Code.D70, 402: Code.D42, 429: Code.D69}
    assert {s: finding_of_reason(f"upstream_status_{s}") for s in statuses} == statuses


def test_every_code_links_to_its_finding() -> None:
    """ERR-03: a refusal's message can link to where its finding is explained."""
    for code, found in KNOWN.items():
        assert finding_url(code, "https://console.example/") == (
            f"https://console.example{FINDING_PATH}{found.value}"
        )
    assert finding_url("nobody_gives_this", "https://console.example") == ""
    assert finding_url("balance_held", "") == ""
    assert finding_url("D12", "http://c").endswith("/doctor/D12")


def test_each_kind_of_limit_has_its_finding() -> None:
    """BUD-11, BUD-20, LIM-02: balance, rate, organisation, project, tier, narrower caps differ."""
    assert finding_of("organization_spend_limit_exceeded") is Code.D19
    assert finding_of("project_call_limit_exceeded") is Code.D18
    assert finding_of("organization_usage_limit_exceeded") is Code.D20
    assert finding_of("rate_limit_exceeded") is Code.D17
    assert finding_of("credit_balance_exhausted") is Code.D12
    assert finding_of("credit_balance_expired") is Code.D11
    assert finding_of("credit_balance_negative") is Code.D13
    for kind in ScopeKind:
        if kind not in {ScopeKind.ORGANIZATION, ScopeKind.PROJECT}:
            assert finding_of(f"{kind}_spend_limit_exceeded") is Code.D21


def test_the_most_exact_thing_that_an_error_says_counts() -> None:
    """DOC-06: code before type before status; the broadest type is overruled by the status."""
    assert finding_of_error(code="model_not_found", kind="x", status=429) is Code.D06
    assert finding_of_error(kind="insufficient_quota", status=429) is Code.D12
    assert finding_of_error(kind="tokens", status=429) is Code.D17
    assert finding_of_error(kind="invalid_request_error", status=401) is Code.D04
    assert finding_of_error(kind="invalid_request_error") is Code.D68
    assert finding_of_error(status=503) is Code.D71
    assert finding_of_error(status=429) is None
    assert finding_of_error(code="no_such_code") is None
