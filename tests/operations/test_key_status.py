"""What a key is told of itself: kept for a second, read once for a crowd."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from farebox.kit.errors import UnavailableError
from farebox.operations import key_status
from farebox.operations.attribution import NAMELESS, Names
from farebox.operations.key_status import (
    CLOSED,
    FRESH_SECONDS,
    KEY_MESSAGES,
    KeyStatuses,
    KeyStatusFacts,
)
from farebox.operations.tenants import KeyDetails, OutputCap
from farebox.tenancy.api_keys import KeyKind, KeyState, digest, make_key
from tests.support.ledger_memory import MemoryLedger

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = make_key(KeyKind.LIVE, bytes(32))


def facts(**changes: Any) -> KeyStatusFacts:
    """A key of an organisation without anything."""
    values: dict[str, Any] = {
        "id": UUID(int=3),
        "name": "laptop",
        "organization_id": UUID(int=1),
        "organization_name": "Acme",
        "project_id": UUID(int=2),
        "project_name": "search",
        "prefix": "fbx_live_1111",
        "created_at": NOW - timedelta(days=9),
        "expires_at": None,
        "revoked_at": None,
        "project_archived_at": None,
        "organization_active": True,
        "environment": "",
        "default_output_tokens": None,
        "allowed_models": None,
        "output_tokens_max": None,
    }
    return KeyStatusFacts(
        key=KeyDetails(**(values | changes)),
        organization=MemoryLedger().add_organization(UUID(int=1), NOW),
        grants=(),
        limits=(),
        now=NOW,
    )


class Store:
    """Counts how often it is asked; answers when it is told to."""

    def __init__(self) -> None:
        self.reads = 0
        self.asked: list[Names] = []
        self.error: Exception | None = None
        self.now = 0.0

    async def read(self, digest_given: bytes, names: Names) -> KeyStatusFacts | None:
        self.asked.append(names)
        self.reads += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return facts() if digest_given == digest(KEY) else None

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    """The store, and the clock."""
    return Store()


async def test_a_key_that_asks_all_the_time_costs_one_read_a_second(store: Store) -> None:
    """ENGINE.md: what charges nothing may be kept for a second, for a crowd at once too."""
    statuses = KeyStatuses(store, monotonic=store)
    answers = await asyncio.gather(*(statuses.of(KEY) for _ in range(50)))
    assert store.reads == 1
    assert all(each is answers[0] for each in answers)
    store.now += FRESH_SECONDS / 2
    await statuses.of(KEY)
    assert store.reads == 1
    store.now += FRESH_SECONDS / 2
    await statuses.of(KEY)
    assert store.reads == 2


async def test_an_unknown_key_is_remembered_as_shortly(store: Store) -> None:
    """A key that is made now opens within a second; a text that is none is never looked up."""
    statuses = KeyStatuses(store, monotonic=store)
    other = make_key(KeyKind.TEST, b"\1" * 32)
    for text in (other, other, "sk-x", "", make_key(KeyKind.ADMIN, bytes(32)), "\ud800"):
        assert await statuses.of(text) is None
    assert store.reads == 1


async def test_what_a_key_names_is_read_by_itself(store: Store) -> None:
    """LIM-10: an answer of one user is none of another's; each is kept for a second."""
    statuses = KeyStatuses(store, monotonic=store)
    ada, bob = Names(user="ada"), Names(user="bob", tags=(("team", "red"),))
    for names in (NAMELESS, ada, bob, ada, bob, NAMELESS):
        assert await statuses.of(KEY, names) is not None
    assert store.asked == [NAMELESS, ada, bob]


async def test_the_database_away_is_not_remembered(store: Store) -> None:
    """The next question is asked anew."""
    statuses = KeyStatuses(store, monotonic=store)
    store.error = UnavailableError()
    with pytest.raises(UnavailableError):
        await statuses.of(KEY)
    store.error = None
    assert await statuses.of(KEY) is not None


async def test_memory_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of made-up keys takes no more than so much memory."""
    monkeypatch.setattr(key_status, "KEPT_MAX", 5)
    statuses = KeyStatuses(store, monotonic=store)
    for number in range(20):
        await statuses.of(make_key(KeyKind.TEST, number.to_bytes(32)))
    assert len(statuses._kept) == 5


def test_what_is_set_for_the_project_is_told() -> None:
    """LIM-10, ORG-03, ORG-15, ORG-17: organisation, project, models, bounds, last use, end."""
    told = key_status.key_status(
        facts(
            environment="production",
            allowed_models=("gpt-5*",),
            output_tokens_max=9,
            default_output_tokens=7,
            last_used_at=NOW,
            expires_at=NOW + timedelta(days=1),
        )
    )
    assert (told.organization.name, told.project.name) == ("Acme", "search")
    assert (told.allowed_models, told.environment) == (["gpt-5*"], "production")
    assert (told.output_tokens_max, told.default_output_tokens) == (9, 7)
    assert (told.last_used_at, told.expires_at) == ("2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z")
    assert (told.state, told.limits, told.rate_limits) == (KeyState.ACTIVE, [], [])
    assert told.balance.spendable == "0.00"


@pytest.mark.parametrize(
    ("feature", "default", "most"),
    [("", 7, 9), ("chat", 5, 9), ("wide", 9, 9), ("tight", 3, 3), ("other", 7, 9)],
)
def test_bounds_are_of_the_feature_that_is_named(feature: str, default: int, most: int) -> None:
    """LIM-10, SAV-12: what a call with that header would get; the lower maximum holds."""
    caps = {
        "chat": OutputCap(default_output_tokens=5),
        "wide": OutputCap(default_output_tokens=20, output_tokens_max=30),
        "tight": OutputCap(output_tokens_max=3),
    }
    asked = facts(output_tokens_max=9, default_output_tokens=7, feature_caps=caps)
    told = key_status.key_status(asked, Names(feature=feature))
    assert (told.default_output_tokens, told.output_tokens_max) == (default, most)
    alone = key_status.key_status(facts(feature_caps=caps), Names(feature="tight"))
    assert (alone.default_output_tokens, alone.output_tokens_max) == (None, 3)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"revoked_at": NOW}, KeyState.REVOKED),
        ({"expires_at": NOW}, KeyState.EXPIRED),
        ({"project_archived_at": NOW}, KeyState.PROJECT_ARCHIVED),
        ({"organization_active": False}, KeyState.ORGANIZATION_INACTIVE),
    ],
)
def test_a_key_that_is_closed_has_a_message(change: dict[str, Any], state: KeyState) -> None:
    """ORG-16, ERR-04: revoked, expired and archived are told apart; an organisation that is off
    still explains itself.
    """
    assert key_status.key_status(facts(**change)).state is state
    assert (state in CLOSED) == (state is not KeyState.ORGANIZATION_INACTIVE)
    assert set(CLOSED.values()) < set(KEY_MESSAGES)
