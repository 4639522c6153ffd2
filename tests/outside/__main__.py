"""Fuzz the native API from the document that it serves: ``./dev fuzz-api``.

A console runs on a throw-away database; schemathesis reads its OpenAPI document and asks as
everybody in turn, each in an organisation of their own: an operator, an owner, a developer, another
organisation's owner, a key for models, nobody. A failure is an answer of 5xx, a status, a header or
a type that the document does not name, or a body that is not as it says. An operator, who may
everything, also meets the systematic cases at every bound of every field.

Exit status 0: nothing was found; 1: something was, and is printed with a command to repeat it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from farebox.kit.ids import format_id
from farebox.tenancy.permissions import Role
from tests.support.api_clients import Caller, House
from tests.support.console_people import serving_console
from tests.support.databases import running_test_server

CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
CALLERS: Final = ("operator", "owner", "developer", "stranger", "model key", "nobody")
PHASES: Final = {"operator": "examples,coverage,fuzzing"}
MAX_EXAMPLES: Final = 40
REQUESTS_MAX: Final = 10**9
"""The API's own limit of requests would end a run after a minute; it has tests of its own."""

_CASES: Final = re.compile(r"(\d[\d,]*) generated")


def main() -> int:
    """Run the command."""
    arguments = _arguments()
    failed, total = [], 0
    with tempfile.TemporaryDirectory(prefix="farebox-outside-") as folder:
        place = Path(folder)
        with (
            running_test_server(place / "postgres") as server,
            server.database() as dsn,
            serving_console(dsn, place / "home", requests_max=REQUESTS_MAX) as url,
        ):
            # Everything is furnished before an operator changes prices, tiers and plans for all.
            configs = {name: place / f"{name}.toml" for name in arguments.callers}
            for number, (name, config) in enumerate(configs.items()):
                config.write_text(_config(*_caller(dsn, name, number)), encoding="utf-8")
            for name, config in configs.items():
                cases, good = _run(arguments, config, url, phases=PHASES.get(name, "fuzzing"))
                _say(f"as {name}: {cases:,} cases, {'clean' if good else 'FAILED'}")
                total += cases
                failed += [] if good else [name]
    _say(f"{total:,} cases in all, seed {arguments.seed}: {', '.join(failed) or 'nothing found'}")
    return 1 if failed or not total else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.outside", description=__doc__)
    parser.add_argument("--schemathesis", default="schemathesis", help="the program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-examples", type=int, default=MAX_EXAMPLES, metavar="N",
                        help="random cases of each operation and caller")  # fmt: skip
    parser.add_argument("--as", dest="callers", action="append", choices=CALLERS,
                        help="one caller alone (again for more)")  # fmt: skip
    arguments = parser.parse_args()
    arguments.callers = arguments.callers or list(CALLERS)
    return arguments


def _caller(dsn: str, name: str, number: int) -> tuple[str | None, dict[str, str]]:
    """Somebody's key, and the ids that they put in paths: of things that are there."""
    house = House(None, dsn, f"Acme {number}")
    there = asyncio.run(_furnished(house))
    callers: dict[str, Any] = {
        "operator": house.operator,
        "owner": lambda: house.member(Role.OWNER),
        "developer": lambda: house.member(Role.DEVELOPER),
        "stranger": lambda: House(None, dsn, f"Zoo {number}").member(Role.OWNER),
        "model key": house.model_key,
        "nobody": house.nobody,
    }
    caller: Caller = callers[name]()
    return caller.headers.get("authorization"), there


async def _furnished(house: House) -> dict[str, str]:
    payer = house.payer
    grant_id = await payer.grant("50")
    call_id = await payer.admit("1")
    await payer.settle(call_id, 4_808, 10)
    await payer.admit("0.5")
    payer.refuse("monthly_limit")
    return {
        "organization_id": format_id("org", payer.id),
        "project_id": format_id("proj", payer.project_id),
        "key_id": format_id("key", payer.key_id),
        "user_id": house.join(Role.VIEWER),
        "call_id": format_id("req", call_id),
        "grant_id": format_id("grant", grant_id),
        "currency": "USD",
    }


def _config(authorization: str | None, there: dict[str, str]) -> str:
    head = "" if authorization is None else f'headers = {{ Authorization = "{authorization}" }}\n'
    return head + "[parameters]\n" + "".join(
        f'"path.{name}" = "{value}"\n' for name, value in there.items()
    )  # fmt: skip


def _run(arguments: argparse.Namespace, config: Path, url: str, *, phases: str) -> tuple[int, bool]:
    """One run of the program; gives how many cases it made, and whether it found nothing."""
    command = [
        *(arguments.schemathesis, "--config-file", str(config), "run"),
        f"{url}/api/v1/openapi.json",
        *("--checks", ",".join(CHECKS), "--phases", phases),
        *("--max-examples", str(arguments.max_examples), "--seed", str(arguments.seed)),
        *("--continue-on-failure", "--no-color", "--warnings", "off"),
        *("--suppress-health-check", "all", "--generation-database", "none"),
    ]
    done = subprocess.run(
        command, cwd=config.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    found = _CASES.search(done.stdout)
    if done.returncode or found is None:
        _say(done.stdout)
    cases = 0 if found is None else int(found[1].replace(",", ""))
    return cases, done.returncode == 0 and found is not None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
