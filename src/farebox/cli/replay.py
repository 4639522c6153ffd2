"""``farebox replay``: send a trace of real calls through the gateway and print the sums."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farebox.operations.replaying import ReplaySums, TracedCall


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", metavar="FILE.csv", help="TIMESTAMP,ContextTokens,GeneratedTokens")
    parser.add_argument("--model", required=True, help="the model that every call names")
    parser.add_argument("--concurrency", type=int, default=32, help="calls in flight (default 32)")
    parser.add_argument("--stream", action="store_true", help="ask for streams instead of JSON")
    parser.add_argument("--limit", type=int, help="only the first so many calls")
    parser.add_argument(
        "--base-url", help="the gateway's OpenAI base URL (default: of the running sandbox)"
    )
    parser.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the key (default: the sandbox's key)",
    )


def run(args: argparse.Namespace) -> int:
    """Replay; 1 if any call was not answered."""
    import asyncio
    import time
    from pathlib import Path

    from farebox.kit.errors import InvalidInputError
    from farebox.operations.replaying import read_trace

    base_url, api_key = _target(args)
    try:
        with Path(args.file).open(encoding="utf-8", newline="") as file:
            trace = list(read_trace(file, limit=args.limit))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError("FILE", f"cannot be read: {error}") from error
    if not trace:
        raise InvalidInputError("FILE", "has no calls")
    began_at = time.monotonic()
    sums = asyncio.run(_replay(args, trace, base_url, api_key))
    seconds = time.monotonic() - began_at
    _show(args, sums, seconds)
    return 0 if sums.answered == sums.calls else 1


def _target(args: argparse.Namespace) -> tuple[str, str]:
    """Where the calls go, and with which key."""
    import os

    from farebox.assembly.ready import read_ready
    from farebox.kit.errors import InvalidInputError
    from farebox.settings import read_settings

    ready: dict[str, Any] = read_ready(read_settings().home)
    gateway_url = ready.get("gateway_url")
    base_url = args.base_url or (gateway_url and f"{gateway_url}/v1")
    api_key = os.environ.get(args.api_key_env, "") if args.api_key_env else ready.get("api_key")
    if not base_url:
        raise InvalidInputError("--base-url", "is needed: no sandbox of this home has been started")
    if not api_key:
        raise InvalidInputError("--api-key-env", "must name a variable that holds an API key")
    return base_url.rstrip("/"), api_key


async def _replay(
    args: argparse.Namespace, trace: list[TracedCall], base_url: str, api_key: str
) -> ReplaySums:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from farebox.assembly.replaying import HttpSender
    from farebox.kit.money import format_amount
    from farebox.operations.replaying import replay

    progress = Progress(
        TextColumn("replay"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[charge]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
        refresh_per_second=5,
    )
    task = progress.add_task("replay", total=len(trace), charge="0.00")

    def told(sums: ReplaySums) -> None:
        if sums.calls % 20 == 0 or sums.calls == len(trace):
            progress.update(task, completed=sums.calls, charge=format_amount(sums.charge))

    sender = HttpSender(base_url, api_key, connections_max=max(1, args.concurrency))
    try:
        with progress:
            return await replay(
                trace,
                sender,
                args.model,
                concurrency=args.concurrency,
                stream=args.stream,
                told=told,
            )
    finally:
        sender.close()


def _show(args: argparse.Namespace, sums: ReplaySums, seconds: float) -> None:
    from farebox.cli.output import show
    from farebox.kit.money import format_amount

    document = {
        "calls": sums.calls,
        "answered": sums.answered,
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "charge": format_amount(sums.charge),
        "errors": sums.errors,
        "seconds": round(seconds, 3),
        "calls_per_second": round(sums.calls / seconds, 1),
    }
    lines = [
        f"calls          {sums.calls:>14,}",
        f"answered       {sums.answered:>14,}",
        f"input tokens   {sums.input_tokens:>14,}",
        f"output tokens  {sums.output_tokens:>14,}",
        f"charge         {format_amount(sums.charge):>14}",
        f"time           {seconds:>12.1f} s  ({sums.calls / seconds:,.0f} calls a second)",
    ]
    lines += [f"error          {count:>14,}  {name}" for name, count in sorted(sums.errors.items())]
    show(args, document, lambda: print("\n".join(lines)))
