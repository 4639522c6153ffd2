"""``farebox keys``: API keys; a key's text is shown when it is made and never again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_duration, read_instant, read_limit

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from farebox.cli.database import Session
    from farebox.operations.administration import MadeKey
    from farebox.operations.tenants import ListedKey, ManagementKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a key and show it once")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--project", metavar="PROJECT", help="id or name")
    create.add_argument("--org", metavar="ORG", help=_WHERE)
    create.add_argument("--expires-at", metavar="T", help="date, or time with its zone")
    owner = create.add_mutually_exclusive_group()
    owner.add_argument("--service-account", metavar="ACCOUNT", help="its owner: id or name")
    owner.add_argument("--member", metavar="EMAIL", help="its owner: a member")
    create.add_argument("--management", action="store_true", help=_MANAGEMENT)
    create.add_argument(
        "--role", choices=ROLES, help="of a management key with --org (default owner)"
    )

    listed = actions.add_parser("list", help="list keys")
    listed.add_argument("--project", metavar="PROJECT", help="id or name (default: of all)")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    listed.add_argument("--management", action="store_true", help=_MANAGEMENT)
    add_page_arguments(listed)

    for name, text in (
        ("show", "show one: owner, last use, what it replaced"),
        ("rotate", "make a key in the place of another, and show it once"),
        ("revoke", "end a key at once"),
    ):
        one = actions.add_parser(name, help=text)
        one.add_argument("key", metavar="KEY", help="id or name")
        one.add_argument("--project", metavar="PROJECT", help="id or name")
        one.add_argument("--org", metavar="ORG", help="id or name")
        if name == "rotate":
            one.add_argument(
                "--overlap",
                metavar="T",
                default="1d",
                help="how long the old one still works, such as 12h, or 0 (default 1d)",
            )
        if name == "revoke":
            one.add_argument("--management", action="store_true", help=_MANAGEMENT)


ROLES = ("owner", "billing_admin", "developer", "finance_viewer", "viewer")

_WHERE = "where several have a project of that name; what a management key manages"
_MANAGEMENT = "a key of the management API instead"


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {
        "create": _create,
        "list": _list,
        "show": _show,
        "rotate": _rotate,
        "revoke": _revoke,
    }
    if getattr(args, "management", False):
        jobs = {"create": _create_managing, "list": _list_managing, "revoke": _revoke_managing}
    return work(args, lambda session: jobs[args.action](session, args))


async def _create(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import InvalidInputError

    if args.project is None:
        raise InvalidInputError("project", "must be given: --project with its id or name")
    if args.role is not None:
        raise InvalidInputError("role", "is of management keys: give --management too")
    expires_at = (
        None if args.expires_at is None else read_instant(args.expires_at, field="expires_at")
    )
    project = await session.project(args.project, args.org)
    account, member = None, None
    if args.service_account is not None:
        account = await session.administration.find_service_account(
            args.service_account, project_id=project.id
        )
    if args.member is not None:
        member = await session.people.find_user(args.member)
    made = await session.administration.create_key(
        args.name,
        project.id,
        expires_at=expires_at,
        service_account_id=None if account is None else account.id,
        user_id=None if member is None else member.id,
    )
    listed = (await session.tenants.keys(key_id=made.id, limit=1))[0]
    _show_once(args, made, describe(listed, listed.created_at))
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("key", args.cursor, field="cursor")
    within, project_id = await session.narrowed(args.org, args.project)
    found = await session.tenants.keys(
        project_id=project_id,
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


async def _show(session: Session, args: argparse.Namespace) -> int:
    found = await _find(session, args)
    document = describe(found, await session.now())

    def text() -> None:
        shown = {**document, "last_used_at": short(found.last_used_at)}
        facts((key.replace("_", " "), shown[key]) for key in shown if key != "object")

    show(args, document, text)
    return 0


async def _rotate(session: Session, args: argparse.Namespace) -> int:
    from datetime import timedelta

    from farebox.ledger.scopes import ScopeKind, scope_number
    from farebox.operations.key_rotation import limit_copier
    from farebox.storage.balance_store import list_limits

    at_once = args.overlap.strip() == "0"
    overlap = timedelta(0) if at_once else read_duration(args.overlap, field="overlap")
    old = await _find(session, args)
    scope = scope_number(ScopeKind.KEY, old.id.hex)
    limits = await list_limits(session.connection, old.organization_id, scopes=[scope])
    prepare = limit_copier(session.audit, session.decide, old.organization_id, limits, old.id)
    made = await session.administration.rotate_key(old.id, overlap=overlap, prepare=prepare)
    listed = (await session.tenants.keys(key_id=made.id, limit=1))[0]
    after = (await session.tenants.keys(key_id=old.id, limit=1))[0]
    _show_once(args, made, describe(listed, listed.created_at))
    if not args.json:
        hint(f"The old key {old.prefix}... works until {short(after.expires_at)} UTC.")
    return 0


async def _find(session: Session, args: argparse.Namespace) -> ListedKey:
    within, project_id = await session.narrowed(args.org, args.project)
    return await session.administration.find_key(
        args.key,
        organization_id=within,
        project_id=project_id,
    )


async def _revoke(session: Session, args: argparse.Namespace) -> int:
    found = await _find(session, args)
    revoked_at = await session.administration.revoke_key(found.id)
    after = (await session.tenants.keys(key_id=found.id, limit=1))[0]
    show(
        args,
        describe(after, await session.now()),
        lambda: say(f"Key {found.name} ({found.prefix}...) is revoked since {short(revoked_at)}."),
    )
    return 0


async def _create_managing(session: Session, args: argparse.Namespace) -> int:
    from farebox.tenancy.permissions import Role

    expires_at = (
        None if args.expires_at is None else read_instant(args.expires_at, field="expires_at")
    )
    organization = None if args.org is None else await session.organization(args.org)
    made = await session.administration.create_management_key(
        args.name,
        organization_id=None if organization is None else organization.id,
        role=None if args.role is None else Role(args.role),
        expires_at=expires_at,
    )
    (key,) = await session.tenants.management_keys(key_id=made.id, limit=1)
    _show_once(args, made, describe_managing(key, key.created_at))
    return 0


async def _list_managing(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("key", args.cursor, field="cursor")
    within = await session.within(args.org)
    found = await session.tenants.management_keys(
        organization_id=within, after=after, limit=limit + 1
    )
    now = await session.now()
    rows = [describe_managing(key, now) for key in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no management key; make one: farebox keys create NAME --management")
            return
        table(
            ["*id", "name", "manages", "made by", "state"],
            [
                (
                    *(r["id"], r["name"], r["role"] or "everything"),
                    *(r["user_email"] or "a shell", r["state"]),
                )
                for r in rows
            ],
        )

    show(args, page(rows, cursor), text)
    return 0


async def _revoke_managing(session: Session, args: argparse.Namespace) -> int:
    within = await session.within(args.org)
    found = await session.administration.find_management_key(args.key, organization_id=within)
    await session.administration.revoke_management_key(found.id)
    (key,) = await session.tenants.management_keys(key_id=found.id, limit=1)
    document = describe_managing(key, await session.now())
    show(args, document, lambda: say(f"Management key {key.name} is revoked."))
    return 0


def describe(key: ListedKey, now: datetime) -> Document:
    """A key's document."""
    from farebox.operations.documents import document

    described = {"object": "api_key", **document(key, of="key"), "state": key.state_at(now).value}
    for internal in ("project_archived_at", "organization_active"):
        del described[internal]
    return described


def describe_managing(key: ManagementKey, now: datetime) -> Document:
    """A management key's document."""
    from farebox.operations.documents import document

    state = key.state_at(now).value
    return {"object": "management_key", **document(key, of="key"), "state": state}


def _show_once(args: argparse.Namespace, made: MadeKey, document: Document) -> None:
    def text() -> None:
        facts([("id", document["id"]), ("key", made.text)])
        hint("Keep the key now: it is stored as a digest and cannot be shown again.")

    show(args, {**document, "key": made.text}, text)
