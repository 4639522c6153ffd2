"""Writes of the native API, once: a repeated request gets the answer of the first.

A request is begun under the key that its client chose, carries the id of whatever it makes, and is
finished with its answer. If the process dies in between, the same request may be begun again after
a while and meets the same id, so the engine and the tables know what it made already.
"""

from __future__ import annotations

import re
from datetime import timedelta
from hashlib import sha256
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from farebox.kit.errors import InvalidInputError

KEY_LENGTH_MAX: Final = 255
"""As everywhere that such keys are sent."""

ANSWER_BYTES_MAX: Final = 1_000_000
"""A larger answer is not kept: nothing that writes answers so much."""

KEPT: Final = timedelta(days=35)
"""As long as the engine remembers what it did (ENGINE.md, "Idempotency")."""

ABANDONED_AFTER: Final = timedelta(seconds=90)
"""No write takes so long: whoever began it is gone, and a repetition may begin anew."""

_KEY: Final = re.compile(r"[!-~]+")
"""Visible ASCII: the key stands in a header."""


class Begun(NamedTuple):
    """The request is to be done now."""

    effect_id: UUID
    """The id of whatever it makes."""


class Answer(NamedTuple):
    """What was answered, or is to be kept."""

    status: int
    content_type: str
    body: bytes


class RequestStore(Protocol):
    """Where requests are remembered; every method commits by itself."""

    async def begin(
        self, caller: str, key: str, fingerprint: bytes, effect_id: UUID
    ) -> Begun | Answer:
        """Begin a request, or give the answer of the one before.

        Args:
            caller: Whose key it is: two callers may choose the same.
            key: What the client chose.
            fingerprint: Of the request (:func:`request_fingerprint`).
            effect_id: A new id, for a request that is new.

        Raises:
            RefusedError: ``idempotency_key_reused``: the key came with another request before.
            ConflictError: The same request is being done at this moment.
        """

    async def finish(self, caller: str, key: str, answer: Answer) -> None:
        """Keep the answer."""

    async def abandon(self, caller: str, key: str) -> None:
        """Forget a request that had no effect, so that it may be repeated."""

    async def drop_old(self) -> int:
        """Forget what is older than :data:`KEPT`; gives how many."""


def parse_key(text: str, *, field: str = "Idempotency-Key") -> str:
    """Read the key that a client chose.

    Raises:
        InvalidInputError: It is empty, too long, or has characters that cannot be seen.
    """
    if len(text) > KEY_LENGTH_MAX or not _KEY.fullmatch(text):
        raise InvalidInputError(
            field, f"must be 1 to {KEY_LENGTH_MAX} visible ASCII characters, such as a UUID"
        )
    return text


def request_fingerprint(method: str, path: str, body: bytes) -> bytes:
    """A hash of what a request asks for; 32 bytes."""
    digest = sha256()
    for part in (method.upper().encode(), path.encode("utf-8", "surrogatepass"), body):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()
