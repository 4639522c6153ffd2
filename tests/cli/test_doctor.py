"""``farebox doctor`` on a running house: each row of its table is made by real calls and commands.

Every fixture asserts the exact codes of what is found, then mends it and asserts that the finding
has gone or says so.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from farebox.cli import database
from farebox.cli.main import main
from farebox.cli.output import WIDTH
from farebox.kit.ids import format_id
from farebox.ledger.commands import Correct
from farebox.storage.connecting import Connector
from tests.support.databases import TestServer
from tests.support.house import House, running_house
from tests.support.tenants import Reply, Tenant, make_tenant, nanos, new_id, wait_for

COST = 9_000
"""Output tokens of a call: 0.135 dollars at gpt-5.4's price."""

ADMIN = "owner@sandbox.example"
"""The sandbox's own login, a member of whatever a test makes it a member of."""


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


Farebox = Callable[..., Outcome]
Doctor = Callable[..., Diagnosed]


@pytest.fixture(scope="module")
def house(postgres: TestServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway on a database of its own, whose clock these tests may move."""
    with (
        postgres.database() as dsn,
        running_house(dsn, tmp_path_factory.mktemp("home")) as running,
    ):
        running.execute("UPDATE organization SET active = false")
        yield running


@pytest.fixture
def farebox(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Farebox:
    """``farebox(*arguments, stdin="", status=0)`` on the house's database."""
    monkeypatch.setenv("DATABASE_URL", house.dsn)
    monkeypatch.setenv("FAREBOX_HOME", str(house.home))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(database, "Connector", partial(Connector, durable=False))

    def run(*arguments: str, stdin: str = "", status: int | None = 0) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        found = main(arguments)
        said = capsys.readouterr()
        assert status is None or found == status, said
        return Outcome(found, said.out, said.err)

    return run


@pytest.fixture
def doctor(farebox: Farebox) -> Doctor:
    """Asks the doctor for the document; and for the text, which must fit and agree.

    The text is asked for where a test has not seen the same findings before.
    """
    seen: set[tuple[str, ...]] = set()

    def ask(*arguments: str, stdin: str = "") -> Diagnosed:
        as_json = farebox("doctor", *arguments, "--json", stdin=stdin, status=None)
        document = json.loads(as_json.out)
        assert as_json.status == (1 if document["status"] == "wrong" else 0)
        codes = tuple(each["code"] for each in document["findings"])
        if codes in seen:
            return Diagnosed(as_json.status, document, "")
        seen.add(codes)
        as_text = farebox("doctor", *arguments, stdin=stdin, status=None)
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


# Nothing wrong.


def test_nothing_is_wrong(tenant: Tenant, doctor: Doctor) -> None:
    """DOC-01: an organisation, a key and a call with which nothing is wrong; exit status 0."""
    reply = spend(tenant, 100)
    request_id = reply.headers["x-request-id"]
    tenant.calls()
    for asked in (org(tenant), tenant.name, tenant.key, tenant.key[:13], request_id):
        found = doctor(asked)
        assert (found.exit, found.codes, found.document["status"]) == (0, [], "ok"), asked
        assert "Nothing is wrong" in found.document["summary"]
        assert tenant.key not in found.text + json.dumps(found.document)
    assert "charged 0.001525 USD" in doctor(request_id).document["summary"]
    steps = [check["step"] for check in doctor(org(tenant)).document["checks"]]
    assert steps.index("organization") < steps.index("key") < steps.index("balance")


# Keys, permission, model, header: D04 to D07.


def test_d04_a_revoked_key(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """D04: a revoked key by request id, key, error body and organisation; a new one is named."""
    farebox("keys", "revoke", format_id("key", tenant.key_id))
    reply = spend(tenant)
    request_id = refused(tenant, reply, 401)
    body = reply.body.decode()
    for asked in ((request_id,), (tenant.key[:13],), (body,), (body, "--key", tenant.key[:13])):
        found = doctor(*asked)
        assert (found.exit, found.codes[0], found.first["severity"]) == (1, "D04", "wrong"), asked
        assert "revoked" in found.first["cause"]
        assert found.document["area"] == "not_billing"
        assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    assert doctor(request_id).codes == ["D04"]
    assert doctor(org(tenant)).codes == ["D04", "D85"]
    made = tenant.new_key()
    told = doctor(request_id).first["fixes"][0]["text"]
    assert made.text[:13] in told
    assert made.text not in told


def test_d04_an_expired_key(tenant: Tenant, house: House, farebox: Farebox, doctor: Doctor) -> None:
    """D04: a key whose end has come."""
    ((now,),) = house.query("SELECT farebox_now()")
    made = tenant.new_key(expires_at=now + timedelta(hours=1))
    farebox("clock", "advance", "2h")
    reply = tenant.post("/v1/chat/completions", {"model": "gpt-5.4", "messages": [
        {"role": "user", "content": "x"}]}, key=made.text)  # fmt: skip
    found = doctor(refused(tenant, reply, 401))
    assert found.codes == ["D04"]
    assert "expired on" in found.first["cause"]


def test_d04_a_key_that_nobody_made(tenant: Tenant, doctor: Doctor) -> None:
    """D04: a mistyped key, a provider's key, and the gateway's own 401."""
    for asked in ("fbx_test_zzzz", "fbx_live_1111...", "sk-proj-abcdefgh", "Incorrect API key"):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D04"])
    body = tenant.post("/v1/chat/completions", {}, key="nonsense").body.decode()
    assert doctor(body).codes == ["D04"]


def test_d05_a_header_of_another_organisation(tenant: Tenant, doctor: Doctor) -> None:
    """D05: the provider's own complaint about OpenAI-Organization; whose key it is, is told."""
    body = json.dumps(
        {
            "error": {
                "message": "OpenAI-Organization header should match organization for API key",
                "type": "invalid_request_error",
                "param": None,
                "code": "mismatched_organization",
            }
        }
    )
    found = doctor(body, "--org", tenant.name)
    assert (found.exit, found.codes) == (1, ["D05"])
    assert tenant.name in found.first["cause"]
    assert doctor(body, "--key", tenant.key[:13]).codes == ["D05"]


def test_d06_a_model_that_is_not_there(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """D06: the gateway's 404 names the nearest models; an allow list is told with its owner."""
    body = tenant.chat(model="gpt-5.4-mni").body.decode()
    found = doctor(body)
    assert (found.exit, found.codes, found.document["area"]) == (1, ["D06"], "not_billing")
    assert "gpt-5.4-mini" in found.first["fixes"][0]["text"]
    farebox("projects", "update", "main", "--org", org(tenant), "--models", "gpt-5.4-m*",
            "--owner", "ann")  # fmt: skip
    found = doctor(body.replace("gpt-5.4-mni", "gpt-5.4"), "--key", tenant.key[:13])
    assert found.codes == ["D06"]
    assert "may not call gpt-5.4" in found.first["cause"]
    assert any("ann" in fix["text"] for fix in found.first["fixes"])
    allowed = doctor(body.replace("gpt-5.4-mni", "gpt-5.4-mini"), "--key", tenant.key[:13])
    assert (allowed.exit, allowed.document["status"]) == (0, "mended")
    assert doctor(org(tenant), "--model", "gpt-5.4").codes == []


def test_d07_a_permission(tenant: Tenant, house: House, doctor: Doctor) -> None:
    """D07: a management key calls no model, and a missing scope is no billing matter."""
    admin = str(house.facts["admin_key"])
    reply = tenant.post("/v1/chat/completions", {}, key=admin)
    found = doctor(reply.body.decode(), "--key", admin)
    assert (found.exit, found.codes[0]) == (1, "D07")
    assert doctor(admin[:14]).codes == ["D07"]
    scopes = "You have insufficient permissions for this operation. Missing scopes: api.model.read"
    assert doctor(json.dumps({"error": scopes})).codes == ["D07"]
    assert doctor(tenant.key[:13]).codes == []


# Money: D11 to D13, and what is none of them.


def test_d11_credit_that_expired(
    new_tenant: Callable[..., Tenant], farebox: Farebox, house: House, doctor: Doctor
) -> None:
    """D11: nothing is left because the last credit ended on its date, not because it was used."""
    tenant = new_tenant(credit=None)
    ((now,),) = house.query("SELECT farebox_now()")
    ends = (now + timedelta(days=3)).isoformat()
    farebox("credits", "grant", "--org", org(tenant), "--amount", "2", "--source", "promo",
            "--expires-at", ends)  # fmt: skip
    assert spend(tenant).status == 200
    tenant.calls()
    farebox("clock", "advance", "4d")
    reply = spend(tenant)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode(), org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D11"]), asked
    shown = doctor(request_id).shown()
    assert (shown["expired"], shown["spent"]) == ("1.864975", "0.135025")
    assert doctor("insufficient_quota", "--org", tenant.name).codes == ["D11"]
    tenant.grant("1")
    assert doctor(request_id).document["status"] == "mended"
    # What has expired stays told, as a note.
    assert (doctor(org(tenant)).exit, doctor(org(tenant)).codes) == (0, ["D47"])


def test_d12_credit_that_is_used_up(
    new_tenant: Callable[..., Tenant], farebox: Farebox, doctor: Doctor
) -> None:
    """D12: calls spent it; who spent it comes before any top-up, whose command is exact."""
    tenant = new_tenant(credit="0.28")
    assert [spend(tenant).status for _ in range(2)] == [200, 200]
    tenant.calls()
    reply = spend(tenant)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode(), org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D12"]), asked
        assert found.first["fixes"][0]["command"].startswith("farebox calls list")
        assert found.first["fixes"][-1]["adds_credit"]
    command = doctor(request_id).first["fixes"][-1]["command"]
    farebox(*_words(command))
    assert doctor(request_id).document["status"] == "mended"
    assert doctor(org(tenant)).codes == []
    assert spend(tenant).status == 200


def test_d13_a_negative_balance(new_tenant: Callable[..., Tenant], doctor: Doctor) -> None:
    """D13, DOC-04: what is owed is paid first; the advice covers it."""
    tenant = new_tenant(credit="1")
    tenant.house.command(
        Correct(
            organization_id=tenant.organization_id,
            command_id=new_id(tenant.house),
            amount=nanos("3.50"),
            note="a typing error",
        )
    )
    request_id = refused(tenant, spend(tenant))
    for asked in (request_id, org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D13"])
    assert doctor(request_id).shown()["owed"] == "2.50"


def test_other_reasons_for_too_little(new_tenant: Callable[..., Tenant], doctor: Doctor) -> None:
    """DOC-04: never given, and one call that is too large, are findings of their own."""
    poor = new_tenant(credit=None)
    assert doctor(refused(poor, spend(poor))).codes == ["D65"]
    house = poor.house
    house.execute("UPDATE organization SET active = false WHERE id = %s", poor.organization_id)
    tenant = new_tenant(credit="1")
    request_id = refused(tenant, spend(tenant, 100_000))
    found = doctor(request_id)
    assert (found.exit, found.codes) == (1, ["D64"])
    assert "max_completion_tokens" in found.first["fixes"][0]["text"]


def test_d02_the_credit_is_in_another_organisation(
    new_tenant: Callable[..., Tenant], farebox: Farebox, doctor: Doctor
) -> None:
    """ORG-04: a member of both has credit in the other one: said, and no purchase advised."""
    poor, rich = new_tenant(credit=None), new_tenant(credit="7")
    request_id = refused(poor, spend(poor))
    for each in (poor, rich):
        farebox("members", "add", ADMIN, "--role", "owner", "--org", org(each))
    found = doctor(request_id)
    assert (found.exit, found.codes) == (1, ["D02", "D65"])
    assert f"{rich.name} has 7.00 USD" in found.first["cause"]
    assert ADMIN in found.first["cause"]
    buying = [f for each in found.document["findings"] for f in each["fixes"] if f["adds_credit"]]
    assert buying == []
    assert doctor(org(rich)).codes == []


# Limits: D17 to D22.


def test_d17_a_rate_limit(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """D17, LIM-01: a funded organisation is rate limited; money is no remedy."""
    farebox("limits", "set", "--org", org(tenant), "--per-minute", "1", "--calls")
    replies = [spend(tenant, 10) for _ in range(3)]
    reply = next(each for each in replies if each.status == 429)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode()):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D17"])
        assert "retry-after" in found.first["fixes"][0]["text"]
        assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    farebox("limits", "set", "--org", org(tenant), "--per-minute", "none", "--calls")
    assert spend(tenant, 10).status == 200


@pytest.mark.parametrize(
    ("scope", "code", "headers"),
    [
        ([], "D19", {}),
        (["--project", "main"], "D18", {}),
        (["--key", "main"], "D21", {}),
        (["--user", "bob"], "D21", {"X-Farebox-User": "bob"}),
        (["--each", "user"], "D21", {"X-Farebox-User": "eve"}),
        (["--feature", "search"], "D21", {"X-Farebox-Feature": "search"}),
        (["--environment", "test"], "D21", {"X-Farebox-Environment": "test"}),
        (["--tag", "team=blue"], "D21", {"X-Farebox-Tags": "team=blue"}),
        (["--run", "r1"], "D21", {"X-Farebox-Run": "r1"}),
    ],
)
def test_d18_d19_d21_a_limit_of_each_scope(
    tenant: Tenant,
    farebox: Farebox,
    doctor: Doctor,
    scope: list[str],
    code: str,
    headers: dict[str, str],
) -> None:
    """D18, D19, D21: which limit, its figures, owner and reset, and the command to raise it."""
    if scope[:1] == ["--key"]:
        scope = ["--key", format_id("key", tenant.key_id)]
    limit = ["--org", org(tenant), *scope, "--monthly"]
    farebox("limits", "set", *limit, "0.20", "--owner", "ann@acme.example")
    assert spend(tenant, headers=headers).status == 200
    tenant.calls()
    reply = spend(tenant, headers=headers)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode(), org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, [code]), asked
    found = doctor(request_id)
    shown = found.shown()
    assert (shown["limit"], shown["used"], shown["owner"]) == ("0.20", "0.135025",
                                                             "ann@acme.example")  # fmt: skip
    assert "resets on" in found.first["cause"]
    raising = next(f["command"] for f in found.first["fixes"] if f["command"])
    if scope[:1] != ["--each"]:
        farebox(*_words(raising.replace("AMOUNT", "9")))
        assert doctor(request_id).document["status"] == "mended"
        assert doctor(org(tenant)).codes == []
    farebox("limits", "set", *limit, "none")
    assert doctor(request_id).document["status"] == "mended"


def test_d20_the_limit_of_a_tier(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """D20, LIM-05: the assigned limit of a month, what is used of it, and the next tier."""
    for name, place, purchases in (("Build", "0", "0"), ("Launch", "1", "100")):
        farebox("tiers", "set", name, "--position", place, "--purchases", purchases,
                "--monthly-maximum", "0.20" if place == "0" else "50")  # fmt: skip
    farebox("tiers", "assign", "Build", "--org", org(tenant))
    body = json.dumps({"error": {"message": "You have reached your assigned limit.",
                                 "type": "insufficient_quota", "param": None,
                                 "code": "organization_usage_limit_exceeded"}})  # fmt: skip
    assert doctor(body, "--org", org(tenant)).document["status"] == "mended"
    assert spend(tenant).status == 200
    tenant.calls()
    farebox("tiers", "set", "Build", "--position", "0", "--monthly-maximum", "0.10")
    found = doctor(body, "--org", org(tenant))
    assert (found.exit, found.codes) == (1, ["D20"])
    assert "Launch" in found.first["fixes"][0]["text"]
    assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    assert "D20" in doctor(org(tenant)).codes


def test_d22_an_allocation(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """D22, CRD-21: the project's part is used up while the organisation has money; and for others
    that part is set aside.
    """
    limit = ["--org", org(tenant), "--project", "main", "--total"]
    farebox("limits", "set", *limit, "0.20", "--allocation")
    assert spend(tenant).status == 200
    tenant.calls()
    reply = spend(tenant)
    request_id = refused(tenant, reply)
    for asked in (request_id, reply.body.decode(), org(tenant)):
        found = doctor(asked)
        assert (found.exit, found.codes) == (1, ["D22"]), asked
        assert not any(fix["adds_credit"] for fix in found.first["fixes"])
    raising = next(f["command"] for f in doctor(request_id).first["fixes"] if f["command"])
    farebox(*_words(raising.replace("AMOUNT", "4.90")))
    assert doctor(request_id).document["status"] == "mended"
    farebox("projects", "create", "other", "--org", org(tenant))
    made = json.loads(
        farebox("keys", "create", "k", "--project", "other", "--org", org(tenant), "--json").out
    )
    reply = tenant.post("/v1/chat/completions", {
        "model": "gpt-5.4", "messages": [{"role": "user", "content": "x"}],
        "max_completion_tokens": COST}, key=made["key"])  # fmt: skip
    found = doctor(refused(tenant, reply))
    assert (found.exit, found.codes) == (1, ["D88"])


# Use: D43, D46, D47.


def test_d43_spending_that_jumped(
    new_tenant: Callable[..., Tenant], farebox: Farebox, doctor: Doctor
) -> None:
    """D43, DOC-12: the last day against the days before; the key and the model are named."""
    tenant = new_tenant(credit="50")
    for _ in range(4):
        assert spend(tenant, 4_000).status == 200
        farebox("clock", "advance", "1d")
    assert doctor(org(tenant)).codes == []
    loop = tenant.new_key()
    for _ in range(8):
        reply = tenant.post(
            "/v1/chat/completions",
            {"model": "gpt-5.4", "messages": [{"role": "user", "content": "x"}],
             "max_completion_tokens": COST},
            {"X-Sandbox-Usage": f"prompt=10,cached=0,completion={COST}"},
            key=loop.text,
        )  # fmt: skip
        assert reply.status == 200
    tenant.calls()
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D43"], "warning")
    assert "the key more on gpt-5.4" in found.first["cause"]
    assert any(format_id("key", loop.id) in (f["command"] or "") for f in found.first["fixes"])
    assert not any(fix["adds_credit"] for fix in found.first["fixes"])


def test_d46_free_credit_goes_first(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """D46: the balance falls while purchased credit stands still: explained, nothing wrong."""
    farebox("credits", "grant", "--org", org(tenant), "--amount", "1", "--source", "free")
    assert doctor(org(tenant)).codes == []
    assert spend(tenant).status == 200
    tenant.calls()
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D46"], "ok")
    assert found.shown()["purchased credit untouched"] == "5.00"


def test_d47_credit_that_vanishes_at_a_date(
    tenant: Tenant, farebox: Farebox, house: House, doctor: Doctor
) -> None:
    """D47: before: what will be left at its end; after: what expired, and when."""
    ((now,),) = house.query("SELECT farebox_now()")
    ends = (now + timedelta(days=5)).isoformat()
    farebox("credits", "grant", "--org", org(tenant), "--amount", "3", "--source", "grant",
            "--expires-at", ends, "--reference", "programme")  # fmt: skip
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D47"], "warning")
    assert "will be left" in found.first["cause"]
    farebox("clock", "advance", "6d")
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D47"], "ok")
    assert "3.00 USD expired unused" in found.first["cause"]
    farebox("clock", "advance", "120d")
    assert doctor(org(tenant)).codes == []


# The operator's side.


def test_an_upstream_that_refuses_is_not_the_tenants_trouble(
    tenant: Tenant, doctor: Doctor
) -> None:
    """ERR-08, D42: our own credit and key at the provider; the call cost nothing."""
    reply = tenant.chat({"X-Sandbox-Fault": "status=402"})
    assert reply.error["code"] == "upstream_quota_exhausted"
    tenant.calls()
    for asked in (reply.headers["x-request-id"], reply.body.decode()):
        found = doctor(asked)
        assert (found.exit, found.codes, found.document["area"]) == (1, ["D42"], "not_billing")
    reply = tenant.chat({"X-Sandbox-Fault": "status=401"})
    tenant.calls()
    assert doctor(reply.headers["x-request-id"]).codes == ["D70"]
    found = doctor(org(tenant))
    assert found.codes == ["D42", "D70"]
    assert not any(f["adds_credit"] for each in found.document["findings"] for f in each["fixes"])


def test_a_suspended_organisation(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """DOC-14: whatever the balance, the organisation must be switched on first."""
    farebox("orgs", "update", org(tenant), "--deactivate")
    request_id = refused(tenant, spend(tenant))
    assert doctor(request_id).codes == ["D61"]
    assert doctor(org(tenant)).codes == ["D61"]
    farebox(*_words(doctor(request_id).first["fixes"][0]["command"]))
    assert doctor(request_id).document["status"] == "mended"


def test_an_archived_project(tenant: Tenant, farebox: Farebox, doctor: Doctor) -> None:
    """The keys of an archived project open nothing; a key of another project is to be used."""
    farebox("projects", "archive", "main", "--org", org(tenant))
    request_id = refused(tenant, spend(tenant), 401)
    assert doctor(request_id).codes == ["D62"]
    assert doctor(tenant.key[:13]).codes == ["D62", "D85"]


# How it is asked.


def test_a_complaint_comes_from_stdin_or_a_file(
    tenant: Tenant, farebox: Farebox, doctor: Doctor, tmp_path: Path
) -> None:
    """DOC-01: a body may be pasted, piped or read from a file; words need no quotes."""
    body = tenant.chat(model="gpt-nothing").body.decode()
    path = tmp_path / "error.json"
    path.write_text(body)
    assert doctor("-", stdin=body).codes == ["D06"]
    assert doctor("--file", str(path)).codes == ["D06"]
    assert doctor("The", "model", "`gpt-nothing`", "does", "not", "exist", "or", "you", "do",
                  "not", "have", "access").codes == ["D06"]  # fmt: skip
    assert farebox("doctor", "-", stdin=" ", status=2).err.count("\n") == 1
    assert "cannot be read" in farebox("doctor", "--file", str(tmp_path / "no"), status=2).err
    farebox("doctor", "x", "--file", str(path), status=2)
    farebox("doctor", "insufficient_quota", "--org", "Nobody", status=1)
    farebox("doctor", "insufficient_quota", "--key", "Nobody", status=2)


def test_what_nobody_knows(tenant: Tenant, doctor: Doctor) -> None:
    """An unknown id, name or code is a finding, with what to give instead; exit status 1."""
    for asked, code in (
        ("req_" + "0" * 32, "D81"),
        ("org_" + "0" * 32, "D81"),
        ("Nobody Ltd", "D82"),
        ("429", "D82"),
    ):
        assert (doctor(asked).exit, doctor(asked).codes) == (1, [code])
    assert doctor("My ChatGPT Plus is paid!", "--org", org(tenant)).codes == ["D01"]


def test_a_text_cannot_steer_the_terminal(
    new_tenant: Callable[..., Tenant], doctor: Doctor
) -> None:
    """What was pasted, and what clients put into labels, is shown without control characters."""
    doctor("\x1b[2Jbad \x07 text")
    doctor('{"error": {"message": "\\u001b[2J", "code": "context_length_exceeded"}}')


def test_a_finding_is_explained_without_a_database(farebox: Farebox) -> None:
    """DOC-16: every code and its meaning is on the command line too."""
    assert "The credit is used up" in farebox("doctor", "D12").out
    rows = json.loads(farebox("doctor", "--codes", "--json").out)["data"]
    assert {"D04", "D05", "D06", "D07", "D11", "D12", "D17", "D18", "D19", "D20", "D21", "D22",
            "D43", "D46", "D47"} <= {row["code"] for row in rows}  # fmt: skip
    assert all(len(line) <= WIDTH for line in farebox("doctor", "--codes").out.splitlines())


def test_the_books_are_checked_along(tenant: Tenant, house: House, doctor: Doctor) -> None:
    """D76: where a total is not the sum of its rows, that comes first, and nothing is bought."""
    spend(tenant, 100)
    tenant.calls()
    house.execute(
        "UPDATE organization SET spent_nanos = spent_nanos + 5, granted_nanos = granted_nanos + 5"
        " WHERE id = %s",
        tenant.organization_id,
    )
    found = doctor(org(tenant), "--books")
    assert (found.exit, found.codes[0]) == (1, "D76")
    house.execute(
        "UPDATE organization SET spent_nanos = spent_nanos - 5, granted_nanos = granted_nanos - 5"
        " WHERE id = %s",
        tenant.organization_id,
    )
    assert doctor(org(tenant)).codes == []


def _words(command: str) -> list[str]:
    """A command that was shown, as it is typed; without the program's name."""
    import shlex

    name, *words = shlex.split(command)
    assert name == "farebox"
    return words
