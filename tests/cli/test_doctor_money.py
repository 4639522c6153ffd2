"""``farebox doctor`` on a running house: balance, expiry and what was spent.

Every fixture asserts the exact codes of what is found, then mends it and asserts that the finding
has gone or says so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from farebox.kit.ids import format_id
from farebox.ledger.commands import Correct
from tests.support.doctor_house import ADMIN, COST, Doctor, Run, org, refused, spend, words_of
from tests.support.house import House
from tests.support.tenants import Tenant, nanos, new_id


def test_d11_credit_that_expired(
    new_tenant: Callable[..., Tenant], run: Run, house: House, doctor: Doctor
) -> None:
    """D11: nothing is left because the last credit ended on its date, not because it was used."""
    tenant = new_tenant(credit=None)
    ((now,),) = house.query("SELECT farebox_now()")
    ends = (now + timedelta(days=3)).isoformat()
    run("credits", "grant", "--org", org(tenant), "--amount", "2", "--source", "promo",
            "--expires-at", ends)  # fmt: skip
    assert spend(tenant).status == 200
    tenant.calls()
    run("clock", "advance", "4d")
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
    new_tenant: Callable[..., Tenant], run: Run, doctor: Doctor
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
    run(*words_of(command))
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
    new_tenant: Callable[..., Tenant], run: Run, doctor: Doctor
) -> None:
    """ORG-04: a member of both has credit in the other one: said, and no purchase advised."""
    poor, rich = new_tenant(credit=None), new_tenant(credit="7")
    request_id = refused(poor, spend(poor))
    for each in (poor, rich):
        run("members", "add", ADMIN, "--role", "owner", "--org", org(each))
    found = doctor(request_id)
    assert (found.exit, found.codes) == (1, ["D02", "D65"])
    assert f"{rich.name} has 7.00 USD" in found.first["cause"]
    assert ADMIN in found.first["cause"]
    buying = [f for each in found.document["findings"] for f in each["fixes"] if f["adds_credit"]]
    assert buying == []
    assert doctor(org(rich)).codes == []


def test_d43_spending_that_jumped(
    new_tenant: Callable[..., Tenant], run: Run, doctor: Doctor
) -> None:
    """D43, DOC-12: the last day against the days before; the key and the model are named."""
    tenant = new_tenant(credit="50")
    for _ in range(4):
        assert spend(tenant, 4_000).status == 200
        run("clock", "advance", "1d")
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


def test_d46_free_credit_goes_first(tenant: Tenant, run: Run, doctor: Doctor) -> None:
    """D46: the balance falls while purchased credit stands still: explained, nothing wrong."""
    run("credits", "grant", "--org", org(tenant), "--amount", "1", "--source", "free")
    assert doctor(org(tenant)).codes == []
    assert spend(tenant).status == 200
    tenant.calls()
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D46"], "ok")
    assert found.shown()["purchased credit untouched"] == "5.00"


def test_d47_credit_that_vanishes_at_a_date(
    tenant: Tenant, run: Run, house: House, doctor: Doctor
) -> None:
    """D47: before: what will be left at its end; after: what expired, and when."""
    ((now,),) = house.query("SELECT farebox_now()")
    ends = (now + timedelta(days=5)).isoformat()
    run("credits", "grant", "--org", org(tenant), "--amount", "3", "--source", "grant",
            "--expires-at", ends, "--reference", "programme")  # fmt: skip
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D47"], "warning")
    assert "will be left" in found.first["cause"]
    run("clock", "advance", "6d")
    found = doctor(org(tenant))
    assert (found.exit, found.codes, found.document["status"]) == (0, ["D47"], "ok")
    assert "3.00 USD expired unused" in found.first["cause"]
    run("clock", "advance", "120d")
    assert doctor(org(tenant)).codes == []
