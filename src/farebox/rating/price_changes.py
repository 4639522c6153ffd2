"""Which rows to add so that stored prices follow a newer catalogue, without touching the past.

A catalogue edits its figures in place and drops what no longer holds; a price row is never edited
and never dropped. So a change becomes a new version that begins when it is imported, and whatever
was charged until then keeps the version it was charged from (DED-07).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid5

import msgspec

from farebox.rating.price_book import PriceVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from farebox.rating.units import Lane

OPERATOR: Final = "operator"
"""The source of prices that the operator set; no catalogue overrides them."""

_Key = tuple[str, str, "Lane", str]


def price_changes(
    imported: Iterable[PriceVersion], stored: Iterable[PriceVersion], *, at: datetime
) -> list[PriceVersion]:
    """The versions to add to the stored ones.

    A key (provider, model, lane, currency) that is new is taken over with its history. For any
    other, the stored prices are compared with the imported ones from ``at`` on, at every instant
    where either changes, and a row is added where they differ. Where the operator's own price is in
    force it stays.

    Args:
        imported: Everything that the newer catalogue says.
        stored: Everything that is stored, in the order it was added.
        at: The instant of the import.

    Returns:
        The rows to add; none if nothing changed, so importing twice adds nothing.

    What is stored but no longer imported keeps its price: only an operator can say that a model or
    a lane is gone.
    """
    kept: dict[_Key, list[PriceVersion]] = {}
    ids = set()
    for version in stored:
        kept.setdefault(_key(version), []).append(version)
        ids.add(version.id)
    wanted: dict[_Key, list[PriceVersion]] = {}
    for version in imported:
        wanted.setdefault(_key(version), []).append(version)
    added: list[PriceVersion] = []
    for key, versions in wanted.items():
        if key not in kept:
            added += versions
            continue
        for version, instant in _changes(versions, kept[key], at):
            change = version
            if version.id in ids or instant != version.effective_at:
                derived = uuid5(version.id, f"{at.isoformat()} {instant.isoformat()}")
                change = msgspec.structs.replace(version, id=derived, effective_at=instant)
            ids.add(change.id)
            added.append(change)
    return added


def _key(version: PriceVersion) -> _Key:
    return version.provider, version.model, version.lane, version.currency


def _changes(
    wanted: Sequence[PriceVersion], kept: Sequence[PriceVersion], at: datetime
) -> Iterator[tuple[PriceVersion, datetime]]:
    """Where one key's prices must change from ``at`` on: the version, and from when it holds."""
    now = list(kept)
    coming = {version.effective_at for version in (*wanted, *kept) if version.effective_at > at}
    for instant in sorted({at, *coming}):
        have, want = _in_force(now, instant), _in_force(wanted, instant)
        if want is None or (have is not None and have.source == OPERATOR):
            continue
        if have is None or _prices(have) != _prices(want):
            now.append(msgspec.structs.replace(want, effective_at=instant))
            yield want, instant


def _in_force(versions: Sequence[PriceVersion], at: datetime) -> PriceVersion | None:
    """The version in force, by the rule of :class:`PriceBook`: of two at one instant the later."""
    found: PriceVersion | None = None
    for version in versions:
        begun = version.effective_at <= at
        if begun and (found is None or version.effective_at >= found.effective_at):
            found = version
    return found


def _prices(version: PriceVersion) -> tuple[object, ...]:
    return version.long_context_over, version.base, version.long
