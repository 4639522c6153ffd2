"""Facts as JSON documents."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from farebox.kit.money import Nanos
from farebox.operations.documents import document, instant


class Colour(StrEnum):
    RED = "red"


class Part(msgspec.Struct):
    id: UUID
    cost: Nanos


class Whole(msgspec.Struct):
    id: UUID
    organization_id: UUID
    other: UUID
    amount: Nanos
    perhaps: Nanos | None
    nothing: Nanos | None
    count: int
    yes: bool
    at: datetime
    colour: Colour
    parts: tuple[Part, ...]
    accounts: dict[str, Nanos]


def test_every_type_has_its_text() -> None:
    """Amounts are decimal strings and counts are not, ids have their prefix, instants end in Z."""
    one = UUID(int=1)
    whole = Whole(
        id=one,
        organization_id=one,
        other=one,
        amount=Nanos(1),
        perhaps=Nanos(5_000_000_000),
        nothing=None,
        count=7,
        yes=True,
        at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        colour=Colour.RED,
        parts=(Part(one, Nanos(-2)),),
        accounts={"revenue": Nanos(3)},
    )
    digits = f"{1:032x}"
    assert document(whole, of="grant") == {
        "id": f"grant_{digits}",
        "organization_id": f"org_{digits}",
        "other": digits,
        "amount": "0.000000001",
        "perhaps": "5.00",
        "nothing": None,
        "count": 7,
        "yes": True,
        "at": "2026-01-02T03:04:05Z",
        "colour": "red",
        "parts": [{"id": f"grant_{digits}", "cost": "-0.000000002"}],
        "accounts": {"revenue": "0.000000003"},
    }
    assert instant(None) is None
