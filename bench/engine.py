"""Admit + settle pairs a second through the money engine, PostgreSQL and durable commits included.

``python -m bench.engine [--organizations 1000] [--scopes 2] [--processes 2] [--apart]
[--seconds 10]``. Every pair is checked: afterwards the organisations' totals and the limits'
counters must equal the sum of what was charged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from bench.database import bundled, scratch, settle_down
from farebox.assembly.gateway import LANES
from farebox.assembly.processes import spare_the_collector
from farebox.kit.ids import uuid7_from_millis
from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    Admitted,
    Attribution,
    Closed,
    GrantCredit,
    LineItem,
    SetLimit,
    Settle,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.holds import Dimensions
from farebox.ledger.limits import Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.bookkeeper import Bookkeeper
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector

CHARGE = Nanos(900)
Tenant = tuple[UUID, UUID, UUID]


def new_id() -> UUID:
    """An id by this machine's clock."""
    return uuid7_from_millis(time.time_ns() // 1_000_000, os.urandom(10))


def make_tenants(dsn: str, count: int) -> tuple[UUID, list[Tenant]]:
    """Organisations with a project and a key each, and a node."""
    node = new_id()
    tenants = [(new_id(), new_id(), new_id()) for _ in range(count)]
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO node (id, epoch, name) VALUES (%s, 1, 'bench')", (node,))
        cursor = connection.cursor()
        cursor.executemany(
            "INSERT INTO organization (id, name) VALUES (%s, %s)",
            [(o, o.hex) for o, _, _ in tenants],
        )
        cursor.executemany(
            "INSERT INTO project (id, organization_id, name) VALUES (%s, %s, 'p')",
            [(p, o) for o, p, _ in tenants],
        )
        cursor.executemany(
            "INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix)"
            " VALUES (%s, %s, %s, 'k', %s, 'x')",
            [(k, o, p, os.urandom(32)) for o, p, k in tenants],
        )
    return node, tenants


def bookkeeper(dsn: str) -> Bookkeeper:
    """A bookkeeper as the gateway has it."""
    stores = [PostgresBatchStore(Connector(dsn, name="bench")) for _ in range(LANES)]
    return Bookkeeper(stores, monotonic=time.monotonic)


SCOPES: tuple[tuple[ScopeKind, str], ...] = (
    (ScopeKind.PROJECT, ""),
    (ScopeKind.KEY, ""),
    (ScopeKind.ORGANIZATION, ""),
    (ScopeKind.ENVIRONMENT, "production"),
    (ScopeKind.FEATURE, "feature"),
    (ScopeKind.USER, "ada"),
    (ScopeKind.RUN, "run"),
    (ScopeKind.TAG, "team=red"),
)
"""The scopes that get a limit, in this order; every call is counted under all of them."""


def limits(tenant: Tenant, scopes: int) -> list[SetLimit]:
    """A monthly limit of money on each of the first scopes."""
    organization, project, key = tenant
    own = {ScopeKind.PROJECT: project.hex, ScopeKind.KEY: key.hex}
    return [
        SetLimit(
            organization_id=organization,
            scope_kind=kind,
            scope_ref=own.get(kind, ref),
            period=Period.MONTH,
            maximum=10**15,
        )
        for kind, ref in SCOPES[:scopes]
    ]


async def fund(dsn: str, tenants: list[Tenant], *, scopes: int) -> None:
    """Give every organisation credit, and monthly limits where asked."""
    keeper = bookkeeper(dsn)
    keeper.start()
    commands: list[Any] = [
        GrantCredit(
            organization_id=o, grant_id=new_id(), source=Source.PURCHASED, amount=Nanos(10**15)
        )
        for o, _, _ in tenants
    ]
    commands += [command for tenant in tenants for command in limits(tenant, scopes)]
    await asyncio.gather(*(keeper.submit(command) for command in commands))
    await keeper.aclose()


async def pairs(
    dsn: str,
    node: UUID,
    tenants: list[Tenant],
    concurrency: int,
    seconds: float,
    *,
    labels: bool = False,
) -> int:
    """Make pairs until the time is up; gives how many."""
    keeper = bookkeeper(dsn)
    keeper.start()
    until = time.perf_counter() + seconds
    price, account = new_id(), new_id()
    lines = (LineItem("input", 10, 50, Nanos(400)), LineItem("output", 10, 50, Nanos(500)))
    usage = Usage(input_tokens=10, output_tokens=10)
    about = Attribution(user="ada", run="run", tags={"team": "red"}) if labels else Attribution()
    made = 0

    async def work(begin: int) -> None:
        nonlocal made
        at = begin
        while time.perf_counter() < until:
            organization, project, key = tenants[at % len(tenants)]
            at += concurrency
            call = new_id()
            admitted = await keeper.submit(
                Admit(
                    organization_id=organization,
                    call_id=call,
                    node_id=node,
                    epoch=1,
                    catalogue_revision=1,
                    fixed=Nanos(1000),
                    output_price=15_000_000,
                    output_min=10,
                    output_max=10,
                    latest_end_after=timedelta(hours=2),
                    dimensions=Dimensions(
                        project, key, "feature", "production", "gpt-5.4", "standard", "chat"
                    ),
                    price_id=price,
                    upstream_account_id=account,
                    input_tokens=10,
                    attribution=about,
                )
            )
            assert isinstance(admitted, Admitted), admitted
            closed = await keeper.submit(
                Settle(
                    organization_id=organization,
                    call_id=call,
                    metered=CHARGE,
                    cost=CHARGE,
                    lines=lines,
                    usage=usage,
                )
            )
            assert isinstance(closed, Closed), closed
            made += 1

    await asyncio.gather(*(work(i) for i in range(concurrency)))
    await keeper.aclose()
    return made


def _process(
    dsn: str,
    node: UUID,
    tenants: list[Tenant],
    concurrency: int,
    seconds: float,
    scopes: int,
    results: Any,
) -> None:
    import uvloop

    spare_the_collector()
    results.put(uvloop.run(pairs(dsn, node, tenants, concurrency, seconds, labels=scopes > 5)))


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--organizations", type=int, default=1)
    parser.add_argument(
        "--scopes", type=int, default=0, choices=range(9), help="limited scopes of every call"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--apart", action="store_true", help="each process serves organisations of its own"
    )
    parser.add_argument("--concurrency", type=int, default=512, help="calls in flight per process")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="on which disk the database lies")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        server = bundled(stack, folder / "home", sandbox=True)
        node, tenants = make_tenants(server.dsn, args.organizations)
        asyncio.run(fund(server.dsn, tenants, scopes=args.scopes))
        settle_down(server)
        results: Any = multiprocessing.Queue()
        workers = [
            multiprocessing.Process(
                target=_process,
                args=(
                    server.dsn,
                    node,
                    tenants[place :: args.processes] if args.apart else tenants,
                    args.concurrency,
                    args.seconds,
                    args.scopes,
                    results,
                ),
            )
            for place in range(args.processes)
        ]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        made = sum(results.get() for _ in workers)
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - began
        with psycopg.connect(server.dsn) as connection:
            row = connection.execute(
                "SELECT sum(spent_nanos)::bigint, sum(reserved_nanos)::bigint FROM organization"
            ).fetchone()
        assert row == (made * CHARGE, 0), (row, made)
        with psycopg.connect(server.dsn) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(used), 0)::bigint, coalesce(sum(held), 0)::bigint"
                " FROM scope_window"
            ).fetchone()
        assert row == (made * CHARGE * args.scopes, 0), (row, made)
    print(
        json.dumps(
            {
                "organizations": args.organizations,
                "limited_scopes": args.scopes,
                "processes": args.processes,
                "apart": args.apart,
                "pairs": made,
                "pairs_per_second": round(made / args.seconds),
                "wall_seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
