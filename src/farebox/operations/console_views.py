"""What the console shows and whom it lets in; and the port to both.

The page of an organisation is of one instant: its balance, its open holds and its last calls are
read in one snapshot, so what is held is the sum of the holds beside it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos
from farebox.operations.balance import Balance
from farebox.operations.call_facts import CallSummary


class SignInFacts(msgspec.Struct, frozen=True):
    """What is needed to check a password."""

    person_id: UUID
    password_hash: str


class Session(msgspec.Struct, frozen=True):
    """A person who is signed in."""

    person_id: UUID
    email: str
    expires_at: datetime
    """By the real clock; a sandbox's clock may be a year ahead."""


class OrganizationName(msgspec.Struct, frozen=True):
    """An organisation as a list names it."""

    id: UUID
    name: str


class OpenHold(msgspec.Struct, frozen=True, kw_only=True):
    """A call that is running, and what it holds at most."""

    call_id: UUID
    amount: Nanos
    model: str
    endpoint: str
    project_name: str
    key_name: str
    streamed: bool
    admitted_at: datetime
    latest_end: datetime
    """The sweep lapses it after this."""


class OrganizationView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on an organisation's page, at one instant (``balance.at``)."""

    id: UUID
    name: str
    active: bool
    balance: Balance
    holds: tuple[OpenHold, ...]
    """The longest running first; at most as many as were asked for."""
    holds_count: int
    """How many there are in all."""
    calls: tuple[CallSummary, ...]
    """Closed and refused, the newest first."""
    clock_offset: timedelta
    """How far the sandbox's clock was moved; zero in a real installation."""


class Bearer(msgspec.Struct, frozen=True):
    """Whoever holds a key that opens something."""

    organization_id: UUID | None
    """The only organisation it may see; None for a management key, which sees all."""


class ConsoleStore(Protocol):
    """Reads the pages and keeps the sessions.

    Every method raises UnavailableError while the database is away.
    """

    async def ping(self) -> None:
        """Ask the database for a sign of life."""

    async def find_sign_in(self, email: str) -> SignInFacts | None:
        """The person with that address, in whatever case."""

    async def open_session(self, digest: bytes, person_id: UUID, *, lasts: timedelta) -> None:
        """Begin a session; forgets ended ones, and the oldest of a person who has too many."""

    async def find_session(self, digest: bytes) -> Session | None:
        """The session with that digest, if it has not ended."""

    async def end_session(self, digest: bytes) -> None:
        """End a session, if there is one."""

    async def organizations(self, person_id: UUID, *, limit: int) -> list[OrganizationName]:
        """The first ones that a person may see, in the order of their making.

        An operator sees all, a member their own (ORG-01, DESIGN.md decision 18).
        """

    async def find_organization(self, person_id: UUID, text: str) -> OrganizationName | None:
        """The one with that id or name, if the person may see it."""

    async def view_organization(
        self, person_id: UUID, organization_id: UUID, *, holds: int, calls: int
    ) -> OrganizationView:
        """An organisation's page, with at most so many holds and calls.

        Whoever may not see single calls there (``calls.view``) gets none of either.

        Raises:
            NotFoundError: There is no such organisation, or none that the person may see.
        """
