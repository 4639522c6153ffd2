"""``farebox credits``: giving credit, seeing what is left of it, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, show, table
from farebox.cli.reading import add_page_arguments, read_count, read_instant, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session

SOURCES = ("purchased", "free", "promo", "grant", "adjustment", "business", "contract")
EXCEPTIONS = (
    "account_closure",
    "dispute",
    "billing_error",
    "unauthorised_activity",
    "service_failure",
)
FORBIDDEN = {
    "transfer": "never: credit cannot move between organisations",
    "withdraw": "never: credit cannot be paid out",
    "extend": "never: the end of a grant cannot be moved",
}
_CURSOR_MAX = 2**63 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    grant = actions.add_parser("grant", help="give credit, or book a purchase")
    _add_org(grant)
    grant.add_argument("--amount", required=True, help="decimal, of the organisation's currency")
    grant.add_argument("--source", required=True, choices=SOURCES, help="where it comes from")
    grant.add_argument(
        "--expires-at",
        metavar="T",
        help="date, or time with its zone (default: bought credit a year, other 6 months)",
    )
    grant.add_argument("--reference", help="order form, payment or reason; a contract needs it")
    grant.add_argument(
        "--id", metavar="GRANT", help="of the new grant: makes a repetition harmless"
    )

    balance = actions.add_parser("balance", help="what is left, by source and by grant")
    _add_org(balance)

    grants = actions.add_parser("grants", help="every grant, newest first")
    _add_org(grants)
    add_page_arguments(grants)

    history = actions.add_parser("history", help="the journal, newest first")
    _add_org(history)
    add_page_arguments(history)

    refund = actions.add_parser(
        "refund", help="take back unspent credit where an exception applies"
    )
    refund.add_argument("grant", metavar="GRANT", help="id")
    refund.add_argument("--amount", help="default: all that is unspent and not held")
    refund.add_argument("--exception", choices=EXCEPTIONS, help="which exception applies")
    refund.add_argument("--note", help="a sentence for the journal")

    for name, text in FORBIDDEN.items():
        refused = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for flag in ("--org", "--from", "--to", "--grant", "--amount", "--expires-at"):
            refused.add_argument(flag, dest="ignored")
        refused.add_argument("anything", nargs="*")


def _add_org(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    if args.action in FORBIDDEN:
        from farebox.operations.credits import refuse

        raise refuse(args.action)
    from farebox.cli.database import work

    jobs = {
        "grant": _grant,
        "balance": _balance,
        "grants": _grants,
        "history": _history,
        "refund": _refund,
    }
    return work(args, lambda session: jobs[args.action](session, args))


async def _grant(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import format_id, parse_id
    from farebox.kit.money import format_amount, parse_positive_amount
    from farebox.ledger.commands import Granted
    from farebox.ledger.grants import Source
    from farebox.operations.credits import plan_grant
    from farebox.operations.documents import document, instant
    from farebox.storage.balance_store import find_grant, read_balance

    amount = parse_positive_amount(args.amount, field="amount")
    expires_at = (
        None if args.expires_at is None else read_instant(args.expires_at, field="expires_at")
    )
    named = None if args.id is None else parse_id("grant", args.id, field="id")
    organization = await session.organization(args.org)
    command = plan_grant(
        organization.id,
        await session.new_id() if named is None else named,
        source=Source(args.source),
        amount=amount,
        expires_at=expires_at,
        reference=args.reference,
        now=await session.now(),
    )
    granted = await session.submit(command)
    assert isinstance(granted, Granted)
    grant = await find_grant(session.connection, granted.grant_id)
    balance = await read_balance(session.connection, organization.id)
    described: Document = {
        "object": "grant",
        "id": format_id("grant", granted.grant_id),
        "organization_id": format_id("org", organization.id),
        "source": grant.source.value,
        "amount": format_amount(granted.amount),
        "currency": organization.currency,
        "repaid": format_amount(granted.repaid),
        "effective_at": instant(grant.effective_at),
        "expires_at": instant(granted.expires_at),
        "reference": grant.reference,
        "exists": granted.exists,
        "balance": document(balance, of="grant"),
    }

    def text() -> None:
        verb = "Exists already" if granted.exists else "Granted"
        say(f"{verb}: {described['amount']} {organization.currency} {args.source}")
        facts(
            [
                ("id", described["id"]),
                ("expires", described["expires_at"] or "never"),
                ("repaid", described["repaid"] if granted.repaid else None),
                ("available", f"{format_amount(balance.available)} {organization.currency}"),
            ]
        )

    show(args, described, text)
    return 0


async def _balance(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import document
    from farebox.storage.balance_store import read_balance

    organization = await session.organization(args.org)
    balance = await read_balance(session.connection, organization.id)
    described = {
        "object": "balance",
        "organization_name": organization.name,
        **document(balance, of="grant"),
    }

    def text() -> None:
        say(f"{organization.name}, {balance.currency}, at {balance.at:%Y-%m-%d %H:%M:%S} UTC", "")
        always = ("available", "held", "posted", "owed", "spent", "expired", "maximum_exposure")
        notable = ("pending", "frozen", "refunded", "absorbed", "floor")
        shown = [*always, *(name for name in notable if getattr(balance, name))]
        width = max(len(described[name].split(".")[0]) for name in shown)
        facts((name.replace("_", " "), _aligned(described[name], width)) for name in shown)
        if not balance.sources:
            hint(
                "",
                "No credit is left; give some: farebox credits grant --org ORG --amount 5.00 "
                "--source purchased",
            )
            return
        say("")
        table(
            ["source", "available", "held", "grants", "earliest expiry"],
            [
                (s["source"], s["available"], s["held"], s["grants"], _day(s["earliest_expiry"]))
                for s in described["sources"]
            ],
            right="available held grants",
        )

    show(args, described, text)
    return 0


async def _grants(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import document
    from farebox.storage.balance_store import list_grants

    limit = read_limit(args)
    before = _read_cursor(args)
    organization = await session.organization(args.org)
    found = await list_grants(session.connection, organization.id, before=before, limit=limit + 1)
    rows = [{"object": "grant", **document(each, of="grant")} for each in found[:limit]]
    cursor = str(rows[-1]["sequence"]) if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("No credit was ever given; give some: farebox credits grant --help")
            return
        table(
            ["*id", "source", "left", "*ends"],
            [(r["id"], r["source"], r["remaining"], _end(r)) for r in rows],
            right="left",
        )
        if cursor:
            hint(f"More: farebox credits grants --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _history(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import document
    from farebox.storage.balance_store import list_history

    limit = read_limit(args)
    before = _read_cursor(args)
    organization = await session.organization(args.org)
    found = await list_history(session.connection, organization.id, before=before, limit=limit + 1)
    rows = [{"object": "posting", **document(each)} for each in found[:limit]]
    cursor = str(rows[-1]["id"]) if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("Nothing has happened yet; give credit: farebox credits grant --help")
            return
        table(
            ["*at (UTC)", "what", "change", "of"],
            [(r["at"][:19].replace("T", " "), r["kind"], r["change"], _subject(r)) for r in rows],
            right="change",
        )
        if cursor:
            hint(f"More: farebox credits history --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _refund(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import format_id, parse_id
    from farebox.kit.money import format_amount, parse_positive_amount
    from farebox.operations.credits import RefundException, plan_refund
    from farebox.storage.balance_store import find_grant

    grant_id = parse_id("grant", args.grant, field="grant")
    amount = None if args.amount is None else parse_positive_amount(args.amount, field="amount")
    grant = await find_grant(session.connection, grant_id)
    command = plan_refund(
        grant,
        await session.new_id(),
        amount=amount,
        exception=None if args.exception is None else RefundException(args.exception),
        note=args.note,
    )
    await session.submit(command)
    described: Document = {
        "object": "refund",
        "id": format_id("cmd", command.command_id),
        "grant_id": format_id("grant", grant.id),
        "amount": format_amount(command.amount),
        "exception": args.exception,
        "note": command.note,
    }
    show(args, described, lambda: say(f"Refunded {described['amount']} of {args.grant}."))
    return 0


def _read_cursor(args: argparse.Namespace) -> int | None:
    if args.cursor is None:
        return None
    return read_count(args.cursor, field="cursor", low=1, high=_CURSOR_MAX)


def _aligned(amount: str, width: int) -> str:
    """An amount with its point under the others'."""
    return amount.rjust(width + len(amount) - len(amount.split(".", maxsplit=1)[0]))


def _day(instant: str | None) -> str:
    return "never" if instant is None else instant[:10]


def _end(row: Document) -> str:
    """When a grant ends, or why it is of no use any more."""
    return _day(row["expires_at"]) if row["state"] == "active" else str(row["state"])


def _subject(row: Document) -> str:
    """What a posting is about: a grant, a call, or how many calls."""
    if row["kind"] == "calls":
        count = row["last_sequence"] - row["first_sequence"] + 1
        return f"{count} calls" if count > 1 else "1 call"
    return row["note"] or row["call_id"] or row["grant_id"] or ""
