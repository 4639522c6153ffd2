"""``farebox retention``: how long calls are kept, what is there, and dropping what is past it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from farebox.cli.output import Document, facts, hint, say, show, table
from farebox.kit.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.retention import MonthOutcome, RetentionSettings

DROPPED_SHOWN: Final = 36
"""Dropped months that are shown: three years of calls, or less where refusals are dropped too."""

APPLIED_AT_ONCE: Final = 1_200

_MONTHS: Final = re.compile(r"(?P<count>\d{1,4})(?P<unit>mo|y)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("show", help="what is kept, what is there, what was dropped")
    changed = actions.add_parser(
        "set",
        help="for how long calls and refusals are kept; the worker does the rest",
        description="Whole months are dropped once they are older. Totals, balances, hourly usage, "
        "the journal and the counters of limits stay; single calls can be shown no more.",
    )
    _add_lengths(changed)
    applied = actions.add_parser(
        "apply",
        help="drop now what is past retention",
        description="As the worker does every hour; other lengths may be given for this once.",
    )
    _add_lengths(applied)
    applied.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    forgotten = actions.add_parser(
        "forget-content",
        help="delete stored requests and answers of an organisation or a project now",
    )
    forgotten.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    forgotten.add_argument("--project", metavar="PROJECT", help="of this project alone")


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", metavar="LENGTH", help="13mo, 2y or forever")
    parser.add_argument("--refusals", metavar="LENGTH", help="3mo, 1y or forever")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"show": _show, "set": _set, "apply": _apply, "forget-content": _forget}
    return work(args, lambda session: jobs[args.action](session, args))


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.money import format_amount
    from farebox.operations.documents import instant
    from farebox.operations.retention import due
    from farebox.storage.retention_store import PostgresRetentionStore

    store = PostgresRetentionStore(session.connection, session.by)
    settings, months = await store.settings(), await store.months()
    ready = set(due(months, settings, await session.now()))
    rows: list[Document] = [
        {
            "of": f"{each.parent}s",
            "month": f"{each.month:%Y-%m}",
            "rows": each.rows,
            "bytes": each.bytes,
            "due": each in ready,
        }
        for each in months
    ]
    gone: list[Document] = [
        {
            "of": f"{each.parent}s",
            "month": f"{each.month:%Y-%m}",
            "rows": each.rows,
            "charge": format_amount(each.charge),
            "dropped_at": instant(each.dropped_at),
        }
        for each in await store.dropped(limit=DROPPED_SHOWN)
    ]
    document = {
        "object": "retention",
        **_settings(settings),
        "months": rows,
        "dropped": gone,
    }

    def text() -> None:
        _say_settings(document)
        table(
            ["of", "month", "*rows", "megabytes", "due"],
            [
                (r["of"], r["month"], f"~{r['rows']:,}", f"{r['bytes'] / 1e6:,.1f}", _yes(r["due"]))
                for r in rows
            ],
        )
        for row in gone:
            say(
                f"dropped {row['of']} of {row['month']}: {row['rows']:,} rows, "
                f"charged {row['charge']}, on {row['dropped_at'][:10]}"
            )

    show(args, document, text)
    return 0


async def _set(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.retention import set_retention
    from farebox.storage.retention_store import PostgresRetentionStore

    store = PostgresRetentionStore(session.connection, session.by)
    if args.calls is None and args.refusals is None:
        raise InvalidInputError("calls", "or refusals must be given, such as --calls 13mo")
    _, after = await set_retention(store, _given(args, await store.settings()))
    document = {"object": "retention", **_settings(after)}
    show(args, document, lambda: _say_settings(document))
    return 0


async def _apply(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.retention import apply_retention, check_months, due
    from farebox.storage.retention_store import PostgresRetentionStore

    store = PostgresRetentionStore(session.connection, session.by)
    settings = _given(args, await store.settings())
    check_months(settings.call_months, field="calls")
    check_months(settings.refusal_months, field="refusals")
    if args.dry_run:
        found = due(await store.months(), settings, await session.now())
        rows = [
            {"of": f"{m.parent}s", "month": f"{m.month:%Y-%m}", "dropped": False} for m in found
        ]
    else:
        await store.drop_content(limit=APPLIED_AT_ONCE)
        outcomes = await apply_retention(store, session.audit, settings, limit=APPLIED_AT_ONCE)
        rows = [_outcome(each) for each in outcomes]
    document = {"object": "retention_run", "dry_run": args.dry_run, "months": rows}

    def text() -> None:
        for row in rows:
            if args.dry_run:
                say(f"would drop {row['of']} of {row['month']}")
            elif row["dropped"]:
                say(f"dropped {row['of']} of {row['month']}: {row['rows']:,} rows")
            else:
                say(f"kept {row['of']} of {row['month']}: {row['reason']}")
        if not rows:
            hint("Nothing is past retention.")

    show(args, document, text)
    return 0 if args.dry_run or all(row["dropped"] for row in rows) else 1


async def _forget(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.content import forget_content
    from farebox.storage.content_store import PostgresContentStore

    if args.project is None:
        organization_id = (await session.organization(args.org)).id
        project_id = None
    else:
        project = await session.project(args.project, args.org)
        organization_id, project_id = project.organization_id, project.id
    store = PostgresContentStore(session.connection, session.by)
    count = await forget_content(store, organization_id, project_id)
    document = {"object": "content_forgotten", "calls": count}
    show(args, document, lambda: say(f"Deleted what was stored of {count:,} calls."))
    return 0


def _given(args: argparse.Namespace, standing: RetentionSettings) -> RetentionSettings:
    """What stands, with what the flags say instead."""
    from msgspec import structs

    given: dict[str, Any] = {}
    if args.calls is not None:
        given["call_months"] = _read_months(args.calls, field="calls")
    if args.refusals is not None:
        given["refusal_months"] = _read_months(args.refusals, field="refusals")
    return structs.replace(standing, **given)


def _read_months(text: str, *, field: str) -> int | None:
    """A number of months: ``13mo``, ``2y``; None for ``forever``.

    Raises:
        InvalidInputError: It is neither.
    """
    stripped = text.strip().lower()
    if stripped == "forever":
        return None
    match = _MONTHS.fullmatch(stripped)
    if match is None:
        raise InvalidInputError(field, f"must be like 13mo, 2y or forever (got {text[:40]!r})")
    return int(match["count"]) * (12 if match["unit"] == "y" else 1)


def _outcome(each: MonthOutcome) -> Document:
    return {
        "of": f"{each.parent}s",
        "month": f"{each.month:%Y-%m}",
        "dropped": each.dropped,
        "rows": each.rows,
        "reason": each.reason or None,
    }


def _settings(settings: RetentionSettings) -> Document:
    return {"call_months": settings.call_months, "refusal_months": settings.refusal_months}


def _say_settings(document: Document) -> None:
    facts(
        [
            ("calls", _length(document["call_months"])),
            ("refusals", _length(document["refusal_months"])),
        ]
    )


def _length(months: int | None) -> str:
    return "forever" if months is None else f"{months} whole months after their own"


def _yes(on: object) -> str:
    return "yes" if on else "no"
