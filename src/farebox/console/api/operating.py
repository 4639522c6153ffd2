"""Operating the deployment: commands that the database rejected, and the sandbox's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from farebox.console.api.fields import (
    CallId,
    Cursor,
    Instant,
    Limit,
    OrganizationId,
    Page,
    page_of,
    read_number_cursor,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import NotFoundError
from farebox.operations.clock import ADVANCE_MAX, clock_document
from farebox.operations.quarantine import command_document, find_command
from farebox.tenancy.permissions import Action

ADVANCE_SECONDS_MAX: Final = int(ADVANCE_MAX.total_seconds())

_NUMBER_MAX: Final = 2**63 - 1


class QuarantinedRow(Struct, frozen=True, kw_only=True):
    """A command that the database rejected; its hold stays until a ruling."""

    object: Literal["quarantined_command"] = "quarantined_command"
    id: str
    """Its number."""
    at: Instant
    organization_id: OrganizationId
    organization_name: str | None
    command_kind: str
    call_id: CallId | None
    """The call whose hold stays, for a command about one."""
    error: str
    """What the database said."""
    ruled_at: Instant | None


class QuarantinedCommand(QuarantinedRow, frozen=True, kw_only=True):
    """One with what it was to do."""

    command: dict[str, Any]
    """As it was to be decided; amounts are in billionths."""


class QuarantineQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of them."""

    ruled: Literal["true", "false"] = "false"
    """Whether those ruled on are listed, too."""
    limit: Limit = 50
    cursor: Cursor | None = None


class ClockNow(Struct, frozen=True, kw_only=True):
    """What time it is here."""

    object: Literal["clock"] = "clock"
    now: Instant
    sandbox: bool
    """Only a sandbox's clock moves by hand."""
    offset_seconds: int
    """How far it was moved."""


class ClockAdvance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far forwards."""

    seconds: Annotated[int, Meta(ge=1, le=ADVANCE_SECONDS_MAX)]


async def list_quarantined(context: Context) -> Page[QuarantinedRow]:
    """Those that wait for a ruling, oldest first."""
    query = context.query_as(QuarantineQuery)
    found = await context.session.quarantine.commands(
        every=query.ruled == "true", after=read_number_cursor(query.cursor), limit=query.limit + 1
    )
    rows = [command_document(each) for each in found]
    return page_of(QuarantinedRow, rows, query.limit, [each.id for each in found])


async def show_quarantined(context: Context) -> QuarantinedCommand:
    """One of them, ruled on or not."""
    found = await find_command(context.session.quarantine, _number(context))
    return msgspec.convert(command_document(found, whole=True), QuarantinedCommand)


async def rule_quarantined(context: Context) -> QuarantinedCommand:
    """Rule that it shall not take effect: its hold lapses like one whose gateway is gone."""
    await context.session.quarantine.rule(_number(context))
    return await show_quarantined(context)


async def show_clock(context: Context) -> ClockNow:
    """What time it is here."""
    return msgspec.convert(clock_document(await context.session.clock.show()), ClockNow)


async def advance_clock(context: Context) -> ClockNow:
    """Move a sandbox's clock; a real installation's is never moved."""
    by = timedelta(seconds=context.body_as(ClockAdvance).seconds)
    return msgspec.convert(clock_document(await context.session.clock.advance(by)), ClockNow)


def _number(context: Context) -> int:
    text = context.texts["quarantine_number"]
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _NUMBER_MAX):
        raise NotFoundError("There is no such quarantined command.")
    return int(text)


_QUARANTINE: Final = "/quarantine"
_COMMAND: Final = "/quarantine/{quarantine_number}"

ROUTES: Final = (
    Route(
        method="GET",
        path=_QUARANTINE,
        name="listQuarantined",
        summary="Commands that the database rejected and that wait for a ruling",
        tag="deployment",
        handler=list_quarantined,
        action=Action.DEPLOYMENT_VIEW,
        query=QuarantineQuery,
        answer=Page[QuarantinedRow],
    ),
    Route(
        method="GET",
        path=_COMMAND,
        name="showQuarantined",
        summary="A command that the database rejected, with what it was to do",
        tag="deployment",
        handler=show_quarantined,
        action=Action.DEPLOYMENT_VIEW,
        answer=QuarantinedCommand,
    ),
    Route(
        method="POST",
        path=_COMMAND + "/ruling",
        name="ruleQuarantined",
        summary="Let the hold of a rejected command lapse",
        tag="deployment",
        handler=rule_quarantined,
        action=Action.DEPLOYMENT_CHANGE,
        answer=QuarantinedCommand,
    ),
    Route(
        method="GET",
        path="/clock",
        name="showClock",
        summary="What time it is here",
        tag="deployment",
        handler=show_clock,
        action=Action.DEPLOYMENT_VIEW,
        answer=ClockNow,
    ),
    Route(
        method="POST",
        path="/clock/advance",
        name="advanceClock",
        summary="Move a sandbox's clock forwards",
        tag="deployment",
        handler=advance_clock,
        action=Action.DEPLOYMENT_CHANGE,
        body=ClockAdvance,
        answer=ClockNow,
    ),
)
