"""The connections to one provider: how many there may be, who waits for one, how long one is kept.

A call takes a place first, of which there is a limited number, and in the order of asking; with it
it uses the connection that was used last, or makes a new one. So there are never more connections
than places, and nobody who asks later is served earlier.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from farebox.operations.upstream import UpstreamNotReachedError
from farebox.providers.dialing import Address, Dialer
from farebox.providers.wire import Owner, Wire, reason_of

if TYPE_CHECKING:
    from ssl import SSLContext

_PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Where a provider's servers are: the first part of its base URL."""

    scheme: str
    host: str
    """A name or an address, as a socket wants it."""
    port: int

    @classmethod
    def of(cls, base_url: str) -> Origin:
        """From a checked base URL."""
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        port = parts.port or _PORTS[parts.scheme]
        return cls(parts.scheme, unquote(parts.hostname), port)

    @property
    def host_header(self) -> str:
        """What ``Host`` says: the port only where it is not the usual one, no IPv6 zone."""
        host = self.host.partition("%")[0]
        host = f"[{host}]" if ":" in host else host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class Connections(Owner):
    """The connections to one origin. They belong to the event loop that made them."""

    def __init__(
        self,
        origin: Origin,
        base: str,
        *,
        connections_max: int,
        keepalive_seconds: float,
        tls: SSLContext | None,
    ) -> None:
        self._origin = origin
        self._base = base
        self._connections_max = connections_max
        self._keepalive_seconds = keepalive_seconds
        self._tls = tls
        self._dialer: Dialer[Wire] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wires: set[Wire] = set()
        self._idle: dict[Wire, None] = {}
        self._taken = 0
        """Places that are taken, by calls in flight or by those who are about to get a wire."""
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._is_closed = False

    @property
    def idle_count(self) -> int:
        """Open connections that no call uses."""
        return len(self._idle)

    @property
    def taken_count(self) -> int:
        """Places that are taken."""
        return self._taken

    def take(self) -> Wire | None:
        """An idle connection and a place at once, if there is one; the usual way."""
        if self._taken < self._connections_max and (wire := self._take_idle()) is not None:
            self._taken += 1
            return wire
        return None

    async def wait(self, seconds: float) -> Wire:
        """A place and a connection, after waiting for the one and making the other.

        Raises:
            UpstreamNotReachedError: Neither came about in time; the provider got nothing.
        """
        what = f"none of its {self._connections_max} connections came free"
        try:
            async with asyncio.timeout(seconds):
                await self._wait_for_place()
                what = "no connection came about"
                try:
                    return self._take_idle() or await self._connect()
                except BaseException:
                    self._give_place()
                    raise
        except TimeoutError as error:
            message = f"cannot connect to {self._base}: {what} in {seconds:g} s"
            raise UpstreamNotReachedError(message) from error
        except (OSError, ValueError) as error:
            message = f"cannot connect to {self._base}: {reason_of(error)}"
            raise UpstreamNotReachedError(message) from error

    def close(self) -> None:
        """End every connection and everybody's waiting; nothing more is opened."""
        self._is_closed = True
        for _ in range(len(self._waiting)):
            self._taken += 1  # for each who waits: it sees that all is over, and gives it back
            self._give_place()
        for wire in list(self._wires):
            wire.drop("this provider was taken out of use")

    # What the wires tell.

    @override
    def opened(self, wire: Wire) -> None:
        self._wires.add(wire)

    @override
    def freed(self, wire: Wire, *, reusable: bool) -> None:
        if reusable and not self._is_closed:
            assert self._loop is not None
            self._idle[wire] = None
            wire.wake_at(self._loop.time() + self._keepalive_seconds)
        self._give_place()

    @override
    def lost(self, wire: Wire) -> None:
        self._wires.discard(wire)
        self._idle.pop(wire, None)

    # Within.

    def _take_idle(self) -> Wire | None:
        while self._idle:
            wire, _ = self._idle.popitem()
            if wire.is_open:
                return wire
        return None

    async def _wait_for_place(self) -> None:
        if self._is_closed or self._taken < self._connections_max:
            self._taken += 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting[mine] = None
        try:
            await mine
        except BaseException:
            self._waiting.pop(mine, None)
            if mine.done() and not mine.cancelled():
                self._give_place()  # it came in the very turn in which nobody waited any more
            raise

    def _give_place(self) -> None:
        """To who has waited longest, or back."""
        while self._waiting:
            first, _ = self._waiting.popitem(last=False)
            if not first.done():
                first.set_result(None)
                return
        self._taken -= 1

    async def _connect(self) -> Wire:
        self._check_in_use()
        if self._dialer is None:
            self._loop = asyncio.get_running_loop()
            self._dialer = Dialer(self._origin.host, self._origin.port, self._reach, Wire.drop)
        wire = await self._dialer.dial()
        try:
            if self._origin.scheme == "https":
                name = self._origin.host.partition("%")[0].rstrip(".")
                await wire.secure(self._tls or usual_tls(), name)
            self._check_in_use()
        except BaseException:
            wire.drop()
            raise
        return wire

    async def _reach(self, address: Address) -> Wire:
        """One address, without TLS."""
        loop = asyncio.get_running_loop()
        wire = Wire(self, loop)
        try:
            await loop.create_connection(
                lambda: wire, address.host, address.port, family=address.family
            )
        except BaseException:
            wire.drop()  # not every event loop tells a wire of an end that came so early
            raise
        return wire

    def _check_in_use(self) -> None:
        if self._is_closed:
            raise UpstreamNotReachedError("this provider was taken out of use; nothing was sent")


@cache
def usual_tls() -> SSLContext:
    """The system's authorities, made once: reading them takes a while."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
