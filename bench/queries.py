"""How long people wait for usage, cost and lists with a million calls recorded, and for retention.

``python -m bench.queries [--calls 1052087] [--home FOLDER]``. The calls are a month of one large
and a hundred small organisations, each admitted and settled by the engine (``bench.month``).
Questions go through the whole native API (routing, permissions, documents) in this process, and
their SQL alone beside them. Days that are over are added up first, as the worker does. A home that
is named is kept, and used again the next time; what is found in it, or has to be made, is said
first. With ``--drop`` the older of the two months is dropped in the end, beside traffic; the home
is used up then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx2
import psycopg
from msgspec import json as fast_json
from msgspec import structs

from bench.database import bundled, scratch, settle_down
from bench.engine import fund, make_tenants, new_id, pairs
from bench.figures import table
from bench.machine import machine_facts, postgres_facts
from bench.month import Month, make_month
from farebox.assembly.console import ConsoleProcess
from farebox.assembly.database import OpenDatabase
from farebox.kit.ids import format_id, parse_id
from farebox.operations.documents import document
from farebox.operations.retention import Parent
from farebox.operations.usage import CallFilter, Dimension, UsageQuestion
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.connecting import Connector
from farebox.storage.retention_store import PostgresRetentionStore
from farebox.storage.usage_days import PostgresUsageDays
from farebox.storage.usage_store import PostgresUsageStore
from farebox.tenancy.api_keys import KeyKind, digest, make_key

ROUNDS: Final = 9
USAGE_MS: Final = 200
LIST_MS: Final = 100
"""What is aimed at: usage of a month, and a page of the list of calls."""

_Answer = Callable[[], Awaitable[object]]


class Timer:
    """Asks questions again and again, and keeps how long each took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    async def take(self, name: str, aim_ms: int | None, api: _Answer, sql: _Answer) -> None:
        """Time a question by the API and by its SQL alone, in turns; the first round warms up."""
        whole: list[float] = []
        alone: list[float] = []
        for number in range(ROUNDS + 1):
            for answer, kept in ((api, whole), (sql, alone)):
                began = time.perf_counter()
                await answer()
                if number:
                    kept.append((time.perf_counter() - began) * 1000)
        self.rows.append(
            {
                "question": name,
                "api_ms": round(statistics.median(whole), 1),
                "api_worst_ms": round(max(whole), 1),
                "sql_ms": round(statistics.median(alone), 1),
                "aim_ms": aim_ms,
            }
        )


async def ask_all(dsn: str, home: Path, month: Month) -> list[dict[str, Any]]:
    """Every question that is asked of a month."""
    key = make_key(KeyKind.ADMIN, os.urandom(32))
    with psycopg.connect(dsn) as sql:
        sql.execute(
            "INSERT INTO management_key (id, name, digest, prefix) VALUES (%s, 'bench', %s, 'x')",
            (new_id(), digest(key)),
        )
    console = ConsoleProcess(OpenDatabase(dsn, None), home, requests_max=1_000_000)
    transport = httpx2.ASGITransport(await console.start())
    connection = await Connector(dsn, name="bench").connect()
    headers = {"authorization": f"Bearer {key}"}
    timer = Timer()
    async with (
        httpx2.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8081/api/v1", headers=headers
        ) as client,
        connection,
    ):
        store = PostgresUsageStore(connection)
        await _ask_usage(timer, client, store, month)
        await _ask_lists(timer, client, store, month)
        path = f"/organizations/{format_id('org', month.organization)}/calls"
        (newest,) = (await _get(client, path, {"limit": "1"}))["data"]
        newest_id = parse_id("req", newest["id"], field="id")
        calls = PostgresCallStore(connection)
        ask = _asking(client, f"/calls/{newest['id']}", {})
        await timer.take("a call, explained", LIST_MS, ask, lambda: calls.find(newest_id))
    await console.aclose()
    return timer.rows


async def _get(client: httpx2.AsyncClient, path: str, query: dict[str, str]) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, (path, query, answer.text)
    return fast_json.decode(answer.content)


async def _ask_usage(
    timer: Timer, client: httpx2.AsyncClient, store: PostgresUsageStore, month: Month
) -> None:
    path = f"/organizations/{format_id('org', month.organization)}/usage"
    span = {"since": _instant(month.since), "until": _instant(month.until)}
    question = UsageQuestion(
        organization_id=month.organization, zone="UTC", since=month.since, until=month.until
    )
    for by in ("model", "project", "model,project", "key", "feature", "endpoint", "user", "run"):
        asked = structs.replace(question, by=frozenset(map(Dimension, by.split(","))))
        aim = None if asked.over_calls else USAGE_MS
        await timer.take(
            f"a month by {by}{', over the calls' if asked.over_calls else ''}",
            aim,
            _asking(client, path, {**span, "by": by}),
            partial(store.read, asked, limit=51, offset=0),
        )


async def _ask_lists(
    timer: Timer, client: httpx2.AsyncClient, store: PostgresUsageStore, month: Month
) -> None:
    organization = month.organization
    path = f"/organizations/{format_id('org', organization)}/calls"
    rare_key, rare_project = month.keys[-1]
    for name, narrowed in (
        ("first page", CallFilter()),
        ("four weeks back", CallFilter(until=month.since + timedelta(days=2))),
        ("one project", CallFilter(project_id=rare_project)),
        ("one key", CallFilter(key_id=rare_key)),
        ("one model", CallFilter(model="o5")),
        ("one user", CallFilter(user="user-1999")),
        ("one run", CallFilter(run="run-7")),
        ("lapsed ones", CallFilter(status="lapsed")),
        ("a model that nobody calls", CallFilter(model="none")),
    ):
        given = {k: v for k, v in document(narrowed).items() if v is not None}
        await timer.take(
            f"calls: {name}",
            LIST_MS,
            _asking(client, path, given),
            partial(store.calls, organization, narrowed, after=None, limit=51),
        )


def _asking(client: httpx2.AsyncClient, path: str, query: dict[str, str]) -> _Answer:
    async def ask() -> object:
        return await _get(client, path, query)

    return ask


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def found_month(dsn: str) -> Month | None:
    """A month that was made before."""
    with psycopg.connect(dsn) as sql:
        row = sql.execute(
            "SELECT organization_id, count(*) FROM call GROUP BY 1 ORDER BY 2 DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        keys = sql.execute(
            "SELECT id, project_id FROM api_key WHERE organization_id = %s AND name LIKE 'key%%'"
            " ORDER BY id",
            (row[0],),
        ).fetchall()
        bounds = sql.execute("SELECT min(admitted_at), max(admitted_at), count(*) FROM call")
        since, until, calls = bounds.fetchone() or (None, None, 0)
    assert since is not None
    assert until is not None
    projects: tuple[UUID, ...] = tuple(dict.fromkeys(project for _, project in keys))
    return Month(row[0], projects, tuple(keys), calls, since, until)


def has_database(home: Path) -> bool:
    """Whether an earlier measurement left its database in a folder."""
    return any((home / name).exists() for name in ("postgres/data", "postgres.json"))


async def add_up_days(dsn: str) -> None:
    """Do what the worker does every minute, until nothing is due."""
    async with await Connector(dsn, name="bench").connect() as connection:
        days = PostgresUsageDays(connection)
        while await days.step():
            pass


def kept_or_made(dsn: str, calls: int) -> Month:
    """A month that was made before, or a new one; says which, for a new one takes minutes."""
    found = found_month(dsn)
    if found is None:
        _say(f"no calls here yet: {calls:,} are made by the engine, which takes about ten minutes")
        return make_month(dsn, calls)
    _say(f"{found.calls:,} calls found, from {found.since:%Y-%m-%d} to {found.until:%Y-%m-%d}")
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def drop_a_month(dsn: str, month: Month) -> dict[str, Any]:
    """Drop the older month beside traffic: how long it takes, and what traffic does meanwhile."""
    node, tenants = make_tenants(dsn, 1)
    await fund(dsn, tenants, scopes=0)
    alone = await pairs(dsn, node, tenants, 64, 4.0)
    beside = asyncio.create_task(pairs(dsn, node, tenants, 64, 12.0))
    await asyncio.sleep(1.0)
    connection = await Connector(dsn, name="bench").connect()
    async with connection:
        store = PostgresRetentionStore(connection)
        began = time.perf_counter()
        gone = await store.drop(Parent.CALL, month.since.date().replace(day=1))
        seconds = time.perf_counter() - began
    return {
        "rows_dropped": gone.rows,
        "seconds": round(seconds, 2),
        "pairs_per_second_before": round(alone / 4.0),
        "pairs_per_second_beside": round(await beside / 12.0),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_052_087)
    parser.add_argument("--home", type=Path, help="kept, and used again")
    parser.add_argument("--drop", action="store_true", help="then drop the older month")
    args = parser.parse_args()
    with ExitStack() as stack:
        home = args.home or stack.enter_context(scratch())
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)  # the server runs as another user where we are root
        _say(f"{home}: {'a database is there' if has_database(home) else 'a new database is made'}")
        server = bundled(stack, home, sandbox=True)
        month = kept_or_made(server.dsn, args.calls)
        asyncio.run(add_up_days(server.dsn))
        settle_down(server)
        report: dict[str, Any] = {
            **machine_facts(home),
            "postgresql": postgres_facts(server.dsn),
            "calls": month.calls,
            "rows": asyncio.run(ask_all(server.dsn, home, month)),
        }
        if args.drop:
            report["retention"] = asyncio.run(drop_a_month(server.dsn, month))
    rows = report.pop("rows")
    print(json.dumps(report, indent=1))
    print(table(tuple(rows[0]), [tuple(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
