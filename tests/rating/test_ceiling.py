"""The ceiling: nothing that a provider may report within the bound costs more."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.kit.money import format_amount, price_up
from farebox.rating.ceiling import (
    DEFAULT_OUTPUT_TOKENS,
    LINES_MAX,
    MESSAGE_OVERHEAD_TOKENS,
    OUTPUT_FLOOR_TOKENS,
    REQUEST_OVERHEAD_TOKENS,
    TOOL_OVERHEAD_TOKENS,
    TOOLS_OVERHEAD_TOKENS,
    Ceiling,
    PromptFacts,
    UnboundedError,
    ceiling,
)
from farebox.rating.charge import rate
from farebox.rating.price_book import ModelFacts, PriceVersion
from farebox.rating.units import Lane, Unit, UnpricedError
from farebox.rating.usage import Usage
from tests.support.price_versions import version

DOLLAR = 10**9


GPT54 = version(
    {Unit.INPUT: 2_500_000_000, Unit.CACHED_INPUT: 250_000_000, Unit.OUTPUT: 15 * DOLLAR},
    {Unit.INPUT: 5 * DOLLAR, Unit.CACHED_INPUT: 500_000_000, Unit.OUTPUT: 22_500_000_000},
    over=272_000,
)
PRIORITY = version({Unit.INPUT: 5 * DOLLAR, Unit.OUTPUT: 30 * DOLLAR}, lane=Lane.PRIORITY)
MODEL = ModelFacts(
    "openai",
    "gpt-5.4",
    context_window=1_050_000,
    output_max=128_000,
    counts_o200k=True,
    image_tokens_max=12_000,
)
UNKNOWN = ModelFacts("openai", "gpt-5.4")
WINDOW = 1_102_500  # with its margin of a twentieth


def bound(facts: PromptFacts, model: ModelFacts = MODEL, *versions: PriceVersion) -> Ceiling:
    """The ceiling in the standard lane, unless told otherwise."""
    return ceiling(facts, model, versions or (GPT54,))


def test_text_is_bounded_by_its_bytes_and_the_frame_around_it() -> None:
    """A byte-level vocabulary makes no more tokens than bytes; the frame is a constant each."""
    found = bound(PromptFacts(text_bytes=1_000, messages=3, tools=2, output_limit=100))
    assert found.input_tokens == (
        1_000
        + REQUEST_OVERHEAD_TOKENS
        + 3 * MESSAGE_OVERHEAD_TOKENS
        + TOOLS_OVERHEAD_TOKENS
        + 2 * TOOL_OVERHEAD_TOKENS
    )
    assert found.fixed == found.input_tokens * 2_500 + LINES_MAX
    assert (found.output_price, found.output_min, found.output_max) == (15 * DOLLAR, 100, 100)
    assert format_amount(found.amount(100)) == "0.006360021"
    assert not found.crosses_long_context


def test_a_count_is_used_only_where_the_model_counts_so() -> None:
    """ENGINE.md: the o200k count is a bound for models known to use it, for others bytes are."""
    facts = PromptFacts(text_bytes=400_000, counted_tokens=90_000)
    assert bound(facts).input_tokens == 90_000 + REQUEST_OVERHEAD_TOKENS
    assert bound(facts, UNKNOWN).input_tokens == 400_000 + REQUEST_OVERHEAD_TOKENS
    assert not bound(facts).crosses_long_context
    assert bound(facts, UNKNOWN).crosses_long_context
    wrong = PromptFacts(text_bytes=100, counted_tokens=999)  # no count is larger than the bytes
    assert bound(wrong).input_tokens == 100 + REQUEST_OVERHEAD_TOKENS


def test_nothing_is_longer_than_the_context_window() -> None:
    """A prompt that cannot fit is bounded by the window and the margin of its rounded figure."""
    assert bound(PromptFacts(text_bytes=10**8)).input_tokens == WINDOW
    assert bound(PromptFacts(text_bytes=10**8), UNKNOWN).input_tokens > 10**8


@pytest.mark.parametrize(
    "facts",
    [
        PromptFacts(text_bytes=5, unbounded=True),
        PromptFacts(text_bytes=5, unbounded=True, counted_tokens=1),
        PromptFacts(text_bytes=5, hosted_tools=(Unit.WEB_SEARCH,), tool_calls_max=0),
    ],
)
def test_what_the_body_does_not_contain_is_bounded_by_the_window(facts: PromptFacts) -> None:
    """ENGINE.md: previous responses, files, URLs and searches may fill the context window."""
    searched = version(dict(GPT54.base) | {Unit.WEB_SEARCH: 1})
    assert bound(facts, MODEL, searched).input_tokens == WINDOW


def test_audio_may_fill_the_window_at_the_price_of_audio() -> None:
    """Nothing in the body bounds the tokens of audio, and each may be the dearest kind."""
    audio = version({Unit.INPUT: 1, Unit.AUDIO_INPUT: 32 * DOLLAR, Unit.OUTPUT: 2})
    found = bound(PromptFacts(text_bytes=5, audio_inputs=True), MODEL, audio)
    assert found.fixed == WINDOW * 32_000 + LINES_MAX


def test_an_image_is_bounded_by_the_models_maximum() -> None:
    """ENGINE.md: an inline image costs the model's maximum, or the window where none is known."""
    facts = PromptFacts(text_bytes=100, inline_images=2)
    assert bound(facts).input_tokens == 100 + REQUEST_OVERHEAD_TOKENS + 2 * 12_000
    no_maximum = msgspec.structs.replace(MODEL, image_tokens_max=None)
    assert bound(facts, no_maximum).input_tokens == WINDOW


def test_each_round_of_a_hosted_tool_reads_the_context_again() -> None:
    """Every call of a hosted tool sends the grown context once more, and costs its own price."""
    searched = version(dict(GPT54.base) | {Unit.WEB_SEARCH: 10_000 * DOLLAR})
    facts = PromptFacts(text_bytes=5, hosted_tools=(Unit.WEB_SEARCH,), tool_calls_max=3)
    found = bound(facts, MODEL, searched)
    assert found.input_tokens == 4 * WINDOW
    assert found.fixed == 4 * WINDOW * 2_500 + 3 * DOLLAR // 100 + LINES_MAX


@pytest.mark.parametrize(
    ("facts", "model", "word"),
    [
        (PromptFacts(text_bytes=5, unbounded=True), UNKNOWN, "not in the body"),
        (PromptFacts(text_bytes=5, audio_inputs=True), UNKNOWN, "audio"),
        (PromptFacts(text_bytes=5, inline_images=1), UNKNOWN, "image"),
        (PromptFacts(text_bytes=5, hosted_tools=(Unit.WEB_SEARCH,)), MODEL, "max_tool_calls"),
        (
            PromptFacts(text_bytes=5, hosted_tools=(Unit.WEB_SEARCH,), tool_calls_max=1),
            UNKNOWN,
            "context window",
        ),
    ],
)
def test_a_call_without_a_known_bound_is_refused(
    facts: PromptFacts, model: ModelFacts, word: str
) -> None:
    """DESIGN.md decision 10: no known bound, no call; the message says what and the way out."""
    with pytest.raises(UnboundedError, match=word) as caught:
        bound(facts, model)
    assert caught.value.reason == "no_known_bound"


def test_reserve_uses_tiered_prices() -> None:
    """Field bug 3: five 300,000-token calls against $0.45 must be held at the long prices."""
    found = bound(PromptFacts(text_bytes=300_000, output_limit=1_000))
    assert found.crosses_long_context
    assert found.output_price == 22_500_000_000
    used = Usage.of({Unit.INPUT: 300_000, Unit.OUTPUT: 1_000})
    assert format_amount(rate(used, GPT54).total) == "1.5225"
    assert found.amount(1_000) >= rate(used, GPT54).total


def test_the_line_itself_is_not_crossed() -> None:
    """A bound of exactly the threshold stays with the ordinary prices; one more does not."""
    at_line = PromptFacts(text_bytes=272_000 - REQUEST_OVERHEAD_TOKENS)
    assert not bound(at_line).crosses_long_context
    above = PromptFacts(text_bytes=272_001 - REQUEST_OVERHEAD_TOKENS)
    assert bound(above).crosses_long_context


def test_the_dearest_allowed_lane_is_held() -> None:
    """DESIGN.md decision 10: a request that may be served in two lanes is held at the dearer."""
    facts = PromptFacts(text_bytes=1_000, output_limit=10)
    found = bound(facts, MODEL, GPT54, PRIORITY)
    assert (found.output_price, found.fixed) == (30 * DOLLAR, 1_064 * 5_000 + LINES_MAX)


def test_the_worst_state_of_the_cache_is_held() -> None:
    """A prompt may be written to the cache at 1.25 times the price, or for longer at 2.5 times."""
    sol = {Unit.INPUT: 4 * DOLLAR, Unit.CACHE_WRITE: 5 * DOLLAR, Unit.OUTPUT: 20 * DOLLAR}
    facts = PromptFacts(text_bytes=936)
    assert bound(facts, MODEL, version(sol)).fixed == 1_000 * 5_000 + LINES_MAX
    long = msgspec.structs.replace(facts, long_cache_writes=True)
    longer = version(sol | {Unit.CACHE_WRITE_LONG: 10 * DOLLAR})
    assert bound(long, MODEL, longer).fixed == 1_000 * 10_000 + LINES_MAX
    with pytest.raises(UnpricedError, match="cache_write_long"):
        bound(long, MODEL, version(sol))


def test_images_are_held_at_their_own_price() -> None:
    """Where images cost more than text, a prompt with one is held at that price throughout."""
    images = version({Unit.INPUT: 5, Unit.IMAGE_INPUT: 8 * DOLLAR, Unit.OUTPUT: 1})
    text_only = bound(PromptFacts(text_bytes=936), MODEL, images)
    assert text_only.fixed == 1 + LINES_MAX
    with_image = bound(PromptFacts(text_bytes=936, inline_images=1), MODEL, images)
    assert with_image.fixed == 13_000 * 8_000 + LINES_MAX


def test_audio_out_is_held_at_its_own_price() -> None:
    """A model that can speak is held at the price of speech."""
    audio = version({Unit.INPUT: 1, Unit.OUTPUT: 10 * DOLLAR, Unit.AUDIO_OUTPUT: 64 * DOLLAR})
    assert bound(PromptFacts(text_bytes=1, audio_output=True), MODEL, audio).output_price == (
        64 * DOLLAR
    )
    assert bound(PromptFacts(text_bytes=1), MODEL, audio).output_price == 64 * DOLLAR


@pytest.mark.parametrize(
    ("facts", "prices", "unit"),
    [
        (PromptFacts(text_bytes=1), {Unit.OUTPUT: 1}, "input"),
        (PromptFacts(text_bytes=1), {Unit.INPUT: 1}, "output"),
        (PromptFacts(text_bytes=1, audio_inputs=True), {Unit.INPUT: 1, Unit.OUTPUT: 1}, "audio"),
        (PromptFacts(text_bytes=1, audio_output=True), {Unit.INPUT: 1, Unit.OUTPUT: 1}, "audio"),
        (
            PromptFacts(text_bytes=1, hosted_tools=(Unit.FILE_SEARCH,), tool_calls_max=1),
            {Unit.INPUT: 1, Unit.OUTPUT: 1},
            "file_search",
        ),
    ],
)
def test_a_call_that_could_not_be_charged_is_refused_before_it_leaves(
    facts: PromptFacts, prices: dict[Unit, int], unit: str
) -> None:
    """What has no price is refused at admission, not discovered when the answer is there."""
    with pytest.raises(UnpricedError, match=unit) as caught:
        bound(facts, MODEL, version(prices))
    assert caught.value.reason == "unpriced_unit"


def test_output_is_the_clients_limit_times_the_choices() -> None:
    """ENGINE.md: limit times n or best_of; such a limit is granted whole or not at all."""
    found = bound(PromptFacts(text_bytes=1, output_limit=500, choices=4))
    assert (found.output_min, found.output_max) == (2_000, 2_000)
    nothing = bound(PromptFacts(text_bytes=1, output_limit=0))
    assert (nothing.output_min, nothing.output_max) == (0, 0)


def test_an_absurd_limit_holds_no_fortune() -> None:
    """No answer is longer than the window, so max_tokens of a billion holds no more than that."""
    found = bound(PromptFacts(text_bytes=1, output_limit=10**9))
    assert found.output_max == WINDOW
    unknown = bound(PromptFacts(text_bytes=1, output_limit=10**9), UNKNOWN)
    assert unknown.output_max == 10**9


def test_without_a_limit_the_engine_may_choose_one() -> None:
    """ENGINE.md: the least of model maximum and default, times n, and never under the floor."""
    found = bound(PromptFacts(text_bytes=1, choices=2))
    assert (found.output_min, found.output_max) == (
        2 * OUTPUT_FLOOR_TOKENS,
        2 * DEFAULT_OUTPUT_TOKENS,
    )
    small = msgspec.structs.replace(MODEL, output_max=100)
    assert bound(PromptFacts(text_bytes=1), small).output_max == 100
    assert bound(PromptFacts(text_bytes=1), small).output_min == 100
    project = ceiling(PromptFacts(text_bytes=1), UNKNOWN, [GPT54], default_output_tokens=1_000)
    assert (project.output_min, project.output_max) == (OUTPUT_FLOOR_TOKENS, 1_000)


def test_predicted_tokens_are_held_beyond_the_limit() -> None:
    """Rejected predictions are billed as output besides the answer; bytes bound them."""
    plain = bound(PromptFacts(text_bytes=1, output_limit=10))
    predicted = bound(PromptFacts(text_bytes=1, output_limit=10, predicted_bytes=700))
    assert predicted.fixed - plain.fixed == 700 * 15_000
    assert predicted.output_max == plain.output_max


def test_embeddings_generate_nothing() -> None:
    """An embeddings call needs no output price, and its window holds for each input."""
    prices = version({Unit.INPUT: 20_000_000})
    model = ModelFacts("openai", "text-embedding-3-small", context_window=8_192)
    facts = PromptFacts(text_bytes=10**7, messages=3, embeddings=True)
    found = bound(facts, model, prices)
    assert found.input_tokens == 3 * (8_192 + 410)
    assert (found.output_price, found.output_min, found.output_max) == (0, 0, 0)
    none = PromptFacts(text_bytes=10**7, embeddings=True)
    assert bound(none, model, prices).input_tokens == 8_192 + 410


def test_a_fee_per_request_is_part_of_the_ceiling() -> None:
    """A provider that bills each request is held for one."""
    fee = version({Unit.INPUT: 0, Unit.OUTPUT: 0, Unit.REQUEST: 12_000 * DOLLAR})
    assert bound(PromptFacts(text_bytes=1), MODEL, fee).fixed == 12_000_000 + LINES_MAX


def test_the_ceiling_covers_the_rounding_of_every_line() -> None:
    """Lines round one by one: five of them may round up where their sum would not."""
    price = 500_001  # a token is a hair more than half a nano
    units = [
        Unit.CACHED_INPUT,
        Unit.CACHE_WRITE,
        Unit.IMAGE_INPUT,
        Unit.CACHED_IMAGE_INPUT,
    ]
    prices = version(dict.fromkeys([Unit.INPUT, Unit.OUTPUT, *units], price))
    model = ModelFacts("openai", "m", image_tokens_max=1)
    found = bound(PromptFacts(text_bytes=0, inline_images=1), model, prices)
    used = Usage.of({Unit.INPUT: found.input_tokens - len(units)} | dict.fromkeys(units, 1))
    charge = rate(used, prices).total
    assert charge > price_up(found.input_tokens, price)
    assert charge <= found.fixed


PRICE = st.integers(10**6, 10**11) | st.just(0)
OPTIONAL_UNITS = [
    Unit.CACHED_INPUT,
    Unit.CACHE_WRITE,
    Unit.CACHE_WRITE_LONG,
    Unit.IMAGE_INPUT,
    Unit.CACHED_IMAGE_INPUT,
    Unit.AUDIO_INPUT,
    Unit.CACHED_AUDIO_INPUT,
    Unit.VIDEO_INPUT,
    Unit.IMAGE_OUTPUT,
    Unit.AUDIO_OUTPUT,
    Unit.REQUEST,
    Unit.WEB_SEARCH,
]


@st.composite
def versions_of_a_model(draw: st.DrawFn) -> list[PriceVersion]:
    """One to three lanes with arbitrary prices, some with a long-context table."""
    priced = draw(st.sets(st.sampled_from(OPTIONAL_UNITS))) | {Unit.INPUT, Unit.OUTPUT}
    table = st.fixed_dictionaries({unit: PRICE for unit in Unit if unit in priced})
    lanes = draw(st.lists(st.sampled_from(Lane), min_size=1, max_size=3, unique=True))
    over = st.none() | st.integers(0, 3_000)
    found = []
    for lane in lanes:
        threshold = draw(over)
        long = None if threshold is None else draw(table)
        found.append(version(draw(table), long, lane=lane, over=threshold))
    return found


@st.composite
def requests(draw: st.DrawFn) -> PromptFacts:
    """What requests may say."""
    small = st.integers(0, 3)
    seldom = st.sampled_from([False, False, False, True])
    return PromptFacts(
        text_bytes=draw(st.integers(0, 4_000)),
        messages=draw(small),
        tools=draw(small),
        inline_images=draw(small),
        unbounded=draw(seldom),
        audio_inputs=draw(seldom),
        audio_output=draw(seldom),
        long_cache_writes=draw(seldom),
        counted_tokens=draw(st.none() | st.integers(0, 4_000)),
        choices=draw(st.integers(1, 3)),
        output_limit=draw(st.none() | st.integers(0, 2_000)),
        predicted_bytes=draw(st.integers(0, 300)),
        hosted_tools=(Unit.WEB_SEARCH,) if draw(seldom) else (),
        tool_calls_max=draw(small),
    )


MODELS = st.builds(
    ModelFacts,
    provider=st.just("openai"),
    model=st.just("m"),
    context_window=st.integers(1, 5_000) | st.none(),
    output_max=st.none() | st.integers(1, 2_000),
    counts_o200k=st.booleans(),
    image_tokens_max=st.integers(1, 900) | st.none(),
)


def shares(data: st.DataObject, total: int, units: list[Unit]) -> dict[Unit, int]:
    """A total shared out among units in any way."""
    counts = {}
    for unit in units[1:]:
        counts[unit] = data.draw(st.integers(0, total))
        total -= counts[unit]
    counts[units[0]] = total
    return counts


@settings(max_examples=400)
@given(data=st.data(), facts=requests(), model=MODELS, versions=versions_of_a_model())
def test_no_usage_within_the_bound_costs_more_than_the_ceiling(
    data: st.DataObject, facts: PromptFacts, model: ModelFacts, versions: list[PriceVersion]
) -> None:
    """Invariant 26, promise 1: any partition within the bound, in any lane, fits the hold."""
    try:
        found = ceiling(facts, model, versions)
    except (UnboundedError, UnpricedError):
        return  # refused: nothing leaves
    served = data.draw(st.sampled_from(versions))
    priced = {unit for unit, _ in served.base}

    inputs = [Unit.INPUT, Unit.CACHED_INPUT, Unit.CACHE_WRITE]
    if facts.long_cache_writes:
        inputs.append(Unit.CACHE_WRITE_LONG)
    if facts.inline_images or facts.unbounded or facts.hosted_tools:
        inputs += [Unit.IMAGE_INPUT, Unit.CACHED_IMAGE_INPUT]
    if facts.audio_inputs or facts.unbounded or facts.hosted_tools:
        inputs += [Unit.AUDIO_INPUT, Unit.CACHED_AUDIO_INPUT] if Unit.AUDIO_INPUT in priced else []
    if facts.unbounded or facts.hosted_tools:
        inputs += [Unit.VIDEO_INPUT] if Unit.VIDEO_INPUT in priced else []
    outputs = [Unit.OUTPUT, *sorted(priced & {Unit.IMAGE_OUTPUT, Unit.AUDIO_OUTPUT})]

    granted = data.draw(st.integers(found.output_min, found.output_max))
    most_output = granted + facts.predicted_bytes * facts.choices
    if data.draw(st.booleans()):
        # The worst there can be: all of it, all of one kind.
        counts = {
            data.draw(st.sampled_from(inputs)): found.input_tokens,
            data.draw(st.sampled_from(outputs)): most_output,
        }
    else:
        used_input = data.draw(st.integers(0, found.input_tokens))
        used_output = data.draw(st.integers(0, most_output))
        counts = shares(data, used_input, inputs) | shares(data, used_output, outputs)
    if facts.hosted_tools:
        counts[Unit.WEB_SEARCH] = data.draw(st.integers(0, facts.tool_calls_max or 0))

    charge = rate(Usage.of(counts), served).total
    assert charge <= found.amount(granted)


@given(facts=requests(), model=MODELS, versions=versions_of_a_model())
def test_a_ceiling_grows_with_what_is_granted(
    facts: PromptFacts, model: ModelFacts, versions: list[PriceVersion]
) -> None:
    """More output granted never holds less, and the least never exceeds the most."""
    try:
        found = ceiling(facts, model, versions)
    except (UnboundedError, UnpricedError):
        return
    assert 0 <= found.output_min <= found.output_max
    assert found.amount(found.output_min) <= found.amount(found.output_max)
    assert found.amount(0) == found.fixed > 0
