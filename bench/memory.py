"""What a gateway holds over time, with 100,000 keys in the database of which all are used.

``python -m bench.memory [--minutes 10] [--keys 100000] [--connections 16]``. Traffic runs all the
time, JSON and streams in turns, and goes through the keys one after the other. RSS and PSS are
read from ``/proc`` every few seconds; the slope is a least-squares line through the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from bench.database import bundled, scratch, settle_down
from bench.engine import fund, make_tenants
from bench.figures import table
from bench.installation import Ledger, install
from bench.keys import add_keys
from bench.machine import machine_facts, postgres_facts
from bench.processes import Measured, pin, python
from bench.targets import LOAD_CORE, TARGET_CORE, direct

ORGANIZATIONS: Final = 1000
SAMPLE_SECONDS: Final = 5.0
BURST_SECONDS: Final = 30.0
"""Of one shape of traffic; then the other."""


class Samples:
    """Megabytes over time."""

    def __init__(self, process: Measured) -> None:
        self._process = process
        self._began = time.monotonic()
        self.rows: list[tuple[float, float, float]] = []
        """Seconds since the beginning, RSS, PSS."""

    def take(self) -> None:
        """Read both now."""
        found = self._process.memory()
        at = round(time.monotonic() - self._began, 1)
        self.rows.append((at, found.resident, found.proportional))

    def slope_mb_an_hour(self) -> float:
        """How RSS grows over the second half."""
        half = self.rows[len(self.rows) // 2 :]
        seconds = [at for at, _, _ in half]
        held = [resident for _, resident, _ in half]
        mean_s, mean_h = sum(seconds) / len(half), sum(held) / len(half)
        spread = sum((s - mean_s) ** 2 for s in seconds)
        together = sum((s - mean_s) * (h - mean_h) for s, h in zip(seconds, held, strict=True))
        return round(3600 * together / spread, 2) if spread else 0.0


def traffic(url: str, keys: Path, args: argparse.Namespace, seconds: float, shape: str) -> Any:
    """Start a burst of traffic."""
    command = [
        *python("bench.load", f"{url}/v1/chat/completions"),
        f"--keys={keys}",
        f"--connections={args.connections}",
        f"--seconds={seconds}",
        *(["--stream"] if shape == "sse" else []),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: pin(LOAD_CORE),  # noqa: PLW1509 - no thread runs here yet
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load a gateway for some minutes and watch it."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        server = bundled(stack, folder / "home")
        upstream = direct(stack, folder)
        installation = install(server.dsn, folder / "home", upstream.url)
        _, tenants = make_tenants(server.dsn, ORGANIZATIONS)
        asyncio.run(fund(server.dsn, tenants, scopes=0))
        keys = folder / "keys"
        keys.write_text("\n".join(add_keys(server.dsn, tenants, args.keys)))
        settle_down(server)
        conditions = {
            **machine_facts(folder),
            "postgresql": postgres_facts(server.dsn),
            **{k: getattr(args, k) for k in ("minutes", "keys", "connections")},
            "organizations": ORGANIZATIONS,
        }
        url, process = installation.gateway(stack, TARGET_CORE, folder / "farebox.log")
        samples, ledger = Samples(process), Ledger()
        samples.take()
        until = time.monotonic() + args.minutes * 60
        for shape in cycle(("json", "sse")):
            if (left := until - time.monotonic()) <= 0:
                break
            running = traffic(url, keys, args, min(left, BURST_SECONDS), shape)
            while running.poll() is None:
                try:
                    running.wait(SAMPLE_SECONDS)
                except subprocess.TimeoutExpired:
                    samples.take()
            ledger.add(json.loads(running.stdout.read()))
        samples.take()
        return {
            "conditions": conditions,
            "calls": ledger.answers,
            "samples": samples.rows,
            "rss_slope_mb_an_hour": samples.slope_mb_an_hour(),
            "rss_peak_mb": process.resident_peak_mb(),
            "books": ledger.compare(server.dsn),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="on which disk the database lies")
    parser.add_argument("--json", type=Path, help="also write the whole report here")
    args = parser.parse_args()
    report = measure(args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(json.dumps(report["conditions"], indent=1))
    shown = report["samples"]
    every = max(1, len(shown) // 12)
    print(table(("second", "RSS MB", "PSS MB"), [*shown[:-1:every], shown[-1]]))
    print(
        f"calls {report['calls']:,}; RSS {report['rss_slope_mb_an_hour']:+.2f} MB an hour over the"
        f" second half; most {report['rss_peak_mb']} MB"
    )
    print("books:", json.dumps(report["books"]))


if __name__ == "__main__":
    main()
