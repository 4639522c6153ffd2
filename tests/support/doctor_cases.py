"""Facts for the doctor's tests: a healthy organisation, and what may be wrong with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from farebox.advice.complaints import read_complaint
from farebox.advice.facts import (
    CallRecord,
    Case,
    DaySpend,
    GrantRecord,
    HoldsFacts,
    InstallationFacts,
    KeyRecord,
    LimitRecord,
    MoneyFacts,
    OrganizationFacts,
    ProjectFacts,
    RefusalGroup,
    SpenderFacts,
    SpendingFacts,
)
from farebox.kit.ids import format_id
from farebox.kit.money import NANOS_PER_UNIT, ZERO, Nanos
from farebox.ledger.grants import Source
from farebox.ledger.limits import LimitFigures
from farebox.tenancy.api_keys import KeyState

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ORG_ID, PROJECT_ID, KEY_ID, CALL_ID = (UUID(int=i) for i in range(1, 5))
ORGANIZATION = OrganizationFacts(id=ORG_ID, name="Acme", currency="USD", active=True)
PROJECT = ProjectFacts(id=PROJECT_ID, name="search")
INSTALLATION = InstallationFacts(
    sandbox=False,
    gateways_alive=1,
    gateway_seen_at=NOW,
    real_time=NOW,
    providers=("openai",),
    priced_currencies=("USD",),
)
ORG_TEXT = format_id("org", ORG_ID)
REQ_TEXT = format_id("req", CALL_ID)


def units(number: float) -> Nanos:
    """Nanos of so many units, to the thousandth."""
    return Nanos(int(number * 1000) * (NANOS_PER_UNIT // 1000))


def key(**changes: Any) -> KeyRecord:
    """An active key."""
    values: dict[str, Any] = {
        "id": KEY_ID,
        "name": "laptop",
        "prefix": "fbx_live_1111",
        "state": KeyState.ACTIVE,
        "project_id": PROJECT_ID,
        "project_name": "search",
        "created_at": NOW - 30 * DAY,
    }
    return KeyRecord(**(values | changes))


def grant(source: Source = Source.PURCHASED, amount: float = 5, **changes: Any) -> GrantRecord:
    """An active grant, untouched."""
    values: dict[str, Any] = {
        "id": UUID(int=100),
        "source": source,
        "state": "active",
        "amount": units(amount),
        "available": units(amount),
        "remaining": units(amount),
        "held": ZERO,
        "spent": ZERO,
        "expired": ZERO,
        "effective_at": NOW - 10 * DAY,
        "expires_at": NOW + 300 * DAY,
    }
    return GrantRecord(**(values | changes))


def money(available: float = 5, *grants: GrantRecord, **changes: Any) -> MoneyFacts:
    """What there is to spend; a purchased grant of five unless told otherwise."""
    shown = grants or (grant(amount=5, available=units(available)),)
    values: dict[str, Any] = {
        "available": units(available),
        "spendable": units(available),
        "held": ZERO,
        "owed": ZERO,
        "granted": Nanos(sum(each.amount for each in shown)),
        "spent": Nanos(sum(each.spent for each in shown)),
        "expired": Nanos(sum(each.lapsed for each in shown)),
        "frozen": ZERO,
        "pending": ZERO,
        "floor": ZERO,
        "grants": shown,
    }
    return MoneyFacts(**(values | changes))


def refusal(code: str, **changes: Any) -> CallRecord:
    """A call that was refused a minute ago."""
    values: dict[str, Any] = {
        "id": CALL_ID,
        "status": "refused",
        "code": code,
        "message": "No.",
        "at": NOW - timedelta(minutes=1),
        "model": "gpt-5.4",
        "needed": units(0.5),
        "key_prefix": "fbx_live_1111",
    }
    return CallRecord(**(values | changes))


def group(code: str, times: int = 1, **changes: Any) -> RefusalGroup:
    """Like refusals of the last day."""
    last = refusal(code, **changes)
    return RefusalGroup(last=last, times=times, first_at=last.at - timedelta(hours=1))


def figures(kind: str, ref: str = "", **changes: Any) -> LimitFigures:
    """A full monthly limit of ten, as a refusal shows it."""
    values: dict[str, Any] = {
        "scope_kind": kind,
        "scope_id": ref or ORG_ID.hex,
        "period": "month",
        "maximum": units(10),
        "used": units(10),
        "held": 0,
        "resets_at": NOW + 11 * DAY,
    }
    return LimitFigures(**(values | changes))


def limit(kind: str, ref: str = "", **changes: Any) -> LimitRecord:
    """The same limit as it stands now."""
    values: dict[str, Any] = {
        "scope_kind": kind,
        "scope_ref": ref or ORG_ID.hex,
        "scope_name": ref or "Acme",
        "measure": "money",
        "period": "month",
        "effect": "hard",
        "models": "",
        "maximum": units(10),
        "used": units(10),
        "held": 0,
        "resets_at": NOW + 11 * DAY,
    }
    return LimitRecord(**(values | changes))


def spending(*charges: float, **changes: Any) -> SpendingFacts:
    """What days cost: the last one first."""
    days = tuple(
        DaySpend(age_days=age, charge=units(charge), calls=10, tokens=10_000)
        for age, charge in enumerate(charges)
        if charge
    )
    spender = SpenderFacts(
        key_id=KEY_ID,
        key_name="laptop",
        key_prefix="fbx_live_1111",
        project_name="search",
        model="gpt-5.4",
        charge=units(charges[0]) if charges else ZERO,
        calls=10,
        tokens=10_000,
        before_charge=Nanos(sum(units(c) for c in charges[1:])),
        before_calls=10 * max(0, len(charges) - 1),
        before_tokens=10_000 * max(0, len(charges) - 1),
    )
    values: dict[str, Any] = {
        "days": days,
        "known_days": max(0, len(charges) - 1),
        "spenders": (spender,) if charges else (),
    }
    return SpendingFacts(**(values | changes))


def case(text: str = ORG_TEXT, **changes: Any) -> Case:
    """A case about a healthy organisation with an active key and five dollars."""
    values: dict[str, Any] = {
        "at": NOW,
        "complaint": read_complaint(text),
        "organization": ORGANIZATION,
        "usable_keys": (key(),),
        "money": money(),
        "holds": HoldsFacts(),
        "spending": SpendingFacts(),
        "installation": INSTALLATION,
    }
    return Case(**(values | changes))
