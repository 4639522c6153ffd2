"""All routes of the native API."""

from __future__ import annotations

from typing import Final

from farebox.console.api import (
    alerts,
    audit,
    calls,
    catalogue,
    deployment,
    doors,
    keys,
    limits,
    management_keys,
    money,
    operating,
    organizations,
    people,
    plans,
    projects,
    service_accounts,
    tiers,
    usage,
)
from farebox.console.api.routing import Route

ROUTES: Final[tuple[Route, ...]] = (
    *doors.ROUTES,
    *people.ROUTES,
    *organizations.ROUTES,
    *projects.ROUTES,
    *keys.ROUTES,
    *service_accounts.ROUTES,
    *management_keys.ROUTES,
    *limits.ROUTES,
    *alerts.ROUTES,
    *tiers.ROUTES,
    *plans.ROUTES,
    *catalogue.ROUTES,
    *money.ROUTES,
    *calls.ROUTES,
    *usage.ROUTES,
    *audit.ROUTES,
    *deployment.ROUTES,
    *operating.ROUTES,
)
