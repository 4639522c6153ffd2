"""A sandbox's clock that jumps in the middle of calls: every call stays whole, and charged once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from farebox.storage.tenancy_store import advance_clock
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.scripted_upstream import (
    DONE,
    Pause,
    ScriptableUpstream,
    ScriptedResponse,
    delta,
    usage_chunk,
)
from tests.support.tenants import NewTenant, Tenant, chat_body, make_tenant, wait_for

INPUT, OUTPUT = 2_500, 15_000
FULL = 100 * INPUT + 50 * OUTPUT
SCRIPT = {"X-Sandbox-Script": "slow"}


@pytest.fixture(scope="module")
def house(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of its own, with a worker: its clock is not the others'."""
    with pytest.MonkeyPatch.context() as patch, postgres.database() as dsn:
        patch.setattr("farebox.assembly.directory.SimulatedUpstream", ScriptableUpstream)
        patch.setattr("farebox.worker.clockwork.SWEEP_SECONDS", 0.2)
        with running_house(dsn, tmp_path_factory.mktemp("clock"), worker=True) as running:
            yield running


@pytest.fixture
def new_tenant(house: House, request: pytest.FixtureRequest) -> NewTenant:
    """Makes tenants of that house."""

    def make(**more: Any) -> Tenant:
        return make_tenant(house, request.node.name, **more)

    return make


@pytest.fixture
def pauses() -> Iterator[list[Pause]]:
    """Streams that stop after their first words until the test lets them go on."""
    made: list[Pause] = []

    def script(_: Any) -> ScriptedResponse:
        made.append(Pause())
        end = [delta("", finish="stop"), usage_chunk(100, 50), DONE]
        return ScriptedResponse([delta("first"), made[-1], *end])

    ScriptableUpstream.scripts["slow"] = script
    yield made
    ScriptableUpstream.scripts.clear()


def advance(house: House, by: timedelta) -> None:
    """Move the sandbox's clock, as ``farebox clock advance`` does."""

    async def move() -> None:
        connection = await house.database.connector("clock").connect()
        async with connection:
            await advance_clock(connection, by)

    house.run(move())


def go_on(house: House, pauses: list[Pause]) -> None:
    """Let all streams go on."""
    for pause in pauses:
        house.loop.call_soon_threadsafe(pause.over.set)


@pytest.mark.parametrize("by", [timedelta(minutes=30), timedelta(days=31), timedelta(days=400)])
def test_a_jump_in_the_middle_of_a_stream(
    new_tenant: NewTenant, house: House, pauses: list[Pause], by: timedelta
) -> None:
    """ENGINE.md: a hold whose time is up lapses; its answer is charged late, in full and once."""
    tenant = new_tenant(credit=None)
    ((now,),) = house.query("SELECT farebox_now()")
    tenant.grant("5.00", expires_at=now + timedelta(days=10_000))
    with tenant.raw(chat_body(stream=True), SCRIPT) as call:
        call.read_until(b"first")
        advance(house, by)
        if by > timedelta(hours=2):
            wait_for(lambda: tenant.open_holds() == 0)
        go_on(house, pauses)
        call.read_until(b"[DONE]")
    row = tenant.only_call()
    assert (row.state, row.charge) == ("settled" if by < timedelta(hours=2) else "late", FULL)
    assert tenant.chat().status == 200
    tenant.check_books()


def test_credit_that_ends_while_it_is_held(
    new_tenant: NewTenant, house: House, pauses: list[Pause]
) -> None:
    """An earmark outlives its grant's end: the running call is paid by it, a new one is refused."""
    tenant = new_tenant(credit=None)
    ((now,),) = house.query("SELECT farebox_now()")
    tenant.grant("5.00", expires_at=now + timedelta(minutes=30))
    with tenant.raw(chat_body(stream=True), SCRIPT) as call:
        call.read_until(b"first")
        advance(house, timedelta(minutes=31))
        reply = tenant.chat()
        assert (reply.status, reply.error["code"]) == (429, "credit_balance_expired")
        go_on(house, pauses)
        call.read_until(b"[DONE]")
    assert tenant.only_call().charge == FULL
    wait_for(lambda: _breakage(house, tenant) == 5 * 10**9 - FULL)
    tenant.check_books()


def _breakage(house: House, tenant: Tenant) -> int:
    sql = "SELECT expired_nanos FROM organization WHERE id = %s"
    return int(house.query(sql, tenant.organization_id)[0][0])


def test_many_jumps_under_traffic(new_tenant: NewTenant, house: House) -> None:
    """Small jumps beside traffic change nothing that a call costs."""
    tenant = new_tenant()
    for _ in range(10):
        advance(house, timedelta(seconds=61))
        reply = tenant.chat({"X-Sandbox-Usage": "prompt=100,cached=0,completion=50"})
        assert reply.headers["x-farebox-charge"] == "0.001"
    assert tenant.spent() == 10 * FULL
    tenant.check_books()
