"""A trace of real calls through the whole product: ``farebox serve`` and ``farebox replay``.

``python -m bench.replay FILE.csv [--model gpt-5.4] [--concurrency 64] [--rounds 3]``. The sandbox
runs as anybody would run it (gateway, console and worker in one process, nothing pinned), its
database on a server that was started before. The replay's sum must be what the balance has lost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.database import bundled, scratch
from bench.figures import shown, spread
from bench.load import nanos
from bench.machine import machine_facts, postgres_facts
from bench.processes import free_port, python, start

READY_SECONDS: Final = 60.0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Replay the trace so often."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        server = bundled(stack, folder / "home", sandbox=True)
        env = {"FAREBOX_HOME": str(folder / "home"), "DATABASE_URL": server.dsn}
        ports = (f"--gateway-port={free_port()}", f"--console-port={free_port()}")
        command = python("farebox", "serve", "--sandbox", *ports)
        process = start(stack, "farebox", command, core=None, log=folder / "log", env=env)
        organization = _ready(folder / "home/ready.json")["organization_id"]

        def farebox(*arguments: str) -> dict[str, Any]:
            done = subprocess.run(
                [*python("farebox", *arguments), "--json"],
                env={**os.environ, **env},
                check=True,
                stdout=subprocess.PIPE,
            )
            return msgspec.json.decode(done.stdout, type=dict[str, Any])

        farebox("credits", "grant", f"--org={organization}", "--amount=100000", "--source=promo")
        before = nanos(farebox("credits", "balance", f"--org={organization}")["spent"])
        reports = [
            farebox(
                *("replay", str(args.file), f"--model={args.model}"),
                f"--concurrency={args.concurrency}",
                *(["--stream"] if args.stream else []),
            )
            for _ in range(args.rounds)
        ]
        balance = farebox("credits", "balance", f"--org={organization}")
        books = farebox("books", "check")
        told = sum(nanos(r["charge"]) for r in reports)
        spent = nanos(balance["spent"]) - before
        assert told == spent, (told, spent)
        assert nanos(balance["held"]) == 0, balance
        assert books["status"] == "clean", books
        return {
            "conditions": {
                **machine_facts(folder),
                "postgresql": postgres_facts(server.dsn),
                **{k: getattr(args, k) for k in ("model", "concurrency", "stream", "rounds")},
            },
            "calls_per_second": spread([r["calls_per_second"] for r in reports]),
            "reports": reports,
            "told_nanos": told,
            "spent_nanos": spent,
            "books": books["status"],
            "memory_mb": process.memory().resident,
        }


def _ready(path: Path) -> dict[str, Any]:
    until = time.monotonic() + READY_SECONDS
    while not path.exists():
        assert time.monotonic() < until, "the sandbox does not become ready"
        time.sleep(0.1)
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="gpt-5.4")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on which disk the database lies")
    parser.add_argument("--json", type=Path, help="also write the whole report here")
    args = parser.parse_args()
    args.file = args.file.resolve()
    report = measure(args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    print("calls a second:", shown(report["calls_per_second"]))


if __name__ == "__main__":
    main()
