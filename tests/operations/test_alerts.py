"""Alerts as people see them: what is stopped, and let go again."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import pytest
from typing_extensions import override

from farebox.kit.errors import NotFoundError
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.alerts import AlertDesk, stop_command
from farebox.operations.balance import LimitView
from farebox.storage.anomaly_store import PostgresAnomalyStore
from tests.support.office import CLERK, Office
from tests.support.till import Till


class Counting(PostgresAnomalyStore):
    """Notes which limits were read."""

    read: tuple[LimitView, ...] = ()

    @override
    async def limits(
        self, organization_id: UUID, *, scopes: Iterable[int] | None = None
    ) -> tuple[LimitView, ...]:
        """As the store gives them."""
        self.read = await super().limits(organization_id, scopes=scopes)
        return self.read


async def test_a_release_reads_the_one_scope_that_is_named(office: Office) -> None:
    """ANO-01: however many users have limits; a limit on the scope that is no stop, or a stop on
    another scope, is nothing to release, and the organisation itself is a scope like any other.
    """
    till = Till()
    till.put_into_database(office.dsn)
    own = till.organization_id
    for user in ("ada", "bob"):
        limit = SetLimit(
            organization_id=own,
            scope_kind=ScopeKind.USER,
            scope_ref=user,
            period=Period.MONTH,
            maximum=10,
        )
        await office.submit(limit)
    store = Counting(office.connection, CLERK)
    desk = AlertDesk(store, office.submit)
    stops = [(ScopeKind.RUN, "crawl-17"), (ScopeKind.USER, "ada"), (ScopeKind.ORGANIZATION, "")]
    for kind, ref in stops:
        await office.submit(stop_command(own, kind, ref))
    assert {(each.scope_kind, each.scope_ref) for each in await desk.stopped(own)} == {
        *stops[:2],
        (ScopeKind.ORGANIZATION, own.hex),
    }
    for kind, ref in ((ScopeKind.USER, "bob"), (ScopeKind.FEATURE, "ada"), (ScopeKind.RUN, "x")):
        with pytest.raises(NotFoundError, match=f"no {kind.value} of"):
            await desk.release(own, kind, ref)
    for kind, ref in stops:
        await desk.release(own, kind, ref)
        assert {each.scope_kind for each in store.read} == {kind}
        assert sum(each.rule.effect is Effect.STOP for each in store.read) == 1
        with pytest.raises(NotFoundError):
            await desk.release(own, kind, ref)
    assert await desk.stopped(own) == []
    assert {each.scope_ref for each in await store.limits(own)} == {"ada", "bob"}
