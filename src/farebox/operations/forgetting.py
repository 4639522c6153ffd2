"""The worker's part in forgetting scopes: it finds those that may go, the engine decides.

A default for each user or run makes a row for every one that is ever seen. Rows are looked at page
by page; those that seem over are named to the engine, which deletes what nothing can reach under
the organisation's lock (:mod:`farebox.ledger.forgetting`).
"""

from __future__ import annotations

from itertools import groupby
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from farebox.ledger.commands import Done, Forget
from farebox.operations.audited_money import Submit

PAGE: Final = 1_000
"""Rows that one look reads, and the most that one command forgets."""


class Place(NamedTuple):
    """A scope's row."""

    organization_id: UUID
    number: int


class ScopesPage(NamedTuple):
    """What one look has found."""

    over: list[Place]
    """Those that may be forgotten, by organisation."""
    last: Place | None
    """Where the next page begins; None after the last one."""


class ScopeStore(Protocol):
    """What is asked of the database."""

    async def scopes_over(self, after: Place | None, limit: int) -> ScopesPage:
        """Of the next rows in the order of their keys, those whose windows seem over."""


class Forgetting:
    """Its step: safe to take twice, and in two workers at once."""

    def __init__(self, store: ScopeStore, submit: Submit) -> None:
        """Put it together.

        Args:
            store: Finds the rows.
            submit: Has the engine decide and commit a command.
        """
        self._store = store
        self._submit = submit

    async def step(self) -> int:
        """Go through every row once; gives how many were forgotten.

        Raises:
            UnavailableError: The database is away.
        """
        forgotten, after = 0, None
        while True:
            page = await self._store.scopes_over(after, PAGE)
            for organization_id, places in groupby(page.over, key=lambda p: p.organization_id):
                numbers = tuple(place.number for place in places)
                command = Forget(organization_id=organization_id, numbers=numbers)
                result = await self._submit(command)
                forgotten += result.amount if isinstance(result, Done) else 0
            if page.last is None:
                return forgotten
            after = page.last
