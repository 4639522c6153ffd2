"""Guessing passwords is slow, and counting attempts is cheap."""

from __future__ import annotations

import pytest

from farebox.console import throttle
from farebox.console.throttle import (
    API_WINDOW_SECONDS,
    ATTEMPTS_PER_ADDRESS_MAX,
    ATTEMPTS_PER_EMAIL_MAX,
    WINDOW_SECONDS,
    ApiThrottle,
    SignInThrottle,
)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_person_is_paused_after_ten_attempts_from_anywhere() -> None:
    """Guessing one person's password from many addresses stops at ten, and goes on later."""
    clock = Clock()
    slow = SignInThrottle(monotonic=clock)
    for number in range(ATTEMPTS_PER_EMAIL_MAX):
        assert slow.attempt("ada@example.org", f"192.0.2.{number}") == 0
    assert slow.attempt(" ADA@example.org", "198.51.100.1") == WINDOW_SECONDS
    clock.seconds += WINDOW_SECONDS - 1
    assert slow.attempt("ada@example.org", "198.51.100.1") == 1
    clock.seconds += 1
    assert slow.attempt("ada@example.org", "198.51.100.1") == 0


@pytest.mark.parametrize(
    "addresses",
    [
        ["192.0.2.1"],
        ["2001:db8:1:2::1", "2001:db8:1:2:ffff::7", "2001:db8:1:2::9"],
        ["::ffff:192.0.2.1", "192.0.2.1"],
        ["fe80::1%eth0", "fe80::2"],
        ["", ""],
    ],
)
def test_a_site_is_paused_after_thirty_attempts_at_anybody(addresses: list[str]) -> None:
    """One machine, or one IPv6 site, may try thirty addresses of people, not thirty each."""
    slow = SignInThrottle(monotonic=Clock())
    for number in range(ATTEMPTS_PER_ADDRESS_MAX):
        assert slow.attempt(f"p{number}@example.org", addresses[number % len(addresses)]) == 0
    assert all(slow.attempt("new@example.org", address) > 0 for address in addresses)
    assert slow.attempt("new@example.org", "203.0.113.5") == 0


def test_a_refused_attempt_is_not_counted() -> None:
    """An attacker who goes on knocking does not make the pause longer, nor fills the memory."""
    clock = Clock()
    slow = SignInThrottle(monotonic=clock)
    for number in range(ATTEMPTS_PER_ADDRESS_MAX):
        slow.attempt(f"p{number}@example.org", "192.0.2.1")
    for _ in range(50):
        assert slow.attempt("ada@example.org", "192.0.2.1") > 0
    assert slow.attempt("ada@example.org", "192.0.2.2") == 0


def test_success_clears_the_person_and_not_the_address() -> None:
    """Somebody who signs in all day is never paused; their site's failures stay counted."""
    slow = SignInThrottle(monotonic=Clock())
    for _ in range(5 * ATTEMPTS_PER_ADDRESS_MAX):
        assert slow.attempt("ada@example.org", "192.0.2.1") == 0
        slow.succeeded("ada@example.org", "192.0.2.1")
    for number in range(ATTEMPTS_PER_ADDRESS_MAX):
        assert slow.attempt(f"p{number}@example.org", "192.0.2.1") == 0
    slow.attempt("ada@example.org", "192.0.2.9")
    slow.succeeded("ada@example.org", "192.0.2.9")
    assert slow.attempt("ada@example.org", "192.0.2.1") > 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses and people are tried, only so many counters are kept."""
    monkeypatch.setattr(throttle, "COUNTERS_MAX", 100)
    slow = SignInThrottle(monotonic=Clock())
    for number in range(1_000):
        slow.attempt(f"p{number}@example.org", f"10.0.{number // 256}.{number % 256}")
    assert len(slow._emails._kept) == 100
    assert len(slow._addresses._kept) == 100


def test_a_caller_that_is_known_is_counted_by_itself() -> None:
    """Strangers behind one proxy cannot shut out whoever is inside; a loop of one key waits."""
    clock = Clock()
    slow = ApiThrottle(monotonic=clock, requests_max=5, unproven_max=3)
    assert slow.attempt("good", "192.0.2.1") == 0
    slow.proven("good")
    for key in ("bad 1", "bad 2"):
        assert slow.attempt(key, "192.0.2.1") == 0
    assert slow.attempt("bad 3", "192.0.2.1") == API_WINDOW_SECONDS
    assert slow.attempt("", "192.0.2.1") == API_WINDOW_SECONDS
    assert slow.attempt("bad 3", "192.0.2.2") == 0
    for _ in range(5):
        assert slow.attempt("good", "192.0.2.1") == 0
    assert slow.attempt("good", "192.0.2.9") == API_WINDOW_SECONDS, "wherever it comes from"
    clock.seconds += API_WINDOW_SECONDS
    assert slow.attempt("good", "192.0.2.1") == 0
    clock.seconds += throttle.KNOWN_SECONDS
    for key in ("bad 4", "bad 5", "bad 6"):
        assert slow.attempt(key, "192.0.2.1") == 0
    assert slow.attempt("good", "192.0.2.1") > 0, "known no more: anybody"


def test_known_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of keys takes no more than so much memory, and no key is kept as it is."""
    monkeypatch.setattr(throttle, "COUNTERS_MAX", 5)
    slow = ApiThrottle(monotonic=Clock())
    for number in range(20):
        slow.proven(f"secret {number}")
    assert len(slow._known) == 5
    assert "secret" not in str(slow._known)
