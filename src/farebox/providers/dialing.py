"""Opening a TCP connection to one host: every address of its name, the next one after a moment.

RFC 8305 ("happy eyeballs"): addresses of the two families take turns, an attempt that hangs does
not keep the next one waiting, and the first that succeeds wins. The event loops differ in whether
they can do this, so it is done here. Whatever way an attempt ends, no socket is left open.
"""

from __future__ import annotations

import asyncio
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NEXT_ATTEMPT_SECONDS: Final = 0.25
"""How long an attempt has before the next address is tried beside it (RFC 8305 section 8)."""

NAMES_KEPT_SECONDS: Final = 10.0
"""How long a name's addresses are used again: a burst of new connections asks once."""

ADDRESSES_MAX: Final = 16
"""Names with more addresses exist; so many are tried."""

Address = tuple[socket.AddressFamily, Any]
"""A family and an address for a socket of it."""


class Dialer:
    """Opens connections to one host and port."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._looking = asyncio.Lock()
        self._known: list[Address] = []
        self._known_until = 0.0

    async def dial(self) -> socket.socket:
        """A connected, non-blocking socket.

        Raises:
            OSError: The name is not known, or no address answers.
            ValueError: The name cannot be one.
        """
        addresses = await self._addresses()
        try:
            return await first_to_answer(addresses)
        except OSError:
            self._known_until = 0.0
            raise

    async def _addresses(self) -> list[Address]:
        loop = asyncio.get_running_loop()
        async with self._looking:
            if loop.time() >= self._known_until:
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._known = alternating([(family, address) for family, *_, address in found])
                self._known_until = loop.time() + NAMES_KEPT_SECONDS
            return self._known


def alternating(addresses: Sequence[Address]) -> list[Address]:
    """The two families by turns, beginning with the first; each in the order it came."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    second = [each for each in addresses if each[0] != addresses[0][0]]
    mixed = chain.from_iterable(zip_longest(first, second))
    return [each for each in mixed if each is not None][:ADDRESSES_MAX]


async def first_to_answer(addresses: Sequence[Address]) -> socket.socket:
    """Try them in order, each beside those that still hang.

    Raises:
        OSError: None answers; the error of the last that failed.
    """
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    failed: OSError = OSError("its name has no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_connect(waiting.pop(0))))
            patience = NEXT_ATTEMPT_SECONDS if waiting else None
            done, _ = await asyncio.wait(
                running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                running.discard(attempt)
                try:
                    return attempt.result()
                except OSError as error:
                    failed = error
        raise failed
    finally:
        del failed  # it knows this frame: nothing shall go round in circles
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_close_late)


async def _connect(address: Address) -> socket.socket:
    family, place = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)  # what event loops want
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    """Close the connection that nobody waits for any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
