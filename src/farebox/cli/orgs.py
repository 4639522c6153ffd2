"""``farebox orgs``: organisations, which own balance, keys, usage and credit (ORG-02)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, show, table
from farebox.cli.reading import add_page_arguments, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.tenants import OrganizationProfile

ON_OVERRUN = ("absorb", "owe")
ON_LAPSE = ("metered", "nothing", "ceiling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make an organisation")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--currency", default="USD", help="of its credit, for good (default USD)")
    create.add_argument("--zone", default="UTC", help="time zone of its budget months")
    create.add_argument(
        "--floor", default="0", metavar="AMOUNT", help="how far below zero it may go"
    )
    create.add_argument("--on-overrun", choices=ON_OVERRUN, default="absorb", help=_OVERRUN)
    create.add_argument("--on-lapse", choices=ON_LAPSE, default="metered", help=_LAPSE)

    provision = actions.add_parser(
        "provision", help="make one with plan and projects, and invite its owner"
    )
    provision.add_argument("name", metavar="NAME")
    provision.add_argument("--owner", metavar="EMAIL", required=True, help="who is invited")
    provision.add_argument("--plan", metavar="PLAN", help="its price plan: id or name")
    provision.add_argument("--split", action="store_true", help="with the usual projects")
    provision.add_argument("--currency", default="USD", help="of its credit (default USD)")
    provision.add_argument("--zone", default="UTC", help="time zone of its budget months")

    listed = actions.add_parser("list", help="list organisations")
    add_page_arguments(listed)

    shown = actions.add_parser("show", help="show one, with its balance")
    shown.add_argument("org", metavar="ORG", help="id or name")

    update = actions.add_parser("update", help="change settings")
    update.add_argument("org", metavar="ORG", help="id or name")
    update.add_argument("--name", metavar="NAME")
    update.add_argument(
        "--zone", metavar="Z", help="time zone of its budgets: days, weeks and months begin anew"
    )
    update.add_argument("--floor", metavar="AMOUNT", help="how far below zero it may go")
    update.add_argument("--on-overrun", choices=ON_OVERRUN, help=_OVERRUN)
    update.add_argument("--on-lapse", choices=ON_LAPSE, help=_LAPSE)
    which = update.add_mutually_exclusive_group()
    which.add_argument("--activate", action="store_const", const=True, dest="active")
    which.add_argument(
        "--deactivate", action="store_const", const=False, dest="active", help="refuse every call"
    )


_OVERRUN = "usage beyond hold, balance and limits: borne by the operator, or owed"
_LAPSE = "what a call whose end is unknown is charged"


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {
        "create": _create,
        "provision": _provision,
        "list": _list,
        "show": _show,
        "update": _update,
    }
    return work(
        args, lambda session: jobs[args.action](session, args), create=args.action == "create"
    )


async def _create(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.money import parse_amount
    from farebox.ledger.organizations import OnLapse, OnOverrun

    made = await session.administration.create_organization(
        args.name,
        currency=args.currency,
        zone=args.zone,
        floor=parse_amount(args.floor, field="floor"),
        on_overrun=OnOverrun(args.on_overrun),
        on_lapse=OnLapse(args.on_lapse),
    )
    document = describe(made)
    show(args, document, lambda: say(f"Made organisation {made.name}: {document['id']}"))
    if not args.json:
        if made.currency != "USD":
            hint(
                f"Calls are refused until there are prices in {made.currency}: "
                f"farebox prices set --currency {made.currency}"
            )
        hint(f"Next: farebox projects create default --org {document['id']}")
    return 0


async def _provision(session: Session, args: argparse.Namespace) -> int:
    from farebox.cli.members import describe_invitation
    from farebox.cli.projects import describe as describe_project
    from farebox.operations.provisioning import Order, provision

    plan = None if args.plan is None else await session.plans.find_plan(args.plan)
    order = Order(
        name=args.name,
        owner_email=args.owner,
        currency=args.currency,
        zone=args.zone,
        plan_id=None if plan is None else plan.id,
        split=args.split,
    )
    made = await provision(session.administration, session.people, order)
    document: Document = {
        **describe(made.organization),
        "projects": [describe_project(each) for each in made.projects],
        "invitation": {
            **describe_invitation(made.invitation.invitation, "open"),
            "token": made.invitation.token,
        },
    }

    def text() -> None:
        say(f"Made organisation {made.organization.name}: {document['id']}")
        facts(
            [
                ("owner", made.invitation.invitation.email),
                ("projects", ", ".join(each.name for each in made.projects)),
                ("token", made.invitation.token),
            ]
        )
        hint("Hand the token over now: it works once, and cannot be shown again.")

    show(args, document, text)
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("org", args.cursor, field="cursor")
    found = await session.tenants.organizations(after=after, limit=limit + 1)
    rows = [describe(each) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no organisation yet; make one: farebox orgs create NAME")
            return
        table(
            ["*id", "name", "currency", "state"],
            [(r["id"], r["name"], r["currency"], _state(r)) for r in rows],
        )
        if cursor:
            hint(f"More: farebox orgs list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import document
    from farebox.storage.balance_store import read_balance

    organization = await session.organization(args.org)
    balance = document(await read_balance(session.connection, organization.id), of="grant")
    described = describe(organization)

    def text() -> None:
        shown = {**described, "active": "yes" if organization.active else "no"}
        facts((key.replace("_", " "), shown[key]) for key in shown if key != "object")
        say("")
        keys = ("available", "posted", "held", "owed", "spent", "expired", "maximum_exposure")
        facts((key.replace("_", " "), balance[key]) for key in keys)

    show(args, {**described, "balance": balance}, text)
    return 0


async def _update(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import InvalidInputError
    from farebox.kit.money import format_amount, parse_amount
    from farebox.ledger.commands import SetFloor, SetZone
    from farebox.ledger.organizations import OnLapse, OnOverrun
    from farebox.operations.tenants import OrganizationChange

    organization = await session.organization(args.org)
    given = (args.name, args.zone, args.floor, args.on_overrun, args.on_lapse, args.active)
    if all(value is None for value in given):
        raise InvalidInputError(
            "settings", "to change must be given; see farebox orgs update --help"
        )
    floor = None if args.floor is None else parse_amount(args.floor, field="floor")
    if floor is not None and floor < 0:
        raise InvalidInputError("floor", "must be zero or more: it is how far below zero")
    change = OrganizationChange(
        name=args.name,
        active=args.active,
        on_overrun=None if args.on_overrun is None else OnOverrun(args.on_overrun),
        on_lapse=None if args.on_lapse is None else OnLapse(args.on_lapse),
    )
    await session.administration.change_organization(organization.id, change)
    if args.zone is not None:
        zone = SetZone(organization_id=organization.id, zone=args.zone)
        await session.submit(zone, before={"zone": organization.zone})
    if floor is not None:
        command = SetFloor(organization_id=organization.id, floor=floor)
        await session.submit(command, before={"floor": format_amount(organization.floor)})
    found = await session.tenants.organizations(organization_id=organization.id, limit=1)
    document = describe(found[0])
    show(args, document, lambda: say(f"Changed organisation {found[0].name}."))
    return 0


def describe(organization: OrganizationProfile) -> Document:
    """An organisation's document."""
    from farebox.operations.documents import document

    return {"object": "organization", **document(organization, of="org")}


def _state(row: Document) -> str:
    return "active" if row["active"] else "inactive"
