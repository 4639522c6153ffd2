"""A diagnosis as a JSON document."""

from __future__ import annotations

import json

from farebox.advice.codes import Code
from farebox.advice.doctor import diagnose
from farebox.kit.money import ZERO
from farebox.operations.diagnosis_documents import code_document, diagnosis_document
from tests.support.doctor_cases import REQ_TEXT, case, money, refusal, units


def test_a_document_has_status_area_and_ordered_findings() -> None:
    """DOC-16: machine readable: code, severity, evidence with time, source, age, fixes, link."""
    call = refusal("credit_balance_exhausted", needed=units(1), available=ZERO)
    facts = money(0, granted=ZERO)
    document = diagnosis_document(
        diagnose(case(REQ_TEXT, call=call, money=facts)), base="https://console.example"
    )
    assert json.loads(json.dumps(document)) == document
    assert (document["status"], document["area"]) == ("wrong", "api_billing")
    (found,) = document["findings"]
    assert (found["code"], found["severity"], found["step"]) == ("D65", "wrong", "balance")
    assert found["link"] == "https://console.example/doctor/D65"
    first = found["evidence"][0]
    assert (first["label"], first["value"], first["unit"]) == (
        "the call needs up to", "1.00", "USD",
    )  # fmt: skip
    assert (first["age_seconds"], first["source"]) == (60, REQ_TEXT)
    assert first["at"].endswith("Z")
    assert found["fixes"][-1]["adds_credit"] is True
    assert [check["step"] for check in document["checks"]][:2] == ["account", "organization"]


def test_without_a_console_there_is_no_link() -> None:
    """A link that leads nowhere is not given."""
    document = diagnosis_document(diagnose(case("invalid_api_key")))
    assert document["findings"][0]["link"] is None
    assert code_document(Code.D12)["link"] is None
    assert code_document(Code.D12, base="http://c")["link"] == "http://c/doctor/D12"
