"""A call's receipt, line by line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from farebox.cli.receipt import lay_out, print_receipt, receipt
from farebox.kit.money import Nanos
from farebox.ledger.commands import LineItem, Usage
from farebox.operations.call_documents import explanation
from farebox.operations.call_facts import CallFacts, GrantPart

AT = datetime(2026, 5, 17, 9, 30, tzinfo=UTC)


def explained(**changes: Any) -> dict[str, Any]:
    """The explanation of a call, with some facts changed."""
    facts: dict[str, Any] = {
        "id": UUID(int=1),
        "turn": 0,
        "status": "settled",
        "charge": Nanos(48_838_375_000),
        "absorbed": Nanos(0),
        "held": Nanos(50_000_000_000),
        "estimated": False,
        "model": "gpt-5.4",
        "lane": "standard",
        "endpoint": "responses",
        "project_id": UUID(int=2),
        "project_name": "search",
        "key_id": UUID(int=3),
        "key_name": "laptop",
        "user": "",
        "feature": "",
        "environment": "",
        "run": "",
        "usage": Usage(),
        "at": AT,
        "ended_at": AT,
        "latency_ms": 0,
        "http_status": 0,
        "reason": "",
        "times": 1,
        "organization_id": UUID(int=4),
        "organization_name": None,
        "currency": "USD",
        "key_prefix": None,
        "available_before": Nanos(60_000_000_000),
        "lines": (LineItem("cached_input", 18_059_974, 2_500_000_000, Nanos(48_838_375_000)),),
    }
    return explanation(CallFacts(**(facts | changes)), for_operator=False)


@pytest.mark.parametrize("left", ["", "x", "word " * 60, "a" * 300, "  indented " * 20, "\x00\x1b"])
@pytest.mark.parametrize("right", ["", "0.00", "-1000000000.000000001"])
def test_no_line_is_wider_than_the_page(left: str, right: str) -> None:
    """Whatever stands in a row, each line fits, and the amount ends the first one."""
    lines = lay_out(left, right)
    assert all(len(line) <= 80 for line in lines)
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith(right)


def test_a_wrapped_row_keeps_its_indent_and_its_words() -> None:
    """Nothing of a long label is lost when it takes several lines."""
    lines = lay_out("  " + "word " * 40, "0.25")
    assert len(lines) > 2
    assert all(line.startswith("  word") for line in lines)
    assert " ".join(" ".join(lines).split()) == "word " * 14 + "0.25" + " word" * 26


def test_amounts_stand_in_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    """A receipt is read down its right edge: lines, then the sum under a rule."""
    print_receipt(explained())
    lines = capsys.readouterr().out.splitlines()
    amounts = [line for line in lines if line.endswith("48.838375")]
    assert [line.split()[0] for line in amounts] == ["cached", "Charge"]
    assert all(len(line) == 80 for line in amounts)
    assert lines[lines.index(amounts[1]) - 1].strip() == "-" * 12
    assert "cached input   18,059,974 x 2.50 per million" in amounts[0]


def test_what_is_not_there_is_not_shown() -> None:
    """A call without grants, price, limits, postings or labels has no empty headings."""
    headings = {left for left, _, style in receipt(explained()) if style == "bold"}
    assert headings & {"Paid from", "Price version", "Journal"} == set()
    assert {"Usage", "Admission", "About"} <= headings


def test_an_open_call_shows_its_ceiling_and_its_floor() -> None:
    """What is held, of which grants, how much on the floor, and until when."""
    rows = list(
        receipt(
            explained(
                status="open",
                ceiling=(1_000_000_000, 15_000_000_000, 1, 4_096),
                output_limit=4_096,
                unsecured=Nanos(2_000_000_000),
                latest_end=AT,
                parts=(GrantPart(UUID(int=9), Nanos(7), "free", None, None),),
            )
        )
    )
    lefts = [left.strip() for left, _, _ in rows]
    assert "1.00 fixed, and 4,096 output tokens x 15.00 per million" in lefts
    assert ("  on the organisation's floor", "2.00", "") in rows
    assert "ends by itself at 2026-05-17 09:30:00 UTC" in lefts
    assert any(left.startswith("free") for left in lefts)


def test_a_single_refusal_says_nothing_of_others() -> None:
    """ERR-11: one refused call is one row, with its sentence and a charge of zero."""
    call = explained(
        status="refused",
        reason="key_revoked",
        message="This API key has been revoked.",
        charge=Nanos(0),
        lines=(),
        ended_at=None,
    )
    rows = list(receipt(call))
    assert ("This API key has been revoked.", "", "") in rows
    assert ("Charge in USD", "0.00", "bold") in rows
    assert not any("share this row" in left for left, _, _ in rows)
