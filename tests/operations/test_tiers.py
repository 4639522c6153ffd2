"""Tiers at work: limits of the engine that follow an organisation's tier."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from msgspec import structs

from farebox.kit.errors import InvalidInputError, NotFoundError, UnavailableError
from farebox.kit.money import Nanos
from farebox.ledger.commands import Admitted, AnyCommand, Refused, Result, SetLimit
from farebox.ledger.grants import Source
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations import tiers
from farebox.operations.balance import LimitView
from farebox.operations.lane import QuarantinedError
from farebox.operations.tier_limits import limit_changes, tier_limits
from farebox.operations.tiers import TierDesk, TierRounds
from farebox.tenancy.tiers import Tier, TierRate
from tests.support.office import Office, open_office
from tests.support.till import Till


def tier(name: str, position: int, **facts: object) -> Tier:
    """A tier of dollars."""
    values: dict[str, object] = {"id": UUID(int=0), "currency": "USD"}
    return Tier(**(values | {"name": name, "position": position} | facts))  # type: ignore[arg-type]


FREE = tier("Free", 0, monthly_maximum=Nanos(20))
BUILD = tier(
    *("Build", 1),
    purchases=Nanos(500),
    monthly_maximum=Nanos(100),
    rates=(
        TierRate(models="gpt-5*", calls_per_minute=3),
        TierRate(models="*", tokens_per_day=1_000, calls_per_day=100, tokens_per_minute=500),
    ),
)


@pytest.fixture
async def till(office: Office) -> Till:
    """An organisation with credit that nobody paid for, and two tiers."""
    till = Till()
    till.put_into_database(office.dsn)
    await office.submit(till.grant(10_000, Source.FREE))
    for each in (FREE, BUILD):
        await office.tiers.set_tier(each)
    return till


async def test_a_tiers_month_is_never_passed(office: Office, till: Till) -> None:
    """LIM-05: the tier's maximum is a hard limit of the engine, named as the tier's own."""
    first = till.admit(15)
    assert isinstance(await office.submit(first), Admitted)
    await office.submit(till.settle(first, 15))
    refused = await office.submit(till.admit(15))
    assert isinstance(refused, Refused)
    assert refused.limit is not None
    assert (refused.limit.maximum, refused.limit.owner) == (20, "tier Free")
    assert refused.code == "organization_usage_limit_exceeded"
    assert "monthly limit of its usage tier is 0.00000002" in refused.message
    await office.submit(till.grant(500))
    assert (await office.tiers.step()).changed == 1
    assert isinstance(await office.submit(till.admit(15)), Admitted)
    show = await office.tiers.show(till.organization_id)
    assert show.tier is not None
    assert (show.tier.name, show.purchased, show.next) == ("Build", 500, None)


async def test_a_tiers_rates_are_limits_on_the_organisation(office: Office, till: Till) -> None:
    """LIM-05: so many calls a minute of a model family, whichever key they come with."""
    built = await office.tiers.find_tier("build", "USD")
    await office.tiers.assign(till.organization_id, built)
    # At the end of a minute the fourth call would be of the next one.
    await office.connection.execute(
        "UPDATE deployment SET clock_offset = date_trunc('minute', now()) + interval '1 hour'"
        " - now()"
    )
    outcomes = [await office.submit(till.admit(1)) for _ in range(4)]
    assert [type(outcome) for outcome in outcomes] == [Admitted] * 3 + [Refused]
    refused = outcomes[-1]
    assert isinstance(refused, Refused)
    assert refused.code == "rate_limit_exceeded"


async def test_a_tier_leaves_other_limits_alone(office: Office, till: Till) -> None:
    """LIM-06, BUD-11: a budget of the same month stands beside the tier's; both are kept."""
    own = SetLimit(organization_id=till.organization_id, period=Period.MONTH, maximum=10)
    await office.submit(own)
    built = await office.tiers.find_tier("Build", "USD")
    await office.tiers.assign(till.organization_id, built)
    limits = await office.tier_store.limits(till.organization_id)
    assert len(limits) == 6
    assert [limit.maximum for limit in limits if not limit.rule.owner] == [10]
    assert list(limit_changes(till.organization_id, built, limits)) == []
    refused = await office.submit(till.admit(15))
    assert isinstance(refused, Refused)
    assert refused.limit is not None
    assert (refused.code, refused.limit.owner) == ("organization_spend_limit_exceeded", "")
    await office.tiers.assign(till.organization_id, None)
    limits = await office.tier_store.limits(till.organization_id)
    assert sorted(limit.rule.owner for limit in limits) == ["", "tier Free"]


async def test_only_limits_on_the_organisation_are_read(office: Office, till: Till) -> None:
    """LIM-05: a round reads one scope of an organisation, however many users have limits."""
    for user in ("ada", "bob"):
        own = SetLimit(
            organization_id=till.organization_id,
            scope_kind=ScopeKind.USER,
            scope_ref=user,
            period=Period.MONTH,
            maximum=10,
        )
        await office.submit(own)
    await office.tiers.assign(till.organization_id, None)
    limits = await office.tier_store.limits(till.organization_id)
    assert [limit.rule.owner for limit in limits] == ["tier Free"]


async def test_the_rule_is_taken_twice_without_harm(office: Office, till: Till) -> None:
    """Limits that somebody removed are set again; nothing else is done, however often."""
    assert (await office.tiers.step()).changed == 0
    command = next(iter(tier_limits(till.organization_id, FREE)))
    removed = SetLimit(
        organization_id=till.organization_id,
        measure=command.measure,
        period=command.period,
        models=command.models,
        origin=command.origin,
        maximum=None,
    )
    await office.submit(removed)
    assert await office.tier_store.limits(till.organization_id) == ()
    assert (await office.tiers.step(mend=False)).changed == 0
    assert (await office.tiers.step()).changed == 1
    assert (await office.tiers.step()).changed == 0
    (limit,) = await office.tier_store.limits(till.organization_id)
    assert (limit.rule.measure, limit.maximum) == (Measure.MONEY, 20)


async def test_age_leads_up_by_itself(office: Office, till: Till) -> None:
    """LIM-05: what is old enough moves at the next step, on the sandbox's clock too."""
    await office.tiers.set_tier(tier("Old", 2, age_days=30))
    before = await office.tiers.show(till.organization_id)
    assert before.next is not None
    assert before.next.name == "Build"
    await office.connection.execute("UPDATE deployment SET clock_offset = '31 days'")
    assert (await office.tiers.step()).changed == 1
    after = await office.tiers.show(till.organization_id)
    assert after.tier is not None
    assert after.tier.name == "Old"
    assert await office.tier_store.limits(till.organization_id) == ()


async def test_a_tier_given_by_hand_is_not_moved(office: Office, till: Till) -> None:
    """The rule moves nobody whose tier is fixed; a tier of another currency is refused."""
    built = await office.tiers.find_tier("Build", "USD")
    given = await office.tiers.assign(till.organization_id, built)
    assert given.fixed
    assert (await office.tiers.step()).changed == 0
    assert (await office.tiers.show(till.organization_id)).tier == built
    await office.tiers.set_tier(Tier(id=UUID(int=0), currency="EUR", position=0, name="Euro"))
    euro = await office.tiers.find_tier("Euro", "EUR")
    with pytest.raises(InvalidInputError, match="USD"):
        await office.tiers.assign(till.organization_id, euro)
    for missing in (
        office.tiers.show(UUID(int=99)),
        office.tiers.assign(UUID(int=99), built),
        office.tiers.find_tier("Euro", "USD"),
    ):
        with pytest.raises(NotFoundError):
            await missing


async def test_room_is_shown_for_purchases(office: Office, till: Till) -> None:
    """LIM-07, DOC-13: how much may be bought under the tier's greatest balance."""
    bounded = tier("Free", 0, balance_maximum=Nanos(12_000), recharge_maximum=Nanos(500))
    await office.tiers.set_tier(bounded)
    show = await office.tiers.show(till.organization_id)
    assert (show.balance, show.purchase_room, show.recharge_room) == (10_000, 2_000, 500)
    assert show.made_at < await office.tenants.now() + timedelta(seconds=1)


async def test_a_wrong_tier_is_named(office: Office) -> None:
    """Every bound has an error that names its field."""
    for facts, field in (
        ({"purchases": Nanos(-1)}, "purchases"),
        ({"age_days": -1}, "position"),
        ({"rates": (TierRate(models="a"),) * 2}, "rates"),
        ({"rates": tuple(TierRate(models=f"m{n}") for n in range(51))}, "rates"),
        ({"rates": (TierRate(models="*a"),)}, "rates"),
        ({"rates": (TierRate(models="a", calls_per_day=-1),)}, "calls_per_day"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            await office.tiers.set_tier(tier("T", 0, **facts))
        assert caught.value.field == field


async def test_there_are_only_so_many_tiers(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many is refused; a change of one that is there is not."""
    monkeypatch.setattr(tiers, "TIERS_MAX", 1)
    await office.tiers.set_tier(FREE)
    with pytest.raises(InvalidInputError, match="at most 1"):
        await office.tiers.set_tier(BUILD)
    await office.tiers.set_tier(FREE)


async def crowd(office: Office, count: int) -> list[Till]:
    """So many organisations with nothing."""
    tills = [Till() for _ in range(count)]
    for till in tills:
        till.put_into_database(office.dsn)
    return sorted(tills, key=lambda till: till.organization_id)


async def maxima(office: Office, tills: list[Till]) -> list[int | None]:
    """The month's maximum of each."""
    found = [await office.tier_store.limits(till.organization_id) for till in tills]
    return [limits[0].maximum if limits else None for limits in found]


async def test_a_request_gives_only_so_many_organisations_their_limits(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIM-05: however many there are, a change of the table takes a page; the rest is the worker's,
    page by page, and it is said.
    """
    monkeypatch.setattr(tiers, "AT_ONCE", 2)
    monkeypatch.setattr(tiers, "FOLLOWING_PAGE", 2)
    tills = await crowd(office, 5)
    seconds = 0.0
    rounds = TierRounds(monotonic=lambda: seconds)
    put = await office.tiers.set_tier(FREE)
    assert (put.tier.name, put.all_follow) == ("Free", False)
    assert await maxima(office, tills) == [20, 20, None, None, None]
    assert [(await rounds.step(office.tiers)).changed for _ in range(4)] == [0, 2, 1, 0]
    assert await maxima(office, tills) == [20] * 5
    # A change in the middle of a round begins it anew: nobody is left with the old table.
    await office.tiers.set_tier(structs.replace(FREE, monthly_maximum=Nanos(30)))
    assert (await rounds.step(office.tiers)).changed == 0
    await office.tiers.set_tier(structs.replace(FREE, monthly_maximum=Nanos(40)))
    assert [(await rounds.step(office.tiers)).changed for _ in range(4)] == [0, 2, 1, 0]
    assert await maxima(office, tills) == [40] * 5


async def test_a_request_makes_only_so_many_changes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier may be hundreds of limits: changes are counted, not organisations alone."""
    tills = await crowd(office, 3)
    monkeypatch.setattr(tiers, "CHANGES_AT_ONCE", 1)
    assert not (await office.tiers.set_tier(FREE)).all_follow
    assert await maxima(office, tills) == [20, None, None]
    monkeypatch.setattr(tiers, "CHANGES_AT_ONCE", 6)
    assert (await office.tiers.set_tier(FREE)).all_follow, "the last one reaches the bound"
    assert await maxima(office, tills) == [20] * 3


async def test_a_step_moves_only_so_many(office: Office) -> None:
    """What a step leaves, the next one does: no other job waits for a large house."""
    tills = await crowd(office, 3)
    await office.tier_store.put_tier(structs.replace(FREE, id=UUID(int=5)))
    made = [(await office.tiers.step(mend=False, changes_max=3)).changed for _ in range(3)]
    assert made == [2, 1, 0]
    assert await maxima(office, tills) == [20] * 3


async def test_a_limit_that_somebody_removed_comes_back_within_the_hour(
    office: Office, till: Till
) -> None:
    """LIM-05: without any change of the table each organisation is looked at once an hour, and in
    between nothing is read but the table; two workers at once change nothing twice.
    """
    seconds = 0.0
    workers = [TierRounds(monotonic=lambda: seconds) for _ in range(2)]
    async with open_office(office.dsn) as other:
        desks = (office.tiers, other.tiers)

        async def steps() -> int:
            pairs = zip(workers, desks, strict=True)
            steps = await asyncio.gather(*(each.step(desk) for each, desk in pairs))
            return sum(followed.changed for followed in steps)

        assert [await steps() for _ in range(2)] == [0, 0]
        command = next(iter(tier_limits(till.organization_id, FREE)))
        await office.submit(structs.replace(command, maximum=None))
        assert await steps() == 0
        seconds = 3_600.0
        assert await steps() > 0
        assert await maxima(office, [till]) == [20]
        assert await steps() == 0


async def test_a_round_without_a_table_does_nothing(office: Office) -> None:
    """Nobody stands in a tier that is not there."""
    await crowd(office, 1)
    rounds = TierRounds(monotonic=lambda: 0.0)
    assert [(await rounds.step(office.tiers)).changed for _ in range(2)] == [0, 0]


def failing(office: Office, till: Till, error: Exception, turns: list[int]) -> TierDesk:
    """A desk whose engine fails for one organisation, while there are turns left."""

    async def submit(command: AnyCommand) -> Result:
        if command.organization_id == till.organization_id and turns:
            turns.pop()
            raise error
        return await office.submit(command)

    return TierDesk(office.tier_store, submit, chance=bytes)


@pytest.mark.parametrize("error", [QuarantinedError(), AssertionError("does not add up")])
async def test_nobody_is_left_out_behind_one_that_fails(
    office: Office, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """LIM-05: an organisation whose limit the engine cannot set is told and passed by; the page is
    not repeated, nobody is told that all follow, and the next round tries it again.
    """
    monkeypatch.setattr(tiers, "FOLLOWING_PAGE", 2)
    tills = await crowd(office, 4)
    desk = failing(office, tills[1], error, [0] * 3)
    seconds = 0.0
    rounds = TierRounds(monotonic=lambda: seconds)
    assert not (await desk.set_tier(FREE)).all_follow
    assert await maxima(office, tills) == [20, None, 20, 20]
    await office.tiers.set_tier(structs.replace(FREE, monthly_maximum=Nanos(30)))
    await office.submit(next(iter(tier_limits(tills[1].organization_id, FREE))))
    followed = [await rounds.step(desk) for _ in range(3)]
    assert [each.failed for each in followed] == [((tills[1].organization_id, error),), (), ()]
    assert await maxima(office, tills) == [30, 20, 30, 30]
    assert (await desk.step()).failed == ((tills[1].organization_id, error),)
    seconds = 3_600.0
    assert [(await rounds.step(desk)).changed for _ in range(3)] == [1, 0, 0]
    assert await maxima(office, tills) == [30] * 4


async def test_a_page_is_repeated_while_the_database_is_away(office: Office) -> None:
    """LIM-05: that is nobody's own trouble, neither with the engine nor with our own connection:
    no organisation is passed by for it.
    """
    tills = await crowd(office, 2)
    await office.tier_store.put_tier(structs.replace(FREE, id=UUID(int=5)))
    rounds = TierRounds(monotonic=lambda: 0.0)
    desk = failing(office, tills[1], UnavailableError(), [0])
    with pytest.raises(UnavailableError):
        await rounds.step(desk)
    async with open_office(office.dsn) as other:
        read = other.tier_store.limits

        async def lose(organization_id: UUID) -> tuple[LimitView, ...]:
            await other.connection.close()
            return await read(organization_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(other.tier_store, "limits", lose)
            with pytest.raises(psycopg.OperationalError):
                await rounds.step(other.tiers)
    assert (await rounds.step(office.tiers)).changed > 0
    assert await maxima(office, tills) == [20] * 2
