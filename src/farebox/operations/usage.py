"""Usage as people ask for it: what was used and charged, by any dimension, in any span of time.

Sums come from the hourly rollups that settling keeps; what rollups do not know (users, runs) is
summed over the calls themselves, so its span is shorter.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import Nanos
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


class Bucket(StrEnum):
    """How time is split."""

    HOUR = "hour"
    DAY = "day"
    """By the organisation's zone, to the whole hour of UTC."""


CALL_DIMENSIONS: Final = frozenset({Dimension.USER, Dimension.RUN})
"""Rollups do not know them: too many."""


class UsageQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked; None narrows nothing."""

    organization_id: UUID
    zone: str
    since: datetime
    """From this instant's hour on..."""
    until: datetime
    """...and before this one."""
    by: frozenset[Dimension] = frozenset()
    bucket: Bucket | None = None
    project_id: UUID | None = None
    key_id: UUID | None = None
    model: str | None = None
    feature: str | None = None
    environment: str | None = None

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
    sums: UsageSums


class Unattributed(msgspec.Struct, frozen=True):
    """Calls that named nothing in a dimension (ATT-10)."""

    calls: int
    charge: Nanos


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """All that the question is about, and how much of it names neither feature nor environment."""

    sums: UsageSums
    no_feature: Unattributed
    no_environment: Unattributed


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

    async def rows(self, question: UsageQuestion, *, limit: int, offset: int) -> list[UsageRow]:
        """Groups: the latest time first, within it the largest charge."""

    async def total(self, question: UsageQuestion) -> UsageTotal:
        """The same in one."""

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


def check_span(since: datetime, until: datetime, most: timedelta) -> None:
    """Refuse a span of time that is empty or too long.

    Raises:
        InvalidInputError: Naming the field.
    """
    if until <= since:
        raise InvalidInputError("until", "must lie after since")
    if until - since > most:
        raise InvalidInputError("since", f"must lie at most {most.days} days before until")
