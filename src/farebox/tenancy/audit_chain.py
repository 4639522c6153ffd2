"""The chain of the audit log: an event's hash is over the event before it and all its own fields.

Whoever changes, drops, adds or reorders a stored event breaks the chain at that place, and who
cuts its end off leaves a head that no longer fits. Only someone who rewrites everything after the
change, and the head, goes unseen by the log alone; a head that was noted elsewhere finds them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

GENESIS: Final = bytes(32)
"""The hash before the first event."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DOMAIN: Final = "farebox audit 1"
"""What else is ever hashed here cannot be taken for an event."""


class Outcome(StrEnum):
    """What became of it."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The process died before it heard; whether it was done is seen by its subject."""


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody did, as it is stored."""

    sequence: int
    """From one on, without a gap."""
    at: datetime
    actor_kind: str
    actor_id: str
    actor_name: str
    door: str
    address: str
    request_id: str
    action: str
    """``project.changed``: a noun and what was done to it."""
    subject_kind: str
    subject_id: str
    organization_id: UUID | None
    outcome: str
    reason: str
    """The code of a refusal, or the sentence that the actor gave."""
    before: str | None
    """A JSON object's text, exactly as it was hashed; None where there was nothing before."""
    after: str | None
    previous_hash: bytes
    hash: bytes


class ChainHead(msgspec.Struct, frozen=True):
    """The end of the chain."""

    sequence: int
    hash: bytes


class BrokenLink(msgspec.Struct, frozen=True):
    """The first place where the chain does not hold."""

    sequence: int
    reason: str


_HASHED: Final = tuple(name for name in AuditEvent.__struct_fields__ if name != "hash")

_encode: Final = msgspec.json.Encoder().encode


def event_hash(event: AuditEvent) -> bytes:
    """The hash of an event: SHA-256 over a JSON array of all its other fields.

    JSON says where each field ends, so no two events have the same text.
    """
    return sha256(_encode([_DOMAIN, *(_plain(getattr(event, name)) for name in _HASHED)])).digest()


def _plain(value: object) -> object:
    match value:
        case datetime():
            return (value - _EPOCH) // _MICROSECOND
        case UUID():
            return value.hex
        case bytes():
            return value.hex()
        case _:
            return value


class ChainCheck:
    """Walks along a chain, page by page; after the first broken link it stands still."""

    def __init__(self, start: ChainHead | None = None) -> None:
        """Begin at the first event, or after one that is trusted."""
        self._last = start or ChainHead(0, GENESIS)
        self.broken: BrokenLink | None = None

    @property
    def last(self) -> ChainHead:
        """The last event that holds."""
        return self._last

    def walk(self, events: Iterable[AuditEvent]) -> None:
        """Check the next events, in their order."""
        for event in events:
            if self.broken is not None:
                return
            expected = self._last.sequence + 1
            reason = _fault(event, self._last)
            if reason is None:
                self._last = ChainHead(event.sequence, event.hash)
            else:
                self.broken = BrokenLink(min(expected, event.sequence), reason)

    def finish(self, head: ChainHead) -> None:
        """Check that the chain ends where its head says."""
        if self.broken is not None or self._last == head:
            return
        if head.sequence > self._last.sequence:
            reason = f"events up to {head.sequence} are missing"
            self.broken = BrokenLink(self._last.sequence + 1, reason)
        else:
            reason = "the head of the chain names another event or another hash"
            self.broken = BrokenLink(self._last.sequence, reason)


def _fault(event: AuditEvent, last: ChainHead) -> str | None:
    expected = last.sequence + 1
    if event.sequence > expected:
        return f"event {expected} is missing"
    if event.sequence < expected:
        return f"event {event.sequence} is out of its order"
    if event.previous_hash != last.hash:
        return "it does not follow the event before it"
    return None if event_hash(event) == event.hash else "its fields do not give its hash"
