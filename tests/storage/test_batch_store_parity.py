"""The store on PostgreSQL beside the engine's rows in memory: the same state, answers and rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from farebox.storage import rows
from farebox.storage.arrays import uuids
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Exchange
from farebox.storage.sql import queries
from farebox.storage.writing import bucket
from tests.support.engine_shadow import Shadow
from tests.support.engine_traffic import Traffic
from tests.support.ledger_memory import MemoryLedger, audit


@pytest.mark.parametrize("seed", range(5))
async def test_the_store_and_the_memory_agree(
    dsn: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "A batch": what is loaded, decided and written is what the engine's own rows say."""
    traffic = Traffic(dsn, seed=seed)
    shadow = Shadow(dsn)
    shadow.stand_in(monkeypatch)
    try:
        await traffic.run(30, calm=12)
    finally:
        await traffic.aclose()
    # Both ways to decide were gone, and what was remembered was the rows.
    assert 10 < shadow.remembered < shadow.decided - 10
    audit(shadow.ledger)
    connection = await Connector(dsn, name="test", durable=False).connect()
    async with connection:
        await _assert_same_rows(Exchange(connection), shadow.ledger)


async def _assert_same_rows(exchange: Exchange, ledger: MemoryLedger) -> None:
    sql = queries("engine")

    async def ask(query: str, *parameters: str) -> list[tuple[Any, ...]]:
        exchange.send(query, parameters)
        (answer,) = await exchange.answers()
        return answer.rows

    grants = uuids(ledger.grants)
    found = await ask(sql["read_named_grants"].replace("AND NOT has_money", ""), grants)
    assert {row[0]: rows.grant(row) for row in found} == ledger.grants
    orgs = uuids(ledger.organizations)
    found = await ask(sql["lock_organizations"], orgs)
    for row in found:
        org = ledger.organizations[row[0]]
        theirs = rows.organization(row)
        # Settings that the traffic changed after the last batch.
        theirs.on_overrun, theirs.on_lapse = org.on_overrun, org.on_lapse
        assert theirs == org
    found = await ask(sql["read_holds_of"], orgs)
    assert {row[0]: rows.hold(row) for row in found} == ledger.holds
    found = await ask("SELECT organization_id, kind, ref, rules::text, windows FROM scope_limit")
    theirs_limits = [rows.limits(row) for row in found]
    assert {(each.organization_id, each.number): each for each in theirs_limits} == ledger.limits
    found = await ask("SELECT id FROM call")
    assert {row[0] for row in found} == ledger.calls.keys()
    found = await ask(sql["read_closed"], uuids(ledger.calls))
    assert {row[0]: rows.closed(row) for row in found} == ledger.calls
    found = await ask("SELECT organization_id, id, fingerprint FROM money_command")
    assert {(row[0], row[1]): row[2] for row in found} == ledger.commands
    await _assert_same_journal(ask, ledger)


async def _assert_same_journal(ask: Any, ledger: MemoryLedger) -> None:
    found = await ask(
        "SELECT organization_id, hour, bucket, calls, charge_nanos, absorbed_nanos, cost_nanos,"
        " input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens"
        " FROM rollup_hour"
    )
    assert {(row[0], rows.utc(row[1]), row[2]): row[3:] for row in found} == {
        (key.organization_id, key.hour, bucket(key)): tuple(
            getattr(delta, name) for name in delta.__struct_fields__
        )
        for key, delta in ledger.rollups.items()
    }
    found = await ask(
        "SELECT organization_id, kind, at, accounts, amounts_nanos, grant_id, call_id,"
        " first_sequence, last_sequence, note FROM posting ORDER BY id"
    )
    assert Counter(repr((row[0], row[1], rows.utc(row[2]), *row[3:])) for row in found) == Counter(
        repr(
            (
                p.organization_id,
                str(p.kind),
                p.at,
                [str(account) for account in p.accounts],
                list(p.amounts),
                p.grant_id,
                p.call_id,
                p.first_sequence,
                p.last_sequence,
                p.note,
            )
        )
        for p in ledger.postings
    )
    found = await ask("SELECT kind, facts FROM outbox ORDER BY id")
    assert found == [(event.kind, event.facts) for event in ledger.events]
