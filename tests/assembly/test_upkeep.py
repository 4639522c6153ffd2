"""What the worker does for the management plane."""

from __future__ import annotations

from uuid import UUID

import pytest
from psycopg_pool import AsyncConnectionPool
from structlog.testing import capture_logs

from farebox.assembly.upkeep import Retaining, Upkeep
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.ledger.commands import AnyCommand, Result
from farebox.operations import tiers
from farebox.operations.audit_log import AuditNote
from farebox.operations.idempotency import Answer
from farebox.operations.lane import QuarantinedError
from farebox.storage.request_store import PostgresRequestStore
from farebox.tenancy.tiers import Tier
from tests.support.office import open_office
from tests.support.till import Till


async def test_what_is_due_is_done_and_nothing_twice(dsn: str) -> None:
    """LIM-05: a purchase moves the tier; an abandoned note is chained; an old request forgotten."""
    till = Till()
    till.put_into_database(dsn)
    async with (
        open_office(dsn) as office,
        AsyncConnectionPool(dsn, min_size=1, open=False, kwargs={"autocommit": True}) as pool,
    ):
        for position, purchases in enumerate((0, 500)):
            tier = Tier(
                id=UUID(int=0),
                currency="USD",
                position=position,
                name=f"T{position}",
                purchases=Nanos(purchases),
                monthly_maximum=Nanos(100 + position),
            )
            await office.tiers.set_tier(tier)
        await office.submit(till.grant(500))
        note = AuditNote(action="credit.granted", subject_kind="grant", subject_id="grant_1")
        await office.log.begin(note)
        requests = PostgresRequestStore(office.connection)
        await requests.begin("ada", "k", bytes(32), UUID(int=1))
        await requests.finish("ada", "k", Answer(200, "text/plain", b""))
        for table, column in (("audit_pending", "at"), ("api_request", "created_at")):
            aged = f"UPDATE {table} SET {column} = {column} - interval '40 days'"
            await office.connection.execute(aged.encode())
        upkeep = Upkeep(pool, office.submit)
        for _ in range(2):
            await upkeep.step()
        (limit,) = await office.tier_store.limits(till.organization_id)
        assert (limit.maximum, limit.rule.owner) == (101, "tier T1")
        assert (await office.actions()).count("credit.granted") == 1
        assert await office.one("SELECT count(*) FROM api_request") == 0


async def test_organisations_follow_a_changed_tier(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIM-05: those that the change itself did not wait for have their limits by a step."""
    monkeypatch.setattr(tiers, "AT_ONCE", 1)
    tills = [Till(), Till()]
    for till in tills:
        till.put_into_database(dsn)
    async with (
        open_office(dsn) as office,
        AsyncConnectionPool(dsn, min_size=1, open=False, kwargs={"autocommit": True}) as pool,
    ):
        upkeep = Upkeep(pool, office.submit)
        tier = Tier(
            id=UUID(int=0), currency="USD", position=0, name="T", monthly_maximum=Nanos(100)
        )
        assert not (await office.tiers.set_tier(tier)).all_follow
        assert [await upkeep.follow() for _ in range(2)] == [1, 0]
        for till in tills:
            (limit,) = await office.tier_store.limits(till.organization_id)
            assert limit.maximum == 100


async def test_one_organisation_that_fails_holds_up_nobody(dsn: str) -> None:
    """LIM-05: the worker logs whose tier could not be followed and why; those behind it have their
    limits, and what comes after the tiers is done.
    """
    tills = [Till(), Till()]
    for till in tills:
        till.put_into_database(dsn)
    fails, stands = sorted(till.organization_id for till in tills)
    async with (
        open_office(dsn) as office,
        AsyncConnectionPool(dsn, min_size=1, open=False, kwargs={"autocommit": True}) as pool,
    ):

        async def submit(command: AnyCommand) -> Result:
            if command.organization_id == fails:
                raise QuarantinedError
            return await office.submit(command)

        upkeep = Upkeep(pool, submit)
        await office.tier_store.put_tier(
            Tier(id=UUID(int=5), currency="USD", position=0, name="T", monthly_maximum=Nanos(100))
        )
        days_are_watched = "SELECT isfinite(watched_until) FROM watched_days"
        assert not await office.one(days_are_watched)
        with capture_logs() as logs:
            await upkeep.step()
            assert await upkeep.follow() == 0
        (limit,) = await office.tier_store.limits(stands)
        assert limit.maximum == 100
        assert await office.one(days_are_watched)
        told = {"event": "tier_not_followed", "log_level": "warning"}
        told |= {"organization_id": format_id("org", fails), "error": repr(QuarantinedError())}
        assert logs == [told, told]


async def test_the_worker_drops_what_is_past_retention(dsn: str) -> None:
    """Field bug 56: an old month goes by itself, noted in the system's name; a new one stays."""
    async with (
        open_office(dsn) as office,
        AsyncConnectionPool(dsn, min_size=1, open=False, kwargs={"autocommit": True}) as pool,
    ):
        execute = office.connection.execute
        await execute("SELECT farebox_make_partitions('2025-01-01Z', 1)")
        await execute("UPDATE retention SET call_months = 2")
        for _ in range(2):
            await Retaining(pool).step()
        assert await office.one("SELECT to_regclass('call_2025_01') IS NULL")
        assert not await office.one("SELECT to_regclass('refusal_2025_01') IS NULL")
        assert (await office.actions()).count("calls.dropped") == 1
