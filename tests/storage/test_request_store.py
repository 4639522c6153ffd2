"""Writes of the native API on PostgreSQL: once, whoever repeats them."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from farebox.kit.errors import ConflictError, RefusedError
from farebox.operations.idempotency import Answer, Begun, request_fingerprint
from farebox.storage.request_store import PostgresRequestStore
from tests.support.office import Office, open_office

FIRST, SECOND = UUID(int=1), UUID(int=2)
PRINT = request_fingerprint("POST", "/api/v1/organizations", b"{}")
OTHER = request_fingerprint("POST", "/api/v1/organizations", b'{"a": 1}')
ANSWER = Answer(201, "application/json", b'{"id": 1}')


@pytest.fixture
def store(office: Office) -> PostgresRequestStore:
    """The store."""
    return PostgresRequestStore(office.connection)


async def test_a_repeated_request_gets_the_first_answer(store: PostgresRequestStore) -> None:
    """The same key and request: the kept answer, byte for byte; another caller's key is another."""
    assert await store.begin("ada", "k", PRINT, FIRST) == Begun(FIRST)
    await store.finish("ada", "k", ANSWER)
    assert await store.begin("ada", "k", PRINT, SECOND) == ANSWER
    assert await store.begin("bob", "k", PRINT, SECOND) == Begun(SECOND)
    await store.finish("ada", "k", Answer(500, "text/plain", b""))
    assert await store.begin("ada", "k", PRINT, SECOND) == ANSWER


async def test_a_key_means_one_request(store: PostgresRequestStore) -> None:
    """With another request it is refused, whether the first is done or not."""
    await store.begin("ada", "k", PRINT, FIRST)
    for _ in range(2):
        with pytest.raises(RefusedError) as caught:
            await store.begin("ada", "k", OTHER, SECOND)
        assert caught.value.reason == "idempotency_key_reused"
        await store.finish("ada", "k", ANSWER)


async def test_one_of_many_at_once_is_done(office: Office) -> None:
    """Twenty equal requests at the same moment: one is begun, the others are told to wait."""

    async def begin(number: int) -> str:
        async with open_office(office.dsn) as other:
            store = PostgresRequestStore(other.connection)
            try:
                return type(await store.begin("ada", "k", PRINT, UUID(int=number))).__name__
            except ConflictError:
                return "conflict"

    outcomes = await asyncio.gather(*map(begin, range(20)))
    assert sorted(outcomes) == ["Begun", *["conflict"] * 19]


async def test_an_abandoned_request_is_done_again_with_the_same_effect(
    office: Office, store: PostgresRequestStore
) -> None:
    """After a crash the repetition gets the first one's id, so that it makes the same thing."""
    await store.begin("ada", "k", PRINT, FIRST)
    with pytest.raises(ConflictError):
        await store.begin("ada", "k", PRINT, SECOND)
    await office.connection.execute(
        "UPDATE api_request SET taken_at = taken_at - interval '2 minutes'"
    )
    with pytest.raises(RefusedError):
        await store.begin("ada", "k", OTHER, SECOND)
    assert await store.begin("ada", "k", PRINT, SECOND) == Begun(FIRST)
    with pytest.raises(ConflictError):
        await store.begin("ada", "k", PRINT, SECOND)
    await store.abandon("ada", "k")
    assert await store.begin("ada", "k", PRINT, SECOND) == Begun(SECOND)
    await store.finish("ada", "k", ANSWER)
    await store.abandon("ada", "k")
    assert await store.begin("ada", "k", PRINT, FIRST) == ANSWER


async def test_old_requests_are_forgotten(office: Office, store: PostgresRequestStore) -> None:
    """As long as the engine remembers, 35 days; then the key is free again."""
    await store.begin("ada", "old", PRINT, FIRST)
    await store.finish("ada", "old", ANSWER)
    await store.begin("ada", "new", PRINT, FIRST)
    await office.connection.execute(
        "UPDATE api_request SET created_at = now() - interval '36 days' WHERE key = 'old'"
    )
    assert await store.drop_old() == 1
    assert await store.drop_old() == 0
    assert await store.begin("ada", "old", OTHER, SECOND) == Begun(SECOND)
