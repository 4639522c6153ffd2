"""Who there is: organisations, their projects and keys, as people see them; and the port to them.

The money of an organisation is another matter (:mod:`farebox.ledger.organizations`); these facts
change seldom and by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from farebox.kit.money import Nanos
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.tenancy.api_keys import KeyState, key_state
from farebox.tenancy.permissions import Role


class NewOrganization(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation as it is made; without any credit (CRD-25)."""

    id: UUID
    name: str
    currency: str
    """Three letters (ISO 4217); chosen once, since every amount is in it (CRD-17)."""
    zone: str
    """IANA name; budget months begin by it."""
    floor: Nanos
    on_overrun: OnOverrun
    on_lapse: OnLapse
    plan_id: UUID | None = None
    """How its calls are rated; None passes prices through."""


class OrganizationProfile(NewOrganization, frozen=True, kw_only=True):
    """An organisation as it is: the one that owns balance, keys, usage and credits (ORG-02)."""

    plan_name: str | None = None
    active: bool
    billing_mode: str
    """``prepaid``, always so far (DED-19)."""
    created_at: datetime


class OrganizationChange(msgspec.Struct, frozen=True, kw_only=True):
    """What may be changed by hand later; None leaves it as it is."""

    name: str | None = None
    active: bool | None = None
    on_overrun: OnOverrun | None = None
    on_lapse: OnLapse | None = None


class OutputCap(msgspec.Struct, frozen=True, kw_only=True):
    """How long the answers of one feature's calls may be (SAV-12)."""

    default_output_tokens: int | None = None
    """For calls that name no limit; None: the project's."""
    output_tokens_max: int | None = None
    """The most that a call may ask for; where the project has one too, the lower holds."""

    def within(self, default: int | None, most: int | None) -> OutputCap:
        """What holds for the feature's calls in a project that has these itself.

        The feature's default comes before the project's, and none is above the maximum.
        """
        if most is None or (self.output_tokens_max is not None and self.output_tokens_max < most):
            most = self.output_tokens_max
        default = self.default_output_tokens or default
        if default is not None and most is not None and most < default:
            default = most
        return OutputCap(default_output_tokens=default, output_tokens_max=most)


UNCAPPED: Final = OutputCap()
"""Of a feature that has no cap of its own."""


class NewProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project as it is made: a part of an organisation with keys of its own."""

    id: UUID
    organization_id: UUID
    name: str
    environment: str
    default_output_tokens: int | None
    """Output limit for calls that name none; None means the shipped default."""
    slices: bool = False
    """Whether its streams hold their output slice by slice (ENGINE.md, "Ceilings")."""
    purpose: str = ""
    owner: str = ""
    """Who to ask (ORG-10); without one the project is a lint finding."""
    allowed_models: tuple[str, ...] | None = None
    """Names and beginnings with ``*`` (ORG-17); None allows every model."""
    output_tokens_max: int | None = None
    """The most output tokens that a call may ask for (SAV-12); None: what the model gives."""
    feature_caps: dict[str, OutputCap] = {}
    """By feature, as calls name it: narrower than the project's own."""
    stores_content: bool = False
    content_retention_days: int | None = None
    """How long what is stored is kept."""


class Project(NewProject, frozen=True, kw_only=True):
    """A project as it is."""

    organization_name: str
    created_at: datetime
    archived_at: datetime | None = None


class ProjectChange(msgspec.Struct, frozen=True, kw_only=True):
    """What may be changed later; what is not set stays, None takes a bound away."""

    name: str | UnsetType = UNSET
    environment: str | UnsetType = UNSET
    purpose: str | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    slices: bool | UnsetType = UNSET
    default_output_tokens: int | UnsetType | None = UNSET
    output_tokens_max: int | UnsetType | None = UNSET
    feature_caps: dict[str, OutputCap] | UnsetType = UNSET
    """All of them: what is left out of it has none any more."""
    allowed_models: tuple[str, ...] | UnsetType | None = UNSET
    stores_content: bool | UnsetType = UNSET
    content_retention_days: int | UnsetType | None = UNSET


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A program that owns keys, so that they outlive whoever made them (ORG-18)."""

    id: UUID
    organization_id: UUID
    project_id: UUID
    project_name: str
    name: str
    purpose: str
    created_at: datetime
    disabled_at: datetime | None


class NewServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A service account as it is made."""

    id: UUID
    project_id: UUID
    name: str
    purpose: str


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
    service_account_id: UUID | None = None
    service_account_name: str | None = None
    user_id: UUID | None = None
    user_email: str | None = None
    last_used_at: datetime | None = None
    """To the minute (ORG-15); None: never."""
    last_project_id: UUID | None = None
    replaces_id: UUID | None = None
    """The key that this one was rotated from (ORG-16)."""
    replaced_by_id: UUID | None = None

    def state_at(self, now: datetime) -> KeyState:
        """Whether it opens anything at that instant."""
        return key_state(
            now,
            revoked_at=self.revoked_at,
            expires_at=self.expires_at,
            project_archived_at=self.project_archived_at,
            organization_active=self.organization_active,
        )


class KeyDetails(ListedKey, frozen=True, kw_only=True):
    """A key with what its project allows it."""

    environment: str
    """The project's; a call may name another."""
    default_output_tokens: int | None
    allowed_models: tuple[str, ...] | None
    output_tokens_max: int | None
    feature_caps: dict[str, OutputCap] = {}
    """The same for calls of some of its features."""


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is made: its digest, never its text."""

    id: UUID
    project_id: UUID
    name: str
    digest: bytes
    prefix: str
    expires_at: datetime | None = None
    service_account_id: UUID | None = None
    user_id: UUID | None = None


class ManagementKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the management API; it never calls a model."""

    id: UUID
    name: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None = None
    organization_id: UUID | None = None
    """The one organisation it manages; None: the whole deployment."""
    role: Role | None = None
    """What it is there; None for the whole deployment."""
    user_id: UUID | None = None
    """Who made it, or made the key that made it: it opens no more than they may."""
    user_email: str | None = None

    def state_at(self, now: datetime) -> KeyState:
        """Whether it opens anything at that instant."""
        return key_state(
            now,
            revoked_at=self.revoked_at,
            expires_at=self.expires_at,
            project_archived_at=None,
            organization_active=True,
        )


class NewManagementKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the management API as it is made."""

    id: UUID
    name: str
    digest: bytes
    prefix: str
    organization_id: UUID | None = None
    role: Role | None = None
    expires_at: datetime | None = None


class TenantStore(Protocol):
    """Where tenants are kept; lists come in the order of ids, which is that of their making.

    A store writes in somebody's name: every change is in the audit log when it is there at all.
    """

    def together(self) -> AbstractAsyncContextManager[None]:
        """All changes inside commit together, or none does."""

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
        """

    async def organizations(
        self,
        *,
        organization_id: UUID | None = None,
        name: str | None = None,
        among: Iterable[UUID] | None = None,
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

    async def change_project(self, project_id: UUID, change: ProjectChange) -> Project:
        """Change what is set.

        Raises:
            NotFoundError: There is no such project.
            ConflictError: The organisation has a project of that name.
        """

    async def archive_project(self, project_id: UUID) -> Project:
        """Close a project and its keys, for good; it keeps the instant of the first time.

        Raises:
            NotFoundError: There is no such project.
        """

    async def projects(
        self,
        *,
        project_id: UUID | None = None,
        name: str | None = None,
        organization_id: UUID | None = None,
        without_owner: bool = False,
        after: UUID | None = None,
        limit: int,
    ) -> list[Project]:
        """Projects, narrowed by what is given; archived ones are not asked for their owner."""

    async def insert_key(self, new: NewKey) -> None:
        """Add a key.

        Raises:
            NotFoundError: There is no such project, service account or member.
        """

    async def rotate_key(self, new: NewKey, *, replaces: UUID, old_ends_at: datetime) -> None:
        """Add a key in the place of another, which ends at an instant, or earlier if it did.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: It was replaced already, or opens nothing any more.
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

    async def insert_service_account(self, new: NewServiceAccount) -> ServiceAccount:
        """Add a service account.

        Raises:
            NotFoundError: There is no such project.
            ConflictError: The project has one of that name.
        """

    async def disable_service_account(self, account_id: UUID) -> ServiceAccount:
        """End a service account and revoke its keys.

        Raises:
            NotFoundError: There is none.
        """

    async def service_accounts(
        self,
        *,
        account_id: UUID | None = None,
        name: str | None = None,
        project_id: UUID | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[ServiceAccount]:
        """Service accounts, disabled ones too, narrowed by what is given."""

    async def insert_management_key(self, new: NewManagementKey) -> None:
        """Add a key of the management API; it has whoever makes it as its maker.

        One that is made with another key ends no later than that one.

        Raises:
            InvalidInputError: ``expires_at`` lies after the end of the key that makes it.
            NotFoundError: There is no such organisation.
            RefusedError: ``permission_denied``: its maker may less than it would.
        """

    async def revoke_management_key(self, key_id: UUID) -> datetime:
        """Revoke one; gives when it was revoked first.

        Raises:
            NotFoundError: There is no such key.
        """

    async def management_keys(
        self,
        *,
        key_id: UUID | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[ManagementKey]:
        """Management keys, narrowed by what is given."""
