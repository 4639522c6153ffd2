"""``farebox credits``."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from farebox.kit.periods import one_year_after
from tests.cli.conftest import Farebox


@pytest.fixture(autouse=True)
def _acme(farebox: Farebox) -> None:
    farebox("orgs", "create", "Acme")


def grant(farebox: Farebox, *arguments: str, status: int = 0) -> dict[str, object]:
    """Give credit to the only organisation; the document, or the error."""
    outcome = farebox("credits", "grant", "--org", "Acme", *arguments, "--json", status=status)
    return outcome.document if status == 0 else outcome.error


def test_a_purchase_lasts_a_calendar_year(farebox: Farebox) -> None:
    """CRD-01, CRD-02: a grant of its own, with its instant, its end and what is left of it."""
    made = grant(farebox, "--amount", "5.00", "--source", "purchased")
    begins, ends = (datetime.fromisoformat(str(made[k])) for k in ("effective_at", "expires_at"))
    assert ends == one_year_after(begins.astimezone(UTC))
    balance = farebox("credits", "balance", "--org", "Acme", "--json").document
    wanted = {"currency", "available", "posted", "held", "owed", "spent", "grants"}
    assert wanted <= balance.keys()
    assert (balance["available"], balance["posted"], balance["held"]) == ("5.00", "5.00", "0.00")
    assert [g["id"] for g in balance["grants"]] == [made["id"]]


@pytest.mark.parametrize(
    "amount",
    ["0", "-1", "-0.01", "NaN", "nan", "inf", "1e400", "1e3", "0.0000000001", "1,5", "", "9" * 30],
)
def test_an_amount_that_is_none_is_refused(farebox: Farebox, amount: str) -> None:
    """Negative, zero, not a number, beyond range, finer than a nano: refused, the field named."""
    outcome = farebox(
        "credits", "grant", f"--amount={amount}", "--source", "free", "--json", status=2
    )
    assert outcome.error["field"] == "amount"
    assert outcome.error["message"].startswith("amount ")
    balance = farebox("credits", "balance", "--json").document
    assert (balance["granted"], balance["grants"]) == ("0.00", [])


def test_the_finest_amount_is_a_nano(farebox: Farebox) -> None:
    """What can be given is shown to the last digit."""
    grant(farebox, "--amount", "0.000000001", "--source", "free")
    assert farebox("credits", "balance", "--json").document["available"] == "0.000000001"


def test_a_contract_needs_its_order_form(farebox: Farebox) -> None:
    """CRD-05: neither end nor reference comes from a default."""
    base = ("--amount", "9", "--source", "contract")
    assert grant(farebox, *base, status=2)["field"] == "expires_at"
    ending = (*base, "--expires-at", "2099-01-01")
    assert grant(farebox, *ending, status=2)["field"] == "reference"
    made = grant(farebox, *ending, "--reference", "OF-1")
    assert (made["reference"], made["expires_at"]) == ("OF-1", "2099-01-01T00:00:00Z")


def test_an_end_must_make_sense(farebox: Farebox) -> None:
    """CRD-06: no past, no time without a zone, and no purchase that outlives its year."""
    base = ("--amount", "9", "--source", "free", "--expires-at")
    for text in ("2020-01-01", "2099-01-01T00:00:00", "soon"):
        assert grant(farebox, *base, text, status=2)["field"] == "expires_at"
    error = grant(
        *(farebox, "--amount", "9", "--source", "purchased", "--expires-at", "2099-01-01"),
        status=1,
    )
    assert error["reason"] == "expiry_is_fixed"


def test_a_repetition_with_an_id_gives_once(farebox: Farebox) -> None:
    """A script may try again: the same grant, marked; with another amount it is refused."""
    named = ("--source", "free", "--id", "grant_" + "1" * 32, "--expires-at", "2099-01-01")
    first = grant(farebox, "--amount", "2", *named)
    again = grant(farebox, "--amount", "2", *named)
    assert (first["exists"], again["exists"]) == (False, True)
    assert grant(farebox, "--amount", "3", *named, status=1)["reason"] == (
        "exists_with_different_amount"
    )
    assert farebox("credits", "balance", "--json").document["granted"] == "2.00"


def test_the_balance_is_broken_down(farebox: Farebox) -> None:
    """CRD-03, CRD-13: by source with the earliest expiry, as text and as a document."""
    grant(farebox, "--amount", "5", "--source", "purchased")
    grant(farebox, "--amount", "2", "--source", "promo", "--expires-at", "2099-06-01")
    grant(farebox, "--amount", "1", "--source", "promo", "--expires-at", "2099-05-01")
    balance = farebox("credits", "balance", "--json").document
    by_source = {row["source"]: row for row in balance["sources"]}
    assert by_source["promo"]["available"] == "3.00"
    assert by_source["promo"]["earliest_expiry"] == "2099-05-01T00:00:00Z"
    text = farebox("credits", "balance").out
    assert max(map(len, text.splitlines())) <= 80
    assert "promo" in text
    assert "2099-05-01" in text


def test_expired_credit_is_never_called_spent(farebox: Farebox) -> None:
    """CRD-10, CRD-12: after its end a grant is expired in balance and list, spent stays zero."""
    grant(farebox, "--amount", "2.5", "--source", "free")
    farebox("clock", "advance", "366d")
    balance = farebox("credits", "balance", "--json").document
    assert (balance["available"], balance["expired"], balance["spent"]) == ("0.00", "2.50", "0.00")
    listed = farebox("credits", "grants", "--json").document["data"]
    assert [(row["state"], row["expired"]) for row in listed] == [("expired", "2.50")]
    assert "expired" in farebox("credits", "grants").out


def test_grants_and_history_go_on_at_their_cursor(farebox: Farebox) -> None:
    """Newest first, page by page, nothing left out."""
    for amount in ("1", "2", "3"):
        grant(farebox, "--amount", amount, "--source", "free")
    for command in ("grants", "history"):
        first = farebox("credits", command, "--limit", "2", "--json").document
        rest = farebox("credits", command, "--cursor", first["next_cursor"], "--json").document
        rows = [row.get("amount", row.get("change")) for row in first["data"] + rest["data"]]
        assert rows == ["3.00", "2.00", "1.00"]
        assert rest["next_cursor"] is None
        assert max(map(len, farebox("credits", command).out.splitlines())) <= 80
        farebox("credits", command, "--cursor", "x", status=2)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("transfer", "transfer_not_allowed"),
        ("withdraw", "withdrawal_not_allowed"),
        ("extend", "expiry_is_fixed"),
    ],
)
def test_what_does_not_exist_is_a_typed_refusal(
    farebox: Farebox, operation: str, reason: str
) -> None:
    """CRD-06, CRD-19, CRD-22: refused with the rule's name, status 1, whatever is asked."""
    outcome = farebox(
        *("credits", operation, "--from", "Acme", "--to", "B", "--amount", "1", "--json"), status=1
    )
    assert outcome.error["reason"] == reason
    assert "CRD-" in outcome.error["message"]


def test_a_refund_needs_an_exception(farebox: Farebox) -> None:
    """CRD-07, CRD-08, CRD-09: by an exception of the list, and never of given credit."""
    bought = str(grant(farebox, "--amount", "5", "--source", "purchased")["id"])
    promo = str(grant(farebox, "--amount", "5", "--source", "promo")["id"])

    def refused(*arguments: str) -> object:
        return farebox("credits", "refund", *arguments, "--json", status=1).error["reason"]

    assert refused(bought) == "credit_is_not_refundable"
    assert refused(promo, "--exception", "dispute") == "given_credit_is_not_refundable"
    assert refused(bought, "--exception", "dispute", "--amount", "5.01") == "not_refundable"
    done = farebox(
        *("credits", "refund", bought, "--exception", "billing_error", "--amount", "2", "--json")
    ).document
    assert (done["amount"], done["exception"]) == ("2.00", "billing_error")
    balance = farebox("credits", "balance", "--json").document
    assert (balance["refunded"], balance["available"]) == ("2.00", "8.00")
    history = farebox("credits", "history", "--json").document["data"]
    assert (history[0]["kind"], history[0]["note"]) == ("refund", "billing_error")
    assert (
        "credits grants"
        in farebox("credits", "refund", "grant_" + "9" * 32, "--exception", "dispute", status=1).err
    )
