"""Reads of an organisation's money for people: balance, grants, limits, history.

Each answer is of one instant: its rows are read in one snapshot. Nothing here takes a lock or
writes, so it never stands in the way of a call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from farebox.kit.errors import NotFoundError
from farebox.kit.money import Nanos
from farebox.ledger.grants import Grant
from farebox.ledger.journal import Account
from farebox.ledger.organizations import Organization
from farebox.ledger.scopes import ScopeKind
from farebox.operations.balance import (
    Balance,
    GrantView,
    LimitPage,
    LimitView,
    view_balance,
    view_grants,
    view_limits,
)
from farebox.storage import rows
from farebox.storage.sql import queries

_Connection = AsyncConnection[tuple[Any, ...]]


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One posting of the journal, as it changed what the customer has."""

    id: int
    kind: str
    at: datetime
    """The instant it counts from."""
    booked_at: datetime
    change: Nanos
    """Of the customer's credit less debt: positive for grants, negative for calls and breakage."""
    entries: dict[str, Nanos]
    """Account -> amount; debits positive."""
    grant_id: UUID | None
    call_id: UUID | None
    first_sequence: int | None
    """The first and last of the organisation's calls that it covers."""
    last_sequence: int | None
    note: str | None


async def read_balance(connection: _Connection, organization_id: UUID) -> Balance:
    """The organisation's money now, by source and grant (CRD-12, CRD-13, NEG-08).

    Raises:
        NotFoundError: There is no such organisation.
    """
    async with _snapshot(connection):
        organization, now = await _organization(connection, organization_id)
        found = await _all(connection, "read_grants_with_money", (organization_id,))
    return view_balance(organization, [rows.grant(row) for row in found], now)


async def list_grants(
    connection: _Connection, organization_id: UUID, *, before: int | None = None, limit: int = 100
) -> tuple[GrantView, ...]:
    """Every grant there ever was, newest first; ``before`` is the sequence of the last one seen.

    Raises:
        NotFoundError: There is no such organisation.
    """
    values = {"organization_id": organization_id, "before": before, "limit": limit}
    async with _snapshot(connection):
        organization, now = await _organization(connection, organization_id)
        page = await _all(connection, "list_grants", values)
        money = await _all(connection, "read_grants_with_money", (organization_id,))
    return view_grants(organization, list(map(rows.grant, page)), list(map(rows.grant, money)), now)


async def find_grant(connection: _Connection, grant_id: UUID) -> Grant:
    """A grant's row.

    Raises:
        NotFoundError: There is no such grant.
    """
    found = await _all(connection, "find_grant", (grant_id,))
    if not found:
        raise NotFoundError("There is no such grant; `farebox credits grants --org O` lists them.")
    return rows.grant(found[0])


async def list_limits(
    connection: _Connection, organization_id: UUID, *, scopes: Iterable[int] | None = None
) -> tuple[LimitView, ...]:
    """The limits that stand, with their counters in the current window.

    Args:
        connection: In autocommit mode.
        organization_id: Whose.
        scopes: Numbers of the scopes to look at; None for all there are, which may be many.

    Raises:
        NotFoundError: There is no such organisation.
    """
    if scopes is not None:
        numbers = list(scopes)
        page = await page_limits(connection, organization_id, scopes=numbers, limit=len(numbers))
        return page.limits
    async with _snapshot(connection):
        organization, now = await _organization(connection, organization_id)
        found = await _all(connection, "read_limits", (organization_id,))
    return view_limits(organization, [rows.limits(row) for row in found], now)


async def page_limits(
    connection: _Connection,
    organization_id: UUID,
    *,
    scopes: list[int] | None = None,
    kind: ScopeKind | None = None,
    ref: str | None = None,
    begin: int = 0,
    limit: int,
) -> LimitPage:
    """The limits of some scopes, in the order of the scopes' numbers.

    Args:
        connection: In autocommit mode.
        organization_id: Whose.
        scopes: Numbers of the scopes; None for all.
        kind: Of the scopes.
        ref: Of the scopes, as the engine names it.
        begin: The first scope's number, or one before it.
        limit: The most scopes.

    Raises:
        NotFoundError: There is no such organisation.
    """
    values = {
        "organization_id": organization_id,
        "numbers": scopes,
        "kind": None if kind is None else kind.value,
        "ref": ref,
        "begin": begin,
        "limit": limit + 1,
    }
    async with _snapshot(connection):
        organization, now = await _organization(connection, organization_id)
        found = await _all(connection, "page_limits", values)
        everywhere = await _all(connection, "read_everywhere", (organization_id,))
    shown = {row[5]: rows.limits(row[:5]) for row in found[:limit]}
    known = {scope.number: scope for scope in map(rows.limits, everywhere)}
    views = view_limits(organization, list((known | shown).values()), now)
    wanted = {(scope.kind, scope.ref) for scope in shown.values()}
    return LimitPage(
        tuple(view for view in views if (view.scope_kind, view.scope_ref) in wanted),
        found[limit][5] if len(found) > limit else None,
        now,
    )


async def read_scope_names(
    connection: _Connection,
    organization_id: UUID,
    *,
    projects: Sequence[UUID],
    keys: Sequence[UUID],
) -> dict[str, str]:
    """Names of the organisation's projects and keys, by the reference that their scope has."""
    if not projects and not keys:
        return {}
    values = {
        "organization_id": organization_id,
        "projects": list(projects),
        "keys": list(keys),
    }
    return {row[0].hex: row[1] for row in await _all(connection, "scope_names", values)}


async def list_history(
    connection: _Connection, organization_id: UUID, *, before: int | None = None, limit: int = 100
) -> list[HistoryEntry]:
    """The journal, newest first; ``before`` is the id of the last entry seen."""
    values = {"organization_id": organization_id, "before": before, "limit": limit}
    return [_entry(row) for row in await _all(connection, "list_postings", values)]


def _entry(row: tuple[Any, ...]) -> HistoryEntry:
    entries = {account: Nanos(amount) for account, amount in zip(row[4], row[5], strict=True)}
    mine = (Account.CUSTOMER_CREDIT.value, Account.RECEIVABLE.value)
    return HistoryEntry(
        id=row[0],
        kind=row[1],
        at=rows.utc(row[2]),
        booked_at=rows.utc(row[3]),
        change=Nanos(-sum(entries.get(account, 0) for account in mine)),
        entries=entries,
        grant_id=row[6],
        call_id=row[7],
        first_sequence=row[8],
        last_sequence=row[9],
        note=row[10],
    )


@asynccontextmanager
async def _snapshot(connection: _Connection) -> AsyncIterator[None]:
    async with connection.transaction():
        await connection.execute(queries("catalogue")["read_only_snapshot"])
        yield


async def _organization(
    connection: _Connection, organization_id: UUID
) -> tuple[Organization, datetime]:
    found = await _all(connection, "read_organization", (organization_id,))
    if not found:
        raise NotFoundError("There is no such organisation.")
    return rows.organization(found[0]), rows.utc(found[0][-1])


async def _all(connection: _Connection, name: str, values: Any) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(queries("balance")[name], values)
    return await cursor.fetchall()
