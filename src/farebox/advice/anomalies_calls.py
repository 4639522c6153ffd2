"""Anomalies in the calls themselves: runs that grow, users who call often, requests that repeat."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median_high
from typing import Final
from uuid import UUID

import msgspec

from farebox.advice.anomalies import AlertSettings, Anomaly, AnomalyKind, is_many_times
from farebox.kit.ids import format_id

OWN_HOURS_MIN: Final = 3
"""From so many hours on a user's own history says what is usual for them..."""
OTHERS_HOURS_MIN: Final = 20
"""...else that of all users, from so many on."""
USERS_HISTORY: Final = timedelta(days=7)


class RunCall(msgspec.Struct, frozen=True):
    """A closed call of a run."""

    call_id: UUID
    admitted_at: datetime
    input_tokens: int
    output_tokens: int


def run_growth(run: str, calls: Sequence[RunCall], settings: AlertSettings) -> Anomaly | None:
    """The finding that the last calls of a run each had more input than the one before (ANO-03).

    What an agent drags along shows in its input; an answer may be long or short. A call that does
    not grow ends the row, so a run of steady calls is never flagged, however long it is.

    Args:
        run: Its reference.
        calls: As they were admitted, the newest last.
        settings: How many, how much and how large.
    """
    growing = 1
    for before, after in pairwise(reversed(calls)):
        if before.input_tokens <= after.input_tokens:
            break
        growing += 1
    if growing < settings.run_calls_min:
        return None
    row = calls[-growing:]
    first, last = row[0], row[-1]
    tokens = sum(call.input_tokens + call.output_tokens for call in row)
    if tokens < settings.run_tokens_min:
        return None
    if not is_many_times(last.input_tokens, first.input_tokens, settings.run_times_percent):
        return None
    return Anomaly(
        kind=AnomalyKind.RUN_GROWTH,
        subject=f"run:{run}",
        period_start=_utc_day(last.admitted_at),
        facts={
            "run": run,
            "calls": str(growing),
            "first_input_tokens": str(first.input_tokens),
            "last_input_tokens": str(last.input_tokens),
            "tokens": str(tokens),
            "first_call": format_id("req", first.call_id),
            "last_call": format_id("req", last.call_id),
            "since": first.admitted_at.isoformat(),
            "until": last.admitted_at.isoformat(),
        },
    )


class UserHours(msgspec.Struct, frozen=True):
    """How often a user calls: the running hour, and the hours of the week before."""

    user: str
    calls: int
    own: tuple[int, ...]
    """Calls of this user in each hour in which there were many."""
    others: tuple[int, ...]
    """The same of all other users."""


def frequent_user(hours: UserHours, settings: AlertSettings, hour: datetime) -> Anomaly | None:
    """The finding that a user calls unusually often (ANO-04).

    Usual is the median of the user's own hours; of somebody new, that of all users' hours. Where
    neither is known, nothing is said.

    Args:
        hours: How often they call.
        settings: From when on it is unusual.
        hour: The beginning of the running hour.
    """
    if hours.calls < settings.user_calls_min:
        return None
    if len(hours.own) >= OWN_HOURS_MIN:
        usual, whose = median_high(hours.own), "own"
    elif len(hours.others) >= OTHERS_HOURS_MIN:
        usual, whose = median_high(hours.others), "all_users"
    else:
        return None
    if not is_many_times(hours.calls, usual, settings.user_times_percent):
        return None
    return Anomaly(
        kind=AnomalyKind.FREQUENT_USER,
        subject=f"user:{hours.user}",
        period_start=hour,
        facts={
            "user": hours.user,
            "calls": str(hours.calls),
            "usual_calls": str(usual),
            "usual_of": whose,
            "hour": hour.isoformat(),
        },
    )


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """Near-identical requests of one key and run in one minute, at all gateways together."""

    minute: datetime
    project_id: UUID
    key_id: UUID
    run: str
    model: str
    watched: bytes
    """The hash that they have in common; nothing else is known of what they said."""
    calls: int

    @property
    def subject(self) -> str:
        """The run, or the key of calls without one."""
        return repeat_subject(self.run, self.key_id)


def repeat_subject(run: str, key_id: UUID) -> str:
    """What a loop is told of: its run, or its key."""
    return f"run:{run}" if run else f"key:{key_id.hex}"


def repeated_requests(repeated: Repeated, settings: AlertSettings) -> Anomaly | None:
    """The finding that a request is repeated over a rate (ANO-01): once an hour of each run."""
    if repeated.calls < settings.repeats_per_minute:
        return None
    return Anomaly(
        kind=AnomalyKind.REPEATED_REQUESTS,
        subject=repeated.subject,
        period_start=repeated.minute.replace(minute=0),
        facts={
            "scope_kind": "run" if repeated.run else "key",
            "scope_ref": repeated.run or repeated.key_id.hex,
            "key_id": repeated.key_id.hex,
            "project_id": repeated.project_id.hex,
            "run": repeated.run,
            "model": repeated.model,
            "calls": str(repeated.calls),
            "minute": repeated.minute.isoformat(),
            "request_hash": repeated.watched.hex(),
        },
    )


def _utc_day(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
