"""What is worth mending before it costs anything: findings about settings, not about trouble."""

from __future__ import annotations

from uuid import UUID

from farebox.advice.codes import Code
from farebox.advice.findings import Finding, Fix, Severity, finding
from farebox.advice.wording import quoted
from farebox.kit.ids import format_id


def without_owner(project_id: UUID, name: str) -> Finding:
    """A project that nobody is named for (ORG-10).

    Args:
        project_id: The project.
        name: What people call it.
    """
    subject = format_id("proj", project_id)
    fix = Fix(text="Name an owner", command=f"farebox projects update {subject} --owner WHO")
    cause = f"Nobody is named as the owner of {quoted(name)}."
    return finding(Code.D90, cause, severity=Severity.NOTE, fixes=(fix,), subject=subject)
