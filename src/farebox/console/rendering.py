"""Pages from templates: escaped by default, amounts exact, every time with its zone, mostly UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from farebox.kit.ids import format_id
from farebox.kit.money import format_amount
from farebox.ledger.grants import BURN_CLASS, Source

_SYMBOLS: Final = {"USD": "$", "EUR": "€", "GBP": "£"}
"""Other currencies are named by their three letters: many share a sign."""

_CLASSES: Final = {1: "1 · given", 2: "2 · contract", 3: "3 · purchased"}
_CENTS: Final = 2
_MILLIS_PER_SECOND: Final = 1_000


def make_environment(asset_address: Callable[[str], str], *, sandbox: bool) -> Environment:
    """The templates with everything they may use.

    Args:
        asset_address: Name of a static file -> its address.
        sandbox: Whether every page is to say so.
    """
    environment = Environment(
        loader=PackageLoader("farebox.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "money": money,
        "instant": instant,
        "local": local,
        "until": until,
        "span": span,
        "number": number,
        "latency": latency,
        "id": shown_id,
        "burn_class": burn_class,
    }
    environment.globals |= {"asset": asset_address, "sandbox": sandbox}
    return environment


def money(nanos: int, currency: str) -> Markup:
    """An amount, exact to the last nanodollar; what is finer than a cent stands back a little.

    The element's ``value`` is the plain decimal, as the API writes it.
    """
    plain = format_amount(nanos)
    whole, _, fraction = plain.removeprefix("-").partition(".")
    sign = "-" if nanos < 0 else ""
    symbol = _SYMBOLS.get(currency)
    before = symbol or ""
    after = "" if symbol else Markup('<span class="currency">&nbsp;{}</span>').format(currency)
    coarse = f"{sign}{before}{int(whole):,}.{fraction[:_CENTS]}"
    # On a narrow screen a long amount may break before what is finer than a cent, nowhere else.
    fine = Markup('<wbr><span class="fine">{}</span>').format(fraction[_CENTS:])
    tail = fine if len(fraction) > _CENTS else ""
    return Markup('<data class="money" value="{}"><span>{}</span>{}{}</data>').format(
        plain, coarse, tail, after
    )


def instant(at: datetime) -> Markup:
    """A time to the second, in UTC; its column or sentence says so (UXF-10)."""
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat().replace("+00:00", "Z"), f"{utc:%Y-%m-%d %H:%M:%S}"
    )


def local(at: datetime, zone: str) -> Markup:
    """A time to the minute, in a zone that its column or sentence names (UXF-10)."""
    there = at.astimezone(ZoneInfo(zone))
    return Markup('<time datetime="{}">{}</time>').format(
        at.astimezone(UTC).isoformat().replace("+00:00", "Z"), f"{there:%Y-%m-%d %H:%M}"
    )


def until(at: datetime, now: datetime) -> str:
    """How far off an instant is: ``in 12 d``, or ``3 s ago``."""
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def span(length: timedelta) -> str:
    """A length of time in its largest whole unit."""
    seconds = max(0, int(length.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def number(count: int) -> str:
    """A count with its thousands apart."""
    return f"{count:,}"


def latency(milliseconds: int) -> str:
    """A duration of a call."""
    if milliseconds < _MILLIS_PER_SECOND:
        return f"{milliseconds} ms"
    tenths = milliseconds // 100
    return f"{tenths // 10}.{tenths % 10} s"


def shown_id(value: UUID, prefix: str) -> Markup:
    """An id as people see it; a click selects it whole."""
    return Markup('<code class="id">{}</code>').format(format_id(prefix, value))


def burn_class(source: str) -> str:
    """The class in which a source's credit is drawn (DED-02)."""
    return _CLASSES[BURN_CLASS[Source(source)]]
