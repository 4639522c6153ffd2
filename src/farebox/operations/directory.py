"""The port through which the gateway knows who calls, what is on sale, and what time it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from farebox.operations.tenants import OutputCap
from farebox.operations.upstream import Upstream
from farebox.rating.price_book import PriceBook
from farebox.rating.price_plans import PlanVersion


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
    def allowed_models(self) -> Sequence[str] | None:
        """The project's: names and beginnings with ``*``; None allows every model (ORG-17)."""

    @property
    def output_tokens_max(self) -> int | None:
        """The most output tokens that a call of the project may ask for (SAV-12)."""

    @property
    def feature_caps(self) -> Mapping[str, OutputCap]:
        """The same for calls of some of its features."""

    @property
    def content_days(self) -> int | None:
        """For how long the project stores what calls say; None: not at all."""

    @property
    def plan_id(self) -> UUID | None:
        """The organisation's price plan; None passes prices through."""

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


class CatalogueNow(NamedTuple):
    """How new what a node keeps must be."""

    revision: int
    """The catalogue's."""
    at: datetime
    """Engine time."""
    directory_revision: int = 0
    """Of what a node keeps with a key: a project's rules, an organisation's plan."""


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

    @property
    def plans(self) -> Mapping[UUID, Sequence[PlanVersion]]:
        """Every price plan's versions, by the plan's id."""


class Directory(Protocol):
    """Reads what the gateway may keep for a moment."""

    async def find_key(self, digest: bytes) -> Caller | None:
        """The key with that digest.

        Raises:
            UnavailableError: The database is away.
        """

    async def catalogue_now(self) -> CatalogueNow:
        """The revisions and the engine's time.

        Raises:
            UnavailableError: The database is away.
        """

    async def load_catalogue(self) -> tuple[Catalogue, dict[UUID, Upstream]]:
        """The catalogue, and an upstream for each of its providers.

        Raises:
            UnavailableError: The database is away.
        """

    async def remember_planned(self, prices: Sequence[tuple[UUID, UUID, UUID]]) -> None:
        """Note what prices under plans stand for: their ids, the book's, the plan versions'.

        Raises:
            UnavailableError: The database is away.
        """
