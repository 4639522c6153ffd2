"""Medians, quartiles, paired differences and ratios, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

Cell = str | int | float | None


def percentile(values: Iterable[float], percent: float) -> float:
    """The value below which so many of a hundred lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of one figure over rounds."""
    if len(values) < 2:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "q1": low, "q3": high}


def paired(
    values: Sequence[float], others: Sequence[float], how: Callable[[float, float], float]
) -> dict[str, float]:
    """Compare round by round, then take median and quartiles: drift of the machine cancels."""
    return spread([how(mine, other) for mine, other in zip(values, others, strict=True)])


def difference(mine: float, other: float) -> float:
    """How much more it is."""
    return mine - other


def ratio(mine: float, other: float) -> float:
    """How many times as much it is."""
    return mine / other if other else float("nan")


def shown(figure: dict[str, float], digits: int = 0) -> str:
    """A median with its quartiles."""
    median, q1, q3 = (f"{figure[k]:,.{digits}f}" for k in ("median", "q1", "q3"))
    return f"{median} ({q1} to {q3})"


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table in Markdown; the first column to the left, figures to the right."""
    lines = [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join(["---"] + ["--:"] * (len(head) - 1)) + " |",
    ]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else value
