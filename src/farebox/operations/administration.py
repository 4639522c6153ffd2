"""Making and finding tenants: organisations, projects and keys, by id or by name.

Values are checked here, once, for every door (command line, console, API). A key's text leaves
exactly once, in the answer to its making.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.kit.ids import RANDOM_BYTES, format_id, looks_like_id, parse_id, uuid7
from farebox.kit.money import ZERO, Nanos
from farebox.kit.periods import zone as known_zone
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.operations.tenants import (
    ListedKey,
    NewKey,
    NewManagementKey,
    NewOrganization,
    NewProject,
    OrganizationChange,
    OrganizationProfile,
    Project,
    TenantStore,
)
from farebox.tenancy.api_keys import SECRET_BYTES, KeyKind, digest, make_key, shown_prefix
from farebox.tenancy.names import parse_environment, parse_name

OUTPUT_TOKENS_MAX: Final = 10_000_000
"""No model answers with more; a project's default above it is a slip."""

_NAMED_MAX: Final = 5
"""So many of several candidates are named in an error."""

_Found = TypeVar("_Found")

_CURRENCY: Final = re.compile(r"[A-Z]{3}")


class MadeKey(NamedTuple):
    """A new key, with its text: shown now and never again."""

    id: UUID
    text: str
    prefix: str


class Administration:
    """The use cases over one store."""

    def __init__(
        self, store: TenantStore, *, chance: Callable[[int], bytes], key_kind: KeyKind
    ) -> None:
        """Put it together.

        Args:
            store: Where tenants are kept.
            chance: Gives so many random bytes, good enough for secrets.
            key_kind: What new keys open: ``live`` or, in a sandbox, ``test``.
        """
        self._store = store
        self._chance = chance
        self._key_kind = key_kind

    # Organisations.

    async def create_organization(
        self,
        name: str,
        *,
        currency: str = "USD",
        zone: str = "UTC",
        floor: Nanos = ZERO,
        on_overrun: OnOverrun = OnOverrun.ABSORB,
        on_lapse: OnLapse = OnLapse.METERED,
    ) -> OrganizationProfile:
        """Make an organisation: prepaid (DED-19), and without any credit (CRD-25).

        Raises:
            InvalidInputError: Naming the field.
            ConflictError: The name is taken.
        """
        if floor < 0:
            raise InvalidInputError("floor", "must be zero or more: it is how far below zero")
        new = NewOrganization(
            id=await self._new_id(),
            name=parse_name(name),
            currency=parse_currency(currency),
            zone=known_zone(zone).key,
            floor=floor,
            on_overrun=on_overrun,
            on_lapse=on_lapse,
        )
        return await self._store.insert_organization(new)

    async def change_organization(
        self, organization_id: UUID, change: OrganizationChange
    ) -> OrganizationProfile:
        """Change what is given; currency never, and the floor by its own command.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is none.
            ConflictError: The name is taken.
            RefusedError: ``zone_has_limits``.
        """
        checked = OrganizationChange(
            name=None if change.name is None else parse_name(change.name),
            zone=None if change.zone is None else known_zone(change.zone).key,
            active=change.active,
            on_overrun=change.on_overrun,
            on_lapse=change.on_lapse,
        )
        return await self._store.change_organization(organization_id, checked)

    async def find_organization(self, text: str, *, field: str = "org") -> OrganizationProfile:
        """The organisation with that id or name.

        Raises:
            NotFoundError: There is none.
        """
        by = _by_id_or_name("org", text, field)
        found = await self._store.organizations(organization_id=by.id, name=by.name, limit=2)
        return _only(found, "organisation", text, field)

    async def only_organization(self, *, field: str = "org") -> OrganizationProfile:
        """The one organisation there is, for commands that name none.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: There are several.
        """
        found = await self._store.organizations(limit=2)
        if not found:
            raise NotFoundError(
                "There is no organisation yet; `farebox orgs create NAME` makes one."
            )
        if len(found) > 1:
            raise InvalidInputError(field, "must be given: there are several organisations")
        return found[0]

    # Projects.

    async def create_project(
        self,
        name: str,
        organization_id: UUID,
        *,
        environment: str = "production",
        default_output_tokens: int | None = None,
        slices: bool = False,
    ) -> Project:
        """Make a project.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such organisation.
            ConflictError: The organisation has a project of that name.
        """
        tokens = default_output_tokens
        if tokens is not None and not 0 < tokens <= OUTPUT_TOKENS_MAX:
            raise InvalidInputError(
                "default_output_tokens", f"must be from 1 to {OUTPUT_TOKENS_MAX:,}"
            )
        new = NewProject(
            id=await self._new_id(),
            organization_id=organization_id,
            name=parse_name(name),
            environment=parse_environment(environment),
            default_output_tokens=tokens,
            slices=slices,
        )
        return await self._store.insert_project(new)

    async def find_project(
        self, text: str, *, organization_id: UUID | None = None, field: str = "project"
    ) -> Project:
        """The project with that id or name, of one organisation or of any.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: Several organisations have one of that name.
        """
        by = _by_id_or_name("proj", text, field)
        found = await self._store.projects(
            project_id=by.id, name=by.name, organization_id=organization_id, limit=_NAMED_MAX + 1
        )
        if len(found) > 1:
            which = _candidates(
                [f"{format_id('proj', p.id)} of {p.organization_name}" for p in found]
            )
            raise InvalidInputError(
                field, f"{text!r} is a project of several organisations; give the id: {which}"
            )
        return _only(found, "project", text, field)

    # Keys.

    async def create_key(
        self, name: str, project_id: UUID, *, expires_at: datetime | None = None
    ) -> MadeKey:
        """Make a key; its text is in the answer and nowhere else.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such project.
        """
        checked = parse_name(name)
        now = await self._store.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidInputError("expires_at", f"must lie after now ({now:%Y-%m-%dT%H:%M:%SZ})")
        made = self._make_key(self._key_kind, now)
        new = NewKey(
            id=made.id,
            project_id=project_id,
            name=checked,
            digest=digest(made.text),
            prefix=made.prefix,
            expires_at=expires_at,
        )
        await self._store.insert_key(new)
        return made

    async def create_management_key(self, name: str) -> MadeKey:
        """Make a key of the management API; its text is in the answer and nowhere else.

        Raises:
            InvalidInputError: The name.
        """
        checked = parse_name(name)
        made = self._make_key(KeyKind.ADMIN, await self._store.now())
        new = NewManagementKey(
            id=made.id, name=checked, digest=digest(made.text), prefix=made.prefix
        )
        await self._store.insert_management_key(new)
        return made

    async def find_key(
        self, text: str, *, project_id: UUID | None = None, field: str = "key"
    ) -> ListedKey:
        """The key with that id or name; of several of one name, the one that is not revoked.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: Several keys that are not revoked have that name.
        """
        by = _by_id_or_name("key", text, field)
        found = await self._store.keys(
            key_id=by.id, name=by.name, project_id=project_id, limit=1_000
        )
        standing = [key for key in found if key.revoked_at is None]
        if len(standing) > 1:
            which = _candidates([f"{format_id('key', k.id)} ({k.prefix}...)" for k in standing])
            raise InvalidInputError(field, f"{text!r} names several keys; give the id: {which}")
        return _only(standing or found[-1:], "key", text, field)

    async def revoke_key(self, key_id: UUID) -> datetime:
        """Revoke a key: when this returns, no further call of it is admitted anywhere.

        Raises:
            NotFoundError: There is no such key.
        """
        return await self._store.revoke_key(key_id)

    async def _new_id(self) -> UUID:
        return uuid7(await self._store.now(), self._chance(RANDOM_BYTES))

    def _make_key(self, kind: KeyKind, now: datetime) -> MadeKey:
        text = make_key(kind, self._chance(SECRET_BYTES))
        return MadeKey(uuid7(now, self._chance(RANDOM_BYTES)), text, shown_prefix(text))


def parse_currency(text: str, *, field: str = "currency") -> str:
    """Read a currency code.

    Raises:
        InvalidInputError: It is not three letters.
    """
    code = text.strip().upper()
    if not _CURRENCY.fullmatch(code):
        raise InvalidInputError(field, f"must be three letters such as USD (got {text[:40]!r})")
    return code


class _By(NamedTuple):
    """What to look for: exactly one of the two."""

    id: UUID | None = None
    name: str | None = None


def _by_id_or_name(prefix: str, text: str, field: str) -> _By:
    """An id looks like one; everything else is a name (names may not look like ids)."""
    stripped = text.strip()
    if looks_like_id(prefix, stripped):
        return _By(id=parse_id(prefix, stripped, field=field))
    if re.fullmatch(r"[0-9a-fA-F-]{32,36}", stripped):
        return _By(id=parse_id(prefix, stripped, field=field))
    return _By(name=parse_name(stripped, field=field))


def _only(found: Sequence[_Found], kind: str, text: str, field: str) -> _Found:
    if len(found) > 1:
        raise ConflictError(f"{field}: {text!r} names several of kind {kind}; give the id.")
    if not found:
        listed = {"organisation": "orgs", "project": "projects", "key": "keys"}[kind]
        raise NotFoundError(
            f"There is no {kind} {text[:80]!r}; `farebox {listed} list` shows them."
        )
    return found[0]


def _candidates(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_MAX])
    return f"{shown}, ..." if len(names) > _NAMED_MAX else shown
