"""The gateway against what it is measured by: interleaved rounds, pinned cores, medians, ratios.

``python -m bench.gateway [--rounds 5] [--connections 1 16 64] [--stream] [--bytes 1000]``.

The target runs on one core, the upstream and the load driver on the other; PostgreSQL runs where
the kernel puts it. In the same run every answer's charge is summed and compared with the database.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

NGINX_CONF: Final = """
worker_processes 1; daemon off; error_log /dev/null; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_buffering off; client_max_body_size 64m; }} }} }}
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start(
    stack: ExitStack, core: int, command: list[str], env: dict[str, str] | None = None
) -> int:
    """Start a process on one core; it ends with the stack."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509
    )

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(end)
    return process.pid


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(600):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(port)


def farebox(stack: ExitStack, home: Path, upstream: int, core: int) -> tuple[str, str, int]:
    """A real installation in front of the mock upstream; gives its URL, a key, its process id."""
    port, env = free_port(), {"FAREBOX_HOME": str(home), "BENCH_KEY": "sk-none"}

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "farebox", *arguments, "--json"],
            env={**os.environ, **env},
            check=True,
            capture_output=True,
        )
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    made = run(
        "init",
        "--org",
        "Bench",
        "--base-url",
        f"http://127.0.0.1:{upstream}/v1",
        "--api-key-env",
        "BENCH_KEY",
        "--credit",
        "1000000",
    )
    pid = start(
        stack,
        core,
        [sys.executable, "-m", "farebox", "gateway", "--gateway-port", str(port)],
        env,
    )
    wait_for(port)
    return f"http://127.0.0.1:{port}", str(made["key"]), pid


def load(url: str, key: str, connections: int, args: argparse.Namespace) -> dict[str, Any]:
    """One round of load on a target."""
    command = [
        sys.executable,
        "-m",
        "bench.load",
        f"{url}/v1/chat/completions",
        "--key",
        key,
        f"--connections={connections}",
        f"--seconds={args.seconds}",
        f"--bytes={args.bytes}",
        f"--pace-ms={args.pace_ms}",
        *(["--stream"] if args.stream else []),
    ]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    with Path(f"/proc/{pid}/status").open() as file:
        for line in file:
            if line.startswith("VmRSS"):
                return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All targets in turn, round by round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = free_port()
        start(stack, 1, [sys.executable, "-m", "bench.upstream", str(upstream)])
        wait_for(upstream)
        targets = {"direct": f"http://127.0.0.1:{upstream}"}
        bare = free_port()
        start(
            stack,
            0,
            [sys.executable, "-m", "bench.passthrough", str(bare), targets["direct"]],
        )
        wait_for(bare)
        targets["pass-through"] = f"http://127.0.0.1:{bare}"
        if nginx := shutil.which("nginx"):
            port = free_port()
            conf = folder / "nginx.conf"
            conf.write_text(NGINX_CONF.format(folder=folder, port=port, upstream=upstream))
            start(stack, 0, [nginx, "-c", str(conf)])
            wait_for(port)
            targets["nginx"] = f"http://127.0.0.1:{port}"
        url, key, pid = farebox(stack, folder / "home", upstream, 0)
        targets["farebox"] = url
        rounds: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for number in range(args.rounds + 1):
            for connections in args.connections:
                for name, target in targets.items():
                    found = load(target, key, connections, args)
                    if number:  # the first round warms everything up
                        rounds.setdefault((name, connections), []).append(found)
                    elif name == "farebox":
                        rounds.setdefault(("warm-up", connections), []).append(found)
        charged = sum(
            found["charge_nanos"]
            for (name, _), results in rounds.items()
            if name in {"farebox", "warm-up"}
            for found in results
        )
        balance = subprocess.run(
            [sys.executable, "-m", "farebox", "credits", "balance", "--org", "Bench", "--json"],
            env={**os.environ, "FAREBOX_HOME": str(folder / "home")},
            check=True,
            capture_output=True,
        )
        spent = json.loads(balance.stdout)["spent"]
        return _report(rounds, args, charged, spent, memory_mb(pid))


def _report(
    rounds: dict[tuple[str, int], list[dict[str, Any]]],
    args: argparse.Namespace,
    charged: int,
    spent: str,
    memory: float,
) -> dict[str, Any]:
    rows = []
    for connections in args.connections:
        direct = rounds["direct", connections]
        for (name, at), results in rounds.items():
            if at != connections or name == "warm-up":
                continue
            added = [r["p50_us"] - d["p50_us"] for r, d in zip(results, direct, strict=True)]
            rows.append(
                {
                    "target": name,
                    "connections": connections,
                    "per_second": statistics.median(r["per_second"] for r in results),
                    "p50_us": statistics.median(r["p50_us"] for r in results),
                    "p99_us": statistics.median(r["p99_us"] for r in results),
                    "added_p50_us": statistics.median(added),
                    "statuses": results[-1]["statuses"],
                    "lost": sum(r["lost"] for r in results),
                }
            )
    whole, _, fraction = spent.partition(".")
    return {
        "stream": args.stream,
        "bytes": args.bytes,
        "rows": rows,
        "answers_say_nanos": charged,
        "books_say_nanos": int(whole) * 10**9 + int(fraction.ljust(9, "0")),
        "gateway_memory_mb": memory,
    }


def main() -> None:
    """Measure and print one JSON object and a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--pace-ms", type=int, default=0)
    parser.add_argument("--bytes", type=int, default=1000)
    report = measure(parser.parse_args())
    for row in report["rows"]:
        print(
            f"{row['target']:>14} c={row['connections']:<5} {row['per_second']:>9.0f}/s "
            f"p50 {row['p50_us']:>8.0f} us  p99 {row['p99_us']:>8.0f} us  "
            f"added p50 {row['added_p50_us']:>8.0f} us  {row['statuses']} lost {row['lost']}"
        )
    exact = report["answers_say_nanos"] == report["books_say_nanos"]
    print(f"charges: answers and books {'agree' if exact else 'DIFFER'}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
