"""``farebox limits``: limits of every scope, decided in the same transaction as the balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farebox.cli.output import Document, hint, page, say, show, table
from farebox.cli.reading import read_instant

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from farebox.cli.database import Session
    from farebox.ledger.commands import SetLimit
    from farebox.ledger.limits import Rule
    from farebox.operations.balance import LimitView

NO_LIMIT = "none"

PERIODS = {
    "monthly": ("month", "for each calendar month of the organisation's zone"),
    "weekly": ("week", "for each week from Monday, in that zone"),
    "daily": ("day", "for each calendar day of that zone"),
    "total": ("total", "for all time"),
    "per_minute": ("minute", "for each minute: a rate"),
    "per_day": ("utc_day", "for each day in UTC: a rate"),
}
"""Options that set a limit in a period: money, or with --tokens or --calls a count."""

COUNTS = {
    "parallel": ("parallel", "calls at a time"),
    "seconds": ("seconds", "wall time of a run since its first call"),
    "depth": ("depth", "how many runs deep a call may be below a run"),
}
"""Options that set a limit with a measure of its own."""

_EFFECTS = {
    "alert": "tell only; refuse nothing",
    "shadow": "count, and note what would have been refused",
    "throttle": "let calls wait in order for room instead of refusing them at once",
    "allocation": "set the amount aside for this project",
    "stop": "let nothing more begin: with --parallel 0; with --parallel none it is released",
}

_NAMES = ("user", "feature", "environment", "tag", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    change = actions.add_parser("set", help="set, change or remove a limit")
    add_scope(change)
    add_maximum(change, {**PERIODS, **COUNTS})
    measure = change.add_mutually_exclusive_group()
    measure.add_argument("--tokens", action="store_true", help="count tokens instead of money")
    measure.add_argument("--calls", action="store_true", help="count calls instead of money")
    effect = change.add_mutually_exclusive_group()
    for name, help_text in _EFFECTS.items():
        effect.add_argument(
            f"--{name}", dest="effect", action="store_const", const=name, help=help_text
        )
    change.add_argument(
        "--ignore-failed",
        action="store_true",
        help="with --calls --per-minute: calls that fail give their count back",
    )
    add_details(change)
    listed = actions.add_parser("list", help="the limits and what is left under them")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")


def add_maximum(parser: argparse.ArgumentParser, names: Mapping[str, tuple[str, str]]) -> None:
    """The one option that says how much, and of what or in which period."""
    which = parser.add_mutually_exclusive_group(required=True)
    for name, (_, help_text) in names.items():
        option = "--" + name.replace("_", "-")
        which.add_argument(option, metavar="N", help=f"{help_text}, or none to remove it")


def add_details(change: argparse.ArgumentParser) -> None:
    """Models, thresholds, owner, and a maximum for a while."""
    change.add_argument(
        "--models", default="", metavar="M", help="for one model, or a family: gpt-5*"
    )
    change.add_argument(
        "--thresholds",
        metavar="P,P",
        help="percentages that are told, or none (default: 50,80,100 for a budget)",
    )
    change.add_argument("--owner", default="", metavar="WHO", help="whom to ask about it")
    change.add_argument("--raise-to", metavar="N", help="another maximum for a while...")
    change.add_argument(
        "--from", dest="since", metavar="T", help="...when it begins (default: at once)..."
    )
    change.add_argument("--until", metavar="T", help="...and when it ends")


def add_scope(parser: argparse.ArgumentParser) -> None:
    """On what it is set."""
    parser.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--project", metavar="PROJECT", help="a project: id or name")
    scope.add_argument("--key", metavar="KEY", help="an API key: id or name")
    for name in _NAMES:
        like = "K=V" if name == "tag" else "NAME"
        scope.add_argument(f"--{name}", metavar=like, help=f"calls of one {name}")
    scope.add_argument(
        "--each",
        choices=("project", "key", *_NAMES),
        help="a default: each one that has no such limit of its own",
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return run_for(args, what="limit", shows=lambda _: True)


def run_for(args: argparse.Namespace, *, what: str, shows: Callable[[Rule], bool]) -> int:
    """Do what was asked about some kinds of limits.

    Args:
        args: What was asked.
        what: The command's word for one of them.
        shows: Tells which rules it is about.
    """
    from farebox.cli.database import work

    async def job(session: Session) -> int:
        do = _set if args.action == "set" else _list
        return await do(session, args, what, shows)

    return work(args, job)


async def _set(
    session: Session, args: argparse.Namespace, what: str, shows: Callable[[Rule], bool]
) -> int:
    organization = await session.organization(args.org)
    command = _command(args, organization.id, await _scope(session, args, organization.id))
    await session.submit(command)
    rows = await _rows(session, organization.id, shows)

    def text() -> None:
        mine = [view for view, _ in rows if _is_of(view, command)]
        if mine:
            _table(rows)
        else:
            say(f"{organization.name} has no such {what} now.")

    show(args, page([document for _, document in rows], None), text)
    return 0


def _command(args: argparse.Namespace, organization_id: UUID, scope: dict[str, Any]) -> SetLimit:
    from msgspec import structs

    from farebox.kit.errors import InvalidInputError
    from farebox.ledger.alerting import usual_thresholds
    from farebox.ledger.commands import SetLimit
    from farebox.ledger.limits import Effect, Measure, Period

    name = next(n for n in (*PERIODS, *COUNTS) if getattr(args, n) is not None)
    if name in COUNTS:
        measure, period = Measure(COUNTS[name][0]), Period.TOTAL
        if args.tokens or args.calls:
            raise InvalidInputError(name, "counts by itself; leave out --tokens and --calls")
    else:
        period = Period(PERIODS[name][0])
        measure = Measure.MONEY
        if args.tokens or args.calls:
            measure = Measure.TOKENS if args.tokens else Measure.CALLS
    if (args.raise_to is None) != (args.until is None):
        raise InvalidInputError("until", "goes with --raise-to: give both, or neither")
    if args.since is not None and args.raise_to is None:
        raise InvalidInputError("from", "goes with --raise-to and --until")
    text = getattr(args, name)
    removes = text.strip().lower() == NO_LIMIT
    command = SetLimit(
        organization_id=organization_id,
        **scope,
        measure=measure,
        period=period,
        effect=Effect(args.effect or "hard"),
        models=args.models.strip(),
        maximum=None if removes else _amount(text, measure, name),
        raised_to=None if args.raise_to is None else _amount(args.raise_to, measure, "raise_to"),
        raised_from=None if args.since is None else read_instant(args.since, field="from"),
        raised_until=None if args.until is None else read_instant(args.until, field="until"),
        owner=args.owner.strip(),
        count_failed=not getattr(args, "ignore_failed", False),
    )
    told = usual_thresholds(command) if args.thresholds is None else _thresholds(args.thresholds)
    return structs.replace(command, thresholds=() if removes else told)


def _amount(text: str, measure: str, field: str) -> int:
    from farebox.kit.errors import InvalidInputError
    from farebox.kit.money import parse_amount

    if measure == "money":
        amount = parse_amount(text, field=field)
        if amount < 0:
            raise InvalidInputError(field, "must be zero or more, or none")
        return amount
    if not (text.isascii() and text.isdigit()):
        raise InvalidInputError(field, f"must be a whole number of {measure}, or none")
    return int(text)


def _thresholds(text: str) -> tuple[int, ...]:
    from farebox.kit.errors import InvalidInputError

    if text.strip().lower() == NO_LIMIT:
        return ()
    parts = [part.strip().removesuffix("%") for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidInputError("thresholds", "must be percentages such as 50,80,100, or none")
    return tuple(sorted({int(part) for part in parts}))


async def _scope(
    session: Session, args: argparse.Namespace, organization_id: UUID
) -> dict[str, Any]:
    """What the limit is set on, as the fields of the command."""
    from farebox.kit.errors import InvalidInputError
    from farebox.ledger.scopes import ScopeKind

    if args.each is not None:
        return {"scope_kind": ScopeKind(args.each), "scope_ref": ""}
    if args.project is not None:
        project = await session.administration.find_project(
            args.project, organization_id=organization_id
        )
        return {"scope_kind": ScopeKind.PROJECT, "scope_ref": project.id.hex}
    if args.key is not None:
        key = await session.administration.find_key(args.key, organization_id=organization_id)
        return {"scope_kind": ScopeKind.KEY, "scope_ref": key.id.hex}
    for name in _NAMES:
        value = getattr(args, name)
        if value is not None:
            if not value.strip():
                raise InvalidInputError(name, "must not be empty; for all of them use --each")
            return {"scope_kind": ScopeKind(name), "scope_ref": value.strip()}
    return {"scope_kind": ScopeKind.ORGANIZATION}


def _is_of(view: LimitView, command: SetLimit) -> bool:
    scope = command.scope
    meant = (scope.kind, scope.ref, command.number)
    return (view.scope_kind, view.scope_ref, view.number) == meant


async def _list(
    session: Session, args: argparse.Namespace, what: str, shows: Callable[[Rule], bool]
) -> int:
    organization = await session.organization(args.org)
    rows = await _rows(session, organization.id, shows)

    def text() -> None:
        if rows:
            _table(rows)
        else:
            hint(
                f"{organization.name} has no {what}; set one: farebox {what}s set --monthly 100.00"
            )

    show(args, page([document for _, document in rows], None), text)
    return 0


def _table(rows: list[tuple[LimitView, Document]]) -> None:
    table(
        ["scope", "limit", "maximum", "used", "held", "left", "*resets (UTC)"],
        [
            (
                _scope_text(view, document),
                _limit_text(view),
                document["maximum"],
                document["used"],
                document["held"],
                document["left"],
                (document["resets_at"] or "never")[:16].replace("T", " "),
            )
            for view, document in rows
        ],
        right="maximum used held left",
    )
    _shadow_table([row for row in rows if row[1]["would_have_refused"] is not None])


def _shadow_table(rows: list[tuple[LimitView, Document]]) -> None:
    """What limits in shadow would have refused (BUD-03)."""
    if not rows:
        return
    since = rows[0][1]["would_have_refused"]["since"][:16].replace("T", " ")
    say(f"\nIn shadow, would have refused since {since} UTC:")
    found = [(view, document, document["would_have_refused"]) for view, document in rows]
    table(
        ["scope", "limit", "calls", "*last call"],
        [
            (
                _scope_text(view, document),
                _limit_text(view),
                f"{refused['calls']:,}",
                refused["last_call_id"] or "none",
            )
            for view, document, refused in found
        ],
        right="calls",
    )


def _scope_text(view: LimitView, document: Document) -> str:
    if view.scope_kind == "organization":
        return "organization"
    if not view.scope_ref:
        return f"each {view.scope_kind}"
    named = document["scope_name"] or document["scope_id"]
    return f"{view.scope_kind} {named}{' (default)' if view.is_default else ''}"


def _limit_text(view: LimitView) -> str:
    rule = view.rule
    periods = {period: name.replace("_", "-") for name, (period, _) in PERIODS.items()}
    words = [periods[rule.period]] if rule.measure not in COUNTS else [rule.measure.value]
    if rule.measure in {"tokens", "calls"}:
        words.append(rule.measure.value)
    if rule.models:
        words.append(rule.models)
    if rule.effect != "hard":
        words.append(f"({rule.effect})")
    if not rule.count_failed:
        words.append("(no failed)")
    if rule.origin == "tier":
        words.append("(usage tier)")
    return " ".join(words)


async def _rows(
    session: Session, organization_id: UUID, shows: Callable[[Rule], bool]
) -> list[tuple[LimitView, Document]]:
    from farebox.operations.limit_documents import limit_document
    from farebox.operations.shadow_limits import shadow_document
    from farebox.storage.balance_store import list_limits
    from farebox.storage.shadow_store import read_shadow_refusals

    listed = await list_limits(session.connection, organization_id)
    found = tuple(view for view in listed if shows(view.rule))
    names = await _names(session, found)
    refused = await read_shadow_refusals(session.connection, organization_id, found)
    return [
        (
            view,
            limit_document(view)
            | {
                "scope_name": names.get(view.scope_ref),
                "would_have_refused": shadow_document(each),
            },
        )
        for view, each in zip(found, refused, strict=True)
    ]


async def _names(session: Session, views: tuple[LimitView, ...]) -> dict[str, str]:
    """Names of the projects and keys among the scopes."""
    from uuid import UUID

    names: dict[str, str] = {}
    for view in views:
        if view.scope_ref and view.scope_ref not in names:
            if view.scope_kind == "project":
                projects = await session.tenants.projects(project_id=UUID(view.scope_ref), limit=1)
                names[view.scope_ref] = projects[0].name if projects else ""
            elif view.scope_kind == "key":
                keys = await session.tenants.keys(key_id=UUID(view.scope_ref), limit=1)
                names[view.scope_ref] = keys[0].name if keys else ""
    return names
