"""``farebox keys``: API keys; a key's text is shown when it is made and never again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_instant, read_limit

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from farebox.cli.database import Session
    from farebox.operations.administration import MadeKey
    from farebox.operations.tenants import ListedKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a key and show it once")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--project", metavar="PROJECT", help="id or name")
    create.add_argument("--org", metavar="ORG", help="where several have a project of that name")
    create.add_argument("--expires-at", metavar="T", help="date, or time with its zone")
    create.add_argument("--management", action="store_true", help=_MANAGEMENT)

    listed = actions.add_parser("list", help="list keys")
    listed.add_argument("--project", metavar="PROJECT", help="id or name (default: of all)")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    listed.add_argument("--management", action="store_true", help=_MANAGEMENT)
    add_page_arguments(listed)

    revoke = actions.add_parser("revoke", help="end a key at once")
    revoke.add_argument("key", metavar="KEY", help="id or name")
    revoke.add_argument("--project", metavar="PROJECT", help="id or name")
    revoke.add_argument("--org", metavar="ORG", help="id or name")
    revoke.add_argument("--management", action="store_true", help=_MANAGEMENT)


_MANAGEMENT = "a key of the management API instead"


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"create": _create, "list": _list, "revoke": _revoke}
    if args.management:
        jobs = {"create": _create_managing, "list": _list_managing, "revoke": _revoke_managing}
    return work(args, lambda session: jobs[args.action](session, args))


async def _create(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import InvalidInputError

    if args.project is None:
        raise InvalidInputError("project", "must be given: --project with its id or name")
    expires_at = (
        None if args.expires_at is None else read_instant(args.expires_at, field="expires_at")
    )
    project = await session.project(args.project, args.org)
    made = await session.administration.create_key(args.name, project.id, expires_at=expires_at)
    listed = (await session.tenants.keys(key_id=made.id, limit=1))[0]
    _show_once(args, made, describe(listed, listed.created_at))
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("key", args.cursor, field="cursor")
    within = None if args.org is None else (await session.organization(args.org)).id
    project = None if args.project is None else await session.project(args.project, args.org)
    found = await session.tenants.keys(
        project_id=None if project is None else project.id,
        organization_id=within,
        after=after,
        limit=limit + 1,
    )
    now = await session.now()
    rows = [describe(each, now) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no key yet; make one: farebox keys create NAME --project PROJECT")
            return
        table(
            ["*id", "name", "project", "*key", "state"],
            [(r["id"], r["name"], r["project_name"], r["prefix"], r["state"]) for r in rows],
        )
        if cursor:
            hint(f"More: farebox keys list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _revoke(session: Session, args: argparse.Namespace) -> int:
    project = None if args.project is None else await session.project(args.project, args.org)
    found = await session.administration.find_key(
        args.key, project_id=None if project is None else project.id
    )
    revoked_at = await session.administration.revoke_key(found.id)
    after = (await session.tenants.keys(key_id=found.id, limit=1))[0]
    show(
        args,
        describe(after, await session.now()),
        lambda: say(f"Key {found.name} ({found.prefix}...) is revoked since {short(revoked_at)}."),
    )
    return 0


async def _create_managing(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import format_id

    made = await session.administration.create_management_key(args.name)
    document = {
        "object": "management_key",
        "id": format_id("key", made.id),
        "name": args.name,
        "prefix": made.prefix,
    }
    _show_once(args, made, document)
    return 0


async def _list_managing(session: Session, args: argparse.Namespace) -> int:
    from farebox.cli.documents import instant
    from farebox.kit.ids import format_id, parse_id
    from farebox.storage.key_store import list_management_keys

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("key", args.cursor, field="cursor")
    found = await list_management_keys(session.connection, after=after, limit=limit + 1)
    rows: list[Document] = [
        {
            "object": "management_key",
            "id": format_id("key", key.id),
            "name": key.name,
            "prefix": key.prefix,
            "created_at": instant(key.created_at),
            "revoked_at": instant(key.revoked_at),
            "state": "active" if key.revoked_at is None else "revoked",
        }
        for key in found[:limit]
    ]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no management key; make one: farebox keys create NAME --management")
            return
        table(
            ["*id", "name", "*key", "state"],
            [(r["id"], r["name"], r["prefix"], r["state"]) for r in rows],
        )

    show(args, page(rows, cursor), text)
    return 0


async def _revoke_managing(session: Session, args: argparse.Namespace) -> int:
    from farebox.cli.documents import instant
    from farebox.kit.errors import InvalidInputError, NotFoundError
    from farebox.kit.ids import format_id
    from farebox.storage.key_store import list_management_keys, revoke_management_key

    every = await list_management_keys(session.connection, limit=10_000)
    found = [key for key in every if args.key in {key.name, format_id("key", key.id)}]
    if not found:
        raise NotFoundError(
            f"There is no management key {args.key[:80]!r}; "
            "`farebox keys list --management` shows them."
        )
    if len(found) > 1:
        raise InvalidInputError("key", f"{args.key!r} names several keys; give the id")
    revoked_at = await revoke_management_key(session.connection, found[0].id)
    document = {
        "object": "management_key",
        "id": format_id("key", found[0].id),
        "name": found[0].name,
        "revoked_at": instant(revoked_at),
        "state": "revoked",
    }
    show(args, document, lambda: say(f"Management key {found[0].name} is revoked."))
    return 0


def describe(key: ListedKey, now: datetime) -> Document:
    """A key's document."""
    from farebox.cli.documents import document

    described = {"object": "api_key", **document(key, of="key"), "state": key.state_at(now).value}
    for internal in ("project_archived_at", "organization_active"):
        del described[internal]
    return described


def _show_once(args: argparse.Namespace, made: MadeKey, document: Document) -> None:
    def text() -> None:
        facts([("id", document["id"]), ("key", made.text)])
        hint("Keep the key now: it is stored as a digest and cannot be shown again.")

    show(args, {**document, "key": made.text}, text)
