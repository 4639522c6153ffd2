"""Calls as JSON documents: amounts are decimal strings, instants ISO 8601, ids have a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from farebox.kit.ids import format_id
from farebox.kit.money import format_amount
from farebox.ledger.commands import LineItem, Usage
from farebox.ledger.limits import LimitFigures
from farebox.operations.call_facts import CallFacts, CallSummary, GrantPart, PostingFacts
from farebox.operations.content import StoredContent
from farebox.operations.limit_documents import shown_amount, shown_scope

Document = dict[str, Any]


def summary(call: CallSummary) -> Document:
    """A row of a list."""
    return {
        "object": "call",
        "id": format_id("req", call.id),
        "status": call.status,
        "charge": format_amount(call.charge),
        "absorbed": format_amount(call.absorbed),
        "held": format_amount(call.held),
        "estimated": call.estimated,
        "model": call.model,
        "lane": call.lane,
        "endpoint": call.endpoint,
        "project_id": format_id("proj", call.project_id),
        "project_name": call.project_name,
        "key_id": format_id("key", call.key_id),
        "key_name": call.key_name,
        "user": call.user,
        "feature": call.feature,
        "environment": call.environment,
        "run": call.run,
        **_usage(call.usage),
        "admitted_at": _instant(call.at),
        "ended_at": _instant(call.ended_at),
        "latency_ms": call.latency_ms,
        "http_status": call.http_status,
        "reason": call.reason,
        "times": call.times,
    }


def explanation(call: CallFacts, *, for_operator: bool) -> Document:
    """The whole explanation; what only the operator may see stands under ``operator``."""
    refused, is_open = call.status == "refused", call.status == "open"
    document: Document = {
        "object": "call",
        "id": format_id("req", call.id),
        "status": call.status,
        "reason": call.reason,
        "message": call.message,
        "times": call.times,
        "currency": call.currency,
        "charge": format_amount(call.charge),
        "absorbed": format_amount(call.absorbed),
        "owed": format_amount(call.owed),
        "estimated": call.estimated,
        "late_change": _late(call),
        "model": call.model,
        "lane": call.lane,
        "endpoint": call.endpoint,
        "streamed": call.streamed,
        "http_status": call.http_status,
        "admitted_at": _instant(call.at),
        "ended_at": _instant(call.ended_at),
        "latency_ms": call.latency_ms,
        "organization_id": str(call.organization_id),
        "organization": _named("org", call.organization_id, call.organization_name),
        "project": _named("proj", call.project_id, call.project_name),
        "key": {**_named("key", call.key_id, call.key_name), "prefix": call.key_prefix},
        "attribution": _attribution(call),
        "decision": _decision(call),
        "hold": None if refused else _hold(call, is_open=is_open),
        "usage": _usage(call.usage),
        "price": _price(call),
        "lines": [_line(line) for line in call.lines],
        "draws": [] if is_open else _parts(call.parts),
        "postings": [_posting(posting) for posting in call.postings],
        "sequence": call.sequence,
    }
    if for_operator:
        document["operator"] = {
            "cost": format_amount(call.cost),
            "upstream_account": call.upstream_account,
            "node_id": None if call.node_id is None else format_id("node", call.node_id),
            "epoch": call.epoch,
        }
    return document


def content_document(content: StoredContent) -> Document:
    """What is stored of a call; bytes that are no text are shown as such."""
    return {
        "object": "call_content",
        "id": format_id("req", content.call_id),
        "request": content.request.decode(errors="replace"),
        "request_bytes": content.request_bytes,
        "request_truncated": content.request_bytes > len(content.request),
        "answer": content.answer.decode(errors="replace"),
        "answer_bytes": content.answer_bytes,
        "answer_truncated": content.answer_bytes > len(content.answer),
        "answer_type": content.answer_type,
        "stored_at": _instant(content.stored_at),
        "ends_at": _instant(content.ends_at),
    }


def _late(call: CallFacts) -> Document | None:
    """What the answer of a lapsed call changed; None where nothing did."""
    if call.status != "late":
        return None
    return {
        "charge": format_amount(call.late_charge),
        "absorbed": format_amount(call.late_absorbed),
    }


def _attribution(call: CallFacts) -> Document:
    return {
        "user": call.user,
        "feature": call.feature,
        "environment": call.environment,
        "run": call.run,
        "priority": call.priority,
        "tags": dict(call.tags or {}),
        "client_request_id": call.client_request_id,
        "retry_count": call.retry_count,
        "attempts": [
            {
                "id": format_id("req", attempt.id),
                "status": attempt.status,
                "charge": format_amount(attempt.charge),
                "retry_count": attempt.retry_count,
            }
            for attempt in call.attempts
        ],
    }


def _decision(call: CallFacts) -> Document:
    ceiling = None
    if call.ceiling is not None:
        fixed, output_price, output_min, output_max = call.ceiling
        ceiling = {
            "fixed": format_amount(fixed),
            "output_price_per_million": format_amount(output_price),
            "output_min": output_min,
            "output_max": output_max,
        }
    return {
        "needed": format_amount(call.held),
        "available": format_amount(call.available_before),
        "held_by_open_calls": None if call.held_before is None else format_amount(call.held_before),
        "ceiling": ceiling,
        "output_limit": call.output_limit,
        "limits": [_limit(figures) for figures in call.limits],
    }


def _limit(figures: LimitFigures) -> Document:
    return {
        "scope": figures.scope_kind,
        "scope_id": shown_scope(figures.scope_kind, figures.scope_id),
        "measure": figures.measure,
        "period": figures.period,
        "effect": figures.effect,
        "models": figures.models or None,
        "maximum": shown_amount(figures.measure, figures.maximum),
        "used": shown_amount(figures.measure, figures.used),
        "held": shown_amount(figures.measure, figures.held),
        "left": shown_amount(figures.measure, figures.maximum - figures.used - figures.held),
        "resets_at": _instant(figures.resets_at),
        "owner": figures.owner or None,
        "origin": figures.origin,
    }


def _hold(call: CallFacts, *, is_open: bool) -> Document:
    hold: Document = {"amount": format_amount(call.held)}
    if is_open:
        progress = call.progress
        hold |= {
            "unsecured": format_amount(call.unsecured),
            "earmarks": _parts(call.parts),
            "latest_end": _instant(call.latest_end),
            "metered_so_far": None if progress is None else format_amount(progress.metered),
        }
    return hold


def _usage(usage: Usage) -> Document:
    return {name: getattr(usage, name) for name in usage.__struct_fields__}


def _price(call: CallFacts) -> Document | None:
    if call.price_id is None:
        return None
    price = call.price
    if price is None:
        return {"id": format_id("price", call.price_id)}
    return {
        "id": format_id("price", price.id),
        "provider": price.provider,
        "model": price.model,
        "lane": price.lane,
        "currency": price.currency,
        "effective_at": _instant(price.effective_at),
        "source": price.source,
        "long_context_over": price.long_context_over,
    }


def _line(line: LineItem) -> Document:
    return {
        "unit": line.unit,
        "quantity": line.quantity,
        "price_per_million": format_amount(line.price),
        "amount": format_amount(line.amount),
    }


def _parts(parts: Sequence[GrantPart]) -> list[Document]:
    return [
        {
            "grant_id": format_id("grant", part.grant_id),
            "source": part.source,
            "amount": format_amount(part.amount),
            "reference": part.reference,
            "expires_at": _instant(part.expires_at),
        }
        for part in parts
    ]


def _posting(posting: PostingFacts) -> Document:
    return {
        "id": posting.id,
        "kind": posting.kind,
        "at": _instant(posting.at),
        "entries": {
            account: format_amount(amount)
            for account, amount in zip(posting.accounts, posting.amounts, strict=True)
        },
        "grant_id": None if posting.grant_id is None else format_id("grant", posting.grant_id),
        "first_sequence": posting.first_sequence,
        "last_sequence": posting.last_sequence,
    }


def _named(prefix: str, value: UUID, name: str | None) -> Document:
    return {"id": format_id(prefix, value), "name": name}


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")
