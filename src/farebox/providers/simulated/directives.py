"""The ``X-Sandbox-*`` headers: what a caller of the sandbox may order from the simulated provider.

========================  ====================================================================
``X-Sandbox-Usage``       ``prompt=4808,cached=0,completion=10``: report and bill these counts.
                          Any number is reported as it stands, anything else as a string, so that
                          a test can send rubbish (``prompt=-1``, ``prompt=abc``).
``X-Sandbox-Latency-Ms``  ``300``: wait so long before the head; ``event=20`` before each event.
``X-Sandbox-Fault``       ``status=500`` (with ``code=...`` if wanted), ``hang``,
                          ``drop_after=3`` (stream events, and with ``hang`` silence instead
                          of a break; of a JSON answer half the body),
                          ``no_usage``, ``overrun=100`` (completion tokens over the limit).
========================  ====================================================================

Orders combine with ``,`` or ``;`` or several headers; ``hang`` alone goes before ``status``, and
both before the rest. Only the simulated provider reads these headers (DESIGN.md, fixed contracts).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from farebox.providers.simulated.failures import bad_directive

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATENCY_MS_MAX: Final = 600_000
"""Ten minutes: as long as any client waits."""

_COUNT_MAX: Final = 10**9
"""Events and overrun tokens: more than any real answer has."""

_VALUE_LENGTH_MAX: Final = 2000

_USAGE: Final = "x-sandbox-usage"
_LATENCY: Final = "x-sandbox-latency-ms"
_FAULT: Final = "x-sandbox-fault"

_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,99})(\.\d{1,99})?([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE: Final = re.compile(r"\d{1,10}", re.ASCII)
_CODE: Final = re.compile(r"[a-z_]{1,64}")

USAGE_NAMES: Final = (
    *("prompt", "completion", "total", "cached", "cache_write", "audio", "image", "text"),
    *("reasoning", "audio_out", "text_out", "accepted", "rejected"),
)
"""What ``X-Sandbox-Usage`` may set; :mod:`farebox.providers.simulated.usage` says where."""


class Ordered(msgspec.Struct, frozen=True):
    """One ordered count."""

    json: msgspec.Raw
    """As it goes into the answer: a number exactly as written, or a string."""
    value: int | float | str
    """The same in Python, for the log of what was billed."""

    @property
    def count(self) -> int | None:
        """The value if it is a plain count."""
        return self.value if isinstance(self.value, int) and self.value >= 0 else None


class Directives(msgspec.Struct, frozen=True):
    """Everything that was ordered for one call."""

    usage: dict[str, Ordered] = {}
    latency_ms: int = 0
    event_ms: int = 0
    status: int | None = None
    error_code: str | None = None
    hang: bool = False
    drop_after: int | None = None
    no_usage: bool = False
    overrun: int | None = None

    def count(self, name: str) -> int | None:
        """The ordered usage of that name, if it is a plain count."""
        ordered = self.usage.get(name)
        return None if ordered is None else ordered.count


NONE: Final = Directives()


def parse_directives(headers: tuple[tuple[str, str], ...]) -> Directives:
    """Read the sandbox headers of one call.

    Raises:
        ProviderFailure: One cannot be followed; status 400, ``param`` names the header.
    """
    return _parse(headers) if headers else NONE


@lru_cache(maxsize=1024)
def _parse(headers: tuple[tuple[str, str], ...]) -> Directives:
    fields: dict[str, Any] = {}
    usage: dict[str, Ordered] = {}
    for name, text in headers:
        header = name.lower()
        for key, value in _orders(header, text):
            if header == _USAGE:
                usage[key] = _ordered(key, value)
            elif header == _LATENCY:
                field, wait_ms = _latency(key, value)
                fields[field] = wait_ms
            else:
                fields.update(_fault(key, value))
    if "error_code" in fields and "status" not in fields:
        raise bad_directive(_FAULT, "code=... goes with status=...")
    return Directives(usage=usage, **fields)


def _orders(header: str, text: str) -> Iterator[tuple[str, str | None]]:
    """Split one header into its orders; the value is None where there is no ``=``."""
    if header not in {_USAGE, _LATENCY, _FAULT}:
        known = f"{_USAGE}, {_LATENCY} and {_FAULT}"
        raise bad_directive(header, f"is no sandbox header; there are {known}")
    if len(text) > _VALUE_LENGTH_MAX:
        raise bad_directive(header, f"is longer than {_VALUE_LENGTH_MAX} characters")
    orders = [order.strip() for order in re.split("[,;]", text) if order.strip()]
    if not orders:
        raise bad_directive(header, "is empty")
    for order in orders:
        key, equals, value = order.partition("=")
        yield key.strip().lower(), value.strip() if equals else None


def _ordered(key: str, value: str | None) -> Ordered:
    """One count of ``X-Sandbox-Usage``."""
    if key not in USAGE_NAMES:
        raise bad_directive(_USAGE, f"has no count {key!r}; there are {', '.join(USAGE_NAMES)}")
    if not value:
        raise bad_directive(_USAGE, f"{key} needs a value, such as {key}=10")
    number = _NUMBER.fullmatch(value)
    if number is None:
        return Ordered(json=msgspec.Raw(msgspec.json.encode(value)), value=value)
    whole = number[1] is None and number[2] is None
    return Ordered(json=msgspec.Raw(value.encode()), value=int(value) if whole else float(value))


def _latency(key: str, value: str | None) -> tuple[str, int]:
    """``300``, ``head=300`` or ``event=20``."""
    if value is None:
        key, value = "head", key
    fields = {"head": "latency_ms", "event": "event_ms"}
    if key not in fields:
        raise bad_directive(_LATENCY, f"has no {key!r}; write 300, head=300 or event=20")
    return fields[key], _whole(_LATENCY, key, value, 0, _LATENCY_MS_MAX)


def _fault(key: str, value: str | None) -> dict[str, object]:
    """One order of ``X-Sandbox-Fault``."""
    if key in {"hang", "no_usage"}:
        if value is not None:
            raise bad_directive(_FAULT, f"{key} takes no value")
        return {key: True}
    if key == "code":
        if value is None or not _CODE.fullmatch(value):
            raise bad_directive(_FAULT, "code must be an error code such as insufficient_quota")
        return {"error_code": value}
    ranges: dict[str, tuple[int, int]] = {
        "status": (400, 599),
        "drop_after": (0, _COUNT_MAX),
        "overrun": (1, _COUNT_MAX),
    }
    if key not in ranges:
        known = "status=500, hang, drop_after=3, no_usage and overrun=100"
        raise bad_directive(_FAULT, f"has no fault {key!r}; there are {known}")
    return {key: _whole(_FAULT, key, value, *ranges[key])}


def _whole(header: str, key: str, value: str | None, least: int, most: int) -> int:
    """A whole number in a range."""
    if value is None or not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
        raise bad_directive(header, f"{key} must be a whole number from {least} to {most}")
    return int(value)
