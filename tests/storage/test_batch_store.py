"""Batches on PostgreSQL: what comes back, what is refused, and what becomes of a failing server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec import structs

from farebox.kit.errors import FareboxError, IncompatibleError
from farebox.kit.money import Nanos
from farebox.kit.periods import month_start
from farebox.ledger.commands import (
    Admitted,
    AnyCommand,
    Closed,
    Correct,
    Done,
    Granted,
    Refund,
    Refused,
    SetLimit,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.holds import CallState
from farebox.ledger.limits import Period
from farebox.operations.batches import (
    BatchRejectedError,
    BatchStoreLostError,
    BatchUnsettledError,
)
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.lane import QuarantinedError
from farebox.storage import batch_store, connecting
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Answer, Exchange
from farebox.system.postgres.throwaway import throwaway
from tests.support.till import Till, new_id


class Shop:
    """A database with one organisation, a store, and a way to look and to meddle."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.till = self.new_till()
        self.store = self.new_store()

    def new_till(self, **options: Any) -> Till:
        """Another organisation."""
        till = Till(**options)
        till.put_into_database(self.dsn)
        return till

    def new_store(self) -> PostgresBatchStore:
        """Another lane."""
        return PostgresBatchStore(Connector(self.dsn, name="test", durable=False))

    async def run(self, *commands: AnyCommand, resent: bool = False) -> Any:
        """One batch; one command's result stands for itself."""
        results = await self.store.run(commands, resent=resent)
        return results[0] if len(commands) == 1 else results

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement behind the engine's back."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def locked(self, till: Till) -> Iterator[psycopg.Connection[Any]]:
        """Somebody else holds the organisation's row."""
        with psycopg.connect(self.dsn) as other:
            other.execute(
                "SELECT FROM organization WHERE id = %s FOR UPDATE", (till.organization_id,)
            )
            yield other
            other.rollback()

    def totals(self) -> tuple[int, int, int]:
        """What is spent, reserved and left of the till's credit."""
        ((spent, reserved, left),) = self.sql(
            "SELECT spent_nanos, reserved_nanos, unreserved_nanos FROM organization WHERE id = %s",
            self.till.organization_id,
        )
        return spent, reserved, left

    async def until_waiting(self) -> int:
        """Wait until the store waits for a lock; its server process."""
        async with asyncio.timeout(10):
            while True:
                found = self.sql(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock'"
                )
                if found:
                    return int(found[0][0])
                await asyncio.sleep(0.01)


@pytest.fixture
async def shop(dsn: str) -> AsyncIterator[Shop]:
    """A database with one organisation."""
    shop = Shop(dsn)
    yield shop
    await shop.store.aclose()


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for only briefly."""
    patient = "set_config('lock_timeout', '5s', false)"
    assert patient in connecting._SETTINGS
    hasty = connecting._SETTINGS.replace(patient, patient.replace("5s", "150ms"))
    monkeypatch.setattr(connecting, "_SETTINGS", hasty)


# --- replays -----------------------------------------------------------------------------------


async def test_a_replay_gives_the_first_answer(shop: Shop) -> None:
    """ENGINE "Idempotency": every command that is sent again has its effect once, and says so."""
    till = shop.till
    call = till.admit(30)
    commands: list[AnyCommand] = [
        till.grant(100),
        call,
        till.extend(call, 20),
        till.report(call, 3),
        till.settle(call, 40),
    ]
    refund = Refund(
        organization_id=till.organization_id,
        command_id=new_id(),
        grant_id=commands[0].grant_id,  # type: ignore[union-attr]
        amount=Nanos(5),
        note="n",
    )
    correct = Correct(
        organization_id=till.organization_id, command_id=new_id(), amount=Nanos(5), note="n"
    )
    first = [await shop.run(command) for command in [*commands, refund, correct]]
    assert not any(isinstance(result, Refused) for result in first)
    before = shop.totals()
    assert before == (40, 0, 50)
    again = [
        await shop.run(command, resent=True)
        for command in [commands[0], commands[4], refund, correct]
    ]
    assert [result.exists for result in again] == [True] * 4
    assert again[1].charge == 40
    ended = [await shop.run(command, resent=True) for command in commands[1:4]]
    assert [result.code for result in ended] == ["hold_closed", "hold_not_found", "hold_not_found"]
    assert shop.totals() == before


async def test_an_open_hold_answers_its_replay(shop: Shop) -> None:
    """ENGINE "Idempotency": an admission whose answer was lost finds its own hold."""
    call = shop.till.admit(30)
    await shop.run(shop.till.grant(100))
    first = await shop.run(call)
    again = await shop.run(call, resent=True)
    assert isinstance(first, Admitted)
    assert again == structs.replace(first, exists=True)
    other = await shop.run(structs.replace(call, fixed=Nanos(31)), resent=True)
    assert isinstance(other, Refused)
    assert other.code == "exists_with_different_fields"
    assert shop.totals() == (0, 30, 70)


async def test_a_settle_with_other_usage_is_refused(shop: Shop) -> None:
    """ENGINE "Idempotency": a replay is compared by all its fields."""
    call = shop.till.admit(30)
    await shop.run(shop.till.grant(100))
    await shop.run(call)
    settle = shop.till.settle(call, 20)
    assert isinstance(await shop.run(settle), Closed)
    for other in (
        structs.replace(settle, cost=Nanos(1)),
        structs.replace(settle, usage=Usage(input_tokens=1)),
        shop.till.settle(call, 21),
    ):
        assert (await shop.run(other)).code == "exists_with_different_fields"
    assert shop.totals() == (20, 0, 80)


async def test_a_replay_waits_until_its_commit_is_durable(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "The server it stands on": what a replay finds is flushed before it is believed."""
    sent: list[str] = []
    send = Exchange.send

    def noting(self: Exchange, sql: str, parameters: tuple[str, ...] = ()) -> None:
        sent.append(sql)
        send(self, sql, parameters)

    call = shop.till.admit(0)
    await shop.run(call)
    monkeypatch.setattr(Exchange, "send", noting)
    await shop.run(call, resent=True)
    await shop.run(shop.till.admit(1))
    assert [sql for sql in sent if sql in {"COMMIT", "ROLLBACK"}] == ["COMMIT", "ROLLBACK"]


async def test_a_late_answer_finds_the_grants_it_drew(shop: Shop) -> None:
    """ENGINE "Promise": a lapsed call that answers after all is charged what it used, exactly.

    The grants that the estimate emptied are loaded again to take their money back.
    """
    till = shop.till
    for amount in (10, 20):
        await shop.run(till.grant(amount, Source.FREE))
    call = till.admit(30)
    await shop.run(call)
    await shop.run(till.report(call, 30))
    shop.sql("UPDATE node SET epoch = 2")
    lapsed = await shop.run(till.lapse(call))
    assert (lapsed.state, lapsed.charge) == (CallState.LAPSED, 30)
    assert shop.sql("SELECT DISTINCT has_money FROM credit_grant") == [(False,)]
    late = await shop.run(till.settle(call, 4))
    assert (late.state, late.charge, late.available) == (CallState.LATE, 4, 26)
    assert (await shop.run(till.settle(call, 4), resent=True)).exists
    ((state, charge, draws),) = shop.sql("SELECT state, charge_nanos, draw_nanos FROM call")
    assert (state, charge, draws) == ("late", 4, [4])


async def test_a_release_gives_a_lapsed_charge_back_to_what_repaid_it(shop: Shop) -> None:
    """NEG-04: debt of a lapsed call that a purchase repaid returns to that purchase."""
    till = shop.till
    shop.sql(
        "UPDATE organization SET floor_nanos = 50, on_lapse = 'ceiling' WHERE id = %s",
        till.organization_id,
    )
    call = till.admit(40)
    await shop.run(call)
    shop.sql("UPDATE node SET epoch = 2")
    assert (await shop.run(till.lapse(call))).owed == 40
    bought = await shop.run(till.grant(40))
    assert (bought.repaid, bought.available) == (40, 0)
    released = await shop.run(till.release(call))
    assert (released.state, released.charge, released.available) == (CallState.LATE, 0, 40)


# --- who may not -------------------------------------------------------------------------------


async def test_who_may_not_call_is_refused_under_the_lock(shop: Shop) -> None:
    """ENGINE "A batch": key, project and organisation are read anew with every admission."""
    till, other = shop.till, shop.new_till()
    strange = till.admit(0)
    stolen = structs.replace(
        strange, dimensions=structs.replace(strange.dimensions, key_id=other.key_id)
    )
    nowhere = structs.replace(strange, organization_id=new_id())
    # Both organisations in one batch: their keys are loaded together.
    answers = await shop.run(stolen, nowhere, other.admit(0))
    assert [getattr(a, "code", "admitted") for a in answers] == [
        "key_not_found",
        "organization_not_found",
        "admitted",
    ]
    for change, code in (
        ("UPDATE api_key SET expires_at = farebox_now()", "key_expired"),
        ("UPDATE api_key SET expires_at = NULL, revoked_at = farebox_now()", "key_revoked"),
        ("UPDATE api_key SET revoked_at = farebox_now() + '1 hour'", "admitted"),
        ("UPDATE project SET archived_at = farebox_now()", "project_archived"),
        ("UPDATE node SET epoch = 2", "stale_epoch"),
        ("DELETE FROM node", "stale_epoch"),
    ):
        shop.sql(change)
        assert getattr(await shop.run(till.admit(0)), "code", "admitted") == code
    shop.sql("UPDATE organization SET active = false WHERE id = %s", other.organization_id)
    stale = other.admit(0, catalogue_revision=7)
    assert (await shop.run(structs.replace(stale, epoch=9))).code == "stale_epoch"


async def test_every_answer_of_an_unknown_organisation_is_the_same(shop: Shop) -> None:
    """DESIGN 18: a command for nobody changes nothing, whatever else is in its batch."""
    ghost = Till()
    call = ghost.admit(1)
    commands: list[AnyCommand] = [
        ghost.grant(5),
        call,
        ghost.settle(call),
        ghost.extend(call, 1),
        ghost.lapse(call),
        SetLimit(organization_id=ghost.organization_id, period=Period.MONTH, maximum=Nanos(5)),
        shop.till.grant(7),
    ]
    *refused, granted = await shop.run(*commands)
    assert {answer.code for answer in refused} == {"organization_not_found"}
    assert isinstance(granted, Granted)


async def test_another_organisations_grant_stays_its_own(shop: Shop) -> None:
    """DESIGN 18: naming another tenant's grant reads and changes nothing of it."""
    other = shop.new_till()
    theirs = other.grant(100)
    await shop.run(theirs)
    refund = Refund(
        organization_id=shop.till.organization_id,
        command_id=new_id(),
        grant_id=theirs.grant_id,
        amount=Nanos(5),
        note="n",
    )
    assert (await shop.run(refund)).code == "grant_not_found"
    together = await shop.run(refund, other.admit(0))
    assert together[0].code == "grant_not_found"
    taken = structs.replace(theirs, organization_id=shop.till.organization_id)
    with pytest.raises(BatchRejectedError, match="23505"):
        await shop.run(taken)


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "month"),
    [
        ("UTC", 3),
        ("Asia/Kolkata", 3),
        ("America/New_York", 11),
        ("America/St_Johns", 11),
        ("Australia/Lord_Howe", 10),
        ("Pacific/Chatham", 4),
        ("Asia/Kathmandu", 1),
    ],
)
async def test_a_limit_that_begins_in_the_middle_counts_its_month_exactly(
    shop: Shop, zone: str, month: int
) -> None:
    """BUD-01, BUD-02: a limit counts the month's charges of its zone, to the minute.

    The zones begin their months inside a UTC hour, or on a day when clocks change.
    """
    till = shop.new_till(zone=zone)
    start = month_start(datetime(2027, month, 15, tzinfo=UTC), zone)
    edges = [timedelta(seconds=seconds) for seconds in (-2400, -1500, -600, 600, 1500, 2400, 5400)]
    shop.sql(
        "UPDATE deployment SET clock_offset = %s - clock_timestamp()", start - timedelta(hours=2)
    )
    await shop.run(till.grant(10_000))
    open_call = till.admit(500)
    for bit, edge in enumerate(edges):
        shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", start + edge)
        if edge > timedelta(0) and open_call.fixed == 500:
            await shop.run(open_call)
            open_call = structs.replace(open_call, fixed=Nanos(501))
        call = till.admit(1 << bit)
        await shop.run(call)
        await shop.run(till.settle(call, 1 << bit))
    limit = SetLimit(organization_id=till.organization_id, period=Period.MONTH, maximum=Nanos(1000))
    # In the same batch a call is charged that the rows do not have yet.
    extra = till.admit(1 << 8)
    await shop.run(extra)
    results = await shop.run(limit, till.settle(extra, 1 << 8))
    assert isinstance(results[0], Done)
    ((windows,),) = shop.sql("SELECT windows FROM scope_limit")
    (window,) = windows["month"]
    assert datetime.fromisoformat(window["start"]) == start
    inside = sum(1 << bit for bit, edge in enumerate(edges) if edge > timedelta(0))
    assert window["used"] + window["held"] == inside + 256 + 500
    assert window["used"] in {inside, inside + 256}


# --- what the database says ----------------------------------------------------------------


async def test_a_locked_organisation_leaves_its_batch_unsettled(shop: Shop, _hasty: None) -> None:
    """ENGINE "A batch": a lock timeout means that nothing was committed; the same ids go again."""
    grant = shop.till.grant(100)
    with shop.locked(shop.till), pytest.raises(BatchUnsettledError, match="55P03"):
        await shop.run(grant)
    assert not (await shop.run(grant)).exists


async def test_a_victim_of_a_deadlock_is_sent_again(shop: Shop) -> None:
    """ENGINE "A batch": 40P01 leaves nothing behind; organisations are locked in one order."""
    first, second = sorted((shop.new_till() for _ in range(2)), key=lambda t: t.organization_id)
    grants = [second.grant(7), first.grant(5)]
    with psycopg.connect(shop.dsn) as other:
        other.execute("SET deadlock_timeout TO '1min'")
        lock = "SELECT FROM organization WHERE id = %s FOR UPDATE"
        other.execute(lock, (second.organization_id,))
        batch = asyncio.create_task(shop.store.run(grants, resent=False))
        await shop.until_waiting()
        await asyncio.to_thread(other.execute, lock, (first.organization_id,))
        with pytest.raises(BatchUnsettledError, match="40P01"):
            await batch
    results = await shop.run(*grants)
    assert [result.exists for result in results] == [False, False]


async def test_a_cancelled_statement_leaves_its_batch_unsettled(shop: Shop) -> None:
    """ENGINE "A batch": 57014 before the commit means that nothing was committed."""
    grant = shop.till.grant(100)
    with shop.locked(shop.till):
        batch = asyncio.create_task(shop.run(grant))
        shop.sql("SELECT pg_cancel_backend(%s)", await shop.until_waiting())
        with pytest.raises(BatchUnsettledError, match="57014"):
            await batch
    assert not (await shop.run(grant)).exists


async def test_a_killed_connection_leaves_its_batch_in_doubt(shop: Shop) -> None:
    """ENGINE "Idempotency": before the commit, the same ids take effect for the first time."""
    grant = shop.till.grant(100)
    with shop.locked(shop.till):
        batch = asyncio.create_task(shop.run(grant))
        shop.sql("SELECT pg_terminate_backend(%s)", await shop.until_waiting())
        with pytest.raises(BatchStoreLostError):
            await batch
    assert not (await shop.run(grant, resent=True)).exists
    # A connection that dies while idle is no harder.
    shop.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(BatchStoreLostError):
        await shop.run(grant)
    assert (await shop.run(grant, resent=True)).exists


async def test_a_commit_whose_answer_is_lost_happens_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Idempotency": after the commit, the same ids find their first effect."""
    till = shop.till
    call = till.admit(30)
    commands = [till.grant(100), call, till.extend(call, 9), till.settle(call, 35)]
    answered = Exchange.answers

    async def losing(self: Exchange) -> list[Answer]:
        found = await answered(self)
        if not any(answer.rows for answer in found):
            raise psycopg.OperationalError("the connection is lost")
        return found

    for command in commands:
        monkeypatch.setattr(Exchange, "answers", losing)
        with pytest.raises(BatchStoreLostError):
            await shop.run(command)
        monkeypatch.setattr(Exchange, "answers", answered)
        assert (await shop.run(command, resent=True)).exists
    assert shop.totals() == (35, 0, 65)
    assert shop.sql("SELECT count(*), sum(charge_nanos) FROM call") == [(1, 35)]


async def test_a_process_that_stalls_under_the_lock_loses_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "A batch": idle in a transaction for two seconds ends it; nothing was committed."""
    hasty = connecting._SETTINGS.replace("'2s'", "'50ms'")
    assert hasty != connecting._SETTINGS
    monkeypatch.setattr(connecting, "_SETTINGS", hasty)
    decided = batch_store.decide

    def stalling(*arguments: Any) -> Any:
        time.sleep(0.3)
        return decided(*arguments)

    monkeypatch.setattr(batch_store, "decide", stalling)
    grant = shop.till.grant(100)
    with pytest.raises((BatchUnsettledError, BatchStoreLostError)):
        await shop.run(grant)
    monkeypatch.setattr(batch_store, "decide", decided)
    assert not (await shop.run(grant, resent=True)).exists


async def test_a_frozen_server_is_given_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Idempotency": a server that says nothing at all is a connection that is lost."""
    await shop.run(shop.till.grant(100))
    exchange = shop.store._exchange
    assert exchange is not None
    pid = exchange.connection.pgconn.backend_pid
    monkeypatch.setattr(batch_store, "BATCH_SECONDS_MAX", 0.2)
    call = shop.till.admit(30)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(BatchStoreLostError, match="TimeoutError"):
            await shop.run(call)
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert isinstance(await shop.run(call, resent=True), Admitted)
    assert shop.totals() == (0, 30, 70)


async def test_a_cancelled_batch_leaves_nothing_half_done(shop: Shop) -> None:
    """ENGINE "A batch": a store whose caller is cancelled drops the connection with the locks."""
    with shop.locked(shop.till):
        batch = asyncio.create_task(shop.run(shop.till.grant(100)))
        await shop.until_waiting()
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
    async with asyncio.timeout(5):
        assert isinstance(await shop.run(shop.till.grant(1)), Granted)
    assert shop.totals() == (0, 0, 1)


async def test_a_changed_schema_is_noticed(shop: Shop) -> None:
    """ENGINE "Idempotency": a statement prepared before a migration is prepared anew."""
    await shop.run(shop.till.grant(1))
    shop.sql("ALTER TABLE credit_grant ALTER reference TYPE varchar(500)")
    grant = shop.till.grant(2)
    with pytest.raises(BatchUnsettledError, match="0A000"):
        await shop.run(grant)
    assert not (await shop.run(grant)).exists


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.SerializationFailure, BatchUnsettledError),
        (psycopg.errors.IdleInTransactionSessionTimeout, BatchUnsettledError),
        (psycopg.errors.DataCorrupted, BatchUnsettledError),
        (psycopg.errors.UndefinedTable, BatchUnsettledError),
        (psycopg.errors.CardinalityViolation, BatchRejectedError),
        (psycopg.errors.ProgramLimitExceeded, BatchRejectedError),
        (psycopg.errors.RaiseException, BatchRejectedError),
        (psycopg.errors.NumericValueOutOfRange, BatchRejectedError),
        (psycopg.errors.AdminShutdown, BatchStoreLostError),
        (psycopg.errors.CannotConnectNow, BatchStoreLostError),
        (psycopg.errors.DiskFull, BatchStoreLostError),
        (psycopg.errors.TooManyConnections, BatchStoreLostError),
        (psycopg.errors.ReadOnlySqlTransaction, BatchStoreLostError),
        (psycopg.errors.IoError, BatchStoreLostError),
        (psycopg.OperationalError, BatchStoreLostError),
        (IncompatibleError, BatchStoreLostError),
        (ConnectionResetError, BatchStoreLostError),
        (TimeoutError, BatchStoreLostError),
    ],
)
async def test_every_failure_has_a_meaning(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: type[Exception], kind: type[FareboxError]
) -> None:
    """ENGINE "A batch": values are rejected, rows in trouble wait, a server that is away is lost.

    Nothing else may come out: the bookkeeper answers all three, and loses no command in any.
    """

    async def failing(self: Connector) -> Any:
        raise error("said the server")

    monkeypatch.setattr(Connector, "connect", failing)
    with pytest.raises(kind, match="said the server"):
        await shop.run(shop.till.grant(1))
    with pytest.raises(kind, match="said the server"):
        await shop.store.quarantine(shop.till.grant(1), "rejected")


async def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    """ENGINE "Idempotency": a database that was stopped and started answers the same ids."""
    from farebox.storage.migrate import migrate

    with throwaway(tmp_path / "pg", durable=True) as server:
        migrate(server.dsn, sandbox=True)
        shop = Shop(server.dsn)
        bookkeeper = Bookkeeper([shop.store], monotonic=time.monotonic)
        bookkeeper.start()
        await bookkeeper.submit(shop.till.grant(100))
        call = shop.till.admit(30)
        await bookkeeper.submit(call)
        os.kill(server.pid, signal.SIGQUIT)
        settling = asyncio.create_task(bookkeeper.submit(shop.till.settle(call, 20)))
        await asyncio.sleep(0.2)
        assert not settling.done()
        await asyncio.to_thread(server.ensure_running)
        async with asyncio.timeout(20):
            assert isinstance(await settling, Closed)
        await bookkeeper.aclose()
        assert shop.totals() == (20, 0, 80)


# --- what the database rejects ---------------------------------------------------------------


async def test_the_offender_goes_to_quarantine_and_the_rest_commits(shop: Shop) -> None:
    """ENGINE "A batch": on class 22 or 23 one command is put aside, with word of it; once."""
    tills = [shop.till, *(shop.new_till() for _ in range(3))]
    bookkeeper = Bookkeeper([shop.store], monotonic=time.monotonic)
    bookkeeper.start()
    await asyncio.gather(*(bookkeeper.submit(till.grant(1000)) for till in tills))
    shop.sql("ALTER TABLE hold ADD CHECK (feature <> 'poison')")
    shop.sql("ALTER TABLE credit_grant ADD CHECK (reference <> 'poison')")
    odd = tills[1].admit(10)
    odd = structs.replace(odd, dimensions=structs.replace(odd.dimensions, feature="poison"))
    commands: list[AnyCommand] = [
        *(till.admit(10) for till in tills for _ in range(5)),
        odd,
        tills[2].grant(5, reference="poison"),
        *(till.grant(5) for till in tills),
    ]
    results = await asyncio.gather(
        *(bookkeeper.submit(command) for command in commands), return_exceptions=True
    )
    failed = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [20, 21]
    assert all(isinstance(results[i], QuarantinedError) for i in failed)
    with pytest.raises(QuarantinedError, match="23514"):
        await bookkeeper.submit(odd)
    await bookkeeper.aclose()
    found = shop.sql(
        "SELECT organization_id, command_kind, command ->> 'organization_id', left(error, 5),"
        " ruled_at FROM quarantine ORDER BY id"
    )
    assert [(row[0], row[1], row[3], row[4]) for row in found] == [
        (tills[1].organization_id, "admit", "23514", None),
        (tills[2].organization_id, "grantcredit", "23514", None),
    ]
    assert all(str(row[0]) == row[2] for row in found)
    events = shop.sql("SELECT organization_id, facts ->> 'command' FROM outbox ORDER BY id")
    assert events == [(row[0], row[1]) for row in found]
    assert shop.sql("SELECT count(*) FROM hold") == [(20,)]
    assert shop.sql("SELECT count(*) FROM credit_grant") == [(8,)]


async def test_a_value_that_no_column_holds_is_rejected(shop: Shop) -> None:
    """ENGINE "A batch": even what slipped past every check spoils nothing but itself."""
    call = shop.till.admit(0)
    await shop.run(call)
    wide = structs.replace(shop.till.settle(call, 0), cost=Nanos(2**70))
    with pytest.raises(BatchRejectedError, match="22003"):
        await shop.run(wide)
    assert isinstance(await shop.run(shop.till.settle(call, 0)), Closed)


@pytest.mark.parametrize("odd", ["a\x00b", "\x00", "NULL", '{"\\', "\U0001f600" * 40])
async def test_an_odd_label_spoils_no_batch(shop: Shop, odd: str) -> None:
    """ATT-01: whatever a client calls its users, runs and tags, its call is charged."""
    call = shop.till.admit(10)
    call = structs.replace(
        call,
        dimensions=structs.replace(call.dimensions, feature=odd, environment=odd),
        attribution=structs.replace(
            call.attribution, user=odd, run=odd, tags={odd: odd}, client_request_id=odd
        ),
    )
    settle = structs.replace(shop.till.settle(call, 5), reason=odd)
    await shop.run(shop.till.grant(100))
    assert isinstance(await shop.run(call), Admitted)
    assert (await shop.run(call, resent=True)).exists
    assert isinstance(await shop.run(settle), Closed)
    assert (await shop.run(settle, resent=True)).exists
    kept = odd.replace("\x00", "\ufffd")
    assert shop.sql("SELECT feature, user_ref, tags, reason FROM call") == [
        (kept, kept, {kept: kept}, kept)
    ]
    assert shop.sql("SELECT feature, calls FROM rollup_hour") == [(kept, 1)]


async def test_half_a_character_is_put_aside_alone(shop: Shop) -> None:
    """ENGINE "A batch": a text that has no bytes fails its own command and no other."""
    bookkeeper = Bookkeeper([shop.store], monotonic=time.monotonic)
    bookkeeper.start()
    calls = [shop.till.admit(0) for _ in range(3)]
    calls[1] = structs.replace(
        calls[1], attribution=structs.replace(calls[1].attribution, tags={"a": "\ud800"})
    )
    results = await asyncio.gather(
        *(bookkeeper.submit(call) for call in calls), return_exceptions=True
    )
    await bookkeeper.aclose()
    assert [type(result) for result in results] == [Admitted, QuarantinedError, Admitted]
    tags = "command -> 'attribution' -> 'tags' ->> 'a'"
    assert shop.sql(f"SELECT {tags} FROM quarantine") == [("\ufffd",)]


async def test_broken_rows_stop_their_organisation_alone(shop: Shop) -> None:
    """ENGINE "A batch": where the books of one tenant do not add up, the others go on."""
    other = shop.new_till()
    await shop.run(shop.till.grant(100), other.grant(100))
    shop.sql(
        "UPDATE organization SET spent_nanos = 1, unreserved_nanos = 99 WHERE id = %s",
        shop.till.organization_id,
    )
    with pytest.raises(BatchRejectedError, match="cannot decide"):
        await shop.run(shop.till.admit(1), other.admit(1))
    pid = shop.store._exchange
    bookkeeper = Bookkeeper([shop.store], monotonic=time.monotonic)
    bookkeeper.start()
    results = await asyncio.gather(
        *(bookkeeper.submit(till.admit(1)) for till in (shop.till, other, shop.till, other)),
        return_exceptions=True,
    )
    assert [type(r) for r in results] == [QuarantinedError, Admitted, QuarantinedError, Admitted]
    assert shop.store._exchange is pid, "the connection was good all the time"
    await bookkeeper.aclose()


# --- two stores --------------------------------------------------------------------------------


async def test_two_stores_on_one_organisation_take_turns(shop: Shop) -> None:
    """ENGINE "Time", promise 1: engine time goes forward and no total is lost between nodes."""
    stores = [shop.store, shop.new_store()]
    await shop.run(shop.till.grant(1_000))
    times: list[datetime] = []
    done = asyncio.Event()

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as connection:
            while not done.is_set():
                cursor = await connection.execute(
                    "SELECT last_time, spent_nanos + reserved_nanos + unreserved_nanos"
                    " FROM organization WHERE id = %s",
                    (shop.till.organization_id,),
                )
                row = await cursor.fetchone()
                assert row is not None
                assert row[1] == 1_000
                times.append(row[0])

    async def trade(store: PostgresBatchStore) -> int:
        charged = 0
        for number in range(60):
            calls = [shop.till.admit(3) for _ in range(4)]
            admitted = await store.run(calls, resent=False)
            ends = [
                shop.till.settle(call, number % 4)
                for call, result in zip(calls, admitted, strict=True)
                if isinstance(result, Admitted)
            ]
            for end in await store.run(ends, resent=False) if ends else []:
                assert isinstance(end, Closed)
                charged += end.charge
        return charged

    watching = asyncio.create_task(watch())
    charged = sum(await asyncio.gather(*map(trade, stores)))
    done.set()
    await watching
    await stores[1].aclose()
    assert times == sorted(times)
    assert shop.totals() == (charged, 0, 1_000 - charged)
    sequences = shop.sql(
        "SELECT count(*), count(DISTINCT sequence), max(sequence) FROM call WHERE state = 'settled'"
    )
    assert sequences[0][0] == sequences[0][1] == sequences[0][2] - 1


async def test_a_clock_that_goes_back_stops_no_engine_time(shop: Shop) -> None:
    """ENGINE "Time": engine time is the larger of the database's clock and the last time."""
    call = shop.till.admit(0)
    first = await shop.run(call)
    shop.sql("UPDATE deployment SET clock_offset = '-400 days'")
    second = await shop.run(shop.till.admit(0))
    assert second.admitted_at == first.admitted_at
    ((last,),) = shop.sql(
        "SELECT last_time FROM organization WHERE id = %s", shop.till.organization_id
    )
    assert last == first.admitted_at


async def test_two_bookkeepers_never_overspend(shop: Shop) -> None:
    """Promise 1: 200 callers on two nodes share a small balance; no commit is ever over it."""
    credit = 500
    bookkeepers = [
        Bookkeeper([shop.new_store(), shop.new_store()], monotonic=time.monotonic) for _ in range(2)
    ]
    for bookkeeper in bookkeepers:
        bookkeeper.start()
    await bookkeepers[0].submit(shop.till.grant(credit))
    charged = 0
    done = asyncio.Event()
    samples: list[tuple[int, int, int]] = []

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as connection:
            while not done.is_set():
                cursor = await connection.execute(
                    "SELECT (SELECT coalesce(sum(charge_nanos), 0) FROM call)::bigint,"
                    " (SELECT coalesce(sum(amount_nanos), 0) FROM hold)::bigint,"
                    " (SELECT count(*) FROM hold)"
                )
                row = await cursor.fetchone()
                assert row is not None
                samples.append(row)

    async def client(number: int) -> None:
        nonlocal charged
        bookkeeper = bookkeepers[number % 2]
        call = shop.till.admit(20)
        answer = await bookkeeper.submit(call, patience_seconds=(0.0, 3.0)[number % 3 > 0])
        if isinstance(answer, Refused):
            return
        await asyncio.sleep(0.001 * (number % 5))
        end = shop.till.release(call) if number % 7 == 0 else shop.till.settle(call, number % 20)
        closed = await bookkeeper.submit(end)
        assert isinstance(closed, Closed)
        charged += closed.charge

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(client, range(200)))
    done.set()
    await watching
    for bookkeeper in bookkeepers:
        await bookkeeper.aclose()
    assert max(spent + held for spent, held, _ in samples) <= credit
    assert len(samples) > 5
    assert charged > credit - 40, "the balance was really used up"
    assert shop.totals() == (charged, 0, credit - charged)
    assert shop.sql("SELECT count(*) FROM hold") == [(0,)]
    assert shop.sql("SELECT sum(charge_nanos)::bigint FROM call") == [(charged,)]
    assert shop.sql("SELECT sum(charge_nanos)::bigint FROM rollup_hour") == [(charged,)]
