"""Batches that are decided by what the lane remembers: one wait, and never by what has changed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.kit.money import Nanos
from farebox.ledger.commands import Admitted, Attribution, Closed, Refused, SetLimit
from farebox.ledger.decide import decide
from farebox.ledger.limits import Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.batches import BatchUnsettledError
from farebox.storage import batch_store, remembered
from farebox.storage.loading import load
from farebox.storage.remembered import Look
from tests.support.shop import Shop


class Reads:
    """How often a batch was read under the lock."""

    def __init__(self) -> None:
        self.count = 0

    def taken(self) -> int:
        """Since the last time."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Counts them."""
    counted = Reads()

    async def counting(*arguments: Any, **options: Any) -> Any:
        counted.count += 1
        return await load(*arguments, **options)

    monkeypatch.setattr(batch_store, "load", counting)
    return counted


async def warm(shop: Shop, reads: Reads) -> None:
    """Credit, and a first call, after which the lane remembers."""
    await shop.run(shop.till.grant(1_000))
    await shop.run(shop.till.admit(10))
    assert reads.taken() == 2


async def limit_each_user(shop: Shop) -> None:
    """A default that leaves 25 a month to every user."""
    await shop.run(
        SetLimit(
            organization_id=shop.till.organization_id,
            scope_kind=ScopeKind.USER,
            scope_ref="",
            period=Period.MONTH,
            maximum=Nanos(25),
        )
    )


async def test_what_a_lane_wrote_it_does_not_read_again(shop: Shop, reads: Reads) -> None:
    """ENGINE "A batch": calls that follow each other wait once each, and every row is right."""
    till = shop.till
    await warm(shop, reads)
    call = till.admit(30)
    assert isinstance(await shop.run(call), Admitted)
    assert await shop.run(till.extend(call, 20))
    await shop.run(till.report(call, 7))
    assert (await shop.run(till.settle(call, 41))).charge == 41
    other = till.admit(5)
    first, second = await shop.run(other, till.admit(6))
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert isinstance(await shop.run(till.release(other)), Closed)
    assert reads.taken() == 0
    assert (shop.store.remembered, shop.store.surprises) == (6, 0)
    assert shop.totals() == (41, 10 + 6, 1_000 - 41 - 16)
    assert shop.sql("SELECT charge_nanos, held_nanos FROM call ORDER BY sequence") == [
        (41, 50),
        (0, 5),
    ]


async def test_a_refusal_by_what_is_remembered_is_checked_too(shop: Shop, reads: Reads) -> None:
    """ENGINE "Promise": nobody is refused for money that somebody else has brought meanwhile."""
    till = shop.till
    await warm(shop, reads)
    assert (await shop.run(till.admit(991))).code == "balance_held"
    assert reads.taken() == 0
    other = shop.new_store()
    await other.run([till.grant(500)], resent=False)
    assert reads.taken() == 1
    assert isinstance(await shop.run(till.admit(991)), Admitted)
    assert reads.taken() == 1
    await other.aclose()


CHANGES = {
    "key revoked": "UPDATE api_key SET revoked_at = now()",
    "key expired": "UPDATE api_key SET expires_at = now() - interval '1 day'",
    "project archived": "UPDATE project SET archived_at = now()",
    "organisation suspended": "UPDATE organization SET active = false",
    "prices changed": "UPDATE catalogue SET revision = revision + 1",
    "node fenced off": "UPDATE node SET epoch = epoch + 1",
}
CODES = {
    "key revoked": "key_revoked",
    "key expired": "key_expired",
    "project archived": "project_archived",
    "organisation suspended": "organization_suspended",
    "prices changed": "stale_catalogue",
    "node fenced off": "stale_epoch",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_others_change_counts_at_once(shop: Shop, reads: Reads, change: str) -> None:
    """ENGINE "Idempotency": revocation is exact for every charged call, remembered or not."""
    till = shop.till
    await warm(shop, reads)
    running = till.admit(10)
    await shop.run(running)
    assert reads.taken() == 0
    shop.sql(CHANGES[change])
    assert (await shop.run(till.admit(10))).code == CODES[change]
    assert reads.taken() == 1
    assert (await shop.run(till.settle(running, 9))).charge == 9
    assert shop.totals() == (9, 10, 981)


@pytest.mark.parametrize("by", [timedelta(days=31), timedelta(seconds=-40), timedelta(seconds=2)])
async def test_the_time_is_the_databases(shop: Shop, reads: Reads, by: timedelta) -> None:
    """ENGINE "Time": a clock that has moved since the lane heard of it is asked again."""
    till = shop.till
    await warm(shop, reads)
    ((before,),) = shop.sql("SELECT farebox_now()")
    shop.sql("UPDATE deployment SET sandbox = true, clock_offset = %s", by)
    admitted = await shop.run(till.admit(10))
    assert reads.taken() == 1
    assert abs(admitted.admitted_at - before - max(by, timedelta(0))) < timedelta(seconds=1.5)
    await shop.run(till.admit(10))
    assert reads.taken() == 0


async def test_an_expired_grant_is_not_remembered_as_live(shop: Shop, reads: Reads) -> None:
    """CRD-10: by comparison at the instant of the call; no job and no read has to come between."""
    till = shop.till
    ((now,),) = shop.sql("SELECT farebox_now()")
    await shop.run(till.grant(100, expires_at=now + timedelta(seconds=0.4)))
    assert isinstance(await shop.run(till.admit(10)), Admitted)
    reads.taken()
    assert isinstance(await shop.run(till.admit(10)), Admitted)
    shop.sql("SELECT pg_sleep(0.45)")
    assert isinstance(await shop.run(till.admit(10)), Refused)
    assert reads.taken() == 0
    assert shop.sql("SELECT expired_nanos FROM organization") == [(80,)]


async def test_who_waits_for_the_lock_sees_what_came_before(shop: Shop, reads: Reads) -> None:
    """ENGINE "A batch": locking and looking in one statement would read what is stale."""
    till = shop.till
    await warm(shop, reads)
    with shop.locked(till) as other:
        waiting = asyncio.create_task(shop.run(till.admit(10)))
        await shop.until_waiting()
        other.execute("UPDATE organization SET active = false")
        other.commit()
        assert (await waiting).code == "organization_suspended"
    # Somebody who locks and changes nothing is no reason to read.
    shop.sql("UPDATE organization SET active = true")
    while reads.taken():
        await shop.run(till.admit(1))
    with shop.locked(till) as other:
        waiting = asyncio.create_task(shop.run(till.admit(10)))
        await shop.until_waiting()
        other.rollback()
        assert isinstance(await waiting, Admitted)
    assert reads.taken() == 0


async def test_an_organisation_that_others_change_is_read(shop: Shop, reads: Reads) -> None:
    """ENGINE "A batch": two processes that serve one organisation do not go on by surprise."""
    till, other = shop.till, shop.new_store()
    await warm(shop, reads)
    batches = 40
    for _ in range(batches):
        await other.run([till.admit(1)], resent=False)
        assert isinstance(await shop.run(till.admit(1)), Admitted)
    # A surprise costs a wait more; who finds changes doubts for longer each time.
    assert shop.store.surprises == 1
    assert reads.taken() >= batches
    for _ in range(remembered.DOUBT_MAX + 1):
        await shop.run(till.admit(1))
    assert reads.taken() == remembered.DOUBT_MAX
    assert shop.totals()[1] == 10 + 2 * batches + remembered.DOUBT_MAX + 1
    await other.aclose()


async def test_limits_and_new_scopes_are_read_once(shop: Shop, reads: Reads) -> None:
    """BUD-14: a scope that was not seen before is looked for once, whether it has limits or not."""
    till = shop.till
    await warm(shop, reads)
    await limit_each_user(shop)
    assert reads.taken() == 1
    call = till.admit(20)
    assert isinstance(await shop.run(call), Admitted)
    assert reads.taken() == 1
    assert isinstance(await shop.run(till.admit(20)), Refused)
    assert (await shop.run(till.settle(call, 15))).charge == 15
    assert isinstance(await shop.run(till.admit(10)), Admitted)
    assert isinstance(await shop.run(till.admit(1)), Refused)
    assert reads.taken() == 0
    assert shop.sql("SELECT used, held FROM scope_window WHERE kind = 'user' AND ref = 'u'") == [
        (15, 10)
    ]


async def test_a_lost_connection_is_a_lost_memory(shop: Shop, reads: Reads) -> None:
    """ENGINE "Idempotency": what the database did with the last batch is not known any more."""
    till = shop.till
    await warm(shop, reads)
    await shop.store.aclose()
    await shop.run(till.admit(1))
    assert reads.taken() == 1


async def test_a_database_that_fails_otherwise_is_away(
    shop: Shop, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "A batch": only a surprise is decided anew at once; other failures are told."""
    till = shop.till
    await warm(shop, reads)
    monkeypatch.setattr(batch_store, "NOT_AS_REMEMBERED", "FB002")
    shop.sql("UPDATE organization SET active = false")
    with pytest.raises(BatchUnsettledError, match="FB001"):
        await shop.run(till.admit(1))
    assert reads.taken() == 0
    monkeypatch.undo()
    assert (await shop.run(till.admit(1))).code == "organization_suspended"


async def test_what_cannot_be_decided_by_memory_is_read(
    shop: Shop, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "A batch": a broken invariant in what is remembered stops nobody."""
    till = shop.till
    await warm(shop, reads)
    calls = iter([True])

    def broken(*arguments: Any) -> Any:
        assert not next(calls, False), "broken"
        return decide(*arguments)

    monkeypatch.setattr(batch_store, "decide", broken)
    assert isinstance(await shop.run(till.admit(1)), Admitted)
    assert reads.taken() == 1


async def test_odd_texts_are_read_when_the_call_ends(shop: Shop, reads: Reads) -> None:
    """ENGINE "Idempotency": a text that the database mends is taken from the database."""
    till = shop.till
    await warm(shop, reads)
    odd = till.admit(10, attribution=Attribution(user="u", run="r", tags={"team": "a\x00b"}))
    await shop.run(odd)
    reads.taken()
    assert (await shop.run(till.settle(odd, 3))).charge == 3
    assert reads.taken() == 1


async def test_every_change_of_an_organisation_makes_a_version(shop: Shop) -> None:
    """ADR 21: keys and projects that change, or go, leave the organisation's row rewritten."""

    def version() -> Any:
        return shop.sql("SELECT xmin FROM organization")[0][0]

    await shop.run(shop.till.grant(10))
    for statement in (
        "UPDATE api_key SET revoked_at = now()",
        "UPDATE api_key SET expires_at = now()",
        "UPDATE project SET archived_at = now()",
        "DELETE FROM api_key",
        "DELETE FROM project",
    ):
        before = version()
        shop.sql(statement)
        assert version() != before, statement
    before = version()
    shop.sql("UPDATE project SET name = 'other'")
    assert version() == before


async def test_what_the_database_rejects_by_memory_is_read(shop: Shop, reads: Reads) -> None:
    """ENGINE "A batch": a wrong memory puts nobody's only command into quarantine."""
    till = shop.till
    await warm(shop, reads)
    known = shop.store._memory._known[till.organization_id]
    (grant,) = known.grants.values()
    grant.amount, grant.remaining = Nanos(grant.amount + 50), Nanos(grant.remaining + 50)
    known.organization.granted = Nanos(known.organization.granted + 50)
    known.organization.unreserved = Nanos(known.organization.unreserved + 50)
    assert isinstance(await shop.run(till.admit(1)), Admitted)
    assert reads.taken() == 1


async def test_a_surprise_leaves_no_prepared_statement_behind(shop: Shop, reads: Reads) -> None:
    """DESIGN: limits on everything; the connection outlives the error, its statements are known."""
    await warm(shop, reads)
    exchange = shop.store._exchange
    assert exchange is not None
    counts = []
    for _ in range(3):
        shop.store._memory._clock.hear(Look(datetime(2020, 1, 1, tzinfo=UTC), 0.0, 0.0))
        await shop.run(shop.till.admit(1))
        exchange.send("SELECT count(*) FROM pg_prepared_statements")
        ((count,),) = (await exchange.answers())[0].rows
        counts.append(count)
    assert shop.store.surprises == 3
    assert counts[1:] == [counts[0]] * 2


async def test_without_a_catalogue_nothing_is_committed(shop: Shop, reads: Reads) -> None:
    """ADR 21: a comparison that has no row is not one that went well."""
    await warm(shop, reads)
    shop.sql("DELETE FROM catalogue")
    with pytest.raises(IndexError):
        await shop.run(shop.till.admit(30))
    assert shop.totals() == (0, 10, 990)


async def test_slow_commits_do_not_surprise(shop: Shop) -> None:
    """ENGINE "Time": on a disk that takes its time the comparison's is old when it is heard."""
    till, store = shop.till, shop.new_store()
    shop.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.55); RETURN NULL; END $$"
    )
    await store.run([till.grant(1_000)], resent=False)
    await store.run([till.admit(1)], resent=False)
    shop.sql(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON hold DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    for _ in range(3):
        await store.run([till.admit(1)], resent=False)
    assert (store.remembered, store.surprises) == (3, 0)
    await store.aclose()


async def test_odd_names_are_told_as_the_database_keeps_them(shop: Shop, reads: Reads) -> None:
    """BUD-14: a scope whose name is mended is read, and its refusal says the same to everybody."""
    till = shop.till
    await warm(shop, reads)
    await limit_each_user(shop)
    about = Attribution(user="a\x00b", run="r", tags={})
    assert isinstance(await shop.run(till.admit(20, attribution=about)), Admitted)
    other = shop.new_store()
    mine = await shop.run(till.admit(20, attribution=about))
    (theirs,) = await other.run([till.admit(20, attribution=about)], resent=False)
    await other.aclose()
    assert mine == theirs
