"""Reaching one host: every address of its name has its chance, the next one after a moment.

RFC 8305 ("happy eyeballs"): addresses of the two families take turns, an attempt that hangs does
not keep the next one waiting, and the first that succeeds wins. Not every event loop can do this,
so it is done here. Whatever way an attempt ends, nothing that it opened is left over.
"""

from __future__ import annotations

import asyncio
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")

NEXT_ATTEMPT_SECONDS: Final = 0.25
"""How long an attempt has before the next address is tried beside it (RFC 8305 section 8)."""

NAMES_KEPT_SECONDS: Final = 10.0
"""How long a name's addresses are used again: a burst of new connections asks once."""

ADDRESSES_MAX: Final = 16
"""Names with more addresses exist; so many are tried."""


class Address(NamedTuple):
    """A numeric address of one family."""

    family: socket.AddressFamily
    host: str
    port: int


class Dialer(Generic[T]):
    """Reaches one host and port."""

    def __init__(
        self,
        host: str,
        port: int,
        connect: Callable[[Address], Awaitable[T]],
        discard: Callable[[T], None],
    ) -> None:
        """Nothing is looked up yet.

        Args:
            host: A name or a numeric address.
            port: The port.
            connect: Reaches one address, or raises ``OSError``; when it is cancelled it leaves
                nothing open.
            discard: Closes a connection that nobody needs.
        """
        self._host = host
        self._port = port
        self._connect = connect
        self._discard = discard
        self._looking = asyncio.Lock()
        self._known: list[Address] = []
        self._known_until = 0.0

    async def dial(self) -> T:
        """A connection.

        Raises:
            OSError: The name is not known, or no address answers.
            ValueError: The name cannot be one.
        """
        found = await self._first_to_answer(await self._addresses())
        if not isinstance(found, OSError):
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
                self._known = alternating([_address(family, place) for family, *_, place in found])
                self._known_until = loop.time() + NAMES_KEPT_SECONDS
            return self._known

    async def _first_to_answer(self, addresses: Sequence[Address]) -> T | OSError:
        """Try them in order, each beside those that still hang; where none answers, its error."""
        waiting = list(addresses)
        running: set[asyncio.Task[T | OSError]] = set()
        found: T | OSError = OSError("its name has no address")
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.ensure_future(self._attempt(waiting.pop(0))))
                patience = NEXT_ATTEMPT_SECONDS if waiting else None
                done, _ = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    running.discard(attempt)
                    found = attempt.result()
                    if not isinstance(found, OSError):
                        return found
            return found
        finally:
            for attempt in running:
                attempt.cancel()
                attempt.add_done_callback(self._discard_late)

    async def _attempt(self, address: Address) -> T | OSError:
        try:
            return await self._connect(address)
        except OSError as error:
            return error

    def _discard_late(self, attempt: asyncio.Task[T | OSError]) -> None:
        """Close what nobody waits for any more."""
        if not attempt.cancelled() and attempt.exception() is None:
            found = attempt.result()
            if not isinstance(found, OSError):
                self._discard(found)


def alternating(addresses: Sequence[Address]) -> list[Address]:
    """The two families by turns, beginning with the first; each in the order it came."""
    first = [each for each in addresses if each.family == addresses[0].family]
    second = [each for each in addresses if each.family != addresses[0].family]
    mixed = chain.from_iterable(zip_longest(first, second))
    return [each for each in mixed if each is not None][:ADDRESSES_MAX]


def _address(family: socket.AddressFamily, place: tuple[object, ...]) -> Address:
    """From what a look-up finds; an IPv6 address of one link keeps its zone."""
    host, port, *more = place
    zone = f"%{more[1]}" if len(more) == 2 and more[1] else ""
    assert isinstance(port, int)
    return Address(family, f"{host}{zone}", port)
