"""Batches on PostgreSQL: what becomes of one when the server fails, or rejects it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec import structs
from psycopg.pq import TransactionStatus

from farebox.kit.errors import FareboxError, IncompatibleError
from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admitted,
    AnyCommand,
    Closed,
    Granted,
)
from farebox.ledger.decide import decide
from farebox.operations.batches import (
    BatchRejectedError,
    BatchStoreLostError,
    BatchUnsettledError,
)
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.lane import QuarantinedError
from farebox.storage import batch_store, connecting
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Answer, Exchange
from farebox.storage.migrate import migrate
from farebox.system.postgres.owner import owner_of_new_data
from farebox.system.postgres.place import Place
from farebox.system.postgres.throwaway import throwaway
from tests.support.postgres_people import kill_cluster
from tests.support.shop import Shop


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for only briefly."""
    patient = "set_config('lock_timeout', '5s', false)"
    assert patient in connecting._SETTINGS
    hasty = connecting._SETTINGS.replace(patient, patient.replace("5s", "150ms"))
    monkeypatch.setattr(connecting, "_SETTINGS", hasty)


# --- what the database says ----------------------------------------------------------------


@pytest.mark.usefixtures("_hasty")
async def test_a_locked_organisation_leaves_its_batch_unsettled(shop: Shop) -> None:
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
    commands: list[AnyCommand] = [
        till.grant(100),
        call,
        till.extend(call, 9),
        till.settle(call, 35),
    ]
    answered = Exchange.answers

    async def losing(self: Exchange) -> list[Answer]:
        found = await answered(self)
        if self.connection.info.transaction_status is TransactionStatus.IDLE:
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

    def stalling(*arguments: Any) -> Any:
        time.sleep(0.3)  # the whole process stalls
        return decide(*arguments)

    monkeypatch.setattr(batch_store, "decide", stalling)
    grant = shop.till.grant(100)
    with pytest.raises((BatchUnsettledError, BatchStoreLostError)):
        await shop.run(grant)
    monkeypatch.setattr(batch_store, "decide", decide)
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
    with throwaway(tmp_path / "pg", durable=True) as server:
        migrate(server.dsn, sandbox=True)
        shop = Shop(server.dsn)
        bookkeeper = Bookkeeper([shop.store], monotonic=time.monotonic)
        bookkeeper.start()
        try:
            await bookkeeper.submit(shop.till.grant(100))
            call = shop.till.admit(30)
            await bookkeeper.submit(call)
            await asyncio.to_thread(kill_cluster, Place(server.folder, owner_of_new_data()))
            settling = asyncio.create_task(bookkeeper.submit(shop.till.settle(call, 20)))
            await asyncio.sleep(0.2)
            assert not settling.done()
            await asyncio.to_thread(server.ensure_running)
            async with asyncio.timeout(30):
                assert isinstance(await settling, Closed)
        finally:
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
    wide = structs.replace(shop.till.settle(call, 0), cost=Nanos(2**63))
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


async def test_who_was_told_no_has_no_hold(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Idempotency": what lay unread at the server when its batch was sent again is undone.

    The one that was sent again may have been decided later, and otherwise.
    """
    till = shop.till
    shop.sql("UPDATE api_key SET expires_at = farebox_now() + interval '1.5 s'")
    ((ends,),) = shop.sql("SELECT expires_at FROM api_key")
    await shop.run(till.grant(1_000))
    await shop.run(till.admit(10))
    late: list[tuple[str, tuple[str | None, ...]]] = []

    async def lost(*_: object) -> list[Answer]:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    while True:
        ((left,),) = shop.sql("SELECT extract(epoch FROM %s - farebox_now())::float8", ends)
        if left < 0.12:
            break
        await shop.run(till.report(till.admit(), 1))  # keeps the lane's clock fresh
        await asyncio.sleep(0.02)
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "send", lambda _, sql, values=(): late.append((sql, values)))
        patch.setattr(Exchange, "answers", lost)
        call = till.admit(10)
        with pytest.raises(BatchStoreLostError):
            await shop.run(call)
    assert late[0][0].startswith("UPDATE organization")
    await asyncio.sleep(0.15)
    assert (await shop.run(call, resent=True)).code == "key_expired"
    connection = await Connector(shop.dsn, name="late", durable=False).connect()
    exchange = Exchange(connection)
    for sql, values in late:
        exchange.send(sql, values)
    with pytest.raises(psycopg.Error, match="not as remembered"):
        await exchange.answers()
    await exchange.aclose()
    assert shop.sql("SELECT count(*) FROM hold WHERE call_id = %s", call.call_id) == [(0,)]
