"""A real installation of Farebox in front of the mock upstream, and what its books say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from bench.processes import Measured, free_port, python, start

ORGANIZATION = "Bench"


@dataclass(frozen=True, slots=True)
class Installation:
    """A database that has an organisation with credit, and its one key."""

    dsn: str
    home: Path
    key: str

    @property
    def env(self) -> dict[str, str]:
        """What a process of this installation is told."""
        return {"FAREBOX_HOME": str(self.home), "DATABASE_URL": self.dsn, "BENCH_KEY": "sk-none"}

    def run(self, *arguments: str) -> dict[str, Any]:
        """A command's JSON document."""
        done = subprocess.run(
            [*python("farebox", *arguments), "--json"],
            env={**os.environ, **self.env},
            check=True,
            stdout=subprocess.PIPE,
        )
        return msgspec.json.decode(done.stdout, type=dict[str, Any])

    def gateway(self, stack: ExitStack, core: int | None, log: Path) -> tuple[str, Measured]:
        """Start a gateway; gives its URL and its process."""
        port = free_port()
        command = python("farebox", "gateway", "--gateway-port", str(port))
        process = start(stack, "farebox", command, core=core, log=log, env=self.env, port=port)
        return f"http://127.0.0.1:{port}", process


def install(dsn: str, home: Path, upstream: str, *, scopes: int = 0) -> Installation:
    """Make the organisation, its credit, its key and its provider.

    Args:
        dsn: An empty database.
        home: Where its files go.
        upstream: Its provider's address.
        scopes: How many of project and key get a monthly limit that no call reaches.
    """
    blank = Installation(dsn, home, "")
    made = blank.run(
        "init",
        f"--org={ORGANIZATION}",
        f"--base-url={upstream}/v1",
        "--api-key-env=BENCH_KEY",
        "--credit=1000000",
    )
    key = blank.run("keys", "list")["data"][0]["id"]
    for scope in (f"--project={made['project_id']}", f"--key={key}")[:scopes]:
        blank.run("limits", "set", scope, "--monthly=900000")
    return Installation(dsn, home, made["key"])


@dataclass(slots=True)
class Ledger:
    """What clients were told, held against what the database says."""

    answers: int = 0
    told_nanos: int = 0
    names: dict[str, int] | None = None

    def add(self, report: dict[str, Any], charges: Path | None = None) -> None:
        """Note a round's answers, each by its id where they were written down."""
        self.answers += report["statuses"].get("200", 0)
        self.told_nanos += report["charge_nanos"]
        if charges is not None:
            self.names = self.names if self.names is not None else {}
            for line in charges.read_text().splitlines():
                name, _, amount = line.partition(" ")
                self.names[name] = int(amount)

    def compare(self, dsn: str) -> dict[str, object]:
        """Every sum, and every single charge, against the rows.

        Raises:
            AssertionError: They differ: nothing that was measured counts.
        """
        with psycopg.connect(dsn) as connection:
            spent, reserved = _row(
                connection,
                "SELECT sum(spent_nanos)::bigint, sum(reserved_nanos)::bigint FROM organization",
            )
            calls, charged = _row(
                connection,
                "SELECT count(*), coalesce(sum(charge_nanos), 0)::bigint FROM call"
                " WHERE state = 'settled'",
            )
            (holds,) = _row(connection, "SELECT count(*) FROM hold")
            wrong = _wrong(connection, (self.names or {}).items())
        found = {
            "answers": self.answers,
            "calls_in_database": calls,
            "told_nanos": self.told_nanos,
            "charged_nanos": charged,
            "spent_nanos": spent,
            "reserved_nanos": reserved,
            "open_holds": holds,
            "charges_compared_one_by_one": len(self.names or {}),
            "charges_that_differ": wrong,
        }
        assert self.answers == calls, found
        assert self.told_nanos == charged == spent, found
        assert reserved == holds == wrong == 0, found
        return found


def _row(connection: psycopg.Connection[Any], sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return tuple(row)


def _wrong(connection: psycopg.Connection[Any], told: Iterable[tuple[str, int]]) -> int:
    """How many charges the database knows otherwise, or not at all."""
    from farebox.kit.ids import parse_id

    connection.execute("CREATE TEMP TABLE told (id uuid PRIMARY KEY, nanos bigint)")
    with connection.cursor().copy("COPY told FROM STDIN") as copy:
        for name, amount in told:
            copy.write_row((parse_id("req", name, field="id"), amount))
    (wrong,) = _row(
        connection,
        "SELECT count(*) FROM told t LEFT JOIN call c USING (id)"
        " WHERE c.charge_nanos IS DISTINCT FROM t.nanos",
    )
    return int(wrong)
