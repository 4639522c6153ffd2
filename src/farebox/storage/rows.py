"""Rows of the database as facts of the engine: one reader per query of ``engine.sql``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from farebox.ledger.commands import Usage
from farebox.ledger.grants import Grant, GrantState, Source
from farebox.ledger.holds import CallState, Dimensions, Draw, Earmark, Hold, Progress, Raised
from farebox.ledger.limits import Rule, ScopeLimits, Window
from farebox.ledger.organizations import OnLapse, OnOverrun, Organization
from farebox.ledger.scopes import ScopeKind
from farebox.ledger.state import ClosedCall, KeyFacts

Row = tuple[Any, ...]


def organization(row: Row) -> Organization:
    """A row of ``lock_organizations``."""
    return Organization(
        id=row[0],
        currency=row[1],
        zone=row[2],
        active=row[3],
        floor=row[4],
        on_overrun=OnOverrun(row[5]),
        on_lapse=OnLapse(row[6]),
        last_time=utc(row[7]),
        sequence=row[8],
        granted=row[9],
        owed=row[10],
        spent=row[11],
        reserved=row[12],
        unreserved=row[13],
        frozen=row[14],
        expired=row[15],
        refunded=row[16],
        unsecured_held=row[17],
        absorbed=row[18],
        plan_id=row[19],
    )


def grant(row: Row) -> Grant:
    """A row of ``read_grants``."""
    return Grant(
        id=row[0],
        organization_id=row[1],
        sequence=row[2],
        source=Source(row[3]),
        amount=row[4],
        remaining=row[5],
        reserved=row[6],
        frozen=row[7],
        repaid=row[8],
        expired=row[9],
        refunded=row[10],
        effective_at=utc(row[11]),
        expires_at=None if row[12] is None else utc(row[12]),
        state=GrantState(row[13]),
        repays=row[14],
        reference=row[15],
    )


def hold(row: Row) -> Hold:
    """A row of ``read_holds``."""
    return Hold(
        call_id=row[0],
        organization_id=row[1],
        node_id=row[2],
        epoch=row[3],
        amount=row[4],
        unsecured=row[5],
        earmarks=tuple(map(Earmark, row[6], row[7])),
        raised=raised(row[8]),
        admitted_at=utc(row[9]),
        latest_end=utc(row[10]),
        dimensions=Dimensions(*row[11:18]),
        fingerprint=row[18],
        output_limit=row[19],
        tokens=row[20],
        user=row[21],
        run=row[22],
        tags=row[23] or {},
        steps=row[24],
        progress=None if row[25] is None else Progress(*row[25]),
    )


def closed(row: Row) -> ClosedCall:
    """A row of ``read_closed``."""
    return ClosedCall(
        call_id=row[0],
        organization_id=row[1],
        sequence=row[2],
        state=CallState(row[3]),
        held=row[4],
        charge=row[5],
        absorbed=row[6],
        owed=row[7],
        cost=row[8],
        late_charge=row[9],
        late_absorbed=row[10],
        draws=tuple(map(Draw, row[11], row[12])),
        admitted_at=utc(row[13]),
        dimensions=Dimensions(*row[14:21]),
        usage=Usage(
            input_tokens=row[21],
            cached_tokens=row[22],
            cache_write_tokens=row[23],
            output_tokens=row[24],
            reasoning_tokens=row[25],
        ),
        admit_fingerprint=row[26],
        settle_fingerprint=row[27],
        user=row[28],
        run=row[29],
        tags=row[30] or {},
    )


def key(row: Row) -> KeyFacts:
    """A row of ``read_keys``."""
    return KeyFacts(*row)


def raised(flat: list[int] | None) -> tuple[Raised, ...]:
    """The counters that a hold raised, as stored: four numbers each."""
    return () if flat is None else tuple(map(Raised, *[iter(flat)] * 4))


def limits(row: Row) -> ScopeLimits:
    """A row of ``read_limits``."""
    organization_id, kind, ref, rules, flat = row
    windows: dict[int, list[Window]] = {}
    numbers = iter(flat)
    for rule, *figures in zip(*[numbers] * _WINDOW_NUMBERS, strict=True):
        windows.setdefault(rule, []).append(Window(*figures))
    return ScopeLimits(organization_id, ScopeKind(kind), ref, rules_of(rules), windows)


@lru_cache(maxsize=1 << 14)
def rules_of(text: str) -> tuple[Rule, ...]:
    """The rules of a scope as stored; they change seldom and are read with every batch."""
    return _rules_decoder.decode(text)


_rules_decoder: Final = msgspec.json.Decoder(tuple[Rule, ...])
_WINDOW_NUMBERS: Final = 6
"""The rule's number, then the window's five."""


def utc(instant: datetime) -> datetime:
    """The same instant as the core wants it."""
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)
