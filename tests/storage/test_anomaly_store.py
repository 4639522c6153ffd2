"""Alerts on PostgreSQL: what the watch reads is what rollups and counters say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec import structs

from farebox.advice.anomalies import Anomaly, AnomalyKind
from farebox.advice.anomalies_overrun import Budget
from farebox.advice.anomalies_spending import Spender
from farebox.kit.errors import NotFoundError
from farebox.ledger.limits import Measure, Period, Rule
from farebox.ledger.scopes import ScopeKind
from farebox.storage.anomaly_store import PostgresAnomalyStore
from farebox.storage.connecting import Connector
from tests.support.watched import DAY, HOUR, NOON, Watched, dollars

FOUND = Anomaly(kind=AnomalyKind.RUN_GROWTH, subject="run:r", period_start=NOON, facts={"run": "r"})


@pytest.fixture
async def watched(dsn: str) -> AsyncIterator[Watched]:
    """An organisation with money."""
    watched = Watched(dsn)
    await watched.credit()
    yield watched
    await watched.aclose()


@pytest.fixture
async def store(watched: Watched) -> AsyncIterator[PostgresAnomalyStore]:
    """The store on a connection of its own."""
    connector = Connector(watched.dsn, name="test", durable=False)
    async with await connector.connect() as connection:
        yield PostgresAnomalyStore(connection)


def budget(kind: ScopeKind, ref: str, **rule: Any) -> Budget:
    """A month's budget."""
    return Budget(
        scope_kind=kind,
        scope_ref=ref,
        rule=Rule(maximum=1, **({"period": Period.MONTH} | rule)),
        maximum=1,
        used=0,
        starts_at=datetime(2040, 3, 1, tzinfo=UTC),
        ends_at=datetime(2040, 4, 1, tzinfo=UTC),
    )


async def test_recent_use_is_of_the_limits_own_scope_measure_and_models(
    watched: Watched, store: PostgresAnomalyStore
) -> None:
    """Projected overrun: the organisation, a project, a key, a feature, an environment; money,
    tokens, calls; a model or a family. The first hour is one with calls, in the window.
    """
    till, org = watched.till, watched.till.organization_id
    hours = {NOON - DAY * 20: "9", NOON - DAY * 9: "5", NOON - HOUR: "2", NOON: "1"}
    watched.spent_before(hours)
    other = watched.other()
    watched.spent_before({NOON: "100"}, other)
    for kind, ref in (
        (ScopeKind.ORGANIZATION, org.hex),
        (ScopeKind.PROJECT, till.project_id.hex),
        (ScopeKind.KEY, till.key_id.hex),
        (ScopeKind.FEATURE, "f"),
        (ScopeKind.ENVIRONMENT, "production"),
    ):
        found = await store.recent_use(org, budget(kind, ref), now=NOON)
        assert (found.first_hour, found.used) == (NOON - DAY * 9, dollars("3")), kind
    mine = budget(ScopeKind.ORGANIZATION, org.hex)
    for rule, used in (
        ({"measure": Measure.TOKENS}, 30),
        ({"measure": Measure.CALLS}, 2),
        ({"models": "gpt-5.4"}, dollars("3")),
        ({"models": "gpt-5*"}, dollars("3")),
        ({"models": "gpt-5"}, 0),
    ):
        changed = structs.replace(mine, rule=Rule(maximum=1, **rule))
        assert (await store.recent_use(org, changed, now=NOON)).used == used, rule
    nobody = await store.recent_use(org, budget(ScopeKind.FEATURE, "x"), now=NOON)
    assert (nobody.first_hour, nobody.used) == (None, 0)


async def test_histories_are_of_each_spender(watched: Watched, store: PostgresAnomalyStore) -> None:
    """ANO-02: hours before the running one, of four weeks, of the organisation's own calls."""
    till, org = watched.till, watched.till.organization_id
    watched.spent_before(
        {NOON: "1", NOON - HOUR: "2", NOON - DAY: "3", NOON - DAY * 28: "4", NOON - DAY * 29: "5"}
    )
    watched.sql("UPDATE rollup_hour SET key_id = %s WHERE hour = %s", UUID(int=7), NOON - HOUR)
    everybody = [
        Spender("organization", org.hex),
        Spender("project", till.project_id.hex),
        Spender("key", till.key_id.hex),
        Spender("key", UUID(int=9).hex),
    ]
    found = await store.histories(org, everybody, now=NOON + timedelta(minutes=5))
    all_hours = {
        NOON - HOUR: dollars("2"),
        NOON - DAY: dollars("3"),
        NOON - DAY * 28: dollars("4"),
    }
    assert found[everybody[0]] == found[everybody[1]] == all_hours
    assert found[everybody[2]] == {h: s for h, s in all_hours.items() if h != NOON - HOUR}
    assert everybody[3] not in found


async def test_limits_come_in_pages_with_the_defaults_of_their_kind(
    watched: Watched, store: PostgresAnomalyStore
) -> None:
    """A user's counter under the default of all users is a budget of that user."""
    org = watched.till.organization_id
    await watched.limit("9", scope_kind=ScopeKind.USER)
    await watched.limit("5", scope_kind=ScopeKind.USER, scope_ref="bob")
    await watched.limit("700")
    await watched.spend("1", user="ada")
    seen: dict[str, tuple[int, int]] = {}
    after, pages = None, 0
    while True:
        page = await store.scopes(org, after, limit=1, now=NOON)
        pages += 1
        seen |= {
            each.scope_ref: (each.maximum, each.used) for each in page.limits if each.scope_ref
        }
        after = page.after
        if after is None:
            break
    assert seen == {
        "ada": (dollars("9"), dollars("1")),
        "bob": (dollars("5"), 0),
        org.hex: (dollars("700"), dollars("1")),
    }
    assert pages == 4  # the last one is empty


async def test_an_alert_is_written_under_its_organisations_lock(
    watched: Watched, store: PostgresAnomalyStore
) -> None:
    """ANO-09: with its word in the outbox, both or neither; never twice; nobody's is refused."""
    org = watched.till.organization_id
    assert list((await store.tell(org, [FOUND, FOUND])).values()) == [FOUND]
    assert await store.told(org, [FOUND]) == {FOUND.key}
    assert await store.tell(org, [FOUND]) == {}
    ((word,),) = watched.sql("SELECT facts FROM outbox WHERE kind = 'run_growth'")
    ((anomaly_id,),) = watched.sql("SELECT id FROM anomaly")
    assert word == {"run": "r", "anomaly_id": str(anomaly_id)}
    with pytest.raises(NotFoundError):
        await store.tell(UUID(int=99), [FOUND])
    with watched.shop.locked(watched.till):
        await store._connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await store.tell(org, [structs.replace(FOUND, subject="run:s")])
    assert watched.sql("SELECT count(*) FROM outbox WHERE kind = 'run_growth'") == [(1,)]


async def test_settings_of_nobody_are_refused(store: PostgresAnomalyStore) -> None:
    """There must be such an organisation."""
    with pytest.raises(NotFoundError):
        await store.change_settings(UUID(int=99), {"enabled": False})
    assert (await store.settings(UUID(int=99))).enabled
