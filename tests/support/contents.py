"""Content as a gateway would have stored it."""

from __future__ import annotations

from uuid import UUID

import psycopg

REQUEST = b'{"model":"gpt-5.4","messages":[{"role":"user","content":"hello"}]}'
ANSWER = b'{"choices":[{"message":{"content":"hello yourself"}}]}'


def store_content(
    dsn: str, organization_id: UUID, project_id: UUID, call_id: UUID, *, days: int = 30
) -> None:
    """Store a call's request and answer for so many days."""
    with psycopg.connect(dsn, autocommit=True) as sql:
        row = sql.execute(
            "SELECT (farebox_now() AT TIME ZONE 'UTC')::date + %s", (days + 1,)
        ).fetchone()
        assert row is not None
        sql.execute("SELECT farebox_make_content_day(%s)", row)
        sql.execute(
            "INSERT INTO call_content (ends_on, call_id, organization_id, project_id, request,"
            " request_bytes, answer, answer_bytes, answer_type)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'application/json')",
            (
                *row,
                call_id,
                organization_id,
                project_id,
                REQUEST,
                len(REQUEST),
                ANSWER,
                2 * len(ANSWER),
            ),
        )
