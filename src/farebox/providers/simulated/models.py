"""The models that the simulated provider has, and what kind each one is.

The list is what OpenAI sells (November 2026) and what a newcomer will type; prices are the price
book's affair. A dated snapshot of a listed model (``gpt-5.4-2026-03-05``) exists too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

CHAT_MODELS: Final = (
    *("gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-astra", "gpt-6-sol", "gpt-6-luna"),
    *("gpt-5.6-sol", "gpt-5.6-terra", "gpt-5.6-luna", "gpt-5.5", "gpt-5.5-pro"),
    *("gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.4-pro", "gpt-5.3-chat-latest"),
    *("gpt-5.2", "gpt-5.2-pro", "gpt-5.2-chat-latest", "gpt-5.1", "gpt-5.1-mini"),
    *("gpt-5.1-codex", "gpt-5.1-chat-latest", "gpt-5", "gpt-5-mini", "gpt-5-nano"),
    *("gpt-5-chat-latest", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o"),
    *("gpt-4o-mini", "chatgpt-4o-latest", "o4-mini", "o3", "o3-mini", "o1", "o1-mini"),
    *("gpt-4-turbo", "gpt-4", "gpt-3.5-turbo"),
)

EMBEDDING_DIMENSIONS: Final = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
"""Embedding models and the length of their vectors."""

FIXED_DIMENSIONS: Final = frozenset({"text-embedding-ada-002"})
"""Models that refuse ``dimensions``."""

MODELS: Final = frozenset((*CHAT_MODELS, *EMBEDDING_DIMENSIONS))

_SNAPSHOT: Final = re.compile(r"(?P<model>.+)-\d{4}-\d{2}-\d{2}")
_VERSION: Final = re.compile(r"gpt-(?P<major>\d+)(?:\.(?P<minor>\d+))?(?:-|$)")
_LONG_CACHE: Final = re.compile(r"gpt-(?:5\.5|5\.4|5\.2|5\.1|5|4\.1)(?:-|$)")


@lru_cache(maxsize=1024)
def without_date(model: str) -> str:
    """The model that a dated snapshot belongs to; other names as they are."""
    match = _SNAPSHOT.fullmatch(model)
    return model if match is None else match["model"]


@lru_cache(maxsize=1024)
def caches_at_breakpoints(model: str) -> bool:
    """Tell the newer prompt cache (GPT-5.6 and later, at breakpoints, writes billed)."""
    match = _VERSION.match(model)
    return match is not None and (int(match["major"]), int(match["minor"] or 0)) >= (5, 6)


@lru_cache(maxsize=1024)
def keeps_cache_for_a_day(model: str) -> bool:
    """Tell whether the older prompt cache keeps this model's prefixes for 24 h by default."""
    return _LONG_CACHE.match(model) is not None
