"""What happened in one seed: events in order, a hash of them all, and counts by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b


class SimulationError(Exception):
    """A check failed: the engine, or the simulation itself, is wrong."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check
        """Which checker found it."""


class Trace:
    """The events of one seed."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._events: list[tuple[float, str, str, tuple[object, ...]]] = []
        self._hash = blake2b(digest_size=16)
        self.counts: Counter[str] = Counter()

    def note(self, kind: str, who: str, *facts: object) -> None:
        """Write an event down.

        Args:
            kind: What happened, in a word or two; it is counted.
            who: Where it happened.
            *facts: Numbers and words with a ``str`` that is the same in every process.
        """
        at = self._time()
        self.counts[kind] += 1
        self._events.append((at, who, kind, facts))
        self._hash.update(f"{at!r} {who} {kind} {facts!s}\n".encode())

    def count(self, kind: str, times: int = 1) -> None:
        """Count what needs no line of its own."""
        self.counts[kind] += times

    @property
    def digest(self) -> str:
        """A hash of every event with its time."""
        return self._hash.hexdigest()

    def lines(self, last: int | None = None) -> list[str]:
        """The events for people, all or the last ones."""
        events = self._events if last is None else self._events[-last:]
        return [_line(*event) for event in events]


def _line(at: float, who: str, kind: str, facts: tuple[object, ...]) -> str:
    return f"{at:12.6f}  {who:<10} {kind:<26} {' '.join(map(str, facts))}".rstrip()


def short(identifier: object) -> str:
    """The end of an id: the part that chance made."""
    return str(identifier)[-6:]
