"""The balance as people see it: never one bare total (CRD-13), never "used" for "expired" (CRD-12).

It is what the engine itself would find at that instant: the engine's books are opened on the
organisation's rows, so grants that have ended are unusable and credit that has begun has repaid,
whether or not a job has posted it yet. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos
from farebox.ledger.books import Books
from farebox.ledger.grants import Grant, GrantState, Source
from farebox.ledger.limits import Period, Rule, ScopeLimits, instant
from farebox.ledger.organizations import Organization
from farebox.ledger.scopes import ScopeKind
from farebox.ledger.state import OrganizationState


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """One grant at an instant; its parts add up to its amount, the remainder included."""

    id: UUID
    sequence: int
    source: Source
    state: str
    """``active``, ``pending`` (begins later), ``expired``, ``frozen``, ``lost`` or ``used``."""
    amount: Nanos
    available: Nanos
    """What new calls may draw at that instant: nothing unless active."""
    remaining: Nanos
    """Neither spent nor expired nor taken back: held and frozen parts included."""
    held: Nanos
    frozen: Nanos
    spent: Nanos
    repaid: Nanos
    """What paid for debt at its beginning."""
    expired: Nanos
    refunded: Nanos
    effective_at: datetime
    expires_at: datetime | None
    reference: str | None


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """What one source has left (CRD-13)."""

    source: Source
    available: Nanos
    held: Nanos
    earliest_expiry: datetime | None
    """Of its active grants with something left; None where none of them ends."""
    grants: int
    """Active ones with something left."""


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation's money at an instant."""

    organization_id: UUID
    currency: str
    at: datetime
    available: Nanos
    """Live credit that no call holds, less what is owed: what new calls may use, without the floor;
    negative while debt is larger than credit."""
    spendable: Nanos
    """Available plus the floor."""
    posted: Nanos
    """Available plus held: what will be left if every open call costs nothing."""
    held: Nanos
    owed: Nanos
    granted: Nanos
    """Everything ever granted."""
    spent: Nanos
    """Everything ever charged."""
    expired: Nanos
    """Everything that ended unused, never part of ``spent`` (CRD-12)."""
    refunded: Nanos
    absorbed: Nanos
    """Usage that the operator bore."""
    frozen: Nanos
    """In dispute."""
    pending: Nanos
    """Granted, but not begun."""
    floor: Nanos
    maximum_exposure: Nanos
    """Posted plus floor: the most that can still be spent without new money (NEG-08)."""
    earliest_expiry: datetime | None
    sources: tuple[SourceView, ...]
    """In burn-down order of their grants."""
    grants: tuple[GrantView, ...]
    """Those with money left, in burn-down order."""


def view_balance(organization: Organization, grants: Sequence[Grant], now: datetime) -> Balance:
    """What the organisation's rows mean at an instant.

    Args:
        organization: Its row.
        grants: Every grant of it that has money left.
        now: The database's time; the engine's is never before the organisation's last.
    """
    books = _books(organization, grants, (), now)
    org = books.organization
    views = tuple(_view(grant, books.now) for grant in books.grants)
    return Balance(
        organization_id=org.id,
        currency=org.currency,
        at=books.now,
        available=books.available,
        spendable=books.spendable,
        posted=Nanos(books.available + books.held),
        held=books.held,
        owed=org.owed,
        granted=org.granted,
        spent=org.spent,
        expired=org.expired,
        refunded=org.refunded,
        absorbed=org.absorbed,
        frozen=org.frozen,
        pending=Nanos(sum(v.remaining for v in views if v.state == "pending")),
        floor=org.floor,
        maximum_exposure=Nanos(max(0, books.available + books.held + org.floor)),
        earliest_expiry=_earliest(views),
        sources=_by_source(views),
        grants=tuple(view for view in views if view.remaining > 0),
    )


def view_grants(
    organization: Organization,
    grants: Sequence[Grant],
    with_money: Sequence[Grant],
    now: datetime,
) -> tuple[GrantView, ...]:
    """Any grants of an organisation, spent and expired ones too, as they are at an instant.

    Args:
        organization: Its row.
        grants: The ones to show, in any order; they come back in that order.
        with_money: Every grant of it that has money left: what is due is decided over all of them.
        now: The database's time.
    """
    books = _books(organization, with_money, (), now)
    return tuple(_view(books.grant_by_id.get(grant.id, grant), books.now) for grant in grants)


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """One limit with its counter in the current window."""

    scope_kind: ScopeKind
    scope_ref: str
    """An id as 32 hex digits, or a name; empty for the default of each scope of the kind."""
    is_default: bool
    """Whether the limit comes from the defaults of the kind."""
    number: int
    rule: Rule
    maximum: int
    """In the rule's measure, as are the next three; a temporary raise is included."""
    used: int
    held: int
    left: int
    """What new calls may still hold in this window."""
    starts_at: datetime | None
    """None where the window is everything since the beginning."""
    resets_at: datetime | None


class LimitPage(NamedTuple):
    """The limits of some scopes."""

    limits: tuple[LimitView, ...]
    next_scope: int | None
    """The number of the scope with which the next page begins; None at the end."""
    at: datetime
    """The instant of every figure."""


def view_limits(
    organization: Organization, limits: Sequence[ScopeLimits], now: datetime
) -> tuple[LimitView, ...]:
    """Limits of an organisation at an instant, each scope's own and those by default.

    Args:
        organization: Its row.
        limits: The scopes to show, with the defaults of their kinds.
        now: The database's time.
    """
    counters = _books(organization, (), limits, now).counters
    found = []
    for scope in limits:
        own = {rule.number for rule in scope.rules}
        for each in counters.standing_in(scope):
            endless = each.rule.period is Period.TOTAL
            found.append(
                LimitView(
                    scope_kind=scope.kind,
                    scope_ref=scope.ref,
                    is_default=scope.is_default or each.rule.number not in own,
                    number=each.rule.number,
                    rule=each.rule,
                    maximum=each.maximum,
                    used=each.window.used,
                    held=each.window.held,
                    left=max(0, each.left),
                    starts_at=None if endless else instant(each.window.start),
                    resets_at=None if endless else instant(each.window.end),
                )
            )
    return tuple(found)


def _books(
    organization: Organization,
    grants: Sequence[Grant],
    limits: Sequence[ScopeLimits],
    now: datetime,
) -> Books:
    state = OrganizationState(organization=organization, grants=list(grants), limits=list(limits))
    return Books(state, epochs={}, catalogue_revision=0, now=now)


def _view(grant: Grant, now: datetime) -> GrantView:
    return GrantView(
        id=grant.id,
        sequence=grant.sequence,
        source=grant.source,
        state=_state(grant, now),
        amount=grant.amount,
        available=grant.unreserved if grant.is_live(now) else Nanos(0),
        remaining=grant.remaining,
        held=grant.reserved,
        frozen=grant.frozen,
        spent=grant.drawn,
        repaid=grant.repaid,
        expired=grant.expired,
        refunded=grant.refunded,
        effective_at=grant.effective_at,
        expires_at=grant.expires_at,
        reference=grant.reference,
    )


def _state(grant: Grant, now: datetime) -> str:
    if grant.state is not GrantState.OPEN:
        return grant.state.value
    if grant.has_expired(now):
        return "expired"
    if grant.effective_at > now:
        return "pending"
    return "active" if grant.remaining > 0 else "used"


def _earliest(views: Sequence[GrantView]) -> datetime | None:
    return min((v.expires_at for v in views if v.available > 0 and v.expires_at), default=None)


def _by_source(views: Sequence[GrantView]) -> tuple[SourceView, ...]:
    """One line per source that has money live or held, in the order the grants come in."""
    order = list(dict.fromkeys(view.source for view in views if view.remaining > 0))
    found = []
    for source in order:
        mine = [view for view in views if view.source is source]
        live = [view for view in mine if view.available > 0]
        found.append(
            SourceView(
                source=source,
                available=Nanos(sum(view.available for view in live)),
                held=Nanos(sum(view.held for view in mine)),
                earliest_expiry=_earliest(live),
                grants=len(live),
            )
        )
    return tuple(found)
