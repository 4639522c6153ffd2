"""Holds: the worst case of a call, set aside before it leaves, in rows of their own.

States: ``open -> settled | released | lapsed`` and ``lapsed -> late``; each step happens once, by
compare-and-set under the organisation's lock.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos


class CallState(StrEnum):
    """Where a call's money stands."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    LAPSED = "lapsed"
    LATE = "late"


class Earmark(msgspec.Struct, frozen=True, array_like=True):
    """A part of a grant that one hold, and no other call, may draw."""

    grant_id: UUID
    amount: Nanos


class Raised(msgspec.Struct, frozen=True, array_like=True):
    """A limit's counter that a hold raised: enough to undo exactly that (ENGINE.md)."""

    scope: int
    """The scope's number within the organisation."""
    rule: int
    """The rule's number within the scope."""
    start: int
    """The window's, in microseconds since 1970."""
    amount: int
    """Nanodollars, tokens or calls, by what the rule counts."""


class Dimensions(msgspec.Struct, frozen=True):
    """What a call is counted under in the hourly rollups; fixed at admission."""

    project_id: UUID
    key_id: UUID
    feature: str
    environment: str
    model: str
    lane: str
    endpoint: str


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """What a running call had used when its node last said so."""

    metered: Nanos
    cost: Nanos
    input_tokens: int
    output_tokens: int


class Hold(msgspec.Struct):
    """An open hold; the engine works on copies of it."""

    call_id: UUID
    organization_id: UUID
    node_id: UUID
    epoch: int
    amount: Nanos
    """Earmarked on grants plus unsecured."""
    unsecured: Nanos
    """The part beyond grants, earmarked on the organisation's floor."""
    earmarks: tuple[Earmark, ...]
    raised: tuple[Raised, ...]
    admitted_at: datetime
    latest_end: datetime
    dimensions: Dimensions
    fingerprint: bytes
    """Hash of the admit command's fields: a replay must be the same command."""
    output_limit: int
    tokens: int = 0
    """Input and output tokens that limits of tokens count it with."""
    user: str = ""
    run: str = ""
    tags: dict[str, str] = {}
    progress: Progress | None = None
    steps: int = 0
    """Extensions that took effect."""


class Draw(msgspec.Struct, frozen=True, array_like=True):
    """What one call took from one grant (DED-04)."""

    grant_id: UUID
    amount: Nanos
