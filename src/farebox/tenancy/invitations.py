"""Invitations: a token that makes one person a member of one organisation, once.

The token has the strength of a key and is kept like one: as a digest, shown once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from farebox.tenancy.api_keys import is_secret_text, secret_text

LASTS: Final = timedelta(days=7)
"""Unless somebody says otherwise."""

LASTS_MAX: Final = timedelta(days=90)
"""A longer one is forgotten before it ends."""

_PREFIX: Final = "fbx_invite_"


class InvitationState(StrEnum):
    """Whether it can be accepted, and if not, why."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"


def make_token(secret: bytes) -> str:
    """Write a token from :data:`farebox.tenancy.api_keys.SECRET_BYTES` random bytes."""
    return _PREFIX + secret_text(secret)


def looks_like_token(text: str) -> bool:
    """Tell whether the text has the form of a token."""
    return text.startswith(_PREFIX) and is_secret_text(text.removeprefix(_PREFIX))


def invitation_state(
    now: datetime,
    *,
    accepted_at: datetime | None,
    revoked_at: datetime | None,
    expires_at: datetime,
) -> InvitationState:
    """What an invitation is worth at an instant."""
    if accepted_at is not None:
        return InvitationState.ACCEPTED
    if revoked_at is not None:
        return InvitationState.REVOKED
    return InvitationState.EXPIRED if expires_at <= now else InvitationState.OPEN
