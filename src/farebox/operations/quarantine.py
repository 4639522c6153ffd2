"""Quarantined commands: what the database rejected, and the operator's ruling on it.

The hold of such a command stays. A ruling lets the sweep end the hold as it ends any other whose
node is gone: it lapses and charges what was last reported (ENGINE.md).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import NotFoundError
from farebox.operations.documents import Document, document


class QuarantinedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was put aside."""

    id: int
    at: datetime
    organization_id: UUID
    organization_name: str | None
    command_kind: str
    call_id: UUID | None
    """The call whose hold stays, for a command about one."""
    error: str
    """What the database said."""
    ruled_at: datetime | None
    command: dict[str, Any]
    """As it was to be decided: amounts in nanos."""


class QuarantineStore(Protocol):
    """Where they are kept; a ruling is noted in somebody's name."""

    async def commands(
        self,
        *,
        number: int | None = None,
        every: bool = False,
        after: int | None = None,
        limit: int,
    ) -> list[QuarantinedCommand]:
        """Commands that wait for a ruling, oldest first; with ``every`` those ruled on too."""

    async def rule(self, number: int) -> None:
        """Rule that a command shall not take effect: its hold may lapse.

        Raises:
            NotFoundError: There is none of that number that waits for a ruling.
        """


async def find_command(store: QuarantineStore, number: int) -> QuarantinedCommand:
    """The command of that number, ruled on or not.

    Raises:
        NotFoundError: There is none.
    """
    found = await store.commands(number=number, every=True, limit=1)
    if not found:
        raise NotFoundError(
            f"There is no quarantined command {number}; `farebox quarantine list` shows them."
        )
    return found[0]


def command_document(command: QuarantinedCommand, *, whole: bool = False) -> Document:
    """A command for people.

    Args:
        command: The command.
        whole: With what it was to do.
    """
    shown = {"object": "quarantined_command", **document(command), "id": str(command.id)}
    if not whole:
        del shown["command"]
    return shown
