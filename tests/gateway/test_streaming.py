"""Server-sent events: cut right whatever the pieces are, and read no further than needed."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.gateway import streaming
from farebox.gateway.streaming import EventSplitter, EventTooLargeError
from tests.support.scripted_upstream import DONE, delta, event, usage_chunk

EVENTS = [delta("one"), b": comment\n\n", delta("\n\n \\n\\n"), usage_chunk(1, 2), DONE]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_split_at_every_byte(newline: bytes) -> None:
    """Wherever a piece ends, the events come out whole, in order, and without a byte lost."""
    events = [e.replace(b"\n", newline) if b"\\n" not in e else e for e in EVENTS]
    data = b"".join(events)
    for at in range(len(data) + 1):
        splitter = EventSplitter()
        found = splitter.feed(data[:at]) + splitter.feed(data[at:])
        assert found == events
        assert splitter.flush() == b""


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=20), mixed=st.lists(st.booleans(), min_size=5))
def test_events_split_anywhere_and_often(cuts: list[int], mixed: list[bool]) -> None:
    """Any number of cuts, any mix of line ends: the same events."""
    events = [
        event.replace(b"\n", b"\r\n") if crlf else event
        for event, crlf in zip([delta("a"), delta("b"), DONE] * 2, mixed, strict=False)
    ]
    data = b"".join(events)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = EventSplitter()
    found = [e for a, b in pairwise(places) for e in splitter.feed(data[a:b])]
    assert found == events


def test_what_is_left_at_the_end() -> None:
    """The last event may lack its blank line."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\ndata: 2") == [b"data: 1\n\n"]
    assert splitter.flush() == b"data: 2"
    assert splitter.flush() == b""


def test_an_event_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that outgrows the limit is a fault, wherever it was cut."""
    monkeypatch.setattr(streaming, "EVENT_BYTES_MAX", 1_000)
    splitter = EventSplitter()
    splitter.feed(b"x" * 1_000)
    with pytest.raises(EventTooLargeError):
        splitter.feed(b"x")
    assert len(EventSplitter().feed(b"x" * 2_000 + b"\n\n")) == 1


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (delta("x"), 0),
        (delta("x", finish="stop"), 1),
        (b'data: {"choices":[{"finish_reason" : "length"},{"finish_reason":"stop"}]}\n\n', 2),
        (b'data: {"choices":[{"finish_reason":""}]}\n\n', 0),
        (b'data: {"choices":[{"finish_reason":null}]}\n\n', 0),
        (delta('a "finish_reason":"stop" b'), 0),
        (delta('"usage":{"x":1} "error":{"y":1} [DONE]'), 0),
    ],
    ids=range(7),
)
def test_what_ends_a_choice(data: bytes, count: int) -> None:
    """A finish reason counts, an empty one or one in somebody's text does not."""
    assert streaming.finishes(data) == count
    if count == 0:
        assert not streaming.carries_usage(data)
        assert not streaming.carries_error(data)
        assert not streaming.is_done(data)


PIECES = st.sampled_from(
    [
        b'"finish_reason"',
        b'"usage"',
        b'"error"',
        b'"choices"',
        b"[DONE]",
        *(b":", b" ", b'"', b"{", b"}", b"[", b"null", b'"stop"', b"\\", b"text", b"data: "),
    ]
)


@given(pieces=st.lists(PIECES, max_size=14))
def test_a_plain_event_has_nothing_to_look_for(pieces: list[bytes]) -> None:
    """An event that is passed on unread ends nothing, and carries neither usage nor an error."""
    event = b"data: " + b"".join(pieces) + b"\n\n"
    if streaming.is_plain(event):
        assert streaming.finishes(event) == 0
        assert not streaming.carries_usage(event)
        assert not streaming.carries_error(event)
        assert not streaming.is_done(event)


def test_most_events_are_plain() -> None:
    """The answer's text is passed on unread; its end, its usage, errors and the mark are not."""
    assert streaming.is_plain(delta("word"))
    assert streaming.is_plain(delta('a "finish_reason":"stop" b'))
    for other in (delta("", finish="stop"), usage_chunk(1, 2), DONE, event({"error": {"a": 1}})):
        assert not streaming.is_plain(other)


@pytest.mark.parametrize("mark", [DONE, b"data:[DONE]\r\n\r\n", b"data:  [DONE] \n\n"])
def test_the_end_mark(mark: bytes) -> None:
    """The end mark is known in every spelling that servers use."""
    assert streaming.is_done(mark)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b": comment\n\n",
        b"event: ping\n\n",
        b"data: not json\n\n",
        b"data: [1]\n\n",
        b'data: {"usage":{"a":1e999}}\n\n',
        b'data: {"usage":{"a":"\xff"}}\n\n',
        b'data: {"usage":' + b"[" * 100_000 + b"\n\n",
    ],
    ids=range(9),
)
def test_events_that_cannot_be_read(data: bytes) -> None:
    """Whatever a provider sends, reading it never fails: there is just nothing in it."""
    assert streaming.read_chunk(data) is None
    assert streaming.text_of(data) == ""


def test_data_over_several_lines() -> None:
    """Lines of one event are joined, as the standard says."""
    chunk = streaming.read_chunk(b'event: x\r\ndata: {"usage":\r\ndata: {"a": 1}}\r\n\r\n')
    assert chunk is not None
    assert chunk.usage == {"a": 1}


@pytest.mark.parametrize(
    ("grown", "text"),
    [
        ({"content": "a"}, "a"),
        ({"refusal": "no"}, "no"),
        ({"reasoning": "why"}, "why"),
        ({"reasoning": "why", "reasoning_content": "why"}, "why"),
        ({"content": [{"type": "text", "text": "a"}, {"text": "b"}, 5]}, "ab"),
        (
            {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": '{"x":1}'}}]},
            'f{"x":1}',
        ),
        ({"tool_calls": [{"custom": {"name": "c", "input": "i"}}, None, 7]}, "ci"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "f{}"),
        ({"content": 5, "tool_calls": "x", "function_call": []}, ""),
        ({"role": "assistant", "id": "long-id"}, ""),
        (None, ""),
        ("text", ""),
    ],
    ids=range(12),
)
def test_the_text_of_an_event(grown: object, text: str) -> None:
    """What the model wrote is counted: words and arguments, never the frame around them."""
    data = event({"choices": [{"index": 0, "delta": grown}, None, "x"]})
    assert streaming.text_of(data) == text


@pytest.mark.parametrize("charge", ["0.00", "0.000000001", "1.23456789", "999999999.999999999"])
def test_the_cost_in_the_usage(charge: str) -> None:
    """The cost is a JSON number with exactly these digits, and nothing else changes."""
    data = usage_chunk(12, 3, id="x", usage_note="kept")
    out = streaming.with_cost(data, charge)
    before = json.loads(data.removeprefix(b"data: "))
    after = json.loads(out.removeprefix(b"data: "), parse_float=Decimal)
    assert after["usage"].pop("cost") == Decimal(charge)
    assert after == before
    assert f'"cost":{charge}'.encode() in out
    assert out.endswith(b"\n\n")
    assert streaming.with_cost(out, "5.00").count(b'"cost"') == 1
