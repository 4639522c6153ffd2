"""Which price is in force for a model and a lane at an instant, and what is known of the model.

A book is built once from rows and then only read: a change of prices is a new book with a higher
revision, so that a node can tell whether two of its answers come from the same prices. A model or a
lane without a row is refused; nothing ever falls back to another lane's price (DESIGN.md,
decision 9).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.rating.units import Lane, Unit, UnpricedError

PRICE_NANOS_MAX: Final = 10**15
"""A million major units for a million units: dearer is a slip of the decimal point."""

CURRENCY: Final = "USD"
"""The currency that is meant where none is named: what the catalogue is in."""

NAME_LENGTH_MAX: Final = 256
"""Model names longer than this are unknown without being looked at."""

_AMBIGUOUS: Final = ""


class PriceVersion(msgspec.Struct, frozen=True):
    """One dated row of prices; it is never edited, a change is another version (DED-07)."""

    id: UUID
    provider: str
    model: str
    lane: Lane
    currency: str
    effective_at: datetime
    """From this instant on, until a later version of the same key takes over; aware UTC."""
    source: str
    """Who says so: ``genai-prices 0.2.3`` or ``operator``."""
    long_context_over: int | None
    """A call with more input tokens than this, cached ones too, is priced by ``long`` as a whole;
    None where the model has one price only."""
    base: tuple[tuple[Unit, int], ...]
    """Prices in nanos per million units."""
    long: tuple[tuple[Unit, int], ...] = ()
    """The same above ``long_context_over``: a whole table, not a difference."""


class ModelFacts(msgspec.Struct, frozen=True):
    """What is known of a model besides its prices; every None means not known."""

    provider: str
    model: str
    context_window: int | None = None
    """Input tokens that the provider takes at most, as published."""
    output_max: int | None = None
    """Output tokens that one answer has at most."""
    counts_o200k: bool = False
    """Whether its tokens are known to be those of o200k_base."""
    image_tokens_max: int | None = None
    """Tokens that one inline image costs at most, at any size and detail."""
    aliases: tuple[str, ...] = ()
    """Other names that mean this model: dated snapshots, other spellings."""
    patterns: tuple[str, ...] = ()
    """Regular expressions for names that cannot be listed, such as those of fine-tuned models."""


class _Row(NamedTuple):
    """All versions of one key, oldest first, beside their instants for the search."""

    instants: list[datetime]
    versions: list[PriceVersion]


def check_version(version: PriceVersion) -> None:
    """Refuse a row that could not be charged from.

    Raises:
        InvalidInputError: A price is out of range or listed twice, the instant has no zone, or the
            long-context table and its threshold are not both there or both absent.
    """
    if version.effective_at.tzinfo is None:
        raise InvalidInputError("effective_at", "must have a time zone")
    if (version.long_context_over is None) != (not version.long):
        raise InvalidInputError("long", "must be given together with long_context_over")
    if version.long_context_over is not None and version.long_context_over < 0:
        raise InvalidInputError("long_context_over", "must not be negative")
    for table in (version.base, version.long):
        if len({unit for unit, _ in table}) != len(table):
            raise InvalidInputError("base", "must price each unit once")
        for unit, price in table:
            if not 0 <= price <= PRICE_NANOS_MAX:
                raise InvalidInputError(
                    unit.value, f"must be from 0 to {PRICE_NANOS_MAX} nanos per million units"
                )


class PriceBook:
    """Every price version and model fact of one revision of the catalogue."""

    def __init__(
        self, versions: Iterable[PriceVersion], facts: Iterable[ModelFacts], *, revision: int
    ) -> None:
        """Build it.

        One wrong row must not stop a node from loading all the others, so what contradicts itself
        is settled here by rule: of two versions of one key that begin at the same instant the one
        given later holds, and a name that means two models means none.

        Args:
            versions: Price rows, in the order they were added.
            facts: Facts and names; a model without any has only its own name.
            revision: Grows with every change of the catalogue.

        Raises:
            InvalidInputError: A row could not be charged from (:func:`check_version`).
        """
        self.revision: Final = revision
        self._rows: dict[tuple[str, str, Lane, str], _Row] = {}
        self._by_id: dict[UUID, PriceVersion] = {}
        for version in sorted(versions, key=lambda each: each.effective_at):  # a stable sort
            self._add(version)
        self._facts = {(each.provider, each.model): each for each in facts}
        self._own = {(provider, model) for provider, model, _, _ in self._rows} | self._facts.keys()
        self._names: dict[tuple[str, str], str] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], str]]] = {}
        self._name_models()

    def _add(self, version: PriceVersion) -> None:
        check_version(version)
        key = (version.provider, version.model, version.lane, version.currency)
        row = self._rows.setdefault(key, _Row([], []))
        if row.instants and row.instants[-1] == version.effective_at:
            row.versions[-1] = version
        else:
            row.instants.append(version.effective_at)
            row.versions.append(version)
        self._by_id[version.id] = version

    def _name_models(self) -> None:
        """Note every listed name in lower case, and what to try for the others."""
        for provider, model in self._own:
            self._name(provider, model, model)
        for facts in self._facts.values():
            for alias in facts.aliases:
                if (facts.provider, alias) not in self._own:
                    self._name(facts.provider, alias, facts.model)
            compiled = [(re.compile(pattern), facts.model) for pattern in facts.patterns]
            self._patterns.setdefault(facts.provider, []).extend(compiled)

    def _name(self, provider: str, name: str, model: str) -> None:
        key = (provider, name.lower())
        if self._names.setdefault(key, model) != model:
            self._names[key] = _AMBIGUOUS

    def resolve(self, provider: str, model: str) -> str:
        """The model that a name means; names are compared without regard to case.

        Raises:
            UnpricedError: No model here has that name, or several might.
        """
        if (provider, model) in self._own:
            return model
        name = model.lower()
        known = self._names.get((provider, name))
        found = {known} if known else set()
        if known is None and len(name) <= NAME_LENGTH_MAX:
            patterns = self._patterns.get(provider, ())
            found = {meant for pattern, meant in patterns if pattern.search(name)}
        if len(found) != 1:
            raise UnpricedError(
                "unpriced_model",
                f"The model {model[:80]!r} of {provider} has no price here;"
                " name a listed model or add its price.",
            )
        return found.pop()

    def version_at(
        self, provider: str, model: str, lane: Lane, at: datetime, *, currency: str = CURRENCY
    ) -> PriceVersion:
        """The price in force: the latest that began at or before ``at``.

        Raises:
            UnpricedError: ``unpriced_model`` if the model is unknown, ``unpriced_lane`` if it has
                no price in that lane and currency at that instant.
        """
        row = self._rows.get((provider, model, lane, currency))
        if row is None:
            model = self.resolve(provider, model)
            row = self._rows.get((provider, model, lane, currency))
        place = bisect_right(row.instants, at) if row is not None else 0
        if row is None or place == 0:
            raise UnpricedError(
                "unpriced_lane",
                f"The model {model} of {provider} has no {currency} price in the {lane} lane"
                f" at {at:%Y-%m-%d}; use another service tier or add its price.",
            )
        return row.versions[place - 1]

    def version(self, version_id: UUID) -> PriceVersion | None:
        """The version with that id, as stored with a hold or a charge."""
        return self._by_id.get(version_id)

    def facts(self, provider: str, model: str) -> ModelFacts:
        """What is known of a model, by any of its names.

        Raises:
            UnpricedError: ``unpriced_model``.
        """
        known = self._facts.get((provider, model))
        if known is None:
            model = self.resolve(provider, model)
            known = self._facts.get((provider, model))
        return known if known is not None else ModelFacts(provider, model)

    def lanes(self, provider: str, model: str, *, currency: str = CURRENCY) -> tuple[Lane, ...]:
        """The lanes that have any price of that model, in force now or later.

        Raises:
            UnpricedError: ``unpriced_model``.
        """
        model = self.resolve(provider, model)
        return tuple(lane for lane in Lane if (provider, model, lane, currency) in self._rows)

    def models(self, provider: str) -> tuple[str, ...]:
        """Every model of a provider that has a price, sorted."""
        return tuple(sorted({model for each, model, _, _ in self._rows if each == provider}))

    def versions(self) -> Iterator[PriceVersion]:
        """Every version: by key, oldest first."""
        for key in sorted(self._rows):
            yield from self._rows[key].versions
