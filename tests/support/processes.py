"""Farebox as it runs: real processes on a real PostgreSQL, to be killed, paused and watched.

An :class:`Installation` is a sandbox with all it needs, and the processes that a test starts on it.
What a test does to them is signals and SQL; what it learns it learns over HTTP and from rows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import psycopg

from farebox.assembly.database import OpenDatabase, open_database
from farebox.assembly.sandbox import prepare_sandbox
from farebox.kit.ids import parse_id, uuid7
from farebox.kit.money import Nanos
from farebox.ledger.commands import AnyCommand, GrantCredit, Result, SetFloor
from farebox.ledger.grants import Source
from farebox.operations.administration import Administration
from farebox.operations.check_books import BooksReport, check_books
from farebox.settings import Settings
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from farebox.storage.migrate import migrate
from farebox.storage.tenancy_store import PostgresTenantStore
from farebox.system.postgres.place import Place, place_of
from farebox.system.postgres.server import RunningServer
from farebox.system.postgres.watch import members, running_postmaster
from farebox.tenancy.api_keys import KeyKind

ROOT = Path(__file__).resolve().parents[2]

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
BACK_SECONDS_MAX = 60.0
"""How long a database that was killed may take to come back, on a machine with much else to do."""

RESTARTS_MAX = 10

_MEMORY = Path("/dev/shm")

_T = TypeVar("_T")


class FareboxProcess:
    """One ``farebox`` command, as an operator would start it."""

    def __init__(
        self, wing: str, home: Path, *, database_url: str | None, source: Path | None = None
    ) -> None:
        """Describe it; ``source`` is the folder of another version's package."""
        self.wing = wing
        self.facts: dict[str, Any] = {}
        self.log = home / f"{wing}-{time.monotonic_ns()}.log"
        self._environment = {
            **os.environ,
            "FAREBOX_HOME": str(home),
            "FAREBOX_GATEWAY_PORT": "0",
            "FAREBOX_CONSOLE_PORT": "0",
            "PYTHONPATH": str(source or ROOT / "src"),
        }
        self._environment.pop("DATABASE_URL", None)
        if database_url is not None:
            self._environment["DATABASE_URL"] = database_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves; blocks for about a second."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "farebox", self.wing, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=self.log.parent,
            )
        self.facts = json.loads(self._first_line())

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.facts[f"{self.wing}_url"])

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_died(self) -> bool:
        """Whether it was started and has ended, though nobody ended it."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL it: no word of farewell."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, and see that it does."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP it: alive for the kernel, silent for everybody else."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT it."""
        os.kill(self.pid, signal.SIGCONT)

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4_000:]

    def _first_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS_MAX)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._end(signal.SIGKILL)
            raise AssertionError(f"farebox {self.wing} did not start:\n{self.last_words()}")
        return line

    def _end(self, order: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with suppress(ProcessLookupError):
                process.send_signal(order)
                process.send_signal(signal.SIGCONT)
            process.wait(STOP_SECONDS_MAX)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@dataclass(frozen=True, slots=True)
class Customer:
    """An organisation with a project and a key that opens it."""

    organization_id: UUID
    project_id: UUID
    key_id: UUID
    key: str


@dataclass
class Installation:
    """A sandbox and the processes on it."""

    home: Path
    dsn: str
    database_url: str | None
    """What processes are told; None where they find the bundled server in the home."""
    place: Place
    """Of the server, to kill it."""
    processes: list[FareboxProcess] = field(default_factory=list)

    # Processes.

    async def spawn(
        self, wing: str, *, source: Path | None = None, database_url: str | None = None
    ) -> FareboxProcess:
        """Start a process and wait until it serves."""
        url = database_url or self.database_url
        process = FareboxProcess(wing, self.home, database_url=url, source=source)
        self.processes.append(process)
        await asyncio.to_thread(process.start)
        return process

    async def restart(self, process: FareboxProcess) -> None:
        """Start a process that was ended again: a new node, at a new port.

        One that finds the database away says so and ends; like any supervisor, we try again.
        """
        for tried in range(RESTARTS_MAX):
            try:
                await asyncio.to_thread(process.start)
            except AssertionError:
                if tried == RESTARTS_MAX - 1:
                    raise
                await asyncio.sleep(0.5)
            else:
                return

    async def stop(self) -> None:
        """Stop every process that a test left; none of them may have died by itself."""
        died = [process for process in self.processes if process.has_died]
        await asyncio.gather(*(asyncio.to_thread(process.stop) for process in self.processes))
        assert not died, [(process.wing, process.last_words()) for process in died]

    def server_pids(self) -> list[int]:
        """Every process of the database server."""
        return members(self.place)

    def postmaster_pid(self) -> int | None:
        """The first of them; None while there is none."""
        running = running_postmaster(self.place)
        return None if running is None else running.pid

    # Rows.

    async def rows(self, sql: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask the database, over a connection of its own."""
        async with await psycopg.AsyncConnection.connect(
            self.dsn, autocommit=True, connect_timeout=5
        ) as connection:
            cursor = await connection.execute(sql, parameters or None)
            return await cursor.fetchall() if cursor.description else []

    async def patiently(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Do something with a database that may be away, until it is back."""
        until = time.monotonic() + BACK_SECONDS_MAX
        while True:
            try:
                return await ask()
            except psycopg.Error:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(0.1)

    async def until(self, sql: LiteralString, *parameters: object) -> None:
        """Wait until a query that answers one boolean says true."""
        until = time.monotonic() + BACK_SECONDS_MAX
        while True:
            ((answer,),) = await self.patiently(lambda: self.rows(sql, *parameters))
            if answer:
                return
            assert time.monotonic() < until, f"it never became true: {sql} {parameters}"
            await asyncio.sleep(0.1)

    async def unsee(self, pid: int) -> None:
        """Make a process's node one that was last seen long ago: the sweep need not wait."""
        await self.patiently(
            lambda: self.rows(
                "UPDATE node SET seen_at = clock_timestamp() - interval '61 s' WHERE name LIKE %s",
                f"% {pid}",
            )
        )

    # Money.

    async def customer(self, name: str, credit: Nanos, *, floor: Nanos | None = None) -> Customer:
        """A new organisation with so much purchased credit."""
        connector = self._connector()
        async with await connector.connect() as connection:
            people = Administration(
                PostgresTenantStore(connection), chance=os.urandom, key_kind=KeyKind.TEST
            )
            organization = await people.create_organization(name)
            project = await people.create_project("main", organization.id)
            key = await people.create_key("main", project.id)
        if credit:
            await self.grant(organization.id, credit)
        if floor is not None:
            await self.command(SetFloor(organization_id=organization.id, floor=floor))
        return Customer(organization.id, project.id, key.id, key.text)

    async def grant(self, organization_id: UUID, amount: Nanos, **more: Any) -> Result:
        """Give an organisation credit."""
        ((now,),) = await self.rows("SELECT farebox_now()")
        fields = {"source": Source.PURCHASED, "reference": "a test", **more}
        return await self.command(
            GrantCredit(
                organization_id=organization_id,
                grant_id=uuid7(now, os.urandom(10)),
                amount=amount,
                **fields,
            )
        )

    async def command(self, command: AnyCommand) -> Result:
        """Have the engine decide a command, as another process would."""
        store = PostgresBatchStore(self._connector())
        try:
            (result,) = await store.run([command], resent=False)
        finally:
            await store.aclose()
        return result

    async def books(self) -> BooksReport:
        """Check all books."""

        async def check() -> BooksReport:
            async with await self._connector().connect() as connection:
                return await check_books(PostgresAuditStore(connection))

        return await self.patiently(check)

    async def assert_books_clean(self) -> None:
        """Check all books; say what is wrong with them."""
        report = await self.books()
        assert report.is_clean, "\n".join(f.message for f in report.findings[:20])

    def _connector(self) -> Connector:
        return Connector(self.dsn, name="test")


def url_of(dsn: str) -> str:
    """A connection string in the form that ``DATABASE_URL`` takes."""
    return f"postgresql://?{urlencode(psycopg.conninfo.conninfo_to_dict(dsn))}"


def organization_of(facts: dict[str, Any]) -> UUID:
    """The organisation of a sandbox."""
    return parse_id("org", str(facts["organization_id"]), field="organization_id")


class DurableServer:
    """A server with a kept one's settings, and in it a sandbox to copy for each test."""

    def __init__(self, server: RunningServer, home: Path) -> None:
        """Migrate it, and import the prices once."""
        self.server = server
        self._numbers = itertools.count(1)
        migrate(server.dsn, sandbox=True)
        asyncio.run(prepare_sandbox(Connector(server.dsn, name="test"), home))

    @asynccontextmanager
    async def installation(self, home: Path) -> AsyncIterator[Installation]:
        """A sandbox of its own, reached by ``DATABASE_URL``."""
        name = f"installation_{next(self._numbers)}"
        # By files: PostgreSQL's other way copies sequences so that a crash soon afterwards gives
        # the same numbers again (the copy has no log record of the numbers taken in advance).
        self._administer(
            f"CREATE DATABASE {name} OWNER farebox TEMPLATE farebox STRATEGY file_copy"
        )
        dsn = psycopg.conninfo.make_conninfo(self.server.dsn, dbname=name)
        installed = Installation(home, dsn, url_of(dsn), self.server._place)
        try:
            yield installed
        finally:
            await installed.stop()
            self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    def _administer(self, statement: str) -> None:
        # As the superuser: the server's own vacuum may be at work in what is dropped.
        dsn = self.server.conninfo(database="postgres", user="postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement.encode())


@asynccontextmanager
async def bundled_installation() -> AsyncIterator[Installation]:
    """A sandbox on the home's own server, which its processes supervise."""
    folder = _open_folder()
    home = folder / "home"
    database: OpenDatabase | None = None
    try:
        database = await asyncio.to_thread(open_database, Settings(home=home), sandbox=True)
        await prepare_sandbox(database.connector("test"), home)
        installed = Installation(home, database.dsn, None, place_of(home))
        try:
            yield installed
        finally:
            await installed.stop()
    finally:
        if database is not None:
            await asyncio.to_thread(database.release)
        shutil.rmtree(folder, ignore_errors=True)


def _open_folder() -> Path:
    """A folder that the server's OS user may pass, in memory where there is some."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="fbx-fault-", dir=base)).resolve()
    folder.chmod(0o755)
    return folder
