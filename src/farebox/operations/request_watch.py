"""What a gateway notes of requests for the watch: which are repeated, who calls often.

Of a request there is a hash: of its key, its run and its body with digits and blanks left out, so
that a counter, a time or another layout makes no other request of it. The content itself is never
kept. Noting costs a few microseconds beside the money path and never waits; what is frequent is
added to the database every few seconds, where all gateways' counts meet. What a gateway had not
written before it died is lost, which delays an alert by as much (ANO-01, ANO-04).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from heapq import nlargest
from typing import Final, Protocol, TypeVar
from uuid import UUID

import msgspec

from farebox.kit.recent import Recent
from farebox.kit.texts import storable

MINUTE_SECONDS: Final = 60.0
"""Counts begin anew after this time."""

REQUESTS_MAX: Final = 20_000
"""Requests that are remembered at once, some two megabytes where most come once; the least recent
are forgotten."""
USERS_MAX: Final = 20_000

REPEATS_NOTED: Final = 3
"""What came so often to this gateway in a minute is written; most requests come once."""
USER_CALLS_NOTED: Final = 5
"""Users with so many calls in a minute are written."""

ROWS_MAX: Final = 1_000
"""Of each kind in one write; the rest is written by the next, if the minute is not over."""

WHOLE_BYTES: Final = 6_144
"""Larger bodies are sampled, so that none costs much: their beginning, their end, pieces between. A
text in them that changes its length makes another request of it, until its length is the same."""
_HEAD_BYTES: Final = 1_024
_TAIL_BYTES: Final = 2_048
_PIECES: Final = 24
_PIECE_BYTES: Final = 96

_FOLDED: Final = b"0123456789 \t\r\n"
_DIGEST_BYTES: Final = 16


class NotedRepeat(msgspec.Struct):
    """A request that came often."""

    watched: bytes
    organization_id: UUID
    project_id: UUID
    key_id: UUID
    run: str
    model: str
    calls: int = 0
    """Of this minute."""
    written: int = 0


class NotedUser(msgspec.Struct):
    """A user who called."""

    organization_id: UUID
    user: str
    calls: int = 0
    written: int = 0


_N = TypeVar("_N", NotedRepeat, NotedUser)


class RequestWatchStore(Protocol):
    """Where all gateways' counts meet."""

    async def note_repeats(self, found: Sequence[NotedRepeat]) -> None:
        """Add what was not written yet to the running minute."""

    async def note_users(self, found: Sequence[NotedUser]) -> None:
        """Add what was not written yet to the running hour."""


class RequestWatch:
    """What came in the running minute."""

    def __init__(self, store: RequestWatchStore, *, monotonic: Callable[[], float]) -> None:
        """Begin empty.

        Args:
            store: Where it is written.
            monotonic: Seconds of a clock that never goes back.
        """
        self._store = store
        self._monotonic = monotonic
        self._began_at = monotonic()
        self._requests: Recent[bytes, int | NotedRepeat] = Recent(REQUESTS_MAX)
        """How often it came; more is known of what came often."""
        self._users: Recent[tuple[UUID, str], NotedUser] = Recent(USERS_MAX)

    def note(
        self,
        organization_id: UUID,
        project_id: UUID,
        key_id: UUID,
        *,
        run: str,
        user: str,
        model: str,
        body: bytes,
    ) -> None:
        """A call was admitted.

        Args:
            organization_id: Whose call it is.
            project_id: Of its key.
            key_id: Of its key.
            run: Its run, or nothing.
            user: Its user, or nothing.
            model: What was asked for.
            body: The request as it came.
        """
        watched = request_hash(key_id, run, body)
        noted = self._requests.get(watched)
        if isinstance(noted, NotedRepeat):
            noted.calls += 1
        else:
            calls = 1 if noted is None else noted + 1
            self._requests.put(
                watched,
                calls
                if calls < REPEATS_NOTED
                else NotedRepeat(watched, organization_id, project_id, key_id, run, model, calls),
            )
        if user:
            self._note_user(organization_id, storable(user))

    def _note_user(self, organization_id: UUID, user: str) -> None:
        key = (organization_id, user)
        noted = self._users.get(key)
        if noted is None:
            noted = NotedUser(organization_id, user)
            self._users.put(key, noted)
        noted.calls += 1

    async def flush(self) -> int:
        """Write what is frequent; gives how many rows were written.

        Raises:
            UnavailableError: The database is away; the next flush writes it.
        """
        is_over = self._monotonic() - self._began_at >= MINUTE_SECONDS
        often = (each for each in self._requests.values() if isinstance(each, NotedRepeat))
        repeats = _due(often, REPEATS_NOTED)
        users = _due(self._users.values(), USER_CALLS_NOTED)
        # One order everywhere: two gateways that write the same rows cannot wait for each other.
        repeats.sort(key=lambda each: (each.organization_id, each.watched))
        users.sort(key=lambda each: (each.organization_id, each.user))
        await _write(self._store.note_repeats, repeats)
        await _write(self._store.note_users, users)
        if is_over:
            self._requests.clear()
            self._users.clear()
            self._began_at = self._monotonic()
        return len(repeats) + len(users)


def request_hash(key_id: UUID, run: str, body: bytes) -> bytes:
    """What near-identical requests of a key and a run have in common.

    >>> key = UUID(int=1)
    >>> first, second = b'{"content": "try 9"}', b'{"content":  "try 10"}'
    >>> request_hash(key, "r", first) == request_hash(key, "r", second)
    True
    >>> request_hash(key, "r", first) == request_hash(key, "other", first)
    False
    """
    whose = key_id.bytes + storable(run).encode() + b"\0"
    sample = body if len(body) <= WHOLE_BYTES else b"".join(_pieces(body))
    return sha256(whose + sample.translate(None, _FOLDED)).digest()[:_DIGEST_BYTES]


def _pieces(body: bytes) -> Iterator[bytes]:
    """The beginning, pieces between, and the end."""
    yield body[:_HEAD_BYTES]
    end = len(body) - _TAIL_BYTES
    step = (end - _HEAD_BYTES) // _PIECES
    for begin in range(_HEAD_BYTES, _HEAD_BYTES + step * _PIECES, step):
        yield body[begin : begin + _PIECE_BYTES]
    yield body[end:]


def _due(noted: Iterable[_N], least: int) -> list[_N]:
    due = (each for each in noted if each.calls >= least and each.calls > each.written)
    # Who is passed over has more to write the next time: nobody waits for good.
    return nlargest(ROWS_MAX, due, key=lambda each: each.calls - each.written)


async def _write(write: Callable[[Sequence[_N]], Awaitable[None]], rows: Sequence[_N]) -> None:
    """Write rows, and remember how far: more may come while they are written."""
    if rows:
        upto = [each.calls for each in rows]
        await write(rows)
        for each, calls in zip(rows, upto, strict=True):
            each.written = calls
