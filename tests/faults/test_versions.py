"""Two versions of the code on one database, as in the minutes of a rolling upgrade."""

from __future__ import annotations

import asyncio
import io
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from tests.faults.traffic import ANSWERS_MIN, Clients, Traffic, assert_charged_once
from tests.support.processes import ROOT, DurableServer

CREDIT = Nanos(100 * NANOS_PER_UNIT)
PACKAGE = "src/farebox"
SCHEMA = f"{PACKAGE}/storage/migrations"
COMMITS_MAX = 100


def git(*arguments: str) -> bytes:
    """What git answers; without taking any of its locks."""
    return subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        check=True,
        capture_output=True,
    ).stdout


def schema_of(commit: str | None) -> dict[str, str]:
    """The migrations of a commit, or of the checkout as it is: path -> hash."""
    if commit is None:
        paths = sorted(path for path in (ROOT / SCHEMA).rglob("*.*") if path.suffix != ".pyc")
        names = [path.relative_to(ROOT).as_posix() for path in paths]
        return dict(zip(names, git("hash-object", *names).decode().split(), strict=True))
    lines = git("ls-tree", "-r", commit, SCHEMA).decode().splitlines()
    return {line.split("\t")[1]: line.split()[2] for line in lines}


def earlier_commit() -> str:
    """The newest commit with another code and the same schema."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed: there is no earlier version to run")
    try:
        commits = git("log", f"-{COMMITS_MAX}", "--format=%H", "--", PACKAGE).decode().split()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no git history here: {error.stderr.decode().strip()[:200]}")
    ours = schema_of(None)
    for commit in commits:
        if schema_of(commit) == ours and git("diff", "--stat", commit, "--", PACKAGE):
            return commit
    pytest.skip("no earlier commit has this schema: nothing to run beside this version")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The source folder of an earlier version."""
    archive = git("archive", "--format=zip", earlier_commit(), PACKAGE)
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(tmp_path / "earlier")
    return tmp_path / "earlier" / "src"


def test_the_earlier_version_is_what_runs(earlier: Path) -> None:
    """A process that is given another source folder runs that and not this checkout."""
    said = subprocess.run(
        [sys.executable, "-c", "import farebox; print(farebox.__file__)"],
        env={**os.environ, "PYTHONPATH": str(earlier)},
        check=True,
        capture_output=True,
    ).stdout
    assert Path(said.decode().strip()).is_relative_to(earlier)


async def test_two_versions_share_a_database(
    durable: DurableServer, tmp_path: Path, earlier: Path
) -> None:
    """DESIGN promise 2: an upgrade under traffic, node by node, charges everybody once.

    Both versions admit, settle and sweep for one organisation; one of each is killed on the way.
    """
    chance = random.Random(1)
    async with durable.installation(tmp_path) as installed:
        customer = await installed.customer("acme", CREDIT)
        old, old_worker, new, worker = await asyncio.gather(
            installed.spawn("gateway", source=earlier),
            installed.spawn("worker", source=earlier),
            installed.spawn("gateway"),
            installed.spawn("worker"),
        )
        async with Clients(customer) as clients:
            traffic = Traffic(clients, lambda: [old.url, new.url], chance)
            traffic.start(8)
            await asyncio.sleep(1.0)
            for gateway in (old, new):
                pid = gateway.pid
                gateway.kill()
                await installed.unsee(pid)
            await asyncio.gather(installed.restart(old), installed.restart(new))
            await asyncio.sleep(1.0)
            # What the one version's dead node left, either version's worker may end.
            await asyncio.to_thread(old_worker.stop)
            await asyncio.sleep(0.5)
            await traffic.stop()
            assert (await clients.call(old.url, 40, stream=True)).is_whole
            assert (await clients.call(new.url, 40, stream=True)).is_whole
        await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        assert worker.is_alive
        whole = traffic.whole()
        assert len(whole) >= ANSWERS_MIN, traffic.tally()
        await assert_charged_once(installed, customer.organization_id, whole)
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        await installed.assert_books_clean()
