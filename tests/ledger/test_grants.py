"""Grants: when they are live, and in which order they burn."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.money import Nanos
from farebox.ledger.grants import BURN_CLASS, PAID, REPAYING, Grant, GrantState, Source, burn_key
from tests.support.ledger_scenes import HOUR, MICRO, NOON

INSTANTS = st.integers(-3, 3).map(lambda hours: NOON + hours * HOUR)


def grant(
    source: Source = Source.FREE,
    *,
    sequence: int = 1,
    starts: datetime = NOON,
    ends: datetime | None = None,
    state: GrantState = GrantState.OPEN,
) -> Grant:
    """A grant of ten nanos, three of them reserved."""
    return Grant(
        id=UUID(int=sequence),
        organization_id=UUID(int=1),
        sequence=sequence,
        source=source,
        amount=Nanos(10),
        remaining=Nanos(8),
        reserved=Nanos(3),
        frozen=Nanos(0),
        repaid=Nanos(1),
        expired=Nanos(0),
        refunded=Nanos(0),
        effective_at=starts,
        expires_at=ends,
        state=state,
    )


GRANTS = st.builds(
    grant,
    st.sampled_from(Source),
    sequence=st.integers(1, 10**6),
    starts=INSTANTS,
    ends=st.none() | INSTANTS.map(lambda end: end + 9 * HOUR),
)


def test_the_parts_of_a_grant() -> None:
    """DED-04: what is unreserved and what was drawn follow from the row."""
    assert (grant().unreserved, grant().drawn) == (5, 1)


@pytest.mark.parametrize(
    ("after", "live", "expired"),
    [
        (-MICRO, False, False),
        (timedelta(0), True, False),
        (HOUR - MICRO, True, False),
        (HOUR, False, True),
    ],
)
def test_a_grant_is_live_from_its_beginning_to_before_its_end(
    after: timedelta, live: bool, expired: bool
) -> None:
    """CRD-10: active on [effective, expires), by comparison alone."""
    lot = grant(ends=NOON + HOUR)
    assert lot.is_live(NOON + after) is live
    assert lot.has_expired(NOON + after) is expired
    assert grant().is_live(NOON + after) is (after >= timedelta(0))


@pytest.mark.parametrize("state", [GrantState.FROZEN, GrantState.LOST])
def test_a_disputed_grant_is_not_live(state: GrantState) -> None:
    """NEG-01: no new call uses credit whose payment is disputed."""
    assert not grant(state=state).is_live(NOON)


def test_every_source_has_a_class() -> None:
    """CRD-03, DED-02: free before business before purchased; and each pays or repays or not."""
    assert BURN_CLASS.keys() == set(Source)
    assert {source for source, number in BURN_CLASS.items() if number == 3} == {Source.PURCHASED}
    assert PAID < REPAYING
    assert all(BURN_CLASS[source] == 1 for source in set(Source) - PAID)


@given(st.lists(GRANTS, unique_by=lambda g: g.sequence), st.randoms(use_true_random=False))
def test_burn_down_is_a_total_order(grants: list[Grant], chance: random.Random) -> None:
    """DED-03: the order never depends on how the rows were read."""
    shuffled = list(grants)
    chance.shuffle(shuffled)
    ordered = sorted(grants, key=burn_key)
    assert sorted(shuffled, key=burn_key) == ordered
    for before, after in pairwise(ordered):
        if BURN_CLASS[before.source] == BURN_CLASS[after.source]:
            assert before.expires_at is not None or after.expires_at is None
            if before.expires_at is not None and after.expires_at is not None:
                assert before.expires_at <= after.expires_at
        else:
            assert BURN_CLASS[before.source] < BURN_CLASS[after.source]
