"""Two gateways, a console and the command line, as tenants with limits meet them.

Limits are set and read as people do it: over the native API and by ``farebox limits``. Calls keep
all that their clients were told: status, headers, message, charge.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec

from farebox.kit.ids import format_id, parse_id, uuid7
from farebox.kit.money import Nanos, format_amount, parse_amount
from farebox.ledger.commands import GrantCredit, Granted
from farebox.ledger.grants import Source
from farebox.operations.administration import Administration
from farebox.rating.ceiling import LINES_MAX
from farebox.storage.connecting import Connector
from farebox.storage.tenancy_store import PostgresTenantStore, advance_clock
from farebox.tenancy.api_keys import KeyKind
from tests.faults.limit_log import install_log
from tests.faults.traffic import CALL_SECONDS_MAX, INPUT_NANOS, MESSAGE, MODEL, OUTPUT_NANOS
from tests.faults.traffic import prompt_bound as bytes_bound
from tests.support.processes import ROOT, DurableServer, Installation

UNAVAILABLE_SECONDS = 0.5

COMMAND_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """One call to make."""

    tokens: int
    """Its output limit."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What it is for: ``user``, ``feature``, ``environment``, ``run``, ``tags``, and ``key``."""
    stream: bool = False
    model: str = MODEL
    share: float = 1.0
    """Of the ceiling that it uses."""
    overrun: int = 0
    """Output tokens beyond its limit that it is billed."""
    head_ms: int = 0

    def body(self) -> bytes:
        """As it is sent."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [MESSAGE],
            "max_tokens": self.tokens,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return msgspec.json.encode(body)

    @property
    def prompt_tokens(self) -> int:
        """The gateway's bound of the prompt, for the model that is bounded by bytes."""
        shorter = len(MODEL) - len(self.model)
        return bytes_bound(self.tokens, stream=self.stream) - shorter

    @property
    def needed(self) -> dict[str, int]:
        """The ceiling in each measure; money as the model that is bounded by bytes costs.

        A ceiling has a nano to spare for each line that may round.
        """
        money = self.prompt_tokens * INPUT_NANOS + self.tokens * OUTPUT_NANOS + LINES_MAX
        return {
            "money": money,
            "tokens": self.prompt_tokens + self.tokens,
            "calls": 1,
            "parallel": 1,
        }

    def headers(self) -> dict[str, str]:
        """Labels, and the orders for the simulated provider."""
        found = {f"x-farebox-{k}": v for k, v in self.labels.items() if k != "key"}
        prompt = max(1, int(self.prompt_tokens * self.share))
        if self.overrun:
            found["x-sandbox-usage"] = f"prompt={self.prompt_tokens}"
            found["x-sandbox-fault"] = f"overrun={self.overrun}"
        else:
            completion = max(1, int(self.tokens * self.share))
            found["x-sandbox-usage"] = f"prompt={prompt},completion={completion}"
        if self.head_ms:
            found["x-sandbox-latency-ms"] = f"head={self.head_ms}"
        return found


@dataclass(frozen=True, slots=True)
class Told:
    """All that a client was told about its call."""

    order: Order
    status: int
    headers: Mapping[str, str]
    call_id: UUID
    charge: Nanos | None = None
    """Of an answer."""
    code: str = ""
    kind: str = ""
    message: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it was answered."""
        return self.charge is not None


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organisation with two projects, ``main`` and ``side``, and a key in each."""

    id: UUID
    name: str
    zone: str
    credit: int
    projects: Mapping[str, UUID]
    keys: Mapping[str, UUID]
    secrets: Mapping[str, str]

    def scope_id(self, kind: str, name: str) -> str:
        """A scope as the API names it; ``main`` and ``side`` are the names of projects and keys."""
        if not name or kind not in {"project", "key"}:
            return name
        return (
            format_id("proj", self.projects[name])
            if kind == "project"
            else format_id("key", self.keys[name])
        )


class House:
    """An installation with its processes, and everybody's way into it."""

    def __init__(self, installed: Installation, session: aiohttp.ClientSession) -> None:
        self.installed = installed
        self.urls: list[str] = []
        self.console = ""
        self._admin = ""
        self._session = session
        self._sent = 0

    async def open(self) -> None:
        """Start two gateways and a console, and have everything written down."""
        spawn = self.installed.spawn
        *gateways, console = await asyncio.gather(
            spawn("gateway"), spawn("gateway"), spawn("console")
        )
        self.urls = [gateway.url for gateway in gateways]
        self.console = console.url
        async with await self.connector().connect() as connection:
            self._admin = (await _administration(connection).create_management_key("limits")).text
        await asyncio.to_thread(install_log, self.installed.dsn)

    def connector(self) -> Connector:
        """A way into the database."""
        return Connector(self.installed.dsn, name="test")

    async def tenant(self, name: str, credit: int, *, zone: str = "UTC") -> Tenant:
        """A new organisation with credit that does not end."""
        projects, keys, secrets = {}, {}, {}
        async with await self.connector().connect() as connection:
            people = _administration(connection)
            organization = await people.create_organization(name, zone=zone)
            for project_name in ("main", "side"):
                project = await people.create_project(project_name, organization.id)
                key = await people.create_key(project_name, project.id)
                projects[project_name], keys[project_name] = project.id, key.id
                secrets[project_name] = key.text
        ((now,),) = await self.installed.rows("SELECT farebox_now()")
        granted = await self.installed.command(
            GrantCredit(
                organization_id=organization.id,
                grant_id=uuid7(now, os.urandom(10)),
                source=Source.GRANT,
                amount=Nanos(credit),
                default_expiry=False,
                reference="a test",
            )
        )
        assert isinstance(granted, Granted), granted
        return Tenant(organization.id, name, zone, credit, projects, keys, secrets)

    # The native API.

    async def set_limit(self, tenant: Tenant, **order: Any) -> dict[str, Any]:
        """Set a limit, or change the one that stands."""
        kind = order.get("scope_kind", "organization")
        order["scope_id"] = tenant.scope_id(kind, order.pop("scope_name", ""))
        if order.get("measure", "money") == "money":
            for name in ("maximum", "raised_to"):
                if isinstance(order.get(name), int):
                    order[name] = format_amount(order[name])
        status, answer = await self._manage("PUT", f"{_path(tenant)}/limits", order)
        assert status == 200, answer
        return dict(answer)

    async def remove_limit(self, tenant: Tenant, limit_id: str) -> None:
        """Take a limit away."""
        status, answer = await self._manage("DELETE", f"{_path(tenant)}/limits/{limit_id}")
        assert status == 204, answer

    async def shown_limits(self, tenant: Tenant) -> list[dict[str, Any]]:
        """Every limit with its figures, as the API shows them."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            more = f"&cursor={cursor}" if cursor else ""
            status, page = await self._manage("GET", f"{_path(tenant)}/limits?limit=100{more}")
            assert status == 200, page
            found += page["data"]
            cursor = page["next_cursor"]
            if not cursor:
                return found

    async def shown_call(self, call_id: UUID) -> dict[str, Any]:
        """A call's explanation."""
        status, answer = await self._manage("GET", f"/calls/{format_id('req', call_id)}")
        assert status == 200, answer
        return dict(answer)

    async def _manage(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(
            method,
            f"{self.console}/api/v1{path}",
            headers={"authorization": f"Bearer {self._admin}"},
            json=body,
        ) as response:
            text = await response.read()
            return response.status, json.loads(text) if text else None

    # The command line.

    async def command(self, *arguments: str) -> Any:
        """Run ``farebox``, a process of its own; gives its document."""
        environment = {
            **os.environ,
            "FAREBOX_HOME": str(self.installed.home),
            "DATABASE_URL": str(self.installed.database_url),
            "PYTHONPATH": str(ROOT / "src"),
        }
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "farebox", *arguments, "--json"],
            env=environment,
            cwd=self.installed.home,
            capture_output=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    async def advance(self, by: timedelta) -> None:
        """Move the sandbox's clock forwards, as ``farebox clock advance`` does."""
        async with await self.connector().connect() as connection:
            await advance_clock(connection, by)

    # Calls.

    async def call(self, tenant: Tenant, order: Order) -> Told:
        """Make one call, at each gateway in turn; again where there was no decision."""
        self._sent += 1
        url = self.urls[self._sent % len(self.urls)]
        while True:
            told = await self._call(url, tenant, order)
            if told.code != "billing_unavailable":
                return told
            await asyncio.sleep(UNAVAILABLE_SECONDS)

    async def _call(self, url: str, tenant: Tenant, order: Order) -> Told:
        key = tenant.secrets[order.labels.get("key", "main")]
        async with self._session.post(
            f"{url}/v1/chat/completions",
            data=order.body(),
            headers={
                "authorization": f"Bearer {key}",
                "content-type": "application/json",
                **order.headers(),
            },
        ) as response:
            text = await response.read()
            headers = {name.lower(): value for name, value in response.headers.items()}
            call_id = parse_id("req", headers["x-request-id"], field="x-request-id")
            if response.status != 200:
                error = json.loads(text)["error"]
                return Told(
                    order,
                    response.status,
                    headers,
                    call_id,
                    code=str(error["code"]),
                    kind=error["type"],
                    message=error["message"],
                )
        if order.stream:
            assert text.rstrip().endswith(b"data: [DONE]"), text[-300:]
            (cost,) = re.findall(rb'"cost":\s*([0-9.]+)', text)
            charge = parse_amount(cost.decode(), field="cost")
        else:
            charge = parse_amount(headers["x-farebox-charge"], field="charge")
        return Told(order, 200, headers, call_id, charge)


def _path(tenant: Tenant) -> str:
    return f"/organizations/{format_id('org', tenant.id)}"


def _administration(connection: Any) -> Administration:
    return Administration(PostgresTenantStore(connection), chance=os.urandom, key_kind=KeyKind.TEST)


@asynccontextmanager
async def house(durable: DurableServer, home: Path) -> AsyncIterator[House]:
    """A house of its own; at the end no hold is open, nothing is aside and the books agree."""
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS_MAX)
    connections = aiohttp.TCPConnector(limit=0)
    async with (
        durable.installation(home) as installed,
        aiohttp.ClientSession(connector=connections, timeout=timeout) as session,
    ):
        made = House(installed, session)
        await made.open()
        yield made
        await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        await installed.assert_books_clean()
