"""Keys that clients choose, and fingerprints of what they ask."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.kit.errors import InvalidInputError
from farebox.operations.idempotency import KEY_LENGTH_MAX, parse_key, request_fingerprint

parts = st.tuples(st.sampled_from(["POST", "PATCH"]), st.text(max_size=5), st.binary(max_size=5))


@settings(deadline=None)
@given(parts, parts)
def test_two_requests_have_one_fingerprint_only_if_they_are_equal(
    one: tuple[str, str, bytes], other: tuple[str, str, bytes]
) -> None:
    """Method, path and body cannot flow into each other."""
    assert (request_fingerprint(*one) == request_fingerprint(*other)) == (one == other)
    assert request_fingerprint("post", *one[1:]) == request_fingerprint("POST", *one[1:])


@pytest.mark.parametrize("text", ["", "a b", "ä", "a\n", "x" * (KEY_LENGTH_MAX + 1)])
def test_a_key_is_visible_ascii(text: str) -> None:
    """What cannot stand in a header is refused with the header's name."""
    with pytest.raises(InvalidInputError) as caught:
        parse_key(text)
    assert caught.value.field == "Idempotency-Key"
    assert parse_key("6f1c-!~") == "6f1c-!~"
