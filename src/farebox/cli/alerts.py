"""``farebox alerts``: what was told, what is told, what was stopped (ANO-01 to ANO-04, BUD-06)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from farebox.cli.output import Document, facts, hint, page, say, show, table
from farebox.cli.reading import add_page_arguments, read_count, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.alerts import AlertDesk
    from farebox.storage.anomaly_store import PostgresAnomalyStore

SWITCHES = {
    "enabled": "anything but thresholds",
    "overrun": "limits that will not last to the end of their window",
    "spending": "hours and days far above the usual",
    "runs": "runs that grow call over call",
    "users": "users who call unusually often",
    "repeats": "near-identical requests",
    "stop_repeats": "stop the run (or key) that repeats itself, instead of only telling",
}
AMOUNTS = {
    "hour_minimum": "an hour must cost so much more than is usual",
    "day_minimum": "a day must cost so much more than is usual",
}
COUNTS = {
    "spending_times_percent": "...and so many percent of it",
    "run_times_percent": "a run's last input, in percent of the first that grew",
    "run_calls_min": "calls of a run that grow in a row",
    "run_tokens_min": "tokens of those calls together",
    "user_times_percent": "a user's calls in an hour, in percent of the usual",
    "user_calls_min": "calls of a user in an hour, at least",
    "repeats_per_minute": "near-identical requests of one key and run",
}

_NAMES = ("user", "feature", "environment", "tag", "run")
_COUNT_MAX = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="what was told, the newest first")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    listed.add_argument(
        "--deployment", action="store_true", help="what operators are told, of no organisation"
    )
    listed.add_argument("--kind", metavar="KIND", help="such as projected_overrun")
    add_page_arguments(listed, limit=50)

    settings = actions.add_parser("settings", help="show or change what is told")
    settings.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    for name, help_text in SWITCHES.items():
        option = "--" + name.replace("_", "-")
        settings.add_argument(option, choices=("on", "off"), help=help_text)
    for name, help_text in (*AMOUNTS.items(), *COUNTS.items()):
        meaning = "AMOUNT" if name in AMOUNTS else "N"
        settings.add_argument("--" + name.replace("_", "-"), metavar=meaning, help=help_text)
    settings.add_argument(
        "--stop-repeats-in",
        metavar="PROJECT",
        action="append",
        help="stop in this project; may be given again; none: in no single one",
    )

    released = actions.add_parser("release", help="let what was stopped call again")
    released.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    scope = released.add_mutually_exclusive_group(required=True)
    scope.add_argument("--key", metavar="KEY", help="an API key: id or name")
    scope.add_argument("--project", metavar="PROJECT", help="a project: id or name")
    for name in _NAMES:
        scope.add_argument(f"--{name}", metavar="NAME", help=f"calls of one {name}")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"list": _list, "settings": _settings, "release": _release}
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import InvalidInputError
    from farebox.operations.alerts import KINDS, alert_document

    if args.deployment:
        return await _list_deployment(session, args)
    if args.kind is not None and args.kind not in KINDS:
        raise InvalidInputError("kind", f"must be one of {', '.join(KINDS)}")
    before = _read_cursor(args)
    organization, limit = await session.organization(args.org), read_limit(args)
    found = await _store(session).alerts(
        organization.id, kind=args.kind, before=before, limit=limit + 1
    )
    rows = [alert_document(alert) for alert in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None
    stopped = await _desk(session).stopped(organization.id)
    yesterday = await session.now() - timedelta(days=1)
    of_operators = await _store(session).operator_alerts(since=yesterday, limit=1)

    def text() -> None:
        if not rows:
            hint(f"{organization.name} was told of nothing; farebox alerts settings shows of what.")
        else:
            _table(rows)
        if of_operators:
            hint("Operators were told of something today: farebox alerts list --deployment")
        for each in stopped:
            kind, ref = each.scope_kind.value, each.scope_ref
            hint(f"The {kind} {ref} is stopped; farebox alerts release --{kind} {ref}")

    show(args, page(rows, cursor), text)
    return 0


async def _list_deployment(session: Session, args: argparse.Namespace) -> int:
    """What operators were told: it is about the deployment, whoever called."""
    from farebox.kit.errors import InvalidInputError
    from farebox.operations.alerts import alert_document

    for name in ("org", "kind"):
        if getattr(args, name) is not None:
            raise InvalidInputError(name, "must not be given together with --deployment")
    limit = read_limit(args)
    found = await _store(session).operator_alerts(before=_read_cursor(args), limit=limit + 1)
    rows = [alert_document(alert) for alert in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if rows:
            _table(rows)
        else:
            hint("Operators were told of nothing.")

    show(args, page(rows, cursor), text)
    return 0


def _read_cursor(args: argparse.Namespace) -> int | None:
    """The id of the last alert seen."""
    if args.cursor is None:
        return None
    return read_count(args.cursor, field="cursor", low=1, high=2**63 - 1)


def _table(rows: list[Document]) -> None:
    table(
        ["*when (UTC)", "what", "about", "action"],
        [(r["at"][:16].replace("T", " "), _kind(r), sentence(r), _action(r)) for r in rows],
    )


async def _settings(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.money import parse_amount
    from farebox.operations.alerts import settings_document

    organization, store = await session.organization(args.org), _store(session)
    changes: dict[str, Any] = {}
    for name in (*SWITCHES, *AMOUNTS, *COUNTS):
        text = getattr(args, name)
        if text is None:
            continue
        if name in SWITCHES:
            changes[name] = text == "on"
        elif name in AMOUNTS:
            changes[name] = parse_amount(text, field=name)
        else:
            changes[name] = read_count(text, field=name, low=0, high=_COUNT_MAX)
    if args.stop_repeats_in is not None:
        wanted = [name for name in args.stop_repeats_in if name.strip().lower() != "none"]
        find = session.administration.find_project
        projects = [await find(name, organization_id=organization.id) for name in wanted]
        changes["stop_repeats_projects"] = tuple(dict.fromkeys(each.id for each in projects))
    if changes:
        settings = await store.change_settings(organization.id, changes)
    else:
        settings = await store.settings(organization.id)
    document = {"object": "alert_settings", **settings_document(settings)}

    def text_of() -> None:
        facts((name.replace("_", " "), _setting(document[name])) for name in list(document)[1:])

    show(args, document, text_of)
    return 0


async def _release(session: Session, args: argparse.Namespace) -> int:
    from farebox.ledger.scopes import ScopeKind

    organization = await session.organization(args.org)
    administration = session.administration
    if args.key is not None:
        key = await administration.find_key(args.key, organization_id=organization.id)
        kind, ref = ScopeKind.KEY, key.id.hex
    elif args.project is not None:
        project = await administration.find_project(args.project, organization_id=organization.id)
        kind, ref = ScopeKind.PROJECT, project.id.hex
    else:
        name = next(name for name in _NAMES if getattr(args, name) is not None)
        kind, ref = ScopeKind(name), getattr(args, name).strip()
    await _desk(session).release(organization.id, kind, ref)
    document = {"object": "release", "scope_kind": kind.value, "released": True}
    show(args, document, lambda: say(f"The {kind.value} may call again."))
    return 0


def sentence(alert: Document) -> str:
    """What an alert is about, in one line."""
    told = alert["facts"]
    whose = told.get("scope_kind", "")
    if whose not in {"", "organization"}:
        whose = f"{whose} {told['scope_id']}"
    match alert["kind"]:
        case "limit_threshold":
            return f"{whose}: {told['percent']} % of {told['maximum']} a {told['period']} are used"
        case "projected_overrun":
            reached = told["reached_at"][:16].replace("T", " ")
            return (
                f"{whose}: {told['used']} of {told['maximum']} a {told['period']} are used; at "
                f"{told['pace_per_day']} a day the limit is reached on {reached}"
            )
        case "spend_rate":
            return f"{whose}: {told['spent']} in an hour that usually costs {told['usual']}"
        case "daily_spend":
            return f"{whose}: {told['spent']} on a day that usually costs {told['usual']}"
        case "run_growth":
            return (
                f"run {told['run']}: {told['calls']} calls, each larger than the one before, from "
                f"{told['first_input_tokens']} to {told['last_input_tokens']} input tokens"
            )
        case "frequent_user":
            return (
                f"user {told['user']}: {told['calls']} calls in an hour; usual are "
                f"{told['usual_calls']}"
            )
        case "upstream_quota_exhausted":
            return (
                f"our account {told['account']} at {told['provider']} is used up (status "
                f"{told['status']}); add credit there"
            )
        case _:
            return f"{whose}: {told['calls']} near-identical requests in a minute"


def _kind(alert: Document) -> str:
    return str(alert["kind"]).replace("_", " ")


def _action(alert: Document) -> str:
    return "" if alert["action"] == "told" else str(alert["action"])


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _store(session: Session) -> PostgresAnomalyStore:
    from farebox.storage.anomaly_store import PostgresAnomalyStore

    return PostgresAnomalyStore(session.connection, session.by)


def _desk(session: Session) -> AlertDesk:
    from farebox.operations.alerts import AlertDesk

    return AlertDesk(_store(session), session.submit)
