"""The catalogue: every code is whole and keeps its meaning."""

from __future__ import annotations

import re

from farebox.advice.catalogue import CATALOGUE, code_named, entry_of
from farebox.advice.codes import Code

STABLE = {
    "D01": "subscription_is_not_credit",
    "D02": "credit_in_another_organization",
    "D04": "key_not_valid",
    "D05": "organization_header_differs",
    "D06": "model_not_available",
    "D07": "permission_missing",
    "D11": "credit_expired",
    "D12": "credit_used_up",
    "D17": "rate_limited",
    "D18": "project_limit_reached",
    "D19": "organization_limit_reached",
    "D20": "assigned_limit_reached",
    "D21": "own_limit_reached",
    "D22": "project_allocation_used_up",
    "D43": "spend_jumped",
    "D46": "free_credit_first",
    "D47": "credit_ends_on_its_date",
    "D89": "stopped_until_released",
}
"""Codes that others rely on: they never mean something else."""


def test_every_code_is_whole() -> None:
    """DOC-16: each finding has a name, an area, a step, a title, a meaning and a remedy."""
    assert set(CATALOGUE) == set(Code)
    names = [entry.name for entry in CATALOGUE.values()]
    assert len(set(names)) == len(names)
    for code, entry in CATALOGUE.items():
        assert re.fullmatch(r"D\d\d", code.value)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", entry.name), code
        assert entry.title, code
        assert not entry.title.endswith("."), code
        assert entry.meaning.endswith("."), code
        assert entry.remedy.endswith("."), code


def test_codes_keep_their_meaning() -> None:
    """DOC-16: a stable code is stable."""
    assert {code: entry_of(Code(code)).name for code in STABLE} == STABLE


def test_a_code_is_found_by_both_its_names() -> None:
    """People type either."""
    assert code_named(" d12 ") is code_named("credit_used_up") is Code.D12
    assert code_named("D99") is None
