"""Calls explained and listed, from a store in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.ledger.commands import Usage
from farebox.operations.call_facts import CallFacts, CallSummary, Position
from farebox.operations.calls import (
    PAGE_MAX,
    decode_cursor,
    encode_cursor,
    explain_call,
    list_calls,
)

AT = datetime(2026, 5, 17, tzinfo=UTC)
ORG = UUID(int=1)


def call(number: int, turn: int = 0) -> CallFacts:
    """A settled call of one cent."""
    return CallFacts(
        id=UUID(int=number),
        turn=turn,
        status="settled",
        charge=Nanos(10_000_000),
        absorbed=Nanos(0),
        held=Nanos(20_000_000),
        estimated=False,
        model="gpt-5.4",
        lane="standard",
        endpoint="responses",
        project_id=UUID(int=2),
        project_name="search",
        key_id=UUID(int=3),
        key_name=None,
        user="",
        feature="",
        environment="production",
        run="",
        usage=Usage(input_tokens=7),
        at=AT,
        ended_at=AT,
        latency_ms=5,
        http_status=200,
        reason="",
        times=1,
        organization_id=ORG,
        organization_name="acme",
        currency="USD",
        key_prefix=None,
        cost=Nanos(9_000_000),
        available_before=Nanos(0),
    )


class MemoryCalls:
    """A store of calls that are given."""

    def __init__(self, *calls: CallFacts) -> None:
        self.calls = sorted(calls, key=lambda each: (-each.id.int, each.turn))
        self.begin: datetime | None = None

    async def kept_from(self) -> datetime | None:
        return self.begin

    async def find(self, call_id: UUID) -> CallFacts | None:
        return next((each for each in self.calls if each.id == call_id), None)

    async def page(
        self, organization_id: UUID, *, after: Position | None, limit: int
    ) -> list[CallSummary]:
        assert organization_id == ORG
        rest = [
            each
            for each in self.calls
            if after is None or (-each.id.int, each.turn) > (-after.id.int, after.turn)
        ]
        return list(rest[:limit])


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
async def test_every_row_is_on_exactly_one_page(limit: int) -> None:
    """Rows of one id stay apart too: a page may end between a call and a refusal within it."""
    store = MemoryCalls(call(5), call(5, turn=2), call(4), call(9))
    seen: list[str] = []
    cursor = None
    while True:
        rows, cursor = await list_calls(store, ORG, limit=limit, cursor=cursor)
        assert 0 < len(rows) <= limit
        seen += [row["id"] for row in rows]
        if cursor is None:
            break
    assert seen == [format_id("req", UUID(int=number)) for number in (9, 5, 5, 4)]


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_cursor_comes_back_as_it_was(turn: int) -> None:
    """A cursor is the place after a row, in letters that need no quoting in a URL."""
    row = call(2**128 - 1, turn)
    text = encode_cursor(row)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert decode_cursor(text) == Position(row.id, turn)


@pytest.mark.parametrize("text", ["", "?", "AAAA", "A" * 24, "\u00e4" * 23, "A" * 10_000])
def test_a_cursor_of_somebody_else_is_refused(text: str) -> None:
    """Whatever a client sends as a cursor is read or refused with the field's name."""
    with pytest.raises(InvalidInputError, match="cursor must be"):
        decode_cursor(text)


@pytest.mark.parametrize("limit", [0, -1, PAGE_MAX + 1])
async def test_a_page_has_a_size(limit: int) -> None:
    """A page of no row, or of too many, is refused."""
    with pytest.raises(InvalidInputError, match="limit must be from 1 to 1000"):
        await list_calls(MemoryCalls(), ORG, limit=limit)


async def test_an_empty_list_ends_at_once() -> None:
    """No call, no cursor."""
    assert await list_calls(MemoryCalls(), ORG) == ([], None)


async def test_only_the_operator_sees_the_cost() -> None:
    """What the upstream bills is the operator's affair: a tenant's explanation is without it."""
    store = MemoryCalls(call(5))
    told = await explain_call(store, UUID(int=5))
    assert told["charge"] == "0.01"
    assert told["organization_id"] == str(ORG)
    assert "operator" not in told
    assert "0.009" not in str(told)
    mine = await explain_call(store, UUID(int=5), for_operator=True)
    assert mine["operator"]["cost"] == "0.009"


async def test_a_call_that_never_was_is_not_found() -> None:
    """An unknown id says where ids come from."""
    with pytest.raises(NotFoundError, match="x-request-id"):
        await explain_call(MemoryCalls(), UUID(int=5))
