"""Findings about settings."""

from __future__ import annotations

from uuid import UUID

from farebox.advice.codes import Code
from farebox.advice.findings import Severity, Status, status_of
from farebox.advice.lint import without_owner
from farebox.kit.ids import format_id


def test_a_project_without_an_owner_is_a_lint_finding() -> None:
    """ORG-10: a note that names the project and how an owner is named; it stands in no way."""
    told = without_owner(UUID(int=7), "my shop")
    assert (told.code, told.severity) == (Code.D90, Severity.NOTE)
    assert told.subject == format_id("proj", UUID(int=7))
    assert "'my shop'" in told.cause
    assert told.fixes[0].command == f"farebox projects update {told.subject} --owner WHO"
    assert status_of((told,)) is Status.OK
