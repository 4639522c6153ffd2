"""The way between a process and the database: it takes time, and it may break.

A message that was sent arrives although its sender died; an answer that comes for a connection that
is gone reaches nobody. A break is loud (both ends know at once) or silent (the client waits until
its own timeout, the server until its own).
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import psycopg
import psycopg.errors

from farebox.ledger.commands import AnyCommand
from tests.simulation.database import Database, Session
from tests.simulation.trace import Trace
from tests.simulation.virtual_loop import Process

T = TypeVar("T")

CONNECT_SECONDS_MAX = 5.0
"""``connect_timeout`` of the real connections (``storage.connecting``)."""


@dataclass
class Weather:
    """How the network does now; faults change it."""

    seconds: float = 0.0005
    break_chance: float = 0.0
    silent_share: float = 0.3


class Network:
    """One process's way to the database."""

    def __init__(
        self,
        process: Process,
        database: Database,
        weather: Weather,
        chance: random.Random,
        trace: Trace,
    ) -> None:
        self.process = process
        self.database = database
        self.weather = weather
        self.chance = chance
        self.trace = trace
        self.on_answer: Callable[[Sequence[AnyCommand]], None] = lambda _: None
        """Told in the turn in which a batch's answers reach this process."""
        self.is_cut = False
        """A partition: nothing gets through, and nobody is told."""
        self._wires: dict[Wire, None] = {}
        # What travels belongs to no process: it arrives even if its sender is gone.
        self._nobody = contextvars.Context()
        process.on_death.append(self._died)

    def later(self, seconds: float, work: Callable[..., object], *args: Any) -> None:
        """Have something arrive."""
        self.process.loop.call_later(seconds, work, *args, context=self._nobody)

    def delay(self) -> float:
        """How long a message takes."""
        return self.chance.expovariate(1 / self.weather.seconds)

    async def connect(self) -> Wire:
        """Open a connection.

        Raises:
            psycopg.OperationalError: The server is away, or does not want one more.
        """
        await asyncio.sleep(self.delay() * 2)
        if self.is_cut or (not self.database.is_up and self.database.silent):
            await asyncio.sleep(CONNECT_SECONDS_MAX)
            raise psycopg.OperationalError("connection timeout expired")
        if not self.database.is_up:
            raise psycopg.OperationalError("connection refused")
        if self.chance.random() < self.weather.break_chance / 4:
            raise psycopg.errors.TooManyConnections("sorry, too many clients already")
        wire = Wire(self, self.database.session())
        self._wires[wire] = None
        return wire

    def forget(self, wire: Wire) -> None:
        """A connection is closed."""
        self._wires.pop(wire, None)

    def _died(self) -> None:
        for wire in list(self._wires):
            wire.close()


class Fate(Enum):
    """What becomes of a message and its answer."""

    FINE = "fine"
    LOST_REQUEST = "lost request"
    LOST_ANSWER = "lost answer"


class Wire:
    """A connection, seen from the client."""

    def __init__(self, network: Network, session: Session) -> None:
        self.network = network
        self.session = session
        self.closed = False
        self._dead = False
        self._reply: asyncio.Future[Any] | None = None
        session.on_crash = self._server_crashed

    async def ask(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Send a message and wait for its answer.

        Raises:
            psycopg.Error: What the server said, or that the connection is gone.
        """
        network = self.network
        reply: asyncio.Future[T] = network.process.loop.create_future()
        self._reply = reply
        fate, silent = self._fate()
        if fate is Fate.LOST_REQUEST:
            self._break(silent=silent)
        elif not self._dead:
            network.later(network.delay(), self._arrive, work, reply, fate, silent)
        return await reply

    def _fate(self) -> tuple[Fate, bool]:
        network, chance = self.network, self.network.chance
        if network.is_cut:
            return Fate.LOST_REQUEST, True
        if chance.random() >= network.weather.break_chance:
            return Fate.FINE, False
        fate = chance.choice((Fate.LOST_REQUEST, Fate.LOST_ANSWER))
        silent = chance.random() < network.weather.silent_share
        network.trace.count(f"wire {fate.value}{' in silence' if silent else ''}")
        return fate, silent

    def _arrive(
        self,
        work: Callable[[Session], Coroutine[Any, Any, T]],
        reply: asyncio.Future[T],
        fate: Fate,
        silent: bool,
    ) -> None:
        """The message is at the server."""
        database = self.network.database
        if not database.is_up:
            return
        if not self.session.is_open:
            self.network.later(self.network.delay(), fail, reply, self.session.ending())
            return
        database.process.spawn(self._serve(work, reply, fate, silent))

    async def _serve(
        self,
        work: Callable[[Session], Coroutine[Any, Any, T]],
        reply: asyncio.Future[T],
        fate: Fate,
        silent: bool,
    ) -> None:
        network = self.network
        answer: T | None = None
        error: psycopg.Error | None = None
        try:
            answer = await self.session.serve(work(self.session))
        except psycopg.Error as failure:
            error = failure
        if fate is Fate.LOST_ANSWER or network.is_cut:
            self._break(silent=silent or network.is_cut)
        elif error is not None:
            network.later(network.delay(), fail, reply, error)
        else:
            network.later(network.delay(), _answer, reply, answer)

    def _break(self, *, silent: bool) -> None:
        """Nothing gets through any more; unless it is silent, both ends hear of it."""
        self._dead = True
        if not silent:
            self.network.later(self.network.delay(), self.session.client_gone)
            if self._reply is not None:
                self.network.later(self.network.delay(), fail, self._reply, _gone())

    def _server_crashed(self) -> None:
        if not self.network.database.silent and self._reply is not None and not self._dead:
            error = psycopg.errors.AdminShutdown("terminating connection")
            self.network.later(self.network.delay(), fail, self._reply, error)

    def close(self) -> None:
        """Close the socket; the server notices when it looks, if it hears of it at all."""
        if not self.closed:
            self.closed = True
            self.network.forget(self)
            if not (self._dead or self.network.is_cut):
                self.network.later(self.network.delay(), self.session.client_gone)


def _gone() -> psycopg.Error:
    return psycopg.OperationalError("server closed the connection unexpectedly")


def fail(reply: asyncio.Future[Any], error: BaseException) -> None:
    """Answer with an error, if anybody still waits."""
    if not reply.done():
        reply.set_exception(error)


def _answer(reply: asyncio.Future[T], answer: T) -> None:
    if not reply.done():
        reply.set_result(answer)
