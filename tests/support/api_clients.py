"""Clients of the native API: one for every kind of caller, on a console that runs in the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import httpx2
import psycopg

from farebox.kit.ids import format_id, parse_id
from farebox.tenancy.api_keys import KeyKind, digest, make_key, shown_prefix
from farebox.tenancy.permissions import Role
from tests.support.console_people import Payer, Visitor

API: Final = "/api/v1"


class Caller(Visitor):
    """Somebody with a key, or nobody."""

    def __init__(self, app: Any, key: str | None = None) -> None:
        super().__init__(app)
        if key is not None:
            self.headers["authorization"] = f"Bearer {key}"

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str | None = None
    ) -> httpx2.Response:
        """Send a request below the API's prefix, with an Idempotency-Key if there is one."""
        headers = {} if key is None else {"idempotency-key": key}
        if body is None:
            return await self.request(method, API + path, headers=headers)
        return await self.request(method, API + path, json=body, headers=headers)

    async def done(
        self, method: str, path: str, body: object = None, *, key: str | None = None
    ) -> Any:
        """The same, which must succeed; gives the document."""
        answer = await self.ask(method, path, body, key=key)
        assert answer.is_success, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def every(self, path: str, *, limit: int = 2) -> list[Any]:
        """All rows of a list, page by page; no page may have more rows than asked for."""
        rows: list[Any] = []
        page = await self.done("GET", _with(path, f"limit={limit}"))
        while True:
            assert len(page["data"]) <= limit, path
            rows += page["data"]
            if page["next_cursor"] is None:
                return rows
            page = await self.done(
                "GET", _with(path, f"limit={limit}&cursor={page['next_cursor']}")
            )


def _with(path: str, query: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{query}"


class House:
    """An organisation with credit, and callers of every kind."""

    def __init__(self, app: Any, dsn: str, name: str = "Acme") -> None:
        self._app = app
        self.dsn = dsn
        self.payer = Payer(dsn, name)
        self.number = 0
        self.path = f"/organizations/{format_id('org', self.payer.id)}"

    def operator(self) -> Caller:
        """A key of the whole deployment."""
        return Caller(self._app, self._management_key(None, None))

    def member(self, role: Role) -> Caller:
        """A key that has a role in the organisation."""
        return Caller(self._app, self._management_key(self.payer.id, role))

    def join(self, role: Role) -> str:
        """Make the console's person a member; gives their id."""
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            row = sql.execute("SELECT id FROM console_user ORDER BY id LIMIT 1").fetchone()
            assert row is not None
            sql.execute(
                "INSERT INTO member (organization_id, user_id, role) VALUES (%s, %s, %s)",
                (self.payer.id, row[0], role.value),
            )
        return format_id("user", row[0])

    def made_by(self, user_id: str, *roles: Role | None) -> None:
        """Management keys that a person made: of the organisation, or (None) of the deployment."""
        maker = parse_id("user", user_id, field="user_id")
        for role in roles:
            key = self._management_key(None if role is None else self.payer.id, role)
            with psycopg.connect(self.dsn, autocommit=True) as sql:
                sql.execute(
                    "UPDATE management_key SET user_id = %s WHERE digest = %s", (maker, digest(key))
                )

    def bearer(self, key: str) -> Caller:
        """Whoever sends that text as a key."""
        return Caller(self._app, key)

    def nobody(self) -> Caller:
        """No key at all."""
        return Caller(self._app)

    def model_key(self) -> Caller:
        """The organisation's key for models."""
        self.number += 1
        key = make_key(KeyKind.TEST, self._secret())
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            sql.execute(
                "UPDATE api_key SET digest = %s WHERE id = %s", (digest(key), self.payer.key_id)
            )
        return Caller(self._app, key)

    def _management_key(self, organization_id: UUID | None, role: Role | None) -> str:
        self.number += 1
        key = make_key(KeyKind.ADMIN, self._secret())
        with psycopg.connect(self.dsn, autocommit=True) as sql:
            sql.execute(
                "INSERT INTO management_key (id, name, digest, prefix, organization_id, role)"
                " VALUES (gen_random_uuid(), %s, %s, %s, %s, %s)",
                ("test", digest(key), shown_prefix(key), organization_id, role),
            )
        return key

    def _secret(self) -> bytes:
        return self.number.to_bytes(4) + self.payer.id.bytes + bytes(12)


def quarantine(house: House) -> None:
    """A command of the organisation that the database rejected."""
    with psycopg.connect(house.dsn, autocommit=True) as sql:
        sql.execute(
            "INSERT INTO quarantine (organization_id, command_kind, command, error) VALUES"
            " (%s, 'settle', jsonb_build_object('call_id', %s::uuid), '22003: out of range')",
            (house.payer.id, house.payer.id),
        )


def problem_of(answer: httpx2.Response, status: int) -> Mapping[str, Any]:
    """The problem document of an answer, which must have that status and be whole."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert {"type", "title", "code"} <= set(document)
    return document
