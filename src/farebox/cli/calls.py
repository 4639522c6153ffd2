"""``farebox calls``: which calls there were, and one of them as a receipt that explains itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from farebox.cli.output import Document, hint, page, say, show, table
from farebox.cli.reading import add_page_arguments, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session

PAGE_DEFAULT: Final = 50
"""The same as ``operations.calls.PAGE_DEFAULT``, which --help must not import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="calls, open, ended and refused, newest first")
    listed.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    add_page_arguments(listed, limit=PAGE_DEFAULT)
    shown = actions.add_parser("show", help="what a call cost, and why")
    shown.add_argument("id", metavar="REQ_ID", help="the answer's x-request-id")
    content = actions.add_parser("content", help="what a call said, where its project stores that")
    content.add_argument("id", metavar="REQ_ID", help="the answer's x-request-id")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"list": _list, "show": _show, "content": _content}
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.calls import list_calls
    from farebox.storage.call_store import PostgresCallStore

    limit = read_limit(args)
    organization = await session.organization(args.org)
    store = PostgresCallStore(session.connection)
    rows, cursor = await list_calls(store, organization.id, limit=limit, cursor=args.cursor)

    def text() -> None:
        from farebox.cli.receipt import printable

        if not rows:
            hint(f"{organization.name} has made no call yet.")
            return
        table(
            ["*id", "status", "model", "charge"],
            [(r["id"], _status(r), printable(r["model"]), r["charge"]) for r in rows],
            right="charge",
        )
        if cursor:
            hint(f"More: farebox calls list --org {organization.name!r} --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.cli.receipt import print_receipt
    from farebox.kit.ids import parse_id
    from farebox.operations.calls import explain_call
    from farebox.storage.call_store import PostgresCallStore

    call_id = parse_id("req", args.id, field="id")
    store = PostgresCallStore(session.connection)
    document = await explain_call(store, call_id, for_operator=True)
    show(args, document, lambda: print_receipt(document))
    return 0


async def _content(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import NotFoundError
    from farebox.kit.ids import parse_id
    from farebox.operations.call_documents import content_document
    from farebox.storage.content_store import PostgresContentStore

    found = await PostgresContentStore(session.connection).find(
        parse_id("req", args.id, field="id")
    )
    if found is None:
        raise NotFoundError(
            "Nothing is stored of such a call: its project stores no content "
            "(farebox projects update --content-days), or its days are over."
        )
    document = content_document(found)

    def text() -> None:
        from farebox.cli.receipt import printable

        for part in ("request", "answer"):
            cut = " (cut)" if document[f"{part}_truncated"] else ""
            say(f"{part}: {document[f'{part}_bytes']:,} bytes{cut}")
            say(*(printable(line) for line in document[part].splitlines()))
        hint(f"It is deleted on {document['ends_at'][:10]}.")

    show(args, document, text)
    return 0


def _status(row: Document) -> str:
    times = row["times"]
    return row["status"] if times == 1 else f"{row['status']} x{times}"
