"""Repeated requests, from the gateways' notes to the stop, on real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from farebox.kit.errors import UnavailableError
from farebox.ledger.commands import Admitted, AnyCommand, Attribution, Refused, Result
from farebox.ledger.scopes import ScopeKind
from farebox.operations.alerts import stop_command
from farebox.operations.request_watch import RequestWatch
from farebox.storage.request_watch_store import PostgresRequestWatchStore
from tests.support.shop import Shop
from tests.support.watched import HOUR, NOON, Watched


class Gateways:
    """Two gateways that note the organisation's requests."""

    def __init__(self, watched: Watched, pool: AsyncConnectionPool[Any]) -> None:
        self.watched = watched
        store = PostgresRequestWatchStore(pool)
        self.watches = [RequestWatch(store, monotonic=lambda: 0.0) for _ in range(2)]

    async def note(self, text: str, times: int, *, run: str = "", user: str = "") -> None:
        """So many of a request, by turns at both gateways, and written at the same time."""
        till = self.watched.till
        for number in range(times):
            self.watches[number % 2].note(
                till.organization_id,
                till.project_id,
                till.key_id,
                run=run,
                user=user,
                model="gpt-5.4",
                body=f'{{"content": "{text} {number}"}}'.encode(),
            )
        await asyncio.gather(*(watch.flush() for watch in self.watches))


@pytest.fixture
async def watched(dsn: str) -> AsyncIterator[Watched]:
    """An organisation with money, at five past noon."""
    watched = Watched(dsn, NOON + timedelta(minutes=5))
    await watched.credit()
    yield watched
    await watched.aclose()


@pytest.fixture
async def gateways(watched: Watched) -> AsyncIterator[Gateways]:
    """Its gateways."""
    async with AsyncConnectionPool(
        watched.dsn, min_size=1, open=False, kwargs={"autocommit": True}
    ) as pool:
        yield Gateways(watched, pool)


async def asked(watched: Watched, shop: Shop | None = None, *, run: str = "") -> Result:
    """One more call, at this gateway or another."""
    call = watched.till.admit(10, attribution=Attribution(run=run))
    result: Result = await (shop or watched.shop).run(call)
    return result


async def test_a_loop_is_told_once_of_its_run_and_hour(
    watched: Watched, gateways: Gateways
) -> None:
    """ANO-01: counts of all gateways add up; one alert of a run and hour, by two workers at once
    and after restarts; its evidence holds a hash, and nothing anywhere holds the content.
    """
    await gateways.note("Are we there yet?", 29, run="crawl-17")
    assert await watched.look(workers=2, repeats=True) == 0
    await gateways.note("Are we there yet?", 3, run="crawl-17")
    await gateways.note("Something else", 29, run="other")
    assert await watched.look(workers=2, repeats=True) == 1
    await gateways.note("Are we there yet?", 50, run="crawl-17")
    assert await watched.look(workers=2, repeats=True) == 0
    watched.later(HOUR)
    await gateways.note("Are we there yet?", 50, run="crawl-17")
    assert await watched.look(workers=2, repeats=True) == 1
    first, second = await watched.alerts("repeated_requests")
    assert (first.facts["run"], first.facts["calls"], first.action) == ("crawl-17", "32", "told")
    assert first.facts["minute"].startswith("2040-03-14T12:05")
    assert second.facts["minute"].startswith("2040-03-14T13:05")
    for table in ("repeated_request", "anomaly", "outbox"):
        ((found,),) = watched.sql(
            f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%%there yet%%'"
        )
        assert found == 0
    assert isinstance(await asked(watched, run="crawl-17"), Admitted)


async def test_a_loop_is_stopped_on_every_gateway_until_it_is_released(
    watched: Watched, gateways: Gateways
) -> None:
    """ANO-01: the run's next calls are refused everywhere from the next admission on, with the run
    and the reason; other runs and calls without one go on; a release lets it go again.
    """
    await watched.settings(stop_repeats=True)
    await gateways.note("again", 40, run="crawl-17")
    assert await watched.look(workers=2, repeats=True) == 1
    other = Shop.of(watched.dsn)
    for shop in (watched.shop, other):
        for run in ("crawl-17", "crawl-17/page-3"):
            refused = await asked(watched, shop, run=run)
            assert isinstance(refused, Refused)
            assert refused.code == "run_stopped"
            assert "The run crawl-17 was stopped: it sent 40 near-identical requests" in (
                refused.message
            )
        assert isinstance(await asked(watched, shop, run="crawl-18"), Admitted)
        assert isinstance(await asked(watched, shop), Admitted)
    await other.store.aclose()
    (alert,) = await watched.alerts()
    assert alert.action == "stopped"
    noted = watched.sql(
        "SELECT action, actor_kind, outcome FROM audit_event WHERE subject_kind = 'limit'"
    )
    assert noted == [("limit.set", "system", "done")]
    till = watched.till
    await watched.submit(
        stop_command(till.organization_id, ScopeKind.RUN, "crawl-17", maximum=None)
    )
    assert isinstance(await asked(watched, run="crawl-17"), Admitted)
    assert await watched.look(repeats=True) == 0
    assert isinstance(await asked(watched, run="crawl-17"), Admitted)


async def test_without_a_run_it_is_the_key_and_only_where_it_is_wanted(
    watched: Watched, gateways: Gateways
) -> None:
    """ANO-01: calls without a run are told of by their key; single projects may stop."""
    await gateways.note("again", 40)
    assert await watched.look(repeats=True) == 1
    assert isinstance(await asked(watched), Admitted)
    await watched.settings(stop_repeats_projects=(watched.till.project_id,))
    watched.later(HOUR)
    await gateways.note("again", 40)
    assert await watched.look(repeats=True) == 1
    refused = await asked(watched, run="any")
    assert isinstance(refused, Refused)
    assert refused.code == "key_stopped"
    assert [each.action for each in await watched.alerts()] == ["told", "stopped"]


async def test_a_stop_that_was_left_halfway_is_done_by_the_next_worker(
    watched: Watched, gateways: Gateways
) -> None:
    """ANO-01: a worker that dies after the alert and before the stop leaves the wish."""
    await watched.settings(stop_repeats=True)
    await gateways.note("again", 40, run="crawl-17")
    dying = await watched.worker()

    async def away(_: AnyCommand) -> Result:
        raise UnavailableError

    dying._submit = away
    with pytest.raises(UnavailableError):
        await dying.step_repeats()
    (alert,) = await watched.alerts()
    assert alert.action == "stopping"
    assert await watched.look(repeats=True) == 0  # it may be at it still
    assert isinstance(await asked(watched, run="crawl-17"), Admitted)
    watched.later(timedelta(minutes=1))
    assert await watched.look(repeats=True, workers=2) == 0
    (alert,) = await watched.alerts()
    assert alert.action == "stopped"
    assert isinstance(await asked(watched, run="crawl-17"), Refused)


async def test_a_higher_rate_and_an_off_switch_are_kept(
    watched: Watched, gateways: Gateways
) -> None:
    """Settings: the rate is the organisation's; off is off."""
    await watched.settings(repeats_per_minute=100)
    await gateways.note("again", 99, run="crawl-17")
    assert await watched.look(repeats=True) == 0
    await watched.settings(repeats=False)
    await gateways.note("again", 9, run="crawl-17")
    assert await watched.look(repeats=True) == 0
    await watched.settings(repeats=True, enabled=False)
    assert await watched.look(repeats=True) == 0
    await watched.settings(enabled=True)
    assert await watched.look(repeats=True) == 1


async def test_notes_are_forgotten(watched: Watched, gateways: Gateways) -> None:
    """Repeats after a day, users' hours after a fortnight: the tables stay small."""
    await gateways.note("again", 40, run="crawl-17", user="ada")
    watched.later(timedelta(days=2))
    await watched.look()
    assert watched.sql("SELECT count(*) FROM repeated_request") == [(0,)]
    assert watched.sql("SELECT user_ref, calls FROM user_hour") == [("ada", 40)]
    watched.later(timedelta(days=13))
    await watched.look()
    assert watched.sql("SELECT count(*) FROM user_hour") == [(0,)]
