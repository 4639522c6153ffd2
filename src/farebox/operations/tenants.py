"""Who there is: organisations, their projects and keys, as people see them; and the port to them.

The money of an organisation is another matter (:mod:`farebox.ledger.organizations`); these facts
change seldom and by hand.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.tenancy.api_keys import KeyState, key_state


class OrganizationProfile(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation: the one that owns balance, keys, usage and credits (ORG-02)."""

    id: UUID
    name: str
    currency: str
    """Three letters (ISO 4217); chosen once, since every amount is in it (CRD-17)."""
    zone: str
    """IANA name; budget months begin by it."""
    active: bool
    billing_mode: str
    """``prepaid``, always so far (DED-19)."""
    floor: Nanos
    on_overrun: OnOverrun
    on_lapse: OnLapse
    created_at: datetime


class NewOrganization(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation as it is made; without any credit (CRD-25)."""

    id: UUID
    name: str
    currency: str
    zone: str
    floor: Nanos
    on_overrun: OnOverrun
    on_lapse: OnLapse


class OrganizationChange(msgspec.Struct, frozen=True, kw_only=True):
    """What may be changed by hand later; None leaves it as it is."""

    name: str | None = None
    zone: str | None = None
    active: bool | None = None
    on_overrun: OnOverrun | None = None
    on_lapse: OnLapse | None = None


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an organisation with keys of its own."""

    id: UUID
    organization_id: UUID
    organization_name: str
    name: str
    environment: str
    default_output_tokens: int | None
    """Output limit for calls that name none; None means the shipped default."""
    created_at: datetime
    archived_at: datetime | None = None
    slices: bool = False
    """Whether its streams hold their output slice by slice (ENGINE.md, "Ceilings")."""


class NewProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project as it is made."""

    id: UUID
    organization_id: UUID
    name: str
    environment: str
    default_output_tokens: int | None
    slices: bool = False
    """Whether its streams hold their output slice by slice."""


class ListedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as lists show it: of exactly one organisation and one project (ORG-03)."""

    id: UUID
    name: str
    organization_id: UUID
    organization_name: str
    project_id: UUID
    project_name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    project_archived_at: datetime | None
    organization_active: bool

    def state_at(self, now: datetime) -> KeyState:
        """Whether it opens anything at that instant."""
        return key_state(
            now,
            revoked_at=self.revoked_at,
            expires_at=self.expires_at,
            project_archived_at=self.project_archived_at,
            organization_active=self.organization_active,
        )


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is made: its digest, never its text."""

    id: UUID
    project_id: UUID
    name: str
    digest: bytes
    prefix: str
    expires_at: datetime | None = None


class NewManagementKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the management API as it is made."""

    id: UUID
    name: str
    digest: bytes
    prefix: str


class TenantStore(Protocol):
    """Where tenants are kept; lists come in the order of ids, which is that of their making."""

    async def now(self) -> datetime:
        """The database's time (``farebox_now()``), in UTC."""

    async def insert_organization(self, new: NewOrganization) -> OrganizationProfile:
        """Add an organisation.

        Raises:
            ConflictError: The name is taken, in whatever case.
        """

    async def change_organization(
        self, organization_id: UUID, change: OrganizationChange
    ) -> OrganizationProfile:
        """Change what is given.

        Raises:
            NotFoundError: There is none.
            ConflictError: The name is taken.
            RefusedError: ``zone_has_limits``: a limit counts months by the old zone.
        """

    async def organizations(
        self,
        *,
        organization_id: UUID | None = None,
        name: str | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[OrganizationProfile]:
        """Organisations, narrowed by what is given; names without regard to case."""

    async def insert_project(self, new: NewProject) -> Project:
        """Add a project.

        Raises:
            NotFoundError: There is no such organisation.
            ConflictError: The organisation has a project of that name.
        """

    async def projects(
        self,
        *,
        project_id: UUID | None = None,
        name: str | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Project]:
        """Projects, narrowed by what is given."""

    async def insert_key(self, new: NewKey) -> None:
        """Add a key.

        Raises:
            NotFoundError: There is no such project.
        """

    async def revoke_key(self, key_id: UUID) -> datetime:
        """Revoke a key; gives when it was revoked first.

        Raises:
            NotFoundError: There is no such key.
        """

    async def keys(
        self,
        *,
        key_id: UUID | None = None,
        name: str | None = None,
        project_id: UUID | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[ListedKey]:
        """Keys, narrowed by what is given."""

    async def insert_management_key(self, new: NewManagementKey) -> None:
        """Add a key of the management API."""
