"""Counting tokens of the o200k_base vocabulary, offline.

A count serves a ceiling only: where the bytes of a prompt are too coarse a bound, and only for
models that are known to count so (ENGINE.md, "Ceilings"). It never errs below: a text that is too
long to be counted in a bounded time, or that is no valid text, is answered with its bytes, and a
byte-level vocabulary cannot make more tokens than bytes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from splintr import AnyTokenizer

COUNTED_BYTES_MAX: Final = 2**20
"""Longer texts are answered with their bytes. Ordinary text takes 15 ms a megabyte, one endless
word 170 ms, and nothing else runs meanwhile. More than a mebibyte of text lies beyond any
long-context line anyway, and then the context window is the tighter bound."""

VOCABULARY: Final = "o200k_base"


@cache
def _tokenizer() -> AnyTokenizer:
    """The vocabulary, loaded when first needed: 30 ms and some 40 MB."""
    from splintr import Tokenizer  # noqa: PLC0415  # most processes never count

    return Tokenizer.from_pretrained(VOCABULARY)


def warm_up() -> None:
    """Load and compile everything, so that the first count takes no longer than others."""
    count_o200k("Warm-up text: a word, 42 digits.\n")


def count_o200k(text: str) -> int:
    """How many o200k tokens a text has; its bytes where it is not counted.

    What looks like a special token (``<|endoftext|>``) is counted as the ordinary text that a
    provider takes it for: read as one token it would count too little.

    Args:
        text: Any text.

    Returns:
        Exactly what tiktoken's ``encode_ordinary`` gives, or more: never less.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # half a surrogate pair, possible in JSON
        return len(text.encode(errors="surrogatepass"))
    if size > COUNTED_BYTES_MAX:
        return size
    tokenizer = _tokenizer()
    count = len(tokenizer.encode_ordinary(text))
    # It remembers the pieces of a text, as long as they may be: hostile texts would fill memory.
    tokenizer.clear_cache()
    return count
