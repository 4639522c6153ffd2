"""The oracle: what the simulated provider billed, call by call, for tests to compare with."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["running", "complete", "broken", "closed", "hung"]
"""``broken``: cut off by an ordered fault; ``closed``: the caller went away first; ``hung``: no
answer ever left. A call that is refused bills nothing and is not in the log."""


@dataclass(slots=True)
class BilledCall:
    """One call as the provider's invoice would show it."""

    id: str
    """The answer's id."""
    request_id: str
    """The ``x-request-id`` of the answer."""
    client_request_id: str | None
    """The ``x-client-request-id`` that came with the request."""
    endpoint: str
    model: str
    service_tier: str
    stream: bool
    usage: dict[str, int | float | str] | None
    """The billed counts by their directive names (``prompt``, ``completion``, ``total``,
    ``cached``, ...); None if the work never began. For a stream that ended early, what had been
    generated until then."""
    outcome: Outcome = "running"
    events: int = 0
    """Stream events that left."""

    def stop_early(self, outcome: Outcome, completion_tokens: int) -> None:
        """Note that a running stream ended before its time, and bill what was generated."""
        if self.outcome != "running":
            return
        self.outcome = outcome
        if self.usage is not None:
            prompt = self.usage["prompt"]
            total = completion_tokens + (prompt if isinstance(prompt, int) else 0)
            self.usage = {**self.usage, "completion": completion_tokens, "total": total}


class BilledLog:
    """The last calls, oldest first."""

    def __init__(self, calls_max: int) -> None:
        self._calls: deque[BilledCall] = deque(maxlen=calls_max)

    def add(self, call: BilledCall) -> BilledCall:
        """Write a line, pushing out the oldest one if there are too many."""
        self._calls.append(call)
        return call

    def calls(self) -> list[BilledCall]:
        """A copy of the list; its lines go on changing while streams run."""
        return list(self._calls)
