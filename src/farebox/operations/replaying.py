"""Replaying a trace of real calls through the HTTP gateway, and adding up what they were charged.

A trace line says when a call was made, how many tokens its prompt had and how many were generated.
The body sent for it has at least that many counted tokens and names the generated ones as its
limit; a directive tells the simulated provider to report exactly these figures.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.money import Nanos

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
LINES_MAX: Final = 10_000_000
TOKENS_MAX: Final = 10_000_000
DIGITS_MAX: Final = 20
"""Longer numbers are not even read."""
CONCURRENCY_MAX: Final = 4_096

FILLER: Final = " a"
"""A word of one o200k token that never joins with itself; two bytes of the body."""


class TracedCall(msgspec.Struct, frozen=True):
    """One line of a trace."""

    context_tokens: int
    generated_tokens: int


class CallOutcome(msgspec.Struct, frozen=True):
    """What became of a replayed call."""

    status: int
    charge: Nanos = Nanos(0)
    error: str = ""


class ReplaySums(msgspec.Struct):
    """What a replay came to."""

    calls: int = 0
    answered: int = 0
    charge: Nanos = Nanos(0)
    input_tokens: int = 0
    output_tokens: int = 0
    errors: dict[str, int] = {}

    def add(self, call: TracedCall, outcome: CallOutcome) -> None:
        """Count one call."""
        self.calls += 1
        if outcome.error:
            self.errors[outcome.error] = self.errors.get(outcome.error, 0) + 1
            return
        self.answered += 1
        self.charge = Nanos(self.charge + outcome.charge)
        self.input_tokens += call.context_tokens
        self.output_tokens += call.generated_tokens


class SendsCalls(Protocol):
    """Something that makes one call over HTTP."""

    async def send(self, body: bytes, headers: dict[str, str], *, stream: bool) -> CallOutcome:
        """Make the call and read its answer to the end."""


def read_trace(lines: Iterable[str], *, limit: int | None = None) -> Iterator[TracedCall]:
    """Read a trace's lines.

    Raises:
        InvalidInputError: Naming the line and what is wrong with it.
    """
    rows = _rows(csv.reader(lines))
    header = next(rows, None)
    if header is None or tuple(name.strip().lstrip("\ufeff") for name in header) != COLUMNS:
        raise InvalidInputError("FILE", f"must begin with the line {','.join(COLUMNS)}")
    most = LINES_MAX if limit is None else min(limit, LINES_MAX)
    for number, row in enumerate(rows, start=2):
        if number - 2 >= most:
            return
        if row:
            yield _traced(row, number)


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The reader's rows; what is no CSV is said to be the file's fault."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidInputError("FILE", f"is not a CSV file: {error}") from error
        yield row


def _traced(row: list[str], number: int) -> TracedCall:
    if len(row) != len(COLUMNS):
        raise InvalidInputError("FILE", f"line {number} has {len(row)} fields, not {len(COLUMNS)}")
    counts = []
    for name, text in zip(COLUMNS[1:], row[1:], strict=True):
        plain = text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX
        if not (plain and 1 <= int(text) <= TOKENS_MAX):
            raise InvalidInputError(
                "FILE",
                f"line {number}: {name} must be a whole number from 1 to {TOKENS_MAX} "
                f"(got {text[:20]!r})",
            )
        counts.append(int(text))
    return TracedCall(*counts)


def call_body(call: TracedCall, model: str, *, stream: bool) -> bytes:
    """A body whose counted input is at least the trace's, with the generated tokens as limit."""
    document: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": FILLER * call.context_tokens}],
        "max_completion_tokens": call.generated_tokens,
    }
    if stream:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(document)


def call_headers(call: TracedCall) -> dict[str, str]:
    """The directive that makes the simulated provider report the trace's figures."""
    usage = f"prompt={call.context_tokens},cached=0,completion={call.generated_tokens}"
    return {"X-Sandbox-Usage": usage, "X-Farebox-Feature": "replay"}


async def replay(
    trace: Iterable[TracedCall],
    sender: SendsCalls,
    model: str,
    *,
    concurrency: int,
    stream: bool,
    told: Callable[[ReplaySums], None],
) -> ReplaySums:
    """Send every call of a trace, so many at a time, in its order.

    Args:
        trace: The calls.
        sender: Makes them.
        model: The model that all of them name.
        concurrency: Calls in flight.
        stream: Whether answers come as streams.
        told: Hears the sums after every call.
    """
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise InvalidInputError("--concurrency", f"must be from 1 to {CONCURRENCY_MAX}")
    sums = ReplaySums()
    pending = iter(trace)

    async def work() -> None:
        for call in pending:
            outcome = await sender.send(
                call_body(call, model, stream=stream), call_headers(call), stream=stream
            )
            sums.add(call, outcome)
            told(sums)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return sums
