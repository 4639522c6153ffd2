"""``farebox models``: what can be called: the models of the providers that have been added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, hint, page, show, table
from farebox.cli.reading import add_page_arguments, read_limit

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from farebox.cli.database import Session
    from farebox.rating.price_book import PriceBook


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="models of the providers that were added")
    listed.add_argument("--provider", help="a provider's name (default: all)")
    listed.add_argument("--all", action="store_true", help="every model that has a price instead")
    add_page_arguments(listed)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    return work(args, lambda session: _list(session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.catalogue_store import load_catalogue

    limit = read_limit(args)
    catalogue = await load_catalogue(session.connection)
    book = catalogue.prices
    sellers = [(each.name, each.price_list) for each in catalogue.providers]
    if args.all:
        lists = sorted({version.provider for version in book.versions()})
        sellers = [(name, name) for name in lists]
    if args.provider is not None:
        sellers = [each for each in sellers if each[0] == args.provider]
    now = await session.now()
    offered = sorted(
        (name, model) for name, price_list in sellers for model in book.models(price_list)
    )
    keyed = [(f"{name}/{model}", name, model) for name, model in offered]
    keyed = [each for each in keyed if args.cursor is None or each[0] > args.cursor]
    keyed.sort()
    lists_by_name = dict(sellers)
    rows = [
        _describe(book, name, lists_by_name[name], model, now) for _, name, model in keyed[:limit]
    ]
    cursor = keyed[limit - 1][0] if len(keyed) > limit else None

    def text() -> None:
        if not rows:
            hint(
                "No model can be called yet: add a provider (farebox providers add --help) and "
                "bring in prices (farebox prices import)."
            )
            return
        table(
            ["provider", "model", "lanes", "context", "output"],
            [
                (
                    r["provider"],
                    r["model"],
                    " ".join(r["lanes"]),
                    r["context_window"],
                    r["output_max"],
                )
                for r in rows
            ],
            right="context output",
        )
        if cursor:
            hint(f"More: farebox models list --cursor '{cursor}'")

    show(args, page(rows, cursor), text)
    return 0


def _describe(
    book: PriceBook, provider: str, price_list: str, model: str, now: datetime
) -> Document:
    from farebox.cli.prices import describe_model
    from farebox.rating.units import UnpricedError

    lanes = []
    for lane in book.lanes(price_list, model):
        try:
            book.version_at(price_list, model, lane, now)
        except UnpricedError:  # not yet
            continue
        lanes.append(lane.value)
    described = describe_model(book.facts(price_list, model))
    return {
        "object": "model",
        **described,
        "provider": provider,
        "price_list": price_list,
        "lanes": lanes,
    }
