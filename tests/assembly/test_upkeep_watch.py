"""Alerts beyond thresholds, on real PostgreSQL: each once, and none without cause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from farebox.kit.errors import UnavailableError
from farebox.ledger.limits import Effect, Period
from farebox.ledger.scopes import ScopeKind
from farebox.storage.anomaly_store import PostgresAnomalyStore
from tests.support.watched import DAY, HOUR, NOON, Watched, dollars


@pytest.fixture
async def watched(dsn: str) -> AsyncIterator[Watched]:
    """An organisation with money."""
    watched = Watched(dsn, NOON - 30 * DAY)
    await watched.credit()
    watched.set_clock(NOON)
    yield watched
    await watched.aclose()


# Budgets.


async def test_a_budget_that_will_not_last_is_told_once_per_window(watched: Watched) -> None:
    """Issue: projected overrun, with its figures: used, pace, projected and when; two workers at
    once, another after a restart, the clock moved on: once a window.
    """
    watched.set_clock(datetime(2040, 3, 10, tzinfo=UTC))
    await watched.settings(spending=False)
    watched.steady("0.50", days=9)
    await watched.limit("200", effect=Effect.ALERT, owner="lea")
    await watched.spend("0.01")
    assert await watched.look(workers=2) == 1
    watched.later(HOUR)
    await watched.spend("0.01")
    assert await watched.look(workers=2) == 0
    (alert,) = await watched.alerts("projected_overrun")
    facts = alert.facts
    assert (facts["scope_kind"], facts["owner"], facts["used"]) == (
        "organization",
        "lea",
        str(dollars("108.01")),
    )
    assert dollars("11.9") < int(facts["pace_per_day"]) < dollars("12.1")
    assert dollars("370") < int(facts["projected"]) < dollars("374")
    assert facts["reached_at"].startswith("2040-03-17")
    watched.set_clock(datetime(2040, 4, 10, tzinfo=UTC))
    watched.steady("0.50", days=9)
    # The window's counter is the engine's: what rollups say was not counted there.
    await watched.spend("108")
    assert await watched.look(workers=2) == 1
    windows = [each.facts["window_start"][:7] for each in await watched.alerts("projected_overrun")]
    assert windows == ["2040-03", "2040-04"]


async def test_a_budget_that_lasts_is_not_told(watched: Watched) -> None:
    """No false alarm: a steady pace within the budget, from the first minutes to the last; nor in
    the first minutes of a window, whatever was spent in them.
    """
    await watched.limit("30", Period.DAY)
    await watched.limit("400", Period.WEEK, scope_kind=ScopeKind.FEATURE, scope_ref="f")
    start = datetime(2040, 3, 15, tzinfo=UTC)
    for hour in range(24):
        watched.set_clock(start + HOUR * hour + timedelta(minutes=30))
        await watched.spend("1")
        if hour < 6 or hour % 6 == 0 or hour == 23:
            assert await watched.look() == 0
    watched.set_clock(start + DAY + timedelta(minutes=10))
    await watched.spend("10")
    assert await watched.look() == 0


async def test_a_raised_budget_may_be_told_of_again(watched: Watched) -> None:
    """Once per window and limit: a limit of another amount is another one."""
    watched.set_clock(datetime(2040, 3, 14, 10, tzinfo=UTC))
    watched.spent_before({watched.now - HOUR * back: "1" for back in range(1, 11)})
    await watched.limit("15", Period.DAY)
    await watched.spend("0.01")
    assert await watched.look() == 1
    await watched.limit("20", Period.DAY)
    watched.later(HOUR)
    await watched.spend("1")
    assert await watched.look() == 1
    await watched.limit("40", Period.DAY)
    watched.later(HOUR)
    await watched.spend("1")
    assert await watched.look() == 0


# Spending.


async def test_an_hour_and_a_day_far_above_the_usual_are_told_of_everybody(
    watched: Watched,
) -> None:
    """ANO-02, BUD-15: the organisation, the project and the key, once an hour and once a day,
    with what was spent and what is usual; two workers and a restart tell nothing twice.
    """
    watched.steady("0.50", days=10)
    watched.later(timedelta(minutes=10))
    await watched.spend("100")
    assert await watched.look(workers=2) == 6
    watched.later(timedelta(minutes=1))
    await watched.spend("1")
    assert await watched.look() == 0
    told = await watched.alerts()
    assert sorted((each.kind, each.facts["scope_kind"]) for each in told) == [
        *(("daily_spend", kind) for kind in ("key", "organization", "project")),
        *(("spend_rate", kind) for kind in ("key", "organization", "project")),
    ]
    hour = next(each.facts for each in told if each.kind == "spend_rate")
    assert (hour["spent_nanos"], hour["usual_nanos"], hour["hour"][:13]) == (
        str(dollars("100")),
        str(dollars("0.50")),
        "2040-03-14T12",
    )
    assert hour["per_minute_nanos"] == str(dollars("10"))
    day = next(each.facts for each in told if each.kind == "daily_spend")
    assert (day["usual_nanos"], day["day"]) == (str(dollars("12")), "2040-03-14")
    watched.set_clock(NOON + HOUR + timedelta(minutes=5))
    await watched.spend("50")
    assert await watched.look(workers=2) == 3
    assert {each.kind for each in (await watched.alerts())[6:]} == {"spend_rate"}


async def test_the_last_seconds_of_an_hour_and_a_day_are_judged(watched: Watched) -> None:
    """ANO-02, BUD-15: what was spent after the last look in them, and before the next one."""
    watched.steady("0.50", days=10)
    watched.set_clock(datetime(2040, 3, 14, 23, 58, tzinfo=UTC))
    await watched.spend()
    assert await watched.look() == 0
    watched.later(timedelta(seconds=110))
    await watched.spend("100")
    watched.later(timedelta(seconds=30))
    assert await watched.look() == 6
    hours = {each.facts.get("hour", "")[:13] for each in await watched.alerts("spend_rate")}
    days = {each.facts.get("day") for each in await watched.alerts("daily_spend")}
    assert (hours, days) == ({"2040-03-14T23"}, {"2040-03-14"})
    await watched.spend()
    assert await watched.look() == 0


async def test_steady_spending_is_silent(watched: Watched) -> None:
    """No false alarm: as much as on all days, at every hour and to the day's end."""
    watched.steady("10", days=21)
    start = watched.now
    for hour in range(12):
        watched.set_clock(start + HOUR * hour + timedelta(minutes=59))
        await watched.spend("12")
        assert await watched.look() == 0


async def test_without_history_nothing_is_said(watched: Watched) -> None:
    """ANO-02: what is usual is unknown before the third day."""
    watched.steady("0.10", days=2)
    await watched.spend("500")
    assert await watched.look() == 0
    assert await watched.alerts() == []


async def test_a_weekly_job_is_silent_from_the_third_week_on(watched: Watched) -> None:
    """ANO-02: the same hour of the same weekday says what is usual for it."""
    quiet = {watched.now - HOUR * back: "0.20" for back in range(1, 24 * 27)}
    weekly = {watched.now - timedelta(weeks=back): "60" for back in (1, 2, 3)}
    watched.spent_before(quiet | weekly)
    await watched.spend("61")
    assert await watched.look() == 0


async def test_a_day_is_one_of_the_organisations_zone(dsn: str) -> None:
    """BUD-15: the day begins at local midnight, also where that is no whole hour of UTC."""
    watched = Watched(dsn, datetime(2040, 3, 14, 18, 15, tzinfo=UTC), zone="Asia/Kolkata")
    await watched.credit()
    watched.steady("0.50", days=10)
    await watched.spend("40")  # 23:45 of the fourteenth
    await watched.look()
    watched.later(timedelta(minutes=30))  # 00:15 of the fifteenth: the hour began before it
    await watched.spend("40")
    await watched.look()
    watched.later(HOUR)
    await watched.spend("41")
    await watched.look()
    days = {each.facts["day"] for each in await watched.alerts("daily_spend")}
    assert days == {"2040-03-14", "2040-03-15"}
    await watched.aclose()


async def test_alerts_can_be_switched_off(watched: Watched) -> None:
    """Settings: off is off, for all or one by one; a higher bar is kept."""
    watched.steady("0.50", days=10)
    await watched.settings(enabled=False)
    await watched.spend("100")
    assert await watched.look() == 0
    await watched.settings(enabled=True, spending=False)
    await watched.spend("1")
    assert await watched.look() == 0
    await watched.settings(spending=True, hour_minimum=dollars("200"), day_minimum=dollars("90"))
    await watched.spend("1")
    assert await watched.look() == 3
    assert {each.kind for each in await watched.alerts()} == {"daily_spend"}


# Runs and users.


async def test_a_run_that_grows_is_told_once_and_a_steady_one_never(watched: Watched) -> None:
    """ANO-03: flagged from its closed calls, the first and the last of them named."""
    await watched.settings(spending=False)
    ids = []
    for number in range(8):
        ids.append(await watched.spend(run="agent-1", tokens=2_000 * 2**number))
        await watched.spend(run="steady", tokens=40_000)
        await watched.spend(tokens=3_000 * 2**number)
    assert await watched.look(workers=2) == 1
    await watched.spend(run="agent-1", tokens=600_000)
    assert await watched.look() == 0
    (alert,) = await watched.alerts()
    assert (alert.kind, alert.facts["run"], alert.facts["calls"]) == ("run_growth", "agent-1", "8")
    assert alert.facts["first_call"] == f"req_{ids[0].hex}"
    assert alert.facts["last_call"] == f"req_{ids[-1].hex}"
    assert (alert.facts["first_input_tokens"], alert.facts["last_input_tokens"]) == (
        "2000",
        "256000",
    )


async def test_a_run_of_long_ago_is_not_told_of(watched: Watched) -> None:
    """ANO-03: only what still goes on is worth a word."""
    for number in range(8):
        await watched.spend(run="agent-1", tokens=2_000 * 2**number)
    watched.later(2 * HOUR)
    await watched.spend()
    assert await watched.look() == 0


async def test_a_user_who_calls_unusually_often_is_told_once_an_hour(watched: Watched) -> None:
    """ANO-04: against their own hours; somebody new against those of all; a heavy user who always
    was one is silent.
    """
    hour = NOON.replace(minute=0)
    org = watched.till.organization_id
    rows = [("ada", 1 + back, 60) for back in range(30)]
    rows += [("heavy", 1 + back, 5_000) for back in range(30)]
    rows += [("ada", 0, 900), ("heavy", 0, 6_000), ("new", 0, 9_000), ("calm", 0, 90)]
    for user, back, calls in rows:
        watched.sql(
            "INSERT INTO user_hour VALUES (%s, %s, %s, %s)", org, hour - HOUR * back, user, calls
        )
    assert await watched.look(workers=2) == 1
    assert await watched.look() == 0
    (ada,) = await watched.alerts("frequent_user")
    assert (ada.facts["user"], ada.facts["calls"], ada.facts["usual_calls"]) == ("ada", "900", "60")
    watched.sql("DELETE FROM user_hour WHERE user_ref = 'heavy'")
    assert await watched.look() == 1
    new = (await watched.alerts("frequent_user"))[1]
    assert (new.facts["user"], new.facts["usual_of"]) == ("new", "all_users")


# Once, whatever happens.


async def test_a_worker_that_dies_after_the_alert_leaves_nothing_to_tell_twice(
    watched: Watched,
) -> None:
    """BUD-07, ANO-09: it had told and not noted that it looked; the next one looks again."""
    watched.steady("0.50", days=10)
    await watched.spend("100")

    async def dies(*_: object, **__: object) -> None:
        raise UnavailableError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresAnomalyStore, "looked", dies)
        with pytest.raises(UnavailableError):
            await watched.look()
    assert len(await watched.alerts()) == 6
    assert await watched.look(workers=3) == 0
    assert len(await watched.alerts()) == 6


async def test_workers_that_race_tell_once(watched: Watched) -> None:
    """BUD-07, ANO-09: five workers at the same moment, over several rounds of spending."""
    watched.steady("0.50", days=10)
    told = 0
    for _ in range(3):
        await watched.spend("100")
        told += await watched.look(workers=5)
    assert told == len(await watched.alerts()) == 6


# Bounds.


async def test_a_thousand_idle_organisations_are_not_looked_at(watched: Watched) -> None:
    """A step reads nothing for whoever closed no call since the last one."""
    watched.sql(
        "INSERT INTO organization (id, name, sequence) SELECT gen_random_uuid(), 'idle ' || n, 5"
        " FROM generate_series(1, 1000) AS n"
    )
    watched.sql(
        "INSERT INTO anomaly_look SELECT id, 5, farebox_now(), farebox_now() FROM organization"
        " WHERE name LIKE 'idle%%'"
    )
    await watched.spend()
    before = watched.sql("SELECT sum(sequence), max(looked_at) FROM anomaly_look")
    worker = await watched.worker()
    asked: list[str] = []
    ask = PostgresAnomalyStore._ask

    async def counted(
        self: PostgresAnomalyStore, name: str, values: object, **more: str
    ) -> list[tuple[object, ...]]:
        asked.append(name)
        return await ask(self, name, values, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresAnomalyStore, "_ask", counted)
        await worker.step()
    assert asked.count("looked") == 1
    assert len(asked) <= 12
    looks = watched.sql("SELECT count(*) FROM anomaly_look WHERE looked_at > %s", before[0][1])
    assert looks == [(1,)]
