"""What pages make of amounts, times and counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from farebox.console.rendering import burn_class, instant, latency, money, span, until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("nanos", "currency", "plain", "shown"),
    [
        (48_838_375_000, "USD", "48.838375", "$48.838375"),
        (-1, "USD", "-0.000000001", "-$0.000000001"),
        (0, "EUR", "0.00", "€0.00"),
        (1_234_567_500_000_000, "GBP", "1234567.50", "£1,234,567.50"),
        (5_000_000_000, "CHF", "5.00", "5.00\N{NO-BREAK SPACE}CHF"),
        (9_223_372_036_854_775_807, "USD", "9223372036.854775807", "$9,223,372,036.854775807"),
    ],
)
def test_amounts_are_exact(nanos: int, currency: str, plain: str, shown: str) -> None:
    """Every nanodollar is on the page, for people and as the API writes it."""
    markup = money(nanos, currency)
    assert markup.startswith(f'<data class="money" value="{plain}">')
    assert markup.striptags() == shown


def test_a_currency_cannot_bring_markup_along() -> None:
    """Whatever stands in the currency's place is escaped."""
    assert "<b>" not in money(1, "<b>")


def test_times_are_in_utc() -> None:
    """UXF-10: a time of another zone is shown in UTC, which its column names."""
    there = datetime(2026, 3, 1, 1, 30, 5, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert instant(there).striptags() == "2026-02-28 20:00:05"
    assert 'datetime="2026-02-28T20:00:05.999999Z"' in instant(there)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=119), "119 s"),
        (timedelta(minutes=2), "2 min"),
        (timedelta(minutes=119), "119 min"),
        (timedelta(hours=2), "2 h"),
        (timedelta(hours=23, minutes=59), "23 h"),
        (timedelta(days=1), "1 d"),
        (timedelta(days=400), "400 d"),
    ],
)
def test_spans_are_rounded_down(length: timedelta, said: str) -> None:
    """Nothing is said to last longer than it does."""
    assert span(length) == said


def test_until_says_before_and_after() -> None:
    """An instant lies ahead or behind."""
    assert until(NOW + timedelta(days=3), NOW) == "in 3 d"
    assert until(NOW, NOW) == "0 s ago"


def test_latencies_change_their_unit_at_a_second() -> None:
    """Milliseconds below, tenths above."""
    assert [latency(ms) for ms in (0, 999, 1_000, 61_990)] == ["0 ms", "999 ms", "1.0 s", "61.9 s"]


def test_burn_classes_are_named() -> None:
    """DED-02: each source shows the class in which it is drawn."""
    assert [burn_class(source) for source in ("promo", "contract", "purchased")] == [
        "1 · given",
        "2 · contract",
        "3 · purchased",
    ]
