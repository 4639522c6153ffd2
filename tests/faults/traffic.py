"""Clients of a gateway that believe only what they have received whole."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import aiohttp
import msgspec

from farebox.kit.ids import parse_id
from farebox.kit.money import Nanos, parse_amount
from farebox.rating.ceiling import MESSAGE_OVERHEAD_TOKENS, REQUEST_OVERHEAD_TOKENS
from tests.support.processes import Customer, Installation

MODEL = "gpt-4-turbo"
"""Its prompts are bounded by their bytes alone, so a ceiling is known before the call."""

INPUT_NANOS = 10_000
OUTPUT_NANOS = 30_000
"""Of one token of that model."""

CALL_SECONDS_MAX = 120.0

SHORT_ANSWER_TOKENS = 40
LONG_ANSWER_TOKENS = 700
"""Output limits; the long one is several slices of a project that holds its streams in slices."""

LONG_ANSWERS = 0.05
"""Share of calls with the long limit."""

ANSWERS_MIN = 20
"""Whole answers without which a test of faults has shown nothing."""

THINK_SECONDS = 0.02
"""Between a caller's calls: faults shall meet calls, not a machine that has no time for them."""

IMPATIENT = 0.1
"""Share of calls whose client hangs up soon, wherever the answer is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client knows of a call that it made."""

    status: int
    """Zero where the connection broke before an answer began."""
    code: str = ""
    """Of an error."""
    call_id: UUID | None = None
    charge: Nanos | None = None
    """Of an answer that was received whole; None of every other."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end."""
        return self.charge is not None


class Clients:
    """Many connections to some gateways."""

    def __init__(self, customer: Customer) -> None:
        self._headers = {
            "authorization": f"Bearer {customer.key}",
            "content-type": "application/json",
        }
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS_MAX),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self, url: str, tokens: int, *, stream: bool, directives: Mapping[str, str] | None = None
    ) -> Outcome:
        """Make one call with an output limit, and read its answer to the end if it has one."""
        assert self._session is not None
        try:
            async with self._session.post(
                f"{url}/v1/chat/completions",
                data=_body(tokens, stream=stream),
                headers={**self._headers, **(directives or {})},
            ) as response:
                text = await response.read()
                return _outcome(response, text, stream=stream)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Outcome(0)

    async def last_word(self, url: str, tokens: int, directives: Mapping[str, str]) -> float:
        """Read a stream to its end; gives the monotonic time of its last piece of content."""
        assert self._session is not None
        last = time.monotonic()
        async with self._session.post(
            f"{url}/v1/chat/completions",
            data=_body(tokens, stream=True),
            headers={**self._headers, **directives},
        ) as response:
            async for line in response.content:
                if b'"content":' in line:
                    last = time.monotonic()
        return last


MESSAGE = {"role": "user", "content": "How many boats come home when the light turns gold?"}


def prompt_bound(tokens: int, *, stream: bool) -> int:
    """The gateway's bound of the prompt: a token a byte, and its margins."""
    one = REQUEST_OVERHEAD_TOKENS + MESSAGE_OVERHEAD_TOKENS
    return len(_body(tokens, stream=stream)) + one


def usage(prompt: int, completion: int) -> dict[str, str]:
    """The order to bill so much."""
    return {"x-sandbox-usage": f"prompt={prompt},completion={completion}"}


def pace(*, head_ms: int = 0, event_ms: int = 0) -> dict[str, str]:
    """The order to take time."""
    return {"x-sandbox-latency-ms": f"head={head_ms},event={event_ms}"}


def _body(tokens: int, *, stream: bool) -> bytes:
    if stream:
        return stream_body(tokens, ask=True)
    return msgspec.json.encode({"model": MODEL, "messages": [MESSAGE], "max_tokens": tokens})


def stream_body(tokens: int, *, ask: bool) -> bytes:
    """A streamed call's body, one that asks for its usage or one that does not."""
    body: dict[str, Any] = {"model": MODEL, "messages": [MESSAGE], "max_tokens": tokens}
    body |= {"stream": True} | ({"stream_options": {"include_usage": True}} if ask else {})
    return msgspec.json.encode(body)


def request_head(key: str, body: bytes, directives: Mapping[str, str]) -> bytes:
    """The head of a call, for a client that does its own HTTP."""
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: farebox",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in directives.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _outcome(response: aiohttp.ClientResponse, text: bytes, *, stream: bool) -> Outcome:
    name = response.headers.get("x-request-id", "")
    call_id = parse_id("req", name, field="x-request-id") if name else None
    if response.status != 200:
        return Outcome(response.status, _error_code(text), call_id)
    if not stream:
        charge = response.headers["x-farebox-charge"]
        return Outcome(200, "", call_id, parse_amount(charge, field="charge"))
    events = [event for event in text.split(b"\n\n") if event.startswith(b"data: ")]
    if not events or events[-1] != b"data: [DONE]":
        return Outcome(200, _error_code(events[-1][6:]) if events else "", call_id)
    costs = [event for event in events if b'"cost":' in event]
    assert len(costs) == 1, costs
    chunk = msgspec.json.decode(costs[0][6:], type=_Chunk)
    return Outcome(200, "", call_id, parse_amount(bytes(chunk.usage.cost).decode(), field="cost"))


def _error_code(text: bytes) -> str:
    try:
        return str(msgspec.json.decode(text)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


class _Cost(msgspec.Struct):
    cost: msgspec.Raw


class _Chunk(msgspec.Struct):
    usage: _Cost


@dataclass
class Traffic:
    """Callers that go on calling until told to stop, whatever happens to whom they call."""

    clients: Clients
    urls: Callable[[], list[str]]
    """Gateways that are meant to be up now."""
    chance: random.Random
    outcomes: list[Outcome] = field(default_factory=list)
    _stop: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, callers: int) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._caller()) for _ in range(callers)]

    async def stop(self) -> None:
        """Make no new calls, and see the running ones end."""
        self._stop = True
        await asyncio.gather(*self._tasks)

    def whole(self) -> dict[UUID, Nanos]:
        """The charges of all answers that came whole so far."""
        return {
            outcome.call_id: outcome.charge
            for outcome in self.outcomes
            if outcome.call_id is not None and outcome.charge is not None
        }

    def tally(self) -> Counter[str]:
        """How the calls ended."""
        return Counter(
            "whole" if o.is_whole else f"{o.status} {o.code}".strip() for o in self.outcomes
        )

    async def _caller(self) -> None:
        chance = self.chance
        while not self._stop:
            urls = self.urls()
            if not urls:
                await asyncio.sleep(0.05)
                continue
            await asyncio.sleep(chance.uniform(0, 2 * THINK_SECONDS))
            stream = chance.random() < 0.5
            is_long = chance.random() < LONG_ANSWERS
            limit = LONG_ANSWER_TOKENS if is_long else SHORT_ANSWER_TOKENS
            orders = usage(chance.randint(1, 100), chance.randint(limit // 40, limit * 3 // 4))
            if stream:
                orders |= pace(
                    head_ms=chance.randint(0, 20), event_ms=chance.randint(0, 2 if is_long else 10)
                )
            else:
                orders |= pace(head_ms=chance.choice((0, 5, 30, 200)))
            patience = chance.uniform(0.0, 0.3) if chance.random() < IMPATIENT else None
            try:
                async with asyncio.timeout(patience):
                    outcome = await self.clients.call(
                        chance.choice(urls), limit, stream=stream, directives=orders
                    )
            except TimeoutError:
                outcome = Outcome(0, "hung up")
            self.outcomes.append(outcome)
            if not outcome.is_whole:
                await asyncio.sleep(0.1 if outcome.status == 429 else 0.02)


async def assert_charged_once(
    installed: Installation, organization_id: UUID, whole: Mapping[UUID, Nanos]
) -> None:
    """Every answer that was received whole is charged, once, and with what its client was told."""
    if not whole:
        return
    rows = await installed.patiently(
        lambda: installed.rows(
            "SELECT id, charge_nanos, state FROM call WHERE id = ANY(%s) AND organization_id = %s",
            list(whole),
            organization_id,
        )
    )
    charged = {row[0]: row[1] for row in rows}
    assert len(rows) == len(charged), "a call has two rows"
    assert charged == whole
    assert {row[2] for row in rows} <= {"settled", "late"}
