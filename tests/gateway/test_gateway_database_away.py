"""The database goes away and comes back: 503 meanwhile, never 401, nothing lost or doubled.

The server here is a durable one of its own, so that it can be killed and started again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import openai
import psycopg
import pytest

from farebox.storage.migrate import migrate
from farebox.system.postgres.server import RunningServer
from farebox.system.postgres.throwaway import throwaway
from tests.support.house import House, running_house
from tests.support.limits import at_once, costly, set_limit
from tests.support.openai_clients import sync_client
from tests.support.scripted_upstream import (
    DONE,
    JSON,
    Pause,
    ScriptableUpstream,
    ScriptedResponse,
    delta,
    usage,
    usage_chunk,
    whole,
)
from tests.support.tenants import MODEL, Tenant, chat_body, make_tenant, wait_for

INPUT, OUTPUT = 2_500, 15_000


@dataclass
class Killable:
    """A house and the server that it stands on."""

    house: House
    server: RunningServer

    def kill(self) -> None:
        """End the database at once, as a crash does, and see it gone."""
        os.kill(self.server.pid, signal.SIGQUIT)
        wait_for(self._is_gone)

    def _is_gone(self) -> bool:
        try:
            psycopg.connect(self.server.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return True
        return False

    def start(self) -> None:
        """Start it again."""
        self.server.ensure_running()


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    """A house on a database that can be killed."""
    server = throwaway(tmp_path_factory.mktemp("killable"), durable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farebox.assembly.directory.SimulatedUpstream", ScriptableUpstream)
        try:
            migrate(server.dsn, sandbox=True)
            with running_house(server.dsn, tmp_path_factory.mktemp("home")) as house:
                yield Killable(house, server)
                server.ensure_running()
        finally:
            ScriptableUpstream.scripts.clear()
            server.release()


@pytest.fixture
def tenant(killable: Killable, request: pytest.FixtureRequest) -> Tenant:
    """A tenant of that house; the database runs, whatever the last test did to it."""
    killable.start()
    return make_tenant(killable.house, request.node.name)


def test_db_down_503_not_401(killable: Killable, tenant: Tenant) -> None:
    """Field bug 60: 503 billing_unavailable for every key while it is away, then it works again."""
    stranger = tenant.new_key().text
    assert tenant.chat().status == 200
    killable.kill()
    replies: dict[str, Any] = {}

    def ask(name: str, key: str, path: str) -> None:
        if path.endswith("completions"):
            replies[name] = tenant.post(path, chat_body(), key=key)
        else:
            replies[name] = tenant.get(path, key=key)

    asked = {
        "known key": (tenant.key, "/v1/chat/completions"),
        "unknown key": (stranger, "/v1/chat/completions"),
        "models": (stranger, "/v1/models"),
        "a call": (stranger, "/api/v1/calls/req_" + "0" * 32),
        "ready": ("", "/readyz"),
        "health": ("", "/healthz"),
        "metrics": ("", "/metrics"),
    }
    threads = [threading.Thread(target=ask, args=(name, *rest)) for name, rest in asked.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("known key", "unknown key", "models"):
        reply = replies[name]
        assert (reply.status, reply.error["code"]) == (503, "billing_unavailable"), name
        assert reply.error["type"] == "service_unavailable_error"
        assert reply.headers["retry-after"] == "1"
    assert replies["a call"].status == 503
    assert replies["a call"].headers["content-type"] == "application/problem+json"
    assert replies["a call"].json["code"] == "billing_unavailable"
    assert replies["ready"].status == 503
    assert replies["health"].status == 200
    assert replies["metrics"].status == 200

    killable.start()
    with sync_client(killable.house.base_url, tenant.key, max_retries=5) as (client, _):
        # The client's own retries bridge the rest.
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}]
        )
        assert answer.choices
    with (
        sync_client(killable.house.base_url, "fbx_test_" + "1" * 44) as (client, _),
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    assert tenant.get("/readyz", key="").status == 200
    assert [call.state for call in tenant.calls()].count("settled") == 2
    tenant.check_books()


def test_degraded_mode_is_loud(killable: Killable, tenant: Tenant) -> None:
    """Field bug 59, promise 5: without the database no process goes on with limits of its own.

    Every call is refused as 503 and counted so, readiness says what is missing, and nothing of it
    shows as a refusal of the tenant's; back again, the limit stands where it stood.
    """
    set_limit(tenant, "0.02")
    assert costly(tenant).status == 200
    before = _counted(tenant)
    killable.kill()
    *replies, ready = at_once(
        [*[partial(costly, tenant)] * 6, partial(tenant.get, "/readyz", key="")]
    )
    assert {(reply.status, reply.error["code"]) for reply in replies} == {
        (503, "billing_unavailable")
    }
    assert (ready.status, ready.json) == (503, {"status": "unavailable", "reason": "database"})
    during = _counted(tenant)
    assert during["farebox_unavailable_total"] - before["farebox_unavailable_total"] >= 6
    refusals = [name for name in during if name.startswith("farebox_refusals_total")]
    assert all(during[name] == before.get(name) for name in refusals)
    killable.start()
    statuses: list[int] = []

    def answered() -> bool:
        statuses.append(costly(tenant).status)
        return statuses[-1] != 503

    wait_for(answered)
    assert statuses[-1] == 429
    assert costly(tenant).error["code"] == "organization_spend_limit_exceeded"
    set_limit(tenant, "1")
    assert costly(tenant).status == 200
    tenant.check_books()


def _counted(tenant: Tenant) -> dict[str, float]:
    """Every series of the gateway's metrics."""
    page = tenant.get("/metrics", key="").body.decode()
    lines = (line.rpartition(" ") for line in page.splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in lines}


@pytest.mark.parametrize("stream", [False, True])
def test_away_at_the_end_of_an_answer(killable: Killable, tenant: Tenant, stream: bool) -> None:
    """ENGINE.md: an answer's end waits for its charge; the same settle is sent until it is in."""
    house = killable.house
    pauses: list[Pause] = []

    def script(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        if stream:
            end = [delta("", finish="stop"), usage_chunk(100, 50), DONE]
            return ScriptedResponse([delta("first"), pauses[0], *end])
        return ScriptedResponse([pauses[0], whole(usage(100, 50))], headers=JSON)

    ScriptableUpstream.scripts["slow"] = script
    with tenant.raw(chat_body(stream=stream), {"X-Sandbox-Script": "slow"}) as call:
        if stream:
            call.read_until(b"first")
        wait_for(lambda: bool(pauses))
        house.run(pauses[0].reached.wait())
        killable.kill()
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        call.sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            call.read_until(b"[DONE]" if stream else b"HTTP/1.1 200")
        assert b'finish_reason":"stop' not in call.received
        killable.start()
        call.sock.settimeout(30)
        call.read_until(b"[DONE]" if stream else b"chatcmpl")
    row = tenant.only_call()
    assert (row.state, row.charge, row.estimated) == ("settled", 100 * INPUT + 50 * OUTPUT, False)
    tenant.check_books()


def test_away_for_too_long(
    killable: Killable, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE.md: after its patience an answer is broken off with an error, and charged later."""
    # Its real patience is 30 seconds.
    monkeypatch.setattr("farebox.gateway.call.SETTLE_SECONDS_MAX", 0.5)
    house = killable.house
    pauses: list[Pause] = []

    def script(_: Any) -> ScriptedResponse:
        pauses.append(Pause())
        end = [delta("", finish="stop"), usage_chunk(100, 50), DONE]
        return ScriptedResponse([delta("first"), pauses[0], *end])

    ScriptableUpstream.scripts["slow"] = script
    with tenant.raw(chat_body(stream=True), {"X-Sandbox-Script": "slow"}) as call:
        call.read_until(b"first")
        killable.kill()
        house.loop.call_soon_threadsafe(pauses[0].over.set)
        received = call.read_until(b"\r\n0\r\n\r\n")
    assert b'"code":"billing_unavailable"' in received
    assert b"[DONE]" not in received
    assert b'"finish_reason":"stop"' not in received
    killable.start()
    row = tenant.only_call()
    assert (row.state, row.charge) == ("settled", 100 * INPUT + 50 * OUTPUT)
    tenant.check_books()
