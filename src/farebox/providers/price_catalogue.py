"""The price catalogue of the ``genai-prices`` package as dated rows of our own.

Whatever cannot be written exactly as such a row is left out and named with its reason, so that a
model is either priced as its provider does or refused: never priced roughly. The package is read
offline; its own updater, which fetches prices, is never started (DESIGN.md, decision 9).
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from decimal import Decimal
from fractions import Fraction
from importlib.metadata import version as package_version
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID, uuid5

from farebox.kit.money import NANOS_PER_UNIT, UNITS_PER_PRICE
from farebox.providers.catalogue_names import aliases, patterns
from farebox.providers.openai_models import OpenAIFacts, counts_o200k, openai_facts
from farebox.rating.price_book import CURRENCY, ModelFacts, PriceVersion
from farebox.rating.units import Lane, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider

ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The instant of a price that the catalogue gives without a beginning."""

IDS: Final = UUID("6f1d0a5e-0f2b-5b43-9c0e-2f6d8f4f7a10")
"""The namespace of the ids of imported versions. An id is a digest of the row: the same row has the
same id in every import on every machine, and a changed row another one."""

OPENAI_SPEAKERS: Final = frozenset({"openai", "azure"})
"""Providers whose model names are OpenAI's, so that OpenAI's published bounds hold."""

LANE_CONTEXTS: Final[Mapping[Lane, dict[str, str]]] = MappingProxyType(
    {
        Lane.STANDARD: {"service_tier": "default"},
        Lane.BATCH: {"processing": "batch"},
        Lane.FLEX: {"service_tier": "flex"},
        Lane.PRIORITY: {"service_tier": "priority"},
    }
)
"""How the catalogue names the lanes."""

_FAST: Final = {"service_tier": "fast"}  # another name of the priority lane

UNITS: Final[Mapping[str, tuple[Unit, int]]] = MappingProxyType(
    {
        "input_mtok": (Unit.INPUT, 1_000_000),
        "cache_read_mtok": (Unit.CACHED_INPUT, 1_000_000),
        "cache_write_mtok": (Unit.CACHE_WRITE, 1_000_000),
        "cache_write_1h_mtok": (Unit.CACHE_WRITE_LONG, 1_000_000),
        "input_image_mtok": (Unit.IMAGE_INPUT, 1_000_000),
        "cache_image_read_mtok": (Unit.CACHED_IMAGE_INPUT, 1_000_000),
        "input_audio_mtok": (Unit.AUDIO_INPUT, 1_000_000),
        "cache_audio_read_mtok": (Unit.CACHED_AUDIO_INPUT, 1_000_000),
        "input_video_mtok": (Unit.VIDEO_INPUT, 1_000_000),
        "output_mtok": (Unit.OUTPUT, 1_000_000),
        "output_image_mtok": (Unit.IMAGE_OUTPUT, 1_000_000),
        "output_audio_mtok": (Unit.AUDIO_OUTPUT, 1_000_000),
        "output_video_mtok": (Unit.VIDEO_OUTPUT, 1_000_000),
        "web_searches_kcount": (Unit.WEB_SEARCH, 1_000),
        "storage_searches_kcount": (Unit.FILE_SEARCH, 1_000),
        "requests_kcount": (Unit.REQUEST, 1_000),
        "input_mchars": (Unit.INPUT_CHARACTER, 1_000_000),
        "audio_hours": (Unit.AUDIO_SECOND, 3_600),
        "input_audio_hours": (Unit.AUDIO_SECOND, 3_600),
        "input_document_kpages": (Unit.DOCUMENT_PAGE, 1_000),
        "input_annotated_document_kpages": (Unit.ANNOTATED_PAGE, 1_000),
        "input_text_messages_kcount": (Unit.TEXT_MESSAGE, 1_000),
    }
)
"""The catalogue's price keys -> our unit, and how many of it a listed price is for."""

_ORDER: Final = {unit: place for place, unit in enumerate(Unit)}


class Skipped(NamedTuple):
    """Something that the catalogue has and the import leaves out."""

    provider: str
    model: str
    reason: str


class CatalogueSnapshot(NamedTuple):
    """Everything that one version of the catalogue says, as rows."""

    source: str
    versions: tuple[PriceVersion, ...]
    facts: tuple[ModelFacts, ...]
    skipped: tuple[Skipped, ...]


class _NotImportableError(Exception):
    """A price cannot be written as a row; the message says why."""


class _Tables(NamedTuple):
    """One price of the catalogue in our terms; both tables are in the order of the units."""

    long_context_over: int | None
    base: tuple[tuple[Unit, int], ...]
    long: tuple[tuple[Unit, int], ...]


def import_catalogue() -> CatalogueSnapshot:
    """Read the whole installed catalogue: every provider and model, offline.

    Nothing but the installed package decides the result: the same versions in the same order with
    the same ids, every time.
    """
    from genai_prices.data import providers  # noqa: PLC0415  # 0.3 s that only an import needs

    source = f"genai-prices {package_version('genai-prices')}"
    versions: list[PriceVersion] = []
    facts: list[ModelFacts] = []
    skipped: list[Skipped] = []
    for provider in providers:
        for model in provider.models:
            found: list[PriceVersion] = []
            reasons = list(_other_contexts(model))
            for lane in Lane:
                try:
                    found += _lane_versions(provider.id, model, lane, source)
                except _NotImportableError as error:
                    reasons.append(f"{lane} lane: {error}")
            skipped += [Skipped(provider.id, model.id, reason) for reason in reasons]
            if found:
                versions += found
                facts.append(_facts(provider, model))
    return CatalogueSnapshot(source, tuple(versions), tuple(facts), tuple(skipped))


def _other_contexts(model: ModelInfo) -> Iterator[str]:
    """Variants that hang on something which is no lane of ours."""
    known = [*LANE_CONTEXTS.values(), _FAST]
    others = {
        " and ".join(f"{key}={value}" for key, value in variant.when.items())
        for variant in model.price_variants or ()
        if variant.when not in known
    }
    for context in sorted(others):
        yield f"the price with {context} is of no lane that Farebox has"


def _lane_versions(provider: str, model: ModelInfo, lane: Lane, source: str) -> list[PriceVersion]:
    """The dated rows of one lane, oldest first; none if the catalogue does not list the lane.

    Raises:
        _NotImportableError: One of its prices cannot be written as a row. Then none is taken, lest
            an older price be charged in place of the newer one.
    """
    versions: list[PriceVersion] = []
    last: _Tables | None = None
    for instant in _instants(model, lane):
        tables = _tables_at(model, lane, instant)
        if not tables.base and last is None:
            continue  # not priced yet
        if not tables.base:
            raise _NotImportableError("a price that ended without a successor")
        if tables != last:
            versions.append(_version(provider, model.id, lane, instant, source, tables))
        last = tables
    if not versions and lane is Lane.STANDARD:
        raise _NotImportableError("no price is listed; one that is free needs a row that says so")
    return versions


def _instants(model: ModelInfo, lane: Lane) -> list[datetime]:
    """When the lane's price may change: from where the lane is listed on."""
    variants = _variants(model, lane)
    if not variants and lane is not Lane.STANDARD:
        return []
    conditions = [] if not isinstance(model.prices, list) else model.prices[1:]
    starts = [_start(each.constraint) for each in variants]
    begin = ALWAYS if lane is Lane.STANDARD else min(starts)
    changes = {begin, *starts, *(_start(each.constraint) for each in conditions)}
    return sorted(instant for instant in changes if instant >= begin)


def _variants(model: ModelInfo, lane: Lane) -> list[PriceVariant]:
    contexts = [LANE_CONTEXTS[lane]] + ([_FAST] if lane is Lane.PRIORITY else [])
    return [each for each in model.price_variants or () if each.when in contexts]


def _start(constraint: object) -> datetime:
    """The instant from which a condition holds; the catalogue's dates begin at midnight UTC."""
    if constraint is None:
        return ALWAYS
    start_date = getattr(constraint, "start_date", None)
    if start_date is None:
        raise _NotImportableError("the price depends on the time of day")
    return datetime.combine(start_date, time(), UTC)


def _tables_at(model: ModelInfo, lane: Lane, instant: datetime) -> _Tables:
    """The lane's price at an instant: what the lane does not list is as in the standard lane."""
    tables = _tables(model.get_prices(instant, LANE_CONTEXTS[lane]))
    fast_listed = any(each.when == _FAST for each in model.price_variants or ())
    if (
        lane is Lane.PRIORITY
        and fast_listed
        and tables != _tables(model.get_prices(instant, _FAST))
    ):
        raise _NotImportableError("the names priority and fast have different prices")
    return tables


def _tables(prices: ModelPrice) -> _Tables:
    """A price of the catalogue in nanos per million units."""
    base: dict[Unit, int] = {}
    long: dict[Unit, int] = {}
    thresholds: set[int] = set()
    for key, price in prices.__dict__.items():
        if price is None:
            continue
        if key not in UNITS:
            raise _NotImportableError(f"{key} prices something that is not metered here")
        unit, listed_for = UNITS[key]
        low = high = price
        if not isinstance(price, Decimal):
            if len(price.tiers) != 1:
                raise _NotImportableError(f"{key} has {len(price.tiers)} tiers; one can be told")
            low, high = price.base, price.tiers[0].price
            thresholds.add(price.tiers[0].start)
        nanos = _nanos(key, low, listed_for), _nanos(key, high, listed_for)
        if (base.setdefault(unit, nanos[0]), long.setdefault(unit, nanos[1])) != nanos:
            raise _NotImportableError(f"{key} contradicts another price of {unit}")
    if len(thresholds) > 1:
        raise _NotImportableError("its tiers begin at different thresholds")
    ordered = tuple(sorted(base.items(), key=lambda row: _ORDER[row[0]]))
    if not thresholds:
        return _Tables(None, ordered, ())
    ordered_long = tuple(sorted(long.items(), key=lambda row: _ORDER[row[0]]))
    return _Tables(thresholds.pop(), ordered, ordered_long)


def _nanos(key: str, price: Decimal, listed_for: int) -> int:
    """Dollars for ``listed_for`` units -> nanos per million units, exactly or not at all."""
    exact = Fraction(price) * NANOS_PER_UNIT * UNITS_PER_PRICE / listed_for
    if exact.denominator != 1:
        raise _NotImportableError(f"{key} of {price} is no whole number of nanos per million units")
    return exact.numerator


def _version(
    provider: str, model: str, lane: Lane, instant: datetime, source: str, tables: _Tables
) -> PriceVersion:
    digest = [provider, model, lane, CURRENCY, instant.isoformat(), str(tables.long_context_over)]
    digest += [f"base {unit} {price}" for unit, price in tables.base]
    digest += [f"long {unit} {price}" for unit, price in tables.long]
    return PriceVersion(
        id=uuid5(IDS, "\n".join(digest)),
        provider=provider,
        model=model,
        lane=lane,
        currency=CURRENCY,
        effective_at=instant,
        source=source,
        long_context_over=tables.long_context_over,
        base=tables.base,
        long=tables.long,
    )


def _facts(provider: Provider, model: ModelInfo) -> ModelFacts:
    speaks_openai = provider.id in OPENAI_SPEAKERS
    published = openai_facts(model.id) if speaks_openai else OpenAIFacts()
    windows = [each for each in (model.context_window, published.context_window) if each]
    return ModelFacts(
        provider=provider.id,
        model=model.id,
        context_window=max(windows, default=None),
        output_max=published.output_max,
        counts_o200k=speaks_openai and counts_o200k(model.id),
        image_tokens_max=published.image_tokens_max,
        aliases=aliases(provider, model),
        patterns=patterns(model),
    )
