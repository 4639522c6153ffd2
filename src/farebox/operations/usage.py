"""Usage as people ask for it: what was used and charged, by any dimension, in any span of time.

Sums come from the hourly rollups that settling keeps, and from whole days of them where the worker
has added them up; what rollups do not know (users, runs) is summed over the calls themselves, so
its span is shorter.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import Nanos
from farebox.kit.periods import hour_start
from farebox.operations.call_facts import CallSummary, Position

SPAN_MAX: Final = timedelta(days=400)
"""Of one question over rollups: a year, and the same days of the year before beside it."""

CALLS_SPAN_MAX: Final = timedelta(days=31)
"""Of one question over single calls."""


class Dimension(StrEnum):
    """What usage can be split by (ATT-01)."""

    PROJECT = "project"
    KEY = "key"
    FEATURE = "feature"
    ENVIRONMENT = "environment"
    MODEL = "model"
    ENDPOINT = "endpoint"
    USER = "user"
    RUN = "run"
    TAG = "tag"
    """What calls have under one tag's name, such as the prompt they are made with (ATT-02)."""


class Bucket(StrEnum):
    """How time is split."""

    HOUR = "hour"
    DAY = "day"
    """By the organisation's zone, to the whole hour of UTC."""


CALL_DIMENSIONS: Final = frozenset({Dimension.USER, Dimension.RUN, Dimension.TAG})
"""Rollups do not know them: too many."""


class UsageQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked; None narrows nothing."""

    organization_id: UUID
    zone: str
    since: datetime
    """From this instant's hour on..."""
    until: datetime
    """...to the end of the hour before this one, or of its own: whole hours of UTC."""
    by: frozenset[Dimension] = frozenset()
    bucket: Bucket | None = None
    project_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    feature: str | None = None
    environment: str | None = None
    tag: str | None = None
    """The tag's name, where it is asked by one."""

    @property
    def hours(self) -> tuple[datetime, datetime]:
        """The whole hours that are summed: the first, and the first after the last."""
        since, until = hour_start(self.since), hour_start(self.until)
        return since, until if until == self.until else until + timedelta(hours=1)

    @property
    def takes_whole_days(self) -> bool:
        """Whether days of UTC, added up, say as much as their hours."""
        return self.bucket is None or (self.bucket is Bucket.DAY and self.zone == "UTC")

    @property
    def over_calls(self) -> bool:
        """Whether single calls must be summed."""
        return not self.by.isdisjoint(CALL_DIMENSIONS)


class UsageSums(msgspec.Struct, frozen=True, kw_only=True):
    """What calls came to."""

    calls: int
    charge: Nanos
    absorbed: Nanos
    cost: Nanos
    """What upstreams bill us for it: the operator's alone."""
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group; a dimension that was not asked for is None, one that calls did not name empty."""

    at: datetime | None
    project_id: UUID | None
    project_name: str | None
    key_id: UUID | None
    key_name: str | None
    feature: str | None
    environment: str | None
    model: str | None
    endpoint: str | None
    user: str | None
    run: str | None
    tag: str | None
    sums: UsageSums


class Unattributed(msgspec.Struct, frozen=True):
    """Calls that named nothing in a dimension (ATT-03)."""

    calls: int
    charge: Nanos


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """All that the question is about, and how much of it names neither feature nor environment."""

    sums: UsageSums
    no_feature: Unattributed
    no_environment: Unattributed


class UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the groups, and what all of them come to."""

    rows: list[UsageRow]
    total: UsageTotal


class QualityRow(msgspec.Struct, frozen=True, kw_only=True):
    """How calls went (ATT-06 to ATT-08)."""

    project_id: UUID | None
    project_name: str | None
    model: str | None
    key_id: UUID | None
    key_name: str | None
    calls: int
    """That have ended."""
    failed: int
    """Of them: not answered with success, or released, or lapsed."""
    retries: int
    """Of them: the client said that it tried again."""
    refused: int
    """Never admitted; not among the calls."""
    retry_charge: Nanos
    latency_ms: int
    """Of all together."""
    input_tokens: int
    output_tokens: int


class CallFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls of an organisation are meant; None narrows nothing."""

    status: str | None = None
    project_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    feature: str | None = None
    user: str | None = None
    run: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one run has used: its closed calls (BUD-12)."""

    run: str
    calls: int
    charge: Nanos
    input_tokens: int
    output_tokens: int
    first_at: datetime
    last_at: datetime
    last_id: UUID
    """Of its newest call: the list's order."""


class UsageStore(Protocol):
    """Where usage is summed."""

    async def read(self, question: UsageQuestion, *, limit: int, offset: int) -> UsagePage:
        """Groups: the latest time first, within it the largest charge; and all of them in one."""

    async def newest_at(self, organization_id: UUID) -> datetime | None:
        """When the newest call ended; None where there was none."""

    async def quality(
        self,
        organization_id: UUID,
        *,
        since: datetime,
        until: datetime,
        by: frozenset[Dimension],
        limit: int,
        offset: int,
    ) -> list[QualityRow]:
        """How calls went: those who call most first."""

    async def calls(
        self, organization_id: UUID, narrowed: CallFilter, *, after: Position | None, limit: int
    ) -> list[CallSummary]:
        """Calls, open holds and refusals that are meant, newest first."""

    async def runs(
        self,
        organization_id: UUID,
        *,
        run: str | None,
        since: datetime,
        before: UUID | None,
        limit: int,
    ) -> list[RunFacts]:
        """Runs that have closed calls since an instant, the most recently active first."""


def check_kept(since: datetime, kept_from: datetime | None) -> None:
    """Refuse to sum single calls that retention has dropped, rather than sum too few.

    Raises:
        InvalidInputError: Naming the field.
    """
    if kept_from is not None and since < kept_from:
        raise InvalidInputError(
            "since",
            f"must not lie before {kept_from:%Y-%m-%d}: calls from before are past retention, so "
            "users, runs and tags of then are not known; ask by project, key, feature, "
            "environment, model or endpoint",
        )


def share_percent(part: int, whole: int) -> str:
    """A share with two decimals, rounded down; of nothing it is none."""
    hundredths = part * 10_000 // whole if whole > 0 else 0
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def token_ratio(input_tokens: int, output_tokens: int) -> str | None:
    """Output tokens per input token, four decimals, rounded down (ATT-08); None without input."""
    if not input_tokens:
        return None
    parts = output_tokens * 10_000 // input_tokens
    return f"{parts // 10_000}.{parts % 10_000:04d}"


def check_span(since: datetime, until: datetime, most: timedelta) -> None:
    """Refuse a span of time that is empty or too long.

    Raises:
        InvalidInputError: Naming the field.
    """
    if until <= since:
        raise InvalidInputError("until", "must lie after since")
    if until - since > most:
        raise InvalidInputError("since", f"must lie at most {most.days} days before until")
