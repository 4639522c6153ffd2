"""Admissions that wait, in order, for money that open calls hold (DESIGN.md decision 5)."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from farebox.ledger.commands import Admit, Extend
from farebox.operations.pending import Pending

WAITERS_PER_ORGANIZATION_MAX: Final = 1_000
"""Admissions of one organisation that may wait for money at once; more are told at once."""


class WaitingRoom:
    """One line per organisation, first come first decided.

    A command leaves its line while it is being decided and comes back to its old place, whatever
    arrived meanwhile.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lines: dict[UUID, list[Pending]] = {}

    def has_room(self, organization_id: UUID) -> bool:
        """Tell whether one more may wait."""
        return len(self._lines.get(organization_id, ())) < WAITERS_PER_ORGANIZATION_MAX

    def keep(self, pending: Pending) -> None:
        """Let a command wait at the place that its arrival gives it."""
        line = self._lines.setdefault(pending.command.organization_id, [])
        insort(line, pending, key=lambda other: other.number)
        self.count += 1

    def organizations(self) -> list[UUID]:
        """Who has a line; the one that was asked longest ago comes first."""
        return list(self._lines)

    def take(self, organization_ids: Iterable[UUID], room: int) -> list[Pending]:
        """Take the first of these organisations' lines out, in order, as many as fit."""
        taken: list[Pending] = []
        for organization_id in organization_ids:
            line = self._lines.pop(organization_id, None)
            if line is None:
                continue
            if len(line) > room - len(taken):
                line = _in_turns(line)
            part, rest = line[: room - len(taken)], line[room - len(taken) :]
            self.count -= len(part)
            taken += [pending for pending in part if not pending.withdrawn]
            if rest:
                # Back at the end, so that no long line keeps the others from their turn.
                self._lines[organization_id] = sorted(rest, key=lambda p: p.number)
            if len(taken) >= room:
                break
        return taken

    def leave(self, now: float) -> list[Pending]:
        """Take out all whose patience has ended, and those whose callers are gone."""
        left: list[Pending] = []
        for organization_id, line in list(self._lines.items()):
            gone = [p for p in line if p.withdrawn or p.patience_until <= now]
            if gone:
                left += gone
                self.count -= len(gone)
                line[:] = [p for p in line if not (p.withdrawn or p.patience_until <= now)]
                if not line:
                    del self._lines[organization_id]
        return left

    def clear(self) -> list[Pending]:
        """Take everybody out."""
        left = [pending for line in self._lines.values() for pending in line]
        self._lines.clear()
        self.count = 0
        return left


def _in_turns(line: list[Pending]) -> list[Pending]:
    """The first of every key, then the second of every key: no key's crowd keeps another's out."""
    seen: Counter[UUID] = Counter()
    turns: list[tuple[int, int, Pending]] = []
    for pending in line:
        command = pending.command
        assert isinstance(command, Admit | Extend), command
        key = command.dimensions.key_id if isinstance(command, Admit) else command.call_id
        turns.append((seen[key], pending.number, pending))
        seen[key] += 1
    return [pending for _, _, pending in sorted(turns, key=lambda turn: turn[:2])]
