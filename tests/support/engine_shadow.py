"""Decides every batch of the real store a second time, on rows in memory, and compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from farebox.ledger.commands import AnyCommand, SetLimit, SetZone
from farebox.ledger.decide import decide
from farebox.ledger.state import Changes
from farebox.storage import batch_store, rows
from tests.support.ledger_memory import MemoryLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import pytest

    from farebox.ledger.state import Decision, State


class Shadow:
    """Stands in for the engine inside the store, on the organisations that there are."""

    def __init__(self, dsn: str) -> None:
        self.ledger = MemoryLedger()
        self.decided = 0
        """Batches, of which so many were"""
        self.remembered = 0
        """decided by what the lane remembers, and committed."""
        self._changes = Changes()
        with psycopg.connect(dsn) as connection:
            found = connection.execute("SELECT id, last_time, zone FROM organization")
            for org_id, began, zone in found:
                self.ledger.add_organization(org_id, rows.utc(began), zone=zone)

    def decide(self, state: State, commands: Sequence[AnyCommand], now: datetime) -> Decision:
        """What ``farebox.ledger.decide`` does, and the same again from memory."""
        self._follow(state)
        mine = self.ledger.load(commands, now)
        _assert_same_state(
            state, mine, limiting=any(isinstance(c, SetLimit | SetZone) for c in commands)
        )
        theirs = decide(state, commands, now)
        ours = decide(mine, commands, now)
        assert theirs.results == ours.results
        assert _sorted(theirs.changes) == _sorted(ours.changes)
        self.decided += 1
        self._changes = ours.changes
        return theirs

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Decide for the store from now on."""
        for name, remembered in (("_finish", 0), ("_finish_if", 1)):
            patch.setattr(
                batch_store, name, self._following(getattr(batch_store, name), remembered)
            )
        patch.setattr(batch_store, "decide", self.decide)

    def _following(self, finish: Callable[..., Any], remembered: int) -> Callable[..., Any]:
        """The store's own function, whose effect on the database has the same on the memory."""

        async def finishing(*arguments: Any, **options: Any) -> Any:
            try:
                answer = await finish(*arguments, **options)
            except psycopg.Error as error:
                if error.sqlstate != batch_store.NOT_AS_REMEMBERED:
                    self.ledger.write(self._changes)
                raise
            self.remembered += remembered
            self.ledger.write(self._changes)
            return answer

        return finishing

    def _follow(self, state: State) -> None:
        """What changes behind the engine's back."""
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
            # Of limits that stand already the store counts nothing again.
            assert other.used.items() <= mine.used.items()


def _sorted(changes: Changes) -> dict[str, Any]:
    """Changes as a mapping; rows of one table may come in any order."""
    found: dict[str, Any] = {name: getattr(changes, name) for name in changes.__struct_fields__}
    found["grants"] = {grant.id: grant for grant in changes.grants}
    found["holds"] = {hold.call_id: hold for hold in changes.holds}
    found["new_holds"] = [new.hold for new in changes.new_holds]
    return found
