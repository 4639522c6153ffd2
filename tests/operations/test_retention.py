"""Which months are past retention, and what keeps one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, UnavailableError
from farebox.kit.money import Nanos
from farebox.operations.audit_log import AuditNote
from farebox.operations.retention import (
    UNTOUCHED,
    DroppedMonth,
    Parent,
    Reach,
    RetentionSettings,
    StoredMonth,
    apply_retention,
    due,
    retention_step,
    set_retention,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def stored(parent: Parent, *months: date) -> list[StoredMonth]:
    """Months of rows."""
    return [StoredMonth(parent, month, 5, 100) for month in months]


class MemoryRetention:
    """A store of months that are given."""

    def __init__(self, *months: StoredMonth) -> None:
        self.there = list(months)
        self.standing = RetentionSettings()
        self.reached = Reach(0, None, NOW)
        self.notes: list[AuditNote] = []
        self.days_dropped = 0
        self.busy = False

    async def now(self) -> datetime:
        return NOW

    async def settings(self) -> RetentionSettings:
        return self.standing

    async def change(self, settings: RetentionSettings, note: AuditNote) -> None:
        self.standing = settings
        self.notes.append(note)

    async def months(self) -> list[StoredMonth]:
        return list(self.there)

    async def dropped(self, *, limit: int) -> list[DroppedMonth]:
        return []

    async def make_missing(self, *, limit: int) -> int:
        return 0

    async def reach(self, start: datetime, end: datetime) -> Reach:
        return self.reached

    async def drop(self, parent: Parent, month: date) -> DroppedMonth:
        if self.busy:
            raise UnavailableError("in use")
        self.there = [m for m in self.there if (m.parent, m.month) != (parent, month)]
        return DroppedMonth(parent, month, 5, Nanos(7), NOW)

    async def drop_content(self, *, limit: int) -> int:
        self.days_dropped += 1
        return 0


class Log:
    """Remembers what was begun and how it ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str]] = []

    async def begin(self, note: AuditNote) -> UUID:
        return UUID(int=1)

    async def finish(self, pending_id: UUID, note: AuditNote) -> None:
        self.ended.append((note.action, note.subject_id, note.outcome.value))


def test_a_month_is_due_when_whole_months_have_passed_after_it() -> None:
    """Thirteen months mean thirteen whole ones after the month's own, for calls and for refusals
    by their own settings.
    """
    months = stored(Parent.CALL, date(2025, 8, 1), date(2025, 9, 1), date(2025, 10, 1))
    months += stored(Parent.REFUSAL, date(2026, 7, 1), date(2026, 8, 1))
    settings = RetentionSettings(call_months=13, refusal_months=3)
    assert [(m.parent.value, m.month) for m in due(months, settings, NOW)] == [
        ("call", date(2025, 8, 1)),
        ("call", date(2025, 9, 1)),
        ("refusal", date(2026, 7, 1)),
    ]
    earlier = NOW - timedelta(microseconds=1)
    assert len(due(months, settings, earlier)) == 1
    assert due(months, RetentionSettings(), NOW) == []


@pytest.mark.parametrize("months", [0, 1, -3, 1_201])
async def test_a_length_out_of_range_is_refused(months: int) -> None:
    """Two months at least: no replay and no window needs a call then."""
    with pytest.raises(InvalidInputError, match="calls"):
        await set_retention(MemoryRetention(), RetentionSettings(call_months=months))
    with pytest.raises(InvalidInputError, match="refusals"):
        await set_retention(MemoryRetention(), RetentionSettings(refusal_months=months))


async def test_a_change_is_noted_once() -> None:
    """What stands and what stood are in the log; setting the same again is no change."""
    store = MemoryRetention()
    settings = RetentionSettings(call_months=13)
    await set_retention(store, settings)
    await set_retention(store, settings)
    (note,) = store.notes
    assert note.before == {"call_months": None, "refusal_months": None}
    assert note.after == {"call_months": 13, "refusal_months": None}


@pytest.mark.parametrize(
    ("reach", "reason"),
    [
        (Reach(2, None, NOW), "2 of its calls are open"),
        (Reach(0, NOW - UNTOUCHED + timedelta(seconds=1), NOW), "too lately"),
    ],
)
async def test_what_can_still_be_reached_stays(reach: Reach, reason: str) -> None:
    """ENGINE.md: open holds, and calls that ended less than 35 days ago."""
    store, log = MemoryRetention(*stored(Parent.CALL, date(2020, 1, 1))), Log()
    store.reached = reach
    audit: Any = log
    (outcome,) = await apply_retention(store, audit, RetentionSettings(call_months=2), limit=9)
    assert (outcome.dropped, log.ended) == (False, [])
    assert reason in outcome.reason
    assert store.there


async def test_each_month_has_its_entry_in_the_log() -> None:
    """What was dropped, and what was tried and could not be."""
    store, log = MemoryRetention(*stored(Parent.CALL, date(2020, 1, 1), date(2020, 2, 1))), Log()
    store.standing = RetentionSettings(call_months=2)
    audit: Any = log
    store.busy = True
    assert [each.reason for each in await retention_step(store, audit)] == ["in use"] * 2
    store.busy = False
    done = await apply_retention(store, audit, store.standing, limit=1)
    assert [(each.dropped, each.rows, each.charge) for each in done] == [(True, 5, 7)]
    assert log.ended == [
        ("calls.dropped", "call 2020-01", "refused"),
        ("calls.dropped", "call 2020-02", "refused"),
        ("calls.dropped", "call 2020-01", "done"),
    ]
    assert [each.month for each in store.there] == [date(2020, 2, 1)]
    assert store.days_dropped == 1
