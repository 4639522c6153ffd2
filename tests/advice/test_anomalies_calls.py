"""Runs that grow, users who call often, requests that repeat: found from plain facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from farebox.advice.anomalies import AlertSettings
from farebox.advice.anomalies_calls import (
    Repeated,
    RunCall,
    UserHours,
    frequent_user,
    repeated_requests,
    run_growth,
)

NOW = datetime(2026, 11, 20, 12, 34, tzinfo=UTC)
SETTINGS = AlertSettings()


def calls(*inputs: int, output: int = 100) -> list[RunCall]:
    """A run's calls, a minute apart."""
    return [
        RunCall(UUID(int=number), NOW + timedelta(minutes=number), tokens, output)
        for number, tokens in enumerate(inputs)
    ]


GROWING = (5_000, 7_000, 9_000, 11_000, 13_000, 15_000)


@pytest.mark.parametrize(
    ("inputs", "is_flagged"),
    [
        (GROWING, True),
        ((90_000, *GROWING), True),
        ((), False),
        ((100_000,), False),
        (GROWING[1:], False),  # too few
        ((*GROWING, 15_000), False),  # it has stopped growing
        ((5_000, 7_000, 9_000, 8_000, 13_000, 15_000), False),
        ((10_000,) * 60, False),
        ((9_000, 9_100, 9_200, 9_300, 9_400, 9_500), False),  # not much
        ((100, 200, 300, 400, 500, 600), False),  # too small to matter
    ],
)
def test_growth_is_call_over_call(inputs: tuple[int, ...], is_flagged: bool) -> None:
    """ANO-03: the last six calls each larger than the one before, three times and 50,000 tokens."""
    assert (run_growth("r", calls(*inputs), SETTINGS) is not None) == is_flagged


def test_growth_shows_its_evidence() -> None:
    """ANO-03, ANO-09: how many calls, how large, which ones; the answers may vary."""
    row = calls(90_000, *GROWING)
    found = run_growth("crawl", row, SETTINGS)
    assert found is not None
    assert found.subject == "run:crawl"
    assert found.facts["calls"] == "6"
    assert found.facts["tokens"] == str(sum(GROWING) + 600)
    assert found.facts["first_call"] == f"req_{row[1].call_id.hex}"


def hours(now: int, own: tuple[int, ...] = (), others: tuple[int, ...] = ()) -> UserHours:
    """A user's calls now and before, and everybody else's."""
    return UserHours("ada", now, own, others)


@pytest.mark.parametrize(
    ("seen", "usual"),
    [
        (hours(500, (90, 100, 100)), "100"),
        (hours(499, (90, 100, 100)), None),
        (hours(299, (1, 1, 1)), None),  # never under the minimum
        (hours(9_000, (5_000, 6_000, 7_000)), None),  # always was heavy
        (hours(900, (), (100,) * 20), "100"),
        (hours(900, (1, 1), (100,) * 20), "100"),  # two hours are no history
        (hours(900, (), (100,) * 19), None),
        (hours(900), None),
    ],
)
def test_a_user_is_measured_by_their_own_hours(seen: UserHours, usual: str | None) -> None:
    """ANO-04: else by everybody's; by nothing where nothing is known."""
    found = frequent_user(seen, SETTINGS, NOW)
    assert (None if found is None else found.facts["usual_calls"]) == usual


def repeated(**changes: Any) -> Repeated:
    """A request that came again and again."""
    values: dict[str, Any] = {
        "minute": NOW,
        "project_id": UUID(int=1),
        "key_id": UUID(int=2),
        "run": "crawl",
        "model": "gpt-5.4",
        "watched": b"\x01" * 16,
        "calls": 30,
    }
    return Repeated(**(values | changes))


def test_repeats_are_of_a_run_or_else_of_a_key() -> None:
    """ANO-01: from the rate on; one for each run (or key) and hour; no content, a hash."""
    assert repeated_requests(repeated(calls=29), SETTINGS) is None
    found = repeated_requests(repeated(), SETTINGS)
    assert found is not None
    assert (found.subject, found.period_start.minute) == ("run:crawl", 0)
    assert found.facts["request_hash"] == "01" * 16
    alone = repeated_requests(repeated(run=""), SETTINGS)
    assert alone is not None
    assert alone.subject == f"key:{UUID(int=2).hex}"
    assert (alone.facts["scope_kind"], alone.facts["scope_ref"]) == ("key", UUID(int=2).hex)
