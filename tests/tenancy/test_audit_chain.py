"""The audit chain: whatever is changed in it is found, and found at its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from farebox.tenancy.audit_chain import (
    GENESIS,
    AuditEvent,
    BrokenLink,
    ChainCheck,
    ChainHead,
    event_hash,
)

texts = st.text(max_size=8)
values: dict[str, st.SearchStrategy[Any]] = {
    "sequence": st.integers(0, 12),
    "at": st.datetimes(timezones=st.just(UTC)),
    "organization_id": st.none() | st.uuids(),
    "before": st.none() | texts,
    "after": st.none() | texts,
    "previous_hash": st.binary(min_size=32, max_size=32),
    "hash": st.binary(min_size=32, max_size=32),
}
FIELDS = AuditEvent.__struct_fields__


def chain(length: int) -> list[AuditEvent]:
    """A chain of events that differ."""
    events: list[AuditEvent] = []
    previous = GENESIS
    for number in range(1, length + 1):
        event = AuditEvent(
            sequence=number,
            at=datetime(2026, 11, 20, tzinfo=UTC) + timedelta(seconds=number),
            actor_kind="user",
            actor_id=f"user_{number}",
            actor_name="ada@example.org",
            door="api",
            address="192.0.2.1",
            request_id="",
            action="project.changed",
            subject_kind="project",
            subject_id=f"proj_{number}",
            organization_id=UUID(int=7),
            outcome="done",
            reason="",
            before=None,
            after='{"name":"x"}',
            previous_hash=previous,
            hash=GENESIS,
        )
        event = structs.replace(event, hash=event_hash(event))
        previous = event.hash
        events.append(event)
    return events


def check(events: list[AuditEvent], head: ChainHead) -> BrokenLink | None:
    """What the check finds."""
    walk = ChainCheck()
    walk.walk(events)
    walk.finish(head)
    return walk.broken


def head_of(events: list[AuditEvent]) -> ChainHead:
    """The chain's end."""
    return ChainHead(len(events), events[-1].hash if events else GENESIS)


@settings(deadline=None)
@given(st.integers(0, 8))
def test_a_chain_as_it_was_written_is_whole(length: int) -> None:
    """No false alarm, at any length."""
    events = chain(length)
    assert check(events, head_of(events)) is None


@settings(deadline=None)
@given(st.data(), st.integers(1, 6), st.sampled_from(FIELDS))
def test_any_change_of_any_field_is_found(data: st.DataObject, length: int, field: str) -> None:
    """Whatever a stored field is made to say, the check stops there or at the link after it."""
    events = chain(length)
    place = data.draw(st.integers(0, length - 1))
    changed = data.draw(values.get(field, texts))
    assume(changed != getattr(events[place], field))
    tampered = list(events)
    tampered[place] = structs.replace(events[place], **{field: changed})
    broken = check(tampered, head_of(events))
    assert broken is not None
    # Sorted by a changed sequence the event stands elsewhere; its own place is then missing.
    if field != "sequence":
        assert broken.sequence == place + 1


@settings(deadline=None)
@given(st.data(), st.integers(1, 6))
def test_a_change_with_its_hash_is_found_at_the_next_link(data: st.DataObject, length: int) -> None:
    """Who also mends the hash breaks the link after it, or no longer fits the head."""
    events = chain(length)
    place = data.draw(st.integers(0, length - 1))
    forged = structs.replace(events[place], reason="forged")
    tampered = list(events)
    tampered[place] = structs.replace(forged, hash=event_hash(forged))
    broken = check(tampered, head_of(events))
    assert broken is not None
    assert broken.sequence == min(place + 2, length)


@settings(deadline=None)
@given(st.data(), st.integers(2, 6))
def test_no_event_goes_comes_or_moves(data: st.DataObject, length: int) -> None:
    """Dropped, doubled and swapped events are found, the last one too."""
    events = chain(length)
    head = head_of(events)
    place = data.draw(st.integers(0, length - 1))
    broken = check(events[:place] + events[place + 1 :], head)
    assert broken is not None
    assert broken.sequence == place + 1
    assert check([*events[: place + 1], *events[place:]], head) is not None
    swapped = list(events)
    swapped[0], swapped[place] = swapped[place], swapped[0]
    assert (check(swapped, head) is None) == (place == 0)


def test_the_head_is_watched_too() -> None:
    """A head that runs ahead names what is missing; one that lags or differs is no end."""
    events = chain(3)
    assert check(events, ChainHead(5, bytes(32))) == BrokenLink(4, "events up to 5 are missing")
    for head in (ChainHead(3, bytes(32)), ChainHead(2, events[1].hash), ChainHead(0, GENESIS)):
        found = check(events, head)
        assert found is not None
        assert found.sequence == 3


def test_a_check_may_begin_after_a_trusted_event() -> None:
    """The part after a head that was kept is checked by itself."""
    events = chain(4)
    walk = ChainCheck(ChainHead(2, events[1].hash))
    walk.walk(events[2:3])
    walk.walk(events[3:])
    walk.finish(head_of(events))
    assert walk.broken is None
    assert walk.last == head_of(events)
    wrong = ChainCheck(ChainHead(2, bytes(32)))
    wrong.walk(events[2:])
    assert wrong.broken == BrokenLink(3, "it does not follow the event before it")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"actor_id": "ab", "actor_name": "c"}, {"actor_id": "a", "actor_name": "bc"}),
        ({"before": None}, {"before": ""}),
        ({"before": None, "after": "x"}, {"before": "x", "after": None}),
        ({"reason": '","'}, {"reason": ""}),
    ],
)
def test_no_two_events_have_one_text(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Fields cannot flow into each other, and nothing is not an empty text."""
    (event,) = chain(1)
    assert event_hash(structs.replace(event, **one)) != event_hash(structs.replace(event, **other))
