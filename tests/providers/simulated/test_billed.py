"""The log of what was billed."""

from __future__ import annotations

from farebox.providers.simulated.billed import BilledCall, BilledLog, Outcome


def _call(outcome: Outcome = "running") -> BilledCall:
    return BilledCall(
        id="chatcmpl-1",
        request_id="req_1",
        client_request_id=None,
        endpoint="/chat/completions",
        model="gpt-5.4",
        service_tier="default",
        stream=True,
        usage={"prompt": 7, "completion": 50, "total": 57},
        outcome=outcome,
    )


def test_a_stream_that_stops_bills_what_was_generated() -> None:
    """DED-14: a broken stream is billed for its prompt and for the tokens made until then."""
    call = _call()
    call.stop_early("closed", 12)
    assert call.outcome == "closed"
    assert call.usage == {"prompt": 7, "completion": 12, "total": 19}


def test_only_a_running_call_can_stop() -> None:
    """What is complete stays complete, and the first end counts."""
    call = _call("complete")
    call.stop_early("closed", 1)
    assert (call.outcome, call.usage) == ("complete", _call().usage)
    call = _call()
    call.stop_early("broken", 3)
    call.stop_early("closed", 1)
    assert call.outcome == "broken"
    assert call.usage is not None
    assert call.usage["completion"] == 3


def test_the_log_is_bounded() -> None:
    """The oldest lines go first."""
    log = BilledLog(2)
    for number in range(3):
        log.add(_call()).id = str(number)
    assert [call.id for call in log.calls()] == ["1", "2"]
