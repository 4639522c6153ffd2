"""Rotation: two keys that overlap, and limits that go along."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.ledger.commands import Admitted, Refused, SetLimit
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.key_rotation import copied_limits, limit_copier
from farebox.storage.balance_store import list_limits
from tests.support.office import Office, open_office
from tests.support.till import Till


@pytest.fixture
async def till(office: Office) -> Till:
    """An organisation with credit and a key."""
    till = Till()
    till.put_into_database(office.dsn)
    await office.submit(till.grant(1_000))
    return till


async def outcome(office: Office, till: Till, key_id: UUID) -> str:
    """What becomes of a call with that key."""
    dimensions = structs.replace(till.admit().dimensions, key_id=key_id)
    result = await office.submit(till.admit(1, dimensions=dimensions))
    return result.code if isinstance(result, Refused) else type(result).__name__


async def test_both_keys_work_while_they_overlap(office: Office, till: Till) -> None:
    """ORG-16: then the old one is refused as expired, the new one goes on."""
    old = till.key_id
    made = await office.administration.rotate_key(old, overlap=timedelta(hours=1))
    assert [await outcome(office, till, key) for key in (old, made.id)] == ["Admitted"] * 2
    await office.connection.execute("UPDATE deployment SET clock_offset = '1 hour'")
    assert [await outcome(office, till, key) for key in (old, made.id)] == [
        "key_expired",
        "Admitted",
    ]
    (before,) = await office.tenants.keys(key_id=old, limit=1)
    (after,) = await office.tenants.keys(key_id=made.id, limit=1)
    assert (before.replaced_by_id, after.replaces_id) == (made.id, old)
    assert (after.name, after.project_id, after.expires_at) == (
        *(before.name, before.project_id),
        None,
    )
    assert (await office.administration.find_key(before.name)).id == made.id


async def test_no_overlap_ends_the_old_key_at_once(office: Office, till: Till) -> None:
    """A key that leaked is replaced in one step."""
    made = await office.administration.rotate_key(till.key_id, overlap=timedelta(0))
    assert await outcome(office, till, till.key_id) == "key_expired"
    assert await outcome(office, till, made.id) == "Admitted"


async def test_an_end_that_was_set_is_not_moved_back(office: Office, till: Till) -> None:
    """Rotation never gives an old key more time than it had."""
    now = await office.tenants.now()
    soon = now + timedelta(minutes=5)
    made = await office.administration.create_key("k", till.project_id, expires_at=soon)
    await office.administration.rotate_key(made.id, overlap=timedelta(days=1))
    (old,) = await office.tenants.keys(key_id=made.id, limit=1)
    assert old.expires_at == soon


async def test_a_key_is_rotated_once_and_while_it_works(office: Office, till: Till) -> None:
    """A chain, not a tree; a revoked key is made anew instead."""
    made = await office.administration.rotate_key(till.key_id)
    with pytest.raises(ConflictError, match="rotated already"):
        await office.administration.rotate_key(till.key_id)
    await office.administration.revoke_key(made.id)
    with pytest.raises(ConflictError, match="keys create"):
        await office.administration.rotate_key(made.id)
    with pytest.raises(NotFoundError):
        await office.administration.rotate_key(UUID(int=99))
    for overlap in (timedelta(seconds=-1), timedelta(days=91)):
        with pytest.raises(InvalidInputError, match="overlap"):
            await office.administration.rotate_key(till.key_id, overlap=overlap)


async def test_a_new_key_is_never_without_its_limits(office: Office, till: Till) -> None:
    """BUD-14: the old key's own limits stand on the new one before it opens anything."""

    def limit(
        kind: ScopeKind, ref: str, maximum: int, measure: Measure = Measure.MONEY
    ) -> SetLimit:
        return SetLimit(
            organization_id=till.organization_id,
            scope_kind=kind,
            scope_ref=ref,
            measure=measure,
            period=Period.MONTH,
            maximum=maximum,
            thresholds=(50,),
            owner="Ada",
        )

    for command in (
        limit(ScopeKind.KEY, till.key_id.hex, 2),
        limit(ScopeKind.KEY, till.key_id.hex, 9, Measure.CALLS),
        limit(ScopeKind.KEY, "", 500),
        limit(ScopeKind.KEY, "", 600, Measure.TOKENS),  # stands on the new key by itself
        limit(ScopeKind.PROJECT, till.project_id.hex, 700),
    ):
        await office.submit(command)
    assert await outcome(office, till, till.key_id) == Admitted.__name__
    limits = await list_limits(office.connection, till.organization_id)
    copies = copied_limits(till.organization_id, limits, till.key_id, UUID(int=5))
    assert sorted(copy.maximum or 0 for copy in copies) == [2, 9]
    seen = []

    async def prepare(new: UUID) -> None:
        assert not await office.tenants.keys(key_id=new, limit=1)
        seen.append(new)
        await limit_copier(office.log, office.submit, till.organization_id, limits, till.key_id)(
            new
        )

    made = await office.administration.rotate_key(till.key_id, prepare=prepare)
    assert seen == [made.id]
    outcomes = [await outcome(office, till, made.id) for _ in range(3)]
    assert outcomes == ["Admitted", "Admitted", "balance_held"]  # two nanos are held
    assert (await office.actions()).count("limit.set") == 2


async def test_a_refused_rotation_leaves_nothing_behind(office: Office, till: Till) -> None:
    """No limit is set for a key that is never made; many who rotate at once make one key."""
    prepared: list[UUID] = []

    async def prepare(new: UUID) -> None:
        prepared.append(new)

    made = await office.administration.rotate_key(till.key_id, prepare=prepare)
    await office.administration.revoke_key(made.id)
    for key_id in (till.key_id, made.id):
        with pytest.raises(ConflictError):
            await office.administration.rotate_key(key_id, prepare=prepare)
    assert prepared == [made.id]
    fresh = await office.administration.create_key("k", till.project_id)

    async def rotate(_: int) -> str:
        async with open_office(office.dsn) as other:
            try:
                await other.administration.rotate_key(fresh.id)
            except ConflictError as error:
                return error.message
            return "rotated"

    outcomes = await asyncio.gather(*map(rotate, range(6)))
    assert outcomes.count("rotated") == 1
    assert all("rotated already" in each for each in outcomes if each != "rotated")
