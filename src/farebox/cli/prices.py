"""``farebox prices``: dated prices per model and lane; a change is a new version, never an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_count, read_instant, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.rating.price_book import ModelFacts, PriceVersion
    from farebox.rating.units import Unit

LANES = ("standard", "batch", "flex", "priority")
UNIT_FLAGS = {
    "input": "uncached input tokens",
    "output": "output tokens",
    "cached": "input tokens read from the provider's cache (default: as input)",
    "cache-write": "input tokens written to the provider's cache (default: as input)",
}
_UNITS = {
    "input": "input",
    "output": "output",
    "cached": "cached_input",
    "cache-write": "cache_write",
}
TOKENS_MAX = 2**53
Key = tuple[str, str, str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    actions.add_parser("import", help="bring in the installed genai-prices catalogue")

    listed = actions.add_parser("list", help="the prices in force")
    listed.add_argument("--provider", help="a price list such as openai (default: all)")
    listed.add_argument("--model", help="a model of it")
    listed.add_argument("--lane", choices=LANES)
    add_page_arguments(listed, limit=50)

    shown = actions.add_parser("show", help="every version of a model's prices")
    shown.add_argument("model", metavar="MODEL", help="by any of its names")
    shown.add_argument("--provider", default="openai", help="default openai")

    change = actions.add_parser(
        "set",
        help="set a price by hand, from now or a later instant on",
        description="Prices are dollars (or --currency) per million tokens; zero is allowed.",
    )
    change.add_argument("--provider", required=True, help="the price list, such as openai or local")
    change.add_argument("--model", required=True)
    change.add_argument("--lane", choices=LANES, default="standard")
    change.add_argument("--currency", default="USD")
    for flag, text in UNIT_FLAGS.items():
        change.add_argument(
            f"--{flag}", required=flag in {"input", "output"}, metavar="PRICE", help=text
        )
    change.add_argument("--context-window", metavar="N", help="input tokens it takes at most")
    change.add_argument("--output-max", metavar="N", help="output tokens it gives at most")
    change.add_argument("--effective-at", metavar="T", help="date, or time with its zone")
    change.add_argument(
        "--confirm", action="store_true", help="it is meant to be 100 times the price in force"
    )

    actions.add_parser("check", help="compare OpenAI's prices with another calculator's")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"import": _import, "list": _list, "show": _show, "set": _set, "check": _check}
    create = args.action in {"import", "set"}
    return work(args, lambda session: jobs[args.action](session, args), create=create)


async def _import(session: Session, args: argparse.Namespace) -> int:
    from farebox.providers.price_catalogue import import_catalogue
    from farebox.storage.catalogue_store import import_prices, read_revision

    snapshot = import_catalogue()
    now = await session.now()
    plan = await import_prices(
        session.connection, snapshot.versions, snapshot.facts, now, by=session.by
    )
    described: Document = {
        "object": "price_import",
        "source": snapshot.source,
        "catalogue_revision": await read_revision(session.connection),
        "listed": len(snapshot.versions),
        "added": len(plan.versions),
        "new": plan.new_keys,
        "changed": plan.changed_keys,
        "models_written": len(plan.facts),
        "kept": [
            {"provider": provider, "model": model, "lane": lane.value, "currency": currency}
            for provider, model, lane, currency in plan.kept
        ],
        "gone": plan.gone,
        "left_out": [
            {"provider": each.provider, "model": each.model, "reason": each.reason}
            for each in snapshot.skipped
        ],
    }

    def text() -> None:
        say(f"{snapshot.source}: {len(snapshot.versions)} prices listed, {len(plan.versions)} new.")
        facts(
            [
                ("models and lanes that are new", plan.new_keys),
                ("models and lanes whose price changed", plan.changed_keys),
                ("prices of yours that stand instead", len(plan.kept)),
                ("prices that the catalogue has no more", plan.gone),
                ("prices left out (see --json)", len(snapshot.skipped)),
            ]
        )

    show(args, described, text)
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.catalogue_store import load_catalogue

    limit = read_limit(args)
    book = (await load_catalogue(session.connection)).prices
    now = await session.now()
    listed = {version.model.lower() for version in book.versions()}
    model = None if args.model is None else args.model.strip().lower()
    current: dict[Key, PriceVersion] = {}
    for version in book.versions():
        wanted = (
            args.provider in {None, version.provider}
            and args.lane in {None, version.lane.value}
            and (model is None or _is_named(version.model.lower(), model, exactly=model in listed))
        )
        if wanted and version.effective_at <= now:
            current[_key(version)] = version
    last = None if args.cursor is None else _read_cursor(args.cursor)
    keys = sorted(key for key in current if last is None or key > last)
    shown = [current[key] for key in keys[:limit]]
    cursor = _write_cursor(keys[limit - 1]) if len(keys) > limit else None

    def text() -> None:
        if not shown:
            hint(
                "No such price; bring prices in with farebox prices import, or set one with "
                "farebox prices set"
            )
            return
        say("Per million tokens:")
        table(
            ["provider", "model", "lane", "input", "cached", "output"],
            [
                (v.provider, v.model, v.lane.value, *_amounts(v, "input", "cached_input", "output"))
                for v in shown
            ],
            right="input cached output",
        )
        if cursor:
            hint(f"More: farebox prices list --cursor '{cursor}'")

    show(args, page([describe(each) for each in shown], cursor), text)
    return 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.catalogue_store import load_catalogue

    book = (await load_catalogue(session.connection)).prices
    model = book.resolve(args.provider, args.model)
    known = book.facts(args.provider, model)
    versions = [v for v in book.versions() if (v.provider, v.model) == (args.provider, model)]
    now = await session.now()
    described = {
        "object": "model_prices",
        **describe_model(known),
        "versions": [describe(version) for version in versions],
    }

    def text() -> None:
        facts(
            [
                ("model", f"{args.provider} {model}"),
                ("context window", known.context_window),
                ("output at most", known.output_max),
                ("also named", ", ".join(known.aliases[:8])),
            ]
        )
        say("", "Per million:")
        table(
            ["lane", "*from", "input", "cached", "output", "source"],
            [
                (
                    v.lane.value + ("" if v.effective_at <= now else " (later)"),
                    short(v.effective_at),
                    *_amounts(v, "input", "cached_input", "output"),
                    v.source,
                )
                for v in versions
            ],
            right="input cached output",
        )

    show(args, described, text)
    return 0


async def _set(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.errors import InvalidInputError
    from farebox.operations.administration import parse_currency
    from farebox.operations.audit_log import made
    from farebox.operations.catalogue_import import OPERATOR
    from farebox.operations.own_prices import own_name, refuse_unlikely, with_facts
    from farebox.rating.price_book import PriceVersion
    from farebox.rating.units import Lane
    from farebox.storage.catalogue_store import changing_catalogue, load_catalogue
    from farebox.tenancy.names import parse_identifier, parse_name

    base = _read_prices(args)
    provider = parse_identifier(args.provider, field="provider")
    model = parse_name(args.model, field="model")
    window, output_max = (_read_tokens(args, name) for name in ("context_window", "output_max"))
    now = await session.now()
    effective_at = now
    if args.effective_at is not None:
        effective_at = read_instant(args.effective_at, field="effective_at")
        if effective_at < now:
            raise InvalidInputError(
                "effective_at", "must not lie in the past: what was charged stays as it was"
            )
    standing = (await load_catalogue(session.connection)).prices
    version = PriceVersion(
        id=await session.new_id(),
        provider=provider,
        model=own_name(standing, provider, model),
        lane=Lane(args.lane),
        currency=parse_currency(args.currency),
        effective_at=effective_at,
        source=OPERATOR,
        long_context_over=None,
        base=base,
    )
    if not args.confirm:
        refuse_unlikely(standing, version)
    async with changing_catalogue(session.connection) as change:
        await change.insert_price_versions([version])
        book = await change.check()
        known = with_facts(book, version, window, output_max)
        await change.write_models([known])
        await change.check()
        described = {**describe(version), "model_facts": describe_model(known)}
        await session.note(made("price", described["id"], None, described))

    def text() -> None:
        say(f"Price of {provider} {version.model} ({args.lane}) from {short(effective_at)} UTC on.")
        facts([("id", described["id"]), *described["prices"].items()])

    show(args, described, text)
    return 0


async def _check(session: Session, args: argparse.Namespace) -> int:
    from collections import Counter

    from farebox.operations.catalogue_import import OPERATOR
    from farebox.providers.price_comparison import UNEXPLAINED, compare_openai
    from farebox.rating.price_book import PriceBook
    from farebox.storage.catalogue_store import read_facts, read_versions

    every = await read_versions(session.connection)
    # A price that was set by hand differs on purpose.
    own = [v for v in every if v.source == OPERATOR]
    imported = [v for v in every if v.source != OPERATOR]
    book = PriceBook(imported, await read_facts(session.connection), revision=0)
    if not book.models("openai"):
        hint("There are no OpenAI prices yet; bring them in: farebox prices import")
    differences = compare_openai(book) if book.models("openai") else []
    reasons = Counter(each.reason for each in differences)
    wrong = [each for each in differences if each.reason == UNEXPLAINED]
    described: Document = {
        "object": "price_check",
        "status": "wrong" if wrong else "clean",
        "set_by_hand": len(own),
        "explained": {reason: n for reason, n in reasons.items() if reason != UNEXPLAINED},
        "unexplained": [
            {
                "model": each.model,
                "lane": each.lane.value,
                "at": short(each.at),
                "ours_nanos": each.ours,
                "theirs_nanos": str(each.theirs),
            }
            for each in wrong
        ],
    }

    def text() -> None:
        say("Clean: no difference without a reason." if not wrong else "Wrong prices found:")
        for each in wrong:
            say(f"  {each.model} {each.lane.value} at {short(each.at)}")
        facts((reason, count) for reason, count in described["explained"].items())

    show(args, described, text)
    return 1 if wrong else 0


def describe(version: PriceVersion) -> Document:
    """A price version's document; prices in the major unit per million units."""
    from farebox.kit.ids import format_id
    from farebox.kit.money import format_amount
    from farebox.operations.documents import instant

    return {
        "object": "price",
        "id": format_id("price", version.id),
        "provider": version.provider,
        "model": version.model,
        "lane": version.lane.value,
        "currency": version.currency,
        "effective_at": instant(version.effective_at),
        "source": version.source,
        "prices": {unit.value: format_amount(price) for unit, price in version.base},
        "long_context_over": version.long_context_over,
        "long_context_prices": {unit.value: format_amount(price) for unit, price in version.long},
    }


def describe_model(known: ModelFacts) -> Document:
    """What is known of a model besides its prices."""
    return {
        "provider": known.provider,
        "model": known.model,
        "context_window": known.context_window,
        "output_max": known.output_max,
        "image_tokens_max": known.image_tokens_max,
        "aliases": list(known.aliases),
    }


def _read_prices(args: argparse.Namespace) -> tuple[tuple[Unit, int], ...]:
    from farebox.kit.errors import InvalidInputError
    from farebox.kit.money import parse_amount
    from farebox.rating.units import Unit

    base = []
    for flag, unit in _UNITS.items():
        text = getattr(args, flag.replace("-", "_"))
        if text is None:
            continue
        price = parse_amount(text, field=flag)
        if price < 0:
            raise InvalidInputError(flag, "must be zero or more")
        base.append((Unit(unit), int(price)))
    return tuple(base)


def _read_tokens(args: argparse.Namespace, name: str) -> int | None:
    text = getattr(args, name)
    return None if text is None else read_count(text, field=name, low=1, high=TOKENS_MAX)


def _is_named(model: str, text: str, *, exactly: bool) -> bool:
    return model == text if exactly else text in model


def _key(version: PriceVersion) -> Key:
    return (version.provider, version.model, version.lane.value, version.currency)


def _write_cursor(key: Key) -> str:
    provider, model, lane, currency = key
    return f"{provider}:{lane}:{currency}:{model}"  # the model last: it may hold colons


def _read_cursor(text: str) -> Key:
    from farebox.kit.errors import InvalidInputError

    parts = text.split(":", 3)
    if len(parts) != 4:
        raise InvalidInputError("cursor", "must be the next_cursor of a page")
    provider, lane, currency, model = parts
    return (provider, model, lane, currency)


def _amounts(version: PriceVersion, *units: str) -> list[str]:
    from farebox.kit.money import format_amount

    prices = {unit.value: price for unit, price in version.base}
    return [format_amount(prices[unit]) if unit in prices else "" for unit in units]
