"""Names of models: listed ones, snapshots and fine-tuned models, and nothing that only looks so."""

from __future__ import annotations

from functools import cache

import pytest
from genai_prices import types
from genai_prices.data import providers

from farebox.providers.catalogue_names import aliases, patterns
from farebox.providers.price_catalogue import import_catalogue
from farebox.rating.price_book import ModelFacts, PriceBook
from farebox.rating.units import UnpricedError


@cache
def book() -> PriceBook:
    """A book of the whole import."""
    snapshot = import_catalogue()
    return PriceBook(snapshot.versions, snapshot.facts, revision=1)


def resolved(provider: str, name: str) -> str | None:
    """The model that a name means in the book, or None where it is refused."""
    try:
        return book().resolve(provider, name)
    except UnpricedError:
        return None


def texts(match: types.MatchLogic) -> list[str]:
    """Every text in a match."""
    if isinstance(match, types.ClauseOr):
        return [text for clause in match.or_ for text in texts(clause)]
    if isinstance(match, types.ClauseAnd):
        return [text for clause in match.and_ for text in texts(clause)]
    return [next(iter(match.__dict__.values()))]


def test_a_name_never_means_another_model_than_in_the_catalogue() -> None:
    """Over every listed text with every kind of ending: the catalogue's model, or refused."""
    endings = ["", "-2026-01-15", "-20260115", "-001", "-v1:0", "-latest", "-mini", "-pro", "2"]
    offenders = []
    compared = 0
    for provider in providers:
        for model in provider.models:
            listed_only = not patterns(model)
            for text in texts(model.match):
                for ending in endings[: 2 if listed_only else None]:
                    mine = resolved(provider.id, text + ending)
                    theirs = provider.find_model(text + ending)
                    compared += mine is not None
                    if mine is not None and (theirs is None or theirs.id != mine):
                        offenders.append((provider.id, text + ending, mine, theirs and theirs.id))
    assert compared > 3_000, compared
    # The catalogue gives names that no API takes; ours are known by them too.
    assert [each for each in offenders if each[1] != each[2]] == []


@pytest.mark.parametrize(
    ("provider", "name", "model"),
    [
        ("openai", "gpt-5.6", "gpt-5.6-sol"),
        ("openai", "gpt-5.6-sol-2026-07-09", "gpt-5.6-sol"),
        ("openai", "gpt-5-nano-2025-08-07", "gpt-5-nano"),
        ("openai", "gpt-4o-audio-preview-2024-12-17", "gpt-4o-audio-preview"),
        ("openai", "ft:gpt-4o-2024-08-06:acme:tone:Ab1", "ft:gpt-4o"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::x", "ft:gpt-4o-mini"),
        ("openai", "computer-use-preview-2025-03-11", "computer-use"),
        ("anthropic", "claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("anthropic", "claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("google", "gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("aws", "us.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
    ],
)
def test_snapshots_and_fine_tuned_models_are_known(provider: str, name: str, model: str) -> None:
    """The names that providers' APIs really take lead to a price."""
    assert resolved(provider, name) == model


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-5.4-ultra"),
        ("openai", "gpt-5-nano-ultra"),
        ("openai", "my-gpt-4o-audio-preview"),
        ("google", "gemini-2.5-pro-ultra"),
        ("google", "gemini-2.5-pro-preview-native"),
        ("anthropic", "claude-opus-4-50"),
        ("anthropic", "claude-opus-4-5-1"),
        ("aws", "xamazon.nova-lite-v1:0"),
        ("aws", "amazon.nova-lite-plus-v1:0"),
    ],
)
def test_what_only_looks_like_a_known_model_is_not(provider: str, name: str) -> None:
    """DESIGN.md decision 9: another model with a similar name has another price, unknown to us."""
    assert resolved(provider, name) is None


def one(match: types.MatchLogic) -> types.ModelInfo:
    """A model that is matched so."""
    return types.ModelInfo(id="m", match=match)


@pytest.mark.parametrize(
    ("match", "name", "known"),
    [
        (types.ClauseStartsWith(starts_with="abc-"), "abc", False),
        (types.ClauseStartsWith(starts_with="abc-"), "abc-2026-01-31-preview", True),
        (types.ClauseStartsWith(starts_with="abc@"), "abc-2026-01-31", False),
        (types.ClauseStartsWith(starts_with="ABC"), "abc-2026-01-31", True),
        (types.ClauseStartsWith(starts_with="abc"), "abcd", False),
        (types.ClauseStartsWith(starts_with="abc-2025"), "abc-20250131", True),
        (types.ClauseStartsWith(starts_with="abc-2025"), "abc-2025-01-31", True),
        (types.ClauseStartsWith(starts_with="abc-2025"), "abc-2025", False),
        (types.ClauseContains(contains="abc"), "x/abc-v2:1", True),
        (types.ClauseContains(contains="abc"), "xabc", False),
        (types.ClauseEndsWith(ends_with="abc"), "us.abc", True),
        (types.ClauseEndsWith(ends_with="/abc"), "accounts/abc", True),
        (types.ClauseEndsWith(ends_with="abc"), "us.abc-1", False),
        (types.ClauseRegex(regex=r"^abc-\d$"), "abc-5", True),
        (
            types.ClauseAnd(
                and_=[types.ClauseStartsWith(starts_with="a"), types.ClauseRegex(regex="^(?!.*-x)")]
            ),
            "a-2026-01-31",
            True,
        ),
        (
            types.ClauseAnd(
                and_=[
                    types.ClauseStartsWith(starts_with="a"),
                    types.ClauseRegex(regex="^(?!.*-01-)"),
                ]
            ),
            "a-2026-01-31",
            False,
        ),
        (
            types.ClauseAnd(
                and_=[types.ClauseContains(contains="a"), types.ClauseRegex(regex="latest")]
            ),
            "x.a-latest",
            True,
        ),
        (
            types.ClauseAnd(
                and_=[types.ClauseEquals(equals="ab"), types.ClauseStartsWith(starts_with="a")]
            ),
            "ab",
            False,
        ),
    ],
)
def test_each_kind_of_match_becomes_a_pattern(
    match: types.MatchLogic, name: str, known: bool
) -> None:
    """Every way in which the catalogue matches names is narrowed to what a snapshot can be."""
    facts = ModelFacts("p", "m", patterns=patterns(one(match)))
    found = PriceBook([], [facts], revision=1)
    if known:
        assert found.resolve("p", name) == "m"
    else:
        with pytest.raises(UnpricedError):
            found.resolve("p", name)


def test_a_name_of_two_models_belongs_to_the_one_found_first() -> None:
    """Where the catalogue lists a name twice, ours means what theirs does."""
    first = types.ModelInfo(id="a", match=types.ClauseStartsWith(starts_with="x"))
    second = types.ModelInfo(
        id="b",
        match=types.ClauseOr(or_=[types.ClauseEquals(equals="xy"), types.ClauseEquals(equals="z")]),
    )
    provider = types.Provider(id="p", name="P", api_pattern="", models=[first, second])
    assert aliases(provider, first) == ()
    assert aliases(provider, second) == ("z",)
