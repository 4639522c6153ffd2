"""An upstream that does exactly what a test wants: pieces, pauses, breaks and rubbish.

:class:`ScriptableUpstream` stands in for the simulated provider of a running house: a call with
the header ``X-Sandbox-Script: name`` gets the script of that name, all others the usual answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import override

from farebox.operations.upstream import (
    UpstreamBrokenError,
    UpstreamRequest,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from farebox.providers.simulated.provider import SimulatedUpstream

SSE = (("content-type", "text/event-stream; charset=utf-8"),)
JSON = (("content-type", "application/json"),)

PATIENCE_SECONDS = 20.0


class Pause:
    """A place in a script where nothing comes until the test says so, or the caller closes."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.over = asyncio.Event()


class ScriptedResponse:
    """An answer that follows a script."""

    def __init__(
        self,
        pieces: Sequence[bytes | Exception | Pause],
        *,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = SSE,
    ) -> None:
        self.status = status
        self.headers = headers
        self.taken = 0
        self.closed = asyncio.Event()
        self._pieces = list(pieces)

    async def read(self, limit_bytes: int) -> bytes:
        body = b"".join([piece async for piece in self.chunks()])
        if len(body) > limit_bytes:
            raise UpstreamTooLargeError
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Pause):
                await self._wait(piece)
                continue
            await asyncio.sleep(0)
            if self.closed.is_set():
                raise UpstreamBrokenError("closed")
            if isinstance(piece, Exception):
                raise piece
            self.taken += 1
            yield piece

    async def close(self) -> None:
        self.closed.set()

    async def _wait(self, pause: Pause) -> None:
        pause.reached.set()
        waits = [asyncio.ensure_future(e.wait()) for e in (pause.over, self.closed)]
        done, rest = await asyncio.wait(
            waits, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for wait in rest:
            wait.cancel()
        if not done:
            raise UpstreamTimeoutError("a script's pause was never ended")
        if self.closed.is_set():
            raise UpstreamBrokenError("closed while silent")


Script = Callable[[UpstreamRequest], "ScriptedResponse | Exception"]
"""Made anew for every call, in the event loop of the gateway."""


Scripts = dict[str, Script]


@dataclass
class ScriptedUpstream:
    """An upstream for unit tests: one script for all calls."""

    script: Script
    requests: list[UpstreamRequest] = field(default_factory=list)
    responses: list[ScriptedResponse] = field(default_factory=list)
    before: Pause | None = None
    """Where a call waits for its head."""

    async def send(self, request: UpstreamRequest) -> ScriptedResponse:
        self.requests.append(request)
        if self.before is not None:
            self.before.reached.set()
            await self.before.over.wait()
        answer = self.script(request)
        if isinstance(answer, Exception):
            raise answer
        self.responses.append(answer)
        return answer

    async def aclose(self) -> None:
        return


class ScriptableUpstream(SimulatedUpstream):
    """The simulated provider, but for calls that name a script."""

    scripts: ClassVar[dict[str, Script]] = {}

    @override
    async def send(self, request: UpstreamRequest) -> Any:
        name = dict(request.sandbox_headers).get("x-sandbox-script")
        if name is None:
            return await super().send(request)
        answer = self.scripts[name](request)
        if isinstance(answer, Exception):
            raise answer
        return answer


def event(document: object) -> bytes:
    """A server-sent event of a JSON document."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def delta(text: str, *, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    """A chunk of a streamed chat answer."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "choices": [choice], **more})


def usage_chunk(prompt: int, completion: int, **more: object) -> bytes:
    """The chunk that carries the usage."""
    return event({"choices": [], "usage": usage(prompt, completion), **more})


def usage(prompt: int, completion: int) -> dict[str, int]:
    """A usage object."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


DONE = b"data: [DONE]\n\n"


def whole(usage_object: object = None, text: str = "Hello there", **more: object) -> bytes:
    """A whole chat answer; without usage where that is None."""
    message = {"role": "assistant", "content": text}
    document: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-5.4",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        **more,
    }
    if usage_object is not None:
        document["usage"] = usage_object
    return json.dumps(document).encode()
