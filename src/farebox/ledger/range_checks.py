"""Range checks: what a command may say, before it enters a batch (ENGINE.md, "A batch")."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import AMOUNT_NANOS_MAX, UNITS_PER_PRICE
from farebox.kit.periods import zone
from farebox.kit.texts import storable
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Extend,
    Forget,
    GrantCredit,
    Refund,
    Release,
    Report,
    SetFloor,
    SetLimit,
    Settle,
    SetZone,
)
from farebox.ledger.limits import OBSERVED, Effect, Measure, Origin, Period
from farebox.ledger.scopes import ID_KINDS, ScopeKind

HOLD_SECONDS_MAX: Final = timedelta(hours=24)
"""No hold may claim a later end than background work has (ENGINE.md, "Nodes and lapses")."""

COUNT_MAX: Final = 2**53
"""A larger token count is no count but an attack or a fault."""

COUNTER_MAX: Final = 2**31 - 1
"""Retries and steps are kept in four bytes."""

HTTP_STATUS_MAX: Final = 999

FORGOTTEN_MAX: Final = 1_000
"""Scopes that one command may forget, all under one lock."""

NUMBER_MAX: Final = 2**63

YEAR_MAX: Final = 9000
"""A later end means never; leave it out. Calendar arithmetic stays clear of the last year."""

THRESHOLDS_MAX: Final = 10
THRESHOLD_PERCENT_MAX: Final = 1000

NAME_CHARACTERS_MAX: Final = 400
"""Of a scope's reference; tags are the longest (a key, an equals sign and a value)."""

LINES_MAX: Final = 64
"""Line items of one call; there are fewer kinds of unit than this."""


def check(command: AnyCommand) -> None:
    """Refuse a command whose values the engine or the database could not hold.

    Raises:
        InvalidInputError: Naming the field.
    """
    for name, low in _AMOUNT_FIELDS.get(type(command), ()):
        value = getattr(command, name)
        if value is not None and not low <= value <= AMOUNT_NANOS_MAX:
            raise InvalidInputError(name, f"must be between {low} and {AMOUNT_NANOS_MAX} nanos")
    for name, low, high in _COUNT_FIELDS.get(type(command), ()):
        if not low <= getattr(command, name) <= high:
            raise InvalidInputError(name, f"must be between {low} and {high}")
    more = _CHECKS.get(type(command))
    if more is not None:
        more(command)


_AMOUNT_FIELDS: Final[dict[type, tuple[tuple[str, int], ...]]] = {
    Admit: (("fixed", 0),),
    Extend: (("amount", 1),),
    Settle: (("metered", 0), ("cost", 0)),
    Report: (("metered", 0), ("cost", 0)),
    GrantCredit: (("amount", 1),),
    Refund: (("amount", 1),),
    Correct: (("amount", 1),),
    SetLimit: (("maximum", 0),),
    SetFloor: (("floor", 0),),
}


_COUNT_FIELDS: Final[dict[type, tuple[tuple[str, int, int], ...]]] = {
    Admit: (("input_tokens", 0, COUNT_MAX),),
    Extend: (("step", 1, COUNTER_MAX), ("tokens", 0, COUNT_MAX)),
    Settle: (("http_status", 0, HTTP_STATUS_MAX), ("latency_ms", 0, COUNT_MAX)),
    Release: (("http_status", 0, HTTP_STATUS_MAX), ("latency_ms", 0, COUNT_MAX)),
    Report: (("input_tokens", 0, COUNT_MAX), ("output_tokens", 0, COUNT_MAX)),
}


def _check_instants(command: GrantCredit) -> None:
    for name in ("effective_at", "expires_at"):
        instant = getattr(command, name)
        if instant is not None and (instant.tzinfo is None or instant.year > YEAR_MAX):
            raise InvalidInputError(name, f"must have a time zone, and a year up to {YEAR_MAX}")
    start, end = command.effective_at, command.expires_at
    if start is not None and end is not None and end <= start:
        raise InvalidInputError("expires_at", "must lie after effective_at")


def _check_kind_of_limit(command: SetLimit) -> None:
    measure, period, kind = command.measure, command.period, command.scope_kind
    if measure in _TOTAL_ONLY and period is not Period.TOTAL:
        raise InvalidInputError("period", f"must be total for {measure}")
    if measure in OBSERVED and kind is not ScopeKind.RUN:
        raise InvalidInputError("scope_kind", f"must be run for {measure}")
    if command.effect is Effect.ALLOCATION and (
        kind is not ScopeKind.PROJECT
        or not command.scope_ref
        or measure is not Measure.MONEY
        or command.models
    ):
        raise InvalidInputError(
            "effect", "allocation sets money aside for one project, whatever the model"
        )
    if command.effect is Effect.THROTTLE and command.maximum is not None and not _turns(command):
        raise InvalidInputError(
            "effect",
            "throttle lets calls wait until there is room, and here there never is again: give a "
            "period other than total, or limit calls in parallel",
        )
    if command.origin is Origin.TIER and (
        kind is not ScopeKind.ORGANIZATION or command.effect is not Effect.HARD
    ):
        raise InvalidInputError("origin", "may be tier for hard limits of the organisation alone")
    if not command.count_failed and (measure, period) != (Measure.CALLS, Period.MINUTE):
        raise InvalidInputError(
            "count_failed", "may be false for limits of calls per minute alone; leave it out here"
        )
    if command.effect is Effect.STOP and (
        measure is not Measure.PARALLEL or command.maximum or command.raised_to or command.models
    ):
        raise InvalidInputError(
            "effect", "stop lets no call begin, whatever the model: its limit is 0 calls at a time"
        )


def _turns(command: SetLimit) -> bool:
    """Whether what a limit has counted goes away by itself."""
    return command.period is not Period.TOTAL or command.measure is Measure.PARALLEL


def _check_limit(command: SetLimit) -> None:
    _check_kind_of_limit(command)
    if command.raised_to is not None and not 0 <= command.raised_to <= AMOUNT_NANOS_MAX:
        raise InvalidInputError("raised_to", "is out of range")
    begin, end = command.raised_from, command.raised_until
    for field, at in (("raised_from", begin), ("raised_until", end)):
        if at is not None and (at.tzinfo is None or at.year > YEAR_MAX):
            raise InvalidInputError(field, f"must have a time zone, and a year up to {YEAR_MAX}")
    if begin is not None and end is not None and begin >= end:
        raise InvalidInputError("raised_until", "must be later than raised_from")
    if len(command.thresholds) > THRESHOLDS_MAX or not all(
        0 < percent <= THRESHOLD_PERCENT_MAX for percent in command.thresholds
    ):
        raise InvalidInputError(
            "thresholds",
            f"must be at most {THRESHOLDS_MAX} percentages from 1 to {THRESHOLD_PERCENT_MAX}",
        )
    _check_scope(command)
    for name in ("scope_ref", "models", "owner"):
        text = getattr(command, name)
        if len(text) > NAME_CHARACTERS_MAX:
            raise InvalidInputError(name, f"must have at most {NAME_CHARACTERS_MAX} characters")
        if storable(text) != text:
            raise InvalidInputError(name, "has a character that no database keeps")


_ID: Final = re.compile("[0-9a-f]{32}")


def _check_scope(command: SetLimit) -> None:
    kind, ref = command.scope_kind, command.scope_ref
    if not ref or kind is ScopeKind.ORGANIZATION:
        return
    if kind in ID_KINDS and not _ID.fullmatch(ref):
        raise InvalidInputError("scope_ref", f"must be the id of a {kind}, as 32 hex digits")
    if kind is ScopeKind.TAG and "=" not in ref[1:]:
        raise InvalidInputError("scope_ref", "must look like team=search")


_TOTAL_ONLY: Final = OBSERVED | {Measure.PARALLEL}


def _check_admit(command: Admit) -> None:
    if not 0 <= command.output_min <= command.output_max <= COUNT_MAX:
        raise InvalidInputError("output_max", "must not be smaller than output_min, nor too large")
    if not 0 <= command.output_price <= AMOUNT_NANOS_MAX:
        raise InvalidInputError("output_price", "is out of range")
    if command.output_max * command.output_price > AMOUNT_NANOS_MAX * UNITS_PER_PRICE:
        raise InvalidInputError("output_max", "makes a ceiling of more than one billion")
    if not timedelta(0) < command.latest_end_after <= HOLD_SECONDS_MAX:
        raise InvalidInputError("latest_end_after", "must be more than zero, at most 24 hours")
    if not 0 <= command.attribution.retry_count <= COUNTER_MAX:
        raise InvalidInputError("retry_count", f"must be between 0 and {COUNTER_MAX}")


def _check_settle(command: Settle) -> None:
    if sum(line.amount for line in command.lines) != command.metered:
        raise InvalidInputError("lines", "must sum to the metered amount")
    if len(command.lines) > LINES_MAX:
        raise InvalidInputError("lines", f"are more than {LINES_MAX}")
    for line in command.lines:
        if min(line.quantity, line.price, line.amount) < 0 or line.quantity > COUNT_MAX:
            raise InvalidInputError(f"lines.{line.unit}", "is out of range")
        if line.price > AMOUNT_NANOS_MAX:
            raise InvalidInputError(f"lines.{line.unit}", "has a price of more than one billion")
    for name in command.usage.__struct_fields__:
        if not 0 <= getattr(command.usage, name) <= COUNT_MAX:
            raise InvalidInputError(f"usage.{name}", "is out of range")


def _check_zone(command: SetZone) -> None:
    zone(command.zone)


def _check_forget(command: Forget) -> None:
    if not 0 < len(command.numbers) <= FORGOTTEN_MAX:
        raise InvalidInputError("numbers", f"must be from 1 to {FORGOTTEN_MAX}")
    if not all(0 <= number < NUMBER_MAX for number in command.numbers):
        raise InvalidInputError("numbers", "are no numbers of scopes")


_CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    Admit: _check_admit,
    Settle: _check_settle,
    GrantCredit: _check_instants,
    SetLimit: _check_limit,
    SetZone: _check_zone,
    Forget: _check_forget,
}
"""What goes beyond the ranges of single fields."""
