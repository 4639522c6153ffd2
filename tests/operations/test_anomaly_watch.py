"""The watch's steps over a store in memory: pages, turns, and one that fails hides no other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from farebox.advice.anomalies import AlertSettings, Anomaly, AnomalyKey
from farebox.advice.anomalies_calls import RunCall, UserHours
from farebox.advice.anomalies_overrun import Budget, RecentUse
from farebox.advice.anomalies_spending import ByHour, Spender, Spent
from farebox.kit.errors import UnavailableError
from farebox.ledger.limits import Period, Rule
from farebox.ledger.scopes import ScopeKind
from farebox.operations import anomaly_watch
from farebox.operations.anomaly_watch import (
    LIMITS_EVERY,
    Active,
    AnomalyWatch,
    AnomalyWatchError,
    FoundRepeat,
    FoundUser,
    ScopePage,
    Stop,
)
from farebox.operations.balance import LimitView

NOW = datetime(2026, 11, 18, 12, 30, tzinfo=UTC)
START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)


def budget(number: int) -> LimitView:
    """A user's budget that will not last."""
    return LimitView(
        scope_kind=ScopeKind.USER,
        scope_ref=f"user {number}",
        is_default=False,
        number=1,
        rule=Rule(maximum=100, period=Period.MONTH),
        maximum=100,
        used=90,
        held=0,
        left=10,
        starts_at=START,
        resets_at=END,
    )


class MemoryStore:
    """What the watch asks, answered from lists; it counts what it is asked."""

    def __init__(self, organizations: int = 1, scopes: int = 0) -> None:
        self.at = NOW
        self.organizations = {UUID(int=number): 1 for number in range(1, organizations + 1)}
        self.looks: dict[UUID, tuple[int, datetime]] = {}
        self.scope_count = scopes
        self.written: dict[tuple[UUID, AnomalyKey], Anomaly] = {}
        self.asked: list[str] = []
        self.broken: set[UUID] = set()
        self.away = False
        self.histories_of: list[list[Spender]] = []

    async def now(self) -> datetime:
        return self.at

    async def active(self, after: UUID | None, *, limit: int) -> list[Active]:
        due = [
            Active(
                organization_id=each,
                zone="UTC",
                sequence=sequence,
                looked_at=None,
                limits_at=self.looks[each][1] if each in self.looks else None,
                settings=AlertSettings(),
            )
            for each, sequence in sorted(self.organizations.items())
            if sequence > self.looks.get(each, (0, NOW))[0] and (after is None or each > after)
        ]
        self.asked.append("active")
        return due[:limit]

    async def looked(self, active: Active, *, at: datetime, limits_at: datetime) -> None:
        self.asked.append("looked")
        self.looks[active.organization_id] = (active.sequence, limits_at)

    async def told(self, organization_id: UUID, found: Sequence[Anomaly]) -> set[AnomalyKey]:
        return {each.key for each in found if (organization_id, each.key) in self.written}

    async def tell(
        self, organization_id: UUID, found: Sequence[Anomaly], *, stopping: bool = False
    ) -> dict[int, Anomaly]:
        new = {
            number: each
            for number, each in enumerate(found)
            if (organization_id, each.key) not in self.written
        }
        self.written |= {(organization_id, each.key): each for each in new.values()}
        return new

    async def spent(
        self, organization_id: UUID, *, zone: str, now: datetime, minimum: int, limit: int
    ) -> list[Spent]:
        if self.away:
            raise UnavailableError
        if organization_id in self.broken:
            raise ValueError("a row that cannot be")
        return []

    async def histories(
        self, organization_id: UUID, who: Sequence[Spender], *, now: datetime
    ) -> dict[Spender, ByHour]:
        self.histories_of.append(list(who))
        return {}

    async def newest_calls(
        self, organization_id: UUID, *, since: datetime, limit: int
    ) -> dict[str, list[RunCall]]:
        return {}

    async def scopes(
        self, organization_id: UUID, after: int | None, *, limit: int, now: datetime
    ) -> ScopePage:
        self.asked.append("scopes")
        first = 0 if after is None else after + 1
        numbers = range(first, min(first + limit, self.scope_count))
        more = first + limit < self.scope_count
        return ScopePage([budget(number) for number in numbers], numbers[-1] if more else None)

    async def recent_use(
        self, organization_id: UUID, budget: Budget, *, now: datetime
    ) -> RecentUse:
        raise AssertionError("rollups do not know users")

    async def frequent_users(self, *, hour: datetime, limit: int) -> list[FoundUser]:
        return []

    async def user_hours(self, found: FoundUser, *, hour: datetime) -> UserHours:
        raise AssertionError("there are none")

    async def repeats(self, *, since: datetime, limit: int) -> list[FoundRepeat]:
        return []

    async def stops_left(self, before: datetime) -> list[Stop]:
        return []

    async def stopped(self, stop: Stop) -> None:
        return

    async def forget_old(self, now: datetime) -> None:
        return


async def test_every_organisation_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page; who closed no call since is not looked at again."""
    monkeypatch.setattr(anomaly_watch, "ORGANIZATIONS_PER_PAGE", 3)
    store, watch = MemoryStore(10), AnomalyWatch()
    await watch.step(store)
    assert len(store.looks) == store.asked.count("looked") == 10
    store.asked.clear()
    await watch.step(store)
    assert store.asked == ["active"]
    store.organizations[UUID(int=4)] = 2
    await watch.step(store)
    assert store.asked.count("looked") == 1


async def test_a_step_is_bounded_and_the_next_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More organisations than a step takes are looked at by turns."""
    monkeypatch.setattr(anomaly_watch, "ORGANIZATIONS_PER_PAGE", 2)
    monkeypatch.setattr(anomaly_watch, "ORGANIZATIONS_PER_STEP", 4)
    store, watch = MemoryStore(10), AnomalyWatch()
    for looked in (4, 8, 10):
        await watch.step(store)
        assert len(store.looks) == looked


async def test_one_that_cannot_be_looked_at_hides_no_other() -> None:
    """It is named, and tried again by the next step; the database away ends the step."""
    store, watch = MemoryStore(5), AnomalyWatch()
    store.broken = {UUID(int=2)}
    with pytest.raises(AnomalyWatchError, match="1 could not be looked at"):
        await watch.step(store)
    assert len(store.looks) == 4
    store.broken.clear()
    await watch.step(store)
    assert len(store.looks) == 5
    store.organizations[UUID(int=1)] = 2
    store.away = True
    with pytest.raises(UnavailableError):
        await watch.step(store)


async def test_budgets_of_many_scopes_are_projected_by_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many scopes a look, every quarter of an hour; each is reached, and told once."""
    monkeypatch.setattr(anomaly_watch, "SCOPES_PER_PAGE", 10)
    monkeypatch.setattr(anomaly_watch, "SCOPES_PER_LOOK", 20)
    store, watch = MemoryStore(1, scopes=45), AnomalyWatch()

    async def look(after: timedelta) -> int:
        store.at += after
        store.organizations[UUID(int=1)] += 1
        return await watch.step(store)

    assert await look(timedelta(0)) == 20
    assert await look(timedelta(minutes=1)) == 0
    assert await look(LIMITS_EVERY) == 20
    assert await look(LIMITS_EVERY) == 5
    assert await look(LIMITS_EVERY) == 0
    assert len(store.written) == 45


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten is read again."""
    monkeypatch.setattr(anomaly_watch, "KEPT_MAX", 2)
    monkeypatch.setattr(anomaly_watch, "SCOPES_PER_PAGE", 10)
    monkeypatch.setattr(anomaly_watch, "SCOPES_PER_LOOK", 10)
    store, watch = MemoryStore(7, scopes=11), AnomalyWatch()
    await watch.step(store)
    assert len(watch._places) <= 2
    active = (await MemoryStore().active(None, limit=1))[0]
    who = [Spender("key", f"{number:032x}") for number in range(3)]
    for named in (who[:1], who[:2], who[1:], who[1:]):
        assert len(await watch._usual_of(store, active, named, NOW)) == len(named)
        assert len(watch._usual) <= 2
    assert store.histories_of == [who[:1], who[1:2], who[2:]]
