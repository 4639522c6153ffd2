"""Alerts as people see them: what was told, what is told, and what was stopped.

An alert is a word in the outbox: a threshold of a limit, told by the engine, or an anomaly, told by
the watch. One that is no organisation's is told to operators, by the gateways. A stop is a limit
like any other, so every gateway keeps it with what it reads anyway; a release takes it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from farebox.advice.anomalies import AlertSettings, AnomalyKind
from farebox.kit.errors import NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos, format_amount
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.audited_money import Submit
from farebox.operations.balance import LimitView
from farebox.operations.documents import Document, document, instant
from farebox.operations.limit_documents import shown_amount, shown_scope
from farebox.operations.provider_watch import ACCOUNT_USED_UP

THRESHOLD: Final = "limit_threshold"
"""What the engine tells of limits (BUD-06)."""

KINDS: Final = (THRESHOLD, *(kind.value for kind in AnomalyKind))
"""The words of the outbox that are alerts."""

OPERATOR_KINDS: Final = (ACCOUNT_USED_UP,)
"""The words of the outbox that are told to operators (ERR-08)."""

_BY_MEASURE: Final = frozenset({"used", "maximum", "projected", "pace_per_day"})
"""Facts of limits: money or counts, as the limit's measure says."""

_NANOS: Final = "_nanos"
_IDS: Final = {"project_id": "proj", "key_id": "key"}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was told."""

    id: int
    """Its place in the outbox."""
    kind: str
    at: datetime
    facts: dict[str, str]
    action: str
    """What was done besides telling: ``told``, ``stopping`` or ``stopped`` (ANO-09)."""


class AlertStore(Protocol):
    """Where alerts and their settings are kept; writes in somebody's name."""

    async def settings(self, organization_id: UUID) -> AlertSettings:
        """What an organisation wants to hear of."""

    async def change_settings(
        self, organization_id: UUID, changes: Mapping[str, Any]
    ) -> AlertSettings:
        """Change it, and note who did.

        Args:
            organization_id: Whose it is.
            changes: Field of :class:`AlertSettings` -> its new value.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such organisation.
        """

    async def alerts(
        self, organization_id: UUID, *, kind: str | None, before: int | None, limit: int
    ) -> list[Alert]:
        """What was told, the newest first; ``before`` is the id of the last one seen."""

    async def operator_alerts(
        self, *, before: int | None = None, since: datetime | None = None, limit: int
    ) -> list[Alert]:
        """What operators were told, of no organisation; the newest first."""

    async def limits(
        self, organization_id: UUID, *, scopes: Iterable[int] | None = None
    ) -> tuple[LimitView, ...]:
        """Its limits as they stand; stops are among them.

        Args:
            organization_id: Whose.
            scopes: Numbers of the scopes to look at; None for all there are, which may be many.
        """


class AlertDesk:
    """The use cases over one store and the engine."""

    def __init__(self, store: AlertStore, submit: Submit) -> None:
        """Put it together.

        Args:
            store: Where alerts are kept; it knows in whose name it writes.
            submit: Has the engine decide and commit a command, and notes it.
        """
        self._store = store
        self._submit = submit

    async def stopped(self, organization_id: UUID) -> list[LimitView]:
        """Everything that is stopped now."""
        return _stops(await self._store.limits(organization_id))

    async def release(self, organization_id: UUID, kind: ScopeKind, ref: str) -> None:
        """Let a run, a key or another scope call again.

        Args:
            organization_id: Whose it is.
            kind: What it is.
            ref: An id as 32 hex digits, or a name.

        Raises:
            NotFoundError: It is not stopped.
        """
        command = stop_command(organization_id, kind, ref, maximum=None)
        if not _stops(await self._store.limits(organization_id, scopes=[command.scope.number])):
            raise NotFoundError(f"There is no {kind.value} of that name or id that is stopped.")
        await self._submit(command)


def _stops(limits: Iterable[LimitView]) -> list[LimitView]:
    return [limit for limit in limits if limit.rule.effect is Effect.STOP]


def stop_command(
    organization_id: UUID, kind: ScopeKind, ref: str, *, maximum: int | None = 0, why: str = ""
) -> SetLimit:
    """What stops a scope, or with None lets it go again.

    Args:
        organization_id: Whose it is.
        kind: What it is.
        ref: An id as 32 hex digits, or a name.
        maximum: Nothing at a time, or None.
        why: The reason as the refusal gives it.
    """
    return SetLimit(
        organization_id=organization_id,
        scope_kind=kind,
        scope_ref="" if kind is ScopeKind.ORGANIZATION else ref,
        measure=Measure.PARALLEL,
        period=Period.TOTAL,
        effect=Effect.STOP,
        maximum=maximum,
        owner=why,
    )


def settings_document(settings: AlertSettings) -> Document:
    """What an organisation is told of, for people."""
    shown = document(settings)
    projects = settings.stop_repeats_projects
    return shown | {"stop_repeats_projects": [format_id("proj", each) for each in projects]}


def alert_document(alert: Alert) -> Document:
    """An alert, for people: amounts as decimal strings, ids with their prefixes."""
    return {
        "object": "alert",
        "id": str(alert.id),
        "kind": alert.kind,
        "at": instant(alert.at),
        "action": alert.action,
        "facts": _shown_facts(alert.facts),
    }


def _shown_facts(facts: dict[str, str]) -> dict[str, str]:
    shown = {}
    for name, text in facts.items():
        if name.endswith(_NANOS):
            shown[name.removesuffix(_NANOS)] = format_amount(Nanos(int(text)))
        elif name in _BY_MEASURE:
            shown[name] = str(shown_amount(facts["measure"], int(text)))
        elif name in _IDS:
            shown[name] = format_id(_IDS[name], UUID(text))
        elif name == "scope_ref":
            shown["scope_id"] = shown_scope(facts["scope_kind"], text)
        elif name != "anomaly_id":
            shown[name] = text
    return shown
