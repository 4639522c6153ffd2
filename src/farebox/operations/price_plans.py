"""Price plans: made, revised by new versions, and given to organisations (DESIGN.md, decision 16).

A revision never begins in the past, so what was charged is never another price; a call keeps the
plan version of its admission.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec

from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import RANDOM_BYTES, uuid7
from farebox.operations.finding import by_id_or_name, only
from farebox.rating.price_plans import PlanTerms, PlanVersion, check_terms
from farebox.tenancy.names import parse_name

PLANS_MAX: Final = 1_000
"""Every node keeps them all."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A price plan with what it says now."""

    id: UUID
    name: str
    created_at: datetime
    version: PlanVersion | None
    """In force; None before its first begins."""
    versions: int
    organizations: int
    """How many are rated by it."""


class PlanStore(Protocol):
    """Where plans are kept; writes in somebody's name."""

    async def now(self) -> datetime:
        """The database's time, in UTC."""

    async def plans(
        self,
        *,
        plan_id: UUID | None = None,
        name: str | None = None,
        after: UUID | None = None,
        limit: int,
    ) -> list[Plan]:
        """Plans in the order of their making, narrowed by what is given."""

    async def versions(self, plan_id: UUID) -> tuple[PlanVersion, ...]:
        """All versions of a plan, the oldest first."""

    async def add_version(
        self, plan_id: UUID, name: str, version_id: UUID, terms: PlanTerms, effective_at: datetime
    ) -> PlanVersion:
        """Add the next version of a plan, which is made if there is none of that id.

        Raises:
            ConflictError: Another plan has that name.
        """

    async def assign(self, organization_id: UUID, plan_id: UUID | None) -> None:
        """Rate an organisation by a plan; None passes prices through.

        Raises:
            NotFoundError: There is no such organisation or plan.
        """


class PlanDesk:
    """The use cases over one store."""

    def __init__(self, store: PlanStore, *, chance: Callable[[int], bytes]) -> None:
        """Put it together.

        Args:
            store: Where plans are kept; it knows in whose name it writes.
            chance: Gives so many random bytes.
        """
        self._store = store
        self._chance = chance

    async def find_plan(self, text: str, *, field: str = "plan") -> Plan:
        """The plan with that id or name.

        Raises:
            NotFoundError: There is none.
        """
        by = by_id_or_name("plan", text, field)
        found = await self._store.plans(plan_id=by.id, name=by.name, limit=2)
        return only(found, "price plan", text, field)

    async def revise(
        self, name: str, terms: PlanTerms, *, effective_at: datetime | None = None
    ) -> PlanVersion:
        """Make a plan, or the next version of the one of that name.

        Args:
            name: The plan's.
            terms: All that the version says; nothing is taken over from the one before.
            effective_at: From when on, not in the past; now where none is given.

        Raises:
            InvalidInputError: Naming the field.
        """
        checked = parse_name(name)
        check_terms(terms)
        now = await self._store.now()
        if effective_at is not None and effective_at < now:
            raise InvalidInputError(
                "effective_at", f"must not lie before now ({now:%Y-%m-%dT%H:%M:%SZ})"
            )
        found = await self._store.plans(name=checked, limit=1)
        if not found and len(await self._store.plans(limit=PLANS_MAX)) >= PLANS_MAX:
            raise InvalidInputError("plans", f"must be at most {PLANS_MAX}")
        plan_id = found[0].id if found else self._new_id(now)
        return await self._store.add_version(
            plan_id, checked, self._new_id(now), terms, effective_at or now
        )

    async def assign(self, organization_id: UUID, plan_id: UUID | None) -> None:
        """Rate an organisation's calls by a plan from now on; None passes prices through.

        Raises:
            NotFoundError: There is no such organisation or plan.
        """
        await self._store.assign(organization_id, plan_id)

    def _new_id(self, now: datetime) -> UUID:
        return uuid7(now, self._chance(RANDOM_BYTES))
