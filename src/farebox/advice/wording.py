"""How the doctor writes amounts, instants, ages and names; and evidence in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from farebox.advice.findings import Evidence
from farebox.kit.ids import format_id
from farebox.kit.money import NANOS_PER_UNIT, Nanos, format_amount
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+=,-]+")

_PERIODS: Final = {
    Period.MINUTE.value: "per-minute",
    Period.UTC_DAY.value: "per-day",
    Period.DAY.value: "daily",
    Period.WEEK.value: "weekly",
    Period.MONTH.value: "monthly",
    Period.TOTAL.value: "total",
}

_UNITS: Final = {Measure.PARALLEL.value: "calls", Measure.DEPTH.value: "levels"}

TOP_UP_MIN: Final = Nanos(5 * NANOS_PER_UNIT)
"""The smallest purchase that is advised: what the provider itself sells at least."""


def amount(nanos: int, currency: str = "") -> str:
    """An amount of money, exact.

    >>> amount(1_500_000_000, "USD")
    '1.50 USD'
    """
    text = format_amount(nanos)
    return f"{text} {currency}" if currency else text


def when(instant: datetime) -> str:
    """An instant for people: to the second, in UTC.

    >>> when(datetime(2026, 11, 20, 10, 5, tzinfo=UTC))
    '2026-11-20 10:05:00 UTC'
    """
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(length: timedelta) -> str:
    """How long ago, to two figures at most.

    >>> ago(timedelta(seconds=90)), ago(timedelta(days=3)), ago(timedelta(0))
    ('90 seconds ago', '3 days ago', 'now')
    """
    seconds = int(length.total_seconds())
    if seconds <= 0:
        return "now"
    for size, name, most in ((1, "second", 120), (60, "minute", 120), (3_600, "hour", 48)):
        if seconds < size * most:
            count = seconds // size
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return f"{seconds // 86_400} days ago"


def quoted(text: str) -> str:
    """A name as one word of a command line.

    >>> quoted("Acme"), quoted("My organisation")
    ('Acme', "'My organisation'")
    """
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


def request(call_id: UUID) -> str:
    """A call's id as people see it."""
    return format_id("req", call_id)


def period(name: str) -> str:
    """A period as an adjective."""
    return _PERIODS.get(name, name)


def measured(measure: str, value: int, currency: str) -> tuple[str, str]:
    """A figure of a limit and its unit."""
    if measure == Measure.MONEY:
        return format_amount(Nanos(value)), currency
    unit = _UNITS.get(measure, measure)
    return f"{value:,}", unit.removesuffix("s") if value == 1 else unit


def scope(kind: str, name: str) -> str:
    """A scope as a sentence names it.

    >>> scope("organization", "Acme"), scope("user", "bob")
    ('the organisation', 'the user bob')
    """
    if kind == ScopeKind.ORGANIZATION:
        return "the organisation"
    return f"the {kind} {name}" if name else f"the {kind}"


def sentence(text: str) -> str:
    """With a capital at its beginning, whatever stands behind it.

    >>> sentence("the key of Acme")
    'The key of Acme'
    """
    return text[:1].upper() + text[1:]


def counted(count: int, word: str = "call") -> str:
    """A number of things.

    >>> counted(1), counted(2_000)
    ('1 call', '2,000 calls')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def news(evidence: Iterable[Evidence], before: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Evidence that says something else than what was shown before it."""
    shown = {(each.label, each.value) for each in before}
    return tuple(each for each in evidence if (each.label, each.value) not in shown)


def money(label: str, value: int, currency: str, *, at: datetime, source: str) -> Evidence:
    """Evidence of an amount."""
    return Evidence(label=label, value=format_amount(value), unit=currency, at=at, source=source)


def fact(label: str, value: object, *, at: datetime, source: str, unit: str = "") -> Evidence:
    """Evidence of anything else."""
    return Evidence(label=label, value=str(value), unit=unit, at=at, source=source)


def top_up(missing: int) -> str:
    """An amount to add: whole units, no less than the smallest purchase.

    >>> top_up(0), top_up(7_200_000_000)
    ('5.00', '8.00')
    """
    whole = -(-max(0, missing) // NANOS_PER_UNIT) * NANOS_PER_UNIT
    return format_amount(max(TOP_UP_MIN, whole))
