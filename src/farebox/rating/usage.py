"""From a provider's usage object to a disjoint partition of everything it bills.

Usage objects overlap on purpose: cached tokens are part of the prompt, reasoning is part of the
completion, audio may be cached too. Adding such counts up bills tokens twice, dropping them bills
nothing. Here each token lands in exactly one unit, an explicit zero stays a zero, and an object
that contradicts itself is refused rather than guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.rating.units import INPUT_UNITS, OUTPUT_UNITS, Unit

COUNT_MAX: Final = 2**53
"""A larger count is no count but a fault: JSON numbers are exact only up to here."""

_ORDER: Final = {unit: place for place, unit in enumerate(Unit)}


class UsageInvalidError(InvalidInputError):
    """A provider's usage object cannot be billed from."""

    code: ClassVar[str] = "usage_invalid"


class Usage(msgspec.Struct, frozen=True):
    """What one call used, each token and call counted once."""

    units: tuple[tuple[Unit, int], ...] = ()
    """Counts that are not zero, in the order of :class:`Unit`."""
    reasoning_tokens: int = 0
    """How many of the output tokens were reasoning: for reports, already counted in ``units``."""

    @classmethod
    def of(cls, counts: Mapping[Unit, int], *, reasoning_tokens: int = 0) -> Usage:
        """A usage of these counts; zeros are left out and the order is made right.

        Raises:
            UsageInvalidError: A count is negative or beyond :data:`COUNT_MAX`, or there are more
                reasoning tokens than output tokens.

        >>> Usage.of({Unit.OUTPUT: 2, Unit.INPUT: 3, Unit.WEB_SEARCH: 0}).units
        ((<Unit.INPUT: 'input'>, 3), (<Unit.OUTPUT: 'output'>, 2))
        """
        for unit, count in counts.items():
            if not 0 <= count <= COUNT_MAX:
                raise UsageInvalidError(unit.value, "is out of range")
        if not 0 <= reasoning_tokens <= counts.get(Unit.OUTPUT, 0):
            raise UsageInvalidError("reasoning_tokens", "must not be more than the output tokens")
        return cls(
            tuple(
                (unit, counts[unit])
                for unit in sorted(counts, key=_ORDER.__getitem__)
                if counts[unit]
            ),
            reasoning_tokens,
        )

    def count(self, unit: Unit) -> int:
        """How many of that unit were used."""
        return next((count for each, count in self.units if each is unit), 0)

    @property
    def input_total(self) -> int:
        """All tokens of the prompt, cached ones and every modality too."""
        return sum(count for unit, count in self.units if unit in INPUT_UNITS)

    @property
    def output_total(self) -> int:
        """All tokens of the completion."""
        return sum(count for unit, count in self.units if unit in OUTPUT_UNITS)


def normalize_usage(raw: object, *, flavor: Literal["chat", "embeddings"]) -> Usage:
    """Read a decoded usage object of ``/chat/completions``, ``/completions`` or ``/embeddings``.

    Args:
        raw: The decoded ``usage`` object.
        flavor: Which endpoint's shape it has.

    Returns:
        The disjoint partition; its input and output add up to what the provider says.

    Raises:
        UsageInvalidError: A required count is missing, a value is no whole number from zero to
            :data:`COUNT_MAX`, or parts are larger than what they are parts of.
    """
    if not isinstance(raw, dict):
        raise UsageInvalidError("usage", "must be an object")
    prompt = _required(raw, "prompt_tokens")
    total = _optional(raw, "total_tokens", "total_tokens")
    counts: dict[Unit, int] = {}
    _split_input(counts, prompt, raw)
    if flavor == "embeddings":
        if total not in {None, prompt}:
            raise UsageInvalidError("total_tokens", "is not the same as prompt_tokens")
        return _usage(counts, 0)
    completion = _required(raw, "completion_tokens")
    if total is not None:
        if total < prompt + completion:
            raise UsageInvalidError(
                "total_tokens", "is less than prompt_tokens and completion_tokens together"
            )
        # Some providers (xAI, Gemini) leave reasoning out of completion_tokens and show it in the
        # total alone; the provider bills it as output.
        completion = total - prompt
    reasoning = _split_output(counts, completion, raw)
    return _usage(counts, reasoning)


def _usage(counts: dict[Unit, int], reasoning: int) -> Usage:
    """The counts as they were entered: in the order of the units, each within bounds already."""
    return Usage(tuple([row for row in counts.items() if row[1]]), reasoning)


def _split_input(counts: dict[Unit, int], prompt: int, raw: dict[object, object]) -> None:
    """Share the prompt out among cached, written and fresh tokens of each modality.

    Where the object does not say which modality was cached or written, text is taken first, then
    images, then audio: audio is the dearest to read again, so no discount is assumed for it that
    the provider did not show.
    """
    details = _details(raw, "prompt_tokens_details")
    where = "prompt_tokens_details"
    audio = _optional(details, "audio_tokens", where) or 0
    image = _optional(details, "image_tokens", where) or 0
    text = prompt - audio - image
    _must_fit(where, prompt, audio, image, _optional(details, "text_tokens", where) or 0)
    cached = _optional(details, "cached_tokens", where)
    if cached is None:  # some providers put it one level higher
        cached = _optional(raw, "cached_tokens", "cached_tokens") or 0
    written = _optional(details, "cache_write_tokens", where) or 0
    _must_fit(f"{where}.cached_tokens and cache_write_tokens", prompt, cached, written)

    cached_text, cached_image, cached_audio = _share_cached(details, cached, text, image, audio)
    text, image, audio = text - cached_text, image - cached_image, audio - cached_audio
    from_text = min(written, text)
    from_image = min(written - from_text, image)
    from_audio = written - from_text - from_image
    kept_long = _written_long(details, written)

    counts[Unit.INPUT] = text - from_text
    counts[Unit.CACHED_INPUT] = cached_text
    counts[Unit.CACHE_WRITE] = written - kept_long
    counts[Unit.CACHE_WRITE_LONG] = kept_long
    counts[Unit.IMAGE_INPUT] = image - from_image
    counts[Unit.CACHED_IMAGE_INPUT] = cached_image
    counts[Unit.AUDIO_INPUT] = audio - from_audio
    counts[Unit.CACHED_AUDIO_INPUT] = cached_audio


def _share_cached(
    details: dict[object, object], cached: int, text: int, image: int, audio: int
) -> tuple[int, int, int]:
    """How many of the cached tokens were text, images and audio."""
    where = "prompt_tokens_details.cached_tokens_details"
    split = _details(details, "cached_tokens_details", where)
    cached_audio = _optional(split, "audio_tokens", where)
    cached_image = _optional(split, "image_tokens", where)
    if cached_audio is None and cached_image is None:
        cached_text = min(cached, text)
        cached_image = min(cached - cached_text, image)
        return cached_text, cached_image, cached - cached_text - cached_image
    cached_audio, cached_image = cached_audio or 0, cached_image or 0
    _must_fit(f"{where}.audio_tokens", audio, cached_audio)
    _must_fit(f"{where}.image_tokens", image, cached_image)
    _must_fit(where, cached, cached_audio, cached_image)
    cached_text = cached - cached_audio - cached_image
    _must_fit("prompt_tokens_details.cached_tokens", text, cached_text)
    return cached_text, cached_image, cached_audio


def _written_long(details: dict[object, object], written: int) -> int:
    """How many of the written tokens are kept for the longer time."""
    where = "prompt_tokens_details.cache_write_tokens_details"
    split = _details(details, "cache_write_tokens_details", where)
    kept_long = _optional(split, "ttl_12h_tokens", where) or 0
    _must_fit(where, written, kept_long, _optional(split, "ttl_30m_tokens", where) or 0)
    return kept_long


def _split_output(counts: dict[Unit, int], completion: int, raw: dict[object, object]) -> int:
    """Share the completion out among its modalities; gives back the reasoning tokens.

    Reasoning, accepted and rejected prediction tokens are parts of the completion already.
    """
    where = "completion_tokens_details"
    details = _details(raw, where)
    audio = _optional(details, "audio_tokens", where) or 0
    image = _optional(details, "image_tokens", where) or 0
    _must_fit(where, completion, audio, image, _optional(details, "text_tokens", where) or 0)
    text = completion - audio - image
    reasoning = _optional(details, "reasoning_tokens", where) or 0
    _must_fit(f"{where}.reasoning_tokens", text, reasoning)
    accepted = _optional(details, "accepted_prediction_tokens", where) or 0
    rejected = _optional(details, "rejected_prediction_tokens", where) or 0
    _must_fit(f"{where}.prediction_tokens", completion, accepted, rejected)
    counts[Unit.OUTPUT] = text
    counts[Unit.IMAGE_OUTPUT] = image
    counts[Unit.AUDIO_OUTPUT] = audio
    return reasoning


def _must_fit(where: str, whole: int, *parts: int) -> None:
    if sum(parts) > whole:
        raise UsageInvalidError(where, f"add up to {sum(parts)}, more than the {whole} they are of")


def _details(holder: dict[object, object], key: str, where: str = "") -> dict[object, object]:
    """A sub-object; one that is null or missing has no counts."""
    value = holder.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageInvalidError(where or key, "must be an object")
    return value


def _required(holder: dict[object, object], key: str) -> int:
    count = _optional(holder, key, key)
    if count is None:
        raise UsageInvalidError(key, "is missing")
    return count


def _optional(holder: dict[object, object], key: str, where: str) -> int | None:
    """A count, or None where it is null or missing; zero stays zero."""
    value = holder.get(key)
    if value is None:
        return None
    # By type, not isinstance: True is no count.
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        field = where if where == key else f"{where}.{key}"
        shown = repr(value)[:40]
        raise UsageInvalidError(field, f"must be a whole number of tokens (got {shown})")
    return value
