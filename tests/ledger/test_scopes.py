"""Scopes: what a call is counted under, and the numbers that every process agrees on."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.texts import storable
from farebox.ledger.holds import Dimensions
from farebox.ledger.scopes import (
    EVERY,
    Scope,
    ScopeKind,
    default_number,
    scope_number,
    scopes_of,
)
from tests.support.odd_texts import odd_texts

ORG, PROJECT, KEY = (UUID(int=number) for number in (1, 2, 3))


def counted(
    *,
    feature: str = "",
    environment: str = "",
    user: str = "",
    run: str = "",
    tags: dict[str, str] | None = None,
) -> list[tuple[str, str]]:
    """The scopes of a call, but for those that every call has."""
    dimensions = Dimensions(PROJECT, KEY, feature, environment, "gpt", "standard", "chat")
    found = [
        (kind.value, ref)
        for kind, ref in scopes_of(ORG, dimensions, user=user, run=run, tags=tags or {})
    ]
    assert found[:3] == [("organization", ORG.hex), ("project", PROJECT.hex), ("key", KEY.hex)]
    return found[3:]


@pytest.mark.parametrize(
    ("about", "scopes"),
    [
        ({}, []),
        ({"feature": "search"}, [("feature", "search")]),
        ({"environment": "live"}, [("environment", "live")]),
        ({"user": "ada"}, [("user", "ada")]),
        ({"run": "r-1"}, [("run", "r-1")]),
        ({"tags": {"team": "blue", "tier": ""}}, [("tag", "team=blue"), ("tag", "tier=")]),
        # The first sign parts name and value, so only one tag can mean this scope.
        ({"tags": {"a": "b=c", "a=b": "c"}}, [("tag", "a=b=c")]),
        ({"tags": {"": "x"}}, [("tag", "=x")]),
    ],
)
def test_a_call_is_counted_under_what_it_names(
    about: dict[str, str], scopes: list[tuple[str, str]]
) -> None:
    """BUD-05, BUD-12..14: its own organisation, project and key, and every label it carries."""
    assert counted(**about) == scopes  # type: ignore[arg-type]


@given(odd_texts(3), odd_texts(3), st.sampled_from(ScopeKind), st.sampled_from(ScopeKind))
def test_two_scopes_have_two_numbers(a: str, b: str, kind: ScopeKind, other: ScopeKind) -> None:
    """BUD-14: a scope is known by its kind and reference, as the database keeps them."""
    same = (kind, storable(a)) == (other, storable(b))
    assert (scope_number(kind, a) == scope_number(other, b)) is same
    assert 0 <= scope_number(kind, a) < 2**63


def test_a_number_is_the_same_in_every_process_and_version() -> None:
    """ENGINE "Limits": rows name counters by it, so it must never change."""
    digest = sha256(b"user\0ada").digest()
    assert scope_number("user", "ada") == int.from_bytes(digest[:8]) >> 1
    assert Scope(ScopeKind.USER, "ada").number == scope_number("user", "ada")


def test_defaults_have_numbers_of_their_own() -> None:
    """BUD-14: the defaults of a kind are no scope that a call can name."""
    numbers = {kind: default_number(kind) for kind in ScopeKind}
    assert all(a != b for a, b in combinations(numbers.values(), 2))
    assert numbers[ScopeKind.USER] == scope_number(ScopeKind.USER, EVERY)
