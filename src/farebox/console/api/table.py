"""All routes of the native API."""

from __future__ import annotations

from typing import Final

from farebox.console.api import (
    alerts,
    audit,
    calls,
    catalogue,
    keys,
    limits,
    money,
    organizations,
    people,
    plans,
    projects,
    tiers,
    usage,
)
from farebox.console.api.routing import Route

ROUTES: Final[tuple[Route, ...]] = (
    *people.ROUTES,
    *organizations.ROUTES,
    *projects.ROUTES,
    *keys.ROUTES,
    *limits.ROUTES,
    *alerts.ROUTES,
    *tiers.ROUTES,
    *plans.ROUTES,
    *catalogue.ROUTES,
    *money.ROUTES,
    *calls.ROUTES,
    *usage.ROUTES,
    *audit.ROUTES,
)
