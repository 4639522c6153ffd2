"""A provider behind any OpenAI-compatible base URL: OpenAI, Azure, or a server next door.

The promise is about money: the error of an attempt says whether the provider can have done work.
Provably nothing was sent, and so nothing is billed, when

- no connection came about (DNS, refused, unreachable, TLS, no free connection in time), or
- the connection was found closed before the first byte of the request was given to it.

Everything else after a connection is taken counts as sent: a provider that closes without one byte
of answer may have done the work, even on a reused connection, so a POST is never sent twice from
here. Idle connections are dropped after 15 s, sooner than providers drop theirs, to keep that rare.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

import msgspec
from typing_extensions import override

from farebox.kit.errors import InvalidInputError
from farebox.operations.upstream import Upstream, UpstreamNotReachedError, UpstreamRequest
from farebox.providers.base_urls import MODEL_PLACEHOLDER, Style, parse_base_url
from farebox.providers.header_rules import upstream_headers
from farebox.providers.http_client import (
    CONNECTIONS_MAX,
    KEEPALIVE_SECONDS,
    HttpClient,
    UpstreamTimeouts,
)

if TYPE_CHECKING:
    from ssl import SSLContext

    from farebox.providers.arriving import ArrivingAnswer

__all__ = ["OpenAICompatibleUpstream", "UpstreamTimeouts", "parse_base_url"]

_ENDPOINT: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+(?:\?[!-~]*)?")
_SECRET: Final = re.compile(r"[!-~]+")
_API_VERSION: Final = re.compile(r"[A-Za-z0-9.-]{1,64}")
_METHODS: Final = frozenset({"DELETE", "GET", "PATCH", "POST", "PUT"})

_BEGINNINGS_MAX: Final = 64
"""How many beginnings of heads are kept; a gateway has a handful of endpoints."""


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
        self._client = HttpClient(
            self._base,
            timeouts=timeouts or UpstreamTimeouts(),
            connections_max=connections_max,
            keepalive_seconds=keepalive_seconds,
            tls=tls,
        )
        self._fixed = _fixed_lines(self._client.host, secret, style)
        self._beginnings: dict[tuple[str, str], bytes] = {}

    @override
    async def send(self, request: UpstreamRequest) -> ArrivingAnswer:
        return await self._client.send(self._wire_form(request))

    @override
    async def aclose(self) -> None:
        self._client.close()

    def _wire_form(self, request: UpstreamRequest) -> bytes:
        """The request as it goes over the wire, in one piece.

        Raises:
            UpstreamNotReachedError: It cannot be sent as it is.
        """
        key = request.method, request.endpoint
        beginning = self._beginnings.get(key)
        if beginning is None:
            beginning = self._begin(request)
            if MODEL_PLACEHOLDER not in self._base and len(self._beginnings) < _BEGINNINGS_MAX:
                self._beginnings[key] = beginning
        lines = _CHOSEN_LINES if not request.headers else _client_lines(request.headers)
        if not request.body and request.method == "GET":
            return b"%b%b\r\n" % (beginning, lines)
        length = len(request.body)
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (beginning, lines, length, request.body)

    def _begin(self, request: UpstreamRequest) -> bytes:
        """The request line and the headers that no client chooses."""
        if request.method not in _METHODS:
            raise UpstreamNotReachedError(f"no such method: {request.method!r}; nothing was sent")
        return f"{request.method} {self._target(request)} HTTP/1.1\r\n{self._fixed}".encode()

    def _target(self, request: UpstreamRequest) -> str:
        """Put the endpoint behind the path of the base URL."""
        endpoint = request.endpoint
        segments = unquote(endpoint.partition("?")[0]).split("/")
        if not _ENDPOINT.fullmatch(endpoint) or "." in segments or ".." in segments:
            raise UpstreamNotReachedError(f"no such endpoint: {endpoint[:100]!r}; nothing was sent")
        base = self._base
        if MODEL_PLACEHOLDER in base:
            base = _with_deployment(base, request)
        if self._query:
            endpoint += ("&" if "?" in endpoint else "?") + self._query
        return urlsplit(base).path + endpoint


def _fixed_lines(host: str, secret: str | None, style: Style) -> str:
    """The header lines that every request has and no client chooses."""
    key = ""
    if secret is not None:
        key = f"api-key: {secret}" if style == "azure" else f"authorization: Bearer {secret}"
        key += "\r\n"
    return f"host: {host}\r\n{key}accept-encoding: identity\r\n"


_CHOSEN: Final = (
    ("accept", "*/*"),
    ("content-type", "application/json"),
    ("user-agent", "farebox"),
)
"""Headers that a client may choose, and what they are otherwise."""


def _client_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    """A client's header lines, with what it left to us.

    Raises:
        UpstreamNotReachedError: One of them cannot stand in a head.
    """
    try:
        chosen = upstream_headers(headers)
        names = {name for name, _ in chosen}
        chosen += [line for line in _CHOSEN if line[0] not in names]
        return "".join([f"{name}: {value}\r\n" for name, value in chosen]).encode()
    except ValueError as error:
        raise UpstreamNotReachedError(f"{error}; nothing was sent") from error


_CHOSEN_LINES: Final = _client_lines(())


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
