"""Text that clients send, as the database keeps it."""

from __future__ import annotations

import pytest
from hypothesis import given

from farebox.kit.texts import storable
from tests.support.odd_texts import odd_texts


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("", ""),
        ("a b", "a b"),
        ("é😀", "é😀"),
        ("a\x00b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        ("a\udc00\x00é", "a\ufffd\ufffdé"),
        # Two halves that belong together are the character.
        ("\ud83d\ude00", "😀"),
    ],
)
def test_what_cannot_be_stored_is_replaced(sent: str, kept: str) -> None:
    """ATT-01: a client's odd label costs the label its odd character and nothing else."""
    assert storable(sent) == kept


@given(odd_texts())
def test_what_is_stored_stays_as_it_is(text: str) -> None:
    """ENGINE "A batch": once mended, a text is the same before and after the database."""
    kept = storable(text)
    assert kept.encode().decode() == kept
    assert "\x00" not in kept
    assert storable(kept) == kept
    if "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text):
        assert kept == text
