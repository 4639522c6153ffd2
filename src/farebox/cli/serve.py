"""``farebox serve``, ``gateway``, ``console`` and ``worker``: the processes that keep running."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the four commands."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    command = parser.prog.split()[-1]
    if command in {"serve", "gateway"}:
        parser.add_argument("--gateway-port", metavar="PORT", help="default 8080; 0 lets it choose")
    if command in {"serve", "console"}:
        parser.add_argument("--console-port", metavar="PORT", help="default 8081; 0 lets it choose")
    if command == "serve":
        parser.add_argument(
            "--sandbox",
            action="store_true",
            help="play money and a simulated provider; makes all it needs",
        )


def run(args: argparse.Namespace) -> int:
    """Run until a signal."""
    from farebox.assembly.processes import run_processes
    from farebox.settings import read_settings

    settings = read_settings(
        home=args.home,
        host=args.host,
        gateway_port=getattr(args, "gateway_port", None),
        console_port=getattr(args, "console_port", None),
        sandbox=getattr(args, "sandbox", False),
    )
    wings = {"serve": ("gateway", "console", "worker")}.get(args.command, (args.command,))

    def ready(facts: dict[str, Any]) -> None:
        if args.json:
            import json

            print(json.dumps(facts), flush=True)
        else:
            print(_announcement(facts, sandbox=settings.sandbox), flush=True)

    run_processes(settings, wings, ready)
    print("farebox: stopped", file=sys.stderr)
    return 0


def _announcement(facts: dict[str, Any], *, sandbox: bool) -> str:
    lines = [""]
    if sandbox:
        lines += ["  Farebox is ready: a sandbox, all money in it is play money.", ""]
    else:
        lines += ["  Farebox is ready.", ""]
    if "gateway_url" in facts:
        lines.append(f"  Gateway   {facts['gateway_url']}/v1   (the OpenAI base URL)")
    if "console_url" in facts:
        lines.append(f"  Console   {facts['console_url']}")
    if "login" in facts:
        login = facts["login"]
        lines.append(f"  Sign in   {login['email']}  password {login['password']}")
    if "api_key" in facts:
        lines += [
            f"  API key   {facts['api_key']}",
            "",
            "  Make a charged call:",
            "",
            f"  curl {facts['gateway_url']}/v1/chat/completions -i \\",
            f"    -H 'Authorization: Bearer {facts['api_key']}' \\",
            "    -H 'Content-Type: application/json' \\",
            """    -d '{"model":"gpt-5.4","messages":[{"role":"user","content":"Hi"}]}'""",
        ]
    lines += ["", "  Ctrl-C stops it.", ""]
    return "\n".join(lines)
