"""Checking books that the engine made, and books that somebody changed behind its back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from farebox.kit.errors import UnavailableError
from farebox.kit.money import ZERO
from farebox.ledger.commands import Closed, ExpireGrants, Settle, Usage
from farebox.ledger.grants import Source
from farebox.operations.check_books import BooksReport, check_books
from farebox.storage import audit_store
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from tests.support.engine_traffic import CENT, Traffic, new_id
from tests.support.small_books import SmallBooks, small_books

SWEPT = {"hold_overdue"}
"""Traffic without a worker leaves old holds open: a warning."""


async def checked(dsn: str, *organizations: object) -> BooksReport:
    """Check the books of that database."""
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        return await check_books(PostgresAuditStore(connection), *organizations)  # type: ignore[arg-type]


def found(report: BooksReport) -> set[str]:
    """The kinds of difference that were found."""
    return {finding.code.value for finding in report.findings}


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_engine_does_is_clean(dsn: str, seed: int) -> None:
    """DED-16: after random traffic of every command the sums of all rows agree."""
    traffic = Traffic(dsn, seed)
    await traffic.run(120)
    await traffic.aclose()
    report = await checked(dsn)
    assert found(report) <= SWEPT, report.findings
    assert report.is_clean
    assert report.checked.organizations == 2
    assert min(report.checked.calls, report.checked.postings, report.checked.grants) > 0
    assert {kind.split()[0] for kind in traffic.answered} == {
        "Admit",
        "Correct",
        "Dispute",
        "ExpireGrants",
        "Extend",
        "GrantCredit",
        "Lapse",
        "Refund",
        "Release",
        "Report",
        "SetFloor",
        "SetLimit",
        "Settle",
    }


async def test_books_are_clean_at_every_step(dsn: str) -> None:
    """The books agree after each batch, not only in the end; and paging changes nothing."""
    traffic = Traffic(dsn, 5, tenants=1)
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        for _ in range(40):
            await traffic.run(1)
            report = await check_books(PostgresAuditStore(connection))
            assert found(report) <= SWEPT, report.findings
    await traffic.aclose()


async def test_pages_of_one_row_find_the_same(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a page is, every row of it is checked once."""
    await small_books(dsn)
    whole = await checked(dsn)
    monkeypatch.setattr(audit_store, "PAGE_ROWS", 1)
    paged = await checked(dsn)
    assert whole.checked == paged.checked
    assert paged.findings == []


CHARGED = ("spent", "range_sum", "rollup", "window_used")
"""What no longer agrees when a charge changes."""

SETTLED = "UPDATE call SET {} WHERE id = '{settled}'"

PLANTED: dict[str, tuple[str, set[str]]] = {
    # The organisation's row; its CHECK must be dropped to let one total be wrong.
    "granted": (
        "UPDATE organization SET granted_nanos = granted_nanos + 1",
        {"granted", "funding", "totals_disagree"},
    ),
    "spent": (
        "UPDATE organization SET spent_nanos = spent_nanos + 1",
        {"spent", "revenue", "totals_disagree"},
    ),
    "two totals that even out": (
        "UPDATE organization SET expired_nanos = expired_nanos - 1, frozen_nanos = 1",
        {"expired", "breakage", "frozen"},
    ),
    "owed": (
        "UPDATE organization SET owed_nanos = 1, unreserved_nanos = unreserved_nanos + 1",
        {"owed", "receivable", "unreserved"},
    ),
    "reserved": (
        (
            "UPDATE organization SET reserved_nanos = reserved_nanos - 1,"
            " unreserved_nanos = unreserved_nanos + 1"
        ),
        {"reserved", "unreserved"},
    ),
    "unsecured_held": ("UPDATE organization SET unsecured_held_nanos = 1", {"unsecured_held"}),
    "absorbed": (
        "UPDATE organization SET absorbed_nanos = 1",
        {"absorbed", "absorbed_account", "revenue"},
    ),
    "refunded": (
        (
            "UPDATE organization SET refunded_nanos = refunded_nanos + 1,"
            " unreserved_nanos = unreserved_nanos - 1"
        ),
        {"refunded", "refunds", "unreserved"},
    ),
    "a negative total": (
        "UPDATE organization SET frozen_nanos = -1, unreserved_nanos = unreserved_nanos + 1",
        {"frozen", "unreserved", "total_negative"},
    ),
    "a number left out": ("UPDATE organization SET sequence = sequence + 1", {"sequence"}),
    # Grants.
    "a grant's amount": (
        "UPDATE credit_grant SET amount_nanos = amount_nanos + 1 WHERE id = '{purchased}'",
        {"granted", "grant_parts", "grant_posted"},
    ),
    "what a grant has left": (
        "UPDATE credit_grant SET remaining_nanos = remaining_nanos - 1 WHERE id = '{purchased}'",
        {"grant_parts", "unreserved", "customer_credit"},
    ),
    "what a grant expired": (
        "UPDATE credit_grant SET expired_nanos = expired_nanos - 1 WHERE id = '{free}'",
        {"grant_parts", "grant_expired", "expired"},
    ),
    "what a grant repaid": (
        (
            "UPDATE credit_grant SET repaid_nanos = 1, remaining_nanos = remaining_nanos - 1"
            " WHERE id = '{purchased}'"
        ),
        {"grant_repaid", "owed", "unreserved", "customer_credit"},
    ),
    "what was refunded of a grant": (
        "UPDATE credit_grant SET refunded_nanos = refunded_nanos - 1 WHERE id = '{purchased}'",
        {"grant_parts", "grant_refunded", "refunded"},
    ),
    "what a grant has reserved": (
        "UPDATE credit_grant SET reserved_nanos = reserved_nanos - 1 WHERE id = '{purchased}'",
        {"grant_reserved", "unreserved"},
    ),
    "a grant's state": (
        "UPDATE credit_grant SET state = 'lost' WHERE id = '{purchased}'",
        {"grant_state"},
    ),
    "a grant that vanished": (
        "DELETE FROM credit_grant WHERE id = '{promo}'",
        {"grant_unknown", "granted", "expired", "sequence", "breakage_date"},
    ),
    # Calls.
    "a call's charge": (
        SETTLED.replace("{}", "charge_nanos = charge_nanos + 1"),
        {"call_lines", "call_draws", *CHARGED},
    ),
    "a call's lines": (
        SETTLED.replace("{}", "line_nanos[1] = line_nanos[1] + 1"),
        {"call_lines", "call_line_amount"},
    ),
    "a call's quantity": (
        SETTLED.replace("{}", "line_quantities[1] = line_quantities[1] + 1"),
        {"call_line_amount"},
    ),
    "a price that was never in force": (
        SETTLED.replace(
            "{}",
            "line_quantities[2] = 2 * line_quantities[2], line_prices[2] = line_prices[2] / 2",
        ),
        {"call_line_price"},
    ),
    "a call's draws": (
        SETTLED.replace("{}", "draw_nanos[1] = draw_nanos[1] + 1"),
        {"call_draws", "grant_parts"},
    ),
    "a grant that never was": (
        SETTLED.replace("{}", "draw_grants = ARRAY[id]"),
        {"grant_unknown", "grant_parts"},
    ),
    "what a call owes": (
        SETTLED.replace("{}", "owed_nanos = 1"),
        {"call_draws", "range_sum", "owed"},
    ),
    "what was absorbed of a call": (
        SETTLED.replace("{}", "absorbed_nanos = 1"),
        {"call_lines", "absorbed", "range_sum", "rollup"},
    ),
    "a late change": (
        "UPDATE call SET late_charge_nanos = late_charge_nanos + 1 WHERE id = '{late}'",
        {"posting_late", "range_sum"},
    ),
    "a late call made on time": (
        "UPDATE call SET state = 'settled' WHERE id = '{late}'",
        {"call_late", "posting_late"},
    ),
    "a released call with a charge": (
        "UPDATE call SET charge_nanos = 1 WHERE id = '{released}'",
        {"call_released", "call_draws", *CHARGED},
    ),
    "a charge beyond its hold": (
        "DELETE FROM outbox WHERE kind = 'overrun'",
        {"call_beyond_hold"},
    ),
    "a call that vanished": (
        "DELETE FROM call WHERE id = '{settled}'",
        {"sequence", "range", "range_sum", "spent", "rollup", "window_used", "grant_parts"},
    ),
    "a call twice": (
        "UPDATE call SET sequence = sequence - 1 WHERE id = '{released}'",
        {"sequence", "range"},
    ),
    "a call of another organisation": (
        SETTLED.replace("{}", "organization_id = id"),
        {
            "orphans",
            "sequence",
            "range",
            "range_sum",
            "spent",
            "rollup",
            "window_used",
            "grant_parts",
        },
    ),
    # Holds.
    "what a hold holds": (
        "UPDATE hold SET amount_nanos = amount_nanos + 1",
        {"hold_parts", "window_held"},
    ),
    "what a hold has set aside": (
        "UPDATE hold SET earmark_nanos[1] = earmark_nanos[1] - 1, unsecured_nanos = 1",
        {"reserved", "unsecured_held", "grant_reserved"},
    ),
    "a hold that vanished": (
        "DELETE FROM hold",
        {"reserved", "grant_reserved", "window_held"},
    ),
    "a hold of a call that ended": (
        "UPDATE hold SET call_id = '{settled}'",
        {"hold_closed"},
    ),
    "a hold without its counter": ("UPDATE hold SET raised = NULL", {"window_held"}),
    "a hold nobody swept": (
        "UPDATE hold SET latest_end = latest_end - interval '3 hours'",
        {"hold_overdue"},
    ),
    # The journal.
    "an entry": (
        "UPDATE posting SET amounts_nanos[1] = amounts_nanos[1] + 1 WHERE kind = 'refund'",
        {"posting_unbalanced", "customer_credit", "grant_refunded"},
    ),
    "both entries": (
        (
            "UPDATE posting SET amounts_nanos = ARRAY[amounts_nanos[1] + 1, amounts_nanos[2] - 1]"
            " WHERE kind = 'calls' AND first_sequence = (SELECT sequence FROM call"
            " WHERE id = '{settled}')"
        ),
        {"customer_credit", "revenue", "range_sum"},
    ),
    "a kind of posting": (
        "UPDATE posting SET kind = 'gift' WHERE kind = 'refund'",
        {"posting_unknown"},
    ),
    "an account": (
        "UPDATE posting SET accounts[2] = 'cash' WHERE kind = 'refund'",
        {"posting_unknown", "refunds"},
    ),
    "a posting that vanished": (
        (
            "DELETE FROM posting WHERE kind = 'calls' AND first_sequence ="
            " (SELECT sequence FROM call WHERE id = '{settled}')"
        ),
        {"range", "customer_credit", "revenue"},
    ),
    "a posting twice": (
        (
            "INSERT INTO posting (organization_id, kind, at, accounts, amounts_nanos,"
            " first_sequence, last_sequence)"
            " SELECT organization_id, kind, at, accounts, amounts_nanos, first_sequence,"
            " last_sequence FROM posting WHERE kind = 'calls' ORDER BY id LIMIT 1"
        ),
        {"range", "customer_credit", "revenue"},
    ),
    "a late posting of another call": (
        "UPDATE posting SET call_id = '{settled}' WHERE kind = 'late'",
        {"posting_late"},
    ),
    "a posting of no call": (
        "UPDATE posting SET call_id = organization_id WHERE kind = 'late'",
        {"posting_call"},
    ),
    "the day of breakage": (
        (
            "UPDATE posting SET at = at + interval '1 second'"
            " WHERE kind = 'breakage' AND call_id IS NULL AND grant_id = '{promo}'"
        ),
        {"breakage_date"},
    ),
    "the day of returned breakage": (
        (
            "UPDATE posting SET at = at - interval '2 hours'"
            " WHERE kind = 'breakage' AND call_id IS NOT NULL"
        ),
        {"breakage_date"},
    ),
    # What is derived.
    "a rollup": ("UPDATE rollup_hour SET output_tokens = output_tokens + 1", {"rollup"}),
    "a rollup of nothing": (
        "UPDATE rollup_hour SET model = 'gpt-0'",
        {"rollup"},
    ),
    "a limit's used": (
        "UPDATE scope_limit SET windows = windows[1:3] || 1 || windows[5:]",
        {"window_used"},
    ),
    "a limit's held": (
        "UPDATE scope_limit SET windows = windows[1:4] || 1 || windows[6:]",
        {"window_held"},
    ),
    "a limit's window": (
        "UPDATE scope_limit SET windows = windows[1:1] || windows[2] - 1 || windows[3:]",
        {"window_held"},
    ),
    "a rejected command": (
        (
            "INSERT INTO quarantine (organization_id, command_kind, command, error)"
            " SELECT id, 'settle', '{{}}', '22003' FROM organization"
        ),
        {"quarantined"},
    ),
}


@pytest.mark.parametrize("name", PLANTED)
async def test_every_corruption_is_found(dsn: str, name: str) -> None:
    """One value changed by hand is found, and with it only what can no longer agree with it."""
    books = await small_books(dsn)
    statement, expected = PLANTED[name]
    names = {
        **books.calls,
        "free": books.free,
        "promo": books.promo,
        "purchased": books.purchased,
    }
    books.traffic.sql("ALTER TABLE organization DROP CONSTRAINT totals_agree")
    books.traffic.sql("ALTER TABLE organization DROP CONSTRAINT totals_not_negative")
    books.traffic.sql("ALTER TABLE posting DISABLE TRIGGER posting_append_only")
    assert (await checked(dsn)).findings == []
    books.traffic.sql(statement.format(**names))
    report = await checked(dsn)
    assert found(report) == expected, [finding.message for finding in report.findings]
    assert report.is_clean == (expected <= {"hold_overdue", "quarantined"})


async def test_one_organisation_is_checked_alone(dsn: str) -> None:
    """A check of one organisation reads nothing of the others."""
    books = await small_books(dsn)
    other = new_id(books.traffic.chance)
    books.traffic.sql(
        "INSERT INTO organization (id, name, absorbed_nanos) VALUES (%s, 'o', 1)", other
    )
    assert found(await checked(dsn)) == {"absorbed", "absorbed_account", "revenue"}
    report = await checked(dsn, [books.tenant.id])
    assert report.findings == []
    assert report.checked.organizations == 1


async def test_traffic_during_a_check_is_no_difference(dsn: str) -> None:
    """Each organisation is read as of one instant: calls that end meanwhile change nothing."""
    books = SmallBooks(dsn)
    await books.make()
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        store = PostgresAuditStore(connection)
        async with store.snapshot(books.tenant.id) as snapshot:
            before = await snapshot.call_sums()
            await books.one(books.traffic.settle(books.tenant, books.calls["open"]))
            assert await snapshot.call_sums() == before
        async with store.snapshot(books.tenant.id) as snapshot:
            assert (await snapshot.call_sums()).charge > before.charge
        assert (await check_books(store)).findings == []
    await books.traffic.aclose()


async def test_a_snapshot_does_not_outlive_its_time(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that takes too long is given up with a reason: it would slow every hot row."""
    books = await small_books(dsn)
    monkeypatch.setattr(audit_store, "SNAPSHOT_SECONDS_MAX", 0.0)
    with pytest.raises(UnavailableError, match="could not be read within"):
        await checked(dsn, [books.tenant.id])


async def test_an_overrun_counts_as_told_only_for_its_call(dsn: str) -> None:
    """Of the calls asked about, those whose overrun is in the outbox are named."""
    books = await small_books(dsn)
    connection = await Connector(dsn, name="audit", durable=False).connect()
    async with connection:
        store = PostgresAuditStore(connection)
        calls = list(books.calls.values())
        told = await store.overruns_told(books.tenant.id, calls)
        assert told == {books.calls["beyond"]}
        assert await store.overruns_told(books.tenant.project_id, calls) == set()


async def test_breakage_long_after_its_day_is_dated_at_its_day(dsn: str) -> None:
    """CRD-11: after weeks of downtime the sweep books each end once, at the end; all is clean."""
    books = await small_books(dsn)
    before = (await checked(dsn)).checked.postings
    books.traffic.advance(timedelta(days=100))
    for _ in range(2):
        await books.one(ExpireGrants(organization_id=books.tenant.id))
    await books.traffic.aclose()
    report = await checked(dsn)
    assert found(report) == {"hold_overdue"}
    assert report.checked.postings == before + 1


async def test_money_goes_back_to_an_empty_grant_that_repaid_it(dsn: str) -> None:
    """NEG-04: a charge that was owed, repaid by a grant that is empty now, can be taken back."""
    books = SmallBooks(dsn)
    books.traffic.sql("UPDATE organization SET on_overrun = 'owe'")
    tenant, traffic = books.tenant, books.traffic
    await books.grant(books.free, Source.FREE, CENT, hours=9)
    await books.admit("late")
    await books.lapse("late", metered=3 * CENT)
    await books.grant(books.purchased, Source.PURCHASED, 2 * CENT, hours=9)
    settled = await books.one(
        Settle(
            organization_id=tenant.id,
            call_id=books.calls["late"],
            metered=ZERO,
            cost=ZERO,
            lines=(),
            usage=Usage(),
        )
    )
    await traffic.aclose()
    assert isinstance(settled, Closed)
    assert (settled.charge, settled.available) == (0, 3 * CENT)
    assert (await checked(dsn)).findings == []
