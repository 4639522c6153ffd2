"""Making replayed calls with an ordinary HTTP client."""

from __future__ import annotations

import aiohttp
import msgspec

from farebox.kit.money import parse_amount
from farebox.operations.replaying import CallOutcome

CALL_SECONDS_MAX = 120.0


class HttpSender:
    """Implements ``operations.replaying.SendsCalls``."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, api_key: str) -> None:
        self._session = session
        self._url = f"{base_url}/chat/completions"
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
        }

    async def send(self, body: bytes, headers: dict[str, str], *, stream: bool) -> CallOutcome:
        """Make the call and read its answer to the end."""
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={**self._headers, **headers},
                timeout=aiohttp.ClientTimeout(total=CALL_SECONDS_MAX),
            ) as response:
                answer = await response.read()
                charge = response.headers.get("x-farebox-charge")
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            return CallOutcome(0, error=type(error).__name__)
        if status != 200:
            return CallOutcome(status, error=f"{status} {_code(answer)}")
        if stream:
            charge = _stream_charge(answer)
        if charge is None:
            return CallOutcome(status, error="answer without a charge")
        return CallOutcome(status, charge=parse_amount(charge, field="charge"))


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
