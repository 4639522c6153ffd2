"""A client that goes at every event of a stream and before the first, in all ways there are."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from farebox.kit.ids import parse_id
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from tests.faults.traffic import (
    INPUT_NANOS,
    OUTPUT_NANOS,
    SHORT_ANSWER_TOKENS,
    pace,
    request_head,
    stream_body,
    usage,
)
from tests.support.figures import Figures
from tests.support.processes import Customer, DurableServer, Installation

CREDIT = Nanos(100 * NANOS_PER_UNIT)
PROMPT, COMPLETION = 10, 20
EVENTS_MIN = 8
"""With content; the simulated provider puts some words together."""
WHOLE = PROMPT * INPUT_NANOS + COMPLETION * OUTPUT_NANOS
ORDERS = usage(PROMPT, COMPLETION) | pace(head_ms=20, event_ms=20)
"""Slow enough for a client to go between two events."""

AT_ONCE = 32
ANSWER_SECONDS_MAX = 30.0

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds."""

WAYS = ("close", "reset", "half")
"""A farewell, a reset, and a farewell in one direction by a client that then reads no more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client had when it went."""

    call_id: UUID | None
    """None where it went before the head."""
    contents: int
    """Events with content."""
    is_finished: bool
    """An event said why the answer ended."""
    events: int


async def stream_until(
    customer: Customer, url: str, *, events: int | None, way: str, ask: bool
) -> Seen:
    """Make a streamed call, and go after so many events; None reads to the end, -1 awaits no head.

    Events are those that Server-Sent Events are made of: lines that begin with ``data:``.
    """
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = stream_body(SHORT_ANSWER_TOKENS, ask=ask)
    writer.write(request_head(customer.key, body, ORDERS) + body)
    await writer.drain()
    call_id: UUID | None = None
    seen: list[bytes] = []
    async with asyncio.timeout(ANSWER_SECONDS_MAX):
        if events != -1:
            call_id = await _read_head(reader)
        while events is None or len(seen) < events:
            line = await reader.readline()
            if line.startswith(b"data:"):
                seen.append(line)
            if not line or line == b"data: [DONE]\n":
                break
    await _go(writer, way)
    return Seen(
        call_id,
        sum(b'"content":"' in event and b'"content":""' not in event for event in seen),
        any(b'"finish_reason":"' in event for event in seen),
        len(seen),
    )


async def _read_head(reader: asyncio.StreamReader) -> UUID:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    assert head.startswith("HTTP/1.1 200"), head
    (name,) = (
        line.partition(":")[2].strip()
        for line in head.splitlines()
        if line.lower().startswith("x-request-id:")
    )
    return parse_id("req", name, field="x-request-id")


async def _go(writer: asyncio.StreamWriter, way: str) -> None:
    match way:
        case "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        case "half":
            writer.write_eof()
            await asyncio.sleep(0.2)
            writer.close()
        case _:
            writer.close()


async def judge(installed: Installation, customer: Customer, clients: list[Seen]) -> None:
    """One charge for each, for what it used: at least what was seen, at most what was held."""
    await installed.until("SELECT NOT EXISTS (SELECT FROM hold)")
    found = await installed.rows(
        "SELECT c.id, state, charge_nanos, held_nanos, reason, o.spent_nanos"
        " FROM call c JOIN organization o ON o.id = c.organization_id WHERE o.id = %s",
        customer.organization_id,
    )
    rows = {row[0]: row[1:5] for row in found}
    assert len(rows) == len(found)
    assert {row[5] for row in found} == {sum(row[2] for row in found)}
    known = {seen.call_id: seen for seen in clients if seen.call_id is not None}
    assert known.keys() <= rows.keys()
    # One that went before the head may have gone before it was admitted.
    assert len(known) <= len(rows) <= len(clients)
    for call_id, (state, charge, held, reason) in rows.items():
        seen = known.get(call_id)
        assert state in {"settled", "released"}
        assert 0 <= charge <= held
        assert reason in {"", "client_disconnected", "client_gone_before_dispatch"}, reason
        if seen is not None:
            assert state == "settled"
            assert charge >= seen.contents * OUTPUT_NANOS, seen
            # The end of an answer is sent when its usage has been charged, not before.
            assert charge == WHOLE or not seen.is_finished, (seen, charge)
    await installed.assert_books_clean()


async def test_a_client_goes_at_every_event(
    durable: DurableServer, tmp_path: Path, figures: Figures
) -> None:
    """DED-14, DED-15: wherever a client goes, what it used is charged once, and no hold stays."""
    async with durable.installation(tmp_path) as installed:
        customer = await installed.customer("acme", CREDIT)
        gateway = await installed.spawn("gateway")
        room = asyncio.Semaphore(AT_ONCE)

        async def go(events: int | None, *, way: str, ask: bool) -> Seen:
            async with room:
                return await stream_until(customer, gateway.url, events=events, way=way, ask=ask)

        whole = await asyncio.gather(*(go(None, way="close", ask=ask) for ask in (True, False)))
        assert all(seen.is_finished and seen.contents > EVENTS_MIN for seen in whole)
        gone = await asyncio.gather(
            *(
                go(events, way=way, ask=ask)
                for ask, longest in zip((True, False), whole, strict=True)
                for way in WAYS
                for events in range(-1, longest.events + 1)
            )
        )
        await judge(installed, customer, [*whole, *gone])
        figures.add("clients that went", {"at some event, in some way": len(gone)})
