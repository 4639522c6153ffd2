"""``farebox quarantine``: commands that the database rejected, and the operator's ruling."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from farebox.cli.output import facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_count, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.storage.quarantine_store import PostgresQuarantineStore

_NUMBER_MAX = 2**63 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="commands that wait for a ruling, oldest first")
    listed.add_argument("--all", action="store_true", help="those ruled on, too")
    add_page_arguments(listed)
    shown = actions.add_parser("show", help="what a command was to do")
    rule = actions.add_parser("rule", help="let the hold of a command lapse")
    for action in (shown, rule):
        action.add_argument("id", metavar="NUMBER", help="its number in the list")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"list": _list, "show": _show, "rule": _rule}
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.quarantine import command_document

    limit, after = read_limit(args), None
    if args.cursor is not None:
        after = read_count(args.cursor, field="cursor", low=0, high=_NUMBER_MAX)
    found = await _store(session).commands(every=args.all, after=after, limit=limit + 1)
    rows = [command_document(each) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            say("No command waits for a ruling.")
            return
        table(
            ("number", "since", "organization", "command", "error"),
            [
                (each.id, short(each.at), each.organization_name, each.command_kind, each.error)
                for each in found[:limit]
            ],
            right="number",
        )
        if cursor:
            hint(f"More: farebox quarantine list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.quarantine import command_document, find_command

    found = await find_command(_store(session), _number(args))
    document = command_document(found, whole=True)

    def text() -> None:
        facts(
            [
                ("number", document["id"]),
                ("since", short(found.at)),
                ("organization", found.organization_name or document["organization_id"]),
                ("command", found.command_kind),
                ("call", document["call_id"] or "none"),
                ("error", found.error),
                ("ruled", "not yet" if found.ruled_at is None else short(found.ruled_at)),
            ]
        )
        say("", json.dumps(found.command, indent=2))

    show(args, document, text)
    return 0


async def _rule(session: Session, args: argparse.Namespace) -> int:
    number = _number(args)
    await _store(session).rule(number)
    document = {"object": "ruling", "id": str(number), "ruled": True}
    show(args, document, lambda: say(f"Ruled: the hold of {number} may lapse."))
    return 0


def _number(args: argparse.Namespace) -> int:
    return read_count(args.id, field="NUMBER", low=1, high=_NUMBER_MAX)


def _store(session: Session) -> PostgresQuarantineStore:
    from farebox.storage.quarantine_store import PostgresQuarantineStore

    return PostgresQuarantineStore(session.connection, session.by)
