"""A console on a test database: its process, a person who may sign in, and money that moves."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from os import urandom
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx2
import psycopg
import pytest
import uvicorn
from typing_extensions import override

from farebox.assembly.console import ConsoleProcess
from farebox.assembly.database import OpenDatabase
from farebox.console.api.openapi import describe
from farebox.console.passwords import SALT_BYTES, hash_password
from farebox.kit.ids import format_id, uuid7
from farebox.kit.money import Nanos, parse_amount, price_half_even
from farebox.ledger.commands import (
    Admit,
    Admitted,
    AnyCommand,
    GrantCredit,
    LineItem,
    Release,
    Settle,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.holds import Dimensions
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.tenancy_store import put_console_user

EMAIL: Final = "ada@example.org"
PASSWORD: Final = "a long enough password"
ORIGIN: Final = "http://console.test"

INPUT_PRICE: Final = 2_500_000_000
OUTPUT_PRICE: Final = 15_000_000_000
"""Nanos per million tokens."""

_T = TypeVar("_T")

_describe_once: Final = cache(describe)
"""The API's description depends on its table of routes alone, and takes most of a start."""

_TOKEN: Final = re.compile(r'name="form_token" value="([^"]+)"')


@cache
def _password_hash() -> str:
    """Hashed once: it is slow on purpose."""
    return hash_password(PASSWORD, bytes(SALT_BYTES))


class _TestDatabase(OpenDatabase):
    """The test server does not sync its disk, which a real one must."""

    @override
    def connector(self, name: str) -> Connector:
        return Connector(self.dsn, name=name, durable=False)


@asynccontextmanager
async def running_console(dsn: str, home: Path, **options: Any) -> AsyncIterator[Any]:
    """The console's application on that database, with :data:`EMAIL` among its people."""
    process = ConsoleProcess(_TestDatabase(dsn, None), home, **options)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("farebox.console.app.describe", _describe_once)
            app = await process.start()
        connection = await Connector(dsn, name="test", durable=False).connect()
        async with connection:
            await put_console_user(
                connection, user_id=_new_id(), email=EMAIL, password_hash=_password_hash()
            )
        yield app
    finally:
        await process.aclose()


@contextmanager
def serving_console(dsn: str, home: Path, **options: Any) -> Iterator[str]:
    """The same on a socket, in a thread with a loop of its own; gives its address."""
    ready: Future[uvicorn.Server] = Future()
    # Listening already: whoever comes before the server is ready waits in the queue.
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def serve() -> None:
            async with running_console(dsn, home, **options) as app:
                config = uvicorn.Config(
                    app, log_level="warning", lifespan="off", server_header=False
                )
                server = uvicorn.Server(config)
                ready.set_result(server)
                await server.serve(sockets=[listening])

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:
                if not ready.done():
                    ready.set_exception(error)
                raise

        thread = threading.Thread(target=run)
        thread.start()
        try:
            server = ready.result(30)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            server.should_exit = True
        finally:
            thread.join(30)


def run_apart(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine from a test whose own thread is busy with the browser's loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Visitor(httpx2.AsyncClient):
    """A browser without scripts."""

    def __init__(self, app: Any, *, origin: str = ORIGIN, address: str = "192.0.2.7") -> None:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=(address, 5000))
        super().__init__(transport=transport, base_url=origin)

    async def form(self, path: str) -> str:
        """The form token of a page."""
        match = _TOKEN.search((await self.get(path)).text)
        assert match is not None, path
        return match[1]

    async def sign_in(
        self, email: str = EMAIL, password: str = PASSWORD, *, to: str = ""
    ) -> httpx2.Response:
        """Fill the form in and send it."""
        form = {
            "form_token": await self.form("/sign-in"),
            "email": email,
            "password": password,
            "to": to,
        }
        return await self.post("/sign-in", data=form, headers={"origin": str(self.base_url)})


class Payer:
    """An organisation with a project and a key, whose money moves through the real engine."""

    def __init__(self, dsn: str, name: str = "Acme", *, currency: str = "USD") -> None:
        self.dsn = dsn
        self.id, self.project_id, self.key_id = _new_id(), _new_id(), _new_id()
        self.node_id, self.price_id, self.account_id = _new_id(), _new_id(), _new_id()
        with psycopg.connect(dsn, autocommit=True) as sql:
            sql.execute(
                "INSERT INTO organization (id, name, currency) VALUES (%s, %s, %s)",
                (self.id, name, currency),
            )
            sql.execute(
                "INSERT INTO project (id, organization_id, name) VALUES (%s, %s, 'search')",
                (self.project_id, self.id),
            )
            sql.execute(
                "INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix)"
                " VALUES (%s, %s, %s, 'laptop', %s, 'fbx_test_1111')",
                (self.key_id, self.id, self.project_id, urandom(32)),
            )
            sql.execute("INSERT INTO node (id, epoch, name) VALUES (%s, 1, 'n')", (self.node_id,))

    @property
    def path(self) -> str:
        """Its page."""
        return f"/organizations/{format_id('org', self.id)}"

    async def send(self, *commands: AnyCommand) -> list[Any]:
        """Have commands decided, one batch."""
        store = PostgresBatchStore(Connector(self.dsn, name="test", durable=False))
        try:
            return list(await store.run(list(commands), resent=False))
        finally:
            await store.aclose()

    async def grant(
        self,
        amount: str,
        source: Source = Source.PURCHASED,
        *,
        expires_in: timedelta | None = timedelta(days=200),
    ) -> UUID:
        """Give credit."""
        grant_id = _new_id()
        command = GrantCredit(
            organization_id=self.id,
            grant_id=grant_id,
            source=source,
            amount=parse_amount(amount),
            expires_at=None if expires_in is None else self._now() + expires_in,
            default_expiry=False,
        )
        await self.send(command)
        return grant_id

    async def admit(self, fixed: str, *, model: str = "gpt-5.4", streamed: bool = False) -> UUID:
        """Begin a call that holds so much."""
        call_id = _new_id()
        result = await self.ask(fixed, call_id=call_id, model=model, streamed=streamed)
        assert isinstance(result, Admitted), result
        return call_id

    async def ask(
        self,
        fixed: str,
        *,
        call_id: UUID | None = None,
        model: str = "gpt-5.4",
        streamed: bool = False,
    ) -> Any:
        """Ask for a call that holds so much; gives what the engine says."""
        admit = Admit(
            organization_id=self.id,
            call_id=call_id or _new_id(),
            node_id=self.node_id,
            epoch=1,
            catalogue_revision=1,
            fixed=parse_amount(fixed),
            output_price=0,
            output_min=1,
            output_max=1,
            latest_end_after=timedelta(minutes=10),
            dimensions=Dimensions(
                self.project_id, self.key_id, "", "production", model, "standard", "chat"
            ),
            price_id=self.price_id,
            upstream_account_id=self.account_id,
            streamed=streamed,
        )
        (result,) = await self.send(admit)
        return result

    async def settle(self, call_id: UUID, input_tokens: int, output_tokens: int) -> Nanos:
        """End a call with that usage; gives what it metered."""
        lines = tuple(
            LineItem(unit, count, price, price_half_even(count, price))
            for unit, count, price in (
                ("input", input_tokens, INPUT_PRICE),
                ("output", output_tokens, OUTPUT_PRICE),
            )
        )
        metered = Nanos(sum(line.amount for line in lines))
        settle = Settle(
            organization_id=self.id,
            call_id=call_id,
            metered=metered,
            cost=metered,
            lines=lines,
            usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
            latency_ms=1_234,
        )
        await self.send(settle)
        return metered

    async def release(self, call_id: UUID, reason: str) -> None:
        """End a call that cost nothing."""
        await self.send(Release(organization_id=self.id, call_id=call_id, reason=reason))

    def refuse(self, code: str, *, model: str = "gpt-5.4", times: int = 1) -> UUID:
        """Record a refusal, as the gateway does."""
        refusal_id = _new_id()
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            sql.execute(
                "INSERT INTO refusal (id, organization_id, project_id, key_id, code, message,"
                " model, endpoint, needed_nanos, available_nanos, held_nanos, times)"
                " VALUES (%s, %s, %s, %s, %s, '', %s, 'chat', 1, 0, 0, %s)",
                (refusal_id, self.id, self.project_id, self.key_id, code, model, times),
            )
        return refusal_id

    def advance_clock(self, by: timedelta) -> None:
        """Move the sandbox's clock on."""
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            sql.execute("UPDATE deployment SET clock_offset = clock_offset + %s", (by,))

    def _now(self) -> datetime:
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            row = sql.execute("SELECT farebox_now()").fetchone()
        assert row is not None
        now: datetime = row[0]
        return now.astimezone(UTC)


def _new_id() -> UUID:
    return uuid7(datetime.now(UTC), urandom(10))
