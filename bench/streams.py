"""A thousand paced streams at once: what a gateway adds to every event, and what it holds for them.

``python -m bench.streams [--streams 1000] [--pace-ms 100] [--events 100] [--rounds 3]``. The
upstream stamps each event with the instant at which it left; the driver, on the same machine and
clock, takes how long it was on its way. The same is done without a gateway between ("direct"), so
what is left when that is subtracted is the gateway's. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from typing_extensions import override

from bench import rivals
from bench.database import bundled, scratch
from bench.figures import difference, paired, percentile, shown, spread, table
from bench.installation import Ledger, install
from bench.load import Sums, Wanted
from bench.machine import machine_facts, postgres_facts
from bench.processes import Measured, pin, python
from bench.targets import LOAD_CORE, TARGET_CORE, Target, direct, nginx, passthrough
from bench.upstream import STAMP_DIGITS

TARGETS: Final = ("direct", "nginx", "pass-through", "farebox", *rivals.NAMES)
SLACK_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 0.5
WARM_UP_EVENTS: Final = 10

_STAMP: Final = re.compile(rb'"content":\s?"(\d{%d})' % STAMP_DIGITS)


@dataclass(slots=True)
class Delays:
    """Microseconds, over all streams."""

    events: list[float] = field(default_factory=list)
    """From the upstream's write to the client's read, each event."""
    first: list[float] = field(default_factory=list)
    """From the request to the first event."""
    between: list[float] = field(default_factory=list)
    """From one event to the next, at the client."""
    whole: int = 0
    cut: int = 0

    def report(self) -> dict[str, object]:
        """The figures."""
        found: dict[str, object] = {
            "streams": self.whole,
            "cut": self.cut,
            "events": len(self.events),
        }
        for name, values in (
            ("event", self.events),
            ("first_event", self.first),
            ("between", self.between),
        ):
            for p in (50, 95, 99):
                found[f"{name}_p{p}_us"] = round(percentile(values, p)) if values else None
        return found


class Stream(asyncio.Protocol):
    """Asks for one stream and reads it to its end."""

    def __init__(self, request: bytes, delays: Delays, sums: Sums) -> None:
        self.request = request
        self.delays = delays
        self.sums = sums
        self.done = asyncio.get_running_loop().create_future()
        self.rest = b""
        self.head = b""
        self.last = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes
        self.transport = cast("asyncio.Transport", transport)
        self.began = time.monotonic_ns()
        self.transport.write(self.request)

    @override
    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.rest += data
        if not self.head:
            end = self.rest.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self.rest = self.rest[: end + 2].lower(), self.rest[end + 4 :]
        end = 0
        for match in _STAMP.finditer(self.rest):
            end = match.end()
            self.delays.events.append((now - int(match[1])) / 1000)
            if self.last:
                self.delays.between.append((now - self.last) / 1000)
            else:
                self.delays.first.append((now - self.began) / 1000)
            self.last = now
        if self.rest.endswith(b"0\r\n\r\n"):
            self.delays.whole += 1
            self.sums.add(self.head, self.rest[-1000:], (now - self.began) / 1e9, 0.0)
            self.transport.close()
        else:
            self.rest = self.rest[end:][-4000:]

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.rest.endswith(b"0\r\n\r\n"):
            self.delays.cut += 1
        self.done.set_result(None)


async def drive(wanted: Wanted, key: str, count: int, ramp_seconds: float) -> dict[str, object]:
    """Open all streams over the ramp, evenly, and read each to its end."""
    delays, sums = Delays(), Sums()
    url = urlsplit(wanted.url)
    loop = asyncio.get_running_loop()
    before, after = wanted.parts()
    request = before + key.encode() + after
    began = loop.time()
    made: list[Stream] = []
    for number in range(count):
        if (ahead := began + ramp_seconds * number / count - loop.time()) > 0:
            await asyncio.sleep(ahead)
        _, stream = await loop.create_connection(
            lambda: Stream(request, delays, sums), url.hostname or "", url.port or 80
        )
        made.append(stream)
    await asyncio.gather(*(stream.done for stream in made))
    return {
        **delays.report(),
        "statuses": sums.statuses,
        "charge_nanos": sums.charge_nanos,
        "charges": sums.charges,
    }


class Watch:
    """Samples a process's memory while something runs."""

    def __init__(self, process: Measured) -> None:
        self._process = process
        self._stop = Event()
        self._thread = Thread(target=self._watch)
        self.resident, self.proportional = 0.0, 0.0
        """The most that was seen."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            found = self._process.memory()
            self.resident = max(self.resident, found.resident)
            self.proportional = max(self.proportional, found.proportional)


def one_round(target: Target, args: argparse.Namespace, events: int) -> dict[str, Any]:
    """All streams on one target, once, of so many events each."""
    assert target.process is not None
    command = [
        *python("bench.streams", "drive", target.url, target.key),
        f"--streams={args.streams}",
        f"--pace-ms={args.pace_ms}",
        f"--events={events}",
        *(f"--header={header}" for header in target.headers),
    ]
    before, at = target.process.cpu_seconds(), time.monotonic()
    with Watch(target.process) as watch:
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: pin(LOAD_CORE),
            timeout=events * args.pace_ms / 1000 * 10 + SLACK_SECONDS,
        )
    report: dict[str, Any] = json.loads(done.stdout)
    busy = target.process.cpu_seconds() - before
    report["core_busy_percent"] = round(busy * 100 / (time.monotonic() - at), 1)
    report["cpu_us_an_event"] = round(busy * 1e6 / max(1, report["events"]), 1)
    report["rss_mb"], report["pss_mb"] = watch.resident, watch.proportional
    return report


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All targets in turn, round by round."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(args.folder))
        server = bundled(stack, folder / "home")
        conditions = {
            **machine_facts(folder),
            "postgresql": postgres_facts(server.dsn),
            "postgresql_cores": ",".join(map(str, sorted(os.sched_getaffinity(server.pid)))),
            "target_core": TARGET_CORE,
            "load_and_upstream_core": LOAD_CORE,
            **{k: getattr(args, k) for k in ("streams", "pace_ms", "events", "rounds")},
        }
        upstream = direct(stack, folder)
        targets = [upstream]
        if "nginx" in args.targets and (found := nginx(stack, folder, upstream)):
            targets.append(found)
        if "pass-through" in args.targets:
            targets.append(passthrough(stack, folder, upstream))
        if "farebox" in args.targets:
            installation = install(server.dsn, folder / "home", upstream.url)
            url, process = installation.gateway(stack, TARGET_CORE, folder / "farebox.log")
            targets.append(Target("farebox", url, process, installation.key))
        targets += [
            rivals.rival(stack, name, args.rivals, folder, upstream)
            for name in (rivals.installed(args.rivals) if args.rivals else ())
            if name in args.targets
        ]
        idle = {t.name: t.process.memory().resident for t in targets if t.process}
        reports: dict[str, list[dict[str, Any]]] = {}
        ledger = Ledger()
        for number in range(args.rounds + 1):
            for target in targets:
                report = one_round(target, args, args.events if number else WARM_UP_EVENTS)
                charges = folder / "charges"
                charges.write_text("".join(line + "\n" for line in report.pop("charges")))
                if target.name == "farebox":
                    ledger.add(report, charges)
                if number:  # the first round warms everything up
                    reports.setdefault(target.name, []).append(report)
        return {
            "conditions": conditions,
            "rows": [_row(name, reports, idle) for name in reports],
            "books": ledger.compare(server.dsn) if ledger.answers else None,
        }


def _row(
    name: str, reports: dict[str, list[dict[str, Any]]], idle: dict[str, float]
) -> dict[str, Any]:
    mine, base = reports[name], reports["direct"]
    row: dict[str, Any] = {
        "target": name,
        "idle_rss_mb": idle[name],
        "streams": sum(r["streams"] for r in mine),
        "cut": sum(r["cut"] for r in mine),
        "events": sum(r["events"] for r in mine),
    }
    for figure in ("core_busy_percent", "cpu_us_an_event", "rss_mb", "pss_mb"):
        row[figure] = spread([r[figure] for r in mine])
    for figure in ("event_p50_us", "event_p95_us", "event_p99_us", "first_event_p50_us"):
        values = [r[figure] for r in mine]
        row[figure] = spread(values)
        row[f"added_{figure}"] = paired(values, [r[figure] for r in base], difference)
    row["between_p99_us"] = spread([r["between_p99_us"] for r in mine])
    return row


def written(report: dict[str, Any]) -> str:
    """The report as a table in Markdown."""
    head = (
        "target",
        "streams whole / cut",
        "event added p50 us",
        "p95 us",
        "p99 us",
        "first event added us",
        "core busy %",
        "CPU us/event",
        "RSS idle to most MB",
        "PSS MB",
    )
    rows = [
        (
            r["target"],
            f"{r['streams']:,} / {r['cut']:,}",
            shown(r["added_event_p50_us"]),
            shown(r["added_event_p95_us"]),
            shown(r["added_event_p99_us"]),
            shown(r["added_first_event_p50_us"]),
            shown(r["core_busy_percent"], 1),
            shown(r["cpu_us_an_event"], 1),
            f"{r['idle_rss_mb']:.0f} to {r['rss_mb']['median']:.0f}",
            shown(r["pss_mb"]),
        )
        for r in report["rows"]
    ]
    return table(head, rows)


def main() -> None:
    """Measure and print; ``drive URL KEY`` is the driver's own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="at once")
    parser.add_argument("--pace-ms", type=int, default=100, help="between two events of a stream")
    parser.add_argument("--events", type=int, default=100, help="of a stream")
    if sys.argv[1:2] == ["drive"]:
        parser.add_argument("drive")
        parser.add_argument("url")
        parser.add_argument("key")
        parser.add_argument("--header", action="append", default=[])
        _drive(parser.parse_args())
        return
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--rivals", type=Path, help="where bench.rivals installed them")
    parser.add_argument("--folder", type=Path, help="on which disk the database lies")
    parser.add_argument("--json", type=Path, help="also write the whole report here")
    args = parser.parse_args()
    report = measure(args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    print(json.dumps(report["conditions"], indent=1))
    print(written(report))
    print("books:", json.dumps(report["books"]))


def _drive(args: argparse.Namespace) -> None:
    import uvloop

    gc.disable()  # a collection in the driver must not look like a delay of the target
    wanted = Wanted(
        f"{args.url}/v1/chat/completions",
        size=1000,
        stream=True,
        headers=tuple(args.header),
        text=f"pace-ms={args.pace_ms} events={args.events} ",
    )
    # Spread over whole paces, so that no two gaps between events coincide by construction.
    ramp = max(1.0, args.streams * 0.001) + args.pace_ms / 1000
    print(json.dumps(uvloop.run(drive(wanted, args.key, args.streams, ramp))))


if __name__ == "__main__":
    main()
