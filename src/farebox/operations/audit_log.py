"""The audit log: what is noted of a change, who may read it, and the check of the whole chain.

A change of settings and its event commit together. Money moves in the engine's own transactions,
so a money action is noted before and chained with its outcome afterwards
(:mod:`farebox.operations.audited_money`). No secret is ever noted: facts are, and facts have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
from msgspec import structs

from farebox.kit.errors import InvalidInputError
from farebox.kit.texts import storable
from farebox.tenancy.actors import Actor
from farebox.tenancy.audit_chain import (
    GENESIS,
    AuditEvent,
    BrokenLink,
    ChainCheck,
    ChainHead,
    Outcome,
    event_hash,
)

TEXT_LENGTH_MAX: Final = 500
"""Of a name, a reason, an address: what a client sends must not fill the log."""

PAGE: Final = 1_000
"""Events that are read at a time when the chain is checked."""

_encode: Final = msgspec.json.Encoder(order="sorted").encode

Facts = Mapping[str, object]
"""A JSON object: amounts as decimal strings, instants as ISO 8601, ids with their prefix."""


class AuditNote(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, for the log."""

    action: str
    """A noun and what was done to it: ``project.changed``."""
    subject_kind: str
    subject_id: str
    """With its prefix."""
    organization_id: UUID | None = None
    """Whose matter it is; None: the deployment's."""
    before: Facts | None = None
    after: Facts | None = None
    outcome: Outcome = Outcome.DONE
    reason: str = ""


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the check of the chain found."""

    checked: int
    head: ChainHead
    """To note elsewhere: a later check against it finds a chain that was rewritten."""
    broken: BrokenLink | None

    @property
    def is_whole(self) -> bool:
        """Whether every event is as it was written."""
        return self.broken is None


class AuditLog(Protocol):
    """Where the chain is kept."""

    async def events(
        self,
        *,
        organization_id: UUID | None = None,
        actor_id: str | None = None,
        action: str | None = None,
        subject_id: str | None = None,
        before: int | None = None,
        limit: int,
    ) -> list[AuditEvent]:
        """Events, the newest first, narrowed by what is given; ``before`` is the last one seen."""

    async def onward(self, after: int, *, limit: int) -> list[AuditEvent]:
        """The next events after a sequence, in their order."""

    async def head(self) -> ChainHead:
        """The end of the chain."""

    async def begin(self, note: AuditNote) -> UUID:
        """Note a money action that is about to be asked for."""

    async def finish(self, pending_id: UUID, note: AuditNote) -> None:
        """Chain a money action that was begun, with its outcome."""

    async def chain_abandoned(self) -> int:
        """Chain, as unknown, what was begun and never finished; gives how many."""


def made(kind: str, subject_id: str, organization_id: UUID | None, facts: Facts) -> AuditNote:
    """The note of something new."""
    return AuditNote(
        action=f"{kind}.created",
        subject_kind=kind,
        subject_id=subject_id,
        organization_id=organization_id,
        after=facts,
    )


def changed(
    action: str, subject_id: str, organization_id: UUID | None, before: Facts, after: Facts
) -> AuditNote | None:
    """The note of a change: only the facts that differ; None where none does."""
    names = [name for name in after if before.get(name) != after[name]]
    if not names:
        return None
    return AuditNote(
        action=action,
        subject_kind=action.partition(".")[0],
        subject_id=subject_id,
        organization_id=organization_id,
        before={name: before.get(name) for name in names},
        after={name: after[name] for name in names},
    )


def sealed(by: Actor, note: AuditNote, head: ChainHead, at: datetime) -> AuditEvent:
    """The event that follows a head.

    Args:
        by: Who did it.
        note: What they did.
        head: The end of the chain, under its lock.
        at: The database's time.
    """
    note = cleaned(note)
    event = AuditEvent(
        sequence=head.sequence + 1,
        at=at,
        actor_kind=by.kind.value,
        actor_id=_text(by.id),
        actor_name=_text(by.name),
        door=by.door.value,
        address=_text(by.address),
        request_id=_text(by.request_id),
        action=note.action,
        subject_kind=note.subject_kind,
        subject_id=note.subject_id,
        organization_id=note.organization_id,
        outcome=note.outcome.value,
        reason=note.reason,
        before=_facts(note.before),
        after=_facts(note.after),
        previous_hash=head.hash,
        hash=GENESIS,
    )
    return structs.replace(event, hash=event_hash(event))


def cleaned(note: AuditNote) -> AuditNote:
    """The note as it can be stored: what a shell hands over may hold halves of characters."""
    return structs.replace(
        note,
        subject_id=_text(note.subject_id),
        reason=_text(note.reason),
        before=None if note.before is None else _clean(note.before),
        after=None if note.after is None else _clean(note.after),
    )


async def verify_log(log: AuditLog, *, anchor: ChainHead | None = None) -> AuditReport:
    """Check the whole chain, or the part after an event that is trusted.

    Events that come while it runs are left to the next check.

    Args:
        log: The log.
        anchor: A head that was noted elsewhere: the event of its number must have its hash.
    """
    head = await log.head()
    check = ChainCheck()
    seen, last_seen = 0, 0
    anchored = anchor is None
    while check.broken is None and last_seen < head.sequence:
        page = [e for e in await log.onward(last_seen, limit=PAGE) if e.sequence <= head.sequence]
        if not page:
            break
        check.walk(page)
        anchored = anchored or any(ChainHead(e.sequence, e.hash) == anchor for e in page)
        seen += len(page)
        last_seen = page[-1].sequence
    check.finish(head)
    broken = check.broken
    if broken is None and not anchored:
        assert anchor is not None
        broken = BrokenLink(anchor.sequence, "it has not the hash that was noted elsewhere")
    return AuditReport(checked=seen, head=head, broken=broken)


def parse_anchor(text: str, *, field: str = "anchor") -> ChainHead:
    """Read a head that was noted: ``NUMBER:HASH``, as ``audit verify`` prints it.

    Raises:
        InvalidInputError: It is none.
    """
    number, _, digits = text.strip().partition(":")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if not (number.isascii() and number.isdigit() and len(digest) == len(GENESIS)):
        raise InvalidInputError(
            field, "must be a number, a colon and 64 hexadecimal digits, as audit verify prints it"
        )
    return ChainHead(int(number), digest)


def _text(text: str) -> str:
    return storable(text)[:TEXT_LENGTH_MAX]


def _facts(facts: Facts | None) -> str | None:
    return None if facts is None else _encode(facts).decode()


def _clean(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case Mapping():
            return {storable(str(name)): _clean(each) for name, each in value.items()}
        case list() | tuple():
            return [_clean(each) for each in value]
        case _:
            return value
