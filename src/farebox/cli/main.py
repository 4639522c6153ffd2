"""``farebox``: finds the command, reads its arguments, runs it, and turns errors into one line.

A command's module is imported when the command is chosen, and whatever it stands on when it runs,
so ``--help`` answers at once. Exit status: 0 done, 1 refused or found wrong, 2 wrongly used.

A command module has two functions::

    def add_arguments(parser: argparse.ArgumentParser) -> None
    def run(args: argparse.Namespace) -> int
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

from typing_extensions import override

from farebox import __version__
from farebox.cli.output import print_error
from farebox.kit.errors import FareboxError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "init": ("make a real installation, ready for its first call", "init"),
    "serve": ("run everything: gateway, console and worker", "serve"),
    "gateway": ("run the gateway alone (the OpenAI-compatible API)", "serve"),
    "console": ("run the console alone (dashboard and admin API)", "serve"),
    "worker": ("run the worker alone (expiry, sweeps, alerts)", "serve"),
    "orgs": ("organisations: create, list, show, update, provision", "orgs"),
    "projects": ("projects: create, split, list, show, update, archive", "projects"),
    "keys": ("API keys of a project: create, list, rotate, revoke", "keys"),
    "service-accounts": ("owners of keys for production jobs", "service_accounts"),
    "members": ("people of an organisation: roles and invitations", "members"),
    "credits": ("credit: grant, balance, grants, history, refund", "credits"),
    "budgets": ("how much may be spent in a month, week, day: set, list", "budgets"),
    "limits": ("budgets, rates, runs, calls in parallel: set, list", "limits"),
    "alerts": ("what was told and stopped: list, settings, release", "alerts"),
    "tiers": ("usage tiers: list, set, assign, show", "tiers"),
    "providers": ("model providers: add, list, remove, test", "providers"),
    "models": ("models that can be called: list", "models"),
    "prices": ("dated prices: import, list, show, set, check", "prices"),
    "price-plans": ("what organisations are charged: list, set, assign", "price_plans"),
    "calls": ("calls and their charges: list, show", "calls"),
    "usage": ("what was used and charged, by any dimension", "usage"),
    "doctor": ("why a call, a key or an organisation has trouble", "doctor"),
    "books": ("recompute every balance from its entries: check", "books"),
    "audit": ("who changed what: list, verify", "audit"),
    "retention": ("how long calls are kept: show, set, apply", "retention"),
    "quarantine": ("commands that the database rejected: list, rule", "quarantine"),
    "users": ("people who may sign in to the console: add", "users"),
    "replay": ("send a recorded trace through the gateway", "replay"),
    "clock": ("the sandbox's clock: show, advance", "clock"),
}
"""Command -> what it does, and its module in this room."""

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

_WITH_VALUE: Final = frozenset({"--home"})
"""Options before the command that take a value."""


class Parser(argparse.ArgumentParser):
    """A parser with what every command understands, and errors of one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**(options | {"allow_abbrev": False}))
        # Without a default, so that a nested parser does not undo what the outer one has read.
        self.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="one JSON document on stdout instead of text",
        )
        self.add_argument(
            "--home",
            metavar="DIR",
            default=argparse.SUPPRESS,
            help="where state lives (default: FAREBOX_HOME, or .farebox here)",
        )

    @override
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class UsageError(FareboxError):
    """The command line cannot be read."""

    code = "usage"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; the process's own where None.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot write
    as_json = "--json" in arguments
    try:
        return _run(arguments)
    except FareboxError as error:
        print_error(error, as_json=as_json)
        return EXIT_USAGE if isinstance(error, UsageError | InvalidInputError) else EXIT_REFUSED
    except SystemExit as leaving:  # --help and --version
        return int(leaving.code or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED


def _run(arguments: list[str]) -> int:
    place = _command_place(arguments)
    if place is None:
        return _without_command(arguments)
    name = arguments.pop(place)
    if name not in COMMANDS:
        raise UsageError(
            f"there is no command {name[:40]!r}{_suggestion(name)}; see `farebox --help`"
        )
    text, module_name = COMMANDS[name]
    module = import_module(f"farebox.cli.{module_name}")
    parser = Parser(prog=f"farebox {name}", description=f"{text[0].upper()}{text[1:]}.")
    module.add_arguments(parser)
    args = parser.parse_args(arguments)
    args.command = name
    args.json = getattr(args, "json", False)
    args.home = getattr(args, "home", None)
    status: int = module.run(args)
    sys.stdout.flush()
    return status


def _command_place(arguments: Sequence[str]) -> int | None:
    """Where the command stands: after options that may come before it."""
    place = 0
    while place < len(arguments):
        if not arguments[place].startswith("-"):
            return place
        place += 2 if arguments[place] in _WITH_VALUE else 1
    return None


def _without_command(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="farebox",
        usage="farebox COMMAND [ARGUMENTS]",
        description="Prepaid credit for LLM APIs: a gateway that never overspends.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<18}{text}" for name, (text, _) in COMMANDS.items())
        + "\n\nBegin with `farebox serve --sandbox` (play money) or `farebox init` (real).\n"
        "`farebox COMMAND --help` says more about each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"farebox {__version__}")
    parser.parse_args(arguments)
    parser.print_help(sys.stderr)
    return EXIT_USAGE


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, n=1)
    return f", did you mean `{close[0]}`" if close else ""
