"""A whole gateway without a database or a network: the engine in memory, a scripted provider.

The handler, the bookkeeper and the engine are the real ones, so money is as exact as it is in
production; everything runs in one event loop, turn by turn, so that a test can stop it anywhere.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from farebox.gateway.callers import Callers
from farebox.gateway.desk import Desk
from farebox.gateway.gateway import Gateway
from farebox.gateway.http import Answer, Presence, Request, StreamAnswer
from farebox.gateway.metrics import Metrics
from farebox.gateway.sales import Sales
from farebox.gateway.server import HttpServer
from farebox.kit.errors import NotFoundError
from farebox.kit.ids import uuid7
from farebox.kit.money import NANOS_PER_UNIT, Nanos
from farebox.ledger.commands import AnyCommand, GrantCredit, Refused, Release, Result, Settle
from farebox.ledger.grants import Source
from farebox.ledger.state import ClosedCall, KeyFacts
from farebox.operations.attribution import Names
from farebox.operations.batches import BatchStoreLostError
from farebox.operations.bookkeeper import Bookkeeper
from farebox.operations.directory import CatalogueNow
from farebox.operations.refusals import Refusal
from farebox.operations.upstream import Upstream
from farebox.rating.price_book import ModelFacts, PriceBook, PriceVersion
from farebox.rating.price_plans import PlanVersion
from farebox.rating.units import Lane, Unit
from farebox.storage.catalogue_store import Catalogue, ProviderRow
from farebox.storage.key_store import KeyRow
from farebox.tenancy.api_keys import KeyKind, digest, make_key
from tests.support.ledger_memory import MemoryLedger, audit
from tests.support.scripted_upstream import Script, ScriptedUpstream

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ORGANIZATION, PROJECT, KEY_ID, NODE = (UUID(int=i) for i in range(1, 5))
PROVIDER, ACCOUNT = UUID(int=5), UUID(int=6)
KEY = make_key(KeyKind.TEST, bytes(32))
MODEL = "gpt-5.4"
TURNS_MAX = 20_000


def version(number: int, lane: Lane, factor: int, model: str = MODEL) -> PriceVersion:
    """gpt-5.4's prices, times a factor in halves."""
    units = ((Unit.INPUT, 2_500), (Unit.CACHED_INPUT, 250), (Unit.OUTPUT, 15_000))
    longer = ((Unit.INPUT, 5_000), (Unit.CACHED_INPUT, 500), (Unit.OUTPUT, 22_500))
    return PriceVersion(
        id=UUID(int=100 + number),
        provider="openai",
        model=model,
        lane=lane,
        currency="USD",
        effective_at=NOW - timedelta(days=1),
        source="test",
        long_context_over=272_000,
        base=tuple((unit, price * factor * 500_000) for unit, price in units),
        long=tuple((unit, price * factor * 500_000) for unit, price in longer),
    )


FACTS = ModelFacts(
    provider="openai",
    model=MODEL,
    context_window=1_050_000,
    output_max=128_000,
    counts_o200k=True,
    image_tokens_max=12_001,
    aliases=("gpt-5.4-2026-03-05",),
)
VERSIONS = (
    version(1, Lane.STANDARD, 2),
    version(2, Lane.FLEX, 1),
    version(3, Lane.PRIORITY, 4),
    version(4, Lane.STANDARD, 2, "gpt-standard-only"),
)

PROVIDER_ROW = ProviderRow(
    id=PROVIDER,
    name="openai",
    kind="openai",
    price_list="openai",
    base_url="https://api.openai.com/v1",
    api_version=None,
    secret=None,
    account_id=ACCOUNT,
    account_name="main",
    created_at=NOW,
)


def key_row(**changes: Any) -> KeyRow:
    """The key's facts."""
    values: dict[str, Any] = {
        "id": KEY_ID,
        "name": "key",
        "organization_id": ORGANIZATION,
        "organization_name": "org",
        "currency": "USD",
        "zone": "UTC",
        "organization_active": True,
        "project_id": PROJECT,
        "project_name": "main",
        "environment": "production",
        "default_output_tokens": None,
        "project_archived_at": None,
        "expires_at": None,
        "revoked_at": None,
    }
    return KeyRow(**(values | changes))


@dataclass
class MemoryDirectory:
    """Who calls, and what is on sale."""

    upstream: Upstream
    keys: dict[bytes, KeyRow] = field(default_factory=lambda: {digest(KEY): key_row()})
    revision: int = 1
    versions: Sequence[PriceVersion] = VERSIONS
    facts: Sequence[ModelFacts] = (FACTS,)
    providers: Sequence[ProviderRow] = (PROVIDER_ROW,)
    error: Exception | None = None
    plans: Mapping[UUID, tuple[PlanVersion, ...]] = field(default_factory=dict)
    directory_revision: int = 0
    planned: list[tuple[UUID, UUID, UUID]] = field(default_factory=list)
    lookups: int = 0
    loads: int = 0

    async def find_key(self, digest: bytes) -> KeyRow | None:
        await self._pause()
        self.lookups += 1
        return self.keys.get(digest)

    async def catalogue_now(self) -> CatalogueNow:
        await self._pause()
        return CatalogueNow(self.revision, NOW, self.directory_revision)

    async def remember_planned(self, prices: Sequence[tuple[UUID, UUID, UUID]]) -> None:
        await self._pause()
        self.planned += prices

    async def load_catalogue(self) -> tuple[Catalogue, dict[UUID, Upstream]]:
        await self._pause()
        self.loads += 1
        book = PriceBook(self.versions, self.facts, revision=self.revision)
        catalogue = Catalogue(self.revision, book, tuple(self.providers), self.plans)
        return catalogue, {row.id: self.upstream for row in self.providers}

    async def _pause(self) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


class MemoryStore:
    """Runs batches on the engine in memory, a few turns of the loop each."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.away = False
        self.commands: list[AnyCommand] = []

    async def run(self, commands: Sequence[AnyCommand], *, resent: bool) -> list[Result]:
        await asyncio.sleep(0)
        if self.away:
            raise BatchStoreLostError
        results = self.ledger.run(commands, NOW)
        self.commands += commands
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return results

    async def quarantine(self, command: AnyCommand, error: str) -> None:
        raise AssertionError(f"quarantined: {command}: {error}")

    async def aclose(self) -> None:
        return


class MemoryNode:
    """A node that lives."""

    id = NODE
    epoch = 1
    may_admit = True


class SmallGateway:
    """The gateway, its engine and its provider."""

    def __init__(self, script: Script, *, credit: int = 5 * NANOS_PER_UNIT) -> None:
        self.ledger = MemoryLedger()
        self.store = MemoryStore(self.ledger)
        self.upstream = ScriptedUpstream(script)
        self.directory = MemoryDirectory(self.upstream)
        self.noted: list[Refusal] = []
        self.node = MemoryNode()
        self._credit = credit
        self._ids = itertools.count(1)
        self._make_books()

    def _make_books(self) -> None:
        self.ledger.add_organization(ORGANIZATION, NOW)
        self.ledger.add_key(KeyFacts(KEY_ID, ORGANIZATION, PROJECT, None, None, None))
        self.ledger.epochs[NODE] = 1
        if self._credit:
            grant = GrantCredit(
                organization_id=ORGANIZATION,
                grant_id=UUID(int=50),
                source=Source.PURCHASED,
                amount=Nanos(self._credit),
            )
            self.ledger.run([grant], NOW)

    async def __aenter__(self) -> Self:
        self.bookkeeper = Bookkeeper([self.store], monotonic=time.monotonic)
        self.bookkeeper.start()
        self.callers = Callers(self.directory, monotonic=time.monotonic)
        self.sales = Sales(self.directory, monotonic=time.monotonic, on_change=self.callers.forget)
        await self.sales.refresh()
        node: Any = self.node
        self.desk = Desk(
            bookkeeper=self.bookkeeper,
            node=node,
            sales=self.sales,
            metrics=Metrics(queued=lambda: 0, waiting=lambda: 0, refusals_dropped=lambda: 0),
            count_tokens=lambda text: len(text.split()),
            new_call_id=self._new_id,
            monotonic=time.monotonic,
            note_refusal=self.noted.append,
        )
        self.gateway = Gateway(self.desk, self.callers, self._no_call, self._no_key)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.desk.drain(5.0)
        await self.bookkeeper.aclose()

    def _new_id(self) -> UUID:
        return uuid7(NOW, next(self._ids).to_bytes(10, "big"))

    async def _no_call(self, _: UUID, __: UUID) -> dict[str, object]:
        raise NotFoundError("There is no such call.")

    async def _no_key(self, _: str, __: Names) -> None:
        return None

    # Calls.

    async def call(
        self,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        until_gone: Callable[[], Awaitable[object]] | None = None,
        **fields: Any,
    ) -> Answer | StreamAnswer:
        """Hand a request to the handler, below any server."""
        if body is None:
            message = {"role": "user", "content": "Say hello."}
            body = {"model": MODEL, "messages": [message], **fields}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()

        async def read_body(limit_bytes: int) -> bytes:
            assert len(raw) <= limit_bytes
            return raw

        request = Request(
            method=method,
            path=path,
            headers={"authorization": f"Bearer {KEY}", **(headers or {})},
            read_body=read_body,
            presence=Presence(until_gone or asyncio.Event().wait),
        )
        try:
            return await self.gateway.handle(request)
        finally:
            request.presence.close()

    async def stream(self, **fields: Any) -> list[bytes]:
        """A streamed call's pieces, read to the end."""
        answer = await self.call(stream=True, **fields)
        assert isinstance(answer, StreamAnswer), answer
        return [chunk async for chunk in answer.chunks]

    def server(self) -> HttpServer:
        """The same behind its server."""
        return HttpServer(self.gateway.handle, refuse=self.gateway.refuse, unix_seconds=lambda: 0.0)

    # Money.

    async def settled(self) -> None:
        """Wait until nothing is under way, turn by turn."""
        for _ in range(TURNS_MAX):
            if not (self.desk.running or self.ledger.holds or self.bookkeeper.queued):
                break
            await asyncio.sleep(0)
        await self.desk.drain(5.0)
        assert self.ledger.holds == {}, "a hold stays open"
        assert self.desk.running == {}

    @property
    def refused(self) -> list[Refused]:
        """Refusals that were noted, oldest first."""
        return [noted.refusal for noted in self.noted]

    @property
    def calls(self) -> list[ClosedCall]:
        """Closed calls, oldest first."""
        return sorted(self.ledger.calls.values(), key=lambda call: call.sequence)

    @property
    def ends(self) -> list[Settle | Release]:
        """The commands that ended calls."""
        return [c for c in self.store.commands if isinstance(c, Settle | Release)]

    async def only_call(self) -> ClosedCall:
        """The one call there was, in books that agree."""
        await self.settled()
        audit(self.ledger)
        (call,) = self.calls
        return call
