"""Usage and charges by any dimension, the share that nobody can be asked about, how calls went."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, convert

from farebox.console.api.calls import optional_id
from farebox.console.api.fields import (
    Amount,
    Cursor,
    Instant,
    InstantIn,
    KeyId,
    Limit,
    Page,
    ProjectId,
    Text,
    page_of,
    read_instant,
    read_number_cursor,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError
from farebox.operations.documents import instant
from farebox.operations.usage import (
    CALLS_SPAN_MAX,
    SPAN_MAX,
    Bucket,
    Dimension,
    UsageQuestion,
    check_kept,
    check_span,
)
from farebox.operations.usage_documents import (
    quality_document,
    row_document,
    sums_document,
    unattributed_document,
)
from farebox.tenancy.permissions import Action

SHOWN: Final = timedelta(days=30)
"""What is summed up unless somebody asks for another span."""

QUALITY_DIMENSIONS: Final = frozenset({Dimension.PROJECT, Dimension.MODEL, Dimension.KEY})

OFFSET_MAX: Final = 1_000_000


class Sums(Struct, frozen=True, kw_only=True):
    """What calls came to; cached tokens are part of input, reasoning tokens of output."""

    calls: int
    charge: Amount
    absorbed: Amount
    cost: Amount | None
    """What upstreams bill; for operators alone."""
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    output_per_input: str | None
    """Output tokens per input token, four decimals; null without input."""


class UsageRow(Sums, frozen=True, kw_only=True):
    """One group; null where a dimension was not asked for, empty where calls named none."""

    at: Instant | None
    """The beginning of its hour or day."""
    project_id: ProjectId | None
    project_name: str | None
    key_id: KeyId | None
    key_name: str | None
    feature: str | None
    environment: str | None
    model: str | None
    endpoint: str | None
    user: str | None
    run: str | None
    tag: str | None
    """What its calls have under the tag that was asked for."""
    charge_percent: str
    """Of the charge of all groups, two decimals, rounded down."""
    calls_percent: str


class Share(Struct, frozen=True, kw_only=True):
    """Calls that named nothing in a dimension."""

    calls: int
    charge: Amount
    share_percent: str
    """Of the charge, two decimals, rounded down."""


class Unnamed(Struct, frozen=True, kw_only=True):
    """How much cannot be attributed."""

    feature: Share
    environment: Share


class Usage(Struct, frozen=True, kw_only=True):
    """A page of groups, and the sum of all of them."""

    object: Literal["usage"] = "usage"
    since: Instant
    until: Instant
    zone: str
    """Days begin by it."""
    as_of: Instant
    """Every call that was charged before is in the sums: they are written with the charge."""
    newest_call_at: Instant | None
    """When the organisation's newest call ended."""
    total: Sums
    unattributed: Unnamed
    data: list[UsageRow]
    next_cursor: str | None


class UsageQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked."""

    since: InstantIn | None = None
    """Thirty days ago, if left out; rounded down to the hour."""
    until: InstantIn | None = None
    by: Annotated[
        str,
        Meta(
            max_length=200,
            description="Comma-separated: " + ", ".join(Dimension),
            examples=["project,model"],
        ),
    ] = ""
    bucket: Bucket | None = None
    project_id: ProjectId | None = None
    key_id: KeyId | None = None
    model: Text | None = None
    feature: Text | None = None
    environment: Text | None = None
    tag: Text | None = None
    """The tag that is meant by ``by=tag``, such as ``prompt``."""
    limit: Limit = 50
    cursor: Cursor | None = None


class QualityRow(Struct, frozen=True, kw_only=True):
    """How the calls of a group went; null where a dimension was not asked for."""

    project_id: ProjectId | None
    project_name: str | None
    model: str | None
    key_id: KeyId | None
    key_name: str | None
    calls: int
    """That have ended."""
    failed: int
    """Of them: not answered with success, or released, or lapsed."""
    retries: int
    """Of them: tried again, as their client said."""
    refused: int
    """Never admitted; not among the calls."""
    retry_charge: Amount
    """Charged for what was tried again."""
    input_tokens: int
    output_tokens: int
    failed_percent: str
    retries_percent: str
    refused_percent: str
    """Of calls and refusals together."""
    average_latency_ms: int | None
    output_per_input: str | None


class QualityQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked."""

    since: InstantIn | None = None
    until: InstantIn | None = None
    by: Annotated[
        str,
        Meta(
            max_length=200,
            description="Comma-separated: project, model, key",
            examples=["project,model"],
        ),
    ] = "project"
    limit: Limit = 50
    cursor: Cursor | None = None


async def show_usage(context: Context) -> Usage:
    """Sums over the hourly rollups; by user, run or tag over the calls themselves."""
    query, session = context.query_as(UsageQuery), context.session
    now = await session.now()
    until = read_instant(query.until, field="until") or now
    since = read_instant(query.since, field="since") or until - SHOWN
    question = UsageQuestion(
        organization_id=context.organization.id,
        zone=context.organization.zone,
        since=since,
        until=until,
        by=_dimensions(query.by),
        bucket=query.bucket,
        project_id=optional_id("proj", query.project_id, "project_id"),
        key_id=optional_id("key", query.key_id, "key_id"),
        model=query.model,
        feature=query.feature,
        environment=query.environment,
        tag=query.tag,
    )
    if (Dimension.TAG in question.by) != (query.tag is not None):
        raise InvalidInputError("tag", "names the tag that usage is asked by: by=tag&tag=prompt")
    check_span(since, until, CALLS_SPAN_MAX if question.over_calls else SPAN_MAX)
    if question.over_calls:
        check_kept(since, await session.money.calls_kept_from())
    offset = _offset(query.cursor)
    found = await session.usage.read(question, limit=query.limit + 1, offset=offset)
    newest_at = await session.usage.newest_at(context.organization.id)
    operator, total = context.standing.operator, found.total
    rows = [row_document(row, total, operator=operator) for row in found.rows]
    page = page_of(UsageRow, rows, query.limit, [offset + query.limit] * len(rows))
    first, after = question.hours
    return Usage(
        since=str(instant(first)),
        until=str(instant(after)),
        zone=context.organization.zone,
        as_of=str(instant(now)),
        newest_call_at=instant(newest_at),
        total=convert(sums_document(total.sums, operator=operator), Sums),
        unattributed=convert(unattributed_document(total), Unnamed),
        data=page.data,
        next_cursor=page.next_cursor,
    )


async def show_quality(context: Context) -> Page[QualityRow]:
    """Failed, repeated and refused calls by project, model and key; over the calls themselves."""
    query, session = context.query_as(QualityQuery), context.session
    until = read_instant(query.until, field="until") or await session.now()
    since = read_instant(query.since, field="since") or until - SHOWN
    check_span(since, until, CALLS_SPAN_MAX)
    check_kept(since, await session.money.calls_kept_from())
    by = _dimensions(query.by)
    if not by <= QUALITY_DIMENSIONS:
        raise InvalidInputError("by", "must be of project, model, key")
    offset = _offset(query.cursor)
    found = await session.usage.quality(
        context.organization.id,
        since=since,
        until=until,
        by=by,
        limit=query.limit + 1,
        offset=offset,
    )
    rows = [quality_document(row) for row in found]
    return page_of(QualityRow, rows, query.limit, [offset + query.limit] * len(rows))


def _offset(cursor: str | None) -> int:
    offset = read_number_cursor(cursor) or 0
    if offset > OFFSET_MAX:
        raise InvalidInputError("cursor", "is too far; narrow the question")
    return offset


def _dimensions(text: str) -> frozenset[Dimension]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {each.value for each in Dimension}
    for name in names:
        if name not in known:
            raise InvalidInputError("by", f"must be of {', '.join(Dimension)} (got {name[:40]!r})")
    return frozenset(map(Dimension, names))


ROUTES: Final = (
    Route(
        method="GET",
        path="/organizations/{organization_id}/usage",
        name="showUsage",
        summary="Usage and charges by any dimension",
        tag="usage",
        handler=show_usage,
        action=Action.USAGE_VIEW,
        query=UsageQuery,
        answer=Usage,
    ),
    Route(
        method="GET",
        path="/organizations/{organization_id}/usage/quality",
        name="showUsageQuality",
        summary="Failed, repeated and refused calls by project, model and key",
        tag="usage",
        handler=show_quality,
        action=Action.USAGE_VIEW,
        query=QualityQuery,
        answer=Page[QualityRow],
    ),
)
