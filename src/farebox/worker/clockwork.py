"""The worker's jobs and their clocks: each job is a step, a clock only decides when to take it.

Any number of workers may run at once: every step is safe to take twice, and safe to take late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from farebox.operations.sweep import HOLDS_PER_STEP, Sweep

SWEEP_SECONDS: Final = 5.0
HOUSEKEEPING_SECONDS: Final = 3_600.0

logger: Final = structlog.get_logger("farebox.worker")


class KeepsHouse(Protocol):
    """What is done now and then."""

    async def keep_house(self) -> None:
        """Make coming months' partitions and forget old nodes."""


async def sweeping(sweep: Sweep) -> None:
    """Sweep for ever; at once again while there is more than one page to do."""
    paused = False
    while True:
        pause = SWEEP_SECONDS
        try:
            swept = await sweep.step()
            if swept.paused != paused:
                paused = swept.paused
                logger.error("sweep_paused" if paused else "sweep_resumed", cause="clock jump")
            if swept.lapsed or swept.fenced:
                logger.warning("holds_lapsed", holds=swept.lapsed, fenced=list(swept.fenced))
            if swept.lapsed >= HOLDS_PER_STEP:
                pause = 0.0
        except Exception as error:  # noqa: BLE001 - a failed round must not end the sweep
            logger.warning("sweep_failed", error=repr(error))
        await asyncio.sleep(pause)


async def housekeeping(store: KeepsHouse) -> None:
    """Keep house for ever."""
    while True:
        try:
            await store.keep_house()
        except Exception as error:  # noqa: BLE001 - a failed round must not end it for good
            logger.warning("housekeeping_failed", error=repr(error))
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def repeating(step: Callable[[], Awaitable[object]], *, name: str, every: float) -> None:
    """Take a step for ever, at its pace.

    Args:
        step: Safe to take twice, and late.
        name: What the log calls it.
        every: Seconds between two steps.
    """
    while True:
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - a failed round must not end it for good
            logger.warning("job_failed", job=name, error=repr(error))
        await asyncio.sleep(every)
