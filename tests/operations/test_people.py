"""Inviting people: what is checked before anything is written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.tenancy.invitations import LASTS_MAX
from farebox.tenancy.permissions import Role
from tests.support.office import Office


@pytest.mark.parametrize(
    ("email", "lasts", "field"),
    [
        ("nobody", timedelta(days=1), "email"),
        ("a b@c", timedelta(days=1), "email"),
        ("a@" + "b" * 254, timedelta(days=1), "email"),
        ("a@b", timedelta(0), "lasts"),
        ("a@b", LASTS_MAX + timedelta(seconds=1), "lasts"),
    ],
)
async def test_a_wrong_invitation_is_named(
    office: Office, email: str, lasts: timedelta, field: str
) -> None:
    """An address and an end, or the field that is wrong; nothing is written."""
    organization = await office.organization()
    with pytest.raises(InvalidInputError) as caught:
        await office.people.invite(organization.id, email, Role.VIEWER, lasts=lasts)
    assert caught.value.field == field
    assert await office.people_store.invitations(limit=9) == []


async def test_a_token_is_looked_at_before_it_is_used(office: Office) -> None:
    """Whoever opens the link sees what it is for; a made-up one is not there."""
    organization = await office.organization()
    made = await office.people.invite(organization.id, "ada@example.org", Role.OWNER)
    assert await office.people.find_invitation(made.token) == made.invitation
    for token in ("", "fbx_invite_", made.token[:-1], made.token + "x", made.token[:-1] + "1"):
        for look in (office.people.find_invitation(token), office.people.accept_new(token, "h")):
            with pytest.raises(NotFoundError, match="ask whoever invited you"):
                await look
        with pytest.raises(NotFoundError):
            await office.people.accept_as(token, organization.id)


async def test_somebody_is_found_by_their_address(office: Office) -> None:
    """In whatever case; who has no login is told how to get one; an address has one login."""
    ada = await office.user()
    assert await office.people.find_user(" ADA@example.ORG ") == ada
    with pytest.raises(NotFoundError, match="invitation"):
        await office.people.find_user("eve@example.org")
    with pytest.raises(InvalidInputError):
        await office.people.find_user("eve")
    with pytest.raises(ConflictError, match="has a login"):
        await office.user("ADA")
