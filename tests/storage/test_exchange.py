"""Statements that travel together, and what becomes of them when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from farebox.storage.connecting import Connector
from farebox.storage.exchange import Exchange
from tests.support.shop import Shop


@pytest.fixture
async def exchange(dsn: str) -> AsyncIterator[Exchange]:
    """A connection in pipeline mode."""
    connection = await Connector(dsn, name="test", durable=False).connect()
    exchange = Exchange(connection)
    yield exchange
    await exchange.aclose()


async def test_answers_come_in_order(exchange: Exchange) -> None:
    """ENGINE "A batch": one write, one wait; rows and counts belong to their statements."""
    exchange.send("BEGIN")
    exchange.send("CREATE TEMP TABLE t (a int, b text)")
    exchange.send("INSERT INTO t SELECT 1, 'x' WHERE $1::boolean", ("f",))
    answers = await exchange.answers()
    assert [(a.rows, a.touched) for a in answers] == [([], 0)] * 3
    for text in ("one", "two", 'odd "\\ é😀'):
        exchange.send("INSERT INTO t VALUES (7, $1::text) RETURNING b", (text,))
    exchange.send("UPDATE t SET a = 8")
    exchange.send("SELECT a, b, NULL::int FROM t WHERE false")
    exchange.send("SELECT a, count(*) FROM t GROUP BY a")
    exchange.send("COMMIT")
    answers = await exchange.answers()
    assert [a.rows for a in answers] == [
        [("one",)],
        [("two",)],
        [('odd "\\ é😀',)],
        [],
        [],
        [(8, 3)],
        [],
    ]
    assert [a.touched for a in answers[:4]] == [1, 1, 1, 3]


async def test_much_travels_at_once(exchange: Exchange) -> None:
    """ENGINE "A batch": more than the socket takes, in both directions, gets through."""
    large = "x" * 3_000_000
    for _ in range(4):
        exchange.send("SELECT $1::text, repeat($1::text, 2)", (large,))
    answers = await exchange.answers()
    assert [[len(text) for text in a.rows[0]] for a in answers] == [[3_000_000, 6_000_000]] * 4


async def test_nothing_after_an_error_takes_effect(exchange: Exchange, dsn: str) -> None:
    """ENGINE "A batch": the first error is told, and the commit behind it is skipped."""
    exchange.send("CREATE TABLE made (a int CHECK (a > 0))")
    await exchange.answers()
    exchange.send("BEGIN")
    exchange.send("INSERT INTO made VALUES ($1::int)", ("1",))
    exchange.send("INSERT INTO made VALUES ($1::int)", ("-1",))
    exchange.send("INSERT INTO nowhere VALUES (1)")
    exchange.send("COMMIT")
    with pytest.raises(psycopg.errors.CheckViolation):
        await exchange.answers()
    await exchange.aclose()
    with psycopg.connect(dsn) as look:
        assert look.execute("SELECT count(*) FROM made").fetchone() == (0,)


async def test_a_transaction_lives_from_one_wait_to_the_next(exchange: Exchange, dsn: str) -> None:
    """ENGINE "A batch": the lock taken in the first wait is held until the commit."""
    exchange.send("CREATE TABLE made (a int)")
    await exchange.answers()
    exchange.send("BEGIN")
    exchange.send("INSERT INTO made VALUES (1)")
    await exchange.answers()
    with psycopg.connect(dsn, autocommit=True) as look:
        assert look.execute("SELECT count(*) FROM made").fetchone() == (0,)
        # Idle to the server, so that its timeout may free what a stopped process has locked.
        states = "SELECT state FROM pg_stat_activity WHERE application_name = 'farebox test'"
        assert look.execute(states).fetchall() == [("idle in transaction",)]
        exchange.send("COMMIT")
        await exchange.answers()
        assert look.execute("SELECT count(*) FROM made").fetchone() == (1,)


async def test_the_end_of_the_connection_is_an_error(exchange: Exchange) -> None:
    """ENGINE "Idempotency": a server that goes away in the middle is told, not waited for."""
    exchange.send("SELECT pg_terminate_backend(pg_backend_pid())")
    exchange.send("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        await exchange.answers()


async def test_what_comes_between_two_waits_is_read_by_the_next(exchange: Exchange) -> None:
    """ENGINE "A batch": the socket stays watched between waits, yet nothing is lost or spins."""
    exchange.send("LISTEN word")
    await exchange.answers()
    async with await psycopg.AsyncConnection.connect(
        exchange.connection.info.dsn, autocommit=True
    ) as other:
        await other.execute("NOTIFY word")
    for _ in range(50):
        if not exchange.is_watched:
            break
        await asyncio.sleep(0.01)
    assert not exchange.is_watched
    for number in ("1", "2"):
        exchange.send("SELECT $1::int", (number,))
        assert (await exchange.answers())[0].rows == [(int(number),)]
        assert exchange.is_watched


async def test_a_connection_that_ends_between_two_waits_is_let_go(
    exchange: Exchange, dsn: str
) -> None:
    """ENGINE "Idempotency": its socket is watched no more, and the next use tells of the end."""
    exchange.send("SELECT pg_backend_pid()")
    ((pid,),) = (await exchange.answers())[0].rows
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    for _ in range(50):
        if not exchange.is_watched:
            break
        await asyncio.sleep(0.01)
    assert not exchange.is_watched
    exchange.send("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        await exchange.answers()
    assert not exchange.is_watched


async def test_a_commit_that_fails_by_itself_is_told(shop: Shop) -> None:
    """ADR 21: what travels without BEGIN is one transaction; it commits whole or not at all."""
    shop.sql("CREATE TABLE later (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    exchange = Exchange(await Connector(shop.dsn, name="x", durable=False).connect())
    for numbers, is_good in (("{1}", True), ("{2,2}", False), ("{3}", True), ("{3}", False)):
        exchange.send("SELECT 1")
        exchange.send("INSERT INTO later SELECT unnest($1::int[])", (numbers,))
        if is_good:
            assert [answer.touched for answer in await exchange.answers()] == [1, 1]
        else:
            with pytest.raises(psycopg.errors.UniqueViolation):
                await exchange.answers()
    exchange.send("INSERT INTO later VALUES (4)")
    exchange.send("SELECT 1 / $1::int", ("0",))
    with pytest.raises(psycopg.errors.DivisionByZero):
        await exchange.answers()
    assert sorted(shop.sql("SELECT a FROM later")) == [(1,), (3,)]
    await exchange.aclose()


@pytest.mark.parametrize("what", ["parse", "bind", "execute", "commit"])
async def test_every_error_is_drained(shop: Shop, what: str) -> None:
    """ADR 21: whatever fails, the next exchange is in step, and statements have their names."""
    shop.sql("CREATE TABLE later (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    connection = await Connector(shop.dsn, name="x", durable=False).connect()
    exchange = Exchange(connection)
    bad = {
        "parse": ("SELECT nothing FROM nowhere", ()),
        "bind": ("SELECT $1::int", ("x",)),
        "execute": ("SELECT 1 / $1::int", ("0",)),
        "commit": ("INSERT INTO later SELECT 1 FROM generate_series(1, $1::int)", ("2",)),
    }[what]
    for _ in range(3):
        exchange.send("BEGIN")
        exchange.send("SELECT 1")
        exchange.send(*bad)
        exchange.send("SELECT 2")
        exchange.send("COMMIT")
        with pytest.raises(psycopg.Error):
            await exchange.answers()
        assert not exchange._awaited
        exchange.send("ROLLBACK")
        await exchange.answers()
        exchange.send("SELECT 3")
        exchange.send("SELECT 2")
        exchange.send("SELECT 1")
        assert [a.rows for a in await exchange.answers()] == [[(3,)], [(2,)], [(1,)]]
    await exchange.aclose()
