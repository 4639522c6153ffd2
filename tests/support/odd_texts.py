"""Texts with everything in them that a client may send and a database may not keep."""

from __future__ import annotations

from hypothesis import strategies as st

_ODD = st.sampled_from("\x00\"\\{},;'=/%\n\r\t\x01\x7f \u2028é😀")
_SURROGATES = st.integers(0xD800, 0xDFFF).map(chr)

# A text of several alphabets draws from them as if they were one, in which halves of surrogate
# pairs are so rare that they never come; a list of characters does not.
CHARACTERS = st.one_of(st.characters(), _ODD, _SURROGATES)


def odd_texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Ordinary and odd characters, NUL and lone surrogates among them."""
    return st.lists(CHARACTERS, max_size=max_size).map("".join)
