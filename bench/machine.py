"""What a measurement stood on: the machine, the disk, PostgreSQL and the versions of everything."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psycopg

from bench.figures import percentile

PACKAGES: Final = ("uvicorn", "httptools", "uvloop", "aiohttp", "psycopg", "msgspec")

POSTGRES_SETTINGS: Final = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "data_checksums",
)

PROBES: Final = 500
"""Commits, or writes to the disk, that one probe times."""

Conditions = dict[str, object]


def machine_facts(folder: Path) -> Conditions:
    """The machine and the disk that a folder lies on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "disk": filesystem(folder),
        "disk_sync_us": sync_microseconds(folder),
    }


def postgres_facts(dsn: str) -> Conditions:
    """The server's settings, and what one round trip and one commit cost there right now."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        facts: Conditions = {}
        for name in POSTGRES_SETTINGS:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            assert row is not None
            facts[name] = row[0]
        connection.execute("CREATE TABLE IF NOT EXISTS bench_probe (v bigint NOT NULL)")
        connection.execute("TRUNCATE bench_probe")
        connection.execute("INSERT INTO bench_probe VALUES (1)")
        update = "UPDATE bench_probe SET v = v + 1"
        facts["round_trip_us"] = _timed(lambda: connection.execute("SELECT 1"))
        facts["commit_of_one_row_us"] = _timed(lambda: connection.execute(update))
        connection.execute("SET synchronous_commit = off")
        facts["same_without_waiting_for_disk_us"] = _timed(lambda: connection.execute(update))
        connection.execute("DROP TABLE bench_probe")
    return facts


def filesystem(folder: Path) -> str:
    """The kind of file system that a folder lies on."""
    found, longest = "unknown", -1
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) > longest:
            found, longest = kind, len(place)
    return found


def sync_microseconds(folder: Path) -> dict[str, int]:
    """What it takes to have 8 kB on the disk: the floor of every durable commit."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        number = file.fileno()
        os.write(number, bytes(PROBES * 8192))
        os.fsync(number)
        at = iter(range(PROBES))

        def write() -> None:
            os.pwrite(number, b"x" * 8192, next(at) * 8192)
            os.fdatasync(number)

        return _timed(write)


def _timed(work: Callable[[], object]) -> dict[str, int]:
    seconds: list[float] = []
    for _ in range(PROBES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {f"p{p}": round(percentile(seconds, p) * 1e6) for p in (50, 95)}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit that is measured; told where files differ from it."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
