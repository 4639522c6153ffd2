"""The store on PostgreSQL beside the engine's rows in memory: the same state, answers and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
import pytest

from farebox.ledger.commands import AnyCommand, SetLimit
from farebox.ledger.decide import decide
from farebox.ledger.state import Changes, Decision, State
from farebox.storage import batch_store, rows
from farebox.storage.arrays import uuids
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Exchange
from farebox.storage.sql import queries
from farebox.storage.writing import bucket
from tests.support.engine_traffic import Traffic
from tests.support.ledger_memory import MemoryLedger, audit


class Shadow:
    """Decides every batch a second time, on rows in memory, and compares."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.ledger = MemoryLedger()
        with psycopg.connect(traffic.dsn) as connection:
            for org_id, began in connection.execute("SELECT id, last_time FROM organization"):
                self.ledger.add_organization(org_id, rows.utc(began))

    def decide(self, state: State, commands: Sequence[AnyCommand], now: datetime) -> Decision:
        """Stand in for the engine inside the store."""
        self._follow(state)
        mine = self.ledger.load(commands, now)
        _assert_same_state(state, mine, limiting=any(isinstance(c, SetLimit) for c in commands))
        theirs = decide(state, commands, now)
        ours = decide(mine, commands, now)
        assert theirs.results == ours.results
        assert _sorted(theirs.changes) == _sorted(ours.changes)
        self.ledger.write(ours.changes)
        return theirs

    def _follow(self, state: State) -> None:
        """What the traffic changes behind the engine's back."""
        self.ledger.epochs = dict(state.epochs)
        for mine in state.organizations.values():
            org = self.ledger.organizations[mine.organization.id]
            org.on_overrun = mine.organization.on_overrun
            org.on_lapse = mine.organization.on_lapse
            for key in mine.keys.values():
                self.ledger.add_key(key)


def _assert_same_state(theirs: State, ours: State, *, limiting: bool) -> None:
    assert theirs.organizations.keys() == ours.organizations.keys()
    for org_id, mine in ours.organizations.items():
        other = theirs.organizations[org_id]
        assert other.organization == mine.organization
        assert all(scope in mine.limits for scope in other.limits)
        # The memory looks for more than it must; what the store loads is the same.
        loaded = {grant.id: grant for grant in other.grants}
        assert len(loaded) == len(other.grants)
        known = {grant.id: grant for grant in mine.grants}
        assert {g.id for g in mine.grants if g.remaining} <= loaded.keys() <= known.keys()
        assert all(known[grant_id] == grant for grant_id, grant in loaded.items())
        assert other.holds.items() <= mine.holds.items()
        assert other.closed == {i: c for i, c in mine.closed.items() if i in other.closed}
        assert other.known_commands == mine.known_commands
        if limiting:
            assert other.used == mine.used


def _sorted(changes: Changes) -> dict[str, Any]:
    """Changes as a mapping; rows of one table may come in any order."""
    found: dict[str, Any] = {name: getattr(changes, name) for name in changes.__struct_fields__}
    found["grants"] = {grant.id: grant for grant in changes.grants}
    found["holds"] = {hold.call_id: hold for hold in changes.holds}
    found["new_holds"] = [new.hold for new in changes.new_holds]
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_the_store_and_the_memory_agree(
    dsn: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "A batch": what is loaded, decided and written is what the engine's own rows say."""
    traffic = Traffic(dsn, seed=seed)
    shadow = Shadow(traffic)
    monkeypatch.setattr(batch_store, "decide", shadow.decide)
    try:
        await traffic.run(80)
    finally:
        await traffic.aclose()
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
