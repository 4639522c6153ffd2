"""The audit log: notes, sealed events, and the walk along the chain."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.operations import audit_log
from farebox.operations.audit_log import (
    TEXT_LENGTH_MAX,
    AuditNote,
    changed,
    made,
    parse_anchor,
    sealed,
    verify_log,
)
from farebox.tenancy.actors import SYSTEM, Actor, ActorKind, Door
from farebox.tenancy.audit_chain import GENESIS, AuditEvent, ChainHead, event_hash

AT = datetime(2026, 11, 20, tzinfo=UTC)
START = ChainHead(0, GENESIS)


class Chain:
    """A log in memory, for reading alone."""

    def __init__(self, events: list[AuditEvent], head: ChainHead) -> None:
        self._events = events
        self._head = head

    async def onward(self, after: int, *, limit: int) -> list[AuditEvent]:
        """See the port."""
        return [event for event in self._events if event.sequence > after][:limit]

    async def head(self) -> ChainHead:
        """See the port."""
        return self._head


def chain(length: int) -> list[AuditEvent]:
    """So many events."""
    events: list[AuditEvent] = []
    head = START
    for number in range(length):
        note = AuditNote(action="a.b", subject_kind="a", subject_id=str(number))
        events.append(sealed(SYSTEM, note, head, AT))
        head = ChainHead(events[-1].sequence, events[-1].hash)
    return events


def verify(events: list[AuditEvent], head: ChainHead, **options: Any) -> Any:
    """The check of a chain in memory."""
    return verify_log(Chain(events, head), **options)  # type: ignore[arg-type]


async def test_a_long_chain_is_walked_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page's size, every event is checked once."""
    events = chain(7)
    head = ChainHead(7, events[-1].hash)
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(audit_log, "PAGE", size)
        report = await verify(events, head)
        assert (report.is_whole, report.checked, report.head) == (True, 7, head)
    assert (await verify([], START)).is_whole


async def test_what_comes_meanwhile_is_left_to_the_next_check() -> None:
    """The chain is checked up to the head that was read first."""
    events = chain(5)
    report = await verify(events, ChainHead(3, events[2].hash))
    assert (report.is_whole, report.checked) == (True, 3)


async def test_an_anchor_is_an_event_with_that_hash() -> None:
    """A head that was noted elsewhere stands in the chain still, or the chain was rewritten."""
    events = chain(4)
    head = ChainHead(4, events[-1].hash)
    for event in events:
        assert (await verify(events, head, anchor=ChainHead(event.sequence, event.hash))).is_whole
    for anchor in (ChainHead(2, events[2].hash), ChainHead(9, bytes(32))):
        report = await verify(events, head, anchor=anchor)
        assert report.broken is not None
        assert report.broken.sequence == anchor.sequence


def test_an_anchor_is_read_as_it_is_printed() -> None:
    """NUMBER:HASH, and nothing else."""
    assert parse_anchor(f" 12:{'ab' * 32} ") == ChainHead(12, b"\xab" * 32)
    for text in ("", "12", "12:", f"x:{'ab' * 32}", f"12:{'ab' * 31}", f"-1:{'ab' * 32}"):
        with pytest.raises(InvalidInputError, match="anchor"):
            parse_anchor(text)


def test_only_what_differs_is_noted() -> None:
    """Before and after of each changed fact; no note where nothing changed."""
    before = {"id": "proj_1", "name": "old", "cap": 1}
    note = changed("project.changed", "proj_1", UUID(int=1), before, before | {"name": "new"})
    assert note is not None
    assert (note.subject_kind, note.before, note.after) == (
        *("project", {"name": "old"}),
        {"name": "new"},
    )
    assert changed("project.changed", "proj_1", None, before, dict(before)) is None
    assert made("key", "key_1", None, before).action == "key.created"


def test_no_text_fills_the_log_or_breaks_it() -> None:
    """What clients send is cut and made storable: a log that can be attacked is no log."""
    by = Actor(
        kind=ActorKind.USER,
        id="u",
        name="x" * 9_999,
        door=Door.API,
        address="\x00",
        request_id="\ud800",
    )
    note = AuditNote(
        action="a.b",
        subject_kind="a",
        subject_id="\ud800",
        reason="y" * 9_999,
        after={"text\x00": ["\ud800", {"deep": "\x00"}], "number": 5, "nothing": None},
    )
    event = sealed(by, note, START, AT)
    assert len(event.actor_name) == len(event.reason) == TEXT_LENGTH_MAX
    assert (event.address, event.request_id, event.subject_id) == ("\ufffd",) * 3
    assert event.after == ('{"nothing":null,"number":5,"text\ufffd":["\ufffd",{"deep":"\ufffd"}]}')
    assert event_hash(event) == event.hash
