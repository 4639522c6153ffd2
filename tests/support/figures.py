"""What long tests counted, summed over all of them and printed at the end of the run.

A test takes the fixture ``figures`` and adds to it as it goes, so that what a failing test counted
is printed too. The figures travel in the reports: they arrive from the processes of pytest-xdist.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest

_PROPERTY = "figures"

WORST = "worst "
"""A name that begins so is the largest of its values; every other is their sum."""


class Figures:
    """The counts of one test."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        """Choose what takes them, which is pytest's ``record_property``."""
        self._record = record

    def add(self, subject: str, counts: Mapping[str, float], **more: float) -> None:
        """Add counts to a subject's."""
        self._record(_PROPERTY, (subject, {**counts, **more}))


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Counts that are printed at the end of the run."""
    return Figures(record_property)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the sums."""
    sums: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            counted = [value for name, value in report.user_properties if name == _PROPERTY]
            for subject in {subject for subject, _ in counted}:
                _merge(sums[subject], {f"tests {outcome}": 1})
            for subject, counts in counted:
                _merge(sums[subject], counts)
    if sums:
        terminalreporter.section("figures")
    for subject, counts in sums.items():
        terminalreporter.write_line(f"{subject}:")
        for name in sorted(counts, key=_order):
            terminalreporter.write_line(f"  {name:<46} {_shown(counts[name]):>16}")


def _merge(into: dict[str, float], counts: Mapping[str, float]) -> None:
    for name, count in counts.items():
        if name not in into:
            into[name] = count
        elif name.startswith(WORST):
            into[name] = max(into[name], count)
        else:
            into[name] += count


def _order(name: str) -> tuple[bool, bool, str]:
    return name.startswith(WORST), not name.startswith("tests "), name


def _shown(count: float) -> str:
    return f"{count:,}" if isinstance(count, int) else f"{count:,.2f}"
