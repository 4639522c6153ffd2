"""The doctor's use case: whose and what a text is about, and which facts are gathered for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from farebox.advice.facts import (
    BooksDifference,
    HoldsFacts,
    InstallationFacts,
    ModelFinding,
    SpendingFacts,
)
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import ZERO, Nanos
from farebox.ledger.commands import Usage
from farebox.ledger.limits import LimitFigures
from farebox.ledger.organizations import OnLapse, OnOverrun, Organization
from farebox.operations.balance import view_balance
from farebox.operations.call_facts import CallFacts
from farebox.operations.diagnosis import (
    BOOKS_CALLS_MAX,
    FoundCall,
    FoundKey,
    Hints,
    OrganizationRecord,
    examine,
)
from farebox.tenancy.api_keys import KeyKind, digest, make_key
from tests.support.doctor_cases import (
    CALL_ID,
    INSTALLATION,
    KEY_ID,
    NOW,
    ORG_ID,
    ORG_TEXT,
    ORGANIZATION,
    PROJECT,
    PROJECT_ID,
    REQ_TEXT,
    key,
)

KEY_TEXT = make_key(KeyKind.LIVE, bytes(32))
OTHER_ID = UUID(int=99)


def engine_row() -> Organization:
    """An organisation that never had credit."""
    zeros: dict[str, Any] = dict.fromkeys(
        ("granted", "owed", "spent", "reserved", "unreserved", "frozen", "expired", "refunded",
         "unsecured_held", "absorbed", "floor"), ZERO,
    )  # fmt: skip
    return Organization(
        id=ORG_ID, currency="USD", zone="UTC", active=True, on_overrun=OnOverrun.ABSORB,
        on_lapse=OnLapse.METERED, last_time=NOW, sequence=0, **zeros,
    )  # fmt: skip


def call_facts(status: str = "refused", reason: str = "credit_balance_exhausted") -> CallFacts:
    """A refused call."""
    return CallFacts(
        id=CALL_ID, turn=2, status=status, charge=ZERO, absorbed=ZERO, held=Nanos(5),
        estimated=False, model="gpt-5.4", lane="", endpoint="chat", project_id=PROJECT_ID,
        project_name="search", key_id=KEY_ID, key_name="laptop", user="", feature="",
        environment="", run="", usage=Usage(), at=NOW, ended_at=None, latency_ms=None,
        http_status=None, reason=reason, times=1, organization_id=ORG_ID,
        organization_name="Acme", currency="USD", key_prefix="fbx_live_1111",
        message="You have 0.00 available.", available_before=ZERO,
    )  # fmt: skip


class FakeStore:
    """Knows one organisation with a key and a refused call; notes what it was asked."""

    def __init__(self, *, organizations: int = 1, calls: int = 10) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.calls = calls
        self.differences: tuple[BooksDifference, ...] = ()
        self._organizations = organizations

    async def now(self) -> datetime:
        return NOW

    async def find_call(self, call_id: UUID) -> FoundCall | None:
        return FoundCall(call_facts(), node_alive=True) if call_id == CALL_ID else None

    async def find_keys(
        self,
        *,
        key_id: UUID | None = None,
        digest: bytes | None = None,
        prefix: str | None = None,
    ) -> Sequence[FoundKey]:
        mine = key_id == KEY_ID or digest == DIGEST or prefix == "fbx_live_1111"
        return [FoundKey(key(), ORG_ID)] if mine else []

    async def find_management_key(
        self, *, digest: bytes | None, prefix: str
    ) -> tuple[str, datetime | None] | None:
        return ("ci", None) if prefix == "fbx_admin_1111" else None

    async def find_refusal(self, message: str) -> UUID | None:
        return CALL_ID if message.startswith("You have 0.00 available.") else None

    async def find_organization(
        self, *, organization_id: UUID | None = None, name: str | None = None
    ) -> UUID | None:
        named = name is not None and name.lower() in {"acme", "rate limit"}
        return ORG_ID if organization_id == ORG_ID or named else None

    async def owner_of(self, kind: str, row_id: UUID) -> UUID | None:
        return ORG_ID if row_id == PROJECT_ID else None

    async def organizations(self, limit: int) -> Sequence[UUID]:
        return [ORG_ID, OTHER_ID][: min(limit, self._organizations)]

    async def organization(
        self,
        organization_id: UUID,
        *,
        project_id: UUID | None,
        key_id: UUID | None,
        limit: LimitFigures | None,
    ) -> OrganizationRecord:
        self.asked.append(("organization", organization_id, project_id, key_id))
        return OrganizationRecord(
            at=NOW, organization=ORGANIZATION, calls=self.calls,
            project=PROJECT if project_id else None, usable_keys=(key(),), scope_names={},
            balance=view_balance(engine_row(), [], NOW), grants=(), last_charge_at=None, limits=(),
            tier=None, refusals=(), endings=(), holds=HoldsFacts(), spending=SpendingFacts(),
            quarantine=None, neighbours=(), owners=(),
        )  # fmt: skip

    async def installation(self) -> InstallationFacts:
        return INSTALLATION

    async def model(self, name: str, currency: str) -> ModelFinding:
        self.asked.append(("model", name, currency))
        return ModelFinding(asked=name, known=False)

    async def books(self, organization_id: UUID) -> tuple[BooksDifference, ...]:
        self.asked.append(("books", organization_id))
        return self.differences


DIGEST = digest(KEY_TEXT)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (ORG_TEXT, (ORG_ID, None, None)),
        ("Acme", (ORG_ID, None, None)),
        ("  acme ", (ORG_ID, None, None)),
        ("rate limit", (ORG_ID, None, None)),
        (format_id("proj", PROJECT_ID), (ORG_ID, PROJECT_ID, None)),
        (format_id("key", KEY_ID), (ORG_ID, PROJECT_ID, KEY_ID)),
        (KEY_TEXT, (ORG_ID, PROJECT_ID, KEY_ID)),
        ("fbx_live_1111", (ORG_ID, PROJECT_ID, KEY_ID)),
        (REQ_TEXT, (ORG_ID, PROJECT_ID, None)),
        (CALL_ID.hex, (ORG_ID, PROJECT_ID, None)),
        (f"429 insufficient_quota {REQ_TEXT}", (ORG_ID, PROJECT_ID, None)),
        ("You have 0.00 available. Add credits: credit_balance_exhausted",
         (ORG_ID, PROJECT_ID, None)),
        ("insufficient_quota", (ORG_ID, None, None)),
        ("My ChatGPT Plus is paid", (ORG_ID, None, None)),
    ],
)  # fmt: skip
async def test_whose_and_what_it_is(text: str, about: tuple[UUID | None, ...]) -> None:
    """DOC-01: by id, name, key, error; a name that reads like an error is the name all the same."""
    store = FakeStore()
    diagnosis = await examine(store, text, Hints())
    assert ("organization", *about) in store.asked
    assert diagnosis.whose.startswith("Acme")
    assert KEY_TEXT not in str(diagnosis)


@pytest.mark.parametrize("text", ["Nobody", REQ_TEXT[:-1] + "f", "fbx_admin_1111", "fbx_test_2"])
async def test_nothing_is_guessed(text: str) -> None:
    """What names no organisation is not diagnosed with another one's figures."""
    store = FakeStore(organizations=2)
    diagnosis = await examine(store, text, Hints())
    assert store.asked == []
    assert diagnosis.whose == ""
    assert diagnosis.findings


async def test_an_error_with_several_organisations_needs_to_be_told_whose() -> None:
    """An error that names nobody gets general advice; a hint gives it the books."""
    store = FakeStore(organizations=2)
    general = await examine(store, "insufficient_quota", Hints())
    assert store.asked == []
    assert general.findings[0].title == "Not enough credit"
    for hints in (Hints(organization="Acme"), Hints(organization=ORG_TEXT),
                  Hints(key="fbx_live_1111")):  # fmt: skip
        told = await examine(FakeStore(organizations=2), "insufficient_quota", hints)
        assert [each.code.value for each in told.findings] == ["D65"]


async def test_a_hint_that_nobody_has() -> None:
    """A hint that leads nowhere is an error that says how to find the right one."""
    store = FakeStore(organizations=2)
    with pytest.raises(NotFoundError, match="orgs list"):
        await examine(store, "insufficient_quota", Hints(organization="Nobody"))
    with pytest.raises(InvalidInputError, match="first letters"):
        await examine(store, "insufficient_quota", Hints(key="Nobody"))
    with pytest.raises(NotFoundError, match="keys list"):
        await examine(store, "insufficient_quota", Hints(key=format_id("key", OTHER_ID)))


async def test_the_model_is_looked_up_where_it_matters() -> None:
    """D06: the catalogue is read for an error about a model, or a model that is asked about."""
    store = FakeStore()
    await examine(store, "The model `gpt-9` does not exist or you do not have access", Hints())
    assert ("model", "gpt-9", "USD") in store.asked
    store = FakeStore()
    await examine(store, ORG_TEXT, Hints(model="gpt-8"))
    assert ("model", "gpt-8", "USD") in store.asked
    store = FakeStore()
    await examine(store, "insufficient_quota", Hints())
    assert not any(asked[0] == "model" for asked in store.asked)


@pytest.mark.parametrize(
    ("calls", "wanted", "checked"),
    [
        (BOOKS_CALLS_MAX, None, True),
        (BOOKS_CALLS_MAX + 1, None, False),
        (BOOKS_CALLS_MAX + 1, True, True),
        (1, False, False),
    ],
)
async def test_when_the_books_are_checked(calls: int, wanted: bool | None, checked: bool) -> None:
    """Small books are checked along; large ones on demand; what was not checked is said."""
    store = FakeStore(calls=calls)
    store.differences = (BooksDifference("spent", "spent is not the sum"),)
    diagnosis = await examine(store, ORG_TEXT, Hints(books=wanted))
    assert (("books", ORG_ID) in store.asked) is checked
    codes = [each.code.value for each in diagnosis.findings]
    assert ("D76" in codes) is checked
    note = diagnosis.checks[0].note
    assert checked or "not checked" in note
