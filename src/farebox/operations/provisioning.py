"""New customers: an organisation with all that belongs to it, made whole or not at all."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec

from farebox.kit.errors import RefusedError
from farebox.operations.administration import Administration
from farebox.operations.people import MadeInvitation, Member, People, PeopleStore, User
from farebox.operations.tenants import OrganizationProfile, Project
from farebox.tenancy.invitations import LASTS
from farebox.tenancy.permissions import Role


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a new customer is to have."""

    name: str
    owner_email: str
    currency: str = "USD"
    zone: str = "UTC"
    plan_id: UUID | None = None
    split: bool = False
    """Whether they begin with the usual projects (ORG-07)."""
    invitation_lasts: timedelta = LASTS
    organization_id: UUID | None = None
    """The id to give it, for orders that may be repeated."""


class Provisioned(NamedTuple):
    """What was made."""

    organization: OrganizationProfile
    projects: list[Project]
    invitation: MadeInvitation


async def provision(administration: Administration, people: People, order: Order) -> Provisioned:
    """Make an organisation with its plan and projects, and invite its owner.

    Args:
        administration: Over the same connection as ``people``.
        people: Over the same connection.
        order: What is to be made.

    Raises:
        InvalidInputError: Naming the field.
        NotFoundError: There is no such price plan.
        ConflictError: The name is taken.
    """
    async with administration.together():
        organization = await administration.create_organization(
            order.name,
            currency=order.currency,
            zone=order.zone,
            plan_id=order.plan_id,
            organization_id=order.organization_id,
        )
        projects = await administration.create_split(organization.id) if order.split else []
        invitation = await people.invite(
            organization.id, order.owner_email, Role.OWNER, lasts=order.invitation_lasts
        )
    return Provisioned(organization, projects, invitation)


class SignedUp(NamedTuple):
    """Who came by themselves, and what is theirs now."""

    user: User
    organization: OrganizationProfile
    member: Member


async def sign_up(
    administration: Administration,
    people: People,
    store: PeopleStore,
    *,
    email: str,
    password_hash: str,
    organization_name: str,
    user_id: UUID | None = None,
) -> SignedUp:
    """Make a login and an organisation of its own for a stranger, where strangers are let in.

    Args:
        administration: Over the same connection as the others.
        people: Over the same connection.
        store: Over the same connection.
        email: What they will sign in with; nobody verifies that it is theirs.
        password_hash: Of the password that they chose.
        organization_name: What is to be theirs.
        user_id: The id to give them, for requests that may be repeated.

    Raises:
        RefusedError: ``sign_up_is_off``, as it is unless an operator lets strangers in.
        InvalidInputError: Naming the field.
        ConflictError: The address or the name is taken.
    """
    await refuse_sign_up(store)
    async with administration.together():
        organization = await administration.create_organization(organization_name)
        user = await people.create_user(email, password_hash, user_id=user_id)
        member = await store.insert_member(organization.id, user.id, Role.OWNER)
    return SignedUp(user, organization, member)


async def refuse_sign_up(store: PeopleStore) -> None:
    """Let strangers pass only where an operator lets them in.

    Raises:
        RefusedError: ``sign_up_is_off``.
    """
    if not await store.may_sign_up():
        raise RefusedError(
            "sign_up_is_off", "Nobody signs up here by themselves; ask for an invitation."
        )
