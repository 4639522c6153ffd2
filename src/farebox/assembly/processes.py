"""The wings of one process: database first, then gateway, console and worker as asked for."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from farebox.assembly.database import OpenDatabase, open_database
from farebox.assembly.serving import Servers, bind, url
from farebox.kit.errors import FareboxError
from farebox.settings import CONSOLE_PORT_VARIABLE, GATEWAY_PORT_VARIABLE, Settings
from farebox.system.open_files import allow_open_files

SUPERVISE_SECONDS: Final = 2.0

GARBAGE_OBJECTS: Final = 20_000
"""Objects made and not freed before circles are looked for; some ten megabytes at most."""
_OLDER_GENERATIONS: Final = (10, 5)

Ready = Callable[[dict[str, Any]], None]


def run_processes(settings: Settings, wings: Sequence[str], ready: Ready) -> None:
    """Run wings until a signal; ``ready`` hears the facts when all of them serve.

    Raises:
        FareboxError: Something stands in the way; the message says what and what to do.
    """
    _log_to_stderr()
    allow_open_files()
    # Until the servers listen for it: a stop in the middle of starting still cleans up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sockets: dict[str, socket.socket] = {}
    if "gateway" in wings:
        sockets["gateway"] = bind(
            settings.gateway_host, settings.gateway_port, variable=GATEWAY_PORT_VARIABLE
        )
    if "console" in wings:
        sockets["console"] = bind(
            settings.console_host, settings.console_port, variable=CONSOLE_PORT_VARIABLE
        )
    database = open_database(settings, sandbox=settings.sandbox or None)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, wings, sockets, database, ready))
    finally:
        database.release()


async def _run(
    settings: Settings,
    wings: Sequence[str],
    sockets: dict[str, socket.socket],
    database: OpenDatabase,
    ready: Ready,
) -> None:
    facts: dict[str, Any] = {f"{name}_url": url(sock) for name, sock in sockets.items()}
    if settings.sandbox:
        from farebox.assembly.sandbox import prepare_sandbox  # noqa: PLC0415

        facts |= await prepare_sandbox(database.connector("sandbox"), settings.home)
    servers = Servers()
    async with AsyncExitStack() as stack:
        keeper = asyncio.create_task(_keep_database(database))
        stack.callback(keeper.cancel)
        if "worker" in wings:
            from farebox.assembly.worker import WorkerProcess  # noqa: PLC0415

            worker = WorkerProcess(database)
            stack.push_async_callback(worker.aclose)
            await worker.start()
        if "gateway" in wings:
            from farebox.assembly.gateway import GatewayProcess  # noqa: PLC0415

            help_url = settings.console_url or facts.get("console_url", "")
            gateway = GatewayProcess(
                database,
                settings.home,
                help_url=help_url,
                classic_codes=settings.classic_codes,
            )
            stack.push_async_callback(gateway.aclose)
            await servers.serve(await gateway.start(), sockets["gateway"])
        if "console" in wings:
            from farebox.assembly.console import ConsoleProcess  # noqa: PLC0415

            console = ConsoleProcess(database, settings.home)
            stack.push_async_callback(console.aclose)
            await servers.start(await console.start(), sockets["console"])
        # Servers stop before what they stand on.
        stack.push_async_callback(servers.aclose)
        if settings.sandbox:
            from farebox.assembly.ready import write_ready  # noqa: PLC0415

            write_ready(settings.home, facts)
        spare_the_collector()
        ready(facts)
        await servers.until_stopped()


async def _keep_database(database: OpenDatabase) -> None:
    """Supervise a bundled server: one that was killed is started again."""
    logger = structlog.get_logger("farebox.database")
    while True:
        await asyncio.sleep(SUPERVISE_SECONDS)
        try:
            if await asyncio.to_thread(database.ensure_running):
                logger.warning("database_restarted")
        except FareboxError as error:
            logger.warning("database_down", error=error.message)


def spare_the_collector() -> None:
    """Look for garbage in circles seldom, and never in what was there from the beginning.

    A batch makes thousands of rows that die with it, none of them in a circle: with the shipped
    thresholds the search takes a third of the engine's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, *_OLDER_GENERATIONS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed: about a seventh faster; everything works without it."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
