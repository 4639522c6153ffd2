"""What a key for models is told of itself on the console, and that it is what is enforced."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg
import pytest

from farebox.console.throttle import REQUESTS_UNPROVEN_MAX
from farebox.kit.ids import format_id
from farebox.kit.money import format_amount, parse_amount
from farebox.ledger.commands import Refused, SetLimit
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.key_status import KeyStatus
from tests.support.api_clients import Caller, House
from tests.support.console_people import Payer

KEY = "/v1/key"


@pytest.fixture
def house(app: Any, dsn: str) -> House:
    """An organisation and callers of every kind."""
    return House(app, dsn)


async def status_of(caller: Caller) -> KeyStatus:
    """What a key is told: exactly the documented fields."""
    answer = await caller.get(KEY)
    assert answer.status_code == 200, answer.text
    return msgspec.json.Decoder(KeyStatus, strict=True).decode(answer.content)


async def limit(payer: Payer, maximum: int, **fields: Any) -> None:
    """Set a limit, a month of money unless told otherwise."""
    values: dict[str, Any] = {"period": Period.MONTH, **fields}
    await payer.send(SetLimit(organization_id=payer.id, maximum=maximum, **values))


def other_project(payer: Payer) -> str:
    """Another project of the organisation; gives its reference."""
    with psycopg.connect(payer.dsn, autocommit=True) as sql:
        row = sql.execute(
            "INSERT INTO project (id, organization_id, name) VALUES"
            " (gen_random_uuid(), %s, 'other') RETURNING id",
            (payer.id,),
        ).fetchone()
    assert row is not None
    return str(row[0].hex)


async def test_every_limit_of_a_key_is_told_with_what_is_left(house: House) -> None:
    """LIM-10: of the organisation, the project, the key and the environment, defaults included,
    each with limit, used, held, remaining and the instant of its next window.
    """
    payer = house.payer
    await payer.grant("50")
    await limit(payer, parse_amount("30"))
    await limit(
        payer, 20, scope_kind=ScopeKind.PROJECT, scope_ref=payer.project_id.hex,
        measure=Measure.CALLS, period=Period.MINUTE,
    )  # fmt: skip
    await limit(payer, parse_amount("20"), scope_kind=ScopeKind.KEY, period=Period.TOTAL)
    await limit(
        payer, parse_amount("10"), scope_kind=ScopeKind.ENVIRONMENT, scope_ref="production",
        effect=Effect.ALERT, models="gpt-5*", owner="ada",
    )  # fmt: skip
    await limit(payer, 5, scope_kind=ScopeKind.USER, measure=Measure.CALLS)
    await limit(payer, 5, scope_kind=ScopeKind.KEY, scope_ref="f" * 32, measure=Measure.CALLS)
    spent = await payer.settle(await payer.admit("1"), 1_000, 10)
    await payer.admit("2.5")
    async with house.model_key() as key:
        status = await status_of(key)
    assert (status.id, status.name) == (format_id("key", payer.key_id), "laptop")
    assert (status.organization.name, status.project.name) == ("Acme", "search")
    told = {each.scope_kind: each for each in status.limits}
    assert list(told) == [ScopeKind.ORGANIZATION, ScopeKind.KEY, ScopeKind.ENVIRONMENT]
    used = format_amount(spent)
    for kind, maximum in (("organization", "30.00"), ("key", "20.00"), ("environment", "10.00")):
        each = told[ScopeKind(kind)]
        left = format_amount(parse_amount(maximum) - parse_amount("2.5") - spent)
        figures = (each.limit, each.used, each.held, each.remaining)
        assert figures == (maximum, used, "2.50", left)
    assert told[ScopeKind.KEY].resets_at is None
    assert str(told[ScopeKind.ORGANIZATION].resets_at) > status.at
    alert = told[ScopeKind.ENVIRONMENT]
    assert (alert.effect, alert.models, alert.owner) == (Effect.ALERT, "gpt-5*", "ada")
    (rate,) = status.rate_limits
    assert (rate.limit, rate.used, rate.held, rate.remaining) == (20, 1, 1, 18)
    assert status.balance.held == "2.50"


async def test_a_key_that_was_stopped_is_told_so(house: House) -> None:
    """LIM-10, ANO-01: a stop is a limit of nothing at a time; a tier's limit is told as one."""
    payer = house.payer
    stopped = {"scope_kind": ScopeKind.KEY, "scope_ref": payer.key_id.hex}
    await limit(
        payer, 0, **stopped, measure=Measure.PARALLEL, period=Period.TOTAL, effect=Effect.STOP
    )  # fmt: skip
    await limit(payer, parse_amount("9"), origin=Origin.TIER)
    await payer.grant("5")
    async with house.model_key() as key:
        status = await status_of(key)
    tier, stop = status.limits
    assert (tier.origin, tier.limit, stop.origin) == (Origin.TIER, "9.00", Origin.MANUAL)
    assert (stop.effect, stop.limit, stop.remaining) == (Effect.STOP, 0, 0)
    assert isinstance(await payer.ask("0.01"), Refused)


@pytest.mark.parametrize("binds", ["organization", "project", "key", "balance", "allocation"])
async def test_what_remains_is_what_the_engine_admits(binds: str, house: House) -> None:
    """LIM-10: exactly what is told to remain is admitted, and a nanodollar more is not."""
    payer = house.payer
    await payer.grant("7.000000001")
    scopes: dict[str, dict[str, Any]] = {
        "organization": {},
        "project": {"scope_kind": ScopeKind.PROJECT, "scope_ref": payer.project_id.hex},
        "key": {"scope_kind": ScopeKind.KEY},
    }
    if binds in scopes:
        await limit(payer, parse_amount("4.000000003"), **scopes[binds])
    if binds == "allocation":
        await limit(
            payer, parse_amount("2"), scope_kind=ScopeKind.PROJECT,
            scope_ref=other_project(payer), effect=Effect.ALLOCATION, period=Period.TOTAL,
        )  # fmt: skip
    await payer.settle(await payer.admit("1"), 4_808, 10)
    await payer.admit("0.5")
    async with house.model_key() as key:
        status = await status_of(key)
    room = [parse_amount(str(each.remaining)) for each in status.limits]
    fits = min([*room, parse_amount(status.balance.spendable)])
    refused = await payer.ask(format_amount(fits + 1))
    assert isinstance(refused, Refused)
    if binds in scopes:
        assert refused.limit is not None
        (told,) = status.limits
        assert (refused.limit.scope_kind, refused.limit.used) == (
            told.scope_kind,
            parse_amount(str(told.used)),
        )
    await payer.admit(format_amount(fits))


async def test_what_the_calls_of_a_key_name_is_told_too(house: House) -> None:
    """LIM-10, ATT-01: with the headers of its calls, the limits of the user, the feature, the run
    with those that it is a part of, the tags, and the environment in place of the project's.
    """
    payer = house.payer
    named = {
        ScopeKind.USER: "Zoë",
        ScopeKind.FEATURE: "chat",
        ScopeKind.ENVIRONMENT: "staging",
        ScopeKind.TAG: "team=red",
        ScopeKind.RUN: "crawl/page",
    }
    for kind, ref in named.items():
        await limit(payer, 5, scope_kind=kind, scope_ref=ref, measure=Measure.CALLS)
    await limit(payer, 5, scope_kind=ScopeKind.ENVIRONMENT, scope_ref="production")
    await limit(
        payer, 3, scope_kind=ScopeKind.RUN, scope_ref="crawl", measure=Measure.DEPTH,
        period=Period.TOTAL,
    )  # fmt: skip
    await limit(payer, 9, scope_kind=ScopeKind.USER, period=Period.DAY, measure=Measure.CALLS)
    headers = {
        b"x-farebox-user": "Zoë".encode(),
        b"x-farebox-feature": b"chat",
        b"x-farebox-environment": b"staging",
        b"x-farebox-tags": b"team=red,x=y",
        b"x-farebox-run": b"crawl/page",
    }
    async with house.model_key() as key:
        plain = await status_of(key)
        answer = await key.get(KEY, headers=headers)
        other = await key.get(KEY, headers={"x-farebox-user": "somebody"})
        wrong = await key.get(KEY, headers={"x-farebox-run": "a//b"})
    assert [each.scope_id for each in plain.limits] == ["production"]
    told = msgspec.json.decode(answer.content, type=KeyStatus).limits
    assert {(each.scope_kind, each.scope_id) for each in told} == {
        *named.items(),
        (ScopeKind.RUN, "crawl"),
    }
    (depth,) = [each for each in told if each.measure is Measure.DEPTH]
    assert (depth.used, depth.remaining) == (1, 2)
    assert [each.period for each in told if each.scope_id == "Zoë"] == [Period.DAY, Period.MONTH]
    (default,) = msgspec.json.decode(other.content, type=KeyStatus).limits[1:]
    assert (default.scope_id, default.limit) == ("somebody", 9)
    error = wrong.json()["error"]
    assert (wrong.status_code, error["param"]) == (400, "X-Farebox-Run")


async def test_a_key_that_opens_nothing_is_told_why(house: House) -> None:
    """ERR-04: 401 in OpenAI's shape for no key, an unknown one, a revoked one, one that manages."""
    unknown = house.bearer("fbx_test_" + "2" * 44)
    async with house.model_key() as key, house.nobody() as nobody, house.operator() as operator:
        fresh = await status_of(key)
        with psycopg.connect(house.dsn, autocommit=True) as sql:
            sql.execute("UPDATE api_key SET revoked_at = now()")
        kept = await status_of(key)
        answers = [await each.get(KEY) for each in (nobody, operator, unknown)]
        await unknown.aclose()
    assert kept == fresh, "for a second, as wherever nothing is charged"
    for answer, code in zip(answers, (None, "invalid_api_key", "invalid_api_key"), strict=True):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (401, code)
        assert error["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"].startswith("api_")


async def test_a_loop_of_wrong_keys_is_slowed_down_and_a_good_key_goes_on(house: House) -> None:
    """Whoever tries keys out waits; whoever was let in before from the same address does not."""
    async with house.model_key() as key, house.nobody() as nobody:
        await status_of(key)
        for _ in range(REQUESTS_UNPROVEN_MAX - 1):
            assert (await nobody.get(KEY)).status_code == 401
        refused = await nobody.get(KEY)
        await status_of(key)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"]) == (429, "rate_limit_error")
    assert int(refused.headers["retry-after"]) > 0
