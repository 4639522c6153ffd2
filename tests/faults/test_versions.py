"""Two versions of the code on one database, as in the minutes of a rolling upgrade."""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from tests.faults.traffic import ANSWERS_MIN, Clients, Traffic, assert_charged_once
from tests.support.figures import Figures
from tests.support.processes import ROOT, DurableServer, Installation

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


def earlier_commit() -> tuple[str | None, str]:
    """The newest commit with another code and the same schema, or why there is none."""
    if shutil.which("git") is None:
        return None, "git is not installed"
    try:
        commits = git("log", f"-{COMMITS_MAX}", "--format=%H", "--", PACKAGE).decode().split()
    except subprocess.CalledProcessError:
        return None, "no git history here"
    ours = schema_of(None)
    for commit in commits:
        if schema_of(commit) == ours and git("diff", "--stat", commit, "--", PACKAGE):
            return commit, f"commit {commit[:12]}"
    return None, f"none of the last {len(commits)} commits has this schema and another code"


@pytest.fixture
def earlier(tmp_path: Path, figures: Figures) -> Path:
    """The source folder of an earlier version.

    Where there is none with this schema (a shallow clone, a schema that has just changed), it is a
    copy of this checkout under another version's name, and the figures of the run say so.
    """
    commit, why = earlier_commit()
    if commit is None:
        source = tmp_path / "copy" / "src"
        shutil.copytree(ROOT / PACKAGE, source / "farebox")
        start = source / "farebox" / "__init__.py"
        text, times = re.subn(r'__version__ = "[^"]*"', '__version__ = "0.0.1"', start.read_text())
        assert times == 1
        start.write_text(text)
        figures.add("two versions", {f"beside a copy of this one: {why}": 1})
        return source
    archive = git("archive", "--format=zip", commit, PACKAGE)
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(tmp_path / "earlier")
    figures.add("two versions", {f"beside {why}": 1})
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


async def add_to_every_table(installed: Installation, chance: random.Random) -> int:
    """Do what a migration may do while nodes of the version before it run: add. Gives how often."""
    tables = await installed.rows(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname = 'public'"
    )
    async with await psycopg.AsyncConnection.connect(installed.dsn, autocommit=True) as connection:
        await connection.execute("SET lock_timeout = '1s'")
        for (table,) in tables:
            statement = SQL("ALTER TABLE {} ADD COLUMN of_a_later_version text DEFAULT 'x'")
            while True:
                await asyncio.sleep(chance.uniform(0.0, 0.05))
                with suppress(psycopg.errors.LockNotAvailable):
                    await connection.execute(statement.format(Identifier(table)))
                    break
    return len(tables)


async def test_columns_may_be_added_under_running_nodes(
    durable: DurableServer, tmp_path: Path
) -> None:
    """DESIGN promise 2: the nodes that a rolling upgrade has not reached go on without an error.

    They name the columns that they want, in statements that the server has planned before.
    """
    chance = random.Random(1)
    async with durable.installation(tmp_path) as installed:
        customer = await installed.customer("acme", CREDIT)
        gateway, worker = await asyncio.gather(
            installed.spawn("gateway"), installed.spawn("worker")
        )
        async with Clients(customer) as clients:
            traffic = Traffic(clients, lambda: [gateway.url], chance)
            traffic.start(8)
            await asyncio.sleep(0.5)
            assert await add_to_every_table(installed, chance) > 0
            await asyncio.sleep(0.5)
            await traffic.stop()
        await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
        assert worker.is_alive
        assert traffic.tally().keys() <= {"whole", "0 hung up"}, traffic.tally()
        whole = traffic.whole()
        assert len(whole) >= ANSWERS_MIN, traffic.tally()
        await assert_charged_once(installed, customer.organization_id, whole)
        assert await installed.rows("SELECT command_kind, error FROM quarantine") == []
        await installed.assert_books_clean()


async def test_an_older_version_leaves_a_newer_database_alone(
    durable: DurableServer, tmp_path: Path
) -> None:
    """ENGINE "The server it stands on": who does not know a schema refuses to start on it.

    A node that runs already goes on.
    """
    async with durable.installation(tmp_path) as installed:
        customer = await installed.customer("acme", CREDIT)
        gateway = await installed.spawn("gateway")
        ((before,),) = await installed.rows("SELECT version_num FROM alembic_version")
        await installed.rows("UPDATE alembic_version SET version_num = 'of a later version'")
        refused = await asyncio.gather(
            *(installed.spawn(wing) for wing in ("gateway", "worker")), return_exceptions=True
        )
        assert all('"incompatible"' in str(error) for error in refused), refused
        async with Clients(customer) as clients:
            assert (await clients.call(gateway.url, 40, stream=True)).is_whole
        assert await installed.rows("SELECT version_num FROM alembic_version") == [
            ("of a later version",)
        ]
        await installed.rows("UPDATE alembic_version SET version_num = %s", before)
        await installed.assert_books_clean()


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
