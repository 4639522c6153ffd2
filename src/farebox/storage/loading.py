"""What a batch loads: the locks first, then every row that its commands touch, then the time.

All of it travels together; only replays, late answers and new limits need a second question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from farebox.kit.money import Nanos
from farebox.kit.periods import hour_start
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Correct,
    Dispute,
    Extend,
    GrantCredit,
    Lapse,
    Refund,
    Release,
    Report,
    SetLimit,
    Settle,
)
from farebox.ledger.holds import CallState
from farebox.ledger.limits import window_bounds
from farebox.ledger.state import OrganizationState, State
from farebox.storage import rows
from farebox.storage.arrays import instants, uuids
from farebox.storage.exchange import Exchange, Row
from farebox.storage.sql import queries


async def load(
    exchange: Exchange, commands: Sequence[AnyCommand], *, resent: bool
) -> tuple[State, datetime]:
    """Begin the transaction, lock the organisations, read what the commands touch.

    Args:
        exchange: Outside a transaction.
        commands: The batch.
        resent: Admissions may have been committed before: look for their holds.

    Returns:
        The state, and the database's time after the locks.
    """
    questions = _Questions(exchange)
    orgs = uuids(sorted({c.organization_id for c in commands}))
    called = _called(commands, resent=resent)
    limited = {c.organization_id for c in commands if isinstance(c, SetLimit)}
    exchange.send("BEGIN")
    questions.ask("lock_organizations", orgs)
    questions.ask("read_grants", orgs)
    questions.ask("read_limits", orgs)
    questions.ask_for("read_named_grants", _named_grants(commands))
    questions.ask_for("read_keys", {c.dimensions.key_id for c in commands if isinstance(c, Admit)})
    questions.ask_for("read_holds", called)
    questions.ask_for("read_holds_of", limited)
    questions.ask_for(
        "read_money_commands", [c.command_id for c in commands if isinstance(c, Refund | Correct)]
    )
    questions.ask("read_time", uuids(_nodes(commands)))
    found = await questions.answers(skipped=1)

    clock = found["read_time"]
    organizations = {
        row[0]: OrganizationState(rows.organization(row)) for row in found["lock_organizations"]
    }
    state = State(
        organizations=organizations,
        epochs={row[2]: row[3] for row in clock if row[2] is not None},
        catalogue_revision=clock[0][1],
    )
    _fill(organizations, found)
    now = rows.utc(clock[0][0])
    await _load_closed(exchange, state, called)
    if limited:
        await _load_charged(exchange, state, commands, now)
    return state, now


class _Questions:
    """Named queries that travel together."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sql = queries("engine")
        self._names: list[str] = []

    def ask(self, name: str, *parameters: str) -> None:
        self._exchange.send(self._sql[name], parameters)
        self._names.append(name)

    def ask_for(self, name: str, ids: Iterable[UUID]) -> None:
        """Ask about ids, if there are any."""
        literal = uuids(ids)
        if literal != "{}":
            self.ask(name, literal)

    async def answers(self, *, skipped: int = 0) -> dict[str, list[Row]]:
        """The rows of each query; those that were not asked have none."""
        answers = (await self._exchange.answers())[skipped:]
        found = dict.fromkeys(self._sql, _NO_ROWS)
        found.update({name: answer.rows for name, answer in zip(self._names, answers, strict=True)})
        return found


_NO_ROWS: list[Row] = []


def _fill(organizations: dict[UUID, OrganizationState], found: dict[str, list[Row]]) -> None:
    """Put every row to its organisation; rows of organisations that are not locked are left out."""
    for row in (*found["read_grants"], *found["read_named_grants"]):
        if row[1] in organizations:
            organizations[row[1]].grants.append(rows.grant(row))
    for row in found["read_limits"]:
        organizations[row[0]].limits.append(rows.limits(row))
    for row in found["read_keys"]:
        if row[1] in organizations:
            organizations[row[1]].keys[row[0]] = rows.key(row)
    for row in (*found["read_holds"], *found["read_holds_of"]):
        if row[1] in organizations:
            organizations[row[1]].holds[row[0]] = rows.hold(row)
    for organization_id, command_id, mark in found["read_money_commands"]:
        if organization_id in organizations:
            organizations[organization_id].known_commands[command_id] = mark


async def _load_closed(exchange: Exchange, state: State, called: Iterable[UUID]) -> None:
    """Calls that are open no more: only replays and late answers come here."""
    open_now = {call_id for o in state.organizations.values() for call_id in o.holds}
    missing = [call_id for call_id in called if call_id not in open_now]
    if not missing:
        return
    questions = _Questions(exchange)
    questions.ask("read_closed", uuids(missing))
    drawn: set[UUID] = set()
    late: set[UUID] = set()
    for row in (await questions.answers())["read_closed"]:
        if row[1] in state.organizations:
            call = rows.closed(row)
            state.organizations[row[1]].closed[call.call_id] = call
            drawn.update(draw.grant_id for draw in call.draws)
            if call.state is CallState.LAPSED and call.charge:
                late.add(call.organization_id)
    loaded = {g.id for o in state.organizations.values() for g in o.grants}
    if drawn - loaded or late:
        # A late answer may give money back: to the grants it drew, and to those that repaid what
        # was owed for it, all of which may be empty by now.
        questions = _Questions(exchange)
        questions.ask("read_empty_grants", uuids(drawn), uuids(late))
        for row in (await questions.answers())["read_empty_grants"]:
            if row[0] not in loaded and row[1] in state.organizations:
                state.organizations[row[1]].grants.append(rows.grant(row))


async def _load_charged(
    exchange: Exchange, state: State, commands: Sequence[AnyCommand], now: datetime
) -> None:
    """What the current window has charged, for limits that begin in its middle."""
    for command in commands:
        mine = state.organizations.get(command.organization_id)
        if not isinstance(command, SetLimit) or command.maximum is None or mine is None:
            continue
        engine_time = max(now, mine.organization.last_time)
        start, _ = window_bounds(command.period, engine_time, mine.organization.zone)
        first_hour = hour_start(start)
        if first_hour < start:
            first_hour += timedelta(hours=1)
        questions = _Questions(exchange)
        questions.ask(
            "read_charged_since",
            mine.organization.id.hex,
            _instant(first_hour),
            _instant(start),
        )
        ((charged,),) = (await questions.answers())["read_charged_since"]
        mine.month_charged = Nanos(charged)


def _instant(at: datetime) -> str:
    return instants((at,))[2:-2]


def _called(commands: Sequence[AnyCommand], *, resent: bool) -> list[UUID]:
    """Calls whose holds may exist; an admission's only where it is sent again."""
    return [
        c.call_id
        for c in commands
        if isinstance(c, Settle | Release | Lapse | Report | Extend)
        or (resent and isinstance(c, Admit))
    ]


def _named_grants(commands: Sequence[AnyCommand]) -> list[UUID]:
    """Grants that commands name: they may have no money left, or may exist already."""
    return [c.grant_id for c in commands if isinstance(c, GrantCredit | Refund | Dispute)]


def _nodes(commands: Sequence[AnyCommand]) -> set[UUID]:
    return {c.node_id for c in commands if isinstance(c, Admit | Extend | Lapse)}
