"""Bugs to plant: each replaces a function of the engine, for as long as a test lasts.

They show that the checks see what they are there for. Each names the rule that it breaks and how
many seeds it may take until some check finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from unittest import mock
from uuid import UUID

from msgspec import structs

from farebox.kit.money import ZERO, Nanos
from farebox.ledger import admission, books, decide, settlement
from farebox.ledger.books import Books
from farebox.ledger.burndown import plan_draws, plan_earmarks
from farebox.ledger.commands import Admit, Lapse, Refused, Result, Settle, Usage, fingerprint
from farebox.ledger.grants import Grant
from farebox.ledger.holds import CallState, Draw, Earmark
from farebox.ledger.state import Ending
from farebox.operations.lane import Lane
from farebox.operations.pending import Pending
from farebox.operations.sweep import NODE_SILENCE, HoldToLapse
from tests.simulation import database, store
from tests.simulation.database import Database, NodeRow
from tests.simulation.store import SimulatedBatchStore, SimulatedNodeStore

Patch = tuple[Any, Any, Any]
"""Whose attribute (or key of a dictionary), which one, and what stands in its place."""


@dataclass(frozen=True)
class Bug:
    """One planted bug."""

    says: str
    patches: tuple[Patch, ...]
    found_by: tuple[str, ...]
    """The checks that may be the first to see it."""
    seeds: int
    """Some seed below this finds it; many more than it takes, so that chance has no part in it."""
    is_rare: bool = False
    """It needs a coincidence: for the long suite."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug, and take it out again."""
    with ExitStack() as stack:
        for target, attribute, instead in BUGS[name].patches:
            if isinstance(target, dict):
                stack.enter_context(mock.patch.dict(target, {attribute: instead}))
            else:
                stack.enter_context(mock.patch.object(target, attribute, instead))
        yield


# --- the ledger --------------------------------------------------------------------------------


def _earmark_half(mine: Books, amount: Nanos) -> tuple[list[Earmark], Nanos]:
    earmarks, unsecured = plan_earmarks(mine.grants, amount, mine.now)
    for mark in earmarks:
        mine._reserve(mine.grant_by_id[mark.grant_id], mark.amount // 2)
    mine.organization.unsecured_held = Nanos(mine.organization.unsecured_held + unsecured)
    mine.touched = True
    return earmarks, unsecured


def _settle_again(mine: Books, command: Settle) -> Result:
    closed = mine.closed.get(command.call_id)
    if closed is None or closed.state is not CallState.SETTLED:
        return settlement.settle(mine, command)
    ending = Ending(
        state=CallState.SETTLED,
        metered=command.metered,
        cost=command.cost,
        usage=command.usage,
        reason=command.reason,
        lines=command.lines,
        fingerprint=fingerprint(command),
    )
    return settlement.settle_late(mine, structs.replace(closed, charge=ZERO, draws=()), ending)


def _lapse_anyhow(mine: Books, command: Lapse) -> Result:
    hold = mine.holds.get(command.call_id)
    if hold is None:
        return Refused(code="hold_not_found", message="by a planted bug")
    ending = Ending(
        state=CallState.LAPSED,
        metered=ZERO,
        cost=ZERO,
        usage=Usage(),
        reason=command.reason,
        estimated=True,
    )
    return settlement._close(mine, hold, ending)


def _loose_draws(
    grants: Sequence[Grant], earmarked: Mapping[UUID, int], charge: Nanos, **more: Any
) -> tuple[list[Draw], Nanos]:
    # With any amount spendable nothing is forced from earmarks on ended grants.
    return plan_draws(grants, earmarked, charge, **{**more, "spendable": 2**62})


def _expired_three_seconds_ago(grant: Grant, now: datetime) -> bool:
    return grant.expires_at is not None and now >= grant.expires_at + timedelta(seconds=3)


_real_unaffordable = admission.unaffordable


def _no_limits(mine: Books, amounts: Any, limits: Any, *more: Any, **most: Any) -> Refused | None:
    return _real_unaffordable(mine, amounts, [], *more, **most)


_real_forbidden = admission._forbidden


def _any_epoch(mine: Books, command: Admit) -> Refused | None:
    refused = _real_forbidden(mine, command)
    return None if refused is not None and refused.code == "stale_epoch" else refused


# --- storage -------------------------------------------------------------------------------------


def _whatever(*_: Any) -> bool:
    return True


# --- operations --------------------------------------------------------------------------------


async def _fence_later(self: SimulatedNodeStore, silence: timedelta, _: datetime) -> list[str]:
    found = await self._query(lambda database: store.silent_nodes(database, silence))
    await asyncio.sleep(1.0)

    def fence(database: Database) -> list[str]:
        for node_id, seen in found:
            row = database.nodes[node_id]
            epoch = max(row.epoch, seen.epoch + 1)
            database.put_node(node_id, NodeRow(epoch, row.seen_at, row.name, row.renewed))
            store.check_fence(database, row, self._looks)
        return [row.name for _, row in found]

    return await self._query(fence)


async def _fence_nobody(self: SimulatedNodeStore, silence: timedelta, _: datetime) -> list[str]:
    return []


def _holds_of_silent_nodes(place: Database) -> list[HoldToLapse]:
    silent = {node_id for node_id, _ in store.silent_nodes(place, NODE_SILENCE)}
    return [
        HoldToLapse(h.organization_id, h.call_id, h.node_id, h.epoch, True)
        for h in place.ledger.holds.values()
        if h.node_id in silent
    ]


_real_run = SimulatedBatchStore.run


async def _never_resent(
    self: SimulatedBatchStore, commands: Sequence[Any], *, resent: bool
) -> list[Result]:
    return await _real_run(self, commands, resent=False)


def _keep_it(self: Lane, pending: Pending, result: Result) -> None:
    return None


def _only_note_it(self: Lane, pending: Pending) -> None:
    pending.withdrawn = True


_real_park = Lane._park


def _park_the_last(self: Lane, organization_id: UUID, part: list[Pending]) -> None:
    self._stuck.pop(organization_id, None)
    _real_park(self, organization_id, part[-1:])


_DECIDERS: Final[dict[Any, Callable[..., Any]]] = decide._DECIDERS

BUGS: Final[dict[str, Bug]] = {
    "skipped-earmark": Bug(
        "an admission holds an amount but reserves half of it on grants",
        ((Books, "earmark", _earmark_half),),
        found_by=("identity", "earmarks", "promise", "oracle"),
        seeds=5,
    ),
    "settle-twice": Bug(
        "a settle that is sent again charges again",
        ((_DECIDERS, Settle, _settle_again),),
        found_by=("once",),
        seeds=100,
    ),
    "sweep-without-compare": Bug(
        "the sweep lapses holds of nodes it once found silent, whatever they did since",
        (
            (SimulatedNodeStore, "fence_silent", _fence_nobody),
            (store, "holds_to_lapse", _holds_of_silent_nodes),
            (_DECIDERS, Lapse, _lapse_anyhow),
        ),
        found_by=("lapse", "bound", "oracle"),
        seeds=60,
    ),
    "fence-without-compare": Bug(
        "a node is fenced off a second after it was found silent, seen again or not",
        ((SimulatedNodeStore, "fence_silent", _fence_later),),
        found_by=("fence", "bound"),
        seeds=2_000,
        is_rare=True,
    ),
    "loose-draws": Bug(
        "a settle draws live credit in place of its own earmarks on an ended grant",
        ((books, "plan_draws", _loose_draws),),
        found_by=("promise", "oracle"),
        seeds=1_500,
        is_rare=True,
    ),
    "unchecked-memory": Bug(
        "a batch that was decided by what a lane remembers is not compared with what is",
        ((database, "is_as_remembered", _whatever),),
        found_by=("remembered",),
        seeds=60,
    ),
    "late-expiry": Bug(
        "a grant may be used for three seconds after its end",
        ((Grant, "has_expired", _expired_three_seconds_ago),),
        found_by=("admission", "identity", "oracle"),
        seeds=60,
    ),
    "no-limits": Bug(
        "an admission looks at the balance and not at the limits",
        ((admission, "unaffordable", _no_limits),),
        found_by=("limit", "oracle"),
        seeds=60,
    ),
    "any-epoch": Bug(
        "a zombie admits under an epoch that was fenced off",
        ((admission, "_forbidden", _any_epoch),),
        found_by=("admission", "oracle"),
        seeds=600,
        is_rare=True,
    ),
    "resent-as-new": Bug(
        "a batch that may have been committed is sent again as if it were new",
        ((SimulatedBatchStore, "run", _never_resent),),
        found_by=("trouble", "oracle", "acknowledged"),
        seeds=100,
    ),
    "kept-hold": Bug(
        "an admission whose caller is gone keeps its hold",
        ((Lane, "_take_back", _keep_it),),
        found_by=("orphan",),
        seeds=400,
    ),
    "unnoticed-leaving": Bug(
        "an answer that was on its way to a caller who leaves in that moment keeps its hold",
        ((Lane, "withdraw", _only_note_it),),
        found_by=("orphan",),
        seeds=100,
    ),
    "forgotten-command": Bug(
        "of an organisation's commands that are put aside the last is kept",
        ((Lane, "_park", _park_the_last),),
        found_by=("answer", "bound"),
        seeds=150,
    ),
}
