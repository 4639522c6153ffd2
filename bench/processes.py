"""Processes that are measured: on which core they run, what they take, and that they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_SECONDS: Final = 120.0
"""LiteLLM takes tens of seconds to its first answer on a small machine."""
STOP_SECONDS: Final = 30.0

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process and all that it started hold, in megabytes of 2**20 bytes."""

    resident: float
    """RSS: shared pages counted in full."""
    proportional: float
    """PSS: a page that n processes share counts as an nth."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A running process and where it runs."""

    name: str
    pid: int
    log: Path

    @property
    def cores(self) -> str:
        """The cores that it may run on."""
        return ",".join(map(str, sorted(os.sched_getaffinity(self.pid))))

    def cpu_seconds(self) -> float:
        """Processor time that it and its children have taken."""
        return sum(_cpu(pid) for pid in family(self.pid))

    def memory(self) -> Memory:
        """What it and its children hold now."""
        rollups = [_rollup(pid) for pid in family(self.pid)]
        return Memory(
            round(sum(r.get("Rss", 0) for r in rollups) / 1024, 1),
            round(sum(r.get("Pss", 0) for r in rollups) / 1024, 1),
        )

    def resident_peak_mb(self) -> float:
        """The most that the process itself has held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+)", status)
        return round(int(found[1]) / 1024, 1) if found else 0.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def start(
    stack: ExitStack,
    name: str,
    command: list[str],
    *,
    core: int | None,
    log: Path,
    env: dict[str, str] | None = None,
    port: int | None = None,
) -> Measured:
    """Start a process, on one core where asked; it ends with the stack.

    Args:
        stack: Ends it.
        name: What tables call it.
        command: What runs.
        core: The only core it may run on; None leaves the choice to the kernel.
        log: Where its output goes.
        env: Variables besides ours.
        port: Wait until it listens there.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {})},
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: pin(core),  # noqa: PLW1509 - no thread runs here yet
        )
    stack.callback(_end, process)
    if port is not None:
        _wait_for(port, process, log)
    return Measured(name, process.pid, log)


def pin(core: int | None) -> None:
    """Bind this process to a core; None leaves it as it is."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def family(pid: int) -> list[int]:
    """A process and everything that it started."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    last = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args!r} does not listen on {port}:\n{last}")


def _cpu(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _rollup(pid: int) -> dict[str, int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return {k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return {}
