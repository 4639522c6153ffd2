"""``farebox audit``: who changed what, and whether the log is as it was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from farebox.cli.output import WIDTH, Document, facts, hint, page, say, show
from farebox.cli.reading import add_page_arguments, read_count, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.tenancy.audit_chain import AuditEvent

_SEQUENCE_MAX = 2**62


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="events, the newest first")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    listed.add_argument("--actor", metavar="ID", help="whose: user_..., key_..., a system's user")
    listed.add_argument("--of", metavar="ACTION", help="such as project.changed")
    listed.add_argument("--subject", metavar="ID", help="what was changed, such as proj_...")
    add_page_arguments(listed, limit=20)
    verify = actions.add_parser(
        "verify",
        help="check the whole chain; exit status 1 if it is broken",
        description="Recompute every event's hash. It prints the head of the chain: kept "
        "elsewhere and given to a later check, it also finds a log that was rewritten as a whole.",
    )
    verify.add_argument("--anchor", metavar="NUMBER:HASH", help="a head that was kept elsewhere")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"list": _list, "verify": _verify}
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    limit = read_limit(args)
    cursor_given = None
    if args.cursor is not None:
        cursor_given = read_count(args.cursor, field="cursor", low=1, high=_SEQUENCE_MAX)
    await session.audit.chain_abandoned()
    within = await session.within(args.org)
    found = await session.audit.events(
        organization_id=within,
        actor_id=args.actor,
        action=args.of,
        subject_id=args.subject,
        before=cursor_given,
        limit=limit + 1,
    )
    rows = [describe(event) for event in found[:limit]]
    cursor = str(rows[-1]["sequence"]) if len(found) > limit else None

    def text() -> None:
        for row in rows:
            _say(row)
        if not rows:
            hint("Nothing was changed yet, or nothing that fits.")
        if cursor:
            hint(f"More: farebox audit list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _verify(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.audit_log import parse_anchor, verify_log

    anchor = None if args.anchor is None else parse_anchor(args.anchor)
    await session.audit.chain_abandoned()
    report = await verify_log(session.audit, anchor=anchor)
    broken = report.broken
    document: Document = {
        "object": "audit_check",
        "status": "whole" if broken is None else "broken",
        "checked": report.checked,
        "head": f"{report.head.sequence}:{report.head.hash.hex()}",
        "broken_at": None if broken is None else broken.sequence,
        "reason": None if broken is None else broken.reason,
    }

    def text() -> None:
        if broken is None:
            say(f"The audit log is whole: {report.checked:,} events.")
        else:
            say(f"The audit log is broken at event {broken.sequence:,}: {broken.reason}.")
        facts([("head", document["head"])])
        if broken is None and anchor is None:
            hint("Keep the head elsewhere; a later check takes it with --anchor.")

    show(args, document, text)
    return 0 if report.is_whole else 1


def describe(event: AuditEvent) -> Document:
    """An event's document."""
    from farebox.kit.ids import format_id
    from farebox.operations.documents import instant

    organization = event.organization_id
    return {
        "object": "audit_event",
        "sequence": event.sequence,
        "at": instant(event.at),
        "actor": {"kind": event.actor_kind, "id": event.actor_id, "name": event.actor_name},
        "door": event.door,
        "address": event.address or None,
        "request_id": event.request_id or None,
        "action": event.action,
        "subject": {"kind": event.subject_kind, "id": event.subject_id},
        "organization_id": None if organization is None else format_id("org", organization),
        "outcome": event.outcome,
        "reason": event.reason or None,
        "before": None if event.before is None else json.loads(event.before),
        "after": None if event.after is None else json.loads(event.after),
        "hash": event.hash.hex(),
    }


def _say(row: Document) -> None:
    """One event in a few lines: who and what first, then what was changed."""
    outcome = "" if row["outcome"] == "done" else f" [{row['outcome']}]"
    at = row["at"][:19].replace("T", " ")
    who = f"{row['actor']['name']} ({row['door']})"
    say(f"{row['sequence']}  {at}  {who}: {row['action']}{outcome}")
    _indented(row["subject"]["id"])
    before, after = row["before"] or {}, row["after"] or {}
    for name, value in after.items():
        old = f"{_plain(before[name])} -> " if name in before else ""
        if name != "id" and (old or value not in (None, "")):
            _indented(f"{name}: {old}{_plain(value)}")
    for name in before.keys() - after.keys():
        _indented(f"{name}: {_plain(before[name])}")
    if row["reason"]:
        _indented(f"because: {row['reason']}")


def _indented(text: str) -> None:
    import textwrap

    say(*textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      "))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
