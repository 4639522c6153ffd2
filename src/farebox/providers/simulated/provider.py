"""The simulated provider: an upstream without a network, for the sandbox and for tests.

It validates, answers, streams, caches prompts, bills and fails as OpenAI does, and keeps a log of
what it billed. With the same seed, clocks and calls it does the same again.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Final

import msgspec
from typing_extensions import override

from farebox.operations.upstream import (
    Upstream,
    UpstreamNotReachedError,
    UpstreamRequest,
    UpstreamResponse,
)
from farebox.providers.simulated.answers import Answer, compose
from farebox.providers.simulated.billed import BilledCall, BilledLog
from farebox.providers.simulated.bodies import Head, events, json_body
from farebox.providers.simulated.caching import CacheUse, PromptCache
from farebox.providers.simulated.chance import digest, draws
from farebox.providers.simulated.directives import Directives, parse_directives
from farebox.providers.simulated.embeddings import count_inputs, embed
from farebox.providers.simulated.failures import ProviderFailure, on_request, unknown_model
from farebox.providers.simulated.models import MODELS, caches_at_breakpoints, without_date
from farebox.providers.simulated.prompts import count_prompt
from farebox.providers.simulated.replies import Delivery, Headers, StreamReply, WholeReply, hang
from farebox.providers.simulated.requests import ChatRequest, parse_chat, parse_embeddings
from farebox.providers.simulated.usage import Usage, UsageReport, report_chat, report_embeddings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

BILLED_CALLS_MAX: Final = 10_000
"""Lines of the log: enough for a test run, some megabytes."""

_PATIENCE_SECONDS: Final = 600.0
"""How long a hanging answer is waited for: what a real upstream's timeout is by default."""

_MODELS_CREATED: Final = 1_780_000_000
_JSON: Final = ("content-type", "application/json")
_SSE: Final = ("content-type", "text/event-stream; charset=utf-8")


class _Call(msgspec.Struct, frozen=True):
    """What one call is worked on with."""

    request: UpstreamRequest
    orders: Directives
    id_hex: str

    @property
    def client_request_id(self) -> str | None:
        return dict(self.request.headers).get("x-client-request-id")


class SimulatedUpstream(Upstream):
    """A provider account at a provider that does not exist."""

    def __init__(
        self,
        *,
        count_tokens: Callable[[str], int],
        sleep: Callable[[float], Awaitable[object]],
        monotonic: Callable[[], float],
        unix_time: Callable[[], float],
        seed: int = 0,
        models: Collection[str] = MODELS,
        billed_calls_max: int = BILLED_CALLS_MAX,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Open an account.

        Args:
            count_tokens: Tokens of a text.
            sleep: Waits for so many seconds; ``sleep(0)`` lets others have their turn.
            monotonic: Seconds that never go back, for the prompt cache.
            unix_time: Seconds since 1970, for ``created`` and the ids.
            seed: Of everything that looks like chance.
            models: The models that exist; their dated snapshots do too.
            billed_calls_max: Lines kept in :attr:`billed`.
            patience_seconds: After so long a hanging answer ends in ``UpstreamTimeoutError``.
        """
        self._count_tokens = count_tokens
        self._sleep = sleep
        self._unix_time = unix_time
        self._seed = seed
        self._models = models
        self._patience_seconds = patience_seconds
        self._cache = PromptCache(monotonic, seed=seed)
        self._log = BilledLog(billed_calls_max)
        self._calls = 0
        self._closed = asyncio.Event()
        self._streams: weakref.WeakSet[StreamReply] = weakref.WeakSet()

    @property
    def billed(self) -> list[BilledCall]:
        """The last calls that did work, oldest first, with what each one billed."""
        return self._log.calls()

    @override
    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        if self._closed.is_set():
            raise UpstreamNotReachedError("the simulated provider is closed; nothing was sent")
        self._calls += 1
        # With the time in it, ids stay apart when the process starts again with the same seed.
        made_of = b"%d %d" % (self._calls, self._unix_time() * 1000)
        id_hex = digest(self._seed, "call", made_of).hex()[:32]
        orders = Directives()
        try:
            orders = parse_directives(request.sandbox_headers)
            call = _Call(request=request, orders=orders, id_hex=id_hex)
            await self._wait(call)
            if orders.status is not None:
                raise on_request(orders.status, orders.error_code)
            return self._route(call)
        except ProviderFailure as failure:
            headers = (_JSON, *self._headers(id_hex, orders), *failure.headers)
            return WholeReply(failure.status, headers, failure.body)

    @override
    async def aclose(self) -> None:
        self._closed.set()
        for stream in list(self._streams):
            await stream.close()

    async def _wait(self, call: _Call) -> None:
        """The time before the head: none, as long as ordered, or for ever."""
        hangs = call.orders.hang and call.orders.drop_after is None
        if not hangs and not call.orders.latency_ms:
            return
        line = BilledCall(
            id="",
            request_id=f"req_{call.id_hex}",
            client_request_id=call.client_request_id,
            endpoint=call.request.endpoint,
            model="",
            service_tier="",
            stream=False,
            usage=None,
            outcome="hung",
        )
        if hangs:
            self._log.add(line)
            await hang(self._closed, self._sleep, self._patience_seconds)
        try:
            await self._sleep(call.orders.latency_ms / 1000)
        except asyncio.CancelledError:
            line.outcome = "closed"  # the caller went away before the work began
            self._log.add(line)
            raise

    def _route(self, call: _Call) -> UpstreamResponse:
        method = call.request.method
        path = call.request.endpoint.partition("?")[0]
        if (method, path) == ("POST", "/chat/completions"):
            return self._chat(call)
        if (method, path) == ("POST", "/embeddings"):
            return self._embeddings(call)
        if method == "GET" and path == "/models":
            data = [_model_object(model) for model in sorted(self._models)]
            return self._whole(call, {"object": "list", "data": data})
        if method == "GET" and path.startswith("/models/"):
            model = path.removeprefix("/models/")
            if model not in self._models and without_date(model) not in self._models:
                raise unknown_model(model[:200])
            return self._whole(call, _model_object(model))
        raise ProviderFailure(404, f"Invalid URL ({method} /v1{path[:200]})")

    def _chat(self, call: _Call) -> UpstreamResponse:
        chat = parse_chat(call.request.body, self._models)
        orders = call.orders
        # Follows from the question alone: asked again, streamed or not, it gets the same answer.
        chance = digest(self._seed, "answer", msgspec.json.encode([chat.model, chat.messages]))
        answer = self._compose(chat, orders, chance)
        report = self._report(chat, answer, orders)
        head = Head(
            id=f"chatcmpl-{call.id_hex[:30]}",
            created=int(self._unix_time()),
            model=chat.model,
            service_tier=chat.service_tier,
        )
        line = self._bill(call, head, report, stream=chat.stream)
        usage = None if orders.no_usage else report.body
        if not chat.stream:
            line.outcome = "complete" if orders.drop_after is None else "broken"
            body = json_body(head, answer, usage)
            breaks = orders.drop_after is not None
            headers = (_JSON, *self._headers(call.id_hex, orders))
            return WholeReply(200, headers, body, breaks=breaks)
        cuts = draws(chance)
        stream = StreamReply(
            (_SSE, *self._headers(call.id_hex, orders)),
            events(
                head,
                answer,
                usage if chat.include_usage else None,
                cuts,
                ask=chat.include_usage,
            ),
            line,
            Delivery(
                draws=cuts,
                sleep=self._sleep,
                event_seconds=orders.event_ms / 1000,
                breaks_after=orders.drop_after,
                hangs_seconds=self._patience_seconds if orders.hang else None,
            ),
            hidden_tokens=answer.reasoning_tokens,
        )
        self._streams.add(stream)
        return stream

    def _compose(self, chat: ChatRequest, orders: Directives, chance: bytes) -> Answer:
        """The answer, longer than the limit where an overrun was ordered."""
        tokens, reasoning = orders.count("completion"), orders.count("reasoning")
        answer = compose(chat, tokens, reasoning, chance, self._count_tokens)
        if orders.overrun is None or "completion" in orders.usage:
            return answer
        allowed = answer.completion_tokens
        if chat.tokens_max is not None:
            allowed = chat.tokens_max * chat.choices
        return compose(chat, allowed + orders.overrun, reasoning, chance, self._count_tokens)

    def _report(self, chat: ChatRequest, answer: Answer, orders: Directives) -> UsageReport:
        """The usage; a prompt whose size was ordered is neither counted nor cached."""
        prompt_tokens = audio_tokens = 0
        use = CacheUse(written=0 if caches_at_breakpoints(chat.model) else None)
        if "prompt" not in orders.usage:
            prompt = count_prompt(chat, self._count_tokens)
            prompt_tokens, audio_tokens = prompt.tokens, prompt.audio_tokens
            use = self._cache.use(chat.model, prompt, chat.fields)
        usage = Usage(
            prompt=prompt_tokens,
            completion=answer.completion_tokens,
            cached=use.cached,
            cache_write=use.written,
            reasoning=answer.reasoning_tokens,
            audio=audio_tokens,
        )
        return report_chat(usage, orders.usage)

    def _embeddings(self, call: _Call) -> UpstreamResponse:
        wanted = parse_embeddings(call.request.body, self._models)
        tokens = 0
        if "prompt" not in call.orders.usage:
            tokens = count_inputs(wanted, self._count_tokens)
        report = report_embeddings(Usage(prompt=tokens), call.orders.usage)
        head = Head(id="", created=0, model=wanted.model, service_tier="default")
        line = self._bill(call, head, report, stream=False)
        line.outcome = "complete" if call.orders.drop_after is None else "broken"
        body: dict[str, Any] = {"object": "list", "data": embed(wanted), "model": wanted.model}
        if not call.orders.no_usage:
            body["usage"] = report.body
        return self._whole(call, body)

    def _bill(self, call: _Call, head: Head, report: UsageReport, *, stream: bool) -> BilledCall:
        return self._log.add(
            BilledCall(
                id=head.id,
                request_id=f"req_{call.id_hex}",
                client_request_id=call.client_request_id,
                endpoint=call.request.endpoint,
                model=head.model,
                service_tier=head.service_tier,
                stream=stream,
                usage=report.billed,
            )
        )

    def _whole(self, call: _Call, body: dict[str, Any]) -> WholeReply:
        headers = (_JSON, *self._headers(call.id_hex, call.orders))
        breaks = call.orders.drop_after is not None
        return WholeReply(200, headers, msgspec.json.encode(body), breaks=breaks)

    def _headers(self, id_hex: str, orders: Directives) -> Headers:
        return (
            ("openai-organization", "sandbox"),
            ("openai-processing-ms", str(orders.latency_ms)),
            ("openai-version", "2020-10-01"),
            ("x-request-id", f"req_{id_hex}"),
        )


def _model_object(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": _MODELS_CREATED, "owned_by": "sandbox"}
