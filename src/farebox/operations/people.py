"""People: who is a member of which organisation, as what, and how they are invited.

One login may be a member of any number of organisations (ORG-01, ORG-08). Nobody signs up by
themselves unless the deployment says so. Passwords come in as hashes; tokens leave once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError, NotFoundError, RefusedError
from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.tenancy.api_keys import SECRET_BYTES, digest
from farebox.tenancy.invitations import (
    LASTS,
    LASTS_MAX,
    InvitationState,
    invitation_state,
    looks_like_token,
    make_token,
)
from farebox.tenancy.names import parse_email
from farebox.tenancy.permissions import Role


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may sign in."""

    id: UUID
    email: str
    operator: bool
    """Administers the deployment and every organisation in it."""
    created_at: datetime
    disabled_at: datetime | None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A person in an organisation."""

    organization_id: UUID
    organization_name: str
    user_id: UUID
    email: str
    role: Role
    created_at: datetime


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation; its token is kept as a digest and not shown again."""

    id: UUID
    organization_id: UUID
    organization_name: str
    email: str
    role: Role
    invited_by: str
    """As the audit log names who invited."""
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    user_id: UUID | None
    """Who accepted it."""
    revoked_at: datetime | None

    def state_at(self, now: datetime) -> InvitationState:
        """Whether it can be accepted at that instant."""
        return invitation_state(
            now,
            accepted_at=self.accepted_at,
            revoked_at=self.revoked_at,
            expires_at=self.expires_at,
        )


class NewInvitation(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation as it is made."""

    id: UUID
    organization_id: UUID
    email: str
    role: Role
    digest: bytes
    expires_at: datetime


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """A person as they are made."""

    id: UUID
    email: str
    password_hash: str
    operator: bool = False


class MadeInvitation(NamedTuple):
    """A new invitation, with its token: shown now and never again."""

    invitation: Invitation
    token: str


class ChangedMember(NamedTuple):
    """A member whose role was changed."""

    member: Member
    management_keys_revoked: int
    """Keys that they had made and that opened more than the new role does."""


class RemovedMember(NamedTuple):
    """What ended with a membership."""

    keys_revoked: int
    """Keys for models that they owned there."""
    management_keys_revoked: int
    """Keys of the native API that they had made for the organisation."""


class ChangedUser(NamedTuple):
    """A person who may less, or more, than before."""

    user: User
    management_keys_revoked: int
    """Keys that they had made and that opened more than they may now."""


class PeopleStore(Protocol):
    """Where people are kept; lists come in the order of ids.

    A store writes in somebody's name: every change is in the audit log when it is there at all.
    """

    def together(self) -> AbstractAsyncContextManager[None]:
        """All changes inside commit together, or none does."""

    async def now(self) -> datetime:
        """The database's time, in UTC."""

    async def users(
        self,
        *,
        user_id: UUID | None = None,
        email: str | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[User]:
        """People, narrowed by what is given; addresses without regard to case."""

    async def password_hash(self, user_id: UUID) -> str | None:
        """What a person's password is checked against; None for nobody, and for a closed login."""

    async def insert_user(self, new: NewUser) -> User:
        """Add a person.

        Raises:
            ConflictError: The address has a login already.
        """

    async def set_operator(self, user_id: UUID, *, operator: bool) -> ChangedUser:
        """Make somebody an operator, or take it from them and from the keys they made.

        Raises:
            NotFoundError: There is no such person.
            RefusedError: ``last_operator``: nobody would be left.
        """

    async def disable_user(self, user_id: UUID) -> ChangedUser:
        """Close a login: sessions end, keys that the person owns or made are revoked.

        Raises:
            NotFoundError: There is no such person.
            RefusedError: ``last_operator``.
        """

    async def members(
        self,
        *,
        organization_id: UUID | None = None,
        user_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Member]:
        """Members by person, narrowed by what is given; ``after`` is the last person seen."""

    async def insert_member(self, organization_id: UUID, user_id: UUID, role: Role) -> Member:
        """Make a person a member.

        Raises:
            NotFoundError: There is no such organisation or person.
            ConflictError: They are one already.
        """

    async def change_member(
        self, organization_id: UUID, user_id: UUID, role: Role
    ) -> ChangedMember:
        """Give a member another role; keys they made that open more are revoked.

        Raises:
            NotFoundError: They are none.
            RefusedError: ``last_owner``: the organisation would have no owner.
        """

    async def remove_member(self, organization_id: UUID, user_id: UUID) -> RemovedMember:
        """Take a member out; the keys that they own or made there are revoked.

        Raises:
            NotFoundError: They are none.
            RefusedError: ``last_owner``.
        """

    async def invitations(
        self,
        *,
        invitation_id: UUID | None = None,
        digest: bytes | None = None,
        organization_id: UUID | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Invitation]:
        """Invitations, also those that are over, narrowed by what is given."""

    async def insert_invitation(self, new: NewInvitation) -> Invitation:
        """Add an invitation.

        Raises:
            NotFoundError: There is no such organisation.
        """

    async def revoke_invitation(self, invitation_id: UUID) -> Invitation:
        """Take an invitation back; one that is over stays as it is.

        Raises:
            NotFoundError: There is none.
        """

    async def accept_invitation(self, digest: bytes, user: UUID | NewUser) -> Member:
        """Make a person a member by an invitation, once; an existing member gets its role.

        Raises:
            NotFoundError: There is no such invitation or person.
            RefusedError: ``invitation_accepted``, ``invitation_revoked``, ``invitation_expired``,
                ``invitation_for_another``; ``last_owner``: its role would leave nobody who owns
                the organisation.
            ConflictError: The address has a login already.
        """

    async def may_sign_up(self) -> bool:
        """Whether strangers may make an organisation of their own."""

    async def allow_sign_up(self, *, allowed: bool) -> None:
        """Let them, or do not."""


class People:
    """The use cases over one store."""

    def __init__(self, store: PeopleStore, *, chance: Callable[[int], bytes]) -> None:
        """Put it together.

        Args:
            store: Where people are kept; it knows in whose name it writes.
            chance: Gives so many random bytes, good enough for secrets.
        """
        self._store = store
        self._chance = chance

    async def find_user(self, email: str) -> User:
        """The person with that address, in whatever case.

        Raises:
            InvalidInputError: It is no address.
            NotFoundError: There is none.
        """
        address = parse_email(email)
        found = await self._store.users(email=address, limit=1)
        if not found:
            raise NotFoundError(
                f"Nobody signs in as {address[:80]!r}; `farebox users add` or an invitation "
                "makes a login."
            )
        return found[0]

    async def add_member(self, organization_id: UUID, email: str, role: Role) -> Member:
        """Make somebody who has a login a member, without asking them: for operators.

        Raises:
            InvalidInputError: It is no address.
            NotFoundError: There is no such organisation or person.
            RefusedError: ``user_disabled``: the login is closed.
            ConflictError: They are one already.
        """
        user = await self.find_user(email)
        if user.disabled_at is not None:
            raise login_closed()
        return await self._store.insert_member(organization_id, user.id, role)

    async def invite(
        self, organization_id: UUID, email: str, role: Role, *, lasts: timedelta = LASTS
    ) -> MadeInvitation:
        """Invite somebody; the token is in the answer and nowhere else.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such organisation.
        """
        if not timedelta(0) < lasts <= LASTS_MAX:
            raise InvalidInputError("lasts", f"must be more than zero, at most {LASTS_MAX.days} d")
        address = parse_email(email)
        now = await self._store.now()
        token = make_token(self._chance(SECRET_BYTES))
        new = NewInvitation(
            id=uuid7(now, self._chance(RANDOM_BYTES)),
            organization_id=organization_id,
            email=address,
            role=role,
            digest=digest(token),
            expires_at=now + lasts,
        )
        return MadeInvitation(await self._store.insert_invitation(new), token)

    async def find_invitation(self, token: str) -> Invitation:
        """The invitation of a token, if it can be accepted.

        Raises:
            NotFoundError: There is none.
            RefusedError: It is over; the reason says why.
        """
        found = (
            await self._store.invitations(digest=digest(token), limit=1)
            if looks_like_token(token)
            else []
        )
        if not found:
            raise no_invitation()
        refuse_closed(found[0].state_at(await self._store.now()))
        return found[0]

    async def accept_as(self, token: str, user_id: UUID) -> Member:
        """Accept an invitation as somebody who is signed in with the invited address.

        Raises:
            NotFoundError: There is no such invitation.
            RefusedError: It is over, or for another address.
        """
        return await self._store.accept_invitation(_digest(token), user_id)

    async def accept_new(
        self, token: str, password_hash: str, *, user_id: UUID | None = None
    ) -> Member:
        """Accept an invitation as somebody new, whose login it makes.

        Args:
            token: As it was handed over.
            password_hash: Of the password that they chose.
            user_id: The id to give them, for requests that may be repeated.

        Raises:
            NotFoundError: There is no such invitation.
            RefusedError: It is over.
            ConflictError: The address has a login: sign in with it first.
        """
        invitation = await self.find_invitation(token)
        new = await self._new_user(invitation.email, password_hash, user_id)
        return await self._store.accept_invitation(_digest(token), new)

    async def create_user(
        self,
        email: str,
        password_hash: str,
        *,
        operator: bool = False,
        user_id: UUID | None = None,
    ) -> User:
        """Make a login.

        Raises:
            InvalidInputError: The address.
            ConflictError: The address has one.
        """
        new = await self._new_user(parse_email(email), password_hash, user_id)
        return await self._store.insert_user(msgspec.structs.replace(new, operator=operator))

    async def _new_user(self, email: str, password_hash: str, user_id: UUID | None) -> NewUser:
        if user_id is None:
            user_id = uuid7(await self._store.now(), self._chance(RANDOM_BYTES))
        return NewUser(id=user_id, email=email, password_hash=password_hash)


def no_invitation() -> NotFoundError:
    """There is no invitation with that token."""
    return NotFoundError("There is no such invitation; ask whoever invited you for a new one.")


def login_closed() -> RefusedError:
    """Whose login is closed becomes no member."""
    return RefusedError("user_disabled", "This login is closed; ask an operator.")


def refuse_closed(state: InvitationState) -> None:
    """Let only an open invitation pass.

    Raises:
        RefusedError: ``invitation_`` and its state.
    """
    if state is not InvitationState.OPEN:
        raise RefusedError(
            f"invitation_{state.value}",
            f"The invitation is {state.value}; ask whoever invited you for a new one.",
        )


def _digest(token: str) -> bytes:
    if not looks_like_token(token):
        raise no_invitation()
    return digest(token)
