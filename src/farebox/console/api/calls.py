"""Calls: listed with their charge, narrowed by any dimension, each explained; and runs of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Amount,
    CallId,
    Cursor,
    Instant,
    InstantIn,
    KeyId,
    Limit,
    Page,
    ProjectId,
    Text,
    bad_cursor,
    page_of,
    read_cursor,
    read_instant,
)
from farebox.console.api.limits import LimitDocument, limit_row
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import parse_id
from farebox.ledger.scopes import ScopeKind, scope_number
from farebox.operations.call_documents import content_document, explanation, summary
from farebox.operations.calls import decode_cursor, encode_cursor, missing
from farebox.operations.content import forget_content
from farebox.operations.documents import document
from farebox.operations.usage import CALLS_SPAN_MAX, CallFilter, check_span
from farebox.tenancy.permissions import Action

RUNS_SHOWN: Final = timedelta(days=7)
"""Runs are looked for among the calls of a week, unless somebody asks for others."""


class CallRow(Struct, frozen=True, kw_only=True):
    """A call as a list shows it."""

    object: Literal["call"] = "call"
    id: CallId
    status: str
    charge: Amount
    absorbed: Amount
    held: Amount
    estimated: bool
    model: str
    lane: str
    endpoint: str
    project_id: ProjectId
    project_name: str | None
    key_id: KeyId
    key_name: str | None
    user: str
    feature: str
    environment: str
    run: str
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    admitted_at: Instant
    ended_at: Instant | None
    latency_ms: int | None
    http_status: int | None
    reason: str
    times: int


class Named(Struct, frozen=True):
    """A thing by its id and name."""

    id: str
    name: str | None


class Call(Struct, frozen=True, kw_only=True):
    """A call with its charge, explained."""

    object: Literal["call"] = "call"
    id: CallId
    status: str
    reason: str
    message: str | None
    times: int
    currency: str | None
    charge: Amount
    absorbed: Amount
    owed: Amount
    estimated: bool
    late_change: dict[str, Any] | None
    model: str
    lane: str
    endpoint: str
    streamed: bool
    http_status: int | None
    admitted_at: Instant
    ended_at: Instant | None
    latency_ms: int | None
    organization_id: str
    organization: Named
    project: Named
    key: dict[str, Any]
    attribution: dict[str, Any]
    decision: dict[str, Any]
    """What was needed and available, and each limit's figures."""
    hold: dict[str, Any] | None
    usage: dict[str, int]
    price: dict[str, Any] | None
    """The price version that it was rated by."""
    lines: list[dict[str, Any]]
    draws: list[dict[str, Any]]
    """The grants that paid."""
    postings: list[dict[str, Any]]
    sequence: int | None
    operator: dict[str, Any] | None = None
    """What the upstream bills; for operators alone."""


Status = Literal["open", "settled", "released", "lapsed", "late", "refused"]


class CallQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which calls."""

    status: Status | None = None
    project_id: ProjectId | None = None
    key_id: KeyId | None = None
    model: Text | None = None
    feature: Text | None = None
    user: Text | None = None
    run: Text | None = None
    since: InstantIn | None = None
    until: InstantIn | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class CallContent(Struct, frozen=True, kw_only=True):
    """What a call asked and was answered, as it was sent."""

    object: Literal["call_content"] = "call_content"
    id: CallId
    request: str
    request_bytes: int
    request_truncated: bool
    answer: str
    answer_bytes: int
    answer_truncated: bool
    answer_type: str
    stored_at: Instant
    ends_at: Instant
    """It is deleted then."""


class ForgetQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose content."""

    project_id: ProjectId | None = None


class RunRow(Struct, frozen=True, kw_only=True):
    """What an agent's run has used, and its limits."""

    object: Literal["run"] = "run"
    run: str
    calls: int
    charge: Amount
    input_tokens: int
    output_tokens: int
    first_at: Instant
    last_at: Instant
    limits: list[LimitDocument]


class RunQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs."""

    run: Annotated[str, Meta(min_length=1, max_length=400)] | None = None
    since: InstantIn | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


async def list_calls(context: Context) -> Page[CallRow]:
    """Calls, open holds and refusals, newest first."""
    query = context.query_as(CallQuery)
    since = read_instant(query.since, field="since")
    until = read_instant(query.until, field="until")
    if since is not None and until is not None and until <= since:
        raise InvalidInputError("until", "must lie after since")
    narrowed = CallFilter(
        status=query.status,
        project_id=optional_id("proj", query.project_id, "project_id"),
        key_id=optional_id("key", query.key_id, "key_id"),
        model=query.model,
        feature=query.feature,
        user=query.user,
        run=query.run,
        since=since,
        until=until,
    )
    after = None if query.cursor is None else decode_cursor(query.cursor)
    found = await context.session.usage.calls(
        context.organization.id, narrowed, after=after, limit=query.limit + 1
    )
    page = page_of(CallRow, [summary(row) for row in found], query.limit, [""] * len(found))
    more = len(found) > query.limit
    return Page(data=page.data, next_cursor=encode_cursor(found[query.limit - 1]) if more else None)


async def show_call(context: Context) -> dict[str, Any]:
    """One call with its charge; the same answer for one of somebody else as for none at all."""
    facts = await context.session.money.call(context.ids["call_id"])
    standing = context.standing
    if facts is None:
        raise await _no_call(context)
    mine = context.model_key_of
    if mine is not None:
        if facts.organization_id != mine:
            raise await _no_call(context)
    else:
        try:
            standing.require(Action.CALLS_VIEW, facts.organization_id)
        except NotFoundError as error:
            raise await _no_call(context) from error
    return explanation(facts, for_operator=mine is None and standing.operator)


async def _no_call(context: Context) -> NotFoundError:
    return missing(context.ids["call_id"], await context.session.money.calls_kept_from())


async def show_content(context: Context) -> CallContent:
    """What a call said, to those who may see content; for all others there is none."""
    found = await context.session.content.find(context.ids["call_id"])
    if found is None or not context.standing.may(Action.CONTENT_VIEW, found.organization_id):
        raise NotFoundError(
            "Nothing is stored of such a call: its project stores no content, or its days are over."
        )
    return CallContent(**content_document(found))


async def forget_content_of(context: Context) -> None:
    """Delete everything that is stored of the organisation's calls, or of one project's."""
    project = optional_id("proj", context.query_as(ForgetQuery).project_id, "project_id")
    await forget_content(context.session.content, context.organization.id, project)


async def list_runs(context: Context) -> Page[RunRow]:
    """Runs with closed calls, the most recently active first."""
    query, session = context.query_as(RunQuery), context.session
    since, now = read_instant(query.since, field="since"), await session.now()
    since = now - RUNS_SHOWN if since is None else since
    check_span(since, max(now, since + timedelta(seconds=1)), CALLS_SPAN_MAX)
    place = read_cursor(query.cursor)
    found = await session.usage.runs(
        context.organization.id,
        run=query.run,
        since=since,
        before=None if place is None else _read_id(place),
        limit=query.limit + 1,
    )
    limits: dict[str, list[Any]] = {}
    scopes = [scope_number(ScopeKind.RUN, run.run) for run in found]
    for limit in await session.money.limits(context.organization.id, scopes=scopes):
        if limit.scope_kind is ScopeKind.RUN and limit.scope_ref:
            limits.setdefault(limit.scope_ref, []).append(limit_row(limit))
    rows = [document(run) | {"limits": limits.get(run.run, [])} for run in found]
    return page_of(RunRow, rows, query.limit, [run.last_id.hex for run in found])


def optional_id(prefix: str, text: str | None, field: str) -> UUID | None:
    """An id that may be left out."""
    return None if text is None else parse_id(prefix, text, field=field)


def _read_id(place: str) -> UUID:
    try:
        return UUID(hex=place)
    except ValueError as error:
        raise bad_cursor() from error


_ONE: Final = "/organizations/{organization_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path="/calls/{call_id}",
        name="showCall",
        summary="A call with its charge, explained; keys for models may ask for their own",
        tag="calls",
        handler=show_call,
        answer=Call,
        model_keys=True,
    ),
    Route(
        method="GET",
        path="/calls/{call_id}/content",
        name="showCallContent",
        summary="What a call said, where its project stores that",
        tag="calls",
        handler=show_content,
        answer=CallContent,
    ),
    Route(
        method="DELETE",
        path=f"{_ONE}/content",
        name="forgetContent",
        summary="Delete what is stored of calls",
        tag="calls",
        handler=forget_content_of,
        action=Action.ORGANIZATION_CHANGE,
        query=ForgetQuery,
        status=204,
        atomic=False,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/calls",
        name="listCalls",
        summary="Calls, running and refused ones too, newest first",
        tag="calls",
        handler=list_calls,
        action=Action.CALLS_VIEW,
        query=CallQuery,
        answer=Page[CallRow],
    ),
    Route(
        method="GET",
        path=f"{_ONE}/runs",
        name="listRuns",
        summary="Runs with what they used and their limits",
        tag="calls",
        handler=list_runs,
        action=Action.CALLS_VIEW,
        query=RunQuery,
        answer=Page[RunRow],
    ),
)
