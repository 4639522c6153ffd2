"""``farebox serve --sandbox`` as people start it: a real process, a real folder, real signals."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from farebox.system.postgres.place import place_of
from farebox.system.postgres.watch import running_postmaster

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 30.0
CHAT = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hi"}]}


class Serve:
    """One ``farebox serve``."""

    running: ClassVar[list[Serve]] = []

    def __init__(self, home: Path, *flags: str, **environment: str) -> None:
        self.home = home
        self.running.append(self)
        variables = {
            **os.environ,
            "FAREBOX_HOME": str(home),
            "FAREBOX_GATEWAY_PORT": "0",
            "FAREBOX_CONSOLE_PORT": "0",
            "PYTHONPATH": str(ROOT / "src"),
            **environment,
        }
        variables.pop("DATABASE_URL", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "farebox", "serve", "--sandbox", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables,
            cwd=home.parent,
        )
        self.told = ""

    def kill(self) -> None:
        """End it whatever it does."""
        self.process.kill()
        self.process.communicate()

    def ready(self) -> dict[str, Any]:
        """Wait until it serves; gives what is in ``ready.json``."""
        assert self.process.stdout is not None
        while "Ctrl-C" not in self.told:
            found, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
            said = os.read(self.process.stdout.fileno(), 65_536) if found else b""
            assert said, self.end()
            self.told += said.decode()
        facts: dict[str, Any] = json.loads((self.home / "ready.json").read_text())
        return facts

    def end(self, order: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop it; gives its exit status and what it said on stderr."""
        self.process.send_signal(order)
        _, said = self.process.communicate(timeout=STOP_SECONDS)
        return self.process.returncode, said.decode()

    def refused(self) -> tuple[int, str]:
        """Wait until it gives up; its exit status and what it said on stderr."""
        _, said = self.process.communicate(timeout=START_SECONDS)
        return self.process.returncode, said.decode()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that is not there yet; whatever a test leaves running in it is ended."""
    home = tmp_path / "home"
    yield home
    while Serve.running:
        Serve.running.pop().kill()
    postmaster = running_postmaster(place_of(home)) if home.exists() else None
    if postmaster is not None:
        os.kill(postmaster.pid, signal.SIGQUIT)
        raise AssertionError("a PostgreSQL was left running")


def connect(url: str, key: str, body: object, headers: Mapping[str, str]) -> HTTPConnection:
    """Send a request; its answer is still to be read."""
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port or 0, timeout=30)
    lines = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    method, data = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
    connection.request(method, where.path, data, lines)
    return connection


def fetch(url: str, key: str = "", body: object = None) -> tuple[int, dict[str, str], Any]:
    """Status, headers and document of an answer."""
    connection = connect(url, key, body, {})
    try:
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def check_contract(home: Path, facts: dict[str, Any], told: str) -> None:
    """What checks from outside rely on."""
    assert set(facts) == {
        "gateway_url",
        "console_url",
        "api_key",
        "admin_key",
        "organization_id",
        "project_id",
        "login",
    }
    assert set(facts["login"]) == {"email", "password"}
    assert stat.S_IMODE((home / "ready.json").stat().st_mode) == 0o600
    for name in ("gateway_url", "console_url"):
        assert facts[name].startswith("http://127.0.0.1:")
        assert not facts[name].endswith("/")
    assert facts["organization_id"].startswith("org_")
    assert facts["project_id"].startswith("proj_")
    for shown in (facts["gateway_url"] + "/v1", facts["api_key"], facts["login"]["password"]):
        assert shown in told
    assert "curl " in told


def test_a_sandbox_from_its_first_start_to_its_second(home: Path) -> None:
    """Fixed contracts: ready.json, a charged call, a clean stop, the same key again."""
    first = Serve(home)
    facts = first.ready()
    check_contract(home, facts, first.told)

    # A second one on the same home, at other ports, serves the same books.
    second = Serve(home)
    others = second.ready()
    assert others["gateway_url"] != facts["gateway_url"]
    assert {k: v for k, v in others.items() if not k.endswith("_url")} == {
        k: v for k, v in facts.items() if not k.endswith("_url")
    }
    url = "/v1/chat/completions"
    status, headers, _ = fetch(facts["gateway_url"] + url, facts["api_key"], CHAT)
    assert status == 200
    status, again, _ = fetch(others["gateway_url"] + url, facts["api_key"], CHAT)
    assert status == 200
    assert float(again["x-farebox-balance"]) < float(headers["x-farebox-balance"]) < 100
    # A refusal names the console, where a person can do something about it (ERR-03).
    dear = CHAT | {"max_completion_tokens": 1_000_000, "n": 100}
    status, _, document = fetch(facts["gateway_url"] + url, facts["api_key"], dear)
    assert status == 429
    assert facts["console_url"] in document["error"]["message"]

    # At the same port it is refused in a sentence that names the variable.
    port = facts["gateway_url"].rpartition(":")[2]
    status, said = Serve(home, FAREBOX_GATEWAY_PORT=port).refused()
    assert status == 2
    assert "FAREBOX_GATEWAY_PORT" in said
    assert port in said
    assert "Traceback" not in said

    # The first one stops, the database goes on for the second; then nothing is left.
    status, said = first.end()
    assert (status, "Traceback" in said) == (0, False), said
    status, _, document = fetch(others["gateway_url"] + "/readyz")
    assert (status, document) == (200, {"status": "ready"})
    status, said = second.end(signal.SIGINT)
    assert (status, "Traceback" in said) == (0, False), said
    assert running_postmaster(place_of(home)) is None

    # What it left is found again: the same key, the same money.
    third = Serve(home)
    url = third.ready()["gateway_url"]
    assert third.ready()["api_key"] == facts["api_key"]
    path = f"/api/v1/calls/{headers['x-request-id']}"
    assert fetch(url + path, facts["api_key"])[2]["id"] == headers["x-request-id"]

    # A stream that runs when it is told to stop is let end, and is charged.
    body = CHAT | {"stream": True, "max_completion_tokens": 40}
    orders = {"X-Sandbox-Latency-Ms": "event=40"}
    connection = connect(url + "/v1/chat/completions", facts["api_key"], body, orders)
    answer = connection.getresponse()
    begun = answer.read(300)
    third.process.send_signal(signal.SIGTERM)
    assert (begun + answer.read()).endswith(b"data: [DONE]\n\n")
    connection.close()
    status, said = third.end()
    assert (status, "Traceback" in said) == (0, False), said


@pytest.mark.parametrize("after_seconds", [0.9, 1.6])
def test_a_stop_in_the_middle_of_the_start(home: Path, after_seconds: float) -> None:
    """A SIGTERM before it is ready cleans up like any other, and the next start works."""
    serve = Serve(home)
    time.sleep(after_seconds)
    status, said = serve.end()
    assert status != 0 or "stopped" in said
    assert "Traceback" not in said, said
    place = place_of(home) if home.exists() else None
    assert place is None or running_postmaster(place) is None
