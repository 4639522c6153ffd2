"""The price catalogue of the ``genai-prices`` package as dated rows of our own.

Whatever cannot be written exactly as such a row is left out and named with its reason, so that a
model is either priced as its provider does or refused: never priced roughly. The package is read
offline and only here; its own updater, which fetches prices, is never started (DESIGN.md,
decision 9).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from fractions import Fraction
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID, uuid5

from farebox.kit.money import NANOS_PER_UNIT, UNITS_PER_PRICE
from farebox.providers.openai_models import counts_o200k, openai_facts
from farebox.rating.price_book import CURRENCY, ModelFacts, PriceVersion
from farebox.rating.units import Lane, Unit

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider, TieredPrices

ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The instant of a price that the catalogue gives without a beginning."""

IDS: Final = UUID("6f1d0a5e-0f2b-5b43-9c0e-2f6d8f4f7a10")
"""The namespace of the ids of imported versions; an id is a digest of the row, so the same row has
the same id in every import on every machine."""

OPENAI_SPEAKERS: Final = frozenset({"openai", "azure"})
"""Providers whose model names are OpenAI's, so that OpenAI's published bounds hold."""

LANE_CONTEXTS: Final = {
    Lane.STANDARD: {"service_tier": "default"},
    Lane.BATCH: {"processing": "batch"},
    Lane.FLEX: {"service_tier": "flex"},
    Lane.PRIORITY: {"service_tier": "priority"},
}
"""How the catalogue names the lanes."""

_FAST: Final = {"service_tier": "fast"}  # another name of the priority lane

_UNITS: Final = {
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
"""The catalogue's price keys -> our unit, and how many of it a listed price is for."""

_ORDER: Final = {unit: place for place, unit in enumerate(Unit)}

# What may follow a listed prefix: a snapshot's date or number, a version, a stage. Anything else
# (``-mini``, ``-ultra``) is another model, whose price is not known.
_SNAPSHOT: Final = r"(?:[-@:.](?:\d[\d.:-]*|v\d[\d.:]*|latest|preview|exp))*$"


class Skipped(NamedTuple):
    """Something that the catalogue has and this import leaves out."""

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


type_Table = dict[Unit, int]


def import_catalogue() -> CatalogueSnapshot:
    """Read the whole installed catalogue: every provider and model, offline.

    The result depends on nothing but the installed package: the same versions in the same order
    with the same ids, every time.
    """
    from genai_prices.data import providers  # noqa: PLC0415  # 0.3 s: only who imports prices pays

    source = f"genai-prices {package_version('genai-prices')}"
    versions: list[PriceVersion] = []
    facts: list[ModelFacts] = []
    skipped: list[Skipped] = []
    for provider in providers:
        for model in provider.models:
            found: list[PriceVersion] = []
            for reason in _import_model(provider.id, model, source, found):
                skipped.append(Skipped(provider.id, model.id, reason))
            if found:
                versions += found
                facts.append(_facts(provider, model))
    return CatalogueSnapshot(source, tuple(versions), tuple(facts), tuple(skipped))
