"""People of the console from the command line."""

from __future__ import annotations

import psycopg
import pytest

from tests.cli.conftest import Farebox


def test_a_person_is_added_and_given_a_new_password(farebox: Farebox, dsn: str) -> None:
    """ORG-14: a person is made with a password that is shown once; again gives a new one."""
    first = farebox("users", "add", "ada@example.org", "--json").document
    again = farebox("users", "add", "Ada@example.org", "--json").document
    assert first["id"] == again["id"]
    assert len(first["password"]) >= 12
    assert first["password"] != again["password"]
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT password_hash FROM console_user").fetchall()
    assert len(rows) == 1
    assert rows[0][0].startswith("$argon2id$")


@pytest.mark.parametrize(
    ("email", "password", "field"),
    [("not-an-address", "long enough 1", "email"), ("a@b.c", "x", "password")],
)
def test_bad_input_names_the_field(farebox: Farebox, email: str, password: str, field: str) -> None:
    """A bad address or a short password is refused, naming the field."""
    done = farebox("users", "add", email, "--password-stdin", stdin=f"{password}\n", status=2)
    assert field in done.err
