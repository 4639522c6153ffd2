"""Heads that no value can break out of, and pieces of streams."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farebox.gateway.server_wire import head, piece


def test_a_head() -> None:
    """Status line, the server's lines, the handler's, an empty line; foreign letters do no harm."""
    got = head(200, [("x-note", "caf\u00e9 \u20ac"), ("b", "")], "date: now\r\n")
    assert got == b"HTTP/1.1 200 OK\r\ndate: now\r\nx-note: caf\xe9 ?\r\nb: \r\n\r\n"
    assert head(529, [], "") == b"HTTP/1.1 529 \r\n\r\n"


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
@example(["a\r\nset-cookie: b", "\n", "\r", "\0", "\x7f", "\r\n\r\nHTTP/1.1 200 OK"])
def test_no_value_makes_a_line(values: list[str]) -> None:
    """Whatever is in a value, it stays one line of its own header."""
    got = head(200, [("x", value) for value in values], "")
    lines = got.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert lines[-2:] == [b"", b""]
    assert len(lines) == len(values) + 3
    for line, value in zip(lines[1:-2], values, strict=True):
        assert line.startswith(b"x: ")
        assert not {*line} & {0, 10, 13}
        assert len(line) == len(value) + 3


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "\u00e9"])
def test_a_name_that_is_none(name: str) -> None:
    """Names are our own: one that brings a line is a mistake that is heard of."""
    with pytest.raises(ValueError):
        head(200, [(name, "x\n")], "")


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199])
def test_a_status_that_ends_nothing(status: int) -> None:
    """An answer that a client would not take for the last one is never written."""
    with pytest.raises(ValueError, match=str(status)):
        head(status, [], "")


def test_a_piece() -> None:
    """Length in hexadecimal digits, then the bytes as they are."""
    assert piece(b"data: \r\n" * 4) == b"20\r\n" + b"data: \r\n" * 4 + b"\r\n"
