"""Who may do what: roles, actions, and one table between them.

A role is held in one organisation (ORG-01). An operator administers the deployment and may do
everything in it; some things only an operator may do, since they make money or change prices.
Keys for models are no part of this: they manage nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

import msgspec

from farebox.kit.errors import NotFoundError, RefusedError
from farebox.tenancy.actors import Actor


class Role(StrEnum):
    """What a member is in an organisation."""

    OWNER = "owner"
    BILLING_ADMIN = "billing_admin"
    """Money in, limits and papers; no keys."""
    DEVELOPER = "developer"
    """Keys and usage; no billing data (ORG-11)."""
    FINANCE_VIEWER = "finance_viewer"
    """Sees all that concerns money and changes nothing."""
    VIEWER = "viewer"


class Action(StrEnum):
    """Something that needs a permission."""

    ORGANIZATION_VIEW = "organization.view"
    ORGANIZATION_CHANGE = "organization.change"
    BALANCE_VIEW = "balance.view"
    BILLING_VIEW = "billing.view"
    """Grants, ledger, payments, receipts (ORG-12)."""
    CREDIT_PURCHASE = "credit.purchase"
    LIMITS_VIEW = "limits.view"
    LIMITS_CHANGE = "limits.change"
    PROJECTS_VIEW = "projects.view"
    PROJECTS_CHANGE = "projects.change"
    KEYS_VIEW = "keys.view"
    KEYS_CHANGE = "keys.change"
    """Keys for models and the service accounts that own them."""
    MANAGEMENT_KEYS_CHANGE = "management_keys.change"
    """Keys that manage this organisation."""
    MEMBERS_VIEW = "members.view"
    """Everybody sees who to ask (ORG-13, ORG-14)."""
    MEMBERS_CHANGE = "members.change"
    USAGE_VIEW = "usage.view"
    CALLS_VIEW = "calls.view"
    CONTENT_VIEW = "content.view"
    EXPORT = "export"
    AUDIT_VIEW = "audit.view"
    PRICES_VIEW = "prices.view"
    """What calls cost this organisation."""
    CREDIT_GRANT = "credit.grant"
    """Credit that nobody pays for here; refunds, corrections, the floor."""
    ORGANIZATION_CREATE = "organization.create"
    TIER_CHANGE = "tier.change"
    PLAN_CHANGE = "plan.change"
    DEPLOYMENT_VIEW = "deployment.view"
    """Providers, costs, every organisation, the whole audit log."""
    DEPLOYMENT_CHANGE = "deployment.change"
    """Providers, prices, tiers, plans, operators, the sandbox's clock."""


_ALL: Final = frozenset(Role)
_MONEY: Final = frozenset({Role.OWNER, Role.BILLING_ADMIN, Role.FINANCE_VIEWER})
_PAYS: Final = frozenset({Role.OWNER, Role.BILLING_ADMIN})
_BUILDS: Final = frozenset({Role.OWNER, Role.DEVELOPER})
_OWNS: Final = frozenset({Role.OWNER})
_NOBODY: Final[frozenset[Role]] = frozenset()

PERMITTED: Final[Mapping[Action, frozenset[Role]]] = MappingProxyType(
    {
        Action.ORGANIZATION_VIEW: _ALL,
        Action.ORGANIZATION_CHANGE: _OWNS,
        Action.BALANCE_VIEW: _ALL,
        Action.BILLING_VIEW: _MONEY,
        Action.CREDIT_PURCHASE: _PAYS,
        Action.LIMITS_VIEW: _ALL,
        Action.LIMITS_CHANGE: _PAYS,
        Action.PROJECTS_VIEW: _ALL,
        Action.PROJECTS_CHANGE: _OWNS,
        Action.KEYS_VIEW: _BUILDS,
        Action.KEYS_CHANGE: _BUILDS,
        Action.MANAGEMENT_KEYS_CHANGE: _OWNS,
        Action.MEMBERS_VIEW: _ALL,
        Action.MEMBERS_CHANGE: _OWNS,
        Action.USAGE_VIEW: _ALL,
        Action.CALLS_VIEW: _MONEY | _BUILDS,
        Action.CONTENT_VIEW: _BUILDS,
        Action.EXPORT: _MONEY,
        Action.AUDIT_VIEW: _MONEY,
        Action.PRICES_VIEW: _ALL,
        Action.CREDIT_GRANT: _NOBODY,
        Action.ORGANIZATION_CREATE: _NOBODY,
        Action.TIER_CHANGE: _NOBODY,
        Action.PLAN_CHANGE: _NOBODY,
        Action.DEPLOYMENT_VIEW: _NOBODY,
        Action.DEPLOYMENT_CHANGE: _NOBODY,
    }
)
"""Action -> the roles that may; an operator may everything."""


def may(action: Action, *, operator: bool, role: Role | None) -> bool:
    """Whether somebody may do something.

    Args:
        action: What.
        operator: Whether they administer the deployment.
        role: What they are in the organisation that it is about; None for a stranger to it.
    """
    return operator or (role is not None and role in PERMITTED[action])


def covers(role: Role | None, other: Role | None, *, operator: bool = False) -> bool:
    """Whether somebody may do all that another role may.

    Args:
        role: What they are in an organisation; None for a stranger to it.
        other: The other role there; None for an operator.
        operator: Whether they administer the deployment.
    """
    if operator or other is None:
        return operator
    return all(role in roles for roles in PERMITTED.values() if other in roles)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Who somebody is to every organisation: what a door finds out once per request."""

    actor: Actor
    operator: bool = False
    roles: Mapping[UUID, Role] = MappingProxyType({})

    def role_in(self, organization_id: UUID | None) -> Role | None:
        """What they are in an organisation."""
        return None if organization_id is None else self.roles.get(organization_id)

    def may(self, action: Action, organization_id: UUID | None = None) -> bool:
        """Whether they may do it there."""
        return may(action, operator=self.operator, role=self.role_in(organization_id))

    def require(self, action: Action, organization_id: UUID | None = None) -> None:
        """Let them pass.

        Raises:
            NotFoundError: The organisation is none of theirs, so it is not there (DESIGN.md,
                decision 18).
            RefusedError: ``permission_denied``, naming who may (ORG-13).
        """
        if self.may(action, organization_id):
            return
        role = self.role_in(organization_id)
        if organization_id is not None and role is None:
            raise NotFoundError("There is no such organisation.")
        who = [name.value.replace("_", " ") for name in Role if name in PERMITTED[action]]
        asked = " or ".join([*who, "operator"])
        here = "You are no operator" if role is None else f"Your role here is {role.value}"
        raise RefusedError(
            "permission_denied", f"{here.replace('_', ' ')}; {action.value} needs: {asked}."
        )
