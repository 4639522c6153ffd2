"""A provider behind any OpenAI-compatible base URL: OpenAI, Azure, or a server next door (aiohttp).

The promise is about money: the error of an attempt says whether the provider can have done work.
Provably nothing was sent, and so nothing is billed, when

- no connection came about (DNS, refused, unreachable, TLS, no free connection in time), or
- a pooled connection was found closed before the first byte of the request was given to it.

Everything else after a connection is taken counts as sent: a provider that closes without one byte
of answer may have done the work, even on a reused connection, so a POST is never sent twice from
here. Idle connections are dropped after 15 s, sooner than providers drop theirs, to keep that rare.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

import aiohttp
import msgspec
from aiohttp.http_writer import StreamWriter
from typing_extensions import override

from farebox.kit.errors import InvalidInputError
from farebox.operations.upstream import (
    Upstream,
    UpstreamBrokenError,
    UpstreamNotReachedError,
    UpstreamRequest,
    UpstreamTimeoutError,
)
from farebox.providers.arriving import TALK_ERRORS, ArrivingAnswer, reason_of
from farebox.providers.base_urls import MODEL_PLACEHOLDER, Style, parse_base_url
from farebox.providers.header_rules import upstream_headers

if TYPE_CHECKING:
    from ssl import SSLContext

    from aiohttp.abc import AbstractStreamWriter

__all__ = ["OpenAICompatibleUpstream", "UpstreamTimeouts", "parse_base_url"]

CONNECTIONS_MAX: Final = 1000
"""Calls in flight at one provider; above it a call waits as long as a connect may take. It stays
under the usual limit of 1024 open files; raise both for more."""

KEEPALIVE_SECONDS: Final = 15.0
"""How long an idle connection is kept: shorter than the idle limit of the large providers."""

_ENDPOINT: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+(?:\?[!-~]*)?")
_SECRET: Final = re.compile(r"[!-~]+")
_API_VERSION: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")


class UpstreamTimeouts(msgspec.Struct, frozen=True):
    """How long each part of a call may take."""

    connect_seconds: float = 5.0
    """Name look-up, TCP and TLS together, or waiting for a free connection (the official clients'
    figure too)."""
    head_seconds: float = 600.0
    """From the start to the head of the answer; a slow model thinks for minutes."""
    idle_seconds: float = 300.0
    """The longest silence between two pieces of a body."""


class _NamedModel(msgspec.Struct):
    model: str


class OpenAICompatibleUpstream(Upstream):
    """One provider account, with its pool of connections.

    Bytes go up as they came. Redirects are answers, not instructions: following one would take the
    key to another host.
    """

    def __init__(
        self,
        base_url: str,
        secret: str | None,
        *,
        style: Style = "openai",
        api_version: str | None = None,
        timeouts: UpstreamTimeouts | None = None,
        connections_max: int = CONNECTIONS_MAX,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        tls: SSLContext | None = None,
    ) -> None:
        """Check the settings; nothing is opened before the first call.

        Args:
            base_url: See :func:`parse_base_url`.
            secret: The provider's key; None for a local server that wants none.
            style: Azure takes the key in ``api-key``, OpenAI and the others as a bearer token.
            api_version: Azure's ``api-version``, for example ``2024-10-21`` or ``preview``.
            timeouts: How long each part of a call may take.
            connections_max: Calls in flight at once.
            keepalive_seconds: How long an idle connection is kept.
            tls: How to check the provider's certificate; the system's authorities if None.

        Raises:
            InvalidInputError: A setting cannot be used; the secret is never repeated.
        """
        self._base = parse_base_url(base_url, style=style)
        if secret is not None and not _SECRET.fullmatch(secret):
            reason = "must be printable ASCII without spaces; leave it out if none is needed"
            raise InvalidInputError("secret", reason)
        if api_version is not None and not _API_VERSION.fullmatch(api_version):
            raise InvalidInputError("api_version", "must look like 2024-10-21 or preview")
        if connections_max < 1:
            raise InvalidInputError("connections_max", "must be at least 1")
        self._query = f"api-version={api_version}" if api_version else ""
        self._fixed = _fixed_headers(secret, style)
        self._timeouts = timeouts or UpstreamTimeouts()
        self._connections_max = connections_max
        self._keepalive_seconds = keepalive_seconds
        self._tls: SSLContext | bool = True if tls is None else tls
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @override
    async def send(self, request: UpstreamRequest) -> ArrivingAnswer:
        if self._closed:
            raise UpstreamNotReachedError("this provider was taken out of use; nothing was sent")
        url = self._url(request)
        headers = self._headers(request)
        body = _RequestBody(request.body) if request.body or request.method != "GET" else None
        session = self._session or self._open()
        try:
            async with asyncio.timeout(self._timeouts.head_seconds):
                answer = await session.request(
                    request.method, url, data=body, headers=headers, allow_redirects=False
                )
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ServerFingerprintMismatch,
        ) as error:
            message = f"cannot connect to {self._base}: {reason_of(error)}"
            raise UpstreamNotReachedError(message) from error
        except asyncio.CancelledError:
            if body is not None:
                body.abort()
            raise
        except TimeoutError as error:
            if body is not None:
                body.abort()
            message = f"{self._base} gave no answer in {self._timeouts.head_seconds:g} s"
            raise UpstreamTimeoutError(message) from error
        except TALK_ERRORS as error:
            if body is not None and body.nothing_sent:
                message = f"the idle connection to {self._base} was closed; nothing was sent"
                raise UpstreamNotReachedError(message) from error
            message = f"{self._base} broke off before its answer: {reason_of(error)}"
            raise UpstreamBrokenError(message) from error
        return ArrivingAnswer(answer, self._base, self._timeouts.idle_seconds)

    @override
    async def aclose(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """Make the pool; it belongs to the running event loop."""
        connect_seconds = min(self._timeouts.connect_seconds, self._timeouts.head_seconds)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections_max,
                keepalive_timeout=self._keepalive_seconds,
                ssl=self._tls,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=connect_seconds, sock_connect=connect_seconds
            ),
            skip_auto_headers=("accept-encoding", "user-agent"),
            trust_env=False,
        )
        return self._session

    def _url(self, request: UpstreamRequest) -> str:
        """Put the endpoint behind the base URL."""
        endpoint = request.endpoint
        segments = unquote(endpoint.partition("?")[0]).split("/")
        if not _ENDPOINT.fullmatch(endpoint) or "." in segments or ".." in segments:
            raise UpstreamNotReachedError(f"no such endpoint: {endpoint[:100]!r}; nothing was sent")
        base = self._base
        if MODEL_PLACEHOLDER in base:
            base = _with_deployment(base, request)
        if self._query:
            endpoint += ("&" if "?" in endpoint else "?") + self._query
        return base + endpoint

    def _headers(self, request: UpstreamRequest) -> list[tuple[str, str]]:
        try:
            headers = upstream_headers(request.headers)
        except ValueError as error:
            raise UpstreamNotReachedError(f"{error}; nothing was sent") from error
        names = {name for name, _ in headers}
        return headers + [line for line in self._fixed if line[0] not in names]


def _fixed_headers(secret: str | None, style: Style) -> tuple[tuple[str, str], ...]:
    """The headers that the upstream adds; a client may only choose the last three."""
    key: tuple[tuple[str, str], ...] = ()
    if secret is not None:
        key = (("api-key", secret),) if style == "azure" else ()
        key = key or (("authorization", f"Bearer {secret}"),)
    return (
        *key,
        ("accept-encoding", "identity"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("user-agent", "farebox"),
    )


def _with_deployment(base: str, request: UpstreamRequest) -> str:
    """Azure's older form: the deployment in the path is the model that the body names."""
    if request.method == "GET" and not request.body:
        return base.replace(f"/deployments/{MODEL_PLACEHOLDER}", "").replace(MODEL_PLACEHOLDER, "")
    try:
        model = msgspec.json.decode(request.body, type=_NamedModel).model
    except msgspec.MsgspecError as error:
        message = "an Azure deployment needs a JSON body that names a model; nothing was sent"
        raise UpstreamNotReachedError(message) from error
    if model in {"", ".", ".."}:
        raise UpstreamNotReachedError(f"no such Azure deployment: {model!r}; nothing was sent")
    return base.replace(MODEL_PLACEHOLDER, quote(model, safe=""))


class _RequestBody(aiohttp.payload.Payload):
    """The request's bytes, which know whether any of the request was given to the connection."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)
        self.nothing_sent = False
        """The connection was closed before the first byte: proof that the provider got nothing."""
        self._transport: asyncio.Transport | None = None

    @override
    async def write(self, writer: AbstractStreamWriter) -> None:
        # aiohttp keeps the head back and gives it to the connection together with this one piece,
        # or raises before either when the connection is closing. Once that call has returned,
        # bytes may be on their way.
        assert isinstance(writer, StreamWriter)
        self._transport = writer.transport
        try:
            await writer.write(self._value, drain=False)
        except aiohttp.ClientConnectionResetError:
            self.nothing_sent = True
            raise
        await writer.drain()

    @override
    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        await self.write(writer)

    def abort(self) -> None:
        """Drop the connection with what has not left yet.

        aiohttp closes it only after everything written is out: a provider would still get, and
        work on, a request that nobody waits for.
        """
        if self._transport is not None:
            self._transport.abort()

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        value: Any = self._value
        assert isinstance(value, bytes)
        return value.decode(encoding, errors)
