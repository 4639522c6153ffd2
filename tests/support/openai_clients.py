"""The official OpenAI clients against a house, with every request on the wire counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai


@dataclass
class Wire:
    """What a client sent."""

    requests: list[Any] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many requests, retries among them."""
        return len(self.requests)


@contextmanager
def sync_client(base_url: str, key: str, **settings: Any) -> Iterator[tuple[openai.OpenAI, Wire]]:
    """The synchronous client, with its shipped settings."""
    wire = Wire()
    http = openai.DefaultHttpxClient(event_hooks={"request": [wire.requests.append]})
    with openai.OpenAI(base_url=base_url, api_key=key, http_client=http, **settings) as client:
        yield client, wire


@asynccontextmanager
async def async_client(
    base_url: str, key: str, **settings: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, Wire]]:
    """The asynchronous client."""
    wire = Wire()

    async def note(request: Any) -> None:
        wire.requests.append(request)

    http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [note]})
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key=key, http_client=http, **settings
    ) as client:
        yield client, wire
