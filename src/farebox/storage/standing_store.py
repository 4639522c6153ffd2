"""What somebody may do, read once per request: a person's roles, or a management key's scope."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from farebox.kit.ids import format_id
from farebox.storage.key_store import find_management_key
from farebox.storage.people_store import PostgresPeopleStore
from farebox.tenancy.actors import Actor, ActorKind, Via
from farebox.tenancy.api_keys import KeyState
from farebox.tenancy.permissions import Role, Standing

MEMBERSHIPS_MAX: Final = 10_000
"""Of one person; whoever has more is an operator."""

_Connection = AsyncConnection[tuple[Any, ...]]


async def user_standing(connection: _Connection, user_id: UUID, via: Via) -> Standing | None:
    """What a person may do; None for somebody whose login is closed."""
    store = PostgresPeopleStore(connection)
    found = await store.users(user_id=user_id, limit=1)
    if not found or found[0].disabled_at is not None:
        return None
    user = found[0]
    members = await store.members(user_id=user_id, limit=MEMBERSHIPS_MAX)
    return Standing(
        actor=_actor(ActorKind.USER, format_id("user", user.id), user.email, via),
        operator=user.operator,
        roles={member.organization_id: member.role for member in members},
    )


async def management_key_standing(
    connection: _Connection, digest: bytes, via: Via
) -> Standing | None:
    """What a management key may do; None for one that opens nothing (any more).

    A key of the whole deployment is an operator; one of an organisation has its role there alone.
    """
    key = await find_management_key(connection, digest)
    if key is None:
        return None
    now = await PostgresPeopleStore(connection).now()
    if key.state_at(now) is not KeyState.ACTIVE:
        return None
    roles: dict[UUID, Role] = {}
    if key.organization_id is not None:
        assert key.role is not None
        roles[key.organization_id] = key.role
    return Standing(
        actor=_actor(ActorKind.MANAGEMENT_KEY, format_id("key", key.id), key.name, via),
        operator=key.organization_id is None,
        roles=roles,
    )


def _actor(kind: ActorKind, actor_id: str, name: str, via: Via) -> Actor:
    return Actor(
        kind=kind,
        id=actor_id,
        name=name,
        door=via.door,
        address=via.address,
        request_id=via.request_id,
    )
