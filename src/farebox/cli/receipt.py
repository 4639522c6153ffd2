"""A call's explanation as a receipt: 80 columns, amounts in one column on the right."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Final

from farebox.cli.output import WIDTH, Document, say

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = tuple[str, str, str]
"""What it is, the amount beside it, and how it is printed (a style of rich)."""

_RULE: Final = ("", "-" * 12, "")
"""The line above a sum."""

_NOTHING: Final = "0.00"


def print_receipt(call: Document) -> None:
    """Print a call as ``operations.calls`` explains it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, width=WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as printed:
        for left, right, style in receipt(call):
            for line in lay_out(left, right):
                # Text objects: a name in square brackets is a name, not a colour.
                console.print(Text(line, style=style))
    say(*(line.rstrip() for line in printed.get().splitlines()))


def lay_out(left: str, right: str) -> list[str]:
    """One row as lines of :data:`~farebox.cli.output.WIDTH` columns, the amount in the first."""
    plain = printable(left)
    indent = " " * (len(plain) - len(plain.lstrip()))
    lines = textwrap.wrap(
        plain.strip(),
        WIDTH - len(right) - 2 if right else WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
    ) or [""]
    if right:
        lines[0] = f"{lines[0]:<{WIDTH - len(right)}}{right}"
    return lines


def printable(text: str) -> str:
    """A text that clients had a hand in, without anything that could steer the terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def receipt(call: Document) -> Iterator[Row]:
    """The receipt's rows, from the head to the journal."""
    yield from _head(call)
    if call["status"] == "refused":
        yield from _refusal(call)
    else:
        yield from _usage(call)
        yield from _paid(call)
        yield from _price(call)
    yield from _decision(call)
    yield from _journal(call)
    yield from _about(call)


def _head(call: Document) -> Iterator[Row]:
    yield call["id"], call["status"].upper(), "bold"
    names = [call[part]["name"] or call[part]["id"] for part in ("organization", "project", "key")]
    yield " / ".join(names), "", ""
    how = [call["model"], call["lane"] and f"{call['lane']} lane", call["endpoint"]]
    how += ["streamed"] if call["streamed"] else []
    yield ", ".join(filter(None, how)), "", ""
    if call["reason"]:
        yield f"reason: {call['reason']}", "", ""


def _refusal(call: Document) -> Iterator[Row]:
    yield "", "", ""
    yield "Refused", "", "bold"
    yield call["message"], "", ""
    if call["times"] > 1:
        yield f"{call['times']:,} like calls of this second share this row.", "", ""
    yield f"Charge in {call['currency']}", call["charge"], "bold"


def _usage(call: Document) -> Iterator[Row]:
    yield "", "", ""
    estimated = " (estimated)" if call["estimated"] else ""
    yield f"Usage{estimated}", "", "bold"
    for line in call["lines"]:
        unit = line["unit"].replace("_", " ")
        price = f"{line['quantity']:,} x {line['price_per_million']} per million"
        yield f"  {unit:<14} {price}", line["amount"], ""
    if not call["lines"]:
        usage = call["usage"]
        known = [f"{n:,} {name.replace('_', ' ')}" for name, n in usage.items() if n]
        yield f"  {', '.join(known) or 'none metered'}", "", ""
    yield _RULE
    if call["absorbed"] != _NOTHING:
        yield "  beyond the hold, absorbed by the operator", f"-{call['absorbed']}", ""
    yield f"Charge in {call['currency']}", call["charge"], "bold"
    if call["late_change"] is not None:
        change = call["late_change"]["charge"]
        yield f"  of which {change} by the answer that came after the hold had lapsed", "", ""


def _paid(call: Document) -> Iterator[Row]:
    draws = call["draws"]
    if not draws and call["owed"] == _NOTHING:
        return
    yield "", "", ""
    yield "Paid from", "", "bold"
    yield from _parts(draws)
    if call["owed"] != _NOTHING:
        yield "  owed: no grant was left", call["owed"], ""


def _parts(parts: list[Document]) -> Iterator[Row]:
    for part in parts:
        yield f"  {part['source']:<14} {part['grant_id']}", part["amount"], ""
        notes = [part["reference"] or ""]
        notes += [f"ends {part['expires_at'][:10]}"] if part["expires_at"] else []
        if any(notes):
            yield f"  {'':<14} {', '.join(filter(None, notes))}", "", "dim"


def _price(call: Document) -> Iterator[Row]:
    price = call["price"]
    if price is None:
        return
    yield "", "", ""
    yield "Price version", "", "bold"
    if "source" in price:
        since = price["effective_at"][:10]
        yield f"  {price['provider']} {price['model']}, {price['lane']} lane, since {since}", "", ""
        yield f"  from {price['source']}", "", ""
    yield f"  {price['id']}", "", "dim"


def _decision(call: Document) -> Iterator[Row]:
    decision = call["decision"]
    yield "", "", ""
    yield "Admission", "", "bold"
    yield "  available before", decision["available"], ""
    if decision["held_by_open_calls"] is not None:
        yield "  held by open calls", decision["held_by_open_calls"], ""
    held = "would have held" if call["status"] == "refused" else "held at most"
    yield f"  {held}", decision["needed"], ""
    ceiling = decision["ceiling"]
    if ceiling is not None:
        tokens = f"{decision['output_limit']:,} output tokens"
        price = ceiling["output_price_per_million"]
        output = "" if price == _NOTHING else f", and {tokens} x {price} per million"
        yield f"    {ceiling['fixed']} fixed{output}", "", "dim"
    for limit in decision["limits"]:
        yield f"  {limit['scope']} limit per {limit['period']}", limit["maximum"], ""
        rest = f"{limit['used']} used, {limit['held']} held, resets {limit['resets_at'][:16]}Z"
        yield f"    {rest}", "", "dim"
    if call["status"] == "open":
        hold = call["hold"]
        yield "  set aside now", hold["amount"], ""
        yield from _parts(hold["earmarks"])
        if hold["unsecured"] != _NOTHING:
            yield "  on the organisation's floor", hold["unsecured"], ""
        yield f"  ends by itself at {_minute(hold['latest_end'])}", "", ""


def _journal(call: Document) -> Iterator[Row]:
    if not call["postings"]:
        return
    yield "", "", ""
    yield "Journal", "", "bold"
    for posting in call["postings"]:
        first, last = posting["first_sequence"], posting["last_sequence"]
        calls = "" if first is None else f" {first} to {last} of the organisation"
        yield f"  posting {posting['id']}: {posting['kind'].replace('_', ' ')}{calls}", "", ""
        for account, amount in posting["entries"].items():
            yield f"    {account.replace('_', ' ')}", amount, "dim"


def _about(call: Document) -> Iterator[Row]:
    yield "", "", ""
    yield "About", "", "bold"
    times = [f"began {_minute(call['admitted_at'])}"]
    if call["ended_at"] is not None:
        times.append(f"ended {_minute(call['ended_at'])}")
    if call["latency_ms"]:
        times.append(f"{call['latency_ms']:,} ms")
    if call["http_status"]:
        times.append(f"HTTP {call['http_status']}")
    yield f"  {', '.join(times)}", "", ""
    attribution = dict(call["attribution"])
    tags = attribution.pop("tags")
    labels = [f"{name.replace('_', ' ')} {value}" for name, value in attribution.items() if value]
    labels += [f"{key}={value}" for key, value in tags.items()]
    if labels:
        yield f"  {', '.join(labels)}", "", ""
    operator = call.get("operator") or {}
    if operator.get("upstream_account"):
        yield f"  cost at {operator['upstream_account']} (the operator's)", operator["cost"], ""


def _minute(instant: str) -> str:
    return f"{instant[:10]} {instant[11:19]} UTC"
