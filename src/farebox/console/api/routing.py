"""The table's row: one thing that can be asked, with all that is to be known of it.

Everything is read off this table: what is served, who may, and the OpenAPI document. So nothing is
served that is not described, and nothing without a permission.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from msgspec import Struct

from farebox.console.api.fields import Nothing
from farebox.console.reception import Reception
from farebox.operations.api_ports import ApiSession
from farebox.operations.tenants import OrganizationProfile
from farebox.tenancy.actors import Actor
from farebox.tenancy.permissions import Action, Standing

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """What a handler is given."""

    session: ApiSession
    standing: Standing
    acting: Callable[[Actor], ApiSession]
    """The same in somebody else's name: for strangers who have proven who they are."""
    reception: Reception
    ids: Mapping[str, UUID]
    """Path parameters that are ids."""
    texts: Mapping[str, str]
    """The other ones."""
    effect_id: UUID
    """The id of whatever a write makes: the same for the same Idempotency-Key."""
    profile: OrganizationProfile | None = None
    """Of the path's organisation."""
    model_key_of: UUID | None = None
    """Asked with a key for models, of this organisation."""
    prepared: Any = None
    """What the route's preparation found."""
    address: str = ""
    """The network address that the request came from."""
    query: Struct = field(default_factory=Nothing)
    body: Any = None

    @property
    def organization(self) -> OrganizationProfile:
        """The path's organisation; whoever asks may."""
        assert self.profile is not None
        return self.profile

    def query_as(self, kind: type[T]) -> T:
        """The query parameters."""
        assert isinstance(self.query, kind)
        return self.query

    def body_as(self, kind: type[T]) -> T:
        """The body."""
        assert isinstance(self.body, kind)
        return self.body


Handler = Callable[[Context], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path."""

    method: str
    path: str
    """Below ``/api/v1``; a parameter that ends in ``_id`` is an id."""
    name: str
    """The operation's id in the OpenAPI document."""
    summary: str
    tag: str
    handler: Handler
    answer: Any = None
    """The type of the answer's document; None: there is none."""
    action: Action | None = None
    """What whoever asks must be allowed, in the path's organisation if it has one; None: the
    handler shows everybody their own."""
    query: type[Struct] = Nothing
    body: type[Struct] | None = None
    status: int = 200
    refusals: tuple[int, ...] = ()
    """Statuses of its own, besides those that its shape brings along."""
    atomic: bool = True
    """Whether a write and the memory of its answer commit together; what the engine decides, and
    what reads a snapshot, commits by itself."""
    secret: bool = False
    """Whether the answer holds a secret: it is remembered encrypted."""
    model_keys: bool = False
    """Whether keys for models may ask too."""
    open: bool = False
    """Whether whoever shows nothing may ask: the preparation finds out who they are."""
    prepare: Handler | None = None
    """Comes before an atomic write's transaction: what takes long, and what the engine decides."""
    prepare_stays: bool = False
    """Whether the preparation changes anything: a request that fails then keeps its effect id, and
    its repetition waits until it is surely gone."""

    @property
    def is_write(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"

    @property
    def of_organization(self) -> bool:
        """Whether the path names the organisation that it is about."""
        return "{organization_id}" in self.path
