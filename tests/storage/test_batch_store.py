"""Batches on PostgreSQL: what is loaded, what comes back, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

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
)
from farebox.storage.exchange import Exchange
from tests.support.shop import Shop
from tests.support.till import Till, new_id

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
    other = shop.new_store()
    await other.run([shop.till.admit(1)], resent=False)
    await other.aclose()
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
        ("UPDATE api_key SET revoked_at = NULL", "admitted"),
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
    for bit, edge in enumerate(edges):
        shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", start + edge)
        call = till.admit(1 << bit)
        await shop.run(call)
        await shop.run(till.settle(call, 1 << bit))
    limit = SetLimit(organization_id=till.organization_id, period=Period.MONTH, maximum=Nanos(1000))
    still_open, ending = till.admit(500), till.admit(1 << 8)
    await shop.run(still_open, ending)
    # In the same batch a call is charged that the rows do not have yet.
    results = await shop.run(till.settle(ending, 1 << 8), limit)
    assert isinstance(results[1], Done)
    ((found, used, held),) = shop.sql("SELECT starts_at, used, held FROM scope_window")
    assert found == start
    inside = sum(1 << bit for bit, edge in enumerate(edges) if edge > timedelta(0))
    assert (used, held) == (inside + 256, 500)
