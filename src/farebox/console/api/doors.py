"""The open doors: accepting an invitation, and signing up where strangers are let in.

Nobody needs a key here. Who somebody is, they prove by the invitation's token together with a
session or a password; every try with a password is counted together with those to sign in.
"""

from __future__ import annotations

from math import ceil
from typing import Annotated, Final, Literal, NamedTuple
from uuid import UUID

from msgspec import Meta, Struct

from farebox.console.api.fields import Name, OrganizationId, UserId
from farebox.console.api.problems import CODES, ProblemError
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import format_id, parse_id
from farebox.operations.api_ports import ApiSession
from farebox.operations.people import Invitation, User
from farebox.operations.provisioning import refuse_sign_up, sign_up
from farebox.tenancy.actors import Actor, ActorKind
from farebox.tenancy.names import parse_email
from farebox.tenancy.permissions import Role

TOKEN_LENGTH_MAX: Final = 128

Token = Annotated[str, Meta(min_length=1, max_length=TOKEN_LENGTH_MAX)]
Password = Annotated[str, Meta(min_length=1, max_length=1_000)]
Email = Annotated[str, Meta(min_length=3, max_length=254)]


class Acceptance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An invitation that is accepted."""

    token: Token
    password: Password | None = None
    """Of the login that the invited address has; it becomes that of a new login where it has none.
    May be left out by somebody who is signed in with that address."""


class Membership(Struct, frozen=True, kw_only=True):
    """What somebody is now."""

    object: Literal["membership"] = "membership"
    organization_id: OrganizationId
    organization_name: str
    user_id: UserId
    email: str
    role: Role
    new_login: bool
    """Whether the invitation made the login; sign in with it."""


class SignUp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stranger who comes by themselves; nobody verifies that the address is theirs."""

    email: Email
    password: Password
    organization_name: Name


class _Proven(NamedTuple):
    """Who somebody has proven to be, before anything is changed."""

    user_id: UUID
    email: str
    password_hash: str | None = None
    """Of a login that is to be made."""


async def find_out_who_accepts(context: Context) -> _Proven:
    """Who accepts: somebody who is signed in, whoever knows the login's password, or somebody new.

    Raises:
        NotFoundError: There is no such invitation.
        RefusedError: It is over.
        ProblemError: 403 for a wrong password, 429 after too many tries.
        InvalidInputError: There is no password, or it is too short for a new login.
    """
    acceptance, session = context.body_as(Acceptance), context.session
    invitation = await session.people.find_invitation(acceptance.token)
    actor = context.standing.actor
    if acceptance.password is None:
        if actor.kind is not ActorKind.USER:
            raise InvalidInputError(
                "password", "is required, unless you are signed in with the invited address"
            )
        return _Proven(parse_id("user", actor.id, field="user"), actor.name)
    _count_try(context, invitation.email)
    found = await session.people_store.users(email=invitation.email, limit=1)
    if not found:
        hashed = await context.reception.passwords.hash(acceptance.password)
        return _Proven(context.effect_id, invitation.email, hashed)
    return await _by_password(context, invitation, found[0], acceptance.password)


async def _by_password(
    context: Context, invitation: Invitation, user: User, password: str
) -> _Proven:
    known = await context.session.people_store.password_hash(user.id)
    if not await context.reception.passwords.matches(password, known):
        raise ProblemError(
            403,
            "wrong_password",
            "The invited address has a login, and this is not its password.",
        )
    context.reception.throttle.succeeded(invitation.email, context.address)
    return _Proven(user.id, user.email)


async def accept(context: Context) -> Membership:
    """Become a member, once, in one's own name."""
    proven: _Proven = context.prepared
    people, token = _as(context, proven).people, context.body_as(Acceptance).token
    if proven.password_hash is None:
        member = await people.accept_as(token, proven.user_id)
    else:
        member = await people.accept_new(token, proven.password_hash, user_id=proven.user_id)
    return Membership(
        organization_id=format_id("org", member.organization_id),
        organization_name=member.organization_name,
        user_id=format_id("user", member.user_id),
        email=member.email,
        role=member.role,
        new_login=proven.password_hash is not None,
    )


async def join(context: Context) -> Membership:
    """Find out who accepts, and make them a member: for doors that are no routes.

    Raises:
        ProblemError: As :func:`find_out_who_accepts`.
        FareboxError: As it and :func:`accept`.
    """
    context.prepared = await find_out_who_accepts(context)
    async with context.session.tenants.together():
        return await accept(context)


async def make_ready_to_sign_up(context: Context) -> _Proven:
    """Whether strangers are let in, and the hash of the password they chose.

    Raises:
        RefusedError: ``sign_up_is_off``.
        ProblemError: 429 after too many tries.
        InvalidInputError: The address or the password.
    """
    order = context.body_as(SignUp)
    await refuse_sign_up(context.session.people_store)
    email = parse_email(order.email)
    _count_try(context, email)
    hashed = await context.reception.passwords.hash(order.password)
    return _Proven(context.effect_id, email, hashed)


async def come_by_oneself(context: Context) -> Membership:
    """Make a login, and an organisation of its own without any credit."""
    proven: _Proven = context.prepared
    session = _as(context, proven)
    assert proven.password_hash is not None
    made = await sign_up(
        session.administration,
        session.people,
        session.people_store,
        email=proven.email,
        password_hash=proven.password_hash,
        organization_name=context.body_as(SignUp).organization_name,
        user_id=proven.user_id,
    )
    return Membership(
        organization_id=format_id("org", made.organization.id),
        organization_name=made.organization.name,
        user_id=format_id("user", made.user.id),
        email=made.user.email,
        role=made.member.role,
        new_login=True,
    )


def _as(context: Context, proven: _Proven) -> ApiSession:
    """What happens next is done in the name of whoever they have proven to be."""
    asked = context.standing.actor
    return context.acting(
        Actor(
            kind=ActorKind.USER,
            id=format_id("user", proven.user_id),
            name=proven.email,
            door=asked.door,
            address=asked.address,
            request_id=asked.request_id,
        )
    )


def _count_try(context: Context, email: str) -> None:
    wait = ceil(context.reception.throttle.attempt(email, context.address))
    if wait > 0:
        again = {"retry-after": str(wait)}
        raise ProblemError(429, CODES[429], f"Too many tries; again in {wait} s.", headers=again)


ROUTES: Final = (
    Route(
        method="POST",
        path="/invitations/accept",
        name="acceptInvitation",
        summary="Accept an invitation: with its token, and a password or a session",
        tag="people",
        handler=accept,
        prepare=find_out_who_accepts,
        body=Acceptance,
        answer=Membership,
        refusals=(404,),
        open=True,
    ),
    Route(
        method="POST",
        path="/sign-up",
        name="signUp",
        summary="Make a login and an organisation for oneself, where strangers are let in",
        tag="people",
        handler=come_by_oneself,
        prepare=make_ready_to_sign_up,
        body=SignUp,
        answer=Membership,
        status=201,
        open=True,
    ),
)
