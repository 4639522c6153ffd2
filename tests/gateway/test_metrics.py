"""The page that a scraper reads."""

from __future__ import annotations

from farebox.gateway.metrics import Metrics


def test_the_page_tells_how_batches_were_decided() -> None:
    """ADR 21: an operator sees whether gateways take each other's organisations by surprise."""
    metrics = Metrics(
        queued=lambda: 1,
        waiting=lambda: 2,
        refusals_dropped=lambda: 3,
        remembered=lambda: 40,
        surprises=lambda: 5,
    )
    lines = metrics.page().decode().splitlines()
    assert {"farebox_batches_remembered 40.0", "farebox_batches_surprised 5.0"} <= set(lines)
    assert {"farebox_bookkeeper_queued 1.0", "farebox_bookkeeper_waiting 2.0"} <= set(lines)
    assert "farebox_refusals_dropped 3.0" in lines
