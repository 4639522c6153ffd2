"""The port on which the bookkeeper stands: something that decides and commits batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from farebox.kit.errors import FareboxError, UnavailableError
from farebox.ledger.commands import AnyCommand, Result


class BatchUnsettledError(UnavailableError):
    """Nothing was committed; the same batch may be sent again at once."""

    code: ClassVar[str] = "batch_unsettled"


class BatchStoreLostError(UnavailableError):
    """The database went away; the batch may have been committed and must be sent again."""

    code: ClassVar[str] = "batch_store_lost"


class BatchRejectedError(FareboxError):
    """The database rejected a value, or the engine cannot decide it; nothing was committed."""

    code: ClassVar[str] = "batch_rejected"


class BatchStore(Protocol):
    """One lane to the database; runs one batch at a time."""

    async def run(self, commands: Sequence[AnyCommand], *, resent: bool) -> list[Result]:
        """Decide and commit a batch; one result per command, in order.

        Raises:
            BatchUnsettledError: See there.
            BatchStoreLostError: See there.
            BatchRejectedError: See there.
        """

    async def quarantine(self, command: AnyCommand, error: str) -> None:
        """Put a command aside that the database rejects by itself, and leave word."""

    async def aclose(self) -> None:
        """Let the lane go."""
