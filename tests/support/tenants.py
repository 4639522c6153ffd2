"""Tenants of a running house, and plain HTTP calls in their name.

Plain HTTP, because a test of a gateway must see every byte, choose every byte and hang up where it
likes.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from farebox.kit.ids import RANDOM_BYTES, parse_id, uuid7
from farebox.kit.money import Nanos, parse_amount
from farebox.ledger.commands import GrantCredit, Granted
from farebox.ledger.grants import Source
from farebox.operations.administration import Administration, MadeKey
from farebox.operations.check_books import check_books
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.catalogue_store import NewProvider, changing_catalogue
from farebox.storage.key_store import revoke_key
from farebox.storage.tenancy_store import PostgresTenantStore, read_deployment
from farebox.system.secrets import SecretBox
from farebox.tenancy.api_keys import KeyKind
from tests.support.house import House

WAIT_SECONDS = 15.0
"""Nothing here takes so long; a wait in vain fails instead of hanging."""

MODEL = "gpt-5.4"

PROVIDER_SECRET = "sk-the-operators-own"

_CALL = """
SELECT id, state, charge_nanos, absorbed_nanos, held_nanos, estimated, reason, http_status,
       input_tokens, cached_tokens, output_tokens, lane, streamed, output_limit, user_ref, run_ref,
       feature, environment, priority, tags, client_request_id, retry_count, model, endpoint,
       cost_nanos, project_id, key_id, price_id, latency_ms, line_units
FROM call WHERE organization_id = %s ORDER BY sequence
"""


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of OpenAI's shape."""
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


@dataclass(frozen=True)
class CallRow:
    """A row of ``call``."""

    id: UUID
    state: str
    charge: int
    absorbed: int
    held: int
    estimated: bool
    reason: str
    http_status: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    lane: str
    streamed: bool
    output_limit: int
    user: str
    run: str
    feature: str
    environment: str
    priority: str
    tags: dict[str, str] | None
    client_request_id: str
    retry_count: int
    model: str
    endpoint: str
    cost: int
    project_id: UUID
    key_id: UUID
    price_id: UUID
    latency_ms: int
    line_units: list[str]


@dataclass
class Tenant:
    """An organisation with a project and a key."""

    house: House
    name: str
    organization_id: UUID
    project_id: UUID
    key_id: UUID
    key: str

    # Calls.

    def post(
        self,
        path: str,
        body: object,
        headers: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
    ) -> Reply:
        """Post a document, or bytes as they are."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, raw, headers, key=key)

    def get(self, path: str, *, key: str | None = None) -> Reply:
        """Get something."""
        return self.send("GET", path, None, None, key=key)

    def send(
        self,
        method: str,
        path: str,
        raw: bytes | None,
        headers: Mapping[str, str] | None,
        *,
        key: str | None = None,
    ) -> Reply:
        """Send one request on a connection of its own."""
        where = urlsplit(self.house.gateway_url)
        connection = HTTPConnection(where.hostname or "", where.port or 0, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, raw, self._headers(headers, key))
            answer = connection.getresponse()
            lines = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, lines, answer.read())
        finally:
            connection.close()

    def chat(self, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        """A chat call, whole or streamed, read to its end."""
        return self.post("/v1/chat/completions", chat_body(**fields), headers)

    @contextmanager
    def raw(self, body: object, headers: Mapping[str, str] | None = None) -> Iterator[RawCall]:
        """A chat call on a bare socket, to be read piece by piece and hung up on."""
        where = urlsplit(self.house.gateway_url)
        content = json.dumps(body).encode()
        lines = self._headers(headers, None) | {
            "Host": where.netloc,
            "Content-Length": str(len(content)),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        with socket.create_connection((where.hostname, where.port), WAIT_SECONDS) as sock:
            sock.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + content)
            yield RawCall(sock)

    def _headers(self, headers: Mapping[str, str] | None, key: str | None) -> dict[str, str]:
        key = self.key if key is None else key
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        return {"Content-Type": "application/json", **authorization, **(headers or {})}

    # Money.

    def grant(self, amount: str, *, expires_at: datetime | None = None) -> None:
        """Give purchased credit."""
        result = self.house.command(
            GrantCredit(
                organization_id=self.organization_id,
                grant_id=new_id(self.house),
                source=Source.PURCHASED,
                amount=nanos(amount),
                expires_at=expires_at,
                reference="test",
            )
        )
        assert isinstance(result, Granted), result

    def open_holds(self) -> int:
        """How many holds are open."""
        return int(
            self.house.query(
                "SELECT count(*) FROM hold WHERE organization_id = %s", self.organization_id
            )[0][0]
        )

    def calls(self) -> list[CallRow]:
        """Every closed call, once no hold is open any more."""
        wait_for(lambda: self.open_holds() == 0)
        return [CallRow(*row) for row in self.house.query(_CALL, self.organization_id)]

    def only_call(self) -> CallRow:
        """The one call there was."""
        (call,) = self.calls()
        return call

    def spent(self) -> int:
        """What the organisation's row says was spent, in nanos."""
        return int(
            self.house.query(
                "SELECT spent_nanos FROM organization WHERE id = %s", self.organization_id
            )[0][0]
        )

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The facts of outbox events of a kind."""
        rows = self.house.query(
            "SELECT facts FROM outbox WHERE organization_id = %s AND kind = %s ORDER BY id",
            self.organization_id,
            kind,
        )
        return [row[0] for row in rows]

    def refusals(self, count: int) -> list[tuple[str, int, UUID]]:
        """Code, needed nanos and id of refused calls, once so many are recorded."""
        sql = "SELECT code, needed_nanos, id FROM refusal WHERE organization_id = %s ORDER BY id"
        wait_for(lambda: len(self.house.query(sql, self.organization_id)) >= count)
        rows = self.house.query(sql, self.organization_id)
        return [(str(row[0]), int(row[1]), row[2]) for row in rows]

    def check_books(self) -> None:
        """Everything recomputed from its own rows agrees, and the calls sum to what is spent."""
        calls = self.calls()
        assert sum(call.charge for call in calls) == self.spent()
        assert len({call.id for call in calls}) == len(calls)

        async def check() -> list[str]:
            connection = await self.house.database.connector("check").connect()
            async with connection:
                report = await check_books(PostgresAuditStore(connection), [self.organization_id])
            return [f"{finding.code}: {finding.message}" for finding in report.findings]

        assert self.house.run(check()) == []

    # Keys.

    def new_key(self, *, expires_at: datetime | None = None) -> MadeKey:
        """One more key of the project."""

        async def make() -> MadeKey:
            connection = await self.house.database.connector("keys").connect()
            async with connection:
                administration = administration_of(connection)
                return await administration.create_key(
                    "more", self.project_id, expires_at=expires_at
                )

        return self.house.run(make())

    def revoke(self, key_id: UUID) -> None:
        """Revoke a key, as another process would."""

        async def revoke() -> None:
            connection = await self.house.database.connector("keys").connect()
            async with connection:
                await revoke_key(connection, key_id)

        self.house.run(revoke())


NewTenant = Callable[..., Tenant]


class RawCall:
    """A call on a bare socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""

    def read_until(self, text: bytes) -> bytes:
        """Everything received so far, once it contains that text."""
        while text not in self.received:
            piece = self.sock.recv(65_536)
            assert piece, f"the connection ended before {text!r}: {self.received[-500:]!r}"
            self.received += piece
        return self.received

    def read_events(self, count: int) -> int:
        """Read until so many events have come, or to the end; gives how many there were."""
        while self.received.count(b"data: ") < count and b"\r\n0\r\n\r\n" not in self.received:
            piece = self.sock.recv(65_536)
            if not piece:
                break
            self.received += piece
        return self.received.count(b"data: ")

    def hang_up(self) -> None:
        """Close the connection in the middle."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def wait_for(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def chat_body(text: str = "Say hello.", **fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def nanos(amount: str) -> Nanos:
    """Nanodollars of a decimal amount."""
    return parse_amount(amount, field="amount")


def new_id(house: House) -> UUID:
    """An id that is new."""
    (row,) = house.query("SELECT farebox_now()")
    return uuid7(row[0], os.urandom(RANDOM_BYTES))


def administration_of(connection: Any) -> Administration:
    """The use cases of tenancy on a connection."""
    return Administration(PostgresTenantStore(connection), chance=os.urandom, key_kind=KeyKind.TEST)


def make_tenant(house: House, name: str, *, credit: str | None = "5.00", **more: Any) -> Tenant:
    """A tenant with credit.

    Args:
        house: Where.
        name: New.
        credit: Purchased credit; None for none.
        more: What the organisation is made with.
    """

    async def make() -> Tenant:
        connection = await house.database.connector("tenants").connect()
        async with connection:
            administration = administration_of(connection)
            organization = await administration.create_organization(name, **more)
            project = await administration.create_project("main", organization.id)
            key = await administration.create_key("main", project.id)
        return Tenant(house, name, organization.id, project.id, key.id, key.text)

    tenant = house.run(make())
    if credit is not None:
        tenant.grant(credit)
    return tenant


def call_id(reply: Reply) -> UUID:
    """The id of the call that an answer names."""
    return parse_id("req", reply.headers["x-request-id"], field="x-request-id")


def add_provider(house: House, name: str, base_url: str) -> None:
    """Add an OpenAI-compatible provider that charges by OpenAI's price list; known at once."""

    async def add() -> None:
        connection = await house.database.connector("providers").connect()
        async with connection:
            now = (await read_deployment(connection)).now
            async with changing_catalogue(connection) as change:
                await change.add_provider(
                    NewProvider(
                        id=uuid7(now, os.urandom(RANDOM_BYTES)),
                        name=name,
                        kind="openai",
                        price_list="openai",
                        base_url=base_url,
                        api_version=None,
                        secret=SecretBox(house.home).seal(PROVIDER_SECRET),
                        account_id=uuid7(now, os.urandom(RANDOM_BYTES)),
                        account_name=name,
                    )
                )

    house.run(add())
    # Reading the catalogue again is part of being ready.
    connection = HTTPConnection(urlsplit(house.gateway_url).netloc, timeout=WAIT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
    finally:
        connection.close()
