"""Grants: lots of credit with a source, a class, an instant they begin and one they end.

A grant is active on ``[effective_at, expires_at)`` by comparison alone; no job has to run for it
to become unusable (CRD-10). Its money is split, at every instant, as

    amount = remaining + drawn + repaid + expired + refunded
    0 <= reserved + frozen <= remaining
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos


class Source(StrEnum):
    """Where a grant's credit came from (CRD-03)."""

    FREE = "free"
    PROMO = "promo"
    GRANT = "grant"
    ADJUSTMENT = "adjustment"
    BUSINESS = "business"
    CONTRACT = "contract"
    PURCHASED = "purchased"


BURN_CLASS: Final = {
    Source.FREE: 1,
    Source.PROMO: 1,
    Source.GRANT: 1,
    Source.ADJUSTMENT: 1,
    Source.BUSINESS: 2,
    Source.CONTRACT: 2,
    Source.PURCHASED: 3,
}
"""Class 1 burns before class 2 before class 3 (DESIGN.md decision 6, DED-02)."""

REPAYING: Final = frozenset({Source.ADJUSTMENT, Source.BUSINESS, Source.CONTRACT, Source.PURCHASED})
"""Sources whose first draw repays what is owed (NEG-04); free credit never vanishes into debt."""

PAID: Final = frozenset({Source.BUSINESS, Source.CONTRACT, Source.PURCHASED})
"""Sources that a customer pays for: their money comes through the clearing account."""


class GrantState(StrEnum):
    """Whether a grant may be spent, apart from its instants."""

    OPEN = "open"
    FROZEN = "frozen"
    """A dispute over its payment is open: the unreserved part waits."""
    LOST = "lost"
    """The dispute was lost: what returns to it is taken back, what calls still draw is owed."""


class Grant(msgspec.Struct):
    """One grant's row; the engine works on copies of it."""

    id: UUID
    organization_id: UUID
    sequence: int
    source: Source
    amount: Nanos
    remaining: Nanos
    reserved: Nanos
    frozen: Nanos
    repaid: Nanos
    expired: Nanos
    refunded: Nanos
    effective_at: datetime
    expires_at: datetime | None
    state: GrantState = GrantState.OPEN
    repays: bool = False
    """Its first draw, the repayment of what is owed, is still to come."""
    reference: str | None = None
    """Order form, payment or reason it stands on (CRD-05)."""

    def is_live(self, now: datetime) -> bool:
        """Tell whether new calls may use it at that instant."""
        return self.has_begun(now) and not self.has_expired(now)

    def has_begun(self, now: datetime) -> bool:
        """Tell whether its beginning has come and no dispute stands against it."""
        return self.state is GrantState.OPEN and self.effective_at <= now

    def has_expired(self, now: datetime) -> bool:
        """Tell whether its end has come."""
        return self.expires_at is not None and now >= self.expires_at

    @property
    def unreserved(self) -> Nanos:
        """What no call holds and no dispute freezes."""
        return Nanos(self.remaining - self.reserved - self.frozen)

    @property
    def drawn(self) -> Nanos:
        """What calls have spent of it."""
        return Nanos(self.amount - self.remaining - self.repaid - self.expired - self.refunded)


def burn_key(grant: Grant) -> tuple[int, bool, datetime, datetime, int]:
    """Order of burn-down: class, earliest end (none last), earliest start, sequence (DED-03)."""
    ends = grant.expires_at
    return (
        BURN_CLASS[grant.source],
        ends is None,
        ends or grant.effective_at,
        grant.effective_at,
        grant.sequence,
    )
