"""Who a call is for: from headers, from the OpenAI fields, from the key's project (ATT-01).

``X-Farebox-*`` headers come first, then ``user``, ``safety_identifier`` and ``metadata`` of the
body. None of these headers ever goes upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from farebox.gateway.openai_errors import invalid_request
from farebox.kit.errors import InvalidInputError
from farebox.ledger.commands import Attribution
from farebox.operations.attribution import (
    LABEL_CHARACTERS_MAX,
    TAG_KEY_CHARACTERS_MAX,
    TAG_VALUE_CHARACTERS_MAX,
    TAGS_MAX,
    read_label,
    read_run,
    read_tags,
)

CLIENT_REQUEST_ID_CHARACTERS_MAX: Final = 512
"""OpenAI's own limit."""

_PRIORITIES: Final = frozenset({"", "low", "normal", "high"})


class Labels(msgspec.Struct, frozen=True):
    """Everything that attributes a call."""

    feature: str
    environment: str
    attribution: Attribution


def read_labels(
    headers: Mapping[str, str],
    *,
    user: str | None,
    metadata: Mapping[str, str] | None,
    environment: str,
) -> Labels:
    """Read a call's labels.

    Args:
        headers: The request's, names in lower case.
        user: The body's ``safety_identifier`` or ``user``.
        metadata: The body's ``metadata``; what does not fit the limits of tags is left out, as the
            provider keeps it anyway.
        environment: The project's, where no header names one.

    Raises:
        GatewayError: 400 naming the header that is too long or malformed.
    """
    try:
        return _read_labels(headers, user, metadata, environment)
    except InvalidInputError as error:
        raise invalid_request(f"{error.message}.", param=error.field) from error


def _read_labels(
    headers: Mapping[str, str],
    user: str | None,
    metadata: Mapping[str, str] | None,
    environment: str,
) -> Labels:
    priority = read_label(headers, "x-farebox-priority").lower()
    if priority not in _PRIORITIES:
        raise invalid_request(
            "X-Farebox-Priority must be low, normal or high.", param="X-Farebox-Priority"
        )
    # Where there are too many, the header's come first.
    tags = read_tags(headers.get("x-farebox-tags", ""))
    for key, value in (metadata or {}).items():
        if len(tags) == TAGS_MAX:
            break
        tags.setdefault(
            storable(key)[:TAG_KEY_CHARACTERS_MAX], storable(value)[:TAG_VALUE_CHARACTERS_MAX]
        )
    return Labels(
        feature=read_label(headers, "x-farebox-feature"),
        environment=read_label(headers, "x-farebox-environment") or environment,
        attribution=Attribution(
            user=read_label(headers, "x-farebox-user")
            or storable(user or "")[:LABEL_CHARACTERS_MAX],
            run=read_run(headers),
            priority=priority,
            tags=tags,
            client_request_id=_client_request_id(headers),
            retry_count=_retry_count(headers),
        ),
    )


def storable(text: str) -> str:
    """A text of the body without the one character that no database keeps."""
    return text.replace("\0", "")


def _client_request_id(headers: Mapping[str, str]) -> str:
    value = headers.get("x-client-request-id", "")
    if not value.isascii() or len(value) > CLIENT_REQUEST_ID_CHARACTERS_MAX:
        raise invalid_request(
            "X-Client-Request-Id must be ASCII, at most "
            f"{CLIENT_REQUEST_ID_CHARACTERS_MAX} characters.",
            param="X-Client-Request-Id",
        )
    return value


def _retry_count(headers: Mapping[str, str]) -> int:
    text = headers.get("x-stainless-retry-count", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
