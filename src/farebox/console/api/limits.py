"""Limits: set, changed, raised for a while and removed, each by the engine and noted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from farebox.console.api.fields import (
    CallId,
    Count,
    Cursor,
    Instant,
    InstantIn,
    Page,
    Text,
    bad_cursor,
    read_cursor,
    read_instant,
    write_cursor,
)
from farebox.console.api.fields import Limit as Rows
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import looks_like_id, parse_id
from farebox.kit.money import parse_amount
from farebox.ledger.alerting import usual_thresholds
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.scopes import EVERY, ScopeKind, scope_number
from farebox.operations.api_ports import MoneyViews
from farebox.operations.balance import LimitView
from farebox.operations.limit_documents import limit_document
from farebox.operations.shadow_limits import ShadowRefusals, shadow_document
from farebox.tenancy.permissions import Action

LimitId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
Quantity = str | int
"""Money as a decimal string, counts as whole numbers."""

_ID_DIGITS: Final = 16
_LIMIT_ID: Final = re.compile(r"[0-7][0-9a-f]{15}[0-9a-f]{16}")
"""Two positive 63-bit numbers: the scope's and the rule's; or behind all of a scope."""

_FIELDS: Final = {"scope_ref": "scope_id", "thresholds": "thresholds_percent"}
"""Field of the engine's command -> of the body."""


class WouldHaveRefused(Struct, frozen=True, kw_only=True):
    """The calls for which a limit in shadow had no room when they were admitted.

    Of the newest 5,000 calls of the last 31 days; of a default, those of every scope of its kind.
    """

    calls: Count
    since: Instant
    """Earlier calls were not looked at."""
    last_call_id: CallId | None
    last_call_at: Instant | None


class LimitDocument(Struct, frozen=True, kw_only=True):
    """A limit with its counter in the current window."""

    object: Literal["limit"] = "limit"
    id: LimitId
    """Made of what the limit is: the same again when it is set again."""
    scope_kind: ScopeKind
    scope_id: str
    """An id with its prefix, or a name; empty for a default of each scope of the kind."""
    is_default: bool
    measure: Measure
    period: Period
    effect: Effect
    models: str | None
    maximum: Quantity
    used: Quantity
    held: Quantity
    left: Quantity
    thresholds_percent: list[int]
    owner: str | None
    origin: Origin
    """``tier``: it comes with the usage tier, and changes with that alone."""
    count_failed: bool
    """False: calls that fail give their count back when they end."""
    raised_to: Quantity | None
    raised_from: Instant | None
    raised_until: Instant | None
    starts_at: Instant | None
    resets_at: Instant | None
    would_have_refused: WouldHaveRefused | None
    """Of a limit in shadow (BUD-03); null for every other."""


class LimitOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit as it is to stand; scope, measure, period, effect and models say which one it is."""

    scope_kind: ScopeKind = ScopeKind.ORGANIZATION
    scope_id: Annotated[str, Meta(max_length=400)] = EVERY
    """An id or a name; empty: the organisation itself, or each scope of the kind."""
    measure: Measure = Measure.MONEY
    period: Period
    effect: Effect = Effect.HARD
    models: Annotated[str, Meta(max_length=256)] = ""
    """A model, or the beginning of one and ``*``; empty means every model."""
    maximum: Quantity
    """Money as a decimal string; tokens, calls, seconds, levels as whole numbers."""
    thresholds_percent: Annotated[list[int], Meta(max_length=10)] | UnsetType = UNSET
    """Left out: 50, 80 and 100 for a budget of one scope; empty: nothing is told."""
    owner: Text = ""
    count_failed: bool = True
    """Whether calls that fail stay counted; may be false for calls per minute alone."""
    raised_to: Quantity | None = None
    raised_from: InstantIn | None = None
    raised_until: InstantIn | None = None


class LimitQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which limits."""

    scope_kind: ScopeKind | None = None
    scope_id: Text | None = None
    measure: Measure | None = None
    effect: Effect | None = None
    limit: Rows = 50
    cursor: Cursor | None = None


class LimitsFound(NamedTuple):
    """A page of limits."""

    views: list[LimitView]
    """In the order of their ids."""
    next_cursor: str | None
    at: datetime
    """The instant of every figure."""


async def list_limits(context: Context) -> Page[LimitDocument]:
    """Limits by scope, those that stand by default too."""
    found = await find_limits(
        context.session.money, context.organization.id, context.query_as(LimitQuery)
    )
    return Page(data=await _shown(context, found.views), next_cursor=found.next_cursor)


async def find_limits(money: MoneyViews, organization_id: UUID, query: LimitQuery) -> LimitsFound:
    """A page of an organisation's limits; it reads no more scopes than it may have rows.

    Raises:
        InvalidInputError: The cursor is none of ours.
    """
    place = read_cursor(query.cursor) or ""
    if place and _LIMIT_ID.fullmatch(place) is None:
        raise bad_cursor()
    found = await money.limit_page(
        organization_id,
        kind=query.scope_kind,
        ref=None if query.scope_id is None else _engine_ref(query.scope_id),
        begin=int(place[:_ID_DIGITS] or "0", 16),
        limit=query.limit + 1,
    )
    views = [
        view
        for view in sorted(found.limits, key=view_id)
        if view_id(view) > place
        and query.measure in {None, view.rule.measure}
        and query.effect in {None, view.rule.effect}
    ]
    behind: str | None = None
    if len(views) > query.limit:
        behind = view_id(views[query.limit - 1])
    elif found.next_scope is not None:
        # What was looked at ends before the page is full: the next one goes on behind it.
        behind = f"{found.next_scope - 1:0{_ID_DIGITS}x}{'f' * _ID_DIGITS}"
    cursor = None if behind is None else write_cursor(behind)
    return LimitsFound(views[: query.limit], cursor, found.at)


async def show_limit(context: Context) -> LimitDocument:
    """One limit."""
    view = await _find(context, context.texts["limit_number"])
    (document,) = await _shown(context, [view])
    return document


async def set_limit(context: Context) -> LimitDocument:
    """Set a limit, or change the one that stands; from the next call on it holds."""
    order, session = context.body_as(LimitOrder), context.session
    command = SetLimit(
        organization_id=context.organization.id,
        scope_kind=order.scope_kind,
        scope_ref=await _scope_ref(context, order),
        measure=order.measure,
        period=order.period,
        effect=order.effect,
        models=order.models,
        maximum=_quantity(order.maximum, order.measure, "maximum"),
        raised_to=(
            None
            if order.raised_to is None
            else _quantity(order.raised_to, order.measure, "raised_to")
        ),
        raised_from=read_instant(order.raised_from, field="raised_from"),
        raised_until=read_instant(order.raised_until, field="raised_until"),
        owner=order.owner,
        count_failed=order.count_failed,
    )
    named = order.thresholds_percent
    thresholds = usual_thresholds(command) if isinstance(named, UnsetType) else tuple(named)
    command = structs.replace(command, thresholds=thresholds)
    try:
        await session.submit(command)
    except InvalidInputError as error:
        raise InvalidInputError(_FIELDS.get(error.field, error.field), error.reason) from error
    number = _id(command.scope.kind, command.scope.ref, command.number)
    (document,) = await _shown(context, [await _find(context, number)])
    return document


async def remove_limit(context: Context) -> None:
    """Take a limit away."""
    view = await _find(context, context.texts["limit_number"])
    rule = view.rule
    command = SetLimit(
        organization_id=context.organization.id,
        scope_kind=view.scope_kind,
        scope_ref=view.scope_ref,
        measure=rule.measure,
        period=rule.period,
        effect=rule.effect,
        models=rule.models,
        origin=rule.origin,
        maximum=None,
    )
    await context.session.submit(command)


def view_id(view: LimitView) -> str:
    """A limit's id."""
    return _id(view.scope_kind, view.scope_ref, view.number)


def limit_row(view: LimitView, refused: ShadowRefusals | None = None) -> dict[str, Any]:
    """A limit's document, with what it would have refused where that was looked up."""
    shadow = shadow_document(refused)
    return {**limit_document(view), "id": view_id(view), "would_have_refused": shadow}


def _id(kind: ScopeKind, ref: str, rule: int) -> str:
    return f"{scope_number(kind, ref):016x}{rule:016x}"


async def _find(context: Context, number: str) -> LimitView:
    if _LIMIT_ID.fullmatch(number):
        scope = int(number[:_ID_DIGITS], 16)
        for view in await context.session.money.limits(context.organization.id, scopes=[scope]):
            if view_id(view) == number:
                return view
    raise NotFoundError("There is no such limit.")


def _engine_ref(scope_id: str) -> str:
    """A scope's reference as the engine has it, from what a document shows."""
    for prefix in ("org", "proj", "key"):
        if looks_like_id(prefix, scope_id):
            return parse_id(prefix, scope_id, field="scope_id").hex
    return scope_id


async def _shown(context: Context, views: Sequence[LimitView]) -> list[LimitDocument]:
    """Documents, with what limits in shadow would have refused."""
    refused = await context.session.money.shadow_refusals(context.organization.id, views)
    return [
        msgspec.convert(limit_row(view, each), LimitDocument)
        for view, each in zip(views, refused, strict=True)
    ]


async def _scope_ref(context: Context, order: LimitOrder) -> str:
    """The scope as the engine names it; one that is no part of the organisation is not there."""
    tenants, organization_id = context.session.tenants, context.organization.id
    text = order.scope_id
    match order.scope_kind:
        case ScopeKind.ORGANIZATION:
            if text and parse_id("org", text, field="scope_id") != organization_id:
                raise InvalidInputError("scope_id", "must be the path's organisation, or left out")
            return EVERY
        case ScopeKind.PROJECT if text:
            found_id = parse_id("proj", text, field="scope_id")
            found: list[Any] = list(
                await tenants.projects(
                    project_id=found_id, organization_id=organization_id, limit=1
                )
            )
        case ScopeKind.KEY if text:
            found_id = parse_id("key", text, field="scope_id")
            found = list(
                await tenants.keys(key_id=found_id, organization_id=organization_id, limit=1)
            )
        case _:
            return text
    if not found:
        raise InvalidInputError("scope_id", f"names no {order.scope_kind.value} of it")
    ref: UUID = found_id
    return ref.hex


def _quantity(given: Quantity, measure: Measure, field: str) -> int:
    if measure is Measure.MONEY:
        if isinstance(given, int):
            raise InvalidInputError(field, 'must be a decimal string such as "5.00"')
        return parse_amount(given, field=field)
    if isinstance(given, str):
        raise InvalidInputError(field, f"must be a whole number of {measure.value}")
    return given


_LIMITS: Final = "/organizations/{organization_id}/limits"

ROUTES: Final = (
    Route(
        method="GET",
        path=_LIMITS,
        name="listLimits",
        summary="Limits with what is used, held and left",
        tag="limits",
        handler=list_limits,
        action=Action.LIMITS_VIEW,
        query=LimitQuery,
        answer=Page[LimitDocument],
    ),
    Route(
        method="PUT",
        path=_LIMITS,
        name="setLimit",
        summary="Set, change or raise a limit",
        tag="limits",
        handler=set_limit,
        action=Action.LIMITS_CHANGE,
        body=LimitOrder,
        answer=LimitDocument,
        atomic=False,
    ),
    Route(
        method="GET",
        path=_LIMITS + "/{limit_number}",
        name="showLimit",
        summary="A limit",
        tag="limits",
        handler=show_limit,
        action=Action.LIMITS_VIEW,
        answer=LimitDocument,
    ),
    Route(
        method="DELETE",
        path=_LIMITS + "/{limit_number}",
        name="removeLimit",
        summary="Take a limit away",
        tag="limits",
        handler=remove_limit,
        action=Action.LIMITS_CHANGE,
        status=204,
        atomic=False,
    ),
)
