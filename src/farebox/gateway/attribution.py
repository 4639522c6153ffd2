"""Who a call is for: from headers, from the OpenAI fields, from the key's project (ATT-01).

``X-Farebox-*`` headers come first, then ``user``, ``safety_identifier`` and ``metadata`` of the
body. None of these headers ever goes upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from farebox.gateway.openai_errors import invalid_request
from farebox.ledger.commands import Attribution
from farebox.ledger.scopes import RUN_SEPARATOR

LABEL_CHARACTERS_MAX: Final = 200
TAGS_MAX: Final = 32
TAGS_CHARACTERS_MAX: Final = 4_096
TAG_KEY_CHARACTERS_MAX: Final = 64
TAG_VALUE_CHARACTERS_MAX: Final = 256

CLIENT_REQUEST_ID_CHARACTERS_MAX: Final = 512
"""OpenAI's own limit."""

RUN_PARTS_MAX: Final = 16
"""Runs within runs: each one's limits are looked up with every call."""

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
    priority = _label(headers, "x-farebox-priority").lower()
    if priority not in _PRIORITIES:
        raise invalid_request(
            "X-Farebox-Priority must be low, normal or high.", param="X-Farebox-Priority"
        )
    # Where there are too many, the header's come first.
    tags = parse_tags(headers.get("x-farebox-tags", ""))
    for key, value in (metadata or {}).items():
        if len(tags) == TAGS_MAX:
            break
        tags.setdefault(
            storable(key)[:TAG_KEY_CHARACTERS_MAX], storable(value)[:TAG_VALUE_CHARACTERS_MAX]
        )
    return Labels(
        feature=_label(headers, "x-farebox-feature"),
        environment=_label(headers, "x-farebox-environment") or environment,
        attribution=Attribution(
            user=_label(headers, "x-farebox-user") or storable(user or "")[:LABEL_CHARACTERS_MAX],
            run=_run(headers),
            priority=priority,
            tags=tags,
            client_request_id=_client_request_id(headers),
            retry_count=_retry_count(headers),
        ),
    )


def parse_tags(text: str) -> dict[str, str]:
    """Read ``k=v,k=v``.

    Raises:
        GatewayError: 400: too long, too many, or not pairs.
    """
    if not text:
        return {}
    where = "X-Farebox-Tags"
    if len(text) > TAGS_CHARACTERS_MAX:
        raise invalid_request(
            f"{where} has {len(text)} characters; send at most {TAGS_CHARACTERS_MAX}.", param=where
        )
    pairs = [pair.strip() for pair in text.split(",") if pair.strip()]
    if len(pairs) > TAGS_MAX:
        raise invalid_request(
            f"{where} has {len(pairs)} tags; send at most {TAGS_MAX}.", param=where
        )
    tags: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        key, value = key.strip(), value.strip()
        if not separator or not key:
            raise invalid_request(
                f"{where} must look like team=search,tier=gold (got {pair[:40]!r}).", param=where
            )
        if len(key) > TAG_KEY_CHARACTERS_MAX or len(value) > TAG_VALUE_CHARACTERS_MAX:
            raise invalid_request(
                f"{where}: a key may have {TAG_KEY_CHARACTERS_MAX} characters and a value "
                f"{TAG_VALUE_CHARACTERS_MAX}.",
                param=where,
            )
        tags[key] = value
    return tags


def _label(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "").strip()
    if len(value) > LABEL_CHARACTERS_MAX:
        shown = "-".join(part.capitalize() for part in name.split("-"))
        raise invalid_request(
            f"{shown} has {len(value)} characters; send at most {LABEL_CHARACTERS_MAX}.",
            param=shown,
        )
    return value


def _run(headers: Mapping[str, str]) -> str:
    """The run, with the runs it is a part of before it: ``crawl-17/page-3`` (BUD-12)."""
    run = _label(headers, "x-farebox-run")
    parts = run.split(RUN_SEPARATOR) if run else []
    if len(parts) > RUN_PARTS_MAX or not all(part.strip() for part in parts):
        raise invalid_request(
            f"X-Farebox-Run must be up to {RUN_PARTS_MAX} names with a slash between them, such as "
            f"crawl-17/page-3 (got {run[:40]!r}).",
            param="X-Farebox-Run",
        )
    return run


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
