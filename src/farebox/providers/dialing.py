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
        found = await first_to_answer(await self._addresses())
        if isinstance(found, socket.socket):
            return found
        self._known_until = 0.0
        try:
            raise found
        finally:
            del found  # it knows this frame: nothing shall go round in circles

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


async def first_to_answer(addresses: Sequence[Address]) -> socket.socket | OSError:
    """Try them in order, each beside those that still hang; where none answers, its error."""
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket | OSError]] = set()
    found: socket.socket | OSError = OSError("its name has no address")
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
                found = attempt.result()
                if isinstance(found, socket.socket):
                    return found
        return found
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_close_late)


async def _connect(address: Address) -> socket.socket | OSError:
    family, place = address
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:  # a family that this machine does not speak
        return error
    try:
        sock.settimeout(0)  # what event loops want
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            return error
        raise
    return sock


def _close_late(attempt: asyncio.Task[socket.socket | OSError]) -> None:
    """Close the connection that nobody waits for any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        found = attempt.result()
        if isinstance(found, socket.socket):
            found.close()
