"""Text that clients send, as the database keeps it."""

from __future__ import annotations


def storable(text: str) -> str:
    """The text as PostgreSQL can store it.

    NUL and halves of surrogate pairs become the replacement character: a client's odd label must
    not reject a batch of money.

    >>> storable("a" + chr(0) + "b") == "a" + chr(0xFFFD) + "b"
    True
    """
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
