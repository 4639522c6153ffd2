"""Rows of the database as facts of the engine: one reader per query of ``engine.sql``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from farebox.kit.money import Nanos
from farebox.ledger.commands import Usage
from farebox.ledger.grants import Grant, GrantState, Source
from farebox.ledger.holds import CallState, Dimensions, Draw, Earmark, Hold, Progress, Raised
from farebox.ledger.limits import Period, Rule, ScopeKind, ScopeLimits, Window
from farebox.ledger.organizations import OnLapse, OnOverrun, Organization
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
        steps=row[20],
        progress=None if row[21] is None else Progress(*row[21]),
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
        raised=raised(row[13]),
        admitted_at=utc(row[14]),
        dimensions=Dimensions(*row[15:22]),
        usage=Usage(
            input_tokens=row[22],
            cached_tokens=row[23],
            cache_write_tokens=row[24],
            output_tokens=row[25],
            reasoning_tokens=row[26],
        ),
        admit_fingerprint=row[27],
        settle_fingerprint=row[28],
    )


def key(row: Row) -> KeyFacts:
    """A row of ``read_keys``."""
    return KeyFacts(*row)


def raised(value: object) -> tuple[Raised, ...]:
    """The counters that a hold raised, as stored."""
    return () if value is None else msgspec.convert(value, tuple[Raised, ...])


def limits(row: Row) -> ScopeLimits:
    """A row of ``read_limits``."""
    _, kind, scope_id, rules, windows = row
    return ScopeLimits(
        kind=ScopeKind(kind),
        id=scope_id,
        rules={Period(p): Rule(Period(p), Nanos(m)) for p, m in rules.items()},
        windows={
            Period(p): [msgspec.convert(window, Window) for window in kept]
            for p, kept in windows.items()
        },
    )


def utc(instant: datetime) -> datetime:
    """The same instant as the core wants it."""
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)
