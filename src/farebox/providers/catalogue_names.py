"""Which names mean a model of the catalogue: the listed ones, and patterns for the rest.

The catalogue matches names generously: whatever begins with ``gemini-2.5-pro`` is that model. For a
charge that is too generous, since ``gemini-2.5-pro-ultra`` would be another model with another
price. So a name that is not listed counts only if what follows the listed part is a snapshot's
date or version, or the name of somebody's fine-tuned model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genai_prices.types import MatchLogic, ModelInfo, Provider

_MARK: Final = (
    r"(?:20\d\d-?[01]\d-?[0-3]\d|[01]\d-[0-3]\d|\d{3,4}|v\d+(?::\d+)?|latest|preview|exp)"
)
"""A date, a short date, a snapshot's number, a version, a stage."""

SNAPSHOT: Final = f"(?:[-@:.]{_MARK})*$"
"""Any number of them, and nothing else."""

_FINE_TUNED: Final = re.compile(r"^ft:|\.ft-$")
_BEGINS: Final = r"(?:^|[./:])"  # a name may follow the name of who offers it


def aliases(provider: Provider, model: ModelInfo) -> tuple[str, ...]:
    """Every listed name of the model besides its own, sorted.

    A name that the catalogue gives to several models belongs to the one that it finds first.
    """
    names = {clause.equals for clause in _clauses(model.match) if hasattr(clause, "equals")}
    return tuple(
        sorted(name for name in names if name != model.id and provider.find_model(name) is model)
    )


def patterns(model: ModelInfo) -> tuple[str, ...]:
    """Regular expressions, for names in lower case, of what else means the model."""
    found = [_pattern(clause) for clause in _clauses(model.match)]
    return tuple(sorted({pattern for pattern in found if pattern is not None}))


def _clauses(match: MatchLogic) -> Iterator[MatchLogic]:
    """The alternatives of a match."""
    if hasattr(match, "or_"):
        for clause in match.or_:
            yield from _clauses(clause)
    else:
        yield match


def _pattern(clause: MatchLogic) -> str | None:
    """One alternative as a regular expression; None for a name that is listed anyway."""
    from genai_prices import types  # noqa: PLC0415  # loaded by whoever holds a clause

    match clause:
        case types.ClauseStartsWith(starts_with=text):
            return _from_start(text.lower())
        case types.ClauseContains(contains=text):
            return _BEGINS + re.escape(text.lower()) + SNAPSHOT
        case types.ClauseEndsWith(ends_with=text):
            begins = "" if text.startswith("/") else _BEGINS
            return begins + re.escape(text.lower()) + "$"
        case types.ClauseRegex(regex=pattern):
            return pattern
        case types.ClauseAnd(and_=clauses):
            return _all_of([_pattern(each) for each in clauses])
        case _:
            return None


def _from_start(prefix: str) -> str:
    if _FINE_TUNED.search(prefix):
        return "^" + re.escape(prefix)
    if re.search(r"-20\d\d$", prefix):  # the year of a date
        return "^" + re.escape(prefix) + r"-?[01]\d-?[0-3]\d" + SNAPSHOT
    first = _MARK if prefix.endswith(("-", "@", ":", ".")) else ""
    return "^" + re.escape(prefix) + first + SNAPSHOT


def _all_of(found: list[str | None]) -> str | None:
    """A pattern for names that match every one of several."""
    if None in found:
        return None  # one of them is a listed name
    return "^" + "".join(
        f"(?={each})" if each.startswith("^") else f"(?=.*{each})" for each in found if each
    )
