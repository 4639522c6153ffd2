"""Slips of an operator's hand with prices, and the way back from them, on a running house."""

from __future__ import annotations

import json

from farebox.kit.ids import format_id
from farebox.kit.money import Nanos, format_amount
from tests.support.doctor_house import Run, org, refused, spend
from tests.support.tenants import Tenant

GPT = ("prices", "set", "--provider", "openai", "--model", "gpt-5.4")


def test_price_sanity_and_reversal_entry(tenant: Tenant, run: Run) -> None:
    """Field bug 31, DED-07, BUD-16: a price that was typed wrongly can be taken back by entries.

    The worst slips are refused. One that was confirmed charges too much until it is set right; then
    the credit comes back as a journal entry, the budget is raised for its window, and every row
    that was written stays what it was.
    """
    key = format_id("key", tenant.key_id)  # other tests' tenants have keys of the same name
    limit = ["limits", "set", "--org", org(tenant), "--key", key, "--monthly"]
    run(*limit, "4")
    slip = run(*GPT, "--input", "2.5", "--output", "15000", status=2)
    assert "1000 times more" in slip.err
    assert "per million" in slip.err
    run(*GPT, "--input", "2500000000", "--output", "15", "--confirm", status=2)  # out of any range
    run(*GPT, "--input", "2.5", "--output", "4000", "--confirm")
    try:
        assert spend(tenant, 900).status == 200
    finally:
        run(*GPT, "--input", "2.5", "--output", "15", "--confirm")
    wrong = tenant.only_call()
    assert wrong.charge == 10 * 2_500 + 900 * 4_000_000
    # The right price holds, but the key's budget has been used by the wrong one.
    reply = spend(tenant, 30_000)
    refused(tenant, reply)
    assert reply.error["code"] == "key_spend_limit_exceeded"
    too_much = wrong.charge - (10 * 2_500 + 900 * 15_000)
    amount = format_amount(Nanos(too_much))
    run("credits", "grant", "--org", org(tenant), "--amount", amount, "--source", "adjustment",
        "--reference", "a wrong price on one call")  # fmt: skip
    run(*limit, "4", "--raise-to", "7.6", "--until", "2099-01-01T00:00:00Z")
    assert spend(tenant, 30_000).status == 200
    history = json.loads(run("credits", "history", "--org", org(tenant), "--json").out)["data"]
    assert (amount, "grant") in [(row["change"], row["kind"]) for row in history]
    assert tenant.calls()[0].charge == wrong.charge
    run("books", "check")
    tenant.check_books()
