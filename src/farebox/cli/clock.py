"""``farebox clock``: the time that credit expires by; it moves by hand in a sandbox only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import facts, show
from farebox.cli.reading import read_duration

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.clock import Deployment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("show", help="what time it is here")
    advance = actions.add_parser("advance", help="move a sandbox's clock forwards")
    advance.add_argument("by", metavar="DURATION", help="90s, 30m, 12h, 31d or 2w")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"show": _show, "advance": _advance}
    return work(args, lambda session: jobs[args.action](session, args))


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.tenancy_store import read_deployment

    return _say(args, await read_deployment(session.connection))


async def _advance(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.tenancy_store import advance_clock

    by = read_duration(args.by, field="duration")
    return _say(args, await advance_clock(session.connection, by, actor=session.by))


def _say(args: argparse.Namespace, deployment: Deployment) -> int:
    from farebox.operations.clock import clock_document

    document = clock_document(deployment)

    def text() -> None:
        kind = "sandbox" if deployment.sandbox else "real"
        ahead = str(deployment.clock_offset).split(".", 1)[0]
        ahead = ahead if document["offset_seconds"] else "none"
        facts([("now", f"{deployment.now:%Y-%m-%d %H:%M:%S} UTC"), ("clock", kind)])
        if deployment.sandbox:
            facts([("moved forward by", ahead)])

    show(args, document, text)
    return 0
