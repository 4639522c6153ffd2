"""Alerts: what was told, what is told, and what was stopped."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from farebox.advice.anomalies import PROJECTS_MAX
from farebox.console.api.fields import (
    Amount,
    AmountIn,
    Cursor,
    Instant,
    Limit,
    Page,
    PageQuery,
    ProjectId,
    page_of,
    read_number_cursor,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import parse_id
from farebox.kit.money import parse_amount
from farebox.ledger.scopes import ID_KINDS, ScopeKind
from farebox.operations.alerts import AlertDesk, alert_document, settings_document
from farebox.tenancy.permissions import Action

Kind = Literal[
    "limit_threshold",
    "projected_overrun",
    "spend_rate",
    "daily_spend",
    "run_growth",
    "frequent_user",
    "repeated_requests",
]

OperatorKind = Literal["upstream_quota_exhausted"]

_AMOUNTS: Final = ("hour_minimum", "day_minimum")


class Alert(Struct, frozen=True, kw_only=True):
    """Something that was told, once."""

    object: Literal["alert"] = "alert"
    id: str
    kind: Kind
    at: Instant
    action: Literal["told", "stopping", "stopped"]
    """What was done besides telling."""
    facts: dict[str, str]
    """The evidence: what it is about, what was seen, what is usual; amounts are decimal strings."""


class OperatorAlert(Struct, frozen=True, kw_only=True):
    """Something that operators were told, once: of the deployment, not of an organisation."""

    object: Literal["alert"] = "alert"
    id: str
    kind: OperatorKind
    at: Instant
    action: Literal["told"]
    facts: dict[str, str]
    """The evidence: our account, the provider, what it answered, a call that it refused."""


class AlertQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts."""

    kind: Kind | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class AlertSettings(Struct, frozen=True, kw_only=True):
    """What an organisation is told of; percents are of what is usual."""

    object: Literal["alert_settings"] = "alert_settings"
    enabled: bool
    overrun: bool
    spending: bool
    spending_times_percent: int
    hour_minimum: Amount
    """An hour must cost so much more than is usual."""
    day_minimum: Amount
    runs: bool
    run_times_percent: int
    run_calls_min: int
    run_tokens_min: int
    users: bool
    user_times_percent: int
    user_calls_min: int
    """Calls of one user in an hour."""
    repeats: bool
    repeats_per_minute: int
    """Near-identical requests of one key and run."""
    stop_repeats: bool
    """Stop the run, or the key where there is no run, instead of only telling."""
    stop_repeats_projects: list[ProjectId]
    """Stop in these projects, whatever holds for the others."""


class AlertSettingsPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed; what is left out stays."""

    enabled: bool | UnsetType = UNSET
    overrun: bool | UnsetType = UNSET
    spending: bool | UnsetType = UNSET
    spending_times_percent: int | UnsetType = UNSET
    hour_minimum: AmountIn | UnsetType = UNSET
    day_minimum: AmountIn | UnsetType = UNSET
    runs: bool | UnsetType = UNSET
    run_times_percent: int | UnsetType = UNSET
    run_calls_min: int | UnsetType = UNSET
    run_tokens_min: int | UnsetType = UNSET
    users: bool | UnsetType = UNSET
    user_times_percent: int | UnsetType = UNSET
    user_calls_min: int | UnsetType = UNSET
    repeats: bool | UnsetType = UNSET
    repeats_per_minute: int | UnsetType = UNSET
    stop_repeats: bool | UnsetType = UNSET
    stop_repeats_projects: Annotated[list[ProjectId], Meta(max_length=PROJECTS_MAX)] | UnsetType = (
        UNSET
    )


class Release(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may call again."""

    scope_kind: ScopeKind
    scope_id: Annotated[str, Meta(max_length=400)] = ""
    """An id with its prefix, or a name; empty for the organisation itself."""


async def list_alerts(context: Context) -> Page[Alert]:
    """The newest first."""
    query = context.query_as(AlertQuery)
    found = await context.session.alert_store.alerts(
        context.organization.id,
        kind=query.kind,
        before=read_number_cursor(query.cursor),
        limit=query.limit + 1,
    )
    rows = [alert_document(alert) for alert in found]
    return page_of(Alert, rows, query.limit, [alert.id for alert in found])


async def list_operator_alerts(context: Context) -> Page[OperatorAlert]:
    """The newest first."""
    query = context.query_as(PageQuery)
    found = await context.session.alert_store.operator_alerts(
        before=read_number_cursor(query.cursor), limit=query.limit + 1
    )
    rows = [alert_document(alert) for alert in found]
    return page_of(OperatorAlert, rows, query.limit, [alert.id for alert in found])


async def show_settings(context: Context) -> AlertSettings:
    """The defaults, where nobody has changed them."""
    found = await context.session.alert_store.settings(context.organization.id)
    return msgspec.convert(settings_document(found), AlertSettings)


async def change_settings(context: Context) -> AlertSettings:
    """From the watch's next look on."""
    patch = context.body_as(AlertSettingsPatch)
    changes: dict[str, Any] = {
        name: value
        for name in AlertSettingsPatch.__struct_fields__
        if (value := getattr(patch, name)) is not UNSET
    }
    for name in _AMOUNTS:
        if name in changes:
            changes[name] = parse_amount(changes[name], field=name)
    if "stop_repeats_projects" in changes:
        changes["stop_repeats_projects"] = await _projects(
            context, changes["stop_repeats_projects"]
        )
    found = await context.session.alert_store.change_settings(context.organization.id, changes)
    return msgspec.convert(settings_document(found), AlertSettings)


async def release(context: Context) -> None:
    """Let a run, a key or another scope that was stopped call again."""
    order = context.body_as(Release)
    ref = order.scope_id
    if order.scope_kind in ID_KINDS:
        prefix = "key" if order.scope_kind is ScopeKind.KEY else "proj"
        ref = parse_id(prefix, ref, field="scope_id").hex
    desk = AlertDesk(context.session.alert_store, context.session.submit)
    await desk.release(context.organization.id, order.scope_kind, ref)


async def _projects(context: Context, texts: list[str]) -> tuple[Any, ...]:
    """Projects of the organisation; one that is no part of it is not there."""
    ids = []
    for text in texts:
        project_id = parse_id("proj", text, field="stop_repeats_projects")
        found = await context.session.tenants.projects(
            project_id=project_id, organization_id=context.organization.id, limit=1
        )
        if not found:
            raise InvalidInputError("stop_repeats_projects", f"names no project of it: {text}")
        ids.append(project_id)
    return tuple(dict.fromkeys(ids))


_ALERTS: Final = "/organizations/{organization_id}/alerts"
_SETTINGS: Final = "/organizations/{organization_id}/alert-settings"

ROUTES: Final = (
    Route(
        method="GET",
        path=_ALERTS,
        name="listAlerts",
        summary="What was told: thresholds and anomalies, with their evidence",
        tag="alerts",
        handler=list_alerts,
        action=Action.LIMITS_VIEW,
        query=AlertQuery,
        answer=Page[Alert],
    ),
    Route(
        method="GET",
        path="/alerts",
        name="listOperatorAlerts",
        summary="What operators were told: our own accounts at providers that are used up",
        tag="alerts",
        handler=list_operator_alerts,
        action=Action.DEPLOYMENT_VIEW,
        query=PageQuery,
        answer=Page[OperatorAlert],
    ),
    Route(
        method="POST",
        path=_ALERTS + "/release",
        name="releaseStop",
        summary="Let a run or a key that was stopped call again",
        tag="alerts",
        handler=release,
        action=Action.LIMITS_CHANGE,
        body=Release,
        status=204,
        refusals=(404,),
        atomic=False,
    ),
    Route(
        method="GET",
        path=_SETTINGS,
        name="showAlertSettings",
        summary="What the organisation is told of, and from which figures on",
        tag="alerts",
        handler=show_settings,
        action=Action.LIMITS_VIEW,
        answer=AlertSettings,
    ),
    Route(
        method="PATCH",
        path=_SETTINGS,
        name="changeAlertSettings",
        summary="Change what the organisation is told of",
        tag="alerts",
        handler=change_settings,
        action=Action.LIMITS_CHANGE,
        body=AlertSettingsPatch,
        answer=AlertSettings,
    ),
)
