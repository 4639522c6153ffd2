"""The port through which the gateway reaches a model provider, whatever carries the bytes.

An upstream sends one request and gives back a head and a body, whole or in pieces. The errors say
what is known about the money: whether the provider can have started to work at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from farebox.kit.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class UpstreamRequest(msgspec.Struct, frozen=True, gc=False):
    """One attempt at a provider."""

    endpoint: str
    """Path below the provider's base URL, for example ``/chat/completions``."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """Client headers that may go upstream (lower-case names); never credentials, never
    ``x-farebox-*``. The upstream adds its own authorisation and content type."""
    sandbox_headers: tuple[tuple[str, str], ...] = ()
    """``x-sandbox-*`` directives: the simulated provider alone reads them, nobody sends them."""
    method: str = "POST"


class UpstreamNotReachedError(UnavailableError):
    """The provider could not be reached; it did no work and bills nothing."""

    code: ClassVar[str] = "upstream_not_reached"


class UpstreamBrokenError(UnavailableError):
    """The provider broke off after it had the request; it may have done billable work."""

    code: ClassVar[str] = "upstream_broken"


class UpstreamTimeoutError(UpstreamBrokenError):
    """The provider did not answer in time; it may have done billable work."""

    code: ClassVar[str] = "upstream_timeout"


class UpstreamTooLargeError(UpstreamBrokenError):
    """The provider's answer is larger than the limit."""

    code: ClassVar[str] = "upstream_too_large"


class UpstreamResponse(Protocol):
    """An answer whose head has arrived."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Header lines, names in lower case."""

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamTooLargeError: It is longer than the limit.
            UpstreamBrokenError: It ended early or stalled.
        """

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, in pieces of any size.

        Raises:
            UpstreamBrokenError: It ended early or stalled.
        """

    async def close(self) -> None:
        """Break off: the provider sees the connection close. Harmless after the end."""


class Upstream(Protocol):
    """A provider that can be called."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send one request and wait for the head of the answer.

        Raises:
            UpstreamNotReachedError: No connection; nothing was sent.
            UpstreamBrokenError: The connection or the time ended after something was sent.
        """

    async def aclose(self) -> None:
        """Close every connection."""
