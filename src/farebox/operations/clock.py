"""The installation's clock: the time that credit expires by; it moves by hand in a sandbox only."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from farebox.operations.documents import Document, instant

ADVANCE_MAX: Final = timedelta(days=3_660)
"""In one step; the sandbox's clock has an end besides."""


class Deployment(msgspec.Struct, frozen=True):
    """What this installation is, and its time."""

    sandbox: bool
    clock_offset: timedelta
    """How far the sandbox's clock was moved; zero in a real installation."""
    now: datetime


class Clock(Protocol):
    """Reads and moves it; a move is noted in somebody's name."""

    async def show(self) -> Deployment:
        """What time it is here."""

    async def advance(self, by: timedelta) -> Deployment:
        """Move a sandbox's clock forwards (DESIGN.md, decision 17).

        Raises:
            RefusedError: ``not_a_sandbox``: real credit expires by real time alone;
                ``end_of_time``: it would pass the last year that is counted.
        """


def clock_document(deployment: Deployment) -> Document:
    """The time, for people and scripts."""
    return {
        "object": "clock",
        "now": instant(deployment.now),
        "sandbox": deployment.sandbox,
        "offset_seconds": int(deployment.clock_offset.total_seconds()),
    }
