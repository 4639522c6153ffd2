"""The import of the whole catalogue: exact, dated, repeatable, and honest about what it leaves."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache

import pytest
from genai_prices import types
from genai_prices.data import providers

from farebox.kit.money import format_amount
from farebox.providers.price_catalogue import (
    ALWAYS,
    UNITS,
    CatalogueSnapshot,
    _lane_versions,
    _NotImportableError,
    _other_contexts,
    import_catalogue,
)
from farebox.rating.charge import rate
from farebox.rating.price_book import PriceBook, PriceVersion, check_version
from farebox.rating.units import Lane, Unit, UnpricedError
from farebox.rating.usage import Usage

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@cache
def snapshot() -> CatalogueSnapshot:
    """The import, once for all tests: nothing in it can change."""
    return import_catalogue()


@cache
def book() -> PriceBook:
    """A book of the whole import."""
    return PriceBook(snapshot().versions, snapshot().facts, revision=1)


def in_force(model: str, lane: Lane = Lane.STANDARD, at: datetime = NOW) -> PriceVersion:
    """An OpenAI price."""
    return book().version_at("openai", model, lane, at)


def dollars(table: tuple[tuple[Unit, int], ...]) -> dict[Unit, str]:
    """A table in dollars per million."""
    return {unit: format_amount(price) for unit, price in table}


def test_every_model_of_every_provider_is_imported_or_named_with_a_reason() -> None:
    """Nothing is lost in silence: 47 providers and 2,330 models are priced or listed as left."""
    listed = {(provider.id, model.id) for provider in providers for model in provider.models}
    priced = {(version.provider, version.model) for version in snapshot().versions}
    left = {(skipped.provider, skipped.model) for skipped in snapshot().skipped}
    assert len(providers) == 47
    assert len(listed) == 2_330
    assert priced | left == listed
    assert len(priced) > 2_000
    assert {facts.provider for facts in snapshot().facts} >= {"openai", "anthropic", "google"}
    assert {(facts.provider, facts.model) for facts in snapshot().facts} == priced


def test_whatever_is_left_out_is_left_out_for_a_known_reason() -> None:
    """A new kind of price in a newer catalogue shows here before it shows in a charge."""
    known = [
        r"lane: no price is listed; one that is free needs a row that says so",
        r"lane: \w+ of [\d.]+ is no whole number of nanos per million units",
        r"lane: the price depends on the time of day",
        r"lane: input_mtok has 2 tiers; one can be told",
        r"lane: output_reasoning_mtok prices something that is not metered here",
        r"the price with (speed|route|search_type)=[\w/]+ is of no lane that Farebox has",
    ]
    reasons = {skipped.reason for skipped in snapshot().skipped}
    assert [each for each in reasons if not any(re.search(rule, each) for rule in known)] == []
    openai = {skipped.model for skipped in snapshot().skipped if skipped.provider == "openai"}
    assert openai == {
        "gpt-live-1",
        "gpt-live-transcribe",
        "gpt-realtime-translate",
        "gpt-realtime-whisper",
        "moderation",
    }


def test_the_import_is_the_same_every_time() -> None:
    """The same catalogue gives the same rows with the same ids, so importing again adds nothing."""
    again = import_catalogue()
    assert again == snapshot()
    ids = [version.id for version in again.versions]
    assert len(set(ids)) == len(ids)
    assert snapshot().source.startswith("genai-prices 0.")


def test_every_imported_row_can_be_charged_from() -> None:
    """Each row passes the check of rows, and its tables are in the order of line items."""
    order = {unit: place for place, unit in enumerate(Unit)}
    for version in snapshot().versions:
        check_version(version)
        for table in (version.base, version.long):
            places = [order[unit] for unit, _ in table]
            assert places == sorted(places)
        assert version.source == snapshot().source
        assert version.currency == "USD"


@pytest.mark.parametrize(
    ("lane", "base", "long"),
    [
        (Lane.STANDARD, ("2.50", "0.25", "15.00"), ("5.00", "0.50", "22.50")),
        (Lane.FLEX, ("1.25", "0.13", "7.50"), ("2.50", "0.25", "11.25")),
        (Lane.BATCH, ("1.25", "0.13", "7.50"), ("2.50", "0.25", "11.25")),
        (Lane.PRIORITY, ("5.00", "0.50", "30.00"), None),
    ],
)
def test_gpt_5_4_has_its_published_figures(
    lane: Lane, base: tuple[str, str, str], long: tuple[str, str, str] | None
) -> None:
    """DED-12, SAV-02, SAV-04: each lane has its own stored prices; batch cached input is $0.13."""
    version = in_force("gpt-5.4", lane)
    units = (Unit.INPUT, Unit.CACHED_INPUT, Unit.OUTPUT)
    assert tuple(dollars(version.base)[unit] for unit in units) == base
    assert dollars(version.base)[Unit.WEB_SEARCH] == "10000.00"  # $10 for a thousand
    assert dollars(version.base)[Unit.FILE_SEARCH] == "2500.00"
    if long is None:
        assert (version.long_context_over, version.long) == (None, ())
    else:
        assert version.long_context_over == 272_000
        assert tuple(dollars(version.long)[unit] for unit in units) == long


@pytest.mark.parametrize(
    ("model", "lane", "usage", "charge"),
    [
        ("gpt-5.4", Lane.STANDARD, (20_000, 80_000, 0, 1_000), "0.085"),
        ("gpt-5.4", Lane.BATCH, (20_000, 80_000, 0, 1_000), "0.0429"),
        ("gpt-5.4", Lane.FLEX, (20_000, 80_000, 0, 1_000), "0.0429"),
        ("gpt-5.4", Lane.PRIORITY, (20_000, 80_000, 0, 1_000), "0.17"),
        ("gpt-5.4", Lane.STANDARD, (272_000, 0, 0, 0), "0.68"),
        ("gpt-5.4", Lane.STANDARD, (272_001, 0, 0, 0), "1.360005"),
        ("gpt-5.4", Lane.PRIORITY, (300_000, 0, 0, 0), "1.50"),
        ("gpt-5.6-sol", Lane.STANDARD, (200, 2_000, 400, 0), "0.0036"),
        ("gpt-6.1-sol", Lane.STANDARD, (0, 1_000_000, 0, 0), "0.20"),
        ("gpt-4.1", Lane.BATCH, (1_000_000, 0, 0, 0), "1.00"),
    ],
)
def test_measured_examples(
    model: str, lane: Lane, usage: tuple[int, int, int, int], charge: str
) -> None:
    """What genai-prices was measured to answer is what the imported rows charge."""
    units = (Unit.INPUT, Unit.CACHED_INPUT, Unit.CACHE_WRITE, Unit.OUTPUT)
    rated = rate(Usage.of(dict(zip(units, usage, strict=True))), in_force(model, lane))
    assert format_amount(rated.total) == charge


def test_the_azure_trace_costs_what_it_should() -> None:
    """The fixed contract: 18,059,974 input and 245,896 output tokens cost exactly $48.838375."""
    prices = dict(in_force("gpt-5.4").base)
    total = 18_059_974 * prices[Unit.INPUT] + 245_896 * prices[Unit.OUTPUT]
    assert format_amount(total // 10**6) == "48.838375"
    assert total % 10**6 == 0


@pytest.mark.parametrize(
    ("model", "before", "on", "old", "new"),
    [
        ("gpt-5.6-sol", "2026-08-20", "2026-08-21", "5.00", "4.00"),
        ("gpt-5.6-luna", "2026-07-29", "2026-07-30", "1.00", "0.20"),
        ("o3", "2025-06-09", "2025-06-10", "10.00", "2.00"),
    ],
)
def test_dated_prices_begin_at_midnight_utc(
    model: str, before: str, on: str, old: str, new: str
) -> None:
    """A price change holds from its day on, and the day before is charged as it was."""
    day = datetime.fromisoformat(on).replace(tzinfo=UTC)
    assert dollars(in_force(model, at=day).base)[Unit.INPUT] == new
    last = datetime.fromisoformat(f"{before}T23:59:59.999999+00:00")
    assert dollars(in_force(model, at=last).base)[Unit.INPUT] == old
    assert in_force(model, at=ALWAYS) is in_force(model, at=last)


def test_a_lane_is_refused_before_its_first_price() -> None:
    """Trap: batch before 14 October 2026 came out at the full price; here it is refused."""
    day = datetime(2026, 10, 14, tzinfo=UTC)
    assert in_force("gpt-5.4", Lane.BATCH, day).effective_at == day
    with pytest.raises(UnpricedError) as caught:
        in_force("gpt-5.4", Lane.BATCH, datetime(2026, 10, 13, 23, 59, tzinfo=UTC))
    assert caught.value.reason == "unpriced_lane"
    assert in_force("gpt-6.1-terra", Lane.FLEX, ALWAYS).effective_at == ALWAYS


@pytest.mark.parametrize("model", ["gpt-5.4-2026-12-01", "gpt-7", "gemini-2.5-pro"])
def test_an_unlisted_model_is_refused(model: str) -> None:
    """An unlisted snapshot or another provider's model has no OpenAI price."""
    with pytest.raises(UnpricedError) as caught:
        in_force(model)
    assert caught.value.reason == "unpriced_model"


@pytest.mark.parametrize(
    ("provider", "model", "unit", "per_million"),
    [
        ("openai", "tts-1", Unit.INPUT_CHARACTER, "15.00"),
        ("openai", "whisper-1", Unit.AUDIO_SECOND, "100.00"),  # $0.0001 a second
        ("openai", "gpt-audio", Unit.AUDIO_INPUT, "32.00"),
        ("openai", "gpt-audio", Unit.AUDIO_OUTPUT, "64.00"),
        ("openai", "gpt-image-1", Unit.IMAGE_INPUT, "10.00"),
        ("openai", "gpt-image-1", Unit.CACHED_IMAGE_INPUT, "2.50"),
        ("openai", "text-embedding-3-small", Unit.INPUT, "0.02"),
        ("anthropic", "claude-opus-5", Unit.CACHE_WRITE_LONG, "10.00"),
        ("perplexity", "sonar", Unit.REQUEST, "12000.00"),
    ],
)
def test_every_kind_of_price_is_per_million_units(
    provider: str, model: str, unit: Unit, per_million: str
) -> None:
    """Hours, thousands of calls and characters become one measure, so a unit slip is visible."""
    version = book().version_at(provider, model, Lane.STANDARD, NOW)
    assert dollars(version.base)[unit] == per_million


def test_facts_come_along() -> None:
    """A ceiling finds the window, the limits and the vocabulary by any listed name."""
    facts = book().facts("openai", "gpt-5.4-2026-03-05")
    assert (facts.model, facts.context_window, facts.output_max) == ("gpt-5.4", 1_050_000, 128_000)
    assert facts.counts_o200k
    assert facts.image_tokens_max == 12_001
    assert not book().facts("openai", "gpt-6-sol").counts_o200k
    # OpenAI's bounds hold for OpenAI's models, not for whatever has a similar name elsewhere.
    other = book().facts("openrouter", "openai/gpt-5.4")
    assert (other.output_max, other.counts_o200k, other.image_tokens_max) == (None, False, None)
    # The published window where the catalogue has a rounder figure.
    assert book().facts("openai", "gpt-4.1").context_window == 1_047_576


# --- prices that cannot be written as a row ----------------------------------------------------


def priced(**prices: Decimal | types.TieredPrices) -> types.ModelPrice:
    """A price of the catalogue."""
    return types.ModelPrice(**prices)


def model(
    prices: types.ModelPrice | list[types.ConditionalPrice],
    variants: list[types.PriceVariant] | None = None,
) -> types.ModelInfo:
    """A model of the catalogue."""
    return types.ModelInfo(
        id="m", match=types.ClauseEquals(equals="m"), prices=prices, price_variants=variants
    )


def tiered(base: str, *tiers: tuple[int, str]) -> types.TieredPrices:
    """A price with tiers."""
    return types.TieredPrices(
        base=Decimal(base), tiers=[types.Tier(start, Decimal(price)) for start, price in tiers]
    )


def since(day: int, prices: types.ModelPrice) -> types.ConditionalPrice:
    """A price from a day of October 2026 on."""
    return types.ConditionalPrice(types.StartDateConstraint(date(2026, 10, day)), prices=prices)


ONE = priced(input_mtok=Decimal(1))
TWO = priced(input_mtok=Decimal(2))


def rows(which: types.ModelInfo, lane: Lane = Lane.STANDARD) -> list[tuple[str, str]]:
    """The rows of a lane as (day, input price in dollars)."""
    return [
        (f"{version.effective_at:%m-%d}", dollars(version.base)[Unit.INPUT])
        for version in _lane_versions("p", which, lane, "test")
    ]


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        (model(priced()), "no price is listed"),
        (model(priced(made_up_mtok=Decimal(1))), "made_up_mtok prices something"),
        (model(priced(input_mtok=tiered("1", (5, "2"), (9, "3")))), "2 tiers"),
        (model(priced(input_mtok=tiered("1"))), "0 tiers"),
        (
            model(priced(input_mtok=tiered("1", (5, "2")), output_mtok=tiered("1", (6, "2")))),
            "different thresholds",
        ),
        (
            model(priced(audio_hours=Decimal("0.36"), input_audio_hours=Decimal("0.72"))),
            "input_audio_hours contradicts",
        ),
        (model(priced(audio_hours=Decimal(1))), "no whole number of nanos"),
        (model(priced(input_mtok=Decimal("0.0833333333333333"))), "no whole number of nanos"),
        (
            model(
                [
                    types.ConditionalPrice(prices=ONE),
                    types.ConditionalPrice(
                        types.TimeOfDateConstraint(time(1), time(4)), prices=TWO
                    ),
                ]
            ),
            "time of day",
        ),
        (
            model([types.ConditionalPrice(prices=ONE), since(5, priced())]),
            "ended without a successor",
        ),
    ],
)
def test_what_is_no_row_is_refused_with_its_reason(which: types.ModelInfo, reason: str) -> None:
    """A price that would have to be bent to fit is not imported at all."""
    with pytest.raises(_NotImportableError, match=reason):
        _lane_versions("p", which, Lane.STANDARD, "test")


def test_one_price_that_is_no_row_leaves_out_the_whole_lane() -> None:
    """An old price must never be charged in place of a newer one that could not be read."""
    which = model([types.ConditionalPrice(prices=ONE), since(5, priced(made_up=Decimal(1)))])
    with pytest.raises(_NotImportableError):
        _lane_versions("p", which, Lane.STANDARD, "test")


def test_a_lane_follows_the_standard_price_in_what_it_does_not_list() -> None:
    """A lane lists some prices; the rest is as in the standard lane, at each of its dates."""
    both = priced(input_mtok=Decimal(4), output_mtok=Decimal(8))
    cheaper = priced(input_mtok=Decimal(3), output_mtok=Decimal(6))
    half = types.PriceVariant(
        {"processing": "batch"},
        priced(input_mtok=Decimal(1)),
        types.StartDateConstraint(date(2026, 10, 14)),
    )
    which = model([types.ConditionalPrice(prices=both), since(1, both), since(20, cheaper)], [half])
    assert rows(which) == [("01-01", "4.00"), ("10-20", "3.00")]
    versions = _lane_versions("p", which, Lane.BATCH, "test")
    assert [(f"{each.effective_at:%m-%d}", dollars(each.base)) for each in versions] == [
        ("10-14", {Unit.INPUT: "1.00", Unit.OUTPUT: "8.00"}),
        ("10-20", {Unit.INPUT: "1.00", Unit.OUTPUT: "6.00"}),
    ]
    assert rows(which, Lane.FLEX) == []


def test_a_model_is_unpriced_until_its_first_price() -> None:
    """An empty first price is no free model but one that was not for sale yet."""
    which = model([types.ConditionalPrice(prices=priced()), since(5, ONE)])
    assert rows(which) == [("10-05", "1.00")]


def test_fast_and_priority_must_agree() -> None:
    """An answer says priority for both names, so two prices for one lane cannot be told apart."""
    priority = types.PriceVariant({"service_tier": "priority"}, TWO)
    same = types.PriceVariant({"service_tier": "fast"}, priced(input_mtok=Decimal(2)))
    other = types.PriceVariant({"service_tier": "fast"}, ONE)
    assert rows(model(ONE, [priority]), Lane.PRIORITY) == [("01-01", "2.00")]
    assert rows(model(ONE, [priority, same]), Lane.PRIORITY) == [("01-01", "2.00")]
    with pytest.raises(_NotImportableError, match="different prices"):
        rows(model(ONE, [priority, other]), Lane.PRIORITY)


def test_a_price_for_something_that_is_no_lane_is_named() -> None:
    """A variant by route, speed or anything else is left out and said so."""
    which = model(
        ONE,
        [
            types.PriceVariant({"service_tier": "flex"}, TWO),
            types.PriceVariant({"service_tier": "fast"}, TWO),
            types.PriceVariant({"processing": "batch", "speed": "fast"}, TWO),
        ],
    )
    assert list(_other_contexts(which)) == [
        "the price with processing=batch and speed=fast is of no lane that Farebox has"
    ]


def test_a_price_that_is_given_as_none_is_no_price() -> None:
    """The catalogue may name a kind of price without having one."""
    empty: dict[str, Decimal | None] = {"input_mtok": Decimal(1), "made_up_mtok": None}
    assert rows(model(types.ModelPrice(**empty))) == [("01-01", "1.00")]


def test_a_tier_prices_the_whole_call_and_flat_units_stay() -> None:
    """A tier's second table is complete: units without a tier keep their price in it."""
    which = model(priced(input_mtok=tiered("1", (200_000, "2")), output_mtok=Decimal(5)))
    (version,) = _lane_versions("p", which, Lane.STANDARD, "test")
    assert version.long_context_over == 200_000
    assert dollars(version.base) == {Unit.INPUT: "1.00", Unit.OUTPUT: "5.00"}
    assert dollars(version.long) == {Unit.INPUT: "2.00", Unit.OUTPUT: "5.00"}


def test_every_unit_but_the_long_forms_is_known_to_the_catalogue() -> None:
    """Each of our units has a price key, so no unit is metered that could never be priced."""
    assert {unit for unit, _ in UNITS.values()} == set(Unit)
