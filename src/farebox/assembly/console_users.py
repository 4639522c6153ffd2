"""People of the console, made: the first one by the sandbox, the others by hand."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from farebox.console.passwords import SALT_BYTES, check_password, hash_password
from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.storage.tenancy_store import PostgresTenantStore, put_console_user
from farebox.tenancy.actors import SYSTEM, Actor
from farebox.tenancy.names import parse_email


async def make_console_user(
    connection: AsyncConnection[tuple[Any, ...]],
    email: str,
    password: str,
    *,
    operator: bool = False,
    by: Actor = SYSTEM,
) -> UUID:
    """Make a person who may sign in, or give them a new password and end their sessions.

    Args:
        connection: In autocommit mode.
        email: Found again in whatever case.
        password: Kept as an argon2id hash alone.
        operator: Whether they administer the deployment; the first person does in any case.
        by: Who makes them.

    Returns:
        The person's id.

    Raises:
        InvalidInputError: Naming the field.
    """
    address = parse_email(email)
    check_password(password)
    hashed = await asyncio.to_thread(hash_password, password, os.urandom(SALT_BYTES))
    return await put_console_user(
        connection,
        user_id=uuid7(await PostgresTenantStore(connection).now(), os.urandom(RANDOM_BYTES)),
        email=address,
        password_hash=hashed,
        operator=operator,
        by=by,
    )
