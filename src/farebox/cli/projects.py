"""``farebox projects``: the parts of an organisation that have keys of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farebox.cli.output import Document, facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_count, read_limit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from farebox.cli.database import Session
    from farebox.operations.tenants import OutputCap, Project, ProjectChange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a project")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    create.add_argument("--environment", default="production", help="default production")
    create.add_argument(
        "--slices",
        action="store_true",
        help="hold a stream's output slice by slice; it is cut off where money ends",
    )
    _add_settings(create)

    split = actions.add_parser(
        "split", help="make the usual projects: testing, production, customer, internal"
    )
    split.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")

    listed = actions.add_parser("list", help="list projects")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    add_page_arguments(listed)

    lint = actions.add_parser(
        "lint", help="what is worth mending about projects; exit status 1 if there is anything"
    )
    lint.add_argument("--org", metavar="ORG", help="id or name (default: of all)")
    add_page_arguments(lint)

    for name, text in (
        ("show", "show one with all its settings"),
        ("update", "change settings"),
        ("archive", "close one and its keys, for good"),
    ):
        one = actions.add_parser(name, help=text)
        one.add_argument("project", metavar="PROJECT", help="id or name")
        one.add_argument("--org", metavar="ORG", help="where several have one of that name")
        if name == "update":
            one.add_argument("--name", metavar="NAME")
            one.add_argument("--environment")
            one.add_argument("--slices", choices=("on", "off"), help="hold streams slice by slice")
            _add_settings(one)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--purpose", metavar="TEXT", help="what it is for")
    parser.add_argument("--owner", metavar="WHO", help="who to ask")
    parser.add_argument(
        "--models",
        metavar="LIST",
        help="allowed models: names and beginnings, gpt-5.4,gpt-4o*; all to allow every one",
    )
    parser.add_argument(
        "--default-output-tokens",
        metavar="N",
        help="output limit of calls that name none (default 16,384)",
    )
    parser.add_argument(
        "--output-tokens-max", metavar="N", help="most output that a call may ask for, or none"
    )
    parser.add_argument(
        "--feature-cap",
        action="append",
        default=[],
        metavar="F=N:MAX",
        help="default and most output of one feature's calls: chat=500:2000, chat=:2000, or "
        "chat=none; may be repeated",
    )
    parser.add_argument(
        "--content-days", metavar="N", help="store calls' content for so many days, or none"
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {
        "create": _create,
        "split": _split,
        "list": _list,
        "lint": _lint,
        "show": _show,
        "update": _update,
        "archive": _archive,
    }
    return work(args, lambda session: jobs[args.action](session, args))


async def _create(session: Session, args: argparse.Namespace) -> int:
    settings = read_settings(args)
    if args.feature_cap:
        from msgspec import structs

        settings = structs.replace(settings, feature_caps=_feature_caps(args, {}))
    organization = await session.organization(args.org)
    made = await session.administration.create_project(
        args.name,
        organization.id,
        environment=args.environment,
        slices=args.slices,
        settings=settings,
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


async def _split(session: Session, args: argparse.Namespace) -> int:
    organization = await session.organization(args.org)
    projects = await session.administration.create_split(organization.id)
    rows = [describe(each) for each in projects]
    show(args, page(rows, None), lambda: _table(rows))
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("proj", args.cursor, field="cursor")
    within = await session.within(args.org)
    found = await session.tenants.projects(organization_id=within, after=after, limit=limit + 1)
    rows = [describe(each) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no project yet; make one: farebox projects create NAME --org ORG")
            return
        _table(rows)
        if cursor:
            hint(f"More: farebox projects list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _lint(session: Session, args: argparse.Namespace) -> int:
    from farebox.advice.catalogue import entry_of
    from farebox.advice.lint import without_owner
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("proj", args.cursor, field="cursor")
    within = await session.within(args.org)
    found = await session.tenants.projects(
        organization_id=within, without_owner=True, after=after, limit=limit + 1
    )
    told = [(each, without_owner(each.id, each.name)) for each in found[:limit]]
    rows: list[Document] = [
        {
            "object": "project_finding",
            "code": finding.code.value,
            "name": entry_of(finding.code).name,
            "severity": finding.severity.value,
            "project_id": finding.subject,
            "project_name": project.name,
            "cause": finding.cause,
            "fix": finding.fixes[0].command,
        }
        for project, finding in told
    ]
    cursor = rows[-1]["project_id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            say("Every project has an owner.")
        for row in rows:
            say(f"{row['code']}  {row['cause']}")
            hint(row["fix"])
        if cursor:
            hint(f"More: farebox projects lint --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 1 if rows else 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    project = await session.project(args.project, args.org)
    document = describe(project)

    def text() -> None:
        allowed = project.allowed_models
        caps = project.feature_caps
        shown = {
            **document,
            "slices": _yes(on=project.slices),
            "stores_content": _yes(on=project.stores_content),
            "feature_caps": ", ".join(_cap_text(name, caps[name]) for name in sorted(caps))
            or "none",
            "allowed_models": "all" if allowed is None else ", ".join(allowed) or "none",
        }
        facts((key.replace("_", " "), shown[key]) for key in shown if key != "object")
        if not project.owner:
            hint("It has no owner; name one: farebox projects update PROJECT --owner WHO")

    show(args, document, text)
    return 0


async def _update(session: Session, args: argparse.Namespace) -> int:
    from msgspec import structs

    from farebox.kit.errors import InvalidInputError

    given = {"name": args.name, "environment": args.environment}
    if args.slices is not None:
        given["slices"] = args.slices == "on"
    change = structs.replace(
        read_settings(args), **{name: value for name, value in given.items() if value is not None}
    )
    if change == type(change)() and not args.feature_cap:
        raise InvalidInputError(
            "settings", "to change must be given; see farebox projects update --help"
        )
    project = await session.project(args.project, args.org)
    if args.feature_cap:
        change = structs.replace(change, feature_caps=_feature_caps(args, project.feature_caps))
    changed = await session.administration.change_project(project.id, change)
    show(args, describe(changed), lambda: say(f"Changed project {changed.name}."))
    return 0


async def _archive(session: Session, args: argparse.Namespace) -> int:
    project = await session.project(args.project, args.org)
    archived = await session.administration.archive_project(project.id)
    show(
        args,
        describe(archived),
        lambda: say(f"Project {archived.name} is archived since {short(archived.archived_at)}."),
    )
    return 0


def read_settings(args: argparse.Namespace) -> ProjectChange:
    """What the flags of a project's settings say; a flag that is not given changes nothing.

    Raises:
        InvalidInputError: Naming the field.
    """
    from farebox.operations.project_settings import OUTPUT_TOKENS_MAX, RETENTION_DAYS_MAX
    from farebox.operations.tenants import ProjectChange

    given: dict[str, Any] = {}
    for field in ("purpose", "owner"):
        if getattr(args, field) is not None:
            given[field] = getattr(args, field)
    if args.models is not None:
        every = args.models.strip().lower() == "all"
        given["allowed_models"] = None if every else tuple(filter(None, args.models.split(",")))
    for field in ("default_output_tokens", "output_tokens_max"):
        text = getattr(args, field)
        if text is not None:
            given[field] = _count_or_none(text, field, OUTPUT_TOKENS_MAX)
    if args.content_days is not None:
        days = _count_or_none(args.content_days, "content_days", RETENTION_DAYS_MAX)
        given |= {"stores_content": days is not None, "content_retention_days": days}
    return ProjectChange(**given)


def _feature_caps(
    args: argparse.Namespace, standing: Mapping[str, OutputCap]
) -> dict[str, OutputCap]:
    """The caps that stand, with those that were named set otherwise or taken away."""
    from farebox.kit.errors import InvalidInputError
    from farebox.operations.project_settings import OUTPUT_TOKENS_MAX
    from farebox.operations.tenants import OutputCap

    caps = dict(standing)
    for text in args.feature_cap:
        feature, equals, numbers = (part.strip() for part in text.rpartition("="))
        if not equals or not feature:
            raise InvalidInputError("feature_cap", "must look like chat=500:2000 or chat=none")
        caps.pop(feature, None)
        if numbers.lower() == "none":
            continue
        default, colon, most = numbers.partition(":")
        if not colon:
            raise InvalidInputError(
                "feature_cap", "needs a colon before the maximum: chat=500:2000, chat=500:, chat=:9"
            )
        caps[feature] = OutputCap(
            default_output_tokens=_cap_or_none(default, OUTPUT_TOKENS_MAX),
            output_tokens_max=_cap_or_none(most, OUTPUT_TOKENS_MAX),
        )
    return caps


def _cap_or_none(text: str, most: int) -> int | None:
    return _count_or_none(text, "feature_cap", most) if text.strip() else None


def _count_or_none(text: str, field: str, most: int) -> int | None:
    if text.strip().lower() == "none":
        return None
    return read_count(text, field=field, low=1, high=most)


def describe(project: Project) -> Document:
    """A project's document."""
    from farebox.operations.documents import document

    return {"object": "project", **document(project, of="proj")}


def _table(rows: list[Document]) -> None:
    table(
        ["*id", "name", "organisation", "environment"],
        [(r["id"], r["name"], r["organization_name"], _environment(r)) for r in rows],
    )


def _environment(row: Document) -> str:
    return f"{row['environment']} (archived)" if row["archived_at"] else str(row["environment"])


def _cap_text(feature: str, cap: OutputCap) -> str:
    return f"{feature}={cap.default_output_tokens or ''}:{cap.output_tokens_max or ''}"


def _yes(*, on: bool) -> str:
    return "yes" if on else "no"
