"""The port through which the gateway knows who calls, what is on sale, and what time it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from farebox.operations.upstream import Upstream
from farebox.rating.price_book import PriceBook


class Caller(Protocol):
    """A key, with what a call needs to know of it; ``admit`` decides its state again, exactly."""

    @property
    def id(self) -> UUID:
        """The key."""

    @property
    def organization_id(self) -> UUID:
        """Whose money pays."""

    @property
    def project_id(self) -> UUID:
        """The key's one project (ORG-03)."""

    @property
    def environment(self) -> str:
        """The project's; a call may name another."""

    @property
    def default_output_tokens(self) -> int | None:
        """The project's output limit for calls that name none."""

    @property
    def slices(self) -> bool:
        """Whether the project's streams hold their output slice by slice."""

    @property
    def currency(self) -> str:
        """The organisation's."""

    def state_at(self, now: datetime) -> str:
        """Whether the key opens anything at that instant, ``active`` if so."""


class ProviderOnSale(Protocol):
    """A provider that calls can be sent to."""

    @property
    def id(self) -> UUID:
        """The provider."""

    @property
    def name(self) -> str:
        """As the operator called it; ``name/model`` chooses it."""

    @property
    def price_list(self) -> str:
        """The provider name under which its price versions are looked up."""

    @property
    def account_id(self) -> UUID:
        """Our own account there."""


class Catalogue(Protocol):
    """Everything on sale at one revision."""

    @property
    def revision(self) -> int:
        """Grows with every change."""

    @property
    def prices(self) -> PriceBook:
        """The price book."""

    @property
    def providers(self) -> Sequence[ProviderOnSale]:
        """In order of preference."""


class Directory(Protocol):
    """Reads what the gateway may keep for a moment."""

    async def find_key(self, digest: bytes) -> Caller | None:
        """The key with that digest.

        Raises:
            UnavailableError: The database is away.
        """

    async def catalogue_now(self) -> tuple[int, datetime]:
        """The catalogue's revision and the engine's time.

        Raises:
            UnavailableError: The database is away.
        """

    async def load_catalogue(self) -> tuple[Catalogue, dict[UUID, Upstream]]:
        """The catalogue, and an upstream for each of its providers.

        Raises:
            UnavailableError: The database is away.
        """
