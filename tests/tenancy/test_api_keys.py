"""The text of a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.tenancy.api_keys import (
    SECRET_BYTES,
    KeyKind,
    KeyState,
    digest,
    key_state,
    kind_of,
    looks_like_key,
    make_key,
    shown_prefix,
)

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


@given(SECRETS, st.sampled_from(KeyKind))
def test_every_secret_makes_a_key_that_says_what_it_opens(secret: bytes, kind: KeyKind) -> None:
    """A key is one word, as long as every other of its kind, and can be told from any text."""
    key = make_key(kind, secret)
    assert key.isascii()
    assert key.replace("_", "").isalnum()
    assert len(key) == len(make_key(kind, b"\xff" * SECRET_BYTES))
    assert looks_like_key(key)
    assert kind_of(key) is kind


@given(st.sets(SECRETS, min_size=2, max_size=2))
def test_two_secrets_make_two_keys(secrets: set[bytes]) -> None:
    """No randomness is lost: different secrets never make the same key."""
    one, other = (make_key(KeyKind.LIVE, secret) for secret in secrets)
    assert one != other


def test_a_key_is_kept_as_its_sha_256() -> None:
    """What is stored is the SHA-256 of the whole text, and nothing of the secret can be shown."""
    key = make_key(KeyKind.ADMIN, bytes(range(32)))
    assert digest(key) == sha256(key.encode()).digest()
    assert key.startswith(shown_prefix(key))
    assert len(shown_prefix(key)) == len("fbx_admin_") + 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-1234",
        "fbx_live_",
        "fbx_live_" + "1" * 43,
        "fbx_live_" + "1" * 45,
        "fbx_live_" + "0" * 44,
        "fbx_gold_" + "1" * 44,
        " fbx_live_" + "1" * 44,
        "fbx_live_" + "1" * 44 + "\n",
        "fbx_live_" + "1" * 100_000,
    ],
)
def test_other_texts_are_no_keys(text: str) -> None:
    """What cannot be a key is known without the database."""
    assert not looks_like_key(text)
    assert kind_of(text) is None


@given(st.text())
def test_any_text_has_a_digest(text: str) -> None:
    """A client may send anything as its key."""
    assert len(digest(text)) == 32


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, KeyState.ACTIVE),
        ({"revoked_at": NOW}, KeyState.REVOKED),
        ({"expires_at": NOW}, KeyState.EXPIRED),
        ({"expires_at": NOW + timedelta(microseconds=1)}, KeyState.ACTIVE),
        ({"project_archived_at": NOW}, KeyState.PROJECT_ARCHIVED),
        ({"organization_active": False}, KeyState.ORGANIZATION_INACTIVE),
        ({"expires_at": NOW, "revoked_at": NOW}, KeyState.REVOKED),
    ],
)
def test_a_key_ends_at_its_instant(facts: dict[str, object], state: KeyState) -> None:
    """From the instant on that a bound names, not a moment earlier, the key opens nothing."""
    known: dict[str, object] = {
        "revoked_at": None,
        "expires_at": None,
        "project_archived_at": None,
        "organization_active": True,
    }
    assert key_state(NOW, **(known | facts)) is state  # type: ignore[arg-type]
