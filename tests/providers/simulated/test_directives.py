"""Reading the ``X-Sandbox-*`` headers."""

from __future__ import annotations

import msgspec
import pytest

from farebox.providers.simulated.directives import NONE, Directives, parse_directives
from farebox.providers.simulated.failures import ProviderFailure


def _usage(text: str) -> dict[str, bytes]:
    """The ordered counts as they will stand in the answer."""
    usage = parse_directives((("x-sandbox-usage", text),)).usage
    return {name: bytes(ordered.json) for name, ordered in usage.items()}


def test_no_header_orders_nothing() -> None:
    """Without sandbox headers a call is answered naturally."""
    assert parse_directives(()) == NONE


def test_the_documented_usage_order() -> None:
    """DESIGN.md: prompt=4808,cached=0,completion=10 is read as three counts."""
    orders = parse_directives((("X-Sandbox-Usage", "prompt=4808, cached=0 ;completion=10"),))
    assert orders.count("prompt") == 4808
    assert orders.count("cached") == 0
    assert orders.count("completion") == 10
    assert orders.count("reasoning") is None


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("-1", b"-1"),
        ("0", b"0"),
        ("1.5", b"1.5"),
        ("1e3", b"1e3"),
        ("9223372036854775808", b"9223372036854775808"),
        ("340282366920938463463374607431768211456", b"340282366920938463463374607431768211456"),
        ("abc", b'"abc"'),
        ("007", b'"007"'),
        ("1_000", b'"1_000"'),
        ("٣", '"٣"'.encode()),
        ("null", b'"null"'),
        ('a"b', b'"a\\"b"'),
        ("=", b'"="'),
    ],
)
def test_rubbish_comes_through_as_given(text: str, json: bytes) -> None:
    """A test can make the provider report any number, and anything else as a string."""
    assert _usage(f"prompt={text}") == {"prompt": json}


def test_only_a_plain_count_decides_the_length_of_an_answer() -> None:
    """Negative, broken and fractional counts are reported but not acted on."""
    for text in ("-1", "abc", "1.5", "1e3"):
        assert parse_directives((("x-sandbox-usage", f"completion={text}"),)).count("x") is None
        orders = parse_directives((("x-sandbox-usage", f"completion={text}"),))
        assert orders.count("completion") is None
    assert isinstance(NONE, Directives)


def test_latency() -> None:
    """The documented form waits before the head; event=... waits before each event."""
    assert parse_directives((("x-sandbox-latency-ms", "300"),)).latency_ms == 300
    orders = parse_directives((("x-sandbox-latency-ms", "head=5; event=20"),))
    assert (orders.latency_ms, orders.event_ms) == (5, 20)


def test_faults_combine() -> None:
    """Faults may stand together, in one header or in several."""
    orders = parse_directives(
        (
            ("x-sandbox-fault", "no_usage; drop_after=3"),
            ("x-sandbox-fault", "overrun=100"),
            ("x-sandbox-usage", "prompt=1"),
        )
    )
    assert orders.no_usage
    assert (orders.drop_after, orders.overrun) == (3, 100)
    assert not orders.hang
    assert orders.count("prompt") == 1
    refusal = parse_directives((("x-sandbox-fault", "status=429;code=insufficient_quota"),))
    assert (refusal.status, refusal.error_code) == (429, "insufficient_quota")
    assert parse_directives((("x-sandbox-fault", "hang"),)).hang


@pytest.mark.parametrize(
    ("header", "text", "fault"),
    [
        ("x-sandbox-usage", "", "is empty"),
        ("x-sandbox-usage", "prompt", "needs a value"),
        ("x-sandbox-usage", "prompt=", "needs a value"),
        ("x-sandbox-usage", "tokens=3", "no count 'tokens'"),
        ("x-sandbox-usage", "prompt=" + "1" * 3000, "longer than"),
        ("x-sandbox-latency-ms", "soon", "whole number"),
        ("x-sandbox-latency-ms", "-1", "whole number"),
        ("x-sandbox-latency-ms", "600001", "whole number"),
        ("x-sandbox-latency-ms", "tail=3", "no 'tail'"),
        ("x-sandbox-fault", "status=200", "400 to 599"),
        ("x-sandbox-fault", "status", "400 to 599"),
        ("x-sandbox-fault", "explode", "no fault 'explode'"),
        ("x-sandbox-fault", "hang=3", "takes no value"),
        ("x-sandbox-fault", "overrun=0", "overrun must be"),
        ("x-sandbox-fault", "drop_after=x", "drop_after must be"),
        ("x-sandbox-fault", "code=x", "goes with status"),
        ("x-sandbox-fault", "status=429;code=No Code", "code must be"),
        ("x-sandbox-mood", "grim", "no sandbox header"),
    ],
)
def test_a_bad_order_is_refused_by_name(header: str, text: str, fault: str) -> None:
    """A mistyped order answers 400 with the header in ``param``, instead of being ignored."""
    with pytest.raises(ProviderFailure, match=fault) as refused:
        parse_directives(((header, text),))
    error = msgspec.json.decode(refused.value.body)["error"]
    assert refused.value.status == 400
    assert error["param"] == header
    assert error["code"] == "invalid_sandbox_directive"
