"""``x-ratelimit-*``: what a call's rate limits leave, in the provider's own words (LIM-04, LIM-10).

Of several limits of requests, or of tokens, the one that leaves least is told: it is the one that
will stop the client first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from farebox.gateway.http import Headers
from farebox.ledger.limits import LimitFigures, Measure

_WORDS: Final = ((Measure.CALLS, "requests"), (Measure.TOKENS, "tokens"))


def rate_headers(rates: Sequence[LimitFigures], now: datetime | None) -> Headers:
    """The headers of an answer.

    Args:
        rates: The rate limits of the call, as the engine saw them.
        now: Engine time of that decision; None where it is not known, and then no reset is told.
    """
    headers: Headers = []
    for measure, word in _WORDS:
        mine = [rate for rate in rates if rate.measure == measure]
        if not mine:
            continue
        tightest = min(mine, key=_left)
        headers.append((f"x-ratelimit-limit-{word}", str(tightest.maximum)))
        headers.append((f"x-ratelimit-remaining-{word}", str(_left(tightest))))
        if now is not None and tightest.resets_at is not None:
            headers.append((f"x-ratelimit-reset-{word}", _duration(tightest.resets_at - now)))
    return headers


def _left(rate: LimitFigures) -> int:
    return max(0, rate.maximum - rate.used - rate.held)


def _duration(left: timedelta) -> str:
    """As the provider writes it: ``17ms``, ``4.2s``, ``6m0s``, ``23h59m0s``."""
    millis = max(0, left // timedelta(milliseconds=1))
    if millis < 1_000:
        return f"{millis}ms"
    minutes, millis = divmod(millis, 60_000)
    seconds = f"{millis / 1000:g}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
