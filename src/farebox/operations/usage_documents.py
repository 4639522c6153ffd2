"""Usage as JSON documents: every group with its share of the whole, and how old the figures are."""

from __future__ import annotations

from farebox.kit.money import format_amount
from farebox.operations.documents import Document, document
from farebox.operations.usage import (
    QualityRow,
    Unattributed,
    UsageRow,
    UsageSums,
    UsageTotal,
    share_percent,
    token_ratio,
)


def sums_document(sums: UsageSums, *, operator: bool) -> Document:
    """What calls came to; what upstreams bill is for operators alone."""
    facts = document(sums)
    facts["cost"] = facts["cost"] if operator else None
    facts["output_per_input"] = token_ratio(sums.input_tokens, sums.output_tokens)
    return facts


def row_document(row: UsageRow, total: UsageTotal, *, operator: bool) -> Document:
    """One group."""
    facts = document(row)
    del facts["sums"]
    return {
        **facts,
        **sums_document(row.sums, operator=operator),
        "charge_percent": share_percent(row.sums.charge, total.sums.charge),
        "calls_percent": share_percent(row.sums.calls, total.sums.calls),
    }


def unattributed_document(total: UsageTotal) -> Document:
    """How much named neither feature nor environment (ATT-03)."""
    return {
        "feature": _share(total.no_feature, total.sums),
        "environment": _share(total.no_environment, total.sums),
    }


def quality_document(row: QualityRow) -> Document:
    """How the calls of one group went."""
    facts = document(row)
    latency = facts.pop("latency_ms")
    return {
        **facts,
        "failed_percent": share_percent(row.failed, row.calls),
        "retries_percent": share_percent(row.retries, row.calls),
        "refused_percent": share_percent(row.refused, row.calls + row.refused),
        "average_latency_ms": latency // row.calls if row.calls else None,
        "output_per_input": token_ratio(row.input_tokens, row.output_tokens),
    }


def _share(part: Unattributed, whole: UsageSums) -> Document:
    return {
        "calls": part.calls,
        "charge": format_amount(part.charge),
        "share_percent": share_percent(part.charge, whole.charge),
    }
