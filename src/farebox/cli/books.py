"""``farebox books check``: everything recomputed from its own rows, first differences named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, hint, say, show

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.ledger.audit_facts import Counts
    from farebox.ledger.audit_findings import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="recompute everything; exit status 1 if anything differs",
        description="Recompute every balance, total, posting and rollup from its own rows. "
        "Nothing is changed or locked; it may run beside traffic.",
    )
    check.add_argument("--org", metavar="ORG", help="id or name (default: all)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    return work(args, lambda session: _check(session, args))


async def _check(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.check_books import check_books
    from farebox.operations.documents import instant
    from farebox.storage.audit_store import PostgresAuditStore

    wanted = None if args.org is None else [(await session.organization(args.org)).id]
    at = await session.now()
    report = await check_books(PostgresAuditStore(session.connection), wanted)
    document = {
        "object": "books_check",
        "status": "clean" if report.is_clean else "broken",
        "findings": [_finding(finding) for finding in report.findings],
        "checked": {name: getattr(report.checked, name) for name in _names(report.checked)},
        "checked_at": instant(at),
    }
    show(args, document, lambda: _text(document))
    return 0 if report.is_clean else 1


def _finding(finding: Finding) -> Document:
    from farebox.kit.ids import format_id

    return {
        "code": finding.code.value,
        "severity": "warning" if finding.warning else "broken",
        "organization_id": format_id("org", finding.organization_id),
        "subject": finding.subject,
        "expected": finding.expected,
        "found": finding.found,
        "message": finding.message,
        "times": finding.times,
    }


def _names(counts: Counts) -> tuple[str, ...]:
    return counts.__struct_fields__


def _text(document: Document) -> None:
    import textwrap

    organization = None
    for finding in document["findings"]:
        if finding["organization_id"] != organization:
            organization = finding["organization_id"]
            say(organization)
        more = f" And {finding['times'] - 1:,} more." if finding["times"] > 1 else ""
        text = f"{finding['severity']}: {finding['message']}{more}"
        say(*textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    "))
    counted = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in document["checked"].items()
    )
    say(*textwrap.wrap(f"The books are {document['status']}. Checked: {counted}.", 80))
    if document["status"] == "broken":
        hint(
            "Nothing was changed. Keep a copy of the database as it is before anything else;",
            "`farebox calls show ID` explains a call that is named above.",
        )
