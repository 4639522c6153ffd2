"""People on PostgreSQL: logins, members and invitations.

Whoever writes a member or an invitation takes the organisation's row first; what depends on others,
such as the last owner, is decided under that lock.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import structs
from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation

from farebox.kit.errors import ConflictError, NotFoundError, RefusedError
from farebox.kit.ids import format_id
from farebox.operations.audit_log import AuditNote, changed, made
from farebox.operations.documents import document
from farebox.operations.people import (
    ChangedMember,
    ChangedUser,
    Invitation,
    Member,
    NewInvitation,
    NewUser,
    RemovedMember,
    User,
    login_closed,
    no_invitation,
    refuse_closed,
)
from farebox.storage.audit_log_store import append_event
from farebox.storage.key_store import revoke_keys_of_maker
from farebox.storage.rows import utc
from farebox.storage.sql import queries
from farebox.tenancy.actors import SYSTEM, Actor
from farebox.tenancy.permissions import Role

_Connection = AsyncConnection[tuple[Any, ...]]


class PostgresPeopleStore:
    """Implements ``operations.people.PeopleStore`` on one connection in autocommit mode."""

    def __init__(self, connection: _Connection, by: Actor = SYSTEM) -> None:
        """Choose in whose name it writes."""
        self._connection = connection
        self._by = by

    def together(self) -> AbstractAsyncContextManager[Any]:
        """See the port."""
        return self._connection.transaction()

    async def now(self) -> datetime:
        """See the port."""
        rows = await self._ask("read_now", None, file="tenants")
        return utc(rows[0][0])

    # Logins.

    async def users(
        self,
        *,
        user_id: UUID | None = None,
        email: str | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[User]:
        """See the port."""
        values = {"id": user_id, "email": email, "after": after, "limit": limit}
        return [
            User(
                id=row[0],
                email=row[1],
                operator=row[2],
                created_at=utc(row[3]),
                disabled_at=_instant(row[4]),
            )
            for row in await self._ask("list_users", values)
        ]

    async def password_hash(self, user_id: UUID) -> str | None:
        """See the port."""
        rows = await self._ask("read_password_hash", (user_id,))
        return rows[0][0] if rows else None

    async def insert_user(self, new: NewUser) -> User:
        """See the port."""
        try:
            async with self._connection.transaction():
                await self._ask("insert_user", structs.asdict(new))
                user = await self._user(new.id)
                facts = document(user, of="user")
                await self._note(made("user", facts["id"], None, facts))
        except UniqueViolation as error:
            raise _has_login(new.email) from error
        return user

    async def set_operator(self, user_id: UUID, *, operator: bool) -> ChangedUser:
        """See the port."""
        async with self._connection.transaction():
            await self._ask("lock_organizations_of_user", {"id": user_id})
            operators = {row[0] for row in await self._ask("lock_operators", None)}
            before = await self._user(user_id)
            if not operator:
                _refuse_last_operator(operators, user_id)
            await self._ask("set_operator", {"id": user_id, "operator": operator})
            return await self._changed_user("user.changed", before, every=False)

    async def disable_user(self, user_id: UUID) -> ChangedUser:
        """See the port."""
        values = {"id": user_id, "user_id": user_id, "organization_id": None}
        async with self._connection.transaction():
            await self._ask("lock_organizations_of_user", values)
            operators = {row[0] for row in await self._ask("lock_operators", None)}
            before = await self._user(user_id)
            _refuse_last_operator(operators, user_id)
            await self._ask("disable_user", values)
            await self._ask("revoke_keys", values)
            await self._connection.execute(queries("people")["end_sessions"], values)
            return await self._changed_user("user.disabled", before, every=True)

    async def _user(self, user_id: UUID) -> User:
        found = await self.users(user_id=user_id, limit=1)
        if not found:
            raise NotFoundError("There is no such person.")
        return found[0]

    async def _changed_user(self, action: str, before: User, *, every: bool) -> ChangedUser:
        user = await self._user(before.id)
        old, new = document(before, of="user"), document(user, of="user")
        await self._note(changed(action, new["id"], None, old, new))
        revoked = await revoke_keys_of_maker(self._connection, user.id, every=every, by=self._by)
        return ChangedUser(user, revoked)

    # Members.

    async def members(
        self,
        *,
        organization_id: UUID | None = None,
        user_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Member]:
        """See the port."""
        values = {
            "organization_id": organization_id,
            "user_id": user_id,
            "after": after,
            "limit": limit,
        }
        return [
            Member(
                organization_id=row[0],
                organization_name=row[1],
                user_id=row[2],
                email=row[3],
                role=Role(row[4]),
                created_at=utc(row[5]),
            )
            for row in await self._ask("list_members", values)
        ]

    async def insert_member(self, organization_id: UUID, user_id: UUID, role: Role) -> Member:
        """See the port."""
        try:
            async with self._connection.transaction():
                await self._lock(organization_id)
                if await self._member(organization_id, user_id) is not None:
                    raise ConflictError(
                        "They are a member already; `farebox members role` changes the role."
                    )
                return await self._put_member(organization_id, user_id, role)
        except ForeignKeyViolation as error:
            raise NotFoundError("There is no such person.") from error

    async def change_member(
        self, organization_id: UUID, user_id: UUID, role: Role
    ) -> ChangedMember:
        """See the port."""
        async with self._connection.transaction():
            await self._lock(organization_id)
            before = await self._member(organization_id, user_id)
            if before is None:
                raise _no_member()
            member = await self._put_member(organization_id, user_id, role)
            return ChangedMember(member, await self._revoke_made(organization_id, user_id))

    async def remove_member(self, organization_id: UUID, user_id: UUID) -> RemovedMember:
        """See the port."""
        values = {"organization_id": organization_id, "user_id": user_id}
        async with self._connection.transaction():
            await self._lock(organization_id)
            before = await self._member(organization_id, user_id)
            if before is None:
                raise _no_member()
            if before.role is Role.OWNER:
                await self._refuse_last_owner(organization_id, user_id)
            await self._ask("delete_member", values)
            revoked = len(await self._ask("revoke_keys", values))
            made_revoked = await self._revoke_made(organization_id, user_id, every=True)
            note = AuditNote(
                action="member.removed",
                subject_kind="member",
                subject_id=format_id("user", user_id),
                organization_id=organization_id,
                before={"email": before.email, "role": before.role.value},
                after={"keys_revoked": revoked, "management_keys_revoked": made_revoked},
            )
            await self._note(note)
        return RemovedMember(revoked, made_revoked)

    async def _revoke_made(
        self, organization_id: UUID, user_id: UUID, *, every: bool = False
    ) -> int:
        return await revoke_keys_of_maker(
            self._connection, user_id, organization_id=organization_id, every=every, by=self._by
        )

    async def _put_member(self, organization_id: UUID, user_id: UUID, role: Role) -> Member:
        """Make or change a member, and note it; under the organisation's lock.

        Raises:
            RefusedError: ``last_owner``: nobody would own the organisation.
        """
        before = await self._member(organization_id, user_id)
        if before is not None and before.role is Role.OWNER and role is not Role.OWNER:
            await self._refuse_last_owner(organization_id, user_id)
        values = {"organization_id": organization_id, "user_id": user_id, "role": role.value}
        await self._ask("put_member", values)
        member = await self._member(organization_id, user_id)
        assert member is not None
        subject = format_id("user", user_id)
        new = {"email": member.email, "role": member.role.value}
        if before is None:
            await self._note(made("member", subject, organization_id, new))
        else:
            old = {"email": before.email, "role": before.role.value}
            await self._note(changed("member.changed", subject, organization_id, old, new))
        return member

    async def _member(self, organization_id: UUID, user_id: UUID) -> Member | None:
        found = await self.members(organization_id=organization_id, user_id=user_id, limit=1)
        return found[0] if found else None

    async def _refuse_last_owner(self, organization_id: UUID, user_id: UUID) -> None:
        values = {"organization_id": organization_id, "user_id": user_id}
        rows = await self._ask("count_other_owners", values)
        if not rows[0][0]:
            raise RefusedError(
                "last_owner", "They are the only owner; make somebody else one first."
            )

    # Invitations.

    async def invitations(
        self,
        *,
        invitation_id: UUID | None = None,
        digest: bytes | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Invitation]:
        """See the port."""
        values = {
            "id": invitation_id,
            "digest": digest,
            "organization_id": organization_id,
            "after": after,
            "limit": limit,
        }
        return [_invitation(row) for row in await self._ask("list_invitations", values)]

    async def insert_invitation(self, new: NewInvitation) -> Invitation:
        """See the port."""
        values = structs.asdict(new) | {"role": new.role.value, "invited_by": self._by.name}
        async with self._connection.transaction():
            await self._lock(new.organization_id)
            await self._ask("insert_invitation", values)
            (invitation,) = await self.invitations(invitation_id=new.id, limit=1)
            facts = document(invitation, of="inv")
            await self._note(made("invitation", facts["id"], new.organization_id, facts))
        return invitation

    async def revoke_invitation(self, invitation_id: UUID) -> Invitation:
        """See the port."""
        async with self._connection.transaction():
            before = await self._lock_invitation(invitation_id)
            await self._ask("revoke_invitation", (invitation_id,))
            return await self._changed_invitation("invitation.revoked", before)

    async def accept_invitation(self, digest: bytes, user: UUID | NewUser) -> Member:
        """See the port."""
        found = await self.invitations(digest=digest, limit=1)
        if not found:
            raise no_invitation()
        async with self._connection.transaction():
            before = await self._lock_invitation(found[0].id)
            refuse_closed(before.state_at(await self.now()))
            who = await self._user(user) if isinstance(user, UUID) else await self.insert_user(user)
            if who.email.lower() != before.email.lower():
                raise RefusedError(
                    "invitation_for_another",
                    f"The invitation is for {before.email}; sign in with that address.",
                )
            if who.disabled_at is not None:
                raise login_closed()
            await self._ask("accept_invitation", {"id": before.id, "user_id": who.id})
            member = await self._put_member(before.organization_id, who.id, before.role)
            await self._revoke_made(before.organization_id, who.id)
            await self._changed_invitation("invitation.accepted", before)
        return member

    async def _lock_invitation(self, invitation_id: UUID) -> Invitation:
        await self._ask("lock_organization_of_invitation", (invitation_id,))
        found = await self.invitations(invitation_id=invitation_id, limit=1)
        if not found:
            raise no_invitation()
        return found[0]

    async def _changed_invitation(self, action: str, before: Invitation) -> Invitation:
        (invitation,) = await self.invitations(invitation_id=before.id, limit=1)
        old, new = document(before, of="inv"), document(invitation, of="inv")
        await self._note(changed(action, new["id"], invitation.organization_id, old, new))
        return invitation

    # The deployment.

    async def may_sign_up(self) -> bool:
        """See the port."""
        rows = await self._ask("read_sign_up", None)
        return bool(rows[0][0])

    async def allow_sign_up(self, *, allowed: bool) -> None:
        """See the port."""
        async with self._connection.transaction():
            before = {"self_sign_up": await self.may_sign_up()}
            await self._ask("write_sign_up", {"allowed": allowed})
            after = {"self_sign_up": allowed}
            await self._note(changed("deployment.changed", "deployment", None, before, after))

    async def _lock(self, organization_id: UUID) -> None:
        if not await self._ask("lock_organization", (organization_id,), file="tenants"):
            raise NotFoundError("There is no such organisation.")

    async def _note(self, note: AuditNote | None) -> None:
        await append_event(self._connection, self._by, note)

    async def _ask(self, name: str, values: Any, *, file: str = "people") -> list[tuple[Any, ...]]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(queries(file)[name], values)
        return await cursor.fetchall()


def _invitation(row: tuple[Any, ...]) -> Invitation:
    return Invitation(
        id=row[0],
        organization_id=row[1],
        organization_name=row[2],
        email=row[3],
        role=Role(row[4]),
        invited_by=row[5],
        created_at=utc(row[6]),
        expires_at=utc(row[7]),
        accepted_at=_instant(row[8]),
        user_id=row[9],
        revoked_at=_instant(row[10]),
    )


def _refuse_last_operator(operators: set[UUID], user_id: UUID) -> None:
    if operators == {user_id}:
        raise RefusedError(
            "last_operator", "They are the only operator; make somebody else one first."
        )


def _no_member() -> NotFoundError:
    return NotFoundError("They are no member; `farebox members list` shows who is.")


def _has_login(email: str) -> ConflictError:
    return ConflictError(f"{email} has a login already; sign in with it.")


def _instant(value: datetime | None) -> datetime | None:
    return None if value is None else utc(value)
