"""People: members with their roles, invitations, and who is asking."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Instant,
    InvitationId,
    OrganizationId,
    Page,
    PageQuery,
    UserId,
    page_by_id,
    read_id_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import NotFoundError
from farebox.kit.ids import format_id
from farebox.operations import people
from farebox.operations.documents import document
from farebox.tenancy.invitations import LASTS, LASTS_MAX
from farebox.tenancy.permissions import Action, Role


class Member(Struct, frozen=True, kw_only=True):
    """A person in an organisation."""

    object: Literal["member"] = "member"
    user_id: UserId
    email: str
    role: Role
    created_at: Instant


class MemberOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who has a login, and what they shall be."""

    email: Annotated[str, Meta(min_length=3, max_length=254)]
    role: Role


class MemberPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another role."""

    role: Role


class ChangedMember(Member, frozen=True, kw_only=True):
    """One whose role was changed."""

    management_keys_revoked: int
    """Management keys that they had made and that opened more than the new role does."""


class RemovedMember(Struct, frozen=True, kw_only=True):
    """Somebody who is a member no more."""

    object: Literal["removed_member"] = "removed_member"
    user_id: UserId
    keys_revoked: int
    """Keys for models that they owned here."""
    management_keys_revoked: int
    """Management keys that they had made for the organisation."""


class Invitation(Struct, frozen=True, kw_only=True):
    """An invitation; its token is not kept."""

    object: Literal["invitation"] = "invitation"
    id: InvitationId
    organization_id: OrganizationId
    email: str
    role: Role
    state: str
    invited_by: str
    created_at: Instant
    expires_at: Instant
    accepted_at: Instant | None
    revoked_at: Instant | None


class NewInvitation(Invitation, frozen=True, kw_only=True):
    """One as it was made."""

    token: str
    """Shown now and never again; whoever has it and the address becomes a member."""


class InvitationOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody to invite."""

    email: Annotated[str, Meta(min_length=3, max_length=254)]
    role: Role
    days: Annotated[int, Meta(ge=1, le=LASTS_MAX.days)] = LASTS.days


class Caller(Struct, frozen=True, kw_only=True):
    """Who is asking."""

    object: Literal["caller"] = "caller"
    kind: str
    id: str
    name: str
    operator: bool
    roles: dict[str, Role]
    """Organisation -> what they are in it."""


async def show_caller(context: Context) -> Caller:
    """Whose key or session it is."""
    standing = context.standing
    return Caller(
        kind=standing.actor.kind.value,
        id=standing.actor.id,
        name=standing.actor.name,
        operator=standing.operator,
        roles={format_id("org", key): role for key, role in standing.roles.items()},
    )


async def list_members(context: Context) -> Page[Member]:
    """Who is in it, as what."""
    query = context.query_as(PageQuery)
    found = await context.session.people_store.members(
        organization_id=context.organization.id,
        after=read_id_cursor("user", query.cursor),
        limit=query.limit + 1,
    )
    rows = [document(member) for member in found]
    return page_by_id(Member, rows, query.limit, name="user_id")


async def add_member(context: Context) -> Member:
    """Make somebody who has a login a member at once; an owner invites instead."""
    order = context.body_as(MemberOrder)
    added = await context.session.people.add_member(
        context.organization.id, order.email, order.role
    )
    return shown(Member, added)


async def show_member(context: Context) -> Member:
    """One of them."""
    found = await context.session.people_store.members(
        organization_id=context.organization.id, user_id=context.ids["user_id"], limit=1
    )
    if not found:
        raise NotFoundError("There is no such member.")
    return shown(Member, found[0])


async def change_member(context: Context) -> ChangedMember:
    """Give somebody another role; management keys that they made and that open more are revoked."""
    changed = await context.session.people_store.change_member(
        context.organization.id, context.ids["user_id"], context.body_as(MemberPatch).role
    )
    return shown(
        ChangedMember,
        changed.member,
        management_keys_revoked=changed.management_keys_revoked,
    )


async def remove_member(context: Context) -> RemovedMember:
    """Take somebody out; keys that they own or made here are revoked."""
    user_id = context.ids["user_id"]
    removed = await context.session.people_store.remove_member(context.organization.id, user_id)
    return RemovedMember(
        user_id=format_id("user", user_id),
        keys_revoked=removed.keys_revoked,
        management_keys_revoked=removed.management_keys_revoked,
    )


async def list_invitations(context: Context) -> Page[Invitation]:
    """Invitations, also those that are over."""
    query, session = context.query_as(PageQuery), context.session
    found = await session.people_store.invitations(
        organization_id=context.organization.id,
        after=read_id_cursor("inv", query.cursor),
        limit=query.limit + 1,
    )
    now = await session.now()
    rows = [_row(invitation, now) for invitation in found]
    return page_by_id(Invitation, rows, query.limit)


async def show_invitation(context: Context) -> Invitation:
    """One of them."""
    row = _row(await _find_invitation(context), await context.session.now())
    return msgspec.convert(row, Invitation)


async def invite(context: Context) -> NewInvitation:
    """Invite somebody."""
    order, session = context.body_as(InvitationOrder), context.session
    made = await session.people.invite(
        context.organization.id, order.email, order.role, lasts=timedelta(days=order.days)
    )
    row = _row(made.invitation, await session.now())
    return msgspec.convert(row | {"token": made.token}, NewInvitation)


async def revoke_invitation(context: Context) -> Invitation:
    """Take an invitation back."""
    invitation = await _find_invitation(context)
    await context.session.people_store.revoke_invitation(invitation.id)
    return await show_invitation(context)


async def _find_invitation(context: Context) -> people.Invitation:
    found = await context.session.people_store.invitations(
        invitation_id=context.ids["invitation_id"],
        organization_id=context.organization.id,
        limit=1,
    )
    if not found:
        raise NotFoundError("There is no such invitation.")
    return found[0]


def _row(invitation: people.Invitation, now: datetime) -> dict[str, Any]:
    return document(invitation, of="inv") | {"state": invitation.state_at(now).value}


_ONE: Final = "/organizations/{organization_id}"
_MEMBER: Final = _ONE + "/members/{user_id}"
_INVITATION: Final = _ONE + "/invitations/{invitation_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path="/me",
        name="showCaller",
        summary="Who is asking, and what they may",
        tag="people",
        handler=show_caller,
        answer=Caller,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/members",
        name="listMembers",
        summary="Members and their roles",
        tag="people",
        handler=list_members,
        action=Action.MEMBERS_VIEW,
        query=PageQuery,
        answer=Page[Member],
    ),
    Route(
        method="POST",
        path=f"{_ONE}/members",
        name="addMember",
        summary="Make somebody who has a login a member without an invitation (operators)",
        tag="people",
        handler=add_member,
        action=Action.DEPLOYMENT_CHANGE,
        body=MemberOrder,
        answer=Member,
        status=201,
    ),
    Route(
        method="GET",
        path=_MEMBER,
        name="showMember",
        summary="A member",
        tag="people",
        handler=show_member,
        action=Action.MEMBERS_VIEW,
        answer=Member,
    ),
    Route(
        method="PATCH",
        path=_MEMBER,
        name="changeMember",
        summary="Give a member another role",
        tag="people",
        handler=change_member,
        action=Action.MEMBERS_CHANGE,
        body=MemberPatch,
        answer=ChangedMember,
    ),
    Route(
        method="DELETE",
        path=_MEMBER,
        name="removeMember",
        summary="Take a member out",
        tag="people",
        handler=remove_member,
        action=Action.MEMBERS_CHANGE,
        answer=RemovedMember,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/invitations",
        name="listInvitations",
        summary="Invitations",
        tag="people",
        handler=list_invitations,
        action=Action.MEMBERS_CHANGE,
        query=PageQuery,
        answer=Page[Invitation],
    ),
    Route(
        method="POST",
        path=f"{_ONE}/invitations",
        name="invite",
        summary="Invite somebody",
        tag="people",
        handler=invite,
        action=Action.MEMBERS_CHANGE,
        body=InvitationOrder,
        answer=NewInvitation,
        status=201,
        secret=True,
    ),
    Route(
        method="GET",
        path=_INVITATION,
        name="showInvitation",
        summary="An invitation; its token is not kept",
        tag="people",
        handler=show_invitation,
        action=Action.MEMBERS_CHANGE,
        answer=Invitation,
    ),
    Route(
        method="DELETE",
        path=_INVITATION,
        name="revokeInvitation",
        summary="Take an invitation back",
        tag="people",
        handler=revoke_invitation,
        action=Action.MEMBERS_CHANGE,
        answer=Invitation,
    ),
)
