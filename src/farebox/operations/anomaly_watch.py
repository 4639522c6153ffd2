"""The watch: looks at whoever has spent since it last looked, and tells what is unusual, once.

Two steps, each safe to take twice, late, and in two workers at once: what makes an alert one is its
key in the database, not who looks. ``step`` looks at organisations that closed a call since they
were last looked at; one that is idle costs nothing. ``step_repeats`` looks at what gateways noted
of repeated requests, and stops runs where that is wanted: the wish is written with the alert, so a
worker that dies in between leaves it to the next.

Every read is a page of bounded size in a short statement of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import msgspec

from farebox.advice.anomalies import AlertSettings, Anomaly, AnomalyKey
from farebox.advice.anomalies_calls import (
    Repeated,
    RunCall,
    UserHours,
    frequent_user,
    repeated_requests,
    run_growth,
)
from farebox.advice.anomalies_overrun import (
    ROLLED_UP,
    Budget,
    RecentUse,
    is_worth_projecting,
    projected_overrun,
)
from farebox.advice.anomalies_spending import (
    ByHour,
    Spender,
    Spent,
    Usual,
    may_be_unusual,
    unusual_day,
    unusual_hour,
    usual_of,
)
from farebox.kit.errors import FareboxError, UnavailableError
from farebox.kit.periods import hour_start
from farebox.ledger.scopes import ScopeKind
from farebox.operations.alerts import stop_command
from farebox.operations.audited_money import Submit
from farebox.operations.balance import LimitView

ORGANIZATIONS_PER_PAGE: Final = 100
ORGANIZATIONS_PER_STEP: Final = 1_000
"""The rest is looked at by the next step, which begins where this one ended."""

CALLS_PER_LOOK: Final = 1_000
"""The newest calls of an organisation, in which runs are looked for."""
RUN_RECENT: Final = timedelta(hours=1)
"""A run without a call for so long grows no more."""
CALLS_PER_RUN: Final = 64

HOURS_LATE_MAX: Final = 3
"""So many hours that ended since the last look are judged still."""

LIMITS_EVERY: Final = timedelta(minutes=15)
"""How often the budgets of an organisation are projected."""
SCOPES_PER_PAGE: Final = 500
SCOPES_PER_LOOK: Final = 2_000
"""Budgets of more scopes than this are projected in turns."""

SPENDERS_PER_LOOK: Final = 200
"""The projects and keys that spend most."""

REPEATS_REACH: Final = timedelta(minutes=3)
"""How late a minute's repeats are still judged."""
REPEATS_PER_STEP: Final = 200
USERS_PER_STEP: Final = 200

STOP_AGAIN_AFTER: Final = timedelta(seconds=30)
"""A stop that was begun so long ago was left by a worker that died."""

KEPT_MAX: Final = 20_000
"""Baselines and places that are remembered between steps; what is forgotten is read again."""

_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(microseconds=1)


class Active(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation that closed calls since it was last looked at."""

    organization_id: UUID
    zone: str
    sequence: int
    """Of its last closed call."""
    looked_at: datetime | None
    """When it was last looked at; None: never."""
    limits_at: datetime | None
    """When its budgets were last projected."""
    settings: AlertSettings


class ScopePage(NamedTuple):
    """Limits of some of an organisation's scopes."""

    limits: Sequence[LimitView]
    after: int | None
    """Where the next page begins; None at the end."""


class FoundRepeat(NamedTuple):
    """A request that was repeated, whose it is and what they want to hear."""

    organization_id: UUID
    settings: AlertSettings
    repeated: Repeated


class FoundUser(NamedTuple):
    """A user who calls often, whose it is and what they want to hear."""

    organization_id: UUID
    settings: AlertSettings
    user: str
    calls: int


class Stop(NamedTuple):
    """Something that is to be stopped."""

    anomaly_id: int
    organization_id: UUID
    facts: dict[str, str]


class AnomalyStore(Protocol):
    """What the watch asks of the database."""

    async def now(self) -> datetime:
        """The database's time."""

    async def active(self, after: UUID | None, *, limit: int) -> list[Active]:
        """Organisations that closed calls since their last look, in the order of ids."""

    async def looked(self, active: Active, *, at: datetime, limits_at: datetime) -> None:
        """Note that an organisation was looked at, up to a sequence."""

    async def told(self, organization_id: UUID, found: Sequence[Anomaly]) -> set[AnomalyKey]:
        """Those of the anomalies that are written already."""

    async def tell(
        self, organization_id: UUID, found: Sequence[Anomaly], *, stopping: bool = False
    ) -> dict[int, Anomaly]:
        """Write anomalies with their words in the outbox; gives those that are new, by id."""

    async def spent(
        self, organization_id: UUID, *, zone: str, now: datetime, minimum: int, limit: int
    ) -> list[Spent]:
        """Who spent at least so much in the running day: the organisation, projects, keys."""

    async def histories(
        self, organization_id: UUID, who: Sequence[Spender], *, now: datetime
    ) -> Mapping[Spender, ByHour]:
        """What each spent in the hours before the running one; who spent nothing is left out."""

    async def newest_calls(
        self, organization_id: UUID, *, since: datetime, limit: int
    ) -> dict[str, list[RunCall]]:
        """Runs of the newest calls, each with its calls as they were admitted."""

    async def scopes(
        self, organization_id: UUID, after: int | None, *, limit: int, now: datetime
    ) -> ScopePage:
        """A page of limits with their counters, in the order of the scopes' numbers."""

    async def recent_use(
        self, organization_id: UUID, budget: Budget, *, now: datetime
    ) -> RecentUse:
        """What rollups know of a budget's scope."""

    async def frequent_users(self, *, hour: datetime, limit: int) -> list[FoundUser]:
        """Users with many calls in an hour, of whom nothing was told in it."""

    async def user_hours(self, found: FoundUser, *, hour: datetime) -> UserHours:
        """How often a user and all others called in the week before."""

    async def repeats(self, *, since: datetime, limit: int) -> list[FoundRepeat]:
        """Repeated requests of the last minutes, of which nothing was told in their hour."""

    async def stops_left(self, before: datetime) -> list[Stop]:
        """What was to be stopped, and was not for so long."""

    async def stopped(self, stop: Stop) -> None:
        """Note that it is."""

    async def forget_old(self, now: datetime) -> None:
        """Drop notes that nothing looks at any more."""


class AnomalyWatchError(FareboxError):
    """Some organisations could not be looked at; the next step tries them again."""


class AnomalyWatch:
    """Looks, judges, tells."""

    def __init__(self) -> None:
        self._after: UUID | None = None
        self._usual: dict[tuple[UUID, Spender, datetime], Usual] = {}
        self._places: dict[UUID, int] = {}

    async def step(self, store: AnomalyStore) -> int:
        """Look at every organisation that is due; gives how many alerts are new.

        Raises:
            AnomalyWatchError: Some could not be looked at; all the others were.
            UnavailableError: The database is away.
        """
        now = await store.now()
        await store.forget_old(now)
        told = await self._users(store, now)
        looked, failed = 0, []
        while looked < ORGANIZATIONS_PER_STEP:
            page = await store.active(self._after, limit=ORGANIZATIONS_PER_PAGE)
            for active in page:
                try:
                    told += await self._look(store, active, now)
                except UnavailableError:
                    raise
                except Exception as error:  # noqa: BLE001 - one organisation must not hide others
                    failed.append(f"{active.organization_id}: {error!r}")
            looked += len(page)
            self._after = page[-1].organization_id if page else None
            if len(page) < ORGANIZATIONS_PER_PAGE:
                self._after = None
                break
        if failed:
            raise AnomalyWatchError(f"{len(failed)} could not be looked at, such as {failed[0]}")
        return told

    async def step_repeats(self, store: AnomalyStore, submit: Submit) -> int:
        """Tell of repeated requests, and stop them where that is wanted; gives how many are new.

        Raises:
            UnavailableError: The database is away; what is left is done by the next step.
        """
        now = await store.now()
        for stop in await store.stops_left(now - STOP_AGAIN_AFTER):
            await _stop(store, submit, stop)
        told = 0
        seen: set[tuple[UUID, str, datetime]] = set()
        for organization_id, settings, repeated in await store.repeats(
            since=now - REPEATS_REACH, limit=REPEATS_PER_STEP
        ):
            found = repeated_requests(repeated, settings)
            if found is None or not (settings.enabled and settings.repeats):
                continue
            key = (organization_id, found.subject, found.period_start)
            if key in seen:
                continue
            seen.add(key)
            stopping = settings.stops(repeated.project_id)
            new = await store.tell(organization_id, [found], stopping=stopping)
            told += len(new)
            for anomaly_id, anomaly in new.items():
                if stopping:
                    await _stop(store, submit, Stop(anomaly_id, organization_id, anomaly.facts))
        return told

    async def _users(self, store: AnomalyStore, now: datetime) -> int:
        told = 0
        # The hour before, too, while its last minutes may not have been judged.
        for hour in sorted({hour_start(now - REPEATS_REACH), hour_start(now)}):
            for found in await store.frequent_users(hour=hour, limit=USERS_PER_STEP):
                settings = found.settings
                wanted = settings.enabled and settings.users
                if not wanted or found.calls < settings.user_calls_min:
                    continue
                anomaly = frequent_user(await store.user_hours(found, hour=hour), settings, hour)
                if anomaly is not None:
                    told += len(await store.tell(found.organization_id, [anomaly]))
        return told

    async def _look(self, store: AnomalyStore, active: Active, now: datetime) -> int:
        """One organisation."""
        found: list[Anomaly] = []
        settings, limits_at = active.settings, active.limits_at
        if settings.enabled:
            if settings.spending:
                found += await self._spending(store, active, now)
            if settings.runs:
                found += await self._runs(store, active, now)
            is_due = limits_at is None or not now - LIMITS_EVERY < limits_at <= now
            if settings.overrun and is_due:
                found += await self._budgets(store, active, now)
                limits_at = now
        new = await store.tell(active.organization_id, found) if found else {}
        await store.looked(active, at=now, limits_at=limits_at or now)
        return len(new)

    async def _spending(self, store: AnomalyStore, active: Active, now: datetime) -> list[Anomaly]:
        found: list[Anomaly | None] = []
        for at in _instants(active.looked_at, now):
            found += await self._spending_at(store, active, at)
        return await _untold(store, active.organization_id, found)

    async def _spending_at(
        self, store: AnomalyStore, active: Active, now: datetime
    ) -> list[Anomaly | None]:
        settings = active.settings
        found: list[Anomaly | None] = []
        every = await store.spent(
            active.organization_id,
            zone=active.zone,
            now=now,
            minimum=min(settings.hour_minimum, settings.day_minimum),
            limit=SPENDERS_PER_LOOK,
        )
        asked = [each for each in every if any(may_be_unusual(each, settings))]
        usual = await self._usual_of(store, active, [each.who for each in asked], now)
        for spent in asked:
            by_hour, by_day = may_be_unusual(spent, settings)
            known = usual[spent.who]
            if by_hour:
                found.append(unusual_hour(spent, known.hour, settings, now))
            if by_day:
                found.append(unusual_day(spent, known.day, settings, now, active.zone))
        return found

    async def _usual_of(
        self, store: AnomalyStore, active: Active, who: Sequence[Spender], now: datetime
    ) -> dict[Spender, Usual]:
        """Read once an hour: hours that are over change no more, but for late answers."""
        hour = hour_start(now)
        keys = {each: (active.organization_id, each, hour) for each in who}
        unknown = [each for each, key in keys.items() if key not in self._usual]
        if unknown:
            if len(self._usual) + len(unknown) > KEPT_MAX:
                self._usual = {key: self._usual[key] for key in keys.values() if key in self._usual}
            histories = await store.histories(active.organization_id, unknown, now=now)
            for each in unknown:
                self._usual[keys[each]] = usual_of(histories.get(each, {}), now, active.zone)
                await asyncio.sleep(0)  # sums of many hours must not hold up what runs beside it
        return {each: self._usual[key] for each, key in keys.items()}

    async def _runs(self, store: AnomalyStore, active: Active, now: datetime) -> list[Anomaly]:
        runs = await store.newest_calls(
            active.organization_id, since=now - RUN_RECENT, limit=CALLS_PER_LOOK
        )
        found = [
            run_growth(run, calls[-CALLS_PER_RUN:], active.settings) for run, calls in runs.items()
        ]
        return await _untold(store, active.organization_id, found)

    async def _budgets(self, store: AnomalyStore, active: Active, now: datetime) -> list[Anomaly]:
        organization_id = active.organization_id
        place, looked = self._places.pop(organization_id, None), 0
        found = []
        while looked < SCOPES_PER_LOOK:
            page = await store.scopes(organization_id, place, limit=SCOPES_PER_PAGE, now=now)
            for budget in _budgets(page.limits):
                if is_worth_projecting(budget, now):
                    recent = None
                    if budget.scope_kind in ROLLED_UP:
                        recent = await store.recent_use(organization_id, budget, now=now)
                    found.append(projected_overrun(budget, recent, now))
            looked += SCOPES_PER_PAGE
            place = page.after
            if place is None:
                break
        if place is not None:
            if len(self._places) >= KEPT_MAX:
                self._places.clear()
            self._places[organization_id] = place
        return await _untold(store, organization_id, found)


def _instants(looked_at: datetime | None, now: datetime) -> list[datetime]:
    """When spending is judged: the ends of the hours that passed since the last look, and now."""
    hour = hour_start(now)
    ends = [hour - _HOUR * back for back in range(HOURS_LATE_MAX)]
    passed = [end - _TICK for end in reversed(ends) if looked_at is not None and looked_at < end]
    return [*passed, now]


def _budgets(limits: Iterable[LimitView]) -> Iterable[Budget]:
    """Limits of scopes; the defaults themselves count nothing."""
    for limit in limits:
        if limit.scope_ref or limit.scope_kind is ScopeKind.ORGANIZATION:
            yield Budget(
                scope_kind=limit.scope_kind,
                scope_ref=limit.scope_ref,
                rule=limit.rule,
                maximum=limit.maximum,
                used=limit.used,
                starts_at=limit.starts_at,
                ends_at=limit.resets_at,
            )


async def _untold(
    store: AnomalyStore, organization_id: UUID, found: Iterable[Anomaly | None]
) -> list[Anomaly]:
    """What is new, so that nothing locks an organisation only to find that it was told."""
    every = [each for each in found if each is not None]
    if not every:
        return []
    told = await store.told(organization_id, every)
    return [each for each in every if each.key not in told]


async def _stop(store: AnomalyStore, submit: Submit, stop: Stop) -> None:
    """Have the engine refuse the run's (or the key's) next calls, from the next admission on."""
    facts = stop.facts
    minute = facts["minute"][:16].replace("T", " ")
    why = f"it sent {facts['calls']} near-identical requests in the minute of {minute} UTC"
    kind = ScopeKind(facts["scope_kind"])
    await submit(stop_command(stop.organization_id, kind, facts["scope_ref"], why=why))
    await store.stopped(stop)
