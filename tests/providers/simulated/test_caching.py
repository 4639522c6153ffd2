"""The simulated prompt cache, both kinds."""

from __future__ import annotations

from typing import Any

from farebox.providers.simulated.caching import CacheUse, PromptCache
from farebox.providers.simulated.prompts import Block, Prompt

OLD = "gpt-4o"  # keeps in memory for minutes
DAY = "gpt-5.4"  # keeps for a day
NEW = "gpt-5.6-sol"  # caches at breakpoints


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _prompt(*sizes: int, marked: tuple[int, ...] = (), other: int | None = None) -> Prompt:
    """A prompt of turns with so many tokens each, four bytes a token."""
    blocks = []
    for index, tokens in enumerate(sizes):
        letter = b"x" if index == other else b"abcdefgh"[index : index + 1]
        block = Block(letter * (4 * tokens), tokens, ends_turn=True, marked=index in marked)
        blocks.append(block)
    return Prompt(tuple(blocks), sum(sizes), 0)


def _cache(**settings: Any) -> tuple[PromptCache, Clock]:
    clock = Clock()
    return PromptCache(clock, **settings), clock


def test_the_documented_example() -> None:
    """OpenAI's guide: of a prompt of 2,006 tokens seen before, 1,920 are cached."""
    cache, _ = _cache()
    assert cache.use(DAY, _prompt(2006), {}) == CacheUse(cached=0)
    assert cache.use(DAY, _prompt(2006), {}) == CacheUse(cached=1920)


def test_short_prompts_are_not_cached() -> None:
    """Below 1,024 tokens nothing is cached, in both kinds."""
    cache, _ = _cache()
    for _ in range(2):
        assert cache.use(DAY, _prompt(1023), {}) == CacheUse(cached=0)
        assert cache.use(NEW, _prompt(1023), {}) == CacheUse(cached=0, written=0)


def test_a_short_beginning_in_common_is_no_hit() -> None:
    """Two long prompts that share fewer than 1,024 tokens share nothing, in both kinds."""
    for model in (DAY, NEW):
        cache, _ = _cache()
        cache.use(model, _prompt(1000, 1000), {})
        assert cache.use(model, _prompt(1000, 1000, other=1), {}).cached == 0


def test_a_longer_conversation_finds_its_beginning() -> None:
    """Adding a turn reads all that went before, in steps of 128 tokens."""
    cache, _ = _cache()
    cache.use(DAY, _prompt(1500, 200), {})
    assert cache.use(DAY, _prompt(1500, 200, 300), {}).cached == 1700 - 1700 % 128


def test_a_prefix_within_a_block_is_found() -> None:
    """Two prompts that differ in the middle of one message share what stands before."""
    cache, _ = _cache()
    cache.use(DAY, _prompt(2000, 500), {})
    assert cache.use(DAY, _prompt(2000, 500, other=1), {}).cached == 1920
    assert cache.use(DAY, _prompt(2000, 500, other=0), {}).cached == 0


def test_prefixes_are_kept_apart() -> None:
    """Another model, or another key, shares nothing."""
    cache, _ = _cache()
    cache.use(DAY, _prompt(2000), {"prompt_cache_key": "a"})
    assert cache.use(DAY, _prompt(2000), {"prompt_cache_key": "b"}).cached == 0
    assert cache.use(OLD, _prompt(2000), {"prompt_cache_key": "a"}).cached == 0
    assert cache.use(DAY, _prompt(2000), {"prompt_cache_key": "a"}).cached == 1920
    assert cache.use(f"{DAY}-2026-03-05", _prompt(2000), {"prompt_cache_key": "a"}).cached == 1920


def test_in_memory_a_prefix_lives_five_to_ten_minutes() -> None:
    """An idle prefix is there after just under five minutes and gone after ten."""
    cache, clock = _cache()
    cache.use(OLD, _prompt(2000), {})
    clock.now += 299
    assert cache.use(OLD, _prompt(2000), {}).cached == 1920
    clock.now += 601
    assert cache.use(OLD, _prompt(2000), {}).cached == 0


def test_in_memory_a_prefix_lives_an_hour_at_most() -> None:
    """Use keeps a prefix, but not beyond an hour."""
    cache, clock = _cache()
    cache.use(OLD, _prompt(2000), {})
    hits = []
    for _ in range(20):
        clock.now += 200
        hits.append(cache.use(OLD, _prompt(2000), {}).cached > 0)
    assert hits.index(False) == 3600 // 200 - 1


def test_a_day_of_retention() -> None:
    """Models with long retention keep a prefix for a day unless the call asks for memory only."""
    cache, clock = _cache()
    cache.use(DAY, _prompt(2000), {})
    clock.now += 86_399
    assert cache.use(DAY, _prompt(2000), {"prompt_cache_retention": "in_memory"}).cached == 1920
    clock.now += 601
    assert cache.use(DAY, _prompt(2000), {}).cached == 0


def test_breakpoints_write_once_and_read_after() -> None:
    """GPT-5.6: the end of the last turn is written and billed, then read."""
    cache, _ = _cache()
    assert cache.use(NEW, _prompt(2000), {}) == CacheUse(cached=0, written=2000)
    assert cache.use(NEW, _prompt(2000), {}) == CacheUse(cached=1920, written=0)
    assert cache.use(NEW, _prompt(2000, 600), {}) == CacheUse(cached=1920, written=600)


def test_breakpoints_need_the_exact_prefix() -> None:
    """A prompt that changes within the last turn reads nothing of it."""
    cache, _ = _cache()
    cache.use(NEW, _prompt(2000, 600), {})
    assert cache.use(NEW, _prompt(2000, 600, other=1), {}) == CacheUse(cached=0, written=2600)


def test_explicit_mode_caches_at_marks_only() -> None:
    """Without a mark explicit mode caches nothing; with one it caches up to there."""
    options = {"prompt_cache_options": {"mode": "explicit"}}
    cache, _ = _cache()
    assert cache.use(NEW, _prompt(2000, 100), options) == CacheUse(cached=0, written=0)
    marked = _prompt(2000, 100, marked=(0,))
    assert cache.use(NEW, marked, options) == CacheUse(cached=0, written=2000)
    assert cache.use(NEW, marked, options) == CacheUse(cached=1920, written=0)


def test_breakpoints_live_half_an_hour_from_the_last_use() -> None:
    """Reuse keeps a breakpoint, at no charge."""
    cache, clock = _cache()
    cache.use(NEW, _prompt(2000), {})
    for _ in range(3):
        clock.now += 1799
        assert cache.use(NEW, _prompt(2000), {}) == CacheUse(cached=1920, written=0)
    clock.now += 1800
    assert cache.use(NEW, _prompt(2000), {}) == CacheUse(cached=0, written=2000)


def test_cached_and_written_never_pass_the_prompt() -> None:
    """Both are parts of the prompt, with or without rounding."""
    for rounds in (True, False):
        cache, _ = _cache(round_at_breakpoints=rounds)
        for size in (1024, 1025, 1500, 5000):
            for more in (1, 127, 3000):
                prompt = _prompt(size, more)
                use = cache.use(NEW, prompt, {})
                assert use.written is not None
                assert 0 <= use.cached + use.written <= prompt.tokens
    exact, _ = _cache(round_at_breakpoints=False)
    exact.use(NEW, _prompt(2000), {})
    assert exact.use(NEW, _prompt(2000), {}).cached == 2000


def test_a_crowded_prefix_misses_at_times() -> None:
    """Above 15 uses a minute some calls miss; in the next minute none do."""
    cache, clock = _cache()
    for _ in range(15):
        cache.use(DAY, _prompt(2000), {})
    crowd = [cache.use(DAY, _prompt(2000), {}).cached > 0 for _ in range(40)]
    assert True in crowd
    assert False in crowd
    clock.now += 60
    assert cache.use(DAY, _prompt(2000), {}).cached == 1920
    never, _ = _cache(overflow_miss_percent=0)
    uses = [never.use(DAY, _prompt(2000), {}).cached for _ in range(40)]
    assert uses == [0] + [1920] * 39


def test_the_same_seed_misses_in_the_same_places() -> None:
    """A simulation can be replayed."""

    def crowd(seed: int) -> list[int]:
        cache, _ = _cache(seed=seed)
        return [cache.use(DAY, _prompt(2000), {}).cached for _ in range(60)]

    assert crowd(1) == crowd(1)
    assert crowd(1) != crowd(2)


def test_the_memory_is_bounded() -> None:
    """The least recently used prefixes are forgotten first."""
    cache, _ = _cache(prefixes_max=40)
    for index in range(8):
        cache.use(DAY, _prompt(2000), {"prompt_cache_key": str(index)})
    assert len(cache._kept) == 40
    assert cache.use(DAY, _prompt(2000), {"prompt_cache_key": "0"}).cached == 0
