"""Every open hold has somebody who will end it: none is forgotten and left to its latest end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from uuid import UUID

from tests.simulation.gateways import Gateway
from tests.simulation.trace import SimulationError

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOK_SECONDS: Final = 5.0
"""Between two looks; an answer is handed on within one instant."""


async def watch_owners(world: World) -> None:
    """Look every few seconds, for ever.

    A hold of a living node belongs to a call that runs, or to a command on its way to the database.
    One that belongs to nobody at two looks in a row is forgotten.
    """
    suspects: set[UUID] = set()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        found = _forgotten(world)
        again = sorted(found & suspects)
        if again:
            hold = world.database.ledger.holds[again[0]]
            world.loop.halt(SimulationError("orphan", f"nobody will end {hold}"))
        suspects = found


def _forgotten(world: World) -> set[UUID]:
    living = {
        (gateway.node.id, gateway.node.epoch): gateway
        for gateway in world.every_gateway
        if gateway.takes_calls and not gateway.process.stopped
    }
    owned = {owner: _owned(gateway) for owner, gateway in living.items()}
    aside = {getattr(row.command, "call_id", None) for row in world.database.quarantine}
    return {
        call_id
        for call_id, hold in world.database.ledger.holds.items()
        if call_id not in aside
        and call_id not in owned.get((hold.node_id, hold.epoch), {call_id: None})
    }


def _owned(gateway: Gateway) -> set[UUID]:
    """Calls that a gateway runs, or has a command about."""
    commands = [
        pending.command for lane in gateway.bookkeeper._lanes for pending in lane._everything()
    ]
    return {*gateway.running, *(getattr(c, "call_id", gateway.node.id) for c in commands)}
