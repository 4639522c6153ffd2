"""What a lane remembers, without a database: it applies what was written, and forgets in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.money import Nanos
from farebox.ledger.commands import Admitted, AnyCommand
from farebox.ledger.decide import decide
from farebox.ledger.state import Changes
from farebox.storage import remembered
from farebox.storage.remembered import CLOCK_SECONDS_MAX, Clock, Look, Memory, Read
from tests.support.ledger_memory import MemoryLedger, audit
from tests.support.till import START, Till

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Lane:
    """A memory beside the rows that it is about; versions are counted."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.memory = Memory()
        self.versions: dict[UUID, int] = {}
        self.seconds = 0.0

    def till(self) -> Till:
        """Another organisation, with a thousand nanos."""
        till = Till()
        till.put_into(self.ledger)
        self.read(till.grant(1_000))
        return till

    def read(self, *commands: AnyCommand) -> list[Any]:
        """A batch that is read under the lock."""
        self.seconds += 1.0
        now = START + timedelta(seconds=self.seconds)
        state = self.ledger.load(commands, now)
        decision = decide(state, commands, now)
        versions = {i: str(self.versions.get(i, 0)) for i in state.organizations}
        scopes = [(c.organization_id, 1) for c in commands]
        changes = decision.changes
        read = Read(state, now, versions, scopes, self._write(changes))
        self.memory.learn(commands, read, changes, Look(now, self.seconds, self.seconds))
        return decision.results

    def go_on(self, *commands: AnyCommand) -> list[Any]:
        """One that is decided by what is remembered."""
        self.seconds += 1.0
        recalled = self.memory.recall(commands, self.seconds)
        assert recalled is not None
        for organization_id, mine in recalled.state.organizations.items():
            assert mine.organization == self.ledger.organizations[organization_id]
            assert all(grant == self.ledger.grants[grant.id] for grant in mine.grants)
            assert all(hold == self.ledger.holds[i] for i, hold in mine.holds.items())
        decision = decide(recalled.state, commands, recalled.now)
        look = Look(recalled.now, self.seconds, self.seconds)
        self.memory.keep(recalled, decision.changes, self._write(decision.changes), look)
        return decision.results

    def knows(self, *commands: AnyCommand) -> bool:
        """Whether a batch could be decided by what is remembered."""
        return self.memory.recall(commands, self.seconds) is not None

    def somebody_writes(self, till: Till) -> None:
        """Another process changes the organisation."""
        self.versions[till.organization_id] = len(self.ledger.events) + 10_000

    def _write(self, changes: Changes) -> str:
        self.ledger.write(changes)
        transaction = int(self.seconds) + 1
        self.versions.update((o.id, transaction) for o in changes.organizations)
        return str(transaction)


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    """A lane whose every scope has the number 1."""
    monkeypatch.setattr(remembered, "scope_number", lambda *_: 1)
    return Lane()


def test_what_was_written_is_what_is_remembered(lane: Lane) -> None:
    """ADR 21: admitted, extended, reported and ended by memory alone, as if read each time."""
    till = lane.till()
    first = till.admit(10)
    lane.read(first)
    second = till.admit(20)
    assert isinstance(lane.go_on(second)[0], Admitted)
    lane.go_on(till.extend(second, 5), till.report(second, 3))
    assert [r.charge for r in lane.go_on(till.settle(second, 21), till.settle(first, 9))] == [21, 9]
    assert not lane.knows(till.settle(first, 9)), "an ended call is read"
    assert lane.go_on(till.admit(971))[0].code == "credit_balance_exhausted"
    assert isinstance(lane.go_on(till.admit(970))[0], Admitted)
    audit(lane.ledger)


def test_a_grant_that_is_used_up_is_not_carried_along(lane: Lane) -> None:
    """ENGINE "A batch": only grants with money are loaded, and only they are remembered."""
    till = lane.till()
    call = till.admit(1_000)
    lane.read(call)
    lane.go_on(till.settle(call, 1_000))
    recalled = lane.memory.recall([till.admit(1)], lane.seconds)
    assert recalled is not None
    (mine,) = recalled.state.organizations.values()
    assert mine.grants == []


@pytest.mark.parametrize("what", ["node", "key", "hold", "scope", "kind", "organization"])
def test_what_is_not_known_is_read(lane: Lane, what: str) -> None:
    """ADR 21: one thing that is not remembered, and the whole batch is read."""
    till, other = lane.till(), Till()
    call = till.admit(10)
    lane.read(call)
    assert lane.knows(till.admit(1), till.settle(call, 5))
    known = till.admit(1)
    unknown: dict[str, AnyCommand] = {
        "node": till.admit(1, node_id=other.node_id),
        "key": till.admit(1, dimensions=other.admit().dimensions),
        "hold": till.settle(other.admit(organization_id=till.organization_id), 5),
        "scope": till.settle(call, 4),
        "kind": till.grant(5),
        "organization": other.admit(1),
    }
    if what == "scope":
        lane.memory._known[till.organization_id].scopes.clear()
        assert not lane.knows(till.admit(1))
        return
    assert not lane.knows(known, unknown[what])


def test_a_memory_begins_empty_and_ends_with_its_connection(lane: Lane) -> None:
    """ADR 21: nothing is recalled before the database's time was heard, nor after the end."""
    till = lane.till()
    assert Memory().recall([till.admit()], 0.0) is None
    lane.read(till.admit())
    assert lane.knows(till.admit())
    lane.memory.clear()
    assert not lane.knows(till.admit())


def test_rare_commands_make_a_lane_forget(lane: Lane) -> None:
    """ADR 21: what a grant or a limit changed is read once before it is remembered."""
    till = lane.till()
    lane.read(till.admit())
    lane.read(till.grant(5))
    assert not lane.knows(till.admit())
    lane.read(till.admit())
    assert lane.knows(till.admit())


def test_surprises_make_a_lane_doubt_for_longer_each_time(lane: Lane) -> None:
    """ADR 21: an organisation that others change is read until it has been quiet for a while."""
    till = lane.till()
    lane.read(till.admit())
    for doubt in (1, 3, 7, 15, 31, 63, remembered.DOUBT_MAX, remembered.DOUBT_MAX):
        lane.somebody_writes(till)
        lane.read(till.admit(1))
        for _ in range(doubt):
            assert not lane.knows(till.admit())
            lane.read(till.admit(1))
        assert lane.knows(till.admit())
    # Every batch that goes well makes it forget one of its surprises.
    for _ in range(remembered.DOUBT_MAX - 1):
        lane.go_on(till.admit(1))
    lane.somebody_writes(till)
    lane.read(till.admit(1))
    assert lane.memory._doubted[till.organization_id].batches == 3


def test_a_lane_remembers_so_many_organisations(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN: limits on everything; the one longest out of use is forgotten."""
    monkeypatch.setattr(remembered, "ORGANIZATIONS_MAX", 2)
    tills = [lane.till() for _ in range(3)]
    for till in tills[:2]:
        lane.read(till.admit(1))
    lane.go_on(tills[0].admit(1))
    lane.read(tills[2].admit(1))
    assert [lane.knows(till.admit(1)) for till in tills] == [True, False, True]


def test_scopes_that_come_and_go_are_forgotten_first(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN: limits on everything; a run of its own for every call leaves no trace."""
    till = lane.till()
    lane.read(till.admit(1))
    rows = lane.memory._known[till.organization_id].rows
    monkeypatch.setattr(remembered, "ROWS_MAX", rows - 1)
    lane.go_on(till.admit(1))
    assert lane.memory._known[till.organization_id].scopes == {}
    monkeypatch.setattr(remembered, "ROWS_MAX", 1)
    lane.read(till.admit(1))
    assert not lane.memory._known
    assert lane.memory._rows == 0


def test_a_lane_remembers_so_many_rows(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN: limits on everything; who was longest out of use makes room."""
    one, two = lane.till(), lane.till()
    lane.read(one.admit(1))
    rows = lane.memory._rows
    assert rows == lane.memory._known[one.organization_id].rows > 0
    monkeypatch.setattr(remembered, "LANE_ROWS_MAX", rows)
    lane.read(two.admit(1))
    assert (lane.knows(one.admit(1)), lane.knows(two.admit(1))) == (False, True)
    assert lane.memory._rows == rows


def test_a_wrong_memory_is_noticed(lane: Lane) -> None:
    """ADR 21: rows that differ though their version does not are a defect, counted and read."""
    till = lane.till()
    lane.read(till.admit(1))
    grants = lane.memory._known[till.organization_id].grants
    (grant,) = grants.values()
    grants[grant.id] = structs.replace(grant, remaining=Nanos(grant.remaining - 1))
    lane.read(till.admit(1), till.settle(till.admit(1)))
    assert lane.memory.divergences == 1
    lane.go_on(till.admit(1))
    assert lane.memory.divergences == 1


def look(passed: float, seconds: float, took: float = 0.0) -> Look:
    """One that showed so many seconds after noon, and took so long to be heard."""
    return Look(NOON + timedelta(seconds=passed), seconds - took, seconds)


def test_time_goes_on_between_two_looks() -> None:
    """ENGINE "Time": the database's time plus what a monotonic clock says has passed since."""
    clock = Clock()
    assert clock.now(5.0) is None
    clock.hear(look(0, 5.0))
    assert clock.now(6.5) == NOON + timedelta(seconds=1.5)


def test_the_quicker_of_two_looks_counts() -> None:
    """ENGINE "Time": an answer that took long says that it is earlier than it is."""
    clock = Clock()
    clock.hear(look(0, 5.0))
    clock.hear(look(0.98, 6.0))
    assert clock.now(6.0) == NOON + timedelta(seconds=1)
    clock.hear(look(1, 6.7, took=0.8))
    assert clock.now(6.7) == NOON + timedelta(seconds=1.7)
    clock.hear(look(2.01, 7.0))
    assert clock.now(7.0) == NOON + timedelta(seconds=2.01)


@pytest.mark.parametrize("jump", [31 * 86_400.0, -40.0])
def test_a_clock_that_jumps_is_believed(jump: float) -> None:
    """ENGINE "Time": wall clocks of nodes decide nothing, whichever way the database's goes."""
    clock = Clock()
    clock.hear(look(0, 5.0))
    clock.hear(look(jump, 6.0, took=0.5))
    assert clock.now(6.0) == NOON + timedelta(seconds=jump)


def test_an_old_look_is_not_gone_on_from() -> None:
    """ENGINE "Time": two clocks part; after a minute the next look counts, quick or slow."""
    clock = Clock()
    clock.hear(look(0, 5.0))
    seconds = 6.0 + CLOCK_SECONDS_MAX
    clock.hear(look(CLOCK_SECONDS_MAX + 0.98, seconds, took=0.02))
    assert clock.now(seconds) == NOON + timedelta(seconds=CLOCK_SECONDS_MAX + 0.98)
