"""A month of calls, made in bulk through the engine: a database as a busy installation has it.

The sandbox's clock is set thirty days back and moved on hour by hour; in every hour the engine
admits and settles its share of the calls, for one large organisation and a hundred small ones. Who
calls what is drawn from a seed: projects, keys, models, features, users and runs as uneven as they
are in the field.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg

from bench.engine import Tenant, bookkeeper, fund, make_tenants, new_id
from farebox.kit.ids import uuid7
from farebox.kit.money import Nanos
from farebox.ledger.commands import Admit, Admitted, Attribution, Closed, LineItem, Settle, Usage
from farebox.ledger.holds import Dimensions
from farebox.operations.bookkeeper import Bookkeeper

HOURS: Final = 30 * 24
LARGE_SHARE: Final = 0.8
"""Of the calls, those of the one large organisation; the rest is the small ones'."""
SMALL_ONES: Final = 100
PROJECTS: Final = 12
KEYS_PER_PROJECT: Final = 3
USERS: Final = 2_000
RUNS: Final = 20_000
MODELS: Final = ("gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "text-embedding-3-small", "o5")
FEATURES: Final = ("chat", "search", "summary", "agent", "")
CONCURRENCY: Final = 512
SEED: Final = 7


@dataclass(frozen=True, slots=True)
class Month:
    """What was made."""

    organization: UUID
    projects: tuple[UUID, ...]
    keys: tuple[tuple[UUID, UUID], ...]
    """Key and project."""
    calls: int
    since: datetime
    until: datetime


def make_month(dsn: str, calls: int) -> Month:
    """Fill a sandbox database; gives what is in it."""
    until = datetime.now(UTC)
    since = until - timedelta(hours=HOURS)
    _set_clock(dsn, timedelta(hours=-HOURS))
    node, tenants = make_tenants(dsn, 1 + SMALL_ONES)
    large, *small = tenants
    projects, keys = _furnish(dsn, large)
    asyncio.run(fund(dsn, tenants, scopes=0))
    made = asyncio.run(_make(dsn, node, large[0], keys, small, calls, since))
    _set_clock(dsn, timedelta(0))
    return Month(large[0], projects, keys, made, since, until)


def _set_clock(dsn: str, offset: timedelta) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE deployment SET clock_offset = %s", (offset,))
        connection.execute("SELECT farebox_make_partitions(farebox_now() - interval '1 month', 5)")


def _furnish(dsn: str, large: Tenant) -> tuple[tuple[UUID, ...], tuple[tuple[UUID, UUID], ...]]:
    """Give the large organisation its projects and keys."""
    organization = large[0]
    projects = tuple(new_id() for _ in range(PROJECTS))
    keys = tuple((new_id(), project) for project in projects for _ in range(KEYS_PER_PROJECT))
    with psycopg.connect(dsn) as connection:
        cursor = connection.cursor()
        cursor.executemany(
            "INSERT INTO project (id, organization_id, name) VALUES (%s, %s, %s)",
            [(project, organization, f"project {n}") for n, project in enumerate(projects)],
        )
        cursor.executemany(
            "INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix)"
            " VALUES (%s, %s, %s, %s, %s, 'x')",
            [(k, organization, p, f"key {n}", os.urandom(32)) for n, (k, p) in enumerate(keys)],
        )
    return projects, keys


def _drawn(
    node: UUID,
    large: UUID,
    keys: tuple[tuple[UUID, UUID], ...],
    small: list[Tenant],
    at: datetime,
    count: int,
    chance: random.Random,
) -> Iterator[tuple[Admit, Settle]]:
    """The calls of one hour."""
    price, account = UUID(int=1), UUID(int=2)
    for number in range(count):
        organization, project, key = large, keys[0][1], keys[0][0]
        if chance.random() < LARGE_SHARE:
            # The first keys call most: their shares fall by the square of a uniform number.
            key, project = keys[int(len(keys) * chance.random() ** 2)]
        else:
            organization, project, key = small[number % len(small)]
        model = MODELS[int(len(MODELS) * chance.random() ** 2)]
        about = Attribution(
            user=f"user-{int(USERS * chance.random() ** 2)}" if chance.random() < 0.9 else "",
            run=f"run-{int(RUNS * chance.random())}" if chance.random() < 0.2 else "",
        )
        feature = FEATURES[int(len(FEATURES) * chance.random())]
        moment = at + timedelta(seconds=3600 * number / count)
        call = uuid7(moment, chance.randbytes(10))
        tokens = int(20_000 * chance.random() ** 3) + 20
        endpoint = "embeddings" if model.startswith("text") else "chat/completions"
        charge = Nanos(tokens * 2_500)
        yield (
            Admit(
                organization_id=organization,
                call_id=call,
                node_id=node,
                epoch=1,
                catalogue_revision=1,
                fixed=charge,
                output_price=0,
                output_min=10,
                output_max=10,
                latest_end_after=timedelta(hours=2),
                dimensions=Dimensions(
                    project, key, feature, "production", model, "standard", endpoint
                ),
                price_id=price,
                upstream_account_id=account,
                input_tokens=tokens,
                attribution=about,
            ),
            Settle(
                organization_id=organization,
                call_id=call,
                metered=charge,
                cost=charge,
                lines=(LineItem("input", tokens, 2_500_000_000, charge),),
                usage=Usage(input_tokens=tokens, output_tokens=tokens // 10),
                http_status=200 if chance.random() < 0.97 else 499,
                latency_ms=int(5_000 * chance.random()),
            ),
        )


async def _make(
    dsn: str,
    node: UUID,
    large: UUID,
    keys: tuple[tuple[UUID, UUID], ...],
    small: list[Tenant],
    calls: int,
    since: datetime,
) -> int:
    """Hour by hour, each with its share of the calls."""
    keeper = bookkeeper(dsn)
    keeper.start()
    chance = random.Random(SEED)
    made = 0
    for hour in range(HOURS):
        at = since + timedelta(hours=hour)
        _set_clock(dsn, at - datetime.now(UTC))
        count = calls * (hour + 1) // HOURS - made
        work = _drawn(node, large, keys, small, at, count, chance)
        await asyncio.gather(*(_pairs(keeper, work) for _ in range(CONCURRENCY)))
        made += count
    await keeper.aclose()
    return made


async def _pairs(keeper: Bookkeeper, work: Iterator[tuple[Admit, Settle]]) -> None:
    for admit, settle in work:
        admitted = await keeper.submit(admit)
        assert isinstance(admitted, Admitted), admitted
        closed = await keeper.submit(settle)
        assert isinstance(closed, Closed), closed
