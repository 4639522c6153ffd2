"""A disk that is slow, full or refuses to keep: PostgreSQL stops rather than lie, and so do we.

``strace`` puts faults into the server's own system calls: where it is not installed, or may not
trace, those tests skip and say so. For a log that cannot be written, ``prlimit`` gives the server a
limit on the size of its files.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import Admitted, AnyCommand, Closed, Result
from farebox.operations.batches import BatchStoreLostError
from farebox.operations.bookkeeper import Bookkeeper
from farebox.storage.batch_store import PostgresBatchStore
from farebox.storage.connecting import Connector
from tests.faults.test_connections import till_of
from tests.faults.traffic import Clients, Traffic, assert_charged_once
from tests.support.processes import BACK_SECONDS_MAX, DurableServer, Installation

CREDIT = Nanos(100 * NANOS_PER_UNIT)
ATTACH_SECONDS_MAX = 20.0
CRASHES = 3
CRASHES_SECONDS_MAX = 60.0

LOG_BYTES_MAX = 1024 * 1024
"""A sixteenth of a piece of the server's log: the next commit lies beyond it, or one soon after."""

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="strace is not installed: slow and failing system calls cannot be injected",
)


@contextmanager
def injecting(
    installed: Installation, fault: str, *, calls: str = "fdatasync", paths: Sequence[Path] = ()
) -> Iterator[Path]:
    """Have every process of the server meet a fault in its system calls; gives the trace.

    Args:
        installed: Whose server.
        fault: What strace shall inject.
        calls: In which calls.
        paths: Of which files, where not of all.
    """
    pids = installed.server_pids()
    trace = installed.home / "trace"
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{fault}", *(f"-P{path}" for path in paths)]
    command += [f"-p{pid}" for pid in pids]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        try:
            until = time.monotonic() + ATTACH_SECONDS_MAX
            while not all(_is_traced(pid) for pid in pids):
                if tracer.poll() is not None:
                    assert tracer.stderr is not None
                    pytest.skip(f"strace may not trace here: {tracer.stderr.read().decode()}")
                assert time.monotonic() < until, "strace did not attach"
                time.sleep(0.05)
            yield trace
        finally:
            tracer.send_signal(signal.SIGINT)


def _is_traced(pid: int) -> bool:
    """Whether somebody traces it; what has ended meanwhile need not be."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return True
    return "\nTracerPid:\t0\n" not in status


@asynccontextmanager
async def kept_running(durable: DurableServer) -> AsyncIterator[None]:
    """Start the server again where it gave up altogether, as its supervisor would."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(durable.server.ensure_running)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await asyncio.to_thread(durable.server.ensure_running)


async def run_again(store: PostgresBatchStore, command: AnyCommand) -> Result:
    """Send a command again until the server is back and answers."""
    until = time.monotonic() + BACK_SECONDS_MAX
    while True:
        try:
            (result,) = await store.run([command], resent=True)
        except BatchStoreLostError:
            assert time.monotonic() < until, "the server never came back"
            await asyncio.sleep(0.1)
        else:
            return result


@contextmanager
def unable_to_write_far(installed: Installation, bytes_max: int) -> Iterator[None]:
    """Let no process of the server write beyond so many bytes of any file for a while."""
    _limit_files(installed, f"{bytes_max}")
    try:
        yield
    finally:
        _limit_files(installed, "unlimited")


def _limit_files(installed: Installation, size: str) -> None:
    """Set the soft limit of those that run; of a process that has ended meanwhile it fails."""
    for pid in installed.server_pids():
        subprocess.run(
            ["prlimit", f"--pid={pid}", f"--fsize={size}:"],
            check=False,
            stderr=subprocess.DEVNULL,
            **installed.place.owner.identity(),
        )


async def crashes(installed: Installation) -> None:
    """Wait until the server has ended all that it did: a crash spares two of its processes."""
    before = {*installed.server_pids()}
    until = time.monotonic() + CRASHES_SECONDS_MAX
    while len(before & {*installed.server_pids()}) > len(("postmaster", "logger")):
        assert time.monotonic() < until, "the server took no notice"
        await asyncio.sleep(0.1)


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "EROFS"])
async def test_an_error_that_ends_the_server_leaves_the_commit_in_doubt(
    durable: DurableServer, tmp_path: Path, error: str
) -> None:
    """ENGINE "Idempotency": whatever class the disk's error has, the commit may be there."""
    async with durable.installation(tmp_path) as installed, kept_running(durable):
        till = await till_of(installed)
        await installed.command(till.grant(100))
        store = PostgresBatchStore(Connector(installed.dsn, name="lane"))
        try:
            await store.run([till.admit(1)], resent=False)  # connected before the fault is there
            admit = till.admit(20)
            with injecting(installed, f"error={error}:when=1"), pytest.raises(BatchStoreLostError):
                await store.run([admit], resent=False)
            assert isinstance(await run_again(store, admit), Admitted)
        finally:
            await store.aclose()
        assert await installed.rows(
            "SELECT amount_nanos FROM hold WHERE call_id = %s", admit.call_id
        ) == [(20,)]


async def callers_meet(
    durable: DurableServer, home: Path, trouble: Callable[[Installation], Awaitable[None]]
) -> None:
    """Callers go on through some trouble; each call is charged once, with what was answered."""
    async with durable.installation(home) as installed, kept_running(durable):
        till = await till_of(installed)
        await installed.command(till.grant(1_000_000))
        lanes = [PostgresBatchStore(Connector(installed.dsn, name=f"lane {n}")) for n in range(2)]
        bookkeeper = Bookkeeper(lanes, monotonic=time.monotonic)
        bookkeeper.start()
        enough = asyncio.Event()
        charges: list[int] = []

        async def caller(number: int) -> None:
            while not enough.is_set():
                admit = till.admit(20)
                admitted = await bookkeeper.submit(admit)
                assert isinstance(admitted, Admitted), admitted
                closed = await bookkeeper.submit(till.settle(admit, metered=number))
                assert isinstance(closed, Closed), closed
                charges.append(closed.charge)
                await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller(number)) for number in range(10)]
        try:
            await trouble(installed)
        finally:
            enough.set()
            ended = await asyncio.gather(*callers, return_exceptions=True)
            await bookkeeper.aclose()
        assert [error for error in ended if error is not None] == []
        assert await installed.patiently(
            lambda: installed.rows(
                "SELECT count(*), sum(charge_nanos)::bigint FROM call WHERE organization_id = %s",
                till.organization_id,
            )
        ) == [(len(charges), sum(charges))]
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        assert await installed.rows("SELECT call_id FROM hold") == []
        await installed.assert_books_clean()


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "EROFS"])
async def test_a_failed_fsync_is_in_doubt(
    durable: DurableServer, tmp_path: Path, error: str
) -> None:
    """ENGINE "The server it stands on": a commit that could not be kept may be there all the same.

    The server ends itself with an error of whatever class the disk's is, and the log may hold the
    commit when it is back: the same commands are asked about, not done again.
    """

    async def trouble(installed: Installation) -> None:
        with injecting(installed, f"error={error}:when=2") as trace:
            until = time.monotonic() + CRASHES_SECONDS_MAX
            while trace.read_text().count("INJECTED") < CRASHES:
                assert time.monotonic() < until, "the server did not crash often enough"
                await asyncio.sleep(0.1)

    await callers_meet(durable, tmp_path, trouble)


@pytest.mark.skipif(
    shutil.which("prlimit") is None,
    reason="prlimit is not installed: no limit for a running server",
)
async def test_a_log_that_cannot_be_written(durable: DurableServer, tmp_path: Path) -> None:
    """ENGINE "Idempotency": a server that ends because its log is full is asked again when back."""

    async def trouble(installed: Installation) -> None:
        with unable_to_write_far(installed, LOG_BYTES_MAX):
            await crashes(installed)

    await callers_meet(durable, tmp_path, trouble)


@needs_strace
async def test_a_disk_that_is_full(durable: DurableServer, tmp_path: Path) -> None:
    """ENGINE "Idempotency": where a table cannot grow nothing is committed, until it can."""

    async def trouble(installed: Installation) -> None:
        tables = await installed.rows(
            "SELECT current_setting('data_directory') || '/' || pg_relation_filepath(c.oid)"
            " FROM pg_class c WHERE relname IN ('hold', 'posting', 'rollup_hour')"
            " OR relname LIKE 'call\\_%%' AND relkind = 'r'"
        )
        paths = [Path(path) for (path,) in tables]
        calls = "pwrite64,pwritev,fallocate"
        with injecting(installed, "error=ENOSPC", calls=calls, paths=paths) as trace:
            until = time.monotonic() + CRASHES_SECONDS_MAX
            while trace.read_text().count("INJECTED") < CRASHES:
                assert time.monotonic() < until, "no table had to grow"
                await asyncio.sleep(0.1)

    await callers_meet(durable, tmp_path, trouble)


async def slow(durable: DurableServer, home: Path, *, fault: str, seconds: float) -> None:
    """Traffic through a gateway while the disk takes its time."""
    async with durable.installation(home) as installed, kept_running(durable):
        customer = await installed.customer("acme", CREDIT)
        gateway = await installed.spawn("gateway")
        async with Clients(customer) as clients:
            traffic = Traffic(clients, lambda: [gateway.url], random.Random(1))
            with injecting(installed, fault) as trace:
                traffic.start(8)
                await asyncio.sleep(seconds)
            assert "DELAYED" in trace.read_text()
            await traffic.stop()
            assert (await clients.call(gateway.url, 40, stream=False)).is_whole
        assert traffic.whole(), traffic.tally()
        assert {o.status for o in traffic.outcomes} <= {0, 200, 503}, traffic.tally()
        await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        await assert_charged_once(installed, customer.organization_id, traffic.whole())
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        await installed.assert_books_clean()


@needs_strace
async def test_a_slow_disk(durable: DurableServer, tmp_path: Path) -> None:
    """DESIGN promise 2: with 50 ms for each flush, everybody waits longer and is charged once."""
    await slow(durable, tmp_path, fault="delay_exit=50000", seconds=2.0)


@needs_strace
@pytest.mark.long
async def test_a_disk_that_stands_still(durable: DurableServer, tmp_path: Path) -> None:
    """ENGINE "Idempotency": a flush of 18 s is given up, asked about on another connection, kept.

    Longer than a batch may take, and than anybody waits for a lock.
    """
    await slow(durable, tmp_path, fault="delay_exit=18000000:when=20+40", seconds=90.0)
