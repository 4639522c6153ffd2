"""What a lane remembers of organisations from one batch to the next, so that it need not read.

After a commit a lane knows the rows that it read and wrote. As long as an organisation's row is the
version that it knows, nothing of that organisation has changed: whoever writes a row of an
organisation writes the organisation's row too (docs/adr/0021). So the next batch is decided by what
is remembered and sent in one piece: lock, compare the versions, write, commit. Where anything is
not as remembered the database ends that transaction and the batch is read and decided anew.

Promise: what is recalled is what a read under the lock would have found, or nothing commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from farebox.kit.texts import storable
from farebox.ledger.commands import Admit, AnyCommand, Extend, Release, Report, Settle
from farebox.ledger.grants import Grant
from farebox.ledger.holds import Hold
from farebox.ledger.limits import ScopeLimits
from farebox.ledger.organizations import Organization
from farebox.ledger.scopes import scope_number, scopes_of
from farebox.ledger.state import Changes, KeyFacts, OrganizationState, State

ORGANIZATIONS_MAX: Final = 512
"""A lane remembers; the one that was longest out of use is forgotten first."""

ROWS_MAX: Final = 512
"""Grants, scopes and keys of one organisation; beyond, it begins anew. Holds are as many as this
process has open calls."""

LANE_ROWS_MAX: Final = 4_096
"""Of all of them: some three megabytes."""

DOUBT_MAX: Final = 64
"""Batches for which an organisation that others keep changing is read under its lock."""

AHEAD_MAX: Final = timedelta(milliseconds=50)
"""How far the time that a batch was decided at may be ahead of the database's."""

BEHIND_MAX: Final = timedelta(milliseconds=500)
"""How far it may be behind: as old as the time of a batch that was read may be at its commit."""

CLOCK_SECONDS_MAX: Final = 60.0
"""How long one look at the database's clock is gone on from: in that time two clocks part by some
milliseconds at most."""

_REMEMBERED: Final = (Admit, Settle, Release, Report, Extend)
"""Commands of running calls. Everything else is rare, reads more, and is read under the lock."""


class Recalled(msgspec.Struct):
    """A batch's rows as remembered, and what must still be so when it commits."""

    state: State
    versions: dict[UUID, str]
    now: datetime


class Read(msgspec.Struct):
    """A batch's rows as they were read under the lock."""

    state: State
    now: datetime
    versions: dict[UUID, str]
    """Of each organisation's row as it was read."""
    scopes: Iterable[tuple[UUID, int]]
    """Organisation and number of the scopes that were asked for; who has no row has no limit."""
    transaction: str
    """The version of every row that the batch writes."""


class Look(NamedTuple):
    """A look at the database's clock, in seconds of one that only goes forward."""

    now: datetime
    """What it showed, at some moment between"""
    sent_seconds: float
    """the question and"""
    heard_seconds: float
    """the answer."""


class Clock:
    """The database's time between two looks at it, by a clock that only goes forward."""

    __slots__ = ("_at", "_heard_seconds")

    def __init__(self) -> None:
        self._at: datetime | None = None
        self._heard_seconds = 0.0

    def hear(self, look: Look) -> None:
        """Take note of a look; of two the one counts that took less time.

        What was shown may be as old as the answer took to come. One that is older than that is of a
        clock that was set back.
        """
        took = timedelta(seconds=look.heard_seconds - look.sent_seconds)
        expected = self.now(look.heard_seconds)
        if (
            expected is None
            or look.now > expected
            or look.now + took < expected - AHEAD_MAX
            or look.heard_seconds - self._heard_seconds > CLOCK_SECONDS_MAX
        ):
            self._at, self._heard_seconds = look.now, look.heard_seconds

    def now(self, seconds: float) -> datetime | None:
        """The database's time, as far as can be told; None before the first look."""
        if self._at is None:
            return None
        return self._at + timedelta(seconds=seconds - self._heard_seconds)


class _Known:
    """One organisation."""

    __slots__ = (
        "counted",
        "everywhere",
        "grants",
        "holds",
        "keys",
        "organization",
        "penalty",
        "scopes",
        "version",
    )

    def __init__(self, version: str, organization: Organization, penalty: int) -> None:
        self.version = version
        self.organization = organization
        self.grants: dict[UUID, Grant] = {}
        self.scopes: dict[int, ScopeLimits | None] = {}
        """By number; None where there is no row."""
        self.everywhere: dict[int, ScopeLimits] = {}
        """Those that every call must know."""
        self.holds: dict[UUID, Hold] = {}
        self.keys: dict[UUID, KeyFacts] = {}
        self.penalty = penalty
        """The next change by others brings doubts for about twice as many batches."""
        self.counted = 0
        """Its rows, as they are in the lane's sum."""

    @property
    def rows(self) -> int:
        """How many are remembered, the holds left out."""
        return len(self.grants) + len(self.scopes) + len(self.keys)

    def is_as_read(self, mine: OrganizationState) -> bool:
        """Whether what is remembered of a version is what was read of it."""
        grants = {grant.id: grant for grant in mine.grants if grant.remaining}
        return self.organization == mine.organization and self.grants == grants

    def recall(
        self, command: AnyCommand, mine: OrganizationState, limits: dict[int, ScopeLimits]
    ) -> bool:
        """Add the hold and the scopes of a command; False if one of them is not known."""
        if isinstance(command, Admit):
            if command.dimensions.key_id not in self.keys:
                return False
            about = command.attribution
            named = scopes_of(
                command.organization_id,
                command.dimensions,
                user=about.user,
                run=about.run,
                tags=about.tags,
            )
            numbers = [scope_number(kind, ref) for kind, ref in named]
        else:
            assert isinstance(command, Settle | Release | Report | Extend)
            hold = self.holds.get(command.call_id)
            if hold is None:
                return False
            mine.holds[command.call_id] = hold
            numbers = [item.scope for item in hold.raised]
        scopes = self.scopes
        for number in numbers:
            if number not in scopes:
                return False
            scope = scopes[number]
            if scope is not None:
                limits[number] = scope
        return True

    def take(self, mine: OrganizationState) -> None:
        """What was read, beside what is remembered of the same version."""
        self.grants = {grant.id: grant for grant in mine.grants if grant.remaining}
        for scope in mine.limits:
            self.put_scope(scope)
        self.holds.update(mine.holds)
        self.keys.update(mine.keys)

    def put_scope(self, scope: ScopeLimits) -> None:
        """A scope's row as it is now."""
        number = scope.number
        self.scopes[number] = scope
        if scope.is_everywhere:
            self.everywhere[number] = scope

    def forget_scopes(self) -> None:
        """Those of single calls: runs and users come and go."""
        self.scopes = dict(self.everywhere)

    def put_grant(self, grant: Grant) -> None:
        """A grant's row as it is now; one without money is not read again."""
        if grant.remaining:
            self.grants[grant.id] = grant
        else:
            self.grants.pop(grant.id, None)


class _Doubted:
    """An organisation that others have changed: of it only the version is remembered."""

    __slots__ = ("batches", "penalty", "version")

    def __init__(self, version: str, penalty: int) -> None:
        self.version = version
        self.penalty = self.batches = min(DOUBT_MAX, 2 * penalty + 1)
        """How many batches must find the version as it was left until the organisation is known."""


class Memory:
    """A lane's; it belongs to one connection and ends with it."""

    def __init__(self) -> None:
        self._known: dict[UUID, _Known] = {}
        """The one that was longest out of use first, here and below."""
        self._doubted: dict[UUID, _Doubted] = {}
        self._rows = 0
        self.divergences = 0
        """Organisations that were not as remembered though their version was: a defect."""
        self._epochs: dict[UUID, int] = {}
        self._catalogue_revision = 0
        self._clock = Clock()

    def clear(self) -> None:
        """Forget everything: the connection has ended, and with it what is sure."""
        self._known.clear()
        self._doubted.clear()
        self._rows = 0
        self._epochs = {}
        self._clock = Clock()

    def forget(self, organization_ids: Iterable[UUID]) -> None:
        """Read these anew."""
        for organization_id in organization_ids:
            self._take_out(organization_id)

    def _take_out(self, organization_id: UUID) -> _Known | None:
        known = self._known.pop(organization_id, None)
        if known is not None:
            self._rows -= known.counted
            known.counted = 0
        return known

    # Recalling.

    def recall(self, commands: Sequence[AnyCommand], heard_seconds: float) -> Recalled | None:
        """The rows of a batch, if every one of them is remembered and can be relied on.

        Args:
            commands: The batch.
            heard_seconds: Now, by a clock that only goes forward.
        """
        now = self._clock.now(heard_seconds)
        if now is None or not all(c.organization_id in self._known for c in commands):
            return None
        state = State({}, {}, self._catalogue_revision)
        versions: dict[UUID, str] = {}
        limits: dict[UUID, dict[int, ScopeLimits]] = {}
        for command in commands:
            organization_id = command.organization_id
            known = self._known[organization_id]
            if not self._is_usual(command, state.epochs):
                return None
            mine = state.organizations.get(organization_id)
            if mine is None:
                mine = state.organizations[organization_id] = OrganizationState(
                    known.organization, list(known.grants.values()), keys=known.keys
                )
                limits[organization_id] = known.everywhere.copy()
                versions[organization_id] = known.version
            if not known.recall(command, mine, limits[organization_id]):
                return None
        for organization_id, rows in limits.items():
            state.organizations[organization_id].limits = list(rows.values())
        return Recalled(state, versions, now)

    def _is_usual(self, command: AnyCommand, epochs: dict[UUID, int]) -> bool:
        """Add the epoch of a command's node; False if it is not known, or the command is rare."""
        if isinstance(command, Admit | Extend):
            epoch = self._epochs.get(command.node_id)
            if epoch is None:
                return False
            epochs[command.node_id] = epoch
            return True
        return isinstance(command, _REMEMBERED)

    # Remembering.

    def keep(
        self,
        recalled: Recalled,
        changes: Changes,
        transaction: str,
        look: Look,
    ) -> None:
        """A batch that was decided by what is remembered has been committed.

        Args:
            recalled: What it was decided by.
            changes: What was written.
            transaction: The version of what was written.
            look: At the database's time, after the lock.
        """
        self._clock.hear(look)
        for organization_id in recalled.versions:
            known = self._known[organization_id] = self._known.pop(organization_id)
            known.penalty = max(0, known.penalty - 1)
        self._apply(changes, transaction)
        self._make_room(recalled.versions)

    def learn(
        self,
        commands: Sequence[AnyCommand],
        read: Read,
        changes: Changes,
        look: Look,
    ) -> None:
        """A batch that was read under the lock has been committed.

        Args:
            commands: The batch.
            read: What was read.
            changes: What was written.
            look: At the database's time, with the reading.
        """
        self._clock.hear(look)
        self._catalogue_revision = read.state.catalogue_revision
        for command in commands:
            if isinstance(command, Admit | Extend):
                self._epochs.pop(command.node_id, None)
        self._epochs.update(read.state.epochs)
        for organization_id, mine in read.state.organizations.items():
            known = self._of_version(organization_id, mine, read.versions[organization_id])
            if known is not None:
                known.take(mine)
                self._known[organization_id] = known
        for organization_id, number in read.scopes:
            if organization_id in self._known:
                self._known[organization_id].scopes.setdefault(number, None)
        self._apply(changes, read.transaction)
        self.forget(c.organization_id for c in commands if not isinstance(c, _REMEMBERED))
        self._make_room(read.versions)

    def _of_version(
        self, organization_id: UUID, mine: OrganizationState, version: str
    ) -> _Known | None:
        """What is remembered of that version of an organisation, or a new beginning.

        None while it is in doubt: what others change all the time is not worth remembering.
        """
        known = self._take_out(organization_id)
        if known is not None and known.version == version:
            if known.is_as_read(mine):
                return known
            self.divergences += 1
            known = None
        doubted = self._doubted.pop(organization_id, None)
        if known is not None:
            doubted = _Doubted(version, known.penalty)
        elif doubted is None:
            return _Known(version, mine.organization, 0)
        elif doubted.version != version:
            doubted = _Doubted(version, doubted.penalty)
        elif doubted.batches == 1:
            return _Known(version, mine.organization, doubted.penalty)
        else:
            doubted.batches -= 1
        self._doubted[organization_id] = doubted
        return None

    def _apply(self, changes: Changes, transaction: str) -> None:
        """Do to what is remembered what the batch did to the rows."""
        for organization in changes.organizations:
            known = self._known.get(organization.id)
            if known is None:
                self._doubted[organization.id].version = transaction
            else:
                known.organization, known.version = organization, transaction
        if self._known:
            _apply_money(self._known, changes)
            _apply_holds(self._known, changes)

    def _make_room(self, organization_ids: Iterable[UUID]) -> None:
        """Count what has changed; forget what is too much, and who was longest out of use."""
        for organization_id in organization_ids:
            known = self._known.get(organization_id)
            if known is None:
                continue
            if known.rows > ROWS_MAX:
                known.forget_scopes()
            self._rows += known.rows - known.counted
            known.counted = known.rows
            if known.rows > ROWS_MAX:
                self._take_out(organization_id)
        while len(self._known) > ORGANIZATIONS_MAX or self._rows > LANE_ROWS_MAX:
            self._take_out(next(iter(self._known)))
        for longest in list(islice(self._doubted, max(0, len(self._doubted) - ORGANIZATIONS_MAX))):
            del self._doubted[longest]


def _apply_money(everyone: Mapping[UUID, _Known], changes: Changes) -> None:
    for grant in (*changes.new_grants, *changes.grants):
        if (known := everyone.get(grant.organization_id)) is not None:
            known.put_grant(grant)
    for scope in (*changes.limits, *changes.counters):
        known = everyone.get(scope.organization_id)
        if known is None:
            continue
        if storable(scope.ref) == scope.ref:
            known.put_scope(scope)
        else:
            known.scopes.pop(scope.number, None)  # the database keeps another text: it is read


def _apply_holds(everyone: Mapping[UUID, _Known], changes: Changes) -> None:
    for new in changes.new_holds:
        known = everyone.get(new.hold.organization_id)
        if known is not None and _is_plain(new.hold):
            known.holds[new.hold.call_id] = new.hold
    for hold in changes.holds:
        known = everyone.get(hold.organization_id)
        if known is not None and hold.call_id in known.holds:
            known.holds[hold.call_id] = hold
    for closing in changes.closings:
        if (known := everyone.get(closing.call.organization_id)) is not None:
            known.holds.pop(closing.call.call_id, None)


def _is_plain(hold: Hold) -> bool:
    """Whether the database keeps a hold's texts as they are; if not, it is read when it ends."""
    dims = hold.dimensions
    texts = (dims.feature, dims.environment, dims.model, dims.lane, dims.endpoint)
    joined = "".join((*texts, hold.user, hold.run, *hold.tags, *hold.tags.values()))
    return storable(joined) == joined
