"""A running house for the doctor's tests, and the doctor to ask about it.

Its clock may be moved, so it is no other test's house.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from farebox.cli import database
from farebox.cli.main import main
from farebox.cli.output import WIDTH
from farebox.kit.ids import format_id
from farebox.storage.connecting import Connector
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.tenants import Reply, Tenant, make_tenant, wait_for

COST = 9_000
"""Output tokens of a call: 0.135 dollars at gpt-5.4's price."""

ADMIN = "owner@sandbox.example"
"""The sandbox's own login, a member of whatever a test makes it a member of."""


TELLS_NO_OPERATOR = """
    CREATE FUNCTION told_nobody() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER told_nobody BEFORE INSERT ON anomaly FOR EACH ROW
        WHEN (NEW.organization_id IS NULL) EXECUTE FUNCTION told_nobody();
"""
"""What one test's provider refuses is told by the gateway some seconds later, when another test
asks for its own organisation's trouble; who wants to be told writes the alert."""


class Outcome(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


class Diagnosed(NamedTuple):
    """What the doctor said."""

    exit: int
    document: dict[str, Any]
    text: str

    @property
    def codes(self) -> list[str]:
        """The findings' codes, in order."""
        return [each["code"] for each in self.document["findings"]]

    @property
    def first(self) -> dict[str, Any]:
        """The finding that is told first."""
        found: dict[str, Any] = self.document["findings"][0]
        return found

    def shown(self) -> dict[str, str]:
        """The first finding's evidence by label, the newest figures last."""
        return {each["label"]: each["value"] for each in self.first["evidence"]}


Run = Callable[..., Outcome]
Doctor = Callable[..., Diagnosed]


@pytest.fixture(scope="session")
def house(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway on a database of its own, whose clock these tests may move."""
    with (
        postgres.database() as dsn,
        running_house(dsn, tmp_path_factory.mktemp("home")) as running,
    ):
        running.execute("UPDATE organization SET active = false")
        running.execute(TELLS_NO_OPERATOR)
        yield running


@pytest.fixture
def run(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(*arguments, stdin="", status=0)`` on the house's database."""
    monkeypatch.setenv("DATABASE_URL", house.dsn)
    monkeypatch.setenv("FAREBOX_HOME", str(house.home))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(database, "Connector", partial(Connector, durable=False))

    def command(*arguments: str, stdin: str = "", status: int | None = 0) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        found = main(arguments)
        said = capsys.readouterr()
        assert status is None or found == status, said
        return Outcome(found, said.out, said.err)

    return command


@pytest.fixture
def doctor(run: Run) -> Doctor:
    """Asks the doctor for the document; and for the text, which must fit and agree.

    The text is asked for where a test has not seen the same findings before.
    """
    seen: set[tuple[str, ...]] = set()

    def ask(*arguments: str, stdin: str = "") -> Diagnosed:
        as_json = run("doctor", *arguments, "--json", stdin=stdin, status=None)
        document = json.loads(as_json.out)
        assert as_json.status == (1 if document["status"] == "wrong" else 0)
        codes = tuple(each["code"] for each in document["findings"])
        if codes in seen:
            return Diagnosed(as_json.status, document, "")
        seen.add(codes)
        as_text = run("doctor", *arguments, stdin=stdin, status=None)
        assert as_text.status == as_json.status
        for line in as_text.out.splitlines():
            assert len(line) <= WIDTH or line.startswith(" " * 9 + "farebox "), line
            assert line.isprintable()
        for each in document["findings"]:
            assert f"{each['code']} " in as_text.out
            assert each["link"].endswith(f"/doctor/{each['code']}")
            assert each["cause"]
        return Diagnosed(as_json.status, document, as_text.out)

    return ask


@pytest.fixture
def new_tenant(house: House, request: pytest.FixtureRequest) -> Iterator[Callable[..., Tenant]]:
    """Makes tenants; when a test ends, its organisations are nobody's neighbours any more."""
    made: list[UUID] = []

    def make(credit: str | None = "5.00", **more: Any) -> Tenant:
        name = f"{request.node.name[-60:]} {len(made)}"
        tenant = make_tenant(house, name, credit=credit, **more)
        made.append(tenant.organization_id)
        return tenant

    yield make
    for organization_id in made:
        house.execute("UPDATE organization SET active = false WHERE id = %s", organization_id)


@pytest.fixture
def tenant(new_tenant: Callable[..., Tenant]) -> Tenant:
    """A tenant with five dollars."""
    return new_tenant()


def spend(tenant: Tenant, tokens: int = COST, headers: Mapping[str, str] | None = None) -> Reply:
    """A call that costs what its output tokens cost."""
    usage = {"X-Sandbox-Usage": f"prompt=10,cached=0,completion={tokens}"}
    return tenant.chat({**usage, **(headers or {})}, max_completion_tokens=tokens)


def refused(tenant: Tenant, reply: Reply, status: int = 429) -> str:
    """The id of a call that was refused, once that is recorded."""
    assert reply.status == status, reply.body
    request_id = reply.headers["x-request-id"]
    wanted = UUID(request_id.removeprefix("req_"))
    wait_for(lambda: bool(tenant.house.query("SELECT 1 FROM refusal WHERE id = %s", wanted)))
    return request_id


def org(tenant: Tenant) -> str:
    """The organisation's id as people see it."""
    return format_id("org", tenant.organization_id)


def words_of(command: str) -> list[str]:
    """A command that was shown, as it is typed; without the program's name."""
    name, *words = shlex.split(command)
    assert name == "farebox"
    return words
