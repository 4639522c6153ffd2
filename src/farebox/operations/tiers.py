"""Tiers at work: an organisation's tier becomes limits on the organisation, and moves by rule.

A tier's limits are like any other limit, decided in the one transaction; they carry the tier's name
as their owner and stand beside the limits that the organisation sets itself (LIM-06).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import msgspec
from msgspec import structs

from farebox.kit.errors import InvalidInputError, NotFoundError, UnavailableError
from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.kit.money import Nanos
from farebox.kit.patterns import is_pattern
from farebox.operations.audited_money import Submit
from farebox.operations.balance import LimitView
from farebox.operations.finding import only
from farebox.operations.tier_limits import RATE_FIELDS, limit_changes
from farebox.tenancy.names import parse_name
from farebox.tenancy.tiers import (
    NextTier,
    Record,
    Tier,
    TierRate,
    next_tier,
    purchase_room,
    tier_for,
)

RATES_MAX: Final = 50
TIERS_MAX: Final = 100
PAGE: Final = 500

AT_ONCE: Final = 50
CHANGES_AT_ONCE: Final = 200
"""So many organisations, and limits of theirs, follow a changed tier inside the request: a second
or two; the worker does the others."""

FOLLOWING_PAGE: Final = 200
CHANGES_PER_PAGE: Final = 1_000
"""Of one of the worker's steps."""

ROUND_EVERY: Final = timedelta(hours=1)
"""How often everybody's limits are looked at though no tier was changed."""

_COUNT_MAX: Final = 10**15
"""More calls or tokens than anybody has in a day."""


class TierFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where an organisation stands, as it is stored."""

    organization_id: UUID
    organization_name: str
    record: Record
    tier_id: UUID | None
    fixed: bool


class TierStanding(msgspec.Struct, frozen=True, kw_only=True):
    """Where an organisation stands, and what leads further (LIM-07)."""

    organization_id: UUID
    organization_name: str
    currency: str
    tier: Tier | None
    fixed: bool
    """Given by hand: the rule does not move it."""
    purchased: Nanos
    made_at: datetime
    next: NextTier | None
    balance: Nanos
    purchase_room: Nanos | None
    """The most that may be bought now; None: no bound."""
    recharge_room: Nanos | None


class PutTier(NamedTuple):
    """A tier as it was written."""

    tier: Tier
    all_follow: bool
    """Whether every organisation has the new limits already; else the worker is at it."""


class NotFollowed(NamedTuple):
    """An organisation whose limits could not be made those of its tier; the next round tries."""

    organization_id: UUID
    error: Exception


class Followed(NamedTuple):
    """Organisations whose limits are those of their tiers, but for those that failed."""

    changed: int
    after: UUID | None = None
    """Where the next page begins; None at the end."""
    failed: tuple[NotFollowed, ...] = ()


class TierStore(Protocol):
    """Where tiers and their assignments are kept; writes in somebody's name."""

    async def now(self) -> datetime:
        """The database's time, in UTC."""

    async def tiers(self, *, currency: str | None = None) -> list[Tier]:
        """The table, by currency and position."""

    async def put_tier(self, tier: Tier) -> Tier:
        """Add a tier, or change the one of its id.

        Raises:
            ConflictError: The currency has a tier of that name or position.
        """

    async def remove_tier(self, tier_id: UUID) -> None:
        """Take a tier out of the table.

        Raises:
            RefusedError: ``tier_in_use``: organisations stand in it.
        """

    async def facts(
        self, *, organization_id: UUID | None = None, after: UUID | None = None, limit: int
    ) -> list[TierFacts]:
        """Where organisations stand, in the order of ids."""

    async def assign(self, organization_id: UUID, tier_id: UUID | None, *, fixed: bool) -> None:
        """Write where an organisation stands; None takes the assignment away.

        Raises:
            NotFoundError: There is no such organisation.
        """

    async def limits(self, organization_id: UUID) -> tuple[LimitView, ...]:
        """The limits on the organisation itself, as they stand: a tier's are on nothing else."""

    async def balance(self, organization_id: UUID) -> Nanos:
        """Its balance, held money included."""


class _Turn:
    """What a look at several organisations goes by, and what came of it."""

    def __init__(self, tiers: Sequence[Tier], now: datetime, *, mend: bool) -> None:
        self.tiers, self.now, self.mend = tiers, now, mend
        self.changed = self.changes = 0
        self.failed: list[NotFollowed] = []

    def followed(self, after: UUID | None = None) -> Followed:
        """The result, at the end or after that organisation."""
        return Followed(self.changed, after, tuple(self.failed))


class TierDesk:
    """The use cases over one store and the engine."""

    def __init__(self, store: TierStore, submit: Submit, *, chance: Callable[[int], bytes]) -> None:
        """Put it together.

        Args:
            store: Where tiers are kept; it knows in whose name it writes.
            submit: Has the engine decide and commit a command.
            chance: Gives so many random bytes.
        """
        self._store = store
        self._submit = submit
        self._chance = chance

    async def find_tier(self, name: str, currency: str) -> Tier:
        """The tier of that name.

        Raises:
            NotFoundError: There is none.
        """
        every = await self._store.tiers(currency=currency)
        found = [tier for tier in every if tier.name.lower() == name.strip().lower()]
        return only(found, "tier", name, "tier")

    async def set_tier(self, tier: Tier) -> PutTier:
        """Add a tier, or change the one of its name; organisations follow.

        The first of them at once, the rest by the worker (:class:`TierRounds`): no request takes
        longer because there are many.

        Args:
            tier: Its id is taken from the one that is there.

        Raises:
            InvalidInputError: Naming the field.
            ConflictError: The currency has another tier at that position.
        """
        checked = checked_tier(tier)
        every = await self._store.tiers(currency=checked.currency)
        standing = [each for each in every if each.name.lower() == checked.name.lower()]
        if not standing and len(every) >= TIERS_MAX:
            raise InvalidInputError("tiers", f"must be at most {TIERS_MAX}")
        tier_id = standing[0].id if standing else await self._new_id()
        put = await self._store.put_tier(structs.replace(checked, id=tier_id))
        followed = await self.follow(None, limit=AT_ONCE, changes_max=CHANGES_AT_ONCE)
        return PutTier(put, followed.after is None and not followed.failed)

    async def assign(self, organization_id: UUID, tier: Tier | None) -> TierStanding:
        """Give an organisation a tier for good, or (None) the one that the rule says.

        Raises:
            InvalidInputError: The tier is of another currency.
            NotFoundError: There is no such organisation.
        """
        facts = await self._facts(organization_id)
        if tier is not None and tier.currency != facts.record.currency:
            raise InvalidInputError(
                "tier", f"must be of {facts.record.currency}, the organisation's currency"
            )
        tiers = await self._store.tiers()
        wanted = tier or tier_for(tiers, facts.record, await self._store.now())
        await self._store.assign(
            organization_id, None if wanted is None else wanted.id, fixed=tier is not None
        )
        await self._apply(organization_id, wanted)
        return await self.show(organization_id)

    async def show(self, organization_id: UUID) -> TierStanding:
        """Where an organisation stands, and what leads further.

        Raises:
            NotFoundError: There is no such organisation.
        """
        facts = await self._facts(organization_id)
        tiers = await self._store.tiers(currency=facts.record.currency)
        now = await self._store.now()
        tier = next((each for each in tiers if each.id == facts.tier_id), None)
        tier = tier or tier_for(tiers, facts.record, now)
        balance = await self._store.balance(organization_id)
        return TierStanding(
            organization_id=organization_id,
            organization_name=facts.organization_name,
            currency=facts.record.currency,
            tier=tier,
            fixed=facts.fixed,
            purchased=facts.record.purchased,
            made_at=facts.record.made_at,
            next=next_tier(tiers, tier, facts.record, now),
            balance=balance,
            purchase_room=purchase_room(tier, balance),
            recharge_room=purchase_room(tier, balance, recharge=True),
        )

    async def table(self) -> list[Tier]:
        """All tiers."""
        return await self._store.tiers()

    async def follow(self, after: UUID | None, *, limit: int, changes_max: int) -> Followed:
        """Give a page of organisations the tiers and limits that are theirs by the table as it is.

        Args:
            after: The last organisation of the page before.
            limit: Organisations of the page.
            changes_max: The page ends with the organisation that reaches so many changes.

        Raises:
            UnavailableError: The database is away.
        """
        tiers = await self._store.tiers()
        if not tiers:
            return Followed(0)
        turn = _Turn(tiers, await self._store.now(), mend=True)
        page = await self._store.facts(after=after, limit=limit + 1)
        for place, facts in enumerate(page, 1):
            if place > limit or turn.changes >= changes_max:
                return turn.followed(page[place - 2].organization_id)
            await self._try(facts, turn)
        return turn.followed()

    async def step(self, *, mend: bool = True, changes_max: int | None = None) -> Followed:
        """Move whoever the rule moves; safe to take twice, and in two workers at once.

        Args:
            mend: Whether the limits of those who stay are looked at, too.
            changes_max: Ends with the organisation that reaches so many changes; None: goes
                through all of them.

        Raises:
            UnavailableError: The database is away.
        """
        tiers = await self._store.tiers()
        if not tiers:
            return Followed(0)  # nobody stands in one: a tier with organisations in it stays
        turn = _Turn(tiers, await self._store.now(), mend=mend)
        after = None
        while page := await self._store.facts(after=after, limit=PAGE):
            for facts in page:
                await self._try(facts, turn)
                if changes_max is not None and turn.changes >= changes_max:
                    return turn.followed(facts.organization_id)
            after = page[-1].organization_id
        return turn.followed()

    async def _try(self, facts: TierFacts, turn: _Turn) -> None:
        """Put one organisation where it belongs; that it cannot be done must not hide others."""
        try:
            made = await self._move(facts, turn.tiers, turn.now, mend=turn.mend)
        except UnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others behind it go on
            await self._store.now()  # a lost connection is nobody's own trouble: it raises here
            turn.failed.append(NotFollowed(facts.organization_id, error))
            turn.changes += 1  # so that what is bounded by changes is bounded by failures, too
        else:
            turn.changes += made
            turn.changed += made > 0

    async def _move(
        self, facts: TierFacts, tiers: Sequence[Tier], now: datetime, *, mend: bool
    ) -> int:
        """Put one organisation where it belongs; gives how many things were changed."""
        if facts.fixed:
            tier = next((each for each in tiers if each.id == facts.tier_id), None)
        else:
            tier = tier_for(tiers, facts.record, now)
        tier_id = None if tier is None else tier.id
        moved = tier_id != facts.tier_id
        if moved:
            await self._store.assign(facts.organization_id, tier_id, fixed=facts.fixed)
        if not moved and (tier is None or not mend):
            return 0
        return await self._apply(facts.organization_id, tier) + moved

    async def _apply(self, organization_id: UUID, tier: Tier | None) -> int:
        """Have the engine set what differs; gives how many limits did."""
        commands = list(
            limit_changes(organization_id, tier, await self._store.limits(organization_id))
        )
        for command in commands:
            await self._submit(command)
        return len(commands)

    async def _facts(self, organization_id: UUID) -> TierFacts:
        found = await self._store.facts(organization_id=organization_id, limit=1)
        if not found:
            raise NotFoundError("There is no such organisation.")
        return found[0]

    async def _new_id(self) -> UUID:
        return uuid7(await self._store.now(), self._chance(RANDOM_BYTES))


class TierRounds:
    """The worker's rounds: after every change of the table each organisation is looked at once.

    A step is one page, so that no job waits for a large house; a change in the middle of a round
    begins it anew. Safe in two workers at once: who comes second finds nothing to change.
    """

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        """Begin with a round.

        Args:
            monotonic: Seconds of a clock that never goes back.
        """
        self._monotonic = monotonic
        self._table: list[Tier] | None = None
        self._after: UUID | None = None
        self._began_at = monotonic()
        self._is_over = True

    async def step(self, desk: TierDesk) -> Followed:
        """Look at the next page, if there is one to be looked at.

        Who could not be followed is left for the next round: nobody waits behind them.

        Raises:
            UnavailableError: The database is away; the next step does the same page.
        """
        table, now = await desk.table(), self._monotonic()
        is_due = now - self._began_at >= ROUND_EVERY.total_seconds()
        if table != self._table or (self._is_over and is_due):
            self._table, self._after, self._began_at, self._is_over = table, None, now, False
        if self._is_over:
            return Followed(0)
        followed = await desk.follow(
            self._after, limit=FOLLOWING_PAGE, changes_max=CHANGES_PER_PAGE
        )
        self._after, self._is_over = followed.after, followed.after is None
        return followed


def checked_tier(tier: Tier) -> Tier:
    """A tier with its values checked.

    Raises:
        InvalidInputError: Naming the field.
    """
    for field in ("purchases", "monthly_maximum", "balance_maximum", "recharge_maximum"):
        amount = getattr(tier, field)
        if amount is not None and amount < 0:
            raise InvalidInputError(field, "must be zero or more")
    if tier.position < 0 or tier.age_days < 0:
        raise InvalidInputError("position", "and age_days must be zero or more")
    if len(tier.rates) > RATES_MAX:
        raise InvalidInputError("rates", f"must be at most {RATES_MAX}")
    families = [rate.models for rate in tier.rates]
    if len(set(families)) != len(families):
        raise InvalidInputError("rates", "must name each model family once")
    return structs.replace(
        tier, name=parse_name(tier.name), rates=tuple(map(_checked_rate, tier.rates))
    )


def _checked_rate(rate: TierRate) -> TierRate:
    if not is_pattern(rate.models):
        raise InvalidInputError(
            "rates", f"must be of a model or a beginning such as gpt-5* (got {rate.models[:40]!r})"
        )
    for field in RATE_FIELDS:
        value = getattr(rate, field)
        if value is not None and not 0 <= value <= _COUNT_MAX:
            raise InvalidInputError(field, f"must be from 0 to {_COUNT_MAX:,}")
    return rate
