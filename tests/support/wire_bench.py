"""A wire without a network: its transport and owner are played, so each byte's turn is chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from typing_extensions import override

from farebox.providers.arriving import ArrivingAnswer
from farebox.providers.wire import Owner, Wire

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\n\r\n"


class PlayedTransport(asyncio.Transport):
    """What a wire does with its connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unsent = 0
        """How many bytes of what was written have not left yet."""
        self.is_aborted = False
        self._is_paused = False

    @override
    def write(self, data: Any) -> None:
        assert not self.is_aborted
        self.written.append(bytes(data))

    @override
    def get_write_buffer_size(self) -> int:
        return self.unsent

    @override
    def is_closing(self) -> bool:
        return self.is_aborted

    @override
    def abort(self) -> None:
        self.is_aborted = True

    @override
    def pause_reading(self) -> None:
        assert not self._is_paused
        self._is_paused = True

    @override
    def resume_reading(self) -> None:
        assert self._is_paused
        self._is_paused = False

    @override
    def is_reading(self) -> bool:
        return not self._is_paused


class PlayedOwner(Owner):
    """What a wire tells its owner."""

    def __init__(self) -> None:
        self.freed_as: list[bool] = []
        """For each call that ended, whether the connection may be used again."""
        self.is_lost = False

    @override
    def opened(self, wire: Wire) -> None:
        pass

    @override
    def freed(self, wire: Wire, *, reusable: bool) -> None:
        self.freed_as.append(reusable)

    @override
    def lost(self, wire: Wire) -> None:
        self.is_lost = True


class WireBench:
    """One wire between a played transport and a played owner; needs a running event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.owner = PlayedOwner()
        self.transport = PlayedTransport()
        self.wire = Wire(self.owner, self.loop)
        self.wire.connection_made(self.transport)

    def call(self, *, patience_seconds: float = 60.0) -> ArrivingAnswer:
        """Begin a call."""
        answer = ArrivingAnswer(self.wire, "http://played", patience_seconds, self.loop)
        self.wire.begin(answer, REQUEST, self.loop.time() + patience_seconds)
        return answer

    def hear(self, *pieces: bytes) -> None:
        """The provider says this."""
        for piece in pieces:
            self.wire.data_received(piece)


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    """The bytes in pieces, cut at these places."""
    at = sorted({0, len(wire), *(place % (len(wire) + 1) for place in places)})
    return [wire[start:end] for start, end in pairwise(at)]
