"""``farebox price-plans``: what organisations are charged (DESIGN.md, decision 16)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from farebox.cli.output import Document, facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_instant, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.price_plans import Plan
    from farebox.rating.price_plans import OwnRow, PlanTerms, PlanVersion

_ROWS_BYTES_MAX = 5_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_page_arguments(actions.add_parser("list", help="plans and what they say now"))

    change = actions.add_parser(
        "set",
        help="make a plan, or its next version, whole",
        description="A version says all there is to say: what is left out of it is not taken "
        "over from the one before. A version is never edited.",
    )
    change.add_argument("name", metavar="NAME")
    change.add_argument("--markup", metavar="PERCENT", default="0", help="such as 20, or -5")
    change.add_argument(
        "--minimum-margin",
        metavar="PERCENT",
        help="share of every price that must remain after our cost; 0: never below cost",
    )
    change.add_argument("--free-models", metavar="LIST", default="", help="gpt-4o-mini,gpt-5-*")
    change.add_argument(
        "--rows-stdin",
        action="store_true",
        help="own prices as JSON lines on stdin: {models, lane, base: {unit: price}, long}; "
        "prices per million units",
    )
    change.add_argument("--effective-at", metavar="T", help="date, or time with its zone")

    shown = actions.add_parser("show", help="every version of a plan")
    shown.add_argument("plan", metavar="PLAN", help="id or name")
    assign = actions.add_parser("assign", help="rate an organisation by a plan")
    assign.add_argument("plan", metavar="PLAN", help="id or name, or none: pass prices through")
    assign.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"list": _list, "set": _set, "show": _show, "assign": _assign}
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id
    from farebox.storage.plan_store import PostgresPlanStore

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("plan", args.cursor, field="cursor")
    store = PostgresPlanStore(session.connection)
    found = await store.plans(after=after, limit=limit + 1)
    rows = [describe(plan) for plan in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("There is no price plan; everybody is charged the book's prices.")
            return
        table(
            ["*id", "name", "version", "organisations"],
            [(r["id"], r["name"], r["versions"], r["organizations"]) for r in rows],
            right="version organisations",
        )

    show(args, page(rows, cursor), text)
    return 0


async def _set(session: Session, args: argparse.Namespace) -> int:
    from farebox.rating.price_plans import PlanTerms

    terms = PlanTerms(
        markup=read_basis_points(args.markup, field="markup"),
        minimum_margin=None
        if args.minimum_margin is None
        else read_basis_points(args.minimum_margin, field="minimum_margin"),
        free_models=tuple(filter(None, (each.strip() for each in args.free_models.split(",")))),
        own_rows=read_rows(sys.stdin.read(_ROWS_BYTES_MAX)) if args.rows_stdin else (),
    )
    effective_at = (
        None if args.effective_at is None else read_instant(args.effective_at, field="effective_at")
    )
    version = await session.plans.revise(args.name, terms, effective_at=effective_at)
    document = describe_version(version)
    text = f"{version.plan_name} v{version.number} holds from {short(version.effective_at)} UTC on."
    show(args, document, lambda: say(text))
    return 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.plan_store import PostgresPlanStore

    plan = await session.plans.find_plan(args.plan)
    versions = await PostgresPlanStore(session.connection).versions(plan.id)
    document = {**describe(plan), "history": [describe_version(each) for each in versions]}

    def text() -> None:
        say(f"{plan.name} ({document['id']}), {plan.organizations} organisations")
        for version in document["history"]:
            say("", f"v{version['version']} from {version['effective_at'][:16]}")
            facts((name.replace("_", " "), _plain(version[name])) for name in _TERMS)

    show(args, document, text)
    return 0


async def _assign(session: Session, args: argparse.Namespace) -> int:
    desk = session.plans
    plan = None if args.plan.strip().lower() == "none" else await desk.find_plan(args.plan)
    organization = await session.organization(args.org)
    await desk.assign(organization.id, None if plan is None else plan.id)
    (after,) = await session.tenants.organizations(organization_id=organization.id, limit=1)
    from farebox.cli.orgs import describe as describe_organization

    by = "the book's prices" if plan is None else plan.name
    show(
        args,
        describe_organization(after),
        lambda: say(f"{organization.name} is charged by {by} from now on."),
    )
    return 0


def read_basis_points(text: str, *, field: str) -> int:
    """A percentage with at most two decimals, as basis points.

    Raises:
        InvalidInputError: It is none.
    """
    from farebox.kit.errors import InvalidInputError
    from farebox.kit.money import NANOS_PER_UNIT, parse_amount

    amount = parse_amount(text.strip().removesuffix("%"), field=field)
    points, rest = divmod(amount * 100, NANOS_PER_UNIT)
    if rest:
        raise InvalidInputError(field, f"must have at most two decimals (got {text[:40]!r})")
    return points


def shown_percent(points: int) -> str:
    """Basis points as a percentage.

    >>> shown_percent(2_050), shown_percent(-500)
    ('20.5', '-5')
    """
    whole, rest = divmod(abs(points), 100)
    fraction = f".{rest:02d}".rstrip("0") if rest else ""
    return f"{'-' if points < 0 else ''}{whole}{fraction}"


def read_rows(text: str) -> tuple[OwnRow, ...]:
    """Own prices from JSON lines; amounts are decimal strings for a million units.

    Raises:
        InvalidInputError: A line cannot be read.
    """
    import msgspec

    from farebox.kit.errors import InvalidInputError
    from farebox.kit.money import parse_amount
    from farebox.rating.price_plans import OwnRow
    from farebox.rating.units import Lane, Unit

    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("models", str),
        ("base", dict[Unit, str]),
        ("lane", Lane, Lane.STANDARD),
        ("long", dict[Unit, str], {}),
    ]
    read = msgspec.json.Decoder(
        msgspec.defstruct("Line", fields, forbid_unknown_fields=True)
    ).decode
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: Any = read(line)
        except msgspec.DecodeError as error:
            raise InvalidInputError("rows", f"cannot be read at line {number}: {error}") from error
        tables = [
            tuple((unit, int(parse_amount(price, field=unit.value))) for unit, price in t.items())
            for t in (row.base, row.long)
        ]
        found.append(OwnRow(models=row.models, lane=row.lane, base=tables[0], long=tables[1]))
    return tuple(found)


_TERMS = ("markup_percent", "minimum_margin_percent", "free_models", "own_rows")


def describe(plan: Plan) -> Document:
    """A plan's document."""
    from farebox.kit.ids import format_id
    from farebox.operations.documents import instant

    return {
        "object": "price_plan",
        "id": format_id("plan", plan.id),
        "name": plan.name,
        "created_at": instant(plan.created_at),
        "versions": plan.versions,
        "organizations": plan.organizations,
        "in_force": None if plan.version is None else describe_version(plan.version),
    }


def describe_version(version: PlanVersion) -> Document:
    """A plan version's document."""
    from farebox.kit.ids import format_id
    from farebox.operations.documents import instant

    return {
        "object": "price_plan_version",
        "plan_id": format_id("plan", version.plan_id),
        "plan_name": version.plan_name,
        "version": version.number,
        "effective_at": instant(version.effective_at),
        **describe_terms(version.terms),
    }


def describe_terms(terms: PlanTerms) -> Document:
    """What a version says, in percent and decimal prices for a million units."""
    from farebox.kit.money import format_amount

    def prices(row: OwnRow, table: str) -> Document:
        return {unit.value: format_amount(price) for unit, price in getattr(row, table)}

    return {
        "markup_percent": shown_percent(terms.markup),
        "minimum_margin_percent": None
        if terms.minimum_margin is None
        else shown_percent(terms.minimum_margin),
        "free_models": list(terms.free_models),
        "own_rows": [
            {
                "models": row.models,
                "lane": row.lane.value,
                "base": prices(row, "base"),
                "long": prices(row, "long"),
            }
            for row in terms.own_rows
        ],
    }


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return "; ".join(_row(each) if isinstance(each, dict) else str(each) for each in value)
    return str(value)


def _row(row: Document) -> str:
    prices = ", ".join(f"{unit} {price}" for unit, price in row["base"].items())
    return f"{row['models']} ({row['lane']}): {prices}"
