"""Replayed calls over HTTP: every answer becomes a charge or an error, never a traceback."""

from __future__ import annotations

import socket

import pytest

from farebox.assembly.replaying import HttpSender
from farebox.kit.errors import InvalidInputError
from farebox.operations.replaying import CallOutcome
from tests.support.scripted_server import Connection, answer, scripted_server


async def send(raw: bytes, *, stream: bool = False) -> CallOutcome:
    """One call to a server that answers these bytes."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(raw)

    async with scripted_server(script) as server:
        sender = HttpSender(server.base_url, "key", connections_max=1)
        outcome = await sender.send(b"{}", {"X-Farebox-Feature": "replay"}, stream=stream)
        sender.close()
        assert b"authorization: bearer key" in server.requests[0].lower()
        assert b"x-farebox-feature: replay" in server.requests[0].lower()
        return outcome


async def test_a_whole_answer() -> None:
    """The header is the charge, exactly."""
    raw = answer(b"{}", headers="x-farebox-charge: 0.012345678\r\n")
    assert await send(raw) == CallOutcome(200, 12_345_678)  # type: ignore[arg-type]
    assert (await send(answer(b"{}"))).error == "answer without a charge"


@pytest.mark.parametrize(
    ("events", "charge"),
    [
        (b'data: {"usage":{"cost":0.000000001}}\n\ndata: [DONE]\n\n', 1),
        (b'data: {"usage":{"cost":1.50}}\n\n', 1_500_000_000),
        (b'data: {"choices":[{"delta":{"content":"\\"cost\\":5"}}]}\n\n', None),
        (b'data: {"cost":"x"}\n\n', None),
        (b'data: not "cost": json\n\n', None),
        (b"", None),
    ],
    ids=range(6),
)
async def test_a_stream(events: bytes, charge: int | None) -> None:
    """The charge stands in the usage chunk; a stream without one is an error."""
    outcome = await send(answer(events), stream=True)
    if charge is None:
        assert outcome.error == "answer without a charge"
    else:
        assert (outcome.charge, outcome.error) == (charge, "")


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (answer(b'{"error":{"code":"balance_held"}}', status="429 X"), "429 balance_held"),
        (answer(b"<html>", status="502 X"), "502 without an error object"),
        (answer(b'{"error":"x"}', status="400 X"), "400 without an error object"),
        (answer(b"\xff", status="500 X"), "500 without an error object"),
        (b"nonsense\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", "upstream_broken"),
        (b"", "upstream_broken"),
    ],
    ids=range(7),
)
async def test_errors(raw: bytes, error: str) -> None:
    """Each is named by its status and code, or by what broke."""
    outcome = await send(raw)
    assert outcome.error
    assert outcome.charge == 0
    if error:
        assert outcome.error == error


async def test_nobody_there() -> None:
    """A gateway that does not run is an error of the call too."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        sender = HttpSender(
            f"http://127.0.0.1:{taken.getsockname()[1]}/v1", "key", connections_max=1
        )
        outcome = await sender.send(b"{}", {}, stream=False)
    assert outcome.error == "upstream_not_reached"


@pytest.mark.parametrize(("url", "key"), [("nowhere", "key"), ("http://h/v1", "k\r\nx: y")])
def test_what_cannot_be_sent_is_refused_at_once(url: str, key: str) -> None:
    """A base URL or a key that no request can carry is named before the first call."""
    with pytest.raises(InvalidInputError):
        HttpSender(url, key, connections_max=1)
