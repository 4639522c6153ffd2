"""``farebox limits``: hard spend limits, decided in the same transaction as the balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, hint, page, say, show, table

if TYPE_CHECKING:
    import argparse
    from uuid import UUID

    from farebox.cli.database import Session

NO_LIMIT = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    change = actions.add_parser("set", help="set, change or remove a limit")
    change.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    change.add_argument(
        "--monthly",
        required=True,
        metavar="AMOUNT",
        help="for each calendar month of the organisation's zone, or none to remove it",
    )
    listed = actions.add_parser("list", help="the limits and what is left under them")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"set": _set, "list": _list}
    return work(args, lambda session: jobs[args.action](session, args))


async def _set(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import InvalidInputError
    from farebox.kit.money import parse_amount
    from farebox.ledger.commands import SetLimit
    from farebox.ledger.limits import Period

    maximum = None
    if args.monthly.strip().lower() != NO_LIMIT:
        maximum = parse_amount(args.monthly, field="monthly")
        if maximum < 0:
            raise InvalidInputError("monthly", "must be zero or more, or none")
    organization = await session.organization(args.org)
    command = SetLimit(organization_id=organization.id, period=Period.MONTH, maximum=maximum)
    await session.submit(command)
    rows = await _rows(session, organization.id)

    def text() -> None:
        if maximum is None:
            say(f"{organization.name} has no monthly limit.")
        else:
            amount = rows[0]["maximum"]
            say(f"{organization.name} may spend {amount} {organization.currency} a month.")

    show(args, page(rows, None), text)
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    organization = await session.organization(args.org)
    rows = await _rows(session, organization.id)

    def text() -> None:
        if not rows:
            hint(f"{organization.name} has no limit; set one: farebox limits set --monthly 100.00")
            return
        table(
            ["scope", "period", "maximum", "used", "held", "left", "*resets (UTC)"],
            [
                (
                    r["scope_kind"],
                    r["period"],
                    r["maximum"],
                    r["used"],
                    r["held"],
                    r["left"],
                    r["resets_at"][:16].replace("T", " "),
                )
                for r in rows
            ],
            right="maximum used held left",
        )

    show(args, page(rows, None), text)
    return 0


async def _rows(session: Session, organization_id: UUID) -> list[Document]:
    from farebox.operations.limit_documents import limit_document
    from farebox.storage.balance_store import list_limits

    return [limit_document(each) for each in await list_limits(session.connection, organization_id)]
