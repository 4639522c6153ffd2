"""Calls on PostgreSQL: closed ones, open holds and refusals, one by one and in pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from farebox.kit.money import Nanos
from farebox.ledger.commands import LineItem, Usage
from farebox.ledger.holds import Progress
from farebox.ledger.limits import LimitFigures
from farebox.operations.call_facts import (
    Attempt,
    CallFacts,
    CallSummary,
    GrantPart,
    Position,
    PostingFacts,
    PriceFacts,
)
from farebox.rating.price_book import PriceVersion
from farebox.storage.planned_prices import load_planned
from farebox.storage.rows import utc
from farebox.storage.sql import queries

POSTINGS_MAX: Final = 100
"""Postings of one call's own; there are a few: a late change, one for each grant given back to."""

ATTEMPTS_MAX: Final = 20
"""Tries of one request that are shown."""

_NEWEST: Final = Position(UUID(int=2**128 - 1), -1)
_SUMMARY_COLUMNS: Final = 29

_Row = tuple[Any, ...]


class PostgresCallStore:
    """Implements ``operations.calls.CallStore`` on one connection in autocommit mode."""

    def __init__(self, connection: AsyncConnection[_Row]) -> None:
        self._connection = connection
        self._sql = queries("calls")

    async def page(
        self, organization_id: UUID, *, after: Position | None, limit: int
    ) -> list[CallSummary]:
        """See the port."""
        place = after or _NEWEST
        found = await self._all(
            "call_page", organization_id=organization_id, id=place.id, turn=place.turn, limit=limit
        )
        return [summary_of(row) for row in found]

    async def find(self, call_id: UUID) -> CallFacts | None:
        """See the port.

        The open hold is looked for first: whoever is not there any more has ended and is found as
        a closed call.
        """
        for name, read in (
            ("open_call", self._open),
            ("closed_call", self._closed),
            ("refused_call", self._refused),
        ):
            found = await self._all(name, id=call_id)
            if found:
                return await read(found[0])
        return None

    async def kept_from(self) -> datetime | None:
        """See the port."""
        at = (await self._all("kept_from"))[0][0]
        return None if at is None else utc(at)

    async def _open(self, row: _Row) -> CallFacts:
        rest = row[_SUMMARY_COLUMNS:]
        return CallFacts(
            **_summary(row),
            **_about(rest),
            available_before=rest[9],
            ceiling=tuple(rest[10]),
            output_limit=rest[11],
            limits=_limits(rest[12]),
            parts=await self._parts(rest[13], rest[14]),
            unsecured=rest[15],
            latest_end=utc(rest[16]),
            node_id=rest[17],
            epoch=rest[18],
            progress=None if rest[19] is None else Progress(*rest[19]),
            price_id=rest[20],
            price=await self._price(rest[20]),
            upstream_account=rest[21],
        )

    async def _closed(self, row: _Row) -> CallFacts:
        rest = row[_SUMMARY_COLUMNS:]
        return CallFacts(
            **_summary(row),
            **_about(rest),
            attempts=await self._attempts(rest[0], row[23], rest[7]),
            sequence=rest[9],
            owed=rest[10],
            cost=rest[11],
            late_charge=rest[12],
            late_absorbed=rest[13],
            available_before=rest[14],
            ceiling=tuple(rest[15]),
            output_limit=rest[16],
            limits=_limits(rest[17]),
            parts=await self._parts(rest[18], rest[19]),
            lines=tuple(map(LineItem, *rest[20:24])),
            price_id=rest[24],
            price=await self._price(rest[24]),
            upstream_account=rest[25],
            postings=await self._postings(row[0], organization_id=rest[0], sequence=rest[9]),
        )

    async def _refused(self, row: _Row) -> CallFacts:
        rest = row[_SUMMARY_COLUMNS:]
        return CallFacts(
            **_summary(row),
            organization_id=rest[0],
            organization_name=rest[1],
            currency=rest[2],
            key_prefix=rest[3],
            message=rest[4],
            available_before=rest[5],
            held_before=rest[6],
            limits=_limits(rest[7]),
        )

    async def _attempts(
        self, organization_id: UUID, at: datetime, client_request_id: str
    ) -> tuple[Attempt, ...]:
        if not client_request_id:
            return ()
        found = await self._all(
            "attempts",
            organization_id=organization_id,
            at=at,
            client_request_id=client_request_id,
            limit=ATTEMPTS_MAX,
        )
        return tuple(Attempt(row[0], row[1], Nanos(row[2]), row[3]) for row in found)

    async def _parts(self, ids: Sequence[UUID], amounts: Sequence[int]) -> tuple[GrantPart, ...]:
        found = await self._all("grants", ids=list(ids)) if ids else []
        known = {row[0]: row for row in found}
        parts = []
        for grant_id, amount in zip(ids, amounts, strict=True):
            _, source, reference, ends = known.get(grant_id, (None, "unknown", None, None))
            expires_at = None if ends is None else utc(ends)
            parts.append(GrantPart(grant_id, Nanos(amount), source, reference, expires_at))
        return tuple(parts)

    async def _price(self, price_id: UUID) -> PriceFacts | None:
        found = await self._all("price_version", id=price_id)
        if not found:
            planned = (await load_planned(self._connection, (price_id,))).get(price_id)
            return None if planned is None else _price_facts(planned)
        version_id, provider, model, lane, currency, effective_at, source, over = found[0]
        return PriceFacts(
            version_id, provider, model, lane, currency, utc(effective_at), source, over
        )

    async def _postings(
        self, call_id: UUID, *, organization_id: UUID, sequence: int
    ) -> tuple[PostingFacts, ...]:
        whose = {"organization_id": organization_id}
        found = await self._all("batch_posting", **whose, sequence=sequence)
        found += await self._all("call_postings", **whose, id=call_id, limit=POSTINGS_MAX)
        return tuple(
            PostingFacts(row[0], row[1], utc(row[2]), row[3], row[4], row[5], row[6], row[7])
            for row in found
        )

    async def _all(self, name: str, **parameters: object) -> list[_Row]:
        cursor = self._connection.cursor(binary=True)
        await cursor.execute(self._sql[name], parameters)
        return await cursor.fetchall()


def summary_of(row: _Row) -> CallSummary:
    """A row of a list, from the columns that every query of calls begins with."""
    return CallSummary(**_summary(row))


def _summary(row: _Row) -> dict[str, Any]:
    """The columns that every query begins with."""
    return {
        "id": row[0],
        "turn": row[1],
        "status": row[2],
        "charge": row[3],
        "absorbed": row[4],
        "held": row[5],
        "estimated": row[6],
        "model": row[7],
        "lane": row[8],
        "endpoint": row[9],
        "project_id": row[10],
        "project_name": row[11],
        "key_id": row[12],
        "key_name": row[13],
        "user": row[14],
        "feature": row[15],
        "environment": row[16],
        "run": row[17],
        "usage": Usage(
            input_tokens=row[18],
            cached_tokens=row[19],
            cache_write_tokens=row[20],
            output_tokens=row[21],
            reasoning_tokens=row[22],
        ),
        "at": utc(row[23]),
        "ended_at": None if row[24] is None else utc(row[24]),
        "latency_ms": row[25],
        "http_status": row[26],
        "reason": row[27],
        "times": row[28],
    }


def _about(rest: _Row) -> dict[str, Any]:
    """What admission recorded beyond that; the next nine columns of open and closed calls."""
    return {
        "organization_id": rest[0],
        "organization_name": rest[1],
        "currency": rest[2],
        "key_prefix": rest[3],
        "streamed": rest[4],
        "priority": rest[5],
        "tags": rest[6],
        "client_request_id": rest[7],
        "retry_count": rest[8],
    }


def _limits(value: object) -> tuple[LimitFigures, ...]:
    """The figures of each limit at the decision, as stored: a list, or the one that refused."""
    if value is None:
        return ()
    if isinstance(value, list):
        return msgspec.convert(value, tuple[LimitFigures, ...])
    return (msgspec.convert(value, LimitFigures),)


def _price_facts(version: PriceVersion) -> PriceFacts:
    return PriceFacts(
        version.id,
        version.provider,
        version.model,
        version.lane.value,
        version.currency,
        version.effective_at,
        version.source,
        version.long_context_over,
    )
