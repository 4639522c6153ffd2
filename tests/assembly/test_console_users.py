"""People of the console are made with a checked address and a hashed password."""

from __future__ import annotations

import psycopg
import pytest

from farebox.assembly.console_users import make_console_user
from farebox.kit.errors import InvalidInputError
from farebox.storage.connecting import Connector


async def test_a_person_is_made_once_and_given_a_new_password(dsn: str) -> None:
    """The same address again, in whatever case, is the same person; their sessions end."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        first = await make_console_user(connection, " Ada@example.org ", "a long enough password")
        with psycopg.connect(dsn, autocommit=True) as sql:
            sql.execute(
                "INSERT INTO console_session (digest, user_id, expires_at)"
                " VALUES (%s, %s, now() + interval '1 hour')",
                (bytes(32), first),
            )
        again = await make_console_user(connection, "ada@EXAMPLE.org", "another long password")
    assert again == first
    with psycopg.connect(dsn) as sql:
        people = sql.execute("SELECT email, password_hash FROM console_user").fetchall()
        assert sql.execute("SELECT count(*) FROM console_session").fetchone() == (0,)
    ((email, password_hash),) = people
    assert email == "Ada@example.org"
    assert password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


@pytest.mark.parametrize(
    ("email", "password", "field"),
    [
        ("", "a long enough password", "email"),
        ("ada", "a long enough password", "email"),
        ("a b@example.org", "a long enough password", "email"),
        ("ada@example.org\x00", "a long enough password", "email"),
        ("a" * 250 + "@example.org", "a long enough password", "email"),
        ("ada@example.org", "short", "password"),
        ("ada@example.org", "x" * 1_001, "password"),
    ],
)
async def test_bad_input_names_its_field(email: str, password: str, field: str, dsn: str) -> None:
    """Nobody is made with an address that cannot be typed or a password that can be guessed."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        with pytest.raises(InvalidInputError) as caught:
            await make_console_user(connection, email, password)
    assert caught.value.field == field
    assert password not in caught.value.message or not password
