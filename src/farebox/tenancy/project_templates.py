"""The split of an organisation that suits most (ORG-07): four projects, each with its purpose."""

from __future__ import annotations

from typing import Final, NamedTuple

ENVIRONMENTS: Final = ("development", "staging", "production", "test")
"""The usual ones (ORG-06); a project may be of another."""


class ProjectTemplate(NamedTuple):
    """A project to begin with."""

    name: str
    environment: str
    purpose: str


SPLIT: Final = (
    ProjectTemplate("testing", "test", "Trying things out; small limits do no harm here."),
    ProjectTemplate("production", "production", "What customers use."),
    ProjectTemplate("customer project", "production", "Work for one customer, billed to them."),
    ProjectTemplate("internal tool", "production", "Tools for our own people."),
)
"""Testing apart from production, customers apart from ourselves."""
