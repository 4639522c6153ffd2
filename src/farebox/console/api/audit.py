"""The audit log: who did what, and the check that nobody has rewritten it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Cursor,
    Instant,
    Limit,
    OrganizationId,
    Page,
    Text,
    page_of,
    read_number_cursor,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.ids import format_id
from farebox.operations.audit_log import parse_anchor, verify_log
from farebox.operations.documents import instant
from farebox.tenancy.audit_chain import AuditEvent
from farebox.tenancy.permissions import Action

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Actor(Struct, frozen=True, kw_only=True):
    """Who did it, and from where."""

    kind: str
    id: str
    name: str
    door: str
    address: str
    request_id: str


class Event(Struct, frozen=True, kw_only=True):
    """Something that was done, or tried."""

    object: Literal["audit_event"] = "audit_event"
    sequence: int
    at: Instant
    actor: Actor
    action: str
    subject_kind: str
    subject_id: str
    organization_id: OrganizationId | None
    outcome: str
    reason: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    hash: Hash


class EventQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    actor_id: Text | None = None
    action: Text | None = None
    subject_id: Text | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class Verification(Struct, frozen=True, kw_only=True):
    """What the check of the whole chain found."""

    object: Literal["audit_verification"] = "audit_verification"
    status: Literal["whole", "broken"]
    checked: int
    head: str
    """The chain's end, as NUMBER:HASH: note it elsewhere, and give it as the anchor next time."""
    broken_at: int | None
    reason: str | None


class VerificationQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trusted."""

    anchor: Annotated[str, Meta(max_length=100)] | None = None


async def list_events(context: Context) -> Page[Event]:
    """The deployment's events, newest first."""
    return await _page(context, None)


async def list_own_events(context: Context) -> Page[Event]:
    """An organisation's events, newest first."""
    return await _page(context, context)


async def verify(context: Context) -> Verification:
    """Walk along the whole chain."""
    anchor = context.query_as(VerificationQuery).anchor
    report = await verify_log(
        context.session.audit, anchor=None if anchor is None else parse_anchor(anchor)
    )
    broken = report.broken
    return Verification(
        status="whole" if broken is None else "broken",
        checked=report.checked,
        head=f"{report.head.sequence}:{report.head.hash.hex()}",
        broken_at=None if broken is None else broken.sequence,
        reason=None if broken is None else broken.reason,
    )


async def _page(context: Context, whose: Context | None) -> Page[Event]:
    query = context.query_as(EventQuery)
    found = await context.session.audit.events(
        organization_id=None if whose is None else whose.organization.id,
        actor_id=query.actor_id,
        action=query.action,
        subject_id=query.subject_id,
        before=read_number_cursor(query.cursor),
        limit=query.limit + 1,
    )
    rows = [_event(event) for event in found]
    return page_of(Event, rows, query.limit, [event.sequence for event in found])


def _event(event: AuditEvent) -> dict[str, Any]:
    org = event.organization_id
    return {
        "sequence": event.sequence,
        "at": instant(event.at),
        "actor": {
            "kind": event.actor_kind,
            "id": event.actor_id,
            "name": event.actor_name,
            "door": event.door,
            "address": event.address,
            "request_id": event.request_id,
        },
        "action": event.action,
        "subject_kind": event.subject_kind,
        "subject_id": event.subject_id,
        "organization_id": None if org is None else format_id("org", org),
        "outcome": event.outcome,
        "reason": event.reason,
        "before": None if event.before is None else msgspec.json.decode(event.before),
        "after": None if event.after is None else msgspec.json.decode(event.after),
        "hash": event.hash.hex(),
    }


ROUTES: Final = (
    Route(
        method="GET",
        path="/audit",
        name="listAuditEvents",
        summary="Everything that was done, newest first",
        tag="audit",
        handler=list_events,
        action=Action.DEPLOYMENT_VIEW,
        query=EventQuery,
        answer=Page[Event],
    ),
    Route(
        method="GET",
        path="/audit/verification",
        name="verifyAudit",
        summary="Check that the log is as it was written",
        tag="audit",
        handler=verify,
        action=Action.DEPLOYMENT_VIEW,
        query=VerificationQuery,
        answer=Verification,
    ),
    Route(
        method="GET",
        path="/organizations/{organization_id}/audit",
        name="listOwnAuditEvents",
        summary="What was done in the organisation, newest first",
        tag="audit",
        handler=list_own_events,
        action=Action.AUDIT_VIEW,
        query=EventQuery,
        answer=Page[Event],
    ),
)
