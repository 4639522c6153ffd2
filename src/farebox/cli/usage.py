"""``farebox usage``: what was used and charged, by any dimension, and how calls went."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from farebox.cli.output import Document, facts, hint, show, table
from farebox.cli.reading import read_instant, read_limit
from farebox.kit.errors import InvalidInputError
from farebox.kit.periods import months_after

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.usage import Dimension

SHOWN: Final = timedelta(days=30)

NAMES: Final = "project, key, feature, environment, model, endpoint, user, run, tag:NAME"

_SHOWN_OF_USAGE: Final = ("calls", "charge", "charge_percent")
_SHOWN_OF_QUALITY: Final = (
    "calls",
    "failed_percent",
    "retries_percent",
    "refused",
    "output_per_input",
)

_MONTH: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    parser.add_argument("--by", default="project", metavar="NAMES", help=NAMES)
    parser.add_argument("--since", metavar="TIME", help="default: 30 days before --until")
    parser.add_argument("--until", metavar="TIME", help="default: now")
    parser.add_argument("--month", metavar="YYYY-MM", help="one calendar month (UTC) instead")
    parser.add_argument("--limit", default="50", metavar="N", help="groups to show (default 50)")
    parser.add_argument(
        "--quality", action="store_true", help="failed, repeated and refused calls instead"
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    job = _quality if args.quality else _usage
    return work(args, lambda session: job(session, args))


async def _usage(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import instant
    from farebox.operations.usage import (
        CALLS_SPAN_MAX,
        SPAN_MAX,
        UsageQuestion,
        check_kept,
        check_span,
    )
    from farebox.operations.usage_documents import (
        row_document,
        sums_document,
        unattributed_document,
    )
    from farebox.storage.call_store import PostgresCallStore
    from farebox.storage.usage_store import PostgresUsageStore

    limit = read_limit(args)
    organization = await session.organization(args.org)
    now = await session.now()
    since, until = _span(args, now)
    by, tag = _dimensions(args.by)
    question = UsageQuestion(
        organization_id=organization.id,
        zone=organization.zone,
        since=since,
        until=until,
        by=by,
        tag=tag,
    )
    check_span(since, until, CALLS_SPAN_MAX if question.over_calls else SPAN_MAX)
    if question.over_calls:
        check_kept(since, await PostgresCallStore(session.connection).kept_from())
    store = PostgresUsageStore(session.connection)
    page = await store.read(question, limit=limit, offset=0)
    first, after = question.hours
    document: Document = {
        "object": "usage",
        "since": instant(first),
        "until": instant(after),
        "as_of": instant(now),
        "newest_call_at": instant(await store.newest_at(organization.id)),
        "total": sums_document(page.total.sums, operator=True),
        "unattributed": unattributed_document(page.total),
        "data": [row_document(row, page.total, operator=True) for row in page.rows],
    }
    show(args, document, lambda: _say(document, by))
    return 0


def _say(document: Document, by: frozenset[Dimension]) -> None:
    from farebox.advice.wording import counted

    names = sorted(map(str, by))
    table(
        [*names, "calls", "charge", "%"],
        [
            [*(_named(row, name) for name in names), *(row[key] for key in _SHOWN_OF_USAGE)]
            for row in document["data"]
        ],
        right="charge",
    )
    total, share = document["total"], document["unattributed"]["feature"]
    facts(
        [
            ("from", f"{document['since'][:16]} to {document['until'][:16]}, whole hours of UTC"),
            ("all", f"{counted(total['calls'])}, {total['charge']} charged"),
            ("without a feature", f"{share['charge']} ({share['share_percent']} %)"),
            ("as of", document["as_of"][:19]),
            ("newest call", (document["newest_call_at"] or "none")[:19]),
        ]
    )


def _named(row: Document, name: str) -> str:
    from farebox.cli.receipt import printable

    value = row.get(f"{name}_name") or row.get(name)
    return printable(str(value)) if value else "unattributed"


async def _quality(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import instant
    from farebox.operations.usage import CALLS_SPAN_MAX, Dimension, check_kept, check_span
    from farebox.operations.usage_documents import quality_document
    from farebox.storage.call_store import PostgresCallStore
    from farebox.storage.usage_store import PostgresUsageStore

    limit = read_limit(args)
    organization = await session.organization(args.org)
    since, until = _span(args, await session.now())
    by, _ = _dimensions(args.by)
    if not by <= {Dimension.PROJECT, Dimension.MODEL, Dimension.KEY}:
        raise InvalidInputError("by", "must be of project, model, key with --quality")
    check_span(since, until, CALLS_SPAN_MAX)
    check_kept(since, await PostgresCallStore(session.connection).kept_from())
    rows = await PostgresUsageStore(session.connection).quality(
        organization.id, since=since, until=until, by=by, limit=limit, offset=0
    )
    document: Document = {
        "object": "usage_quality",
        "since": instant(since),
        "until": instant(until),
        "data": [quality_document(row) for row in rows],
    }

    def text() -> None:
        names = sorted(map(str, by))
        table(
            [*names, "calls", "failed %", "repeated %", "refused", "out/in"],
            [
                [*(_named(row, name) for name in names), *(row[key] for key in _SHOWN_OF_QUALITY)]
                for row in document["data"]
            ],
        )
        if not rows:
            hint("There was no call in this time.")

    show(args, document, text)
    return 0


def _span(args: argparse.Namespace, now: datetime) -> tuple[datetime, datetime]:
    """The time that is asked about."""
    if args.month is not None:
        if not _MONTH.fullmatch(args.month) or args.since or args.until:
            raise InvalidInputError("month", "must be like 2026-10, without --since and --until")
        start = datetime(int(args.month[:4]), int(args.month[5:]), 1, tzinfo=UTC)
        return start, months_after(start, 1)
    until = now if args.until is None else read_instant(args.until, field="until")
    since = until - SHOWN if args.since is None else read_instant(args.since, field="since")
    return since, until


def _dimensions(text: str) -> tuple[frozenset[Dimension], str | None]:
    """What usage is asked by, and the name of the tag if it is asked by one."""
    from farebox.operations.usage import Dimension

    found: set[Dimension] = set()
    tag = None
    for name in filter(None, (part.strip() for part in text.split(","))):
        kind, colon, rest = name.partition(":")
        if (kind == "tag") != bool(colon and rest) or kind not in set(Dimension):
            raise InvalidInputError("by", f"must be of {NAMES} (got {name[:40]!r})")
        found.add(Dimension(kind))
        tag = rest or tag
    return frozenset(found), tag
