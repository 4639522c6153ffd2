"""``farebox quarantine``: commands that the database rejected, and the operator's ruling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, page, say, short, show, table
from farebox.cli.reading import read_count

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = actions.add_parser("list", help="commands that wait for a ruling")
    shown.add_argument("--all", action="store_true", help="those ruled on, too")
    rule = actions.add_parser("rule", help="let the hold of a command lapse")
    rule.add_argument("id", metavar="NUMBER", help="its number in the list")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"list": _list, "rule": _rule}
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.quarantine_store import list_quarantined

    found = await list_quarantined(session.connection, every=args.all, limit=1_000)
    rows: list[Document] = [
        {
            "id": each.id,
            "at": each.at.isoformat(),
            "organization": each.organization_name,
            "command": each.command_kind,
            "call_id": each.call_id,
            "error": each.error,
            "ruled_at": None if each.ruled_at is None else each.ruled_at.isoformat(),
        }
        for each in found
    ]

    def text() -> None:
        if not found:
            say("No command waits for a ruling.")
            return
        table(
            ("number", "since", "organization", "command", "error"),
            [
                (each.id, short(each.at), each.organization_name, each.command_kind, each.error)
                for each in found
            ],
            right="number",
        )

    show(args, page(rows, None), text)
    return 0


async def _rule(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.audit_log import AuditNote
    from farebox.storage.quarantine_store import rule_quarantined

    number = read_count(args.id, field="NUMBER", low=1, high=2**62)
    note = AuditNote(
        action="quarantine.ruled",
        subject_kind="quarantine",
        subject_id=str(number),
        after={"may_lapse": True},
    )
    async with session.connection.transaction():
        await rule_quarantined(session.connection, number)
        await session.note(note)
    show(
        args, {"id": number, "ruled": True}, lambda: say(f"Ruled: the hold of {number} may lapse.")
    )
    return 0
