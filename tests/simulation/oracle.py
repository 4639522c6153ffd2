"""The second implementation of the rules beside the engine: the same batches, the same answers.

``tests.support.ledger_model`` was written from the rules and computes every figure by adding up
facts. It sees each batch at its commit, in the order of commits.
"""

from __future__ import annotations

from datetime import datetime

from farebox.ledger.limits import micros
from tests.simulation.database import Batch, Database
from tests.simulation.trace import SimulationError
from tests.support.ledger_comparison import (
    compare_answer,
    compare_decision,
    compare_organization,
)
from tests.support.ledger_model import ModelOrg, World
from tests.support.ledger_model_limits import RATES


class Oracle:
    """The model, kept in step."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._world = World(database.now())

    def committed(self, batch: Batch) -> None:
        """Ask the model the same and compare.

        Raises:
            SimulationError: It answers differently.
        """
        world = self._world
        times: dict[ModelOrg, datetime] = {}
        for org_id, mine in batch.state.organizations.items():
            row = mine.organization
            model = world.orgs.get(org_id)
            if model is None:
                model = world.orgs[org_id] = ModelOrg(org_id, row.zone, row.last_time)
            model.active = row.active
            model.on_overrun, model.on_lapse = row.on_overrun.value, row.on_lapse.value
            world.keys.update(mine.keys)
            times[model] = model.now
        world.epochs = batch.state.epochs
        world.revision = batch.state.catalogue_revision
        assert batch.decision is not None
        world.gone = batch.decision.changes.forgotten
        answers = world.apply(list(batch.commands), batch.now)
        written = {org.id for org in batch.decision.changes.organizations}
        try:
            for command, result, answer in zip(batch.commands, batch.results, answers, strict=True):
                compare_answer(command, result, answer)
            compare_decision(batch.decision, world)
        except AssertionError as error:
            raise SimulationError("oracle", str(error)) from error
        for model, time in times.items():
            # A batch that changes nothing of an organisation does not move its time either.
            model.now = model.now if model.id in written else time
        self._forget(batch)

    def _forget(self, batch: Batch) -> None:
        """Windows of rates that have passed may be forgotten whenever their row is written."""
        assert batch.decision is not None
        for row in batch.decision.changes.limits:
            model = self._world.orgs[row.organization_id]
            caps, place = model.caps, (row.kind.value, row.ref)
            rates = [c for c in caps.in_force(place).values() if c.asked.period in RATES]
            for cap in rates if row.ref else ():
                kept = {window.start for window in row.windows.get(cap.asked.number, ())}
                for call in model.calls.values():
                    span = caps.span(place, cap, call.at)
                    counts = place in call.places and cap.since <= call.at
                    if (
                        counts
                        and span.end <= model.now
                        and micros(span.start) not in kept
                        and not caps.held(span)
                    ):
                        caps.forgotten.add(span.key)

    def compare(self) -> None:
        """Compare every row with what the model's facts add up to."""
        try:
            for model in self._world.orgs.values():
                compare_organization(self._database.ledger, model)
        except AssertionError as error:
            raise SimulationError("oracle", str(error)) from error
