"""A command on its way to the database, and who wants its answer."""

from __future__ import annotations

import asyncio
from typing import Final

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    ExpireGrants,
    Extend,
    Lapse,
    Refused,
    Report,
    Result,
)

ADMIT_DOUBT_SECONDS: Final = 5.0
"""How long an admission is tried while the database is away, before its client gets a 503."""

SETTLE_DOUBT_SECONDS: Final = 7_200.0
"""How long a settle is tried: the longest life of an ordinary hold (ENGINE.md, "Idempotency")."""


class Pending:
    """One command between its submission and its answer."""

    __slots__ = (
        "command",
        "deadline",
        "future",
        "in_doubt",
        "number",
        "patience_until",
        "refused",
        "withdrawn",
    )

    def __init__(
        self,
        command: AnyCommand,
        future: asyncio.Future[Result],
        *,
        now: float,
        patience_seconds: float = 0.0,
    ) -> None:
        """Note when it was submitted.

        Args:
            command: Range-checked.
            future: Who waits for the answer.
            now: Seconds of a monotonic clock.
            patience_seconds: How long it may wait for money that open calls hold.
        """
        self.command = command
        self.future = future
        self.number = 0
        """Its place in the order of arrival."""
        self.deadline = now + _doubt_seconds(command)
        self.patience_until = now + patience_seconds
        self.refused: Refused | None = None
        """Why it waits for money."""
        self.in_doubt = False
        """It was sent and no answer came: it may have been committed."""
        self.withdrawn = False
        """Its caller is gone, or has been told that there is no answer."""

    def is_over(self, now: float) -> bool:
        """Tell whether it need not be sent any more.

        An admission in doubt is asked about long after its caller was told, because its hold may
        stand; past that, the sweep ends it.
        """
        if isinstance(self.command, Admit):
            unsent = self.withdrawn and not self.in_doubt
            return unsent or now >= self.deadline + SETTLE_DOUBT_SECONDS
        return now >= self.deadline

    def wait(self, refused: Refused) -> None:
        """Note that the database answered that it must wait for money."""
        self.refused = refused
        self.in_doubt = False

    def go_on(self, now: float) -> None:
        """It has waited, and is to be decided anew: the database has its time once more."""
        self.deadline = now + _doubt_seconds(self.command)

    def answer(self, result: Result) -> None:
        """Give the answer, if anybody still waits for it."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Say that there is no answer, if anybody still waits for it."""
        if not self.future.done():
            self.future.set_exception(error)

    def fail_late(self, now: float) -> None:
        """Say so where its time is up."""
        if self.deadline <= now and not self.future.done():
            self.withdrawn = True
            self.fail(
                UnavailableError("The database did not answer in time; it may have taken effect.")
            )


def _doubt_seconds(command: AnyCommand) -> float:
    # A later report says more than an earlier one, so nobody needs that one for long either.
    # What the sweep sends, it sends again at its next turn.
    brief = isinstance(command, Admit | Extend | Report | Lapse | ExpireGrants)
    return ADMIT_DOUBT_SECONDS if brief else SETTLE_DOUBT_SECONDS
