"""What the doctor reads of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from farebox.kit.errors import NotFoundError
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import Refused, Release, SetLimit
from farebox.ledger.limits import LimitFigures, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.diagnosis import OrganizationRecord
from farebox.operations.refusals import Refusal, RefusalRow
from farebox.storage.connecting import Connector
from farebox.storage.diagnosis_store import GROUPS_MAX, PostgresDiagnosisStore
from farebox.storage.refusal_store import PostgresRefusalStore
from farebox.tenancy.api_keys import KeyState
from tests.support.shop import Shop
from tests.support.till import Till, new_id

UNIT = NANOS_PER_UNIT


class Clinic:
    """A shop, and the doctor's store on it."""

    def __init__(self, shop: Shop, store: PostgresDiagnosisStore, connection: Any) -> None:
        self.shop = shop
        self.till = shop.till
        self.store = store
        self.connection = connection

    async def record(self, till: Till | None = None, **more: Any) -> OrganizationRecord:
        """Everything of an organisation."""
        asked: dict[str, Any] = {"project_id": None, "key_id": None, "limit": None} | more
        return await self.store.organization((till or self.till).organization_id, **asked)

    async def refuse(self, code: str, count: int = 1, **more: Any) -> list[UUID]:
        """Record refusals of the till."""

        class OneConnection:
            """A pool of one."""

            def __init__(self, connection: Any) -> None:
                self._connection = connection

            def connection(self) -> Any:
                return self

            async def __aenter__(self) -> Any:
                return self._connection

            async def __aexit__(self, *_: object) -> None:
                return

        rows = []
        for _ in range(count):
            refusal = Refusal(
                call_id=new_id(),
                organization_id=self.till.organization_id,
                project_id=self.till.project_id,
                key_id=more.get("key_id", self.till.key_id),
                model="gpt-5.4",
                endpoint="chat",
                user="",
                feature="",
                refusal=Refused(
                    code=code,
                    message=more.get("message", f"No: {code}."),
                    needed=Nanos(5),
                    limit=more.get("limit"),
                ),
            )
            rows.append(RefusalRow(refusal, more.get("age", timedelta(0)), 1))
        pool: Any = OneConnection(self.connection)
        await PostgresRefusalStore(pool).insert(rows)
        return [row.refusal.call_id for row in rows]


@pytest.fixture
async def clinic(shop: Shop) -> AsyncIterator[Clinic]:
    """A shop with a doctor."""
    connection = await Connector(shop.dsn, name="doctor", durable=False).connect()
    async with connection:
        yield Clinic(shop, PostgresDiagnosisStore(connection), connection)


async def test_nothing_is_written_or_locked(clinic: Clinic) -> None:
    """A diagnosis stands in nobody's way: it reads while somebody else holds the organisation."""
    with clinic.shop.locked(clinic.till):
        record = await clinic.record()
        assert (await clinic.store.installation()).sandbox
        assert await clinic.store.books(clinic.till.organization_id) == ()
    assert record.organization.id == clinic.till.organization_id
    with pytest.raises(NotFoundError):
        await clinic.store.organization(new_id(), project_id=None, key_id=None, limit=None)


async def test_money_is_of_one_instant(clinic: Clinic) -> None:
    """Available, held and the grants agree; the last charge is by its admission."""
    run, till = clinic.shop.run, clinic.till
    await run(till.grant(10 * UNIT))
    call = till.admit(2 * UNIT)
    await run(call)
    record = await clinic.record()
    assert (record.money.available, record.money.held) == (8 * UNIT, 2 * UNIT)
    assert (record.holds.count, record.holds.amount) == (1, 2 * UNIT)
    assert record.last_charge_at is None
    await run(till.settle(call, UNIT))
    record = await clinic.record()
    assert (record.money.spent, record.money.held, record.calls) == (UNIT, 0, 2)
    assert record.last_charge_at is not None
    assert [grant.spent for grant in record.money.grants] == [UNIT]


async def test_refusals_come_in_groups_with_the_newest_of_each(clinic: Clinic) -> None:
    """ERR-11: by code and limit, for keys by key; counted, bounded, of the last day alone."""
    limit = LimitFigures(
        scope_kind="user", scope_id="bob", period="day", maximum=1, used=1, held=0, resets_at=None
    )
    await clinic.refuse("credit_balance_exhausted", 3)
    await clinic.refuse("user_spend_limit_exceeded", 2, limit=limit)
    other = LimitFigures(
        scope_kind="user", scope_id="eve", period="day", maximum=1, used=1, held=0, resets_at=None
    )
    await clinic.refuse("user_spend_limit_exceeded", 1, limit=other)
    await clinic.refuse("balance_held", 5, age=timedelta(hours=25))
    newest = await clinic.refuse("key_revoked", 2)
    record = await clinic.record()
    told = {(g.last.code, g.last.limit.scope_id if g.last.limit else ""): g.times
            for g in record.refusals}  # fmt: skip
    assert told == {
        ("credit_balance_exhausted", ""): 3,
        ("user_spend_limit_exceeded", "bob"): 2,
        ("user_spend_limit_exceeded", "eve"): 1,
        ("key_revoked", ""): 2,
    }
    revoked = next(g for g in record.refusals if g.last.code == "key_revoked")
    assert revoked.last.id == newest[-1]
    assert revoked.last.key_prefix == "fbx"
    assert (await clinic.record(key_id=new_id())).refusals == ()
    for number in range(GROUPS_MAX + 5):
        await clinic.refuse(f"code_{number}")
    assert len((await clinic.record()).refusals) == GROUPS_MAX


async def test_a_refusal_is_found_by_its_own_sentence(clinic: Clinic) -> None:
    """DOC-01: a pasted message with its figures is as good as an id, unless two have it."""
    ids = await clinic.refuse("credit_balance_exhausted", 2, message="You have 1.25 available.")
    find = clinic.store.find_refusal
    assert await find("You have 1.25 available. See https://console.example.") == ids[-1]
    assert await find("You have 1.2") is None
    assert await find("") is None
    mine, clinic.till = clinic.till, clinic.shop.new_till()
    await clinic.refuse("credit_balance_exhausted", message="You have 1.25 available.")
    assert await find("You have 1.25 available.") is None
    clinic.till = mine


async def test_limits_of_people_are_read_where_they_are_asked_about(clinic: Clinic) -> None:
    """A million users with a limit each do not make a diagnosis slow: only those in question."""
    run, org = clinic.shop.run, clinic.till.organization_id
    for user in ("ann", "bob"):
        await run(
            SetLimit(
                organization_id=org, scope_kind=ScopeKind.USER, scope_ref=user, period=Period.DAY,
                maximum=5,
            )
        )  # fmt: skip
    await run(SetLimit(organization_id=org, period=Period.MONTH, maximum=9))
    await run(
        SetLimit(
            organization_id=org, scope_kind=ScopeKind.PROJECT,
            scope_ref=clinic.till.project_id.hex, period=Period.MONTH, maximum=9,
        )
    )  # fmt: skip
    record = await clinic.record()
    assert {(each.scope_kind, each.scope_ref) for each in record.limits} == {
        (ScopeKind.ORGANIZATION, org.hex),
        (ScopeKind.PROJECT, clinic.till.project_id.hex),
    }
    assert record.scope_names == {clinic.till.project_id.hex: "p"}
    bob = LimitFigures(
        scope_kind="user", scope_id="bob", period="day", maximum=5, used=0, held=0, resets_at=None
    )
    refs = {each.scope_ref for each in (await clinic.record(limit=bob)).limits}
    assert "bob" in refs
    assert "ann" not in refs


async def test_how_calls_ended_lately(clinic: Clinic) -> None:
    """Out of the ordinary alone, by reason without its details."""
    run, till = clinic.shop.run, clinic.till
    await run(till.grant(10 * UNIT))
    for reason in ("", "upstream_timeout", "upstream_timeout", "usage_invalid: a", "usage_invalid"):
        call = till.admit(UNIT)
        await run(call)
        if reason.startswith("upstream"):
            await run(
                Release(organization_id=call.organization_id, call_id=call.call_id, reason=reason)
            )
        else:
            await run(till.settle(call, 10, reason=reason))
    record = await clinic.record()
    assert {(e.status, e.reason): e.times for e in record.endings} == {
        ("released", "upstream_timeout"): 2,
        ("settled", "usage_invalid"): 2,
    }


async def test_holds_that_nobody_ends(clinic: Clinic) -> None:
    """D74: a hold whose gateway is gone, or whose time is up, for longer than a sweep takes."""
    run, till, sql = clinic.shop.run, clinic.till, clinic.shop.sql
    await run(till.grant(10 * UNIT))
    call = till.admit(UNIT)
    await run(call)
    assert (await clinic.record()).holds.overdue == 0
    found = await clinic.store.find_call(call.call_id)
    assert found is not None
    assert found.node_alive
    sql("UPDATE node SET seen_at = clock_timestamp() - interval '1 hour'")
    assert (await clinic.record()).holds.overdue == 1
    found = await clinic.store.find_call(call.call_id)
    assert found is not None
    assert not found.node_alive
    sql(
        "INSERT INTO quarantine (organization_id, command_kind, command, error)"
        " VALUES (%s, 'settle', %s, 'too large')",
        till.organization_id,
        psycopg.types.json.Jsonb({"call_id": str(call.call_id)}),
    )
    record = await clinic.record()
    assert record.holds.overdue == 0
    assert record.quarantine is not None
    assert (record.quarantine.count, record.quarantine.command) == (1, "settle")


async def test_days_are_counted_back_from_now(clinic: Clinic) -> None:
    """D43: the last 24 hours apart from the days before; who spent; how long it has existed."""
    run, till, sql = clinic.shop.run, clinic.till, clinic.shop.sql
    await run(till.grant(100 * UNIT, expires_at=None, default_expiry=False))
    for tokens in (100, 200, 300):
        call = till.admit(UNIT)
        await run(call)
        await run(till.settle(call, tokens))
        sql("UPDATE deployment SET clock_offset = clock_offset + interval '1 day'")
    call = till.admit(UNIT)
    await run(call)
    await run(till.settle(call, 1_000))
    spending = (await clinic.record()).spending
    assert {day.age_days: day.charge for day in spending.days} == {0: 1_000, 1: 300, 2: 200, 3: 100}
    assert spending.known_days == 3
    (spender,) = spending.spenders
    assert (spender.charge, spender.before_charge, spender.calls) == (1_000, 600, 1)
    assert (spender.key_name, spender.project_name, spender.model) == ("k", "p", "gpt-5.4")
    assert (spending.retried_calls, spending.looked_at_calls) == (0, 1)


async def test_neighbours_share_a_member_or_a_small_house(clinic: Clinic) -> None:
    """ORG-04: with members, organisations that share one; without, those of a small house."""
    shop, sql = clinic.shop, clinic.shop.sql
    rich, stranger = shop.new_till(), shop.new_till()
    for till, units in ((rich, 7), (stranger, 9)):
        await shop.run(till.grant(units * UNIT))
    found = (await clinic.record()).neighbours
    assert [each.available for each in found] == [9 * UNIT, 7 * UNIT]
    assert {each.members for each in found} == {()}
    person = new_id()
    sql("INSERT INTO console_user (id, email, password_hash) VALUES (%s, 'a@b.c', '')", person)
    for till in (clinic.till, rich):
        sql(
            "INSERT INTO member (organization_id, user_id, role) VALUES (%s, %s, 'owner')",
            till.organization_id,
            person,
        )
    record = await clinic.record()
    assert [(each.id, each.members) for each in record.neighbours] == [
        (rich.organization_id, ("a@b.c",))
    ]
    assert record.owners == ("a@b.c",)
    sql("UPDATE organization SET active = false WHERE id = %s", rich.organization_id)
    assert (await clinic.record()).neighbours == ()


async def test_in_a_large_house_others_are_strangers(clinic: Clinic) -> None:
    """Decision 18: a reseller's customers are not each other's neighbours."""
    for _ in range(11):
        await clinic.shop.run(clinic.shop.new_till().grant(UNIT))
    assert (await clinic.record()).neighbours == ()


async def test_keys_are_found_by_id_digest_and_first_letters(clinic: Clinic) -> None:
    """D04: whatever their state; which of them may be used instead."""
    till, sql = clinic.till, clinic.shop.sql
    find = clinic.store.find_keys
    for named in ({"key_id": till.key_id}, {"digest": till.key_id.bytes * 2}, {"prefix": "fb"}):
        (found,) = await find(**named)
        assert (found.record.id, found.organization_id) == (till.key_id, till.organization_id)
        assert found.record.state is KeyState.ACTIVE
    assert await find(prefix="zz") == []
    assert await find() == []
    assert [each.id for each in (await clinic.record()).usable_keys] == [till.key_id]
    sql("UPDATE api_key SET revoked_at = farebox_now()")
    (found,) = await find(key_id=till.key_id)
    assert found.record.state is KeyState.REVOKED
    assert (await clinic.record()).usable_keys == ()


async def test_the_installation_and_what_belongs_to_whom(clinic: Clinic) -> None:
    """D72, D73: gateways alive, providers, currencies; a project's organisation."""
    known = await clinic.store.installation()
    assert known.sandbox
    assert (known.gateways_alive, known.providers, known.priced_currencies) == (1, (), ())
    clinic.shop.sql("UPDATE node SET seen_at = clock_timestamp() - interval '2 minutes'")
    assert (await clinic.store.installation()).gateways_alive == 0
    till = clinic.till
    assert await clinic.store.owner_of("project", till.project_id) == till.organization_id
    assert await clinic.store.owner_of("grant", new_id()) is None
    name = str(till.organization_id).upper()
    assert await clinic.store.find_organization(name=name) == till.organization_id
    assert list(await clinic.store.organizations(2)) == [till.organization_id]
    assert await clinic.store.find_management_key(digest=None, prefix="fbx_admin_") is None
    assert (await clinic.store.model("gpt-5.4", "USD")).known is False
