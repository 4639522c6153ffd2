"""Invitations: tokens, and what they are worth at an instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.tenancy.api_keys import SECRET_BYTES, kind_of, looks_like_key
from farebox.tenancy.invitations import (
    InvitationState,
    invitation_state,
    looks_like_token,
    make_token,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SOON, BEFORE = NOW + timedelta(days=1), NOW - timedelta(days=1)


@settings(deadline=None)
@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_a_token_is_known_by_its_form_and_opens_nothing_else(secret: bytes) -> None:
    """A token is no key, and no other text is a token."""
    token = make_token(secret)
    assert looks_like_token(token)
    assert not looks_like_key(token)
    assert kind_of(token) is None
    assert not looks_like_token(token[:-1])
    assert not looks_like_token(token + "1")
    assert not looks_like_token(token[:-1] + "0")
    assert not looks_like_token(token.upper())


@pytest.mark.parametrize(
    ("accepted", "revoked", "expires", "state"),
    [
        (None, None, SOON, InvitationState.OPEN),
        (None, None, NOW, InvitationState.EXPIRED),
        (None, BEFORE, SOON, InvitationState.REVOKED),
        (None, BEFORE, BEFORE, InvitationState.REVOKED),
        (BEFORE, None, BEFORE, InvitationState.ACCEPTED),
    ],
)
def test_an_invitation_ends_in_one_way(
    accepted: datetime | None, revoked: datetime | None, expires: datetime, state: InvitationState
) -> None:
    """Accepted, revoked, expired or open; an end counts from its instant on."""
    assert (
        invitation_state(NOW, accepted_at=accepted, revoked_at=revoked, expires_at=expires) is state
    )
