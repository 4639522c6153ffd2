"""Usage and charges by any dimension, with the share that nobody can be asked about."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from farebox.console.api.calls import optional_id
from farebox.console.api.fields import (
    Amount,
    Cursor,
    Instant,
    InstantIn,
    KeyId,
    Limit,
    ProjectId,
    Text,
    page_of,
    read_instant,
    read_number_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError
from farebox.kit.money import format_amount
from farebox.operations.documents import document, instant
from farebox.operations.usage import (
    CALLS_SPAN_MAX,
    SPAN_MAX,
    Bucket,
    Dimension,
    Unattributed,
    UsageQuestion,
    UsageSums,
    check_span,
)
from farebox.tenancy.permissions import Action

SHOWN: Final = timedelta(days=30)
"""What is summed up unless somebody asks for another span."""

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
    limit: Limit = 50
    cursor: Cursor | None = None


async def show_usage(context: Context) -> Usage:
    """Sums over the hourly rollups; by user or run over the calls themselves."""
    query, session = context.query_as(UsageQuery), context.session
    until = read_instant(query.until, field="until") or await session.now()
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
    )
    check_span(since, until, CALLS_SPAN_MAX if question.over_calls else SPAN_MAX)
    offset = read_number_cursor(query.cursor) or 0
    if offset > OFFSET_MAX:
        raise InvalidInputError("cursor", "is too far; narrow the question")
    found = await session.usage.rows(question, limit=query.limit + 1, offset=offset)
    total = await session.usage.total(question)
    operator = context.standing.operator
    rows = [document(row) | _sums(row.sums, operator=operator) for row in found]
    place = offset + query.limit
    page = page_of(UsageRow, rows, query.limit, [place] * len(rows))
    return Usage(
        since=str(instant(since)),
        until=str(instant(until)),
        zone=context.organization.zone,
        total=shown(Sums, total.sums, **_sums(total.sums, operator=operator)),
        unattributed=Unnamed(
            feature=_share(total.no_feature, total.sums),
            environment=_share(total.no_environment, total.sums),
        ),
        data=page.data,
        next_cursor=page.next_cursor,
    )


def _dimensions(text: str) -> frozenset[Dimension]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {each.value for each in Dimension}
    for name in names:
        if name not in known:
            raise InvalidInputError("by", f"must be of {', '.join(Dimension)} (got {name[:40]!r})")
    return frozenset(map(Dimension, names))


def _sums(sums: UsageSums, *, operator: bool) -> dict[str, Any]:
    facts = document(sums)
    return facts if operator else facts | {"cost": None}


def _share(part: Unattributed, whole: UsageSums) -> Share:
    hundredths = part.charge * 10_000 // whole.charge if whole.charge else 0
    return Share(
        calls=part.calls,
        charge=format_amount(part.charge),
        share_percent=f"{hundredths // 100}.{hundredths % 100:02d}",
    )


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
)
