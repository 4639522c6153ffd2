"""What the stores know, as the facts that the doctor reads; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Final

from farebox.advice.facts import (
    CallRecord,
    GrantRecord,
    LimitRecord,
    ModelFinding,
    MoneyFacts,
)
from farebox.kit.money import ZERO
from farebox.ledger.scopes import EVERY
from farebox.operations.balance import Balance, GrantView, LimitView
from farebox.operations.call_facts import CallFacts
from farebox.rating.price_book import PriceBook
from farebox.rating.units import Lane, UnpricedError

NEAREST_MAX: Final = 5
NEAREST_LIKENESS: Final = 0.6
"""As alike as a slip of the keyboard or another version of the model."""

NAMES_COMPARED_MAX: Final = 5_000


def call_record(facts: CallFacts, *, node_alive: bool = True) -> CallRecord:
    """A call as the doctor reads it."""
    refused = facts.status == "refused"
    return CallRecord(
        id=facts.id,
        status=facts.status,
        code=facts.reason,
        message=facts.message or "",
        at=facts.at,
        ended_at=facts.ended_at,
        model=facts.model,
        http_status=facts.http_status,
        needed=facts.held,
        available=facts.available_before,
        held=facts.held_before or ZERO,
        charge=facts.charge,
        absorbed=facts.absorbed,
        owed=facts.owed,
        estimated=facts.estimated,
        streamed=facts.streamed,
        limit=facts.limits[0] if refused and facts.limits else None,
        latest_end=facts.latest_end,
        node_alive=node_alive,
        key_prefix=facts.key_prefix or "",
        times=facts.times,
    )


def money_facts(
    balance: Balance, grants: Sequence[GrantView], last_charge_at: datetime | None
) -> MoneyFacts:
    """What there is to spend, with the grants that made it so."""
    return MoneyFacts(
        available=balance.available,
        spendable=balance.spendable,
        held=balance.held,
        owed=balance.owed,
        granted=balance.granted,
        spent=balance.spent,
        expired=balance.expired,
        frozen=balance.frozen,
        pending=balance.pending,
        floor=balance.floor,
        grants=tuple(map(_grant, grants)),
        last_charge_at=last_charge_at,
    )


def _grant(view: GrantView) -> GrantRecord:
    return GrantRecord(
        id=view.id,
        source=view.source,
        state=view.state,
        amount=view.amount,
        available=view.available,
        remaining=view.remaining,
        held=view.held,
        spent=view.spent,
        expired=view.expired,
        effective_at=view.effective_at,
        expires_at=view.expires_at,
        reference=view.reference,
    )


def limit_records(views: Iterable[LimitView], names: Mapping[str, str]) -> tuple[LimitRecord, ...]:
    """Limits with the names that people know their scopes by.

    Args:
        views: The limits with their counters.
        names: Of projects and keys, by their ids as 32 hex digits.
    """
    return tuple(
        LimitRecord(
            scope_kind=view.scope_kind.value,
            scope_ref=view.scope_ref,
            scope_name=names.get(view.scope_ref, view.scope_ref),
            is_template=view.scope_ref == EVERY,
            measure=view.rule.measure.value,
            period=view.rule.period.value,
            effect=view.rule.effect.value,
            models=view.rule.models,
            maximum=view.maximum,
            used=view.used,
            held=view.held,
            resets_at=view.resets_at,
            owner=view.rule.owner,
            origin=view.rule.origin.value,
        )
        for view in views
    )


def model_finding(
    book: PriceBook,
    sellers: Sequence[tuple[str, str]],
    name: str,
    *,
    currency: str,
    at: datetime,
) -> ModelFinding:
    """What the catalogue says of a model's name.

    Args:
        book: Every price.
        sellers: Name and price list of each provider, the preferred first.
        name: As a client wrote it, perhaps with the provider's name before it.
        currency: The organisation's.
        at: The instant whose prices count.
    """
    sold_by, lanes, known = [], dict[str, None](), False
    for seller, price_list, model in _candidates(sellers, name):
        try:
            of_model = book.lanes(price_list, model, currency=currency)
        except UnpricedError:
            continue
        known = True
        priced = [
            lane for lane in of_model if _has_price(book, price_list, model, lane, at, currency)
        ]
        lanes |= dict.fromkeys(lane.value for lane in priced)
        if Lane.STANDARD in priced:
            sold_by.append(seller)
    listed = {version.provider for version in book.versions()}
    elsewhere = not known and any(_knows(book, price_list, name) for price_list in listed)
    return ModelFinding(
        asked=name,
        known=known or elsewhere,
        sold_by=tuple(dict.fromkeys(sold_by)),
        priced_in=_currencies(book, sellers, name) if known and not lanes else (),
        lanes=tuple(lanes),
        nearest=() if sold_by else _nearest(book, sellers, name),
    )


def _candidates(sellers: Sequence[tuple[str, str]], name: str) -> list[tuple[str, str, str]]:
    """Where to look: at the provider that a prefix names, else at all."""
    prefix, separator, rest = name.partition("/")
    named = [(s, price_list, rest) for s, price_list in sellers if separator and s == prefix]
    return named + [(s, price_list, name) for s, price_list in sellers]


def _has_price(
    book: PriceBook, price_list: str, model: str, lane: Lane, at: datetime, currency: str
) -> bool:
    try:
        book.version_at(price_list, model, lane, at, currency=currency)
    except UnpricedError:
        return False
    return True


def _knows(book: PriceBook, price_list: str, name: str) -> bool:
    try:
        book.resolve(price_list, name)
    except UnpricedError:
        return False
    return True


def _currencies(book: PriceBook, sellers: Sequence[tuple[str, str]], name: str) -> tuple[str, ...]:
    meant = set()
    for _, price_list, model in _candidates(sellers, name):
        try:
            meant.add((price_list, book.resolve(price_list, model)))
        except UnpricedError:
            continue
    found = {v.currency for v in book.versions() if (v.provider, v.model) in meant}
    return tuple(sorted(found))


def _nearest(book: PriceBook, sellers: Sequence[tuple[str, str]], name: str) -> tuple[str, ...]:
    models = {model for _, price_list in sellers for model in book.models(price_list)}
    plain = name.rpartition("/")[2].lower()
    compared = sorted(models)[:NAMES_COMPARED_MAX]
    return tuple(get_close_matches(plain[:200], compared, n=NEAREST_MAX, cutoff=NEAREST_LIKENESS))
