"""Making replayed calls as an ordinary HTTP client would."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import parse_amount
from farebox.operations.replaying import CallOutcome
from farebox.operations.upstream import UpstreamBrokenError, UpstreamNotReachedError
from farebox.providers.base_urls import parse_base_url
from farebox.providers.http_client import HttpClient, UpstreamTimeouts

WAIT_SECONDS_MAX: Final = 120.0
"""For a connection, for the head of an answer, and for every piece of it."""

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024

_KEY: Final = re.compile(r"[!-~]+")


class HttpSender:
    """Implements ``operations.replaying.SendsCalls``."""

    def __init__(self, base_url: str, api_key: str, *, connections_max: int) -> None:
        if not _KEY.fullmatch(api_key):
            raise InvalidInputError("--api-key-env", "must hold printable ASCII without spaces")
        base = parse_base_url(base_url)
        waits = UpstreamTimeouts(WAIT_SECONDS_MAX, WAIT_SECONDS_MAX, WAIT_SECONDS_MAX)
        self._client = HttpClient(base, timeouts=waits, connections_max=connections_max)
        self._head = (
            f"POST {urlsplit(base).path}/chat/completions HTTP/1.1\r\n"
            f"host: {self._client.host}\r\n"
            f"authorization: Bearer {api_key}\r\n"
            "content-type: application/json\r\n"
        )

    async def send(self, body: bytes, headers: dict[str, str], *, stream: bool) -> CallOutcome:
        """Make the call and read its answer to the end."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{self._head}{lines}content-length: {len(body)}\r\n\r\n"
        try:
            response = await self._client.send(head.encode() + body)
            answer = await response.read(ANSWER_BYTES_MAX)
        except (UpstreamNotReachedError, UpstreamBrokenError) as error:
            return CallOutcome(0, error=error.code)
        status = response.status
        charge = dict(response.headers).get("x-farebox-charge")
        if status != 200:
            return CallOutcome(status, error=f"{status} {_code(answer)}")
        if stream:
            charge = _stream_charge(answer)
        if charge is None:
            return CallOutcome(status, error="answer without a charge")
        return CallOutcome(status, charge=parse_amount(charge, field="charge"))

    def close(self) -> None:
        """End every connection."""
        self._client.close()


def _stream_charge(answer: bytes) -> str | None:
    """The charge that the usage chunk carries, digit by digit."""
    for event in reversed(answer.split(b"\n\n")):
        if b'"cost":' in event:
            try:
                chunk = msgspec.json.decode(event.removeprefix(b"data: "), type=_Chunk)
            except (ValueError, RecursionError):
                continue
            return bytes(chunk.usage.cost).decode()
    return None


class _Cost(msgspec.Struct):
    cost: msgspec.Raw


class _Chunk(msgspec.Struct):
    usage: _Cost


def _code(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "without an error object"
