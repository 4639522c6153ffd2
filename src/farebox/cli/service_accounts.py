"""``farebox service-accounts``: the owners of keys for production jobs (ORG-18)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, hint, page, say, show, table
from farebox.cli.reading import add_page_arguments, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.tenants import ServiceAccount


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a service account")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--project", metavar="PROJECT", required=True, help="id or name")
    create.add_argument("--org", metavar="ORG", help="where several have a project of that name")
    create.add_argument("--purpose", metavar="TEXT", default="", help="what the job is for")
    listed = actions.add_parser("list", help="list service accounts")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    listed.add_argument("--project", metavar="PROJECT", help="id or name (default: of all)")
    add_page_arguments(listed)
    disable = actions.add_parser("disable", help="end one, and revoke its keys")
    disable.add_argument("account", metavar="ACCOUNT", help="id or name")
    disable.add_argument("--project", metavar="PROJECT", help="id or name")
    disable.add_argument("--org", metavar="ORG", help="id or name")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"create": _create, "list": _list, "disable": _disable}
    return work(args, lambda session: jobs[args.action](session, args))


async def _create(session: Session, args: argparse.Namespace) -> int:
    project = await session.project(args.project, args.org)
    made = await session.administration.create_service_account(
        args.name, project.id, purpose=args.purpose
    )
    document = describe(made)
    show(
        args,
        document,
        lambda: say(f"Made service account {made.name} of {made.project_name}: {document['id']}"),
    )
    if not args.json:
        hint(
            f"Next: farebox keys create NAME --project {args.project} "
            f"--service-account {document['id']}"
        )
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("svc", args.cursor, field="cursor")
    within, project_id = await session.narrowed(args.org, args.project)
    found = await session.tenants.service_accounts(
        organization_id=within,
        project_id=project_id,
        after=after,
        limit=limit + 1,
    )
    rows = [describe(each) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is none yet; make one: farebox service-accounts create NAME --project P")
            return
        table(
            ["*id", "name", "project", "state"],
            [(r["id"], r["name"], r["project_name"], r["state"]) for r in rows],
        )
        if cursor:
            hint(f"More: farebox service-accounts list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _disable(session: Session, args: argparse.Namespace) -> int:
    within, project_id = await session.narrowed(args.org, args.project)
    found = await session.administration.find_service_account(
        args.account,
        organization_id=within,
        project_id=project_id,
    )
    disabled = await session.administration.disable_service_account(found.id)
    show(
        args,
        describe(disabled),
        lambda: say(f"Service account {disabled.name} is disabled; its keys are revoked."),
    )
    return 0


def describe(account: ServiceAccount) -> Document:
    """A service account's document."""
    from farebox.operations.documents import document

    state = "active" if account.disabled_at is None else "disabled"
    return {"object": "service_account", **document(account, of="svc"), "state": state}
