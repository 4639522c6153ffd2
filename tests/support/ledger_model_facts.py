"""The facts that the plain model keeps: grants with who drew what, calls with what they hold.

Nothing here is a total; whoever wants one adds up facts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import UUID

from farebox.ledger.commands import Admit, GrantCredit, Report, Settle
from farebox.ledger.limits import Measure

CLASSES = (
    ("free", "promo", "grant", "adjustment"),
    ("business", "contract"),
    ("purchased",),
)
FAR = datetime.max.replace(tzinfo=UTC)

Place = tuple[str, str]
"""A scope: its kind, and an id as hex digits or a name."""


@dataclass(frozen=True)
class Figures:
    """Money, tokens and calls."""

    money: int = 0
    tokens: int = 0
    calls: int = 0

    def of(self, measure: Measure) -> int:
        counts = {Measure.MONEY: self.money, Measure.TOKENS: self.tokens}
        if measure in {Measure.CALLS, Measure.PARALLEL}:
            return self.calls
        return counts.get(measure, 0)


@dataclass
class Lot:
    """A grant and everything that ever happened to its money."""

    id: UUID
    asked: GrantCredit
    start: datetime
    end: datetime
    number: int
    state: str = "open"
    drawn: dict[UUID, int] = field(default_factory=dict)
    repaid: int = 0
    broken: dict[UUID | None, int] = field(default_factory=dict)
    taken: int = 0
    repays_next: bool = False

    @property
    def remaining(self) -> int:
        gone = sum(self.drawn.values()) + sum(self.broken.values())
        return self.asked.amount - gone - self.repaid - self.taken

    def order(self) -> tuple[int, datetime, datetime, int]:
        source = self.asked.source.value
        number = next(i for i, sources in enumerate(CLASSES) if source in sources)
        return (number, self.end, self.start, self.number)


@dataclass
class Call:
    """An admitted call."""

    asked: Admit
    at: datetime
    output_limit: int
    tokens: int
    """Reserved."""
    shown: list[dict[str, object]] = field(default_factory=list)
    """What its limits showed when it was admitted."""
    held: int = 0
    earmarks: dict[UUID, int] = field(default_factory=dict)
    floor_part: int = 0
    state: str = "open"
    charge: int = 0
    tokens_used: int = 0
    absorbed: int = 0
    owed: int = 0
    progress: Report | None = None
    steps: int = 0
    settled_by: Settle | None = None

    @cached_property
    def places(self) -> list[Place]:
        return places_of(self.asked)

    @property
    def holds(self) -> Figures:
        return Figures(self.held, self.tokens, 1) if self.state == "open" else Figures()

    @property
    def uses(self) -> Figures:
        return Figures() if self.state == "open" else Figures(self.charge, self.tokens_used, 1)


def places_of(c: Admit) -> list[Place]:
    """Every scope that a call is counted under, the widest first; a run's parents too."""
    who, about = c.dimensions, c.attribution
    steps = about.run.split("/")
    runs = ["/".join(steps[:length]) for length in range(1, len(steps) + 1)]
    places = [
        ("organization", c.organization_id.hex),
        ("project", who.project_id.hex),
        ("key", who.key_id.hex),
        ("environment", who.environment),
        ("feature", who.feature),
        ("user", about.user),
        *(("run", run) for run in runs),
        *(("tag", name + "=" + value) for name, value in about.tags.items() if "=" not in name),
    ]
    return [place for place in places if place[1]]


def plus_months(at: datetime, months: int, *, forward: bool) -> datetime:
    """The same UTC wall time later; a day that is missing is the next one, or the month's last."""
    at = at.astimezone(UTC)
    years, month = divmod(at.month - 1 + months, 12)
    first = at.replace(year=at.year + years, month=month + 1, day=1)
    then = first + timedelta(days=at.day - 1)
    if then.month != first.month:
        overflow = first.replace(day=28) + timedelta(days=4)
        then = overflow.replace(day=1) if forward else overflow - timedelta(days=overflow.day)
    return then
