"""Bringing a newer price catalogue in: what becomes a new version, and from when it holds.

Nothing is ever edited, and nothing that has been charged can change its price. A model or lane that
was not known takes its rows as the catalogue dates them. Where the price in force differs from what
the catalogue says now, the new price holds from now on: calls before were admitted, and explained,
with the old one. A price that an operator has set stands until the operator sets another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import uuid5

from msgspec import structs

from farebox.rating.price_book import ModelFacts, PriceVersion
from farebox.rating.units import Lane

OPERATOR: Final = "operator"
"""The source of a version that was set by hand."""

AT_ONCE: Final = timedelta(milliseconds=1)
"""Versions that begin this close together count as one change: the last of them is the word."""

Key = tuple[str, str, Lane, str]
"""Provider, model, lane, currency."""


class ImportPlan(NamedTuple):
    """What an import changes."""

    versions: tuple[PriceVersion, ...]
    """To be added."""
    facts: tuple[ModelFacts, ...]
    """To be written: new, or known better than before."""
    new_keys: int
    """Models and lanes that had no price before."""
    changed_keys: int
    """Those whose price changes, now or at a date to come."""
    kept: tuple[Key, ...]
    """Those where an operator's price stands against the catalogue's."""
    gone: int
    """Those that the catalogue has no more; their prices stay."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.versions and not self.facts


def plan_import(
    known: Sequence[PriceVersion],
    known_facts: Sequence[ModelFacts],
    incoming: Sequence[PriceVersion],
    incoming_facts: Sequence[ModelFacts],
    now: datetime,
) -> ImportPlan:
    """Decide what of a catalogue is new.

    Args:
        known: Every version there is.
        known_facts: Everything known of models.
        incoming: Every version of the catalogue.
        incoming_facts: What it knows of models.
        now: The database's time.
    """
    mine, theirs = _by_key(known), _by_key(incoming)
    versions: list[PriceVersion] = []
    kept: list[Key] = []
    new_keys = changed_keys = 0
    for key, rows in theirs.items():
        standing = mine.get(key)
        if standing is None:
            new_keys += 1
            versions += rows
        elif changes := _changes(standing, rows, now):
            if _is_set_by_hand(standing, now):
                kept.append(key)
            else:
                changed_keys += 1
                versions += changes
    # The operator's own prices were never in the catalogue, so they cannot be gone from it.
    gone = [k for k in mine.keys() - theirs.keys() if mine[k][-1].source != OPERATOR]
    return ImportPlan(
        versions=tuple(versions),
        facts=_changed_facts(known_facts, incoming_facts),
        new_keys=new_keys,
        changed_keys=changed_keys,
        kept=tuple(sorted(kept)),
        gone=len(gone),
    )


def _by_key(versions: Iterable[PriceVersion]) -> dict[Key, list[PriceVersion]]:
    """The versions of each key, oldest first."""
    found: defaultdict[Key, list[PriceVersion]] = defaultdict(list)
    for version in sorted(versions, key=lambda each: each.effective_at):
        found[version.provider, version.model, version.lane, version.currency].append(version)
    return dict(found)


def _changes(
    standing: Sequence[PriceVersion], rows: Sequence[PriceVersion], now: datetime
) -> list[PriceVersion]:
    """What must be added for a known key to have the catalogue's price from now on.

    The two are compared now and at every later instant at which either changes, so a change that
    the catalogue no longer announces is taken back too.
    """
    both = list(standing)
    later = {v.effective_at for v in (*standing, *rows) if v.effective_at > now}
    for instant in sorted({now, *later}):
        settled = instant + AT_ONCE
        wanted, had = _in_force(rows, settled), _in_force(both, settled)
        if wanted is None or (had is not None and _same_price(wanted, had)):
            continue
        # Two versions of a key cannot begin at one instant: the later word follows at once.
        taken = [v.effective_at for v in both if instant <= v.effective_at <= settled]
        begins = max(taken) + timedelta(microseconds=1) if taken else instant
        both.append(_dated(wanted, begins))
    return both[len(standing) :]


def _in_force(versions: Sequence[PriceVersion], at: datetime) -> PriceVersion | None:
    """The latest that began at or before the instant."""
    begun = [version for version in versions if version.effective_at <= at]
    return max(begun, key=lambda each: each.effective_at, default=None)


def _is_set_by_hand(standing: Sequence[PriceVersion], now: datetime) -> bool:
    """Whether an operator's price is in force, or will be."""
    current = _in_force(standing, now)
    coming = [v for v in standing if v.effective_at > now]
    return any(v.source == OPERATOR for v in (current, *coming) if v is not None)


def _same_price(one: PriceVersion, other: PriceVersion) -> bool:
    return (
        one.long_context_over == other.long_context_over
        and dict(one.base) == dict(other.base)
        and dict(one.long) == dict(other.long)
    )


def _dated(version: PriceVersion, at: datetime) -> PriceVersion:
    """The version as of another instant, with an id of its own: the same in every repetition."""
    if at == version.effective_at:
        return version
    moved = uuid5(version.id, at.isoformat())
    return structs.replace(version, id=moved, effective_at=at)


def _changed_facts(
    known: Sequence[ModelFacts], incoming: Sequence[ModelFacts]
) -> tuple[ModelFacts, ...]:
    standing = {(facts.provider, facts.model): facts for facts in known}
    theirs = {(facts.provider, facts.model) for facts in incoming}
    own = {(p, model.lower()) for p, model in standing.keys() - theirs}
    found = []
    for facts in incoming:
        before = standing.get((facts.provider, facts.model))
        merged = _merged(before, facts, own)
        if merged != before:
            found.append(merged)
    return tuple(found)


def _merged(
    before: ModelFacts | None, facts: ModelFacts, own: Iterable[tuple[str, str]]
) -> ModelFacts:
    """The catalogue's word where it has one; what only the operator knows stays.

    A name under which the operator has set up a model of its own stays that model's.
    """
    aliases = tuple(a for a in facts.aliases if (facts.provider, a.lower()) not in own)
    filled: Mapping[str, object] = (
        {}
        if before is None
        else {
            name: getattr(before, name)
            for name in ("context_window", "output_max", "image_tokens_max")
            if getattr(facts, name) is None
        }
    )
    return structs.replace(facts, aliases=aliases, **filled)
