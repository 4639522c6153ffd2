"""The most that a call can cost, known before it leaves (DESIGN.md, decision 10).

A hold is only as good as its bound: whatever the provider reports within it, in any lane that the
request allows and in any state of its caches, must cost no more than the ceiling. So every doubt
here goes upwards, and a call without a known bound is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import msgspec

from farebox.kit.errors import RefusedError
from farebox.kit.money import ZERO, Nanos, price_up
from farebox.rating.charge import require_price, unit_price
from farebox.rating.price_book import ModelFacts, PriceVersion
from farebox.rating.units import OUTPUT_UNITS, Unit

REQUEST_OVERHEAD_TOKENS: Final = 64
"""What a provider wraps around the whole prompt. OpenAI primes an answer with 3 tokens; a system
header is billed by no provider we know; this leaves room for one."""

MESSAGE_OVERHEAD_TOKENS: Final = 16
"""What wraps one message. OpenAI documents 3 or 4 tokens, 1 for a name; the role and the key names
are in the body's bytes besides."""

TOOLS_OVERHEAD_TOKENS: Final = 768
"""What the first tool brings along: Anthropic documents a system prompt of 264 to 530 tokens for
tools, 735 with computer use."""

TOOL_OVERHEAD_TOKENS: Final = 32
"""What wraps one tool. OpenAI writes a JSON schema as a shorter type definition, so the bytes of
the schema bound it; its own frame is about 12 tokens."""

WINDOW_MARGIN_DIVISOR: Final = 20
"""A published context window is a round figure: 1,000,000 stood for 1,047,576 (GPT-4.1) and 32,000
for 32,768 (GPT-4 32k). A twentieth more covers both ways of counting thousands."""

OUTPUT_FLOOR_TOKENS: Final = 256
"""An answer cut off below this is worth nothing: better to refuse the call."""

DEFAULT_OUTPUT_TOKENS: Final = 16_384
"""The answer's limit where nobody names one (ENGINE.md, "Ceilings")."""

LINES_MAX: Final = len(Unit)
"""Each line of a charge may round up by half a nano; the ceiling has a whole one for each."""


class UnboundedError(RefusedError):
    """Nothing bounds the cost of this call."""

    code: ClassVar[str] = "unbounded"


class PromptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says about its cost; the gateway reads it off the body."""

    text_bytes: int
    """UTF-8 bytes of the JSON of everything that enters the prompt: messages, tools, schemas;
    without the data of inline images and audio."""
    messages: int = 0
    """How many messages; for embeddings, how many inputs."""
    tools: int = 0
    """How many function definitions."""
    inline_images: int = 0
    """How many images the body itself contains."""
    unbounded: bool = False
    """Whether the prompt has parts that the body does not contain: a previous response, a
    conversation, a stored prompt, a file, a URL."""
    audio_inputs: bool = False
    """Whether the body contains audio, whose tokens nothing in the body bounds."""
    audio_output: bool = False
    """Whether audio is asked for."""
    long_cache_writes: bool = False
    """Whether the request asks for the longer cache retention."""
    counted_tokens: int | None = None
    """The o200k count of the same text, if it was taken; used where the model is known to count
    so, and then instead of the bytes."""
    choices: int = 1
    """``n`` or ``best_of``, whichever is larger."""
    output_limit: int | None = None
    """The client's limit for one choice."""
    predicted_bytes: int = 0
    """UTF-8 bytes of a predicted output; rejected ones are billed as output beyond the limit."""
    hosted_tools: tuple[Unit, ...] = ()
    """What the hosted tools of the request bill per call, for example web searches."""
    tool_calls_max: int | None = None
    """The client's limit for calls of hosted tools."""
    embeddings: bool = False
    """Whether nothing is generated."""


class Ceiling(msgspec.Struct, frozen=True):
    """The bound: a fixed amount plus a price for each token of output that is granted."""

    input_tokens: int
    """The prompt has no more than this."""
    fixed: Nanos
    """All that does not depend on the output limit: prompt, predictions, requests, tool calls."""
    output_price: int
    """Nanos per million output tokens at the dearest."""
    output_min: int
    """Output tokens in total, over all choices, below which the call should rather be refused."""
    output_max: int
    """Output tokens in total, over all choices, that the call may be granted at most."""
    crosses_long_context: bool
    """Whether the bound lies beyond the threshold of some lane's long-context prices."""

    def amount(self, output_tokens: int) -> Nanos:
        """The most that the call costs if it is granted that many output tokens in total."""
        return Nanos(self.fixed + price_up(output_tokens, self.output_price))


def ceiling(
    facts: PromptFacts,
    model: ModelFacts,
    versions: Sequence[PriceVersion],
    *,
    default_output_tokens: int = DEFAULT_OUTPUT_TOKENS,
) -> Ceiling:
    """Bound the cost of a call, rounding up throughout.

    A client's output limit is granted whole or not at all (``output_min == output_max``); without
    one the engine may grant anything between the two and sends that limit upstream.

    Args:
        facts: What the request says.
        model: What is known of its model.
        versions: The prices in force of every lane that the request may be served in.
        default_output_tokens: The project's limit for an answer where the client names none.

    Raises:
        UnboundedError: ``no_known_bound``; the message names what is unbounded and the way out.
        UnpricedError: ``unpriced_unit``: the request can use something that has no price.

    Property (field bug ``reserve_uses_tiered_prices``, invariant 26): a usage within
    ``input_tokens`` and G output tokens, in any partition that the facts allow and in any of these
    lanes, is rated at no more than ``amount(G)``.
    """
    assert versions, "at least one lane"
    assert default_output_tokens > 0, default_output_tokens
    assert facts.choices > 0, facts.choices
    input_tokens = _input_bound(facts, model)
    tables = []
    crosses = False
    for version in versions:
        tables.append((dict(version.base), version))
        if version.long_context_over is not None and input_tokens > version.long_context_over:
            tables.append((dict(version.long), version))
            crosses = True
    input_price = max(_input_price(facts, prices, version) for prices, version in tables)
    output_price = 0
    if not facts.embeddings:
        output_price = max(_output_price(facts, prices, version) for prices, version in tables)
    least, most = _output_bounds(facts, model, default_output_tokens)
    fixed = (
        price_up(input_tokens, input_price)
        + price_up(facts.predicted_bytes * facts.choices, output_price)
        + max(price_up(1, prices.get(Unit.REQUEST, 0)) for prices, _ in tables)
        + max(_tool_price(facts, prices, version) for prices, version in tables)
        + LINES_MAX
    )
    return Ceiling(input_tokens, Nanos(fixed), output_price, least, most, crosses)


def _window(model: ModelFacts) -> int | None:
    """The context window with its margin, or None where none is known."""
    if model.context_window is None:
        return None
    return model.context_window + -(-model.context_window // WINDOW_MARGIN_DIVISOR)


def _input_bound(facts: PromptFacts, model: ModelFacts) -> int:
    """The most tokens that the prompt can have, over all rounds of hosted tools."""
    window = _window(model)
    if window is not None and facts.embeddings:
        window *= max(facts.messages, 1)  # the window is that of one input
    if facts.hosted_tools:
        # Each call of a tool sends the grown context once more.
        if facts.tool_calls_max is None:
            raise _no_bound("hosted tools may call without end", "set max_tool_calls")
        return _require_window(window, model, "what hosted tools find") * (facts.tool_calls_max + 1)
    if facts.unbounded:
        return _require_window(window, model, "content that is not in the body")
    if facts.audio_inputs:
        return _require_window(window, model, "audio")
    if facts.inline_images and model.image_tokens_max is None:
        return _require_window(window, model, "an image")
    text = facts.text_bytes
    if facts.counted_tokens is not None and model.counts_o200k:
        text = min(text, facts.counted_tokens)
    bound = text + REQUEST_OVERHEAD_TOKENS + facts.messages * MESSAGE_OVERHEAD_TOKENS
    if facts.tools:
        bound += TOOLS_OVERHEAD_TOKENS + facts.tools * TOOL_OVERHEAD_TOKENS
    bound += facts.inline_images * (model.image_tokens_max or 0)
    return bound if window is None else min(bound, window)


def _require_window(window: int | None, model: ModelFacts, what: str) -> int:
    if window is None:
        raise _no_bound(
            f"{what} has no known size for {model.model}, whose context window is not known",
            "send text only, or have the operator set the model's context window",
        )
    return window


def _no_bound(what: str, way_out: str) -> UnboundedError:
    return UnboundedError("no_known_bound", f"The cost has no known bound: {what}; {way_out}.")


def _input_price(facts: PromptFacts, prices: Mapping[Unit, int], version: PriceVersion) -> int:
    """The dearest that one token of this prompt can be, whatever the cache holds."""
    elsewhere = facts.unbounded or bool(facts.hosted_tools)
    # Plain tokens must have a price; the others here fall back to it.
    dearest = require_price(Unit.INPUT, prices, version)
    possible = [Unit.CACHED_INPUT, Unit.CACHE_WRITE]
    if facts.inline_images or elsewhere:
        possible += [Unit.IMAGE_INPUT, Unit.CACHED_IMAGE_INPUT]
    if elsewhere:
        # Where the model takes no audio or video it has no price for them.
        possible += [Unit.AUDIO_INPUT, Unit.CACHED_AUDIO_INPUT, Unit.VIDEO_INPUT]
    required = []
    if facts.audio_inputs:
        required += [Unit.AUDIO_INPUT, Unit.CACHED_AUDIO_INPUT]
    if facts.long_cache_writes:
        required.append(Unit.CACHE_WRITE_LONG)
    for unit in possible:
        dearest = max(dearest, unit_price(unit, prices) or 0)
    for unit in required:
        dearest = max(dearest, require_price(unit, prices, version))
    return dearest


def _output_price(facts: PromptFacts, prices: Mapping[Unit, int], version: PriceVersion) -> int:
    """The dearest that one token of the answer can be; a model may answer in all it has priced."""
    dearest = require_price(Unit.OUTPUT, prices, version)
    if facts.audio_output:
        dearest = max(dearest, require_price(Unit.AUDIO_OUTPUT, prices, version))
    return max(dearest, *(prices.get(unit, 0) for unit in OUTPUT_UNITS))


def _tool_price(facts: PromptFacts, prices: Mapping[Unit, int], version: PriceVersion) -> Nanos:
    """What all calls of hosted tools cost if each is of the dearest kind."""
    if not facts.hosted_tools:
        return ZERO
    dearest = max(require_price(unit, prices, version) for unit in facts.hosted_tools)
    return price_up(facts.tool_calls_max or 0, dearest)


def _output_bounds(
    facts: PromptFacts, model: ModelFacts, default_output_tokens: int
) -> tuple[int, int]:
    """The least and the most output tokens, in total, that may be granted."""
    if facts.embeddings:
        return 0, 0
    if facts.output_limit is not None:
        # No answer is longer than the window, so a limit of a billion cannot hold a fortune.
        window = _window(model)
        limit = facts.output_limit if window is None else min(facts.output_limit, window)
        return limit * facts.choices, limit * facts.choices
    most = default_output_tokens
    if model.output_max is not None:
        most = min(most, model.output_max)
    return min(OUTPUT_FLOOR_TOKENS, most) * facts.choices, most * facts.choices
