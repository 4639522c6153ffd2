"""Rows of limits: what is written is what is read, to the microsecond and the last character."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.kit.money import AMOUNT_NANOS_MAX
from farebox.ledger.holds import Raised
from farebox.ledger.limits import (
    ALWAYS_END,
    Effect,
    Measure,
    Micros,
    Period,
    Rule,
    ScopeLimits,
    Window,
)
from farebox.ledger.scopes import ScopeKind
from farebox.ledger.state import Changes
from farebox.storage import rows
from farebox.storage.arrays import numbers, uuids
from farebox.storage.connecting import Connector
from farebox.storage.exchange import Exchange
from farebox.storage.sql import queries
from farebox.storage.writing import statements
from tests.support.shop import Shop

NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
AMOUNTS = st.integers(0, AMOUNT_NANOS_MAX)
INSTANTS = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(9000, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
RULES = st.builds(
    Rule,
    measure=st.sampled_from(Measure),
    period=st.sampled_from(Period),
    effect=st.sampled_from(Effect),
    models=NAMES,
    maximum=AMOUNTS,
    raised_to=st.none() | AMOUNTS,
    raised_from=st.none() | INSTANTS,
    raised_until=st.none() | INSTANTS,
    thresholds=st.lists(st.integers(1, 1000), max_size=10).map(tuple),
    owner=NAMES,
    counts_from=st.none() | INSTANTS,
)
MICROS = st.integers(0, ALWAYS_END).map(Micros)
WINDOWS = st.dictionaries(
    st.integers(0, 2**63 - 1),
    st.lists(
        st.builds(Window, MICROS, MICROS, AMOUNTS, AMOUNTS, st.integers(0, 1000)),
        min_size=1,
        max_size=3,
    ),
    max_size=3,
)


@pytest.fixture
async def exchange(shop: Shop) -> AsyncIterator[Exchange]:
    """A connection to the shop's database."""
    connection = await Connector(shop.dsn, name="test", durable=False).connect()
    yield Exchange(connection)
    await connection.close()


@given(
    kind=st.sampled_from(ScopeKind),
    ref=NAMES,
    rules=st.lists(RULES, max_size=4).map(tuple),
    windows=WINDOWS,
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_limits_come_back_as_they_were(
    shop: Shop,
    exchange: Exchange,
    kind: ScopeKind,
    ref: str,
    rules: tuple[Rule, ...],
    windows: dict[int, list[Window]],
) -> None:
    """ENGINE "Limits": rules and counters of a scope are one row, and nothing of it is lost."""
    scope = ScopeLimits(shop.till.organization_id, kind, ref, rules, windows)
    ((_, sql, parameters, touched),) = statements(Changes(limits=[scope]))
    exchange.send(sql, parameters)
    (written,) = await exchange.answers()
    assert written.touched == touched == 1
    owner = uuids([scope.organization_id])
    exchange.send(
        queries("engine")["read_limits"], (owner, numbers([scope.number]), uuids(()), owner)
    )
    (read,) = await exchange.answers()
    found = [rows.limits(row) for row in read.rows]
    # A default or an allocation is read because every call must know it; and each row once.
    assert found.count(scope) == 1
    assert {(each.number, each.is_everywhere) for each in found} >= {
        (scope.number, scope.is_everywhere)
    }


@given(st.lists(st.tuples(*[st.integers(0, 2**63 - 1)] * 4), max_size=5))
def test_raised_counters_are_four_numbers_each(raised: list[tuple[int, int, int, int]]) -> None:
    """ENGINE "Limits": a hold names what it raised, and undoes exactly that."""
    flat = [number for each in raised for number in each]
    assert rows.raised(flat) == tuple(Raised(*each) for each in raised)
    assert rows.raised(None) == ()


def test_a_rule_is_stored_without_what_is_as_usual() -> None:
    """ENGINE "Limits": rules written before a field existed are read with its usual value."""
    assert rows.rules_of('[{"maximum":5}]') == (Rule(maximum=5),)
