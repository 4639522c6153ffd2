"""The simulated prompt cache: which part of a prompt was seen before, in both of OpenAI's ways.

Older models match the longest prefix they kept, in steps of 128 tokens, and write for free. GPT-5.6
and later match at breakpoints only and report what they write. Both need 1,024 tokens, keep
prefixes apart by model and ``prompt_cache_key``, and miss at times once a prefix is asked for more
than 15 times a minute (OpenAI's guide to prompt caching).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from farebox.providers.simulated.chance import digest, draws
from farebox.providers.simulated.models import (
    caches_at_breakpoints,
    keeps_cache_for_a_day,
    without_date,
)
from farebox.providers.simulated.prompts import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from farebox.providers.simulated.prompts import Prompt

PREFIX_TOKENS_MIN: Final = 1024
_STEP_TOKENS: Final = 128

PREFIXES_MAX: Final = 65_536
"""Prefixes remembered, the least recently used forgotten first: some 10 MB."""

_RATES_MAX: Final = 4096
_RATE_PER_MINUTE: Final = 15

_PIECE_BYTES: Final = 512
"""How finely the older cache looks into a block: about 128 tokens."""

_IDLE_SECONDS: Final = (300, 600)
"""In memory a prefix lives 5 to 10 minutes after its last use, ..."""
_MEMORY_SECONDS_MAX: Final = 3600
"""... and an hour at most."""
_DAY_SECONDS: Final = 86_400
_BREAKPOINT_SECONDS: Final = 1800
"""From the write, and again from each use."""

_READS_MAX: Final = 50
_WRITES_MAX: Final = 4

_HASH_BYTES: Final = 16


class CacheUse(msgspec.Struct, frozen=True):
    """What the cache did for one prompt, in tokens."""

    cached: int = 0
    written: int | None = None
    """None for models whose cache writes for free."""


class _Place(msgspec.Struct, frozen=True):
    """A prefix of the prompt."""

    key: bytes
    tokens: int
    block: Block | None = None
    """The block that ends here; None within one."""


class _Kept(msgspec.Struct):
    since: float
    until: float


class PromptCache:
    """The cache of one provider account; bounded, deterministic from seed, clock and calls."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        seed: int = 0,
        prefixes_max: int = PREFIXES_MAX,
        overflow_miss_percent: int = 50,
        round_at_breakpoints: bool = True,
    ) -> None:
        """Make an empty one.

        Args:
            monotonic: Seconds that never go back.
            seed: Of the misses and life times.
            prefixes_max: Prefixes remembered.
            overflow_miss_percent: How often a prefix misses beyond 15 uses a minute.
            round_at_breakpoints: Report cached tokens of the newer cache in steps of 128, as the
                latest guide says; the one before it reported them exactly.
        """
        self._monotonic = monotonic
        self._prefixes_max = prefixes_max
        self._miss_percent = overflow_miss_percent
        self._round = round_at_breakpoints
        self._draws = draws(digest(seed, "prompt cache", b""))
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._rates: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def use(self, model: str, prompt: Prompt, fields: dict[str, Any]) -> CacheUse:
        """Look a prompt up, and remember it.

        Args:
            model: As the client wrote it.
            prompt: Counted.
            fields: The request's body, for its cache options.
        """
        breakpoints = caches_at_breakpoints(model)
        if prompt.tokens < PREFIX_TOKENS_MIN:
            return CacheUse(written=0 if breakpoints else None)
        now = self._monotonic()
        scope = f"{without_date(model)}\0{fields.get('prompt_cache_key') or ''}"
        places = list(_places(scope.encode(), prompt.blocks))
        missed = self._overflows(places[0].key, now)
        if breakpoints:
            return self._use_breakpoints(places, fields, now, missed=missed)
        cached = 0 if missed else self._longest(places, now)
        day = fields.get("prompt_cache_retention", "24h") == "24h"
        self._remember(places, now, for_a_day=day and keeps_cache_for_a_day(model))
        cached -= cached % _STEP_TOKENS
        return CacheUse(cached=cached if cached >= PREFIX_TOKENS_MIN else 0)

    def _use_breakpoints(
        self, places: list[_Place], fields: dict[str, Any], now: float, *, missed: bool
    ) -> CacheUse:
        """The newer cache: read and write at the ends of turns and at marks only."""
        options = fields.get("prompt_cache_options")
        explicit = isinstance(options, dict) and options.get("mode") == "explicit"
        marks = [place for place in places if place.block and place.block.marked]
        turns = [place for place in places if place.block and place.block.ends_turn]
        if explicit:
            reads, writes = marks, marks[-_WRITES_MAX:]
        else:
            reads = sorted(marks + turns, key=lambda place: place.tokens)
            writes = marks[1 - _WRITES_MAX :] + turns[-1:]
        writes = [place for place in writes if place.tokens >= PREFIX_TOKENS_MIN]
        read = 0 if missed else self._longest(reads[-_READS_MAX:], now)
        furthest = max((place.tokens for place in writes), default=0)
        known = [place for place in reads if place.tokens == read]
        for place in writes + known:
            self._keep(place.key, now, now + _BREAKPOINT_SECONDS)
        cached = read - read % _STEP_TOKENS if self._round else read
        return CacheUse(cached=cached, written=max(0, furthest - read))

    def _longest(self, places: list[_Place], now: float) -> int:
        """Tokens of the longest prefix that is still kept."""
        for place in reversed(places):
            kept = self._kept.get(place.key)
            if kept is not None and now < kept.until:
                return place.tokens
        return 0

    def _remember(self, places: list[_Place], now: float, *, for_a_day: bool) -> None:
        """Keep every prefix of a prompt, longer if it was kept already."""
        least, most = _IDLE_SECONDS
        idle = _DAY_SECONDS if for_a_day else least + next(self._draws) % (most - least)
        for place in places:
            kept = self._kept.get(place.key)
            since = kept.since if kept is not None and now < kept.until else now
            until = now + idle
            if not for_a_day:
                until = min(until, since + _MEMORY_SECONDS_MAX)
            self._keep(place.key, since, until)

    def _keep(self, key: bytes, since: float, until: float) -> None:
        self._kept[key] = _Kept(since=since, until=until)
        self._kept.move_to_end(key)
        while len(self._kept) > self._prefixes_max:
            self._kept.popitem(last=False)

    def _overflows(self, key: bytes, now: float) -> bool:
        """Count a use of a prefix, and say whether it is one too many and misses."""
        minute = int(now // 60)
        counted_in, count = self._rates.pop(key, (minute, 0))
        count = count + 1 if counted_in == minute else 1
        self._rates[key] = (minute, count)
        while len(self._rates) > _RATES_MAX:
            self._rates.popitem(last=False)
        return count > _RATE_PER_MINUTE and next(self._draws) % 100 < self._miss_percent


def _places(scope: bytes, blocks: tuple[Block, ...]) -> Iterator[_Place]:
    """Every prefix at which a prompt can be matched, shortest first."""
    key = hashlib.blake2b(scope, digest_size=_HASH_BYTES).digest()
    before = 0
    for block in blocks:
        length = len(block.text)
        for start in range(0, length, _PIECE_BYTES):
            end = min(start + _PIECE_BYTES, length)
            piece = block.text[start:end]
            key = hashlib.blake2b(key + piece, digest_size=_HASH_BYTES).digest()
            last = end == length
            tokens = before + block.tokens * end // length
            yield _Place(key=key, tokens=tokens, block=block if last else None)
        before += block.tokens
