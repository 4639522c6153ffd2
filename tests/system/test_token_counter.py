"""Counting tokens offline: exactly what OpenAI's own counter gives, or more, never less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.system.token_counter import COUNTED_BYTES_MAX, _tokenizer, count_o200k, warm_up

# What tiktoken counts, recorded once; its vocabulary cannot be had offline.
VECTORS = json.loads(Path(__file__).with_name("o200k_vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "count"), VECTORS["texts"])
def test_counts_are_those_of_tiktoken(text: str, count: int) -> None:
    """Every script, kind of space, code and mark is counted as OpenAI's own counter does."""
    assert count_o200k(text) == count


@pytest.mark.parametrize(("part", "times", "count"), VECTORS["repeated"])
def test_endless_repetition_is_counted_exactly_too(part: str, times: int, count: int) -> None:
    """What makes other counters slow or wrong, one endless word, is counted like the rest."""
    assert count_o200k(part * times) == count


def test_special_tokens_in_a_text_are_ordinary_text() -> None:
    """Field trap: read as one token, the seven of ``<|endoftext|>`` would be held as one."""
    assert count_o200k("<|endoftext|>") == 7
    assert count_o200k("<|im_start|>") > 1


@given(text=st.text(st.characters(codec="utf-8"), max_size=400))
def test_there_are_never_more_tokens_than_bytes(text: str) -> None:
    """ENGINE.md: bytes bound any byte-level vocabulary, so a count can only tighten a ceiling."""
    size = len(text.encode())
    assert (size > 0) <= count_o200k(text) <= size


@given(
    words=st.lists(
        st.text(st.characters(codec="utf-8", categories=["L"]), min_size=1, max_size=9),
        min_size=1,
        max_size=20,
    )
)
def test_texts_that_are_counted_apart_add_up(words: list[str]) -> None:
    """A line end before a letter always parts tokens: counting twice finds the same sum."""
    lines = [f"{word}\n" for word in words]
    assert count_o200k("".join(lines)) == sum(map(count_o200k, lines))


def test_a_text_too_long_to_count_is_bounded_by_its_bytes() -> None:
    """A hostile ten megabytes cost no time: the answer is the byte bound, and never too small."""
    assert count_o200k("a" * 10_000_000) == 10_000_000
    assert count_o200k("é" * (COUNTED_BYTES_MAX // 2 + 1)) == COUNTED_BYTES_MAX + 2
    assert count_o200k(" " * COUNTED_BYTES_MAX) < COUNTED_BYTES_MAX


def test_broken_text_is_bounded_by_its_bytes() -> None:
    """JSON can hold half a surrogate pair; it is no text, and bounded all the same."""
    assert count_o200k("a\ud800b") == 5


def test_nothing_of_a_text_is_remembered() -> None:
    """Hostile texts cannot fill memory: what was counted is forgotten at once."""
    warm_up()
    for number in range(3):
        count_o200k(f"{number} some words to remember")
    assert _tokenizer().cache_len == 0
