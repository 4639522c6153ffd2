"""Making, finding, rotating and ending keys, and the service accounts that own them.

A key's text leaves exactly once, in the answer to its making.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.kit.ids import RANDOM_BYTES, format_id, uuid7
from farebox.operations.documents import instant
from farebox.operations.finding import by_id_or_name, candidates, only
from farebox.operations.tenants import (
    ListedKey,
    ManagementKey,
    NewKey,
    NewManagementKey,
    NewServiceAccount,
    ServiceAccount,
    TenantStore,
)
from farebox.tenancy.api_keys import SECRET_BYTES, KeyKind, digest, make_key, shown_prefix
from farebox.tenancy.names import parse_name, parse_sentence
from farebox.tenancy.permissions import Role

OVERLAP: Final = timedelta(days=1)
"""How long a rotated key still works, unless somebody says otherwise."""

OVERLAP_MAX: Final = timedelta(days=90)
"""A longer overlap is two keys."""

_Key = TypeVar("_Key", ListedKey, ManagementKey)


class MadeKey(NamedTuple):
    """A new key, with its text: shown now and never again."""

    id: UUID
    text: str
    prefix: str


class KeyAdministration:
    """The use cases of keys over one store."""

    def __init__(
        self, store: TenantStore, *, chance: Callable[[int], bytes], key_kind: KeyKind
    ) -> None:
        """Put it together.

        Args:
            store: Where tenants are kept; it knows in whose name it writes.
            chance: Gives so many random bytes, good enough for secrets.
            key_kind: What new keys open: ``live`` or, in a sandbox, ``test``.
        """
        self._store = store
        self._chance = chance
        self._key_kind = key_kind

    async def create_key(
        self,
        name: str,
        project_id: UUID,
        *,
        expires_at: datetime | None = None,
        service_account_id: UUID | None = None,
        user_id: UUID | None = None,
    ) -> MadeKey:
        """Make a key; its text is in the answer and nowhere else.

        Args:
            name: What people call it.
            project_id: Its one project (ORG-03).
            expires_at: Its end.
            service_account_id: The service account of that project that owns it (ORG-18)...
            user_id: ...or the member.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such project, service account or member.
        """
        if service_account_id is not None and user_id is not None:
            raise InvalidInputError("user_id", "must be left out: a service account owns the key")
        checked = parse_name(name)
        now = await self._store.now()
        _check_end(expires_at, now)
        made = self._make_key(self._key_kind, now)
        new = NewKey(
            id=made.id,
            project_id=project_id,
            name=checked,
            digest=digest(made.text),
            prefix=made.prefix,
            expires_at=expires_at,
            service_account_id=service_account_id,
            user_id=user_id,
        )
        await self._store.insert_key(new)
        return made

    async def rotate_key(
        self,
        key_id: UUID,
        *,
        overlap: timedelta = OVERLAP,
        new_id: UUID | None = None,
        prepare: Callable[[UUID], Awaitable[None]] | None = None,
    ) -> MadeKey:
        """Make a key in the place of another; both work while they overlap (ORG-16).

        Args:
            key_id: The old one, which ends after the overlap, or earlier if it did anyway.
            overlap: Zero ends it at once.
            new_id: The new key's id, for requests that may be repeated and were prepared.
            prepare: Is given the new key's id before the key opens anything: sets its limits
                (:mod:`farebox.operations.key_rotation`).

        Raises:
            InvalidInputError: The overlap.
            NotFoundError: There is no such key.
            ConflictError: It was rotated already, or opens nothing any more.
        """
        if not timedelta(0) <= overlap <= OVERLAP_MAX:
            raise InvalidInputError("overlap", f"must be from 0 to {OVERLAP_MAX.days} days")
        found = await self._store.keys(key_id=key_id, limit=1)
        if not found:
            raise NotFoundError("There is no such key.")
        now = await self._store.now()
        # The store decides again under the lock; nothing is prepared for what cannot be.
        if found[0].replaced_by_id is not None:
            raise rotated_already()
        if found[0].revoked_at is not None or _has_ended(found[0], now):
            raise key_has_ended()
        made = self._make_key(self._key_kind, now, new_id)
        if prepare is not None:
            await prepare(made.id)
        new = NewKey(
            id=made.id,
            project_id=found[0].project_id,
            name=found[0].name,
            digest=digest(made.text),
            prefix=made.prefix,
            service_account_id=found[0].service_account_id,
            user_id=found[0].user_id,
        )
        await self._store.rotate_key(new, replaces=key_id, old_ends_at=now + overlap)
        return made

    async def create_management_key(
        self,
        name: str,
        *,
        organization_id: UUID | None = None,
        role: Role | None = None,
        expires_at: datetime | None = None,
    ) -> MadeKey:
        """Make a key of the management API; its text is in the answer and nowhere else.

        Args:
            name: What people call it.
            organization_id: The one organisation that it manages; None for the whole deployment.
            role: What it is there; an owner where none is named.
            expires_at: Its end; made with a key that ends, it ends no later (:func:`end_within`).

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such organisation.
        """
        if organization_id is None and role is not None:
            raise InvalidInputError("role", "needs an organisation; without one it is an operator")
        checked = parse_name(name)
        now = await self._store.now()
        _check_end(expires_at, now)
        made = self._make_key(KeyKind.ADMIN, now)
        new = NewManagementKey(
            id=made.id,
            name=checked,
            digest=digest(made.text),
            prefix=made.prefix,
            organization_id=organization_id,
            role=None if organization_id is None else role or Role.OWNER,
            expires_at=expires_at,
        )
        await self._store.insert_management_key(new)
        return made

    async def find_management_key(
        self, text: str, *, organization_id: UUID | None = None, field: str = "key"
    ) -> ManagementKey:
        """The management key with that id or name; of several of one name, the one that stands.

        Args:
            text: Its id or name.
            organization_id: What it manages; None: whatever it manages.
            field: What an error names.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: Several that are not revoked have that name.
        """
        by = by_id_or_name("key", text, field)
        every = await self._store.management_keys(
            key_id=by.id, organization_id=organization_id, limit=10_000
        )
        found = [key for key in every if by.name is None or key.name.lower() == by.name.lower()]
        standing = [key for key in found if key.revoked_at is None]
        return _the_one(standing or found[-1:], "management key", text, field)

    async def revoke_management_key(self, key_id: UUID) -> datetime:
        """Revoke a key of the management API.

        Raises:
            NotFoundError: There is no such key.
        """
        return await self._store.revoke_management_key(key_id)

    async def find_key(
        self,
        text: str,
        *,
        organization_id: UUID | None = None,
        project_id: UUID | None = None,
        field: str = "key",
    ) -> ListedKey:
        """The key with that id or name; of several of one name, the one that stands.

        That is one that was neither revoked nor rotated.

        Args:
            text: Its id or name.
            organization_id: Whose key it is; None: anybody's.
            project_id: Of which project; None: of any.
            field: What an error names.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: Several keys that are not revoked have that name.
        """
        by = by_id_or_name("key", text, field)
        found = await self._store.keys(
            key_id=by.id,
            name=by.name,
            organization_id=organization_id,
            project_id=project_id,
            limit=1_000,
        )
        standing = [key for key in found if key.revoked_at is None and key.replaced_by_id is None]
        return _the_one(standing or found[-1:], "key", text, field)

    async def revoke_key(self, key_id: UUID) -> datetime:
        """Revoke a key: when this returns, no further call of it is admitted anywhere.

        Raises:
            NotFoundError: There is no such key.
        """
        return await self._store.revoke_key(key_id)

    # Service accounts.

    async def create_service_account(
        self, name: str, project_id: UUID, *, purpose: str = ""
    ) -> ServiceAccount:
        """Make a service account, the owner of keys for production jobs (ORG-18).

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such project.
            ConflictError: The project has one of that name.
        """
        new = NewServiceAccount(
            id=await self._new_id(),
            project_id=project_id,
            name=parse_name(name),
            purpose=parse_sentence(purpose, field="purpose"),
        )
        return await self._store.insert_service_account(new)

    async def find_service_account(
        self,
        text: str,
        *,
        organization_id: UUID | None = None,
        project_id: UUID | None = None,
        field: str = "service_account",
    ) -> ServiceAccount:
        """The service account with that id or name; of one name, the one that is not disabled.

        Args:
            text: Its id or name.
            organization_id: Whose it is; None: anybody's.
            project_id: Of which project; None: of any.
            field: What an error names.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: Several that are not disabled have that name.
        """
        by = by_id_or_name("svc", text, field)
        found = await self._store.service_accounts(
            account_id=by.id,
            name=by.name,
            organization_id=organization_id,
            project_id=project_id,
            limit=1_000,
        )
        standing = [account for account in found if account.disabled_at is None]
        if len(standing) > 1:
            which = candidates([f"{format_id('svc', a.id)} of {a.project_name}" for a in standing])
            raise InvalidInputError(field, f"{text!r} names several; give the id: {which}")
        return only(standing or found[-1:], "service account", text, field)

    async def disable_service_account(self, account_id: UUID) -> ServiceAccount:
        """End a service account: its keys are revoked with it.

        Raises:
            NotFoundError: There is none.
        """
        return await self._store.disable_service_account(account_id)

    async def _new_id(self) -> UUID:
        return uuid7(await self._store.now(), self._chance(RANDOM_BYTES))

    def _make_key(self, kind: KeyKind, now: datetime, key_id: UUID | None = None) -> MadeKey:
        text = make_key(kind, self._chance(SECRET_BYTES))
        key_id = key_id or uuid7(now, self._chance(RANDOM_BYTES))
        return MadeKey(key_id, text, shown_prefix(text))


def end_within(expires_at: datetime | None, makers_end: datetime | None) -> datetime | None:
    """When a management key ends that was made with another one: no later than that one (ADR 22).

    Args:
        expires_at: What is asked for; None: as late as may be.
        makers_end: When the key ends that makes it; None: it bounds nothing.

    Raises:
        InvalidInputError: ``expires_at`` lies later, with the latest there may be.
    """
    if makers_end is None or expires_at is None:
        return makers_end or expires_at
    if expires_at > makers_end:
        latest = instant(makers_end)
        raise InvalidInputError(
            "expires_at", f"must not lie after {latest}, the end of the key that makes this one"
        )
    return expires_at


def rotated_already() -> ConflictError:
    """A key is rotated once: a chain, not a tree."""
    return ConflictError("The key was rotated already; rotate the one that replaced it.")


def key_has_ended() -> ConflictError:
    """What opens nothing is not replaced."""
    return ConflictError("The key has ended; make a new one instead: farebox keys create.")


def _has_ended(key: ListedKey, now: datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now


def _check_end(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise InvalidInputError("expires_at", f"must lie after now ({now:%Y-%m-%dT%H:%M:%SZ})")


def _the_one(found: Sequence[_Key], kind: str, text: str, field: str) -> _Key:
    """The only key there is; several are told with what tells them apart."""
    if len(found) > 1:
        which = candidates([f"{format_id('key', key.id)} ({key.prefix}...)" for key in found])
        raise InvalidInputError(field, f"{text!r} names several keys; give the id: {which}")
    return only(found, kind, text, field)
