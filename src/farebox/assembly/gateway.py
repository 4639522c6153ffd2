"""The gateway, put together: one bookkeeper, one node, one catalogue, one handler."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from farebox.assembly.database import OpenDatabase, open_pool
from farebox.assembly.directory import DatabaseDirectory
from farebox.gateway.callers import Callers
from farebox.gateway.desk import Desk, logger
from farebox.gateway.gateway import CallLookup, Gateway
from farebox.gateway.metrics import Metrics
from farebox.gateway.sales import Sales
from farebox.gateway.server import HttpServer
from farebox.kit.errors import NotFoundError, UnavailableError
from farebox.kit.ids import RANDOM_BYTES, uuid7, uuid7_from_millis
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.calls import explain_call
from farebox.operations.content import ContentRecorder
from farebox.operations.key_status import KeyStatuses
from farebox.operations.key_use import KeyUse
from farebox.operations.nodes import HEARTBEAT_SECONDS, Node
from farebox.operations.provider_watch import ProviderWatch
from farebox.operations.refusals import RefusalRecorder
from farebox.operations.request_watch import RequestWatch
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.call_store import PostgresCallStore
from farebox.storage.content_store import PostgresContentWriter
from farebox.storage.key_status_store import PostgresKeyStatusStore
from farebox.storage.key_use_store import PostgresKeyUseStore
from farebox.storage.node_store import Pool, PostgresNodeStore, borrowed
from farebox.storage.provider_watch_store import PostgresProviderWatchStore
from farebox.storage.refusal_store import PostgresRefusalStore
from farebox.storage.request_watch_store import PostgresRequestWatchStore
from farebox.system.clock import unix_millis, unix_seconds
from farebox.system.token_counter import count_o200k, warm_up

LANES: Final = 4
"""Connections that batches travel on (ADR 19)."""
POOL_CONNECTIONS: Final = 8
DRAIN_SECONDS: Final = 20.0
CLOSE_SECONDS: Final = 5.0
"""How long a gateway that stops waits for what it noted beside the money path."""


def new_node_id() -> UUID:
    """An id for a node, by this machine's clock; a call's is by engine time, as its month is."""
    return uuid7_from_millis(unix_millis(), os.urandom(RANDOM_BYTES))


class GatewayProcess:
    """A gateway that runs in this process."""

    def __init__(
        self,
        database: OpenDatabase,
        home: Path,
        *,
        help_url: str = "",
        classic_codes: bool = False,
    ) -> None:
        """Describe it.

        Args:
            database: Where the money is.
            home: Where the key of provider secrets is.
            help_url: What a refusal shows to people: the console's address.
            classic_codes: Give billing refusals one code for every cause (ERR-02).
        """
        self._database = database
        self._home = home
        self._help_url = help_url
        self._classic_codes = classic_codes
        self._stack = AsyncExitStack()
        self.server: HttpServer | None = None

    async def start(self) -> HttpServer:
        """Connect, register, load; gives the server, which listens nowhere yet.

        Raises:
            FareboxError: Something it stands on is away or set up wrongly.
        """
        stack = self._stack
        pool = await open_pool(self._database.connector("gateway"), size=POOL_CONNECTIONS)
        stack.push_async_callback(pool.close)
        stores = [
            PostgresBatchStore(self._database.connector(f"gateway lane {lane}"))
            for lane in range(LANES)
        ]
        bookkeeper = Bookkeeper(stores, monotonic=time.monotonic)
        bookkeeper.start()
        stack.push_async_callback(bookkeeper.aclose)
        refusals = RefusalRecorder(PostgresRefusalStore(pool), monotonic=time.monotonic)
        refusals.start()
        stack.push_async_callback(refusals.aclose)
        content = ContentRecorder(PostgresContentWriter(pool))
        content.start()
        stack.push_async_callback(content.aclose)
        directory = DatabaseDirectory(pool, self._home)
        callers = Callers(directory, monotonic=time.monotonic)
        sales = Sales(directory, monotonic=time.monotonic, on_change=callers.forget)
        await sales.start()
        stack.push_async_callback(sales.aclose)
        await asyncio.to_thread(warm_up)

        def lost() -> None:
            desk.abort_running()

        # Its own connection: however busy the gateway is, the heartbeat never waits in line.
        heart = await open_pool(self._database.connector("heartbeat"), size=1)
        stack.push_async_callback(heart.close)
        node = Node(
            PostgresNodeStore(heart),
            node_id=new_node_id(),
            name=f"{platform.node()} {os.getpid()}",
            monotonic=time.monotonic,
            on_lost=lost,
        )
        desk = Desk(
            bookkeeper=bookkeeper,
            node=node,
            sales=sales,
            metrics=Metrics(
                queued=lambda: bookkeeper.queued,
                waiting=lambda: bookkeeper.waiting,
                refusals_dropped=lambda: refusals.dropped,
                content_dropped=lambda: content.dropped,
                remembered=lambda: sum(store.remembered for store in stores),
                surprises=lambda: sum(store.surprises for store in stores),
                divergences=lambda: sum(store.divergences for store in stores),
            ),
            count_tokens=count_o200k,
            new_call_id=lambda: uuid7(sales.now, os.urandom(RANDOM_BYTES)),
            monotonic=time.monotonic,
            note_refusal=refusals.note,
        )
        desk.help_url = self._help_url
        desk.classic_codes = self._classic_codes
        self._note_beside(desk, pool)
        await node.start()
        stack.push_async_callback(node.aclose)
        stack.push_async_callback(desk.drain, DRAIN_SECONDS)
        reporter = asyncio.create_task(_report(desk))
        stack.callback(reporter.cancel)
        desk.note_content = content.note

        gateway = Gateway(desk, callers, _call_lookup(pool), _key_statuses(pool).of)
        self.server = HttpServer(gateway.handle, refuse=gateway.refuse, unix_seconds=unix_seconds)
        return self.server

    def _note_beside(self, desk: Desk, pool: Pool) -> None:
        """Have noted what is written now and then beside the money path, and at the end."""
        use = KeyUse(PostgresKeyUseStore(pool), monotonic=time.monotonic)
        desk.note_use = use.note
        watch = RequestWatch(PostgresRequestWatchStore(pool), monotonic=time.monotonic)
        desk.note_request = watch.note
        accounts = ProviderWatch(PostgresProviderWatchStore(pool), monotonic=time.monotonic)
        desk.note_exhausted = accounts.note
        stop = asyncio.Event()
        flushes = (use.flush, watch.flush, accounts.flush)
        writers = [asyncio.create_task(_flushing(flush, stop)) for flush in flushes]
        self._stack.push_async_callback(_write_the_rest, writers, stop)

    async def aclose(self) -> None:
        """Finish what runs, retire the node, close everything."""
        await self._stack.aclose()


def _key_statuses(pool: Pool) -> KeyStatuses:
    """Answers to keys that ask what is left of them."""
    return KeyStatuses(PostgresKeyStatusStore(pool), monotonic=time.monotonic)


def _call_lookup(pool: Pool) -> CallLookup:
    """Explains the calls of an organisation to its own keys."""

    async def look_up(organization_id: UUID, call_id: UUID) -> dict[str, object]:
        async with borrowed(pool) as connection:
            found = await explain_call(PostgresCallStore(connection), call_id)
        if found.get("organization_id") != str(organization_id):
            raise NotFoundError("There is no such call.")
        return found

    return look_up


async def _report(desk: Desk) -> None:
    """Have running streams note their use with every heartbeat."""
    while True:
        await asyncio.sleep(HEARTBEAT_SECONDS)
        await desk.report_running()


async def _flushing(flush: Callable[[], Awaitable[int]], stop: asyncio.Event) -> None:
    """Write down now and then what was noted beside the money path, and once more at the end."""
    is_last = False
    while not is_last:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await stop.wait()
        is_last = stop.is_set()
        try:
            await flush()
        except UnavailableError:
            continue  # what was due is written the next time
        except Exception:  # noqa: BLE001 - one odd error must not end it for good
            logger.exception("not_written_down")


async def _write_the_rest(writers: Sequence[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Have written what the last calls left to note, if the database takes it in time."""
    stop.set()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await asyncio.gather(*writers)
