"""What a gateway notes of our own accounts at providers: one that is used up is told to operators.

A provider that refuses for want of our money is no tenant's trouble (ERR-08), so its alert belongs
to no organisation. Noting costs a dictionary's look-up beside the money path and never waits.
However many calls fail, an account costs at most one statement a minute; the database keeps one
alert of an account and hour, whichever gateway comes first. What a gateway had not written before
it died is written by the next call that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

import msgspec

ACCOUNT_USED_UP: Final = "upstream_quota_exhausted"
"""Our own account at a provider is empty; the alert has the name of what clients are answered."""

AGAIN_SECONDS: Final = 60.0
"""How soon an account that was written is written again: a new hour is told of within a minute."""

ACCOUNTS_MAX: Final = 1_000
"""Accounts that are remembered; what comes beyond them is noted when others are forgotten."""


class NotedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """An account that a provider refused for want of our money."""

    account_id: UUID
    provider: str
    """As the operator called it."""
    status: int
    """What it answered with."""
    call_id: UUID
    """The first call that it refused since the last note."""


class ProviderWatchStore(Protocol):
    """Where operators' alerts are kept."""

    async def tell(self, found: Sequence[NotedAccount]) -> int:
        """Tell of accounts, each once an hour; gives how many alerts are new."""


class ProviderWatch:
    """What was refused since the last flush."""

    def __init__(self, store: ProviderWatchStore, *, monotonic: Callable[[], float]) -> None:
        """Begin empty.

        Args:
            store: Where it is written.
            monotonic: Seconds of a clock that never goes back.
        """
        self._store = store
        self._monotonic = monotonic
        self._noted: dict[UUID, NotedAccount] = {}
        self._written_at: dict[UUID, float] = {}

    def note(self, account_id: UUID, *, provider: str, status: int, call_id: UUID) -> None:
        """A provider refused a call for want of our money.

        Args:
            account_id: Our account there.
            provider: Our name for it.
            status: What it answered with.
            call_id: The call.
        """
        noted = self._noted
        if account_id not in noted and len(noted) < ACCOUNTS_MAX:
            noted[account_id] = NotedAccount(
                account_id=account_id, provider=provider, status=status, call_id=call_id
            )

    async def flush(self) -> int:
        """Write what is due; gives how many alerts are new.

        Raises:
            UnavailableError: The database is away; the next flush writes it.
        """
        now = self._monotonic()
        recent = {key for key, at in self._written_at.items() if now - at < AGAIN_SECONDS}
        due = [each for key, each in self._noted.items() if key not in recent]
        if not due:
            return 0
        told = await self._store.tell(sorted(due, key=lambda each: each.account_id))
        self._written_at = {key: self._written_at[key] for key in recent}
        for each in due:
            self._written_at[each.account_id] = now
            # Another call may have been refused meanwhile; it counts to what was told just now.
            del self._noted[each.account_id]
        return told
