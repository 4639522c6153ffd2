"""The doctor's use case: find what a text is about, gather its facts, have them diagnosed.

Everything of one organisation is read in one snapshot, so that a finding's figures agree with each
other. Nothing is written, and nothing is locked: a diagnosis never stands in the way of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec
from msgspec import structs

from farebox.advice.codes import Code
from farebox.advice.complaints import Complaint, ErrorBody, Subject, read_complaint
from farebox.advice.doctor import diagnose, leading_code
from farebox.advice.error_codes import LIMITS, MONEY, finding_of_error
from farebox.advice.facts import (
    BooksDifference,
    CallRecord,
    Case,
    EndingGroup,
    HoldsFacts,
    InstallationFacts,
    KeyAsked,
    KeyRecord,
    ModelFinding,
    MoneyFacts,
    Neighbour,
    OrganizationFacts,
    ProjectFacts,
    QuarantineFacts,
    RefusalGroup,
    SpendingFacts,
    TierFacts,
)
from farebox.advice.findings import Diagnosis
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.ledger.limits import LimitFigures
from farebox.operations.balance import Balance, GrantView, LimitView
from farebox.operations.call_facts import CallFacts
from farebox.operations.diagnosis_facts import call_record, limit_records, money_facts

BOOKS_CALLS_MAX: Final = 5_000
"""The books of an organisation with fewer calls are checked along: it takes a moment."""

NAME_CHARACTERS_MAX: Final = 200


class Hints(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody knows besides the complaint."""

    organization: str | None = None
    """Whose error it is: an id or a name."""
    key: str | None = None
    """The key that was used: an id or its first letters."""
    model: str | None = None
    books: bool | None = None
    """Whether to check the books; None does so where there are few calls."""


class FoundKey(msgspec.Struct, frozen=True):
    """A key for models, and whose it is."""

    record: KeyRecord
    organization_id: UUID


class FoundCall(msgspec.Struct, frozen=True):
    """A call, and who made it."""

    facts: CallFacts
    node_alive: bool


class OrganizationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one organisation as of one instant."""

    at: datetime
    organization: OrganizationFacts
    calls: int
    """How many it has made, about: closed calls and grants have one number each."""
    project: ProjectFacts | None
    usable_keys: tuple[KeyRecord, ...]
    scope_names: dict[str, str]
    """Names of the projects and keys that have limits, by their ids as 32 hex digits."""
    balance: Balance
    grants: tuple[GrantView, ...]
    last_charge_at: datetime | None
    limits: tuple[LimitView, ...]
    tier: TierFacts | None
    refusals: tuple[RefusalGroup, ...]
    endings: tuple[EndingGroup, ...]
    holds: HoldsFacts
    spending: SpendingFacts
    quarantine: QuarantineFacts | None
    neighbours: tuple[Neighbour, ...]
    owners: tuple[str, ...]

    @property
    def money(self) -> MoneyFacts:
        """What there is to spend."""
        return money_facts(self.balance, self.grants, self.last_charge_at)


class DiagnosisStore(Protocol):
    """What a diagnosis reads."""

    async def now(self) -> datetime:
        """Engine time."""

    async def find_call(self, call_id: UUID) -> FoundCall | None:
        """A call, open, closed or refused."""

    async def find_keys(
        self,
        *,
        key_id: UUID | None = None,
        digest: bytes | None = None,
        prefix: str | None = None,
    ) -> Sequence[FoundKey]:
        """Keys for models by one of the three; at most a few."""

    async def find_management_key(
        self, *, digest: bytes | None, prefix: str
    ) -> tuple[str, datetime | None] | None:
        """Name and revocation of the management key with that digest, or the one so beginning."""

    async def find_refusal(self, message: str) -> UUID | None:
        """The newest refusal whose message this one begins with, if it is of one organisation."""

    async def find_organization(
        self, *, organization_id: UUID | None = None, name: str | None = None
    ) -> UUID | None:
        """The organisation with that id, or that name in whatever case."""

    async def owner_of(self, kind: str, row_id: UUID) -> UUID | None:
        """The organisation of a project or a grant."""

    async def organizations(self, limit: int) -> Sequence[UUID]:
        """The first organisations that were made."""

    async def organization(
        self,
        organization_id: UUID,
        *,
        project_id: UUID | None,
        key_id: UUID | None,
        limit: LimitFigures | None,
    ) -> OrganizationRecord:
        """An organisation in one snapshot.

        Args:
            organization_id: Which.
            project_id: The project that is asked about.
            key_id: Refusals and endings of this key alone.
            limit: One whose present state is wanted, of whatever scope.
        """

    async def installation(self) -> InstallationFacts:
        """This installation."""

    async def model(self, name: str, currency: str) -> ModelFinding:
        """What the catalogue says of a model's name."""

    async def books(self, organization_id: UUID) -> tuple[BooksDifference, ...]:
        """What differs in an organisation's books."""


class _Place(msgspec.Struct):
    """Whose and what a complaint is about, as far as it is known."""

    organization_id: UUID | None = None
    project_id: UUID | None = None
    key: FoundKey | None = None
    key_asked: KeyAsked | None = None
    call: FoundCall | None = None


async def examine(store: DiagnosisStore, text: str, hints: Hints) -> Diagnosis:
    """Diagnose what somebody came with (DOC-01).

    Args:
        store: Where the facts are.
        text: A request id, an error as it was received, a key's first letters, an organisation.
        hints: What else is known.

    Raises:
        InvalidInputError: A hint cannot be read.
        NotFoundError: There is no such organisation or key as the hint says.
    """
    complaint = await _understood(store, text)
    place = await _place(store, complaint, hints)
    case = await _gather(store, complaint, place, hints)
    return diagnose(case)


async def _understood(store: DiagnosisStore, text: str) -> Complaint:
    """The complaint; a text that is exactly an organisation's name means that organisation."""
    complaint = read_complaint(text)
    stripped = text.strip()
    readings = {Subject.NAME, Subject.ERROR, Subject.SUBSCRIPTION, Subject.UNKNOWN}
    if complaint.subject in readings and 0 < len(stripped) <= NAME_CHARACTERS_MAX:
        found = await store.find_organization(name=stripped)
        if found is not None:
            return Complaint(subject=Subject.ORGANIZATION, text=stripped, id=found)
    return complaint


async def _place(store: DiagnosisStore, complaint: Complaint, hints: Hints) -> _Place:
    place = _Place()
    match complaint.subject:
        case Subject.CALL:
            assert complaint.id is not None
            await _place_call(store, place, complaint.id)
        case Subject.KEY:
            await _place_key(store, place, complaint)
        case Subject.ORGANIZATION:
            place.organization_id = await store.find_organization(organization_id=complaint.id)
        case Subject.PROJECT | Subject.GRANT:
            assert complaint.id is not None
            place.organization_id = await store.owner_of(complaint.subject.value, complaint.id)
            if complaint.subject is Subject.PROJECT and place.organization_id is not None:
                place.project_id = complaint.id
        case _:
            error = complaint.error
            if error is not None:
                await _place_error(store, place, error)
    await _take_hints(store, place, hints)
    wants_organization = complaint.subject in {Subject.ERROR, Subject.SUBSCRIPTION}
    if wants_organization and place.organization_id is None:
        first = await store.organizations(2)
        if len(first) == 1:
            place.organization_id = first[0]
    return place


async def _place_call(store: DiagnosisStore, place: _Place, call_id: UUID) -> None:
    """A call by its id; an id without its prefix may also be of something else."""
    place.call = await store.find_call(call_id)
    if place.call is not None:
        facts = place.call.facts
        place.organization_id, place.project_id = facts.organization_id, facts.project_id
        keys = await store.find_keys(key_id=facts.key_id)
        place.key = keys[0] if keys else None
        return
    place.organization_id = await store.find_organization(organization_id=call_id)


async def _place_error(store: DiagnosisStore, place: _Place, error: ErrorBody) -> None:
    """The refusal that an error is from: by its id, else by the figures in its own sentence."""
    request_id = error.request_id
    code = finding_of_error(code=error.code, kind=error.kind, status=error.status)
    if request_id is None and error.whole_message and code in MONEY | LIMITS:
        request_id = await store.find_refusal(error.whole_message)
    if request_id is not None:
        await _place_call(store, place, request_id)


async def _place_key(store: DiagnosisStore, place: _Place, complaint: Complaint) -> None:
    found: Sequence[FoundKey] = ()
    if complaint.id is not None:
        found = await store.find_keys(key_id=complaint.id)
    if not found and complaint.key_digest is not None:
        found = await store.find_keys(digest=complaint.key_digest)
    if not found and complaint.key_prefix and complaint.key_kind in {"live", "test"}:
        found = await store.find_keys(prefix=complaint.key_prefix)
    manager = None
    if not found and complaint.key_kind == "admin":
        manager = await store.find_management_key(
            digest=complaint.key_digest, prefix=complaint.key_prefix
        )
    if complaint.id is None:
        place.key_asked = KeyAsked(
            prefix=complaint.key_prefix,
            found=found[0].record if len(found) == 1 else None,
            management_name=None if manager is None else manager[0],
            management_revoked_at=None if manager is None else manager[1],
            several=len(found),
            kind=complaint.key_kind,
        )
    if len(found) == 1:
        _take_key(place, found[0])


def _take_key(place: _Place, key: FoundKey) -> None:
    place.key = key
    place.organization_id = key.organization_id
    place.project_id = key.record.project_id


async def _take_hints(store: DiagnosisStore, place: _Place, hints: Hints) -> None:
    if hints.key is not None and place.key is None:
        await _take_key_hint(store, place, hints.key)
    if hints.organization is not None and place.organization_id is None:
        complaint = read_complaint(hints.organization)
        wanted = complaint.id if complaint.subject is Subject.ORGANIZATION else None
        place.organization_id = await store.find_organization(
            organization_id=wanted, name=None if wanted else hints.organization.strip()
        )
        if place.organization_id is None:
            raise NotFoundError(
                f"There is no organisation {hints.organization[:80]!r}; `farebox orgs list` shows "
                "them."
            )


async def _take_key_hint(store: DiagnosisStore, place: _Place, text: str) -> None:
    complaint = read_complaint(text)
    if complaint.subject is not Subject.KEY:
        raise InvalidInputError("key", "must be a key's id or its first letters (fbx_...)")
    await _place_key(store, place, complaint)
    if place.key is None and place.key_asked is None:
        raise NotFoundError("There is no such key; `farebox keys list` shows them.")


async def _gather(store: DiagnosisStore, complaint: Complaint, place: _Place, hints: Hints) -> Case:
    case = Case(
        at=await store.now(),
        complaint=complaint,
        key=None if place.key is None else place.key.record,
        key_asked=place.key_asked,
        call=None if place.call is None else _call(place.call),
        installation=await store.installation(),
    )
    if place.organization_id is not None:
        record = await store.organization(
            place.organization_id,
            project_id=place.project_id,
            key_id=None if place.key is None or place.call is not None else place.key.record.id,
            limit=None if case.call is None else case.call.limit,
        )
        case = _with_record(case, record)
        case = await _with_books(store, case, record, hints)
    name = hints.model or _model_asked(case)
    if name:
        case = structs.replace(case, model=await store.model(name, case.currency or "USD"))
    return case


def _call(found: FoundCall) -> CallRecord:
    return call_record(found.facts, node_alive=found.node_alive)


def _model_asked(case: Case) -> str:
    """The model in question, where the error is about one."""
    if leading_code(case) is not Code.D06:
        return ""
    if case.call is not None and case.call.model:
        return case.call.model
    error = case.complaint.error
    return "" if error is None else error.model


def _with_record(case: Case, record: OrganizationRecord) -> Case:
    return structs.replace(
        case,
        at=max(case.at, record.at),
        organization=record.organization,
        project=record.project,
        usable_keys=record.usable_keys,
        money=record.money,
        limits=limit_records(record.limits, record.scope_names),
        tier=record.tier,
        refusals=record.refusals,
        endings=record.endings,
        holds=record.holds,
        spending=record.spending,
        quarantine=record.quarantine,
        neighbours=record.neighbours,
        owners=record.owners,
    )


async def _with_books(
    store: DiagnosisStore, case: Case, record: OrganizationRecord, hints: Hints
) -> Case:
    """The books too, where that was asked for or takes a moment only."""
    wanted = hints.books
    if wanted is None:
        wanted = record.calls <= BOOKS_CALLS_MAX
    if not wanted:
        return structs.replace(case, books_note="the books were not checked (--books)")
    found = await store.books(record.organization.id)
    return structs.replace(case, books=found, books_note="the books agree")
