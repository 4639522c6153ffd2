"""This machine's wall clock; it names things and dates what is shown, and decides nothing."""

from __future__ import annotations

import time


def unix_seconds() -> float:
    """Seconds since 1970."""
    return time.time()


def unix_millis() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
