"""Counters of the data plane, made once and only added to.

Quota, rate and failure are separate series (ERR-10): refusals by their code, calls that the
provider or we failed by their reason. Billing refusals never make the gateway unhealthy (ERR-05).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FAILED: Final = ("upstream_", "answer_too_large", "aborted")
"""How the reasons of failed calls begin."""

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The gateway's figures in a registry of its own."""

    def __init__(
        self,
        *,
        queued: Callable[[], int],
        waiting: Callable[[], int],
        refusals_dropped: Callable[[], int],
        content_dropped: Callable[[], int] = lambda: 0,
        remembered: Callable[[], int] = lambda: 0,
        surprises: Callable[[], int] = lambda: 0,
        divergences: Callable[[], int] = lambda: 0,
    ) -> None:
        """Make every series at once.

        Args:
            queued: Commands that wait for a batch.
            waiting: Admissions that wait for money to come back.
            refusals_dropped: Refusals that could not be recorded.
            content_dropped: Calls whose content should have been stored and was not.
            remembered: Batches that were decided without reading (ADR 21).
            surprises: Batches that were to be, and had to be read after all.
            divergences: Organisations remembered wrongly, which would be a defect.
        """
        registry = CollectorRegistry()
        self.registry = registry
        calls = Counter(
            "farebox_calls_total", "Calls by how they ended", ["outcome"], registry=registry
        )
        self.settled = calls.labels("settled")
        self.late = calls.labels("late")
        self.released = calls.labels("released")
        self.refusals = Counter(
            "farebox_refusals_total", "Refused calls by code", ["code"], registry=registry
        )
        self.unavailable = Counter(
            "farebox_unavailable_total",
            "Answers that were 503 because the database was away: nothing is served without it",
            registry=registry,
        )
        self._failures = Counter(
            "farebox_failed_calls_total",
            "Admitted calls that the provider or the gateway failed, by reason",
            ["reason"],
            registry=registry,
        )
        self.charged_nanos = Counter(
            "farebox_charged_nanos_total", "Charges in nanodollars", registry=registry
        )
        self.absorbed_nanos = Counter(
            "farebox_absorbed_nanos_total", "Usage that the operator absorbed", registry=registry
        )
        self.overruns = Counter(
            "farebox_overruns_total", "Calls whose usage passed their hold", registry=registry
        )
        self.estimated = Counter(
            "farebox_estimated_total", "Calls charged by our own count", registry=registry
        )
        self.admission = Histogram(
            "farebox_admission_seconds",
            "Time from request to committed hold",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.settlement = Histogram(
            "farebox_settlement_seconds",
            "Time from usage to committed charge",
            buckets=_BUCKETS,
            registry=registry,
        )
        for name, says, value in (
            ("bookkeeper_queued", "Commands waiting for a batch", queued),
            ("bookkeeper_waiting", "Admissions waiting for held money", waiting),
            ("refusals_dropped", "Refusals that could not be recorded", refusals_dropped),
            ("content_dropped", "Calls whose content could not be stored", content_dropped),
            ("batches_remembered", "Batches decided by what the lane remembers", remembered),
            ("batches_surprised", "Batches read after all: not all was as remembered", surprises),
            ("batches_diverged", "Organisations remembered wrongly: a defect", divergences),
        ):
            Gauge(f"farebox_{name}", says, registry=registry).set_function(value)
        self.open_calls = Gauge("farebox_open_calls", "Calls under way", registry=registry)
        self.lag = Gauge(
            "farebox_enforcement_lag_seconds",
            "Seconds between exhaustion and refusal: zero, since every call holds its worst case",
            registry=registry,
        )
        self.lag.set(0)

    def failed(self, reason: str) -> bool:
        """Count a call that ended for that reason if it is a failure; tell whether it is one.

        A client that goes and an answer whose tokens we counted are none.
        """
        name = reason.partition(":")[0]
        if not name.startswith(_FAILED):
            return False
        self._failures.labels(name).inc()
        return True

    def page(self) -> bytes:
        """The exposition that a scraper reads."""
        return generate_latest(self.registry)
