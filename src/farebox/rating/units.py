"""What is metered and in which lane it is served: the two words that every price row is keyed by.

The units are disjoint: every token or call of a usage is counted under exactly one of them, so that
adding up line items can neither skip nor double anything (DESIGN.md decision 9). A price is always
nanos per million units, of tool calls and seconds too.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Final

from farebox.kit.errors import RefusedError


class Unit(StrEnum):
    """One kind of thing that a provider bills; the order is the order of line items."""

    INPUT = "input"
    """Prompt tokens that no other input unit counts: uncached text, and all that is billed so."""
    CACHED_INPUT = "cached_input"
    """Prompt tokens read from the provider's cache."""
    CACHE_WRITE = "cache_write"
    """Prompt tokens written to the provider's cache, kept for its shortest time."""
    CACHE_WRITE_LONG = "cache_write_long"
    """The same, kept for its longer time (12 hours at OpenAI, one hour at Anthropic)."""
    IMAGE_INPUT = "image_input"
    CACHED_IMAGE_INPUT = "cached_image_input"
    AUDIO_INPUT = "audio_input"
    CACHED_AUDIO_INPUT = "cached_audio_input"
    VIDEO_INPUT = "video_input"
    OUTPUT = "output"
    """Completion tokens that no other output unit counts: text, reasoning, rejected predictions."""
    IMAGE_OUTPUT = "image_output"
    AUDIO_OUTPUT = "audio_output"
    VIDEO_OUTPUT = "video_output"
    WEB_SEARCH = "web_search"
    """One web search by a hosted tool."""
    FILE_SEARCH = "file_search"
    """One search of a vector store by a hosted tool."""
    REQUEST = "request"
    """One answered request, whatever its size; :func:`farebox.rating.charge.rate` counts it."""
    INPUT_CHARACTER = "input_character"
    """One character of text to be spoken."""
    AUDIO_SECOND = "audio_second"
    """One second of audio heard or spoken."""
    DOCUMENT_PAGE = "document_page"
    ANNOTATED_PAGE = "annotated_page"
    TEXT_MESSAGE = "text_message"
    """One text message put into a voice session."""


INPUT_UNITS: Final = frozenset(
    {
        Unit.INPUT,
        Unit.CACHED_INPUT,
        Unit.CACHE_WRITE,
        Unit.CACHE_WRITE_LONG,
        Unit.IMAGE_INPUT,
        Unit.CACHED_IMAGE_INPUT,
        Unit.AUDIO_INPUT,
        Unit.CACHED_AUDIO_INPUT,
        Unit.VIDEO_INPUT,
    }
)
"""The tokens of a prompt; their sum decides whether a call is long-context."""

OUTPUT_UNITS: Final = frozenset(
    {Unit.OUTPUT, Unit.IMAGE_OUTPUT, Unit.AUDIO_OUTPUT, Unit.VIDEO_OUTPUT}
)
"""The tokens of a completion."""

TOOL_UNITS: Final = frozenset({Unit.WEB_SEARCH, Unit.FILE_SEARCH})
"""Calls that a hosted tool makes by itself."""


class Lane(StrEnum):
    """How a call is served; each lane has price rows of its own, never a factor (DED-13)."""

    STANDARD = "standard"
    BATCH = "batch"
    FLEX = "flex"
    PRIORITY = "priority"


class UnpricedError(RefusedError):
    """There is no price for it, so it is refused and never charged at another price."""

    code: ClassVar[str] = "unpriced"


_SERVED: Final = MappingProxyType(
    {
        "default": Lane.STANDARD,
        "standard": Lane.STANDARD,
        "flex": Lane.FLEX,
        "priority": Lane.PRIORITY,
        "fast": Lane.PRIORITY,  # another name for it; answers always say priority
    }
)
_ALLOWED: Final = MappingProxyType(
    {
        "default": (Lane.STANDARD,),
        "standard": (Lane.STANDARD,),
        "flex": (Lane.FLEX,),
        # A request that the provider downgrades is served and billed as standard.
        "priority": (Lane.STANDARD, Lane.PRIORITY),
        "fast": (Lane.STANDARD, Lane.PRIORITY),
        # The provider's project setting decides.
        "auto": (Lane.STANDARD, Lane.FLEX, Lane.PRIORITY),
    }
)


def served_lane(service_tier: str | None) -> Lane | None:
    """The lane that an answer's ``service_tier`` names (OpenAI: the tier that really served it).

    Returns:
        The lane; standard where the answer names none; ``None`` for a tier that is not known, which
        is then charged with :func:`farebox.rating.charge.rate_dearest` (ENGINE.md, "Ceilings").
    """
    return Lane.STANDARD if service_tier is None else _SERVED.get(service_tier)


def allowed_lanes(service_tier: str | None) -> tuple[Lane, ...]:
    """Every lane in which a request with that ``service_tier`` may be served.

    A request that names none is sent upstream with the standard tier, so only that lane is held
    (ENGINE.md, "Ceilings").

    Raises:
        UnpricedError: The tier (``scale``, ``ultrafast``, a misspelt one) has no lane here; it is
            refused, never priced as standard.
    """
    if service_tier is None:
        return (Lane.STANDARD,)
    lanes = _ALLOWED.get(service_tier)
    if lanes is None:
        named = ", ".join(sorted(_ALLOWED))
        raise UnpricedError(
            "unpriced_lane",
            f"service_tier {service_tier[:40]!r} has no price here; use one of {named}.",
        )
    return lanes
