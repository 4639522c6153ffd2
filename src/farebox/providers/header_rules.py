"""Which headers cross between a client and a provider, and which never do.

The gateway already chooses what it passes on; this is the second wall: whatever it passes, no
credential, no cookie, no organisation of a tenant and nothing of Farebox's own goes upstream
(DESIGN.md decision 18), and no header about one hop crosses to the next (RFC 9110 section 7.6.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers about one connection (RFC 9110 section 7.6.1, and ``proxy-connection`` of the field)."""

_FRAMING: Final = frozenset({"content-encoding", "content-length"})
"""How the body was wrapped on that connection; a body is handed on decoded and unwrapped."""

NEVER_UPSTREAM: Final = (
    HOP_BY_HOP
    | _FRAMING
    | {
        "accept-encoding",
        "api-key",
        "authorization",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "openai-organization",
        "openai-project",
        "x-api-key",
        "x-real-ip",
    }
)
"""What a client sent that no provider may see, or that the upstream writes itself."""

NEVER_UPSTREAM_PREFIXES: Final = ("x-farebox-", "x-sandbox-", "x-forwarded-")

_NEVER_DOWNSTREAM: Final = HOP_BY_HOP | _FRAMING | {"set-cookie"}
"""A provider's cookies would tie tenants that share an account to one another."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


def upstream_headers(client: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The client's headers that a provider may see.

    Raises:
        ValueError: A name or a value cannot stand in an HTTP header; the message names it.
    """
    kept = []
    for name, value in ((name.lower(), value) for name, value in client):
        if name in NEVER_UPSTREAM or name.startswith(NEVER_UPSTREAM_PREFIXES):
            continue
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise ValueError(f"the header {name!r} has a character that HTTP forbids")
        kept.append((name, value))
    return kept


def downstream_headers(answer: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The headers of a provider's answer, names in lower case, without those about one hop."""
    lines = []
    named: set[str] = set()
    for each, value in answer:
        name = each.lower()
        if name not in _NEVER_DOWNSTREAM:
            lines.append((name, value))
        elif name == "connection":
            named.update(token.strip().lower() for token in value.split(","))
    if named:
        return tuple(line for line in lines if line[0] not in named)
    return tuple(lines)
