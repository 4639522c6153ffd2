"""Where the time of a call goes: the gateway in this process, with a clock at its seams.

``python -m bench.breakdown [--connections 1] [--stream] [--seconds 5] [--profile FILE]``. The
product has no code for this: its seams (the server, the bookkeeper, the batch store, the
exchange with PostgreSQL, the upstream) are wrapped from here. A seam costs about a microsecond.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec

from bench.database import bundled, scratch
from bench.figures import Cell, percentile, table
from bench.installation import Installation, install
from bench.machine import machine_facts, postgres_facts
from bench.processes import free_port, pin, python
from bench.targets import LOAD_CORE, TARGET_CORE, direct
from farebox.assembly.database import OpenDatabase
from farebox.assembly.gateway import GatewayProcess
from farebox.assembly.processes import spare_the_collector
from farebox.assembly.serving import Servers, bind
from farebox.gateway.server_connection import Connection
from farebox.ledger.decide import decide
from farebox.operations.bookkeeper import Bookkeeper
from farebox.providers.arriving import ArrivingAnswer
from farebox.providers.openai_compatible import OpenAICompatibleUpstream
from farebox.storage import batch_store
from farebox.storage.exchange import Exchange
from farebox.storage.writing import statements

WARM_UP_SECONDS: Final = 2.0

Call = Callable[..., Awaitable[Any]]


class Clock:
    """Seconds by seam."""

    def __init__(self) -> None:
        self.spans: dict[str, list[float]] = defaultdict(list)
        self.kind = ""
        self.finishing = False
        """Whether the batch under way is on its way to its commit."""

    def timed(self, call: Call, name: Callable[..., str]) -> Call:
        """The same call, timed under a name that is told by its arguments."""

        async def measured(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return await call(*args, **named)
            finally:
                self.spans[name(*args)].append(time.perf_counter() - began)

        return measured

    def timed_now(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same for a call that waits for nothing."""

        def measured(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **named)
            finally:
                self.spans[f"{self.kind}: {name}"].append(time.perf_counter() - began)

        return measured

    def begin(self, _: object, commands: Sequence[object], **__: object) -> str:
        """A batch begins; it is called after its first command."""
        self.kind, self.finishing = type(commands[0]).__name__, False
        return f"{self.kind}: batch"

    @property
    def waiting_for(self) -> str:
        """What the batch under way waits for now."""
        return f"{self.kind}: wait for {'its commit' if self.finishing else 'its rows'}"


@contextmanager
def seams(clock: Clock) -> Iterator[None]:
    """Wrap the product's seams."""
    run = batch_store.PostgresBatchStore.run
    ready = Exchange._ready  # noqa: SLF001 - the one place where a lane waits for its socket

    async def batch(self: Any, commands: Sequence[Any], **named: Any) -> Any:
        name = clock.begin(self, commands)
        began = time.perf_counter()
        try:
            return await run(self, commands, **named)
        finally:
            clock.spans[name].append(time.perf_counter() - began)

    def finishing(finish: Call) -> Call:
        async def finishing(*args: Any, **named: Any) -> Any:
            clock.finishing = True
            return await finish(*args, **named)

        return finishing

    def drained(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        return clock.timed_now(lambda *a: list(call(*a)), name)

    serve = Connection._serve  # noqa: SLF001 - the server's one task for a request

    patches: tuple[AbstractContextManager[Any], ...] = (
        patch.object(
            Connection,
            "_serve",
            clock.timed(serve, lambda *_: "gateway: from head to last byte"),
        ),
        patch.object(Bookkeeper, "submit", clock.timed(Bookkeeper.submit, _submitted)),
        patch.object(batch_store.PostgresBatchStore, "run", batch),
        patch.object(batch_store, "decide", clock.timed_now(decide, "decide")),
        patch.object(batch_store, "statements", drained(statements, "statements")),
        patch.object(batch_store, "_finish", finishing(batch_store._finish)),  # noqa: SLF001 - seams
        patch.object(batch_store, "_finish_if", finishing(batch_store._finish_if)),  # noqa: SLF001 - seams
        patch.object(Exchange, "_ready", clock.timed(ready, lambda *_: clock.waiting_for)),
        patch.object(
            OpenAICompatibleUpstream,
            "send",
            clock.timed(OpenAICompatibleUpstream.send, lambda *_: "upstream: until its head"),
        ),
        patch.object(
            ArrivingAnswer,
            "read",
            clock.timed(ArrivingAnswer.read, lambda *_: "upstream: its body"),
        ),
    )
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def _submitted(_: object, command: object) -> str:
    return f"{type(command).__name__}: from submission to answer"


async def measure(
    installation: Installation, args: argparse.Namespace, clock: Clock
) -> dict[str, Any]:
    """Serve in this process and load it from another."""
    gateway = GatewayProcess(OpenDatabase(installation.dsn, None), installation.home)
    servers, port = Servers(), free_port()
    await servers.serve(await gateway.start(), bind("127.0.0.1", port, variable="port"))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    try:
        await _load(url, installation.key, args, WARM_UP_SECONDS)
        clock.spans.clear()
        spare_the_collector()
        profiler = cProfile.Profile() if args.profile else None
        before = time.process_time()
        if profiler:
            profiler.enable()
        report = await _load(url, installation.key, args, args.seconds)
        if profiler:
            profiler.disable()
            profiler.dump_stats(args.profile)
        report["cpu_us_a_call"] = round(
            (time.process_time() - before) * 1e6 / report["requests"], 1
        )
        return report
    finally:
        await servers.aclose()
        await gateway.aclose()


async def _load(url: str, key: str, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *python("bench.load", url, f"--key={key}", f"--seconds={seconds}"),
        f"--connections={args.connections}",
        f"--bytes={args.bytes}",
        *(["--stream"] if args.stream else []),
        stdout=subprocess.PIPE,
        preexec_fn=lambda: pin(LOAD_CORE),
    )
    output, _ = await process.communicate()
    return msgspec.json.decode(output, type=dict[str, Any])


def parts(clock: Clock, report: dict[str, Any]) -> list[tuple[str, float]]:
    """The parts of a call by their medians; they add up to what the client saw."""
    median = {name: statistics.median(spans) * 1e6 for name, spans in clock.spans.items()}
    whole = median["gateway: from head to last byte"]
    upstream = median["upstream: until its head"] + median.get("upstream: its body", 0.0)
    found = [("sockets and the HTTP server, both ways", report["p50_us"] - whole)]
    ours = whole - upstream
    for kind in ("Admit", "Settle"):
        calls = len(clock.spans[f"{kind}: batch"])
        submitted = median[f"{kind}: from submission to answer"]
        ours -= submitted
        names = [f"{kind}: wait for its rows", f"{kind}: wait for its commit"]
        # What a lane remembers it does not read; then there is one wait.
        waits = [(name, median[name]) for name in names if len(clock.spans[name]) * 2 > calls]
        work = [(name, median[name]) for name in (f"{kind}: decide", f"{kind}: statements")]
        batch = median[f"{kind}: batch"]
        rest = batch - sum(value for _, value in (*waits, *work))
        found += [
            *waits,
            *work,
            (f"{kind}: sending and reading rows", rest),
            (f"{kind}: queue and wake-ups", submitted - batch),
        ]
    return [
        *found,
        ("upstream hop", upstream),
        ("the rest: parse, rate, ceiling, price, relay", ours),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--folder", type=Path, help="on which disk the database lies")
    parser.add_argument("--profile", help="also write a cProfile capture here (slows it down)")
    args = parser.parse_args()
    clock = Clock()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        server = bundled(stack, folder / "home")
        conditions = {**machine_facts(folder), "postgresql": postgres_facts(server.dsn)}
        installation = install(server.dsn, folder / "home", direct(stack, folder).url)
        pin(TARGET_CORE)  # after PostgreSQL, which stays free
        conditions["postgresql_cores"] = sorted(os.sched_getaffinity(server.pid))
        stack.enter_context(seams(clock))
        import uvloop

        report = uvloop.run(measure(installation, args, clock))
    print(json.dumps(conditions, indent=1))
    print(json.dumps(report))
    rows: list[Sequence[Cell]] = [
        (name, len(spans), *(round(percentile(spans, p) * 1e6, 1) for p in (50, 75, 95)))
        for name, spans in sorted(clock.spans.items())
    ]
    print(table(("seam", "times", "p50 us", "p75 us", "p95 us"), rows))
    if args.connections == 1:
        whole = report["p50_us"]
        print(f"\nA call of {whole:,} us (median), by the medians of its parts:\n")
        shares = [(n, round(us, 1), round(us * 100 / whole, 1)) for n, us in parts(clock, report)]
        print(table(("part", "us", "%"), shares))


if __name__ == "__main__":
    main()
