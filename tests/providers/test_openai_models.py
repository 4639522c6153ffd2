"""Published bounds of OpenAI's models: never smaller than any published example."""

from __future__ import annotations

import pytest
from genai_prices.data import providers

from farebox.providers.openai_models import OpenAIFacts, counts_o200k, openai_facts

OPENAI = next(provider for provider in providers if provider.id == "openai")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-5.4", 3_000),  # 2048 x 2048 in high detail
        ("gpt-5.4", 12_000),  # 10,000 patches in original detail
        ("gpt-5.4-mini", 12_000),
        ("gpt-5.5", 11_868),  # measured: 4032 x 3024
        ("gpt-5.6-sol", 36_000),  # 30,000 patches, more is rejected
        ("gpt-6-astra", 14_364),  # measured: 4032 x 3024
        ("gpt-5.2", 7_373),
        ("gpt-4.1-mini", 2_489),
        ("gpt-4o", 1_105),  # 2048 x 4096
        ("gpt-4o", 1_445),  # eight tiles
        ("gpt-4o-mini", 48_169),
        ("o1", 1_275),
        ("o4-mini", 2_642),
    ],
)
def test_an_image_costs_no_more_than_its_bound(model: str, tokens: int) -> None:
    """ENGINE.md: an inline image is bounded by the model's maximum, at any size and detail."""
    most = openai_facts(model).image_tokens_max
    assert most is not None
    assert most >= tokens


def test_an_unknown_model_has_no_facts() -> None:
    """Nothing is guessed from a name: what no line covers is bounded by the window or refused."""
    for model in ("gpt-7", "gpt-6-cyber", "gpt-4o-mini-tts", "", "xgpt-4o"):
        assert openai_facts(model) == OpenAIFacts()


def test_the_families_cover_the_models_in_use() -> None:
    """Every chat model of the catalogue with a known window since GPT-4o has an output limit."""
    offenders = [
        model.id
        for model in OPENAI.models
        if model.context_window
        and not openai_facts(model.id).output_max
        and not model.id.startswith(("text-embedding", "gpt-3.5", "gpt-4-32k", "gpt-oss"))
        and not any(word in model.id for word in ("realtime", "transcribe", "computer-use"))
    ]
    assert offenders == []


def test_only_models_with_a_published_vocabulary_count_so() -> None:
    """ENGINE.md: o200k only for models known to use it; for the rest bytes are the bound."""
    known = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o1", "o3-mini", "o4-mini", "gpt-5", "gpt-5.6-sol")
    assert all(map(counts_o200k, known))
    others = ("gpt-4", "gpt-4-turbo", "gpt-3.5-turbo", "gpt-6-sol", "text-embedding-3-small")
    assert not any(map(counts_o200k, others))
