"""``farebox projects``: the parts of an organisation that have keys of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, hint, page, say, show, table
from farebox.cli.reading import add_page_arguments, read_count, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.tenants import Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a project")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    create.add_argument("--environment", default="production", help="default production")
    create.add_argument(
        "--default-output-tokens",
        metavar="N",
        help="output limit of calls that name none (default 16,384)",
    )
    create.add_argument(
        "--slices",
        action="store_true",
        help="hold a stream's output slice by slice; it is cut off where money ends",
    )

    listed = actions.add_parser("list", help="list projects")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    add_page_arguments(listed)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"create": _create, "list": _list}
    return work(args, lambda session: jobs[args.action](session, args))


async def _create(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.administration import OUTPUT_TOKENS_MAX

    tokens = args.default_output_tokens
    organization = await session.organization(args.org)
    made = await session.administration.create_project(
        args.name,
        organization.id,
        environment=args.environment,
        default_output_tokens=None
        if tokens is None
        else read_count(tokens, field="default_output_tokens", low=1, high=OUTPUT_TOKENS_MAX),
        slices=args.slices,
    )
    document = describe(made)
    show(
        args,
        document,
        lambda: say(f"Made project {made.name} of {made.organization_name}: {document['id']}"),
    )
    if not args.json:
        hint(f"Next: farebox keys create NAME --project {document['id']}")
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("proj", args.cursor, field="cursor")
    within = None if args.org is None else (await session.organization(args.org)).id
    found = await session.tenants.projects(organization_id=within, after=after, limit=limit + 1)
    rows = [describe(each) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no project yet; make one: farebox projects create NAME --org ORG")
            return
        table(
            ["*id", "name", "organisation", "environment"],
            [(r["id"], r["name"], r["organization_name"], r["environment"]) for r in rows],
        )
        if cursor:
            hint(f"More: farebox projects list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


def describe(project: Project) -> Document:
    """A project's document."""
    from farebox.cli.documents import document

    return {"object": "project", **document(project, of="proj")}
