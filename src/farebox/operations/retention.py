"""Retention: whole months of calls and refusals are dropped when old enough, never deleted.

What the books and the limits need of calls that are gone is kept as sums, in the transaction that
drops their month, so that every total stays what it was (migration 0005 says which). A month goes
only when nothing can reach it any more: no open hold has an id of it, and its last call ended
longer ago than holds are kept (ENGINE.md, "Idempotency"). Unless somebody says otherwise nothing
is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import msgspec

from farebox.kit.errors import InvalidInputError, UnavailableError
from farebox.kit.money import Nanos, format_amount
from farebox.kit.periods import months_after
from farebox.operations.audit_log import AuditLog, AuditNote
from farebox.tenancy.audit_chain import Outcome

MONTHS_MIN: Final = 2
"""Whole months that calls are kept after their own: no replay and no window needs them then."""
MONTHS_MAX: Final = 1_200

UNTOUCHED: Final = timedelta(days=35)
"""As long as ENGINE.md keeps holds after closing: a month's last call ended before that."""

MONTHS_PER_STEP: Final = 12
"""Of one step of the worker; the next goes on."""

CONTENT_DAYS_PER_STEP: Final = 100
STRAYS_MAX: Final = 100


class Parent(StrEnum):
    """What lies in months."""

    CALL = "call"
    REFUSAL = "refusal"


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """For how many whole months after their own rows are kept; None: for good."""

    call_months: int | None = None
    refusal_months: int | None = None

    def months_of(self, parent: Parent) -> int | None:
        """The setting of one kind."""
        return self.call_months if parent is Parent.CALL else self.refusal_months


class StoredMonth(msgspec.Struct, frozen=True):
    """One month's rows."""

    parent: Parent
    month: date
    rows: int
    """As the server last estimated them."""
    bytes: int


class DroppedMonth(msgspec.Struct, frozen=True):
    """A month that is gone."""

    parent: Parent
    month: date
    rows: int
    charge: Nanos
    dropped_at: datetime


class Reach(NamedTuple):
    """What may still reach a month."""

    open_holds: int
    last_ended_at: datetime | None
    now: datetime


class MonthOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a month that was due."""

    parent: Parent
    month: date
    dropped: bool
    rows: int = 0
    charge: Nanos = Nanos(0)
    reason: str = ""
    """Why it stays, for now."""


class RetentionStore(Protocol):
    """Where months are."""

    async def now(self) -> datetime:
        """The database's time."""

    async def settings(self) -> RetentionSettings:
        """What stands."""

    async def change(self, settings: RetentionSettings, note: AuditNote) -> None:
        """Change it, and note that."""

    async def months(self) -> list[StoredMonth]:
        """Every month there is, the oldest first."""

    async def dropped(self, *, limit: int) -> list[DroppedMonth]:
        """Months that are gone, the newest first."""

    async def make_missing(self, *, limit: int) -> int:
        """Make the months of rows that came when theirs was missing; gives how many."""

    async def reach(self, start: datetime, end: datetime) -> Reach:
        """What may still reach a month."""

    async def drop(self, parent: Parent, month: date) -> DroppedMonth:
        """Seal a month, keep its sums, drop it.

        Raises:
            UnavailableError: Others use it just now, or drop it themselves.
        """

    async def drop_content(self, *, limit: int) -> int:
        """Drop stored content whose day has come; gives how many days."""


def check_months(value: int | None, *, field: str) -> int | None:
    """Check a number of months.

    Raises:
        InvalidInputError: Naming the field.
    """
    if value is not None and not MONTHS_MIN <= value <= MONTHS_MAX:
        raise InvalidInputError(
            field, f"must be from {MONTHS_MIN} to {MONTHS_MAX} months, or forever"
        )
    return value


def month_bounds(month: date) -> tuple[datetime, datetime]:
    """The instants between which a month's ids lie."""
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return start, months_after(start, 1)


def due(
    months: Sequence[StoredMonth], settings: RetentionSettings, now: datetime
) -> list[StoredMonth]:
    """The months that are past retention, the oldest first."""
    return [
        each
        for each in months
        if (kept := settings.months_of(each.parent)) is not None
        and months_after(month_bounds(each.month)[1], kept) <= now
    ]


async def set_retention(
    store: RetentionStore, settings: RetentionSettings
) -> tuple[RetentionSettings, RetentionSettings]:
    """Change what stands; gives what stood and what stands.

    Raises:
        InvalidInputError: Naming the field.
    """
    check_months(settings.call_months, field="calls")
    check_months(settings.refusal_months, field="refusals")
    before = await store.settings()
    if settings != before:
        note = AuditNote(
            action="retention.changed",
            subject_kind="retention",
            subject_id="retention",
            before=msgspec.structs.asdict(before),
            after=msgspec.structs.asdict(settings),
        )
        await store.change(settings, note)
    return before, settings


async def apply_retention(
    store: RetentionStore, audit: AuditLog, settings: RetentionSettings, *, limit: int
) -> list[MonthOutcome]:
    """Drop what is past retention, month by month, each with its entry in the audit log.

    Args:
        store: Where months are.
        audit: In whose name it is done.
        settings: What is to be kept.
        limit: Months at most.

    Raises:
        UnavailableError: The database is away.
    """
    await store.make_missing(limit=STRAYS_MAX)
    found = due(await store.months(), settings, await store.now())
    return [await _drop(store, audit, each) for each in found[:limit]]


async def retention_step(store: RetentionStore, audit: AuditLog) -> list[MonthOutcome]:
    """What the worker does now and then: content whose day has come, months that are due.

    Raises:
        UnavailableError: The database is away.
    """
    await store.drop_content(limit=CONTENT_DAYS_PER_STEP)
    settings = await store.settings()
    return await apply_retention(store, audit, settings, limit=MONTHS_PER_STEP)


async def _drop(store: RetentionStore, audit: AuditLog, each: StoredMonth) -> MonthOutcome:
    parent, month = each.parent, each.month
    reason = await _reached(store, each)
    if reason:
        return MonthOutcome(parent=parent, month=month, dropped=False, reason=reason)
    note = AuditNote(
        action=f"{parent}s.dropped",
        subject_kind="month",
        subject_id=f"{parent} {month:%Y-%m}",
    )
    pending = await audit.begin(note)
    try:
        gone = await store.drop(parent, month)
    except UnavailableError as error:
        refused = msgspec.structs.replace(note, outcome=Outcome.REFUSED, reason=error.message)
        await audit.finish(pending, refused)
        return MonthOutcome(parent=parent, month=month, dropped=False, reason=error.message)
    facts = {"rows": gone.rows, "charge": format_amount(gone.charge)}
    await audit.finish(pending, msgspec.structs.replace(note, after=facts))
    return MonthOutcome(
        parent=parent, month=month, dropped=True, rows=gone.rows, charge=gone.charge
    )


async def _reached(store: RetentionStore, each: StoredMonth) -> str:
    """Why a month must stay; empty where nothing can reach it any more."""
    if each.parent is Parent.REFUSAL:
        return ""
    reach = await store.reach(*month_bounds(each.month))
    if reach.open_holds:
        return f"{reach.open_holds} of its calls are open"
    if reach.last_ended_at is not None and reach.last_ended_at > reach.now - UNTOUCHED:
        return f"a call of it ended at {reach.last_ended_at:%Y-%m-%d %H:%M}, too lately"
    return ""
