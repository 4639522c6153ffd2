"""Our price table against the calculator of ``genai-prices``: every difference, with its reason.

The table is what charges, the calculator is somebody else's reading of the same catalogue. Where
the two disagree, either the import is wrong or they differ on purpose; the second kind is known and
named here, so that the first kind stands out (DESIGN.md, decision 9: "cross-checked").
"""

from __future__ import annotations

from datetime import datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.providers.price_catalogue import ALWAYS, LANE_CONTEXTS, UNITS
from farebox.rating.charge import rate, unit_price
from farebox.rating.units import Lane, Unit, UnpricedError
from farebox.rating.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genai_prices.types import ModelInfo, Provider

    from farebox.rating.price_book import PriceBook

OPENAI: Final = "openai"

USAGES: Final = (
    Usage.of({Unit.INPUT: 1_000}),
    Usage.of({Unit.INPUT: 1_001, Unit.OUTPUT: 103}),
    Usage.of({Unit.INPUT: 20_000, Unit.CACHED_INPUT: 80_000, Unit.OUTPUT: 1_000}),
    Usage.of(
        {Unit.INPUT: 200, Unit.CACHED_INPUT: 2_000, Unit.CACHE_WRITE: 400, Unit.OUTPUT: 50},
        reasoning_tokens=30,
    ),
    Usage.of({Unit.INPUT: 200_000, Unit.CACHED_INPUT: 72_000, Unit.OUTPUT: 1_000}),
    Usage.of({Unit.INPUT: 200_001, Unit.CACHED_INPUT: 72_000, Unit.OUTPUT: 1_000}),
    Usage.of({Unit.INPUT: 100, Unit.AUDIO_INPUT: 500, Unit.OUTPUT: 50, Unit.AUDIO_OUTPUT: 400}),
    Usage.of({Unit.INPUT: 100, Unit.AUDIO_INPUT: 50, Unit.CACHED_AUDIO_INPUT: 450}),
    Usage.of({Unit.INPUT: 100, Unit.IMAGE_INPUT: 900, Unit.OUTPUT: 10, Unit.IMAGE_OUTPUT: 70}),
    Usage.of({Unit.INPUT: 100, Unit.IMAGE_INPUT: 900, Unit.CACHED_IMAGE_INPUT: 300}),
    Usage.of({Unit.INPUT: 100, Unit.OUTPUT: 10, Unit.WEB_SEARCH: 2, Unit.FILE_SEARCH: 3}),
)
"""What is compared: small calls, both sides of the long-context line, each modality, tool calls."""

UNEXPLAINED: Final = "unexplained"
NO_MODEL: Final = "the import left the model out and says why; they price it"
NO_LANE: Final = "the lane is not listed: they charge the standard price, here it is refused"
NO_UNIT: Final = "a unit is not listed: they charge nothing or a text price, here it is refused"


class Difference(NamedTuple):
    """One usage that the two price differently."""

    model: str
    lane: Lane
    at: datetime
    usage: Usage
    ours: Nanos | None
    """None: refused."""
    theirs: Fraction
    """Nanos, exact."""
    reason: str


def compare_openai(book: PriceBook) -> list[Difference]:
    """Compare every OpenAI model, lane and change of price over :data:`USAGES`.

    Args:
        book: A book that has the imported versions of the provider ``openai``.

    Returns:
        Every difference; those with the reason :data:`UNEXPLAINED` are faults.
    """
    from genai_prices.data import providers  # noqa: PLC0415  # only a comparison needs it

    provider = next(each for each in providers if each.id == OPENAI)
    instants = _instants(book)
    differences: list[Difference] = []
    for model in provider.models:
        for at in instants.get(model.id, [max(map(max, instants.values()))]):
            for lane in Lane:
                differences += _compare(book, provider, model, lane, at)
    return differences


def _instants(book: PriceBook) -> dict[str, list[datetime]]:
    """For each model the instants of its price changes, and the moments before them."""
    changes: dict[str, set[datetime]] = {}
    for version in book.versions():
        if version.provider == OPENAI:
            found = changes.setdefault(version.model, set())
            found.add(version.effective_at)
            if version.effective_at > ALWAYS:
                found.add(version.effective_at - timedelta(microseconds=1))
    return {model: sorted(instants) for model, instants in changes.items()}


def _compare(
    book: PriceBook, provider: Provider, model: ModelInfo, lane: Lane, at: datetime
) -> Iterator[Difference]:
    for usage in USAGES:
        theirs = _theirs(provider, model, lane, at, usage)
        try:
            rated = rate(usage, book.version_at(OPENAI, model.id, lane, at))
        except UnpricedError as error:
            reason = _reason(book, error, model, lane, at, usage)
            yield Difference(model.id, lane, at, usage, None, theirs, reason)
            if error.reason != "unpriced_unit":
                return  # nothing there is priced, so one example says it all
        else:
            # Each line is rounded by at most a half.
            allowance = Fraction(len(rated.lines), 2)
            if abs(rated.total - theirs) > allowance:
                yield Difference(model.id, lane, at, usage, rated.total, theirs, UNEXPLAINED)


def _reason(
    book: PriceBook,
    error: UnpricedError,
    model: ModelInfo,
    lane: Lane,
    at: datetime,
    usage: Usage,
) -> str:
    """Why we refuse what they price; unexplained if the catalogue lists what we say is missing."""
    if error.reason == "unpriced_model":
        return NO_MODEL
    if error.reason == "unpriced_lane":
        listed = any(
            each.when == LANE_CONTEXTS[lane] and (not each.constraint or each.constraint.active(at))
            for each in model.price_variants or ()
        )
        return UNEXPLAINED if listed or lane is Lane.STANDARD else NO_LANE
    version = book.version_at(OPENAI, model.id, lane, at)
    ours = dict(version.base)
    listed_units = {
        UNITS[key][0]
        for key, price in model.get_prices(at, LANE_CONTEXTS[lane]).__dict__.items()
        if price is not None
    }
    missing = {unit for unit, _ in usage.units if unit_price(unit, ours) is None}
    return NO_UNIT if missing and not missing & listed_units else UNEXPLAINED


def _theirs(
    provider: Provider, model: ModelInfo, lane: Lane, at: datetime, usage: Usage
) -> Fraction:
    """What their calculator says, in nanos."""
    from genai_prices import Usage as TheirUsage  # noqa: PLC0415  # as above

    cached_image = usage.count(Unit.CACHED_IMAGE_INPUT)
    cached_audio = usage.count(Unit.CACHED_AUDIO_INPUT)
    # Their counts overlap: totals with parts, as providers report them.
    counts = TheirUsage(
        input_tokens=usage.input_total,
        cache_read_tokens=usage.count(Unit.CACHED_INPUT) + cached_image + cached_audio,
        cache_write_tokens=usage.count(Unit.CACHE_WRITE),
        input_image_tokens=usage.count(Unit.IMAGE_INPUT) + cached_image,
        cache_image_read_tokens=cached_image,
        input_audio_tokens=usage.count(Unit.AUDIO_INPUT) + cached_audio,
        cache_audio_read_tokens=cached_audio,
        output_tokens=usage.output_total,
        output_image_tokens=usage.count(Unit.IMAGE_OUTPUT),
        output_audio_tokens=usage.count(Unit.AUDIO_OUTPUT),
        web_searches=usage.count(Unit.WEB_SEARCH),
        storage_searches=usage.count(Unit.FILE_SEARCH),
    )
    priced = model.calc_price(
        counts, provider, genai_request_timestamp=at, price_context=LANE_CONTEXTS[lane]
    )
    return Fraction(priced.total_price) * NANOS_PER_UNIT
