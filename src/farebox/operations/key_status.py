"""What a key for models is told of itself: ``GET /v1/key`` on gateway and console (LIM-10).

It is what the engine would decide on at that instant: the engine's books are opened on the rows of
one snapshot, so what is told is what is enforced. A key that sends the headers of its calls is told
of the users, features, runs and tags that they name, too. An answer is kept for a second, so a key
that asks all the time costs one read a second and process.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec
from msgspec import structs

from farebox.kit.ids import format_id
from farebox.kit.money import format_amount
from farebox.ledger.books import Books
from farebox.ledger.counters import Standing
from farebox.ledger.grants import Grant
from farebox.ledger.holds import Dimensions
from farebox.ledger.limits import (
    RATES,
    Effect,
    Measure,
    Origin,
    Period,
    ScopeLimits,
    instant,
)
from farebox.ledger.organizations import Organization
from farebox.ledger.scopes import RUN_SEPARATOR, ScopeKind, scopes_of
from farebox.ledger.state import OrganizationState
from farebox.operations import documents
from farebox.operations.attribution import NAMELESS, Names
from farebox.operations.limit_documents import shown_amount, shown_scope
from farebox.operations.tenants import UNCAPPED, KeyDetails
from farebox.tenancy.api_keys import KeyKind, KeyState, digest, kind_of

FRESH_SECONDS: Final = 1.0
"""How old an answer may be: as old as a key's state where nothing is charged (ENGINE.md)."""

KEPT_MAX: Final = 4_000
"""Answers kept at once; some kilobytes each."""

READS_MAX: Final = 2
"""Reads at once: strangers with made-up keys must not take every connection."""

PATH: Final = "/v1/key"

MISSING_KEY: Final = (
    "You didn't provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY."
)
KEY_MESSAGES: Final = {
    "key_not_found": "Incorrect API key provided. Check the key, or make one with "
    "`farebox keys create`.",
    "key_revoked": "This API key has been revoked. Make a new one with `farebox keys create`.",
    "key_expired": "This API key has expired. Make a new one with `farebox keys create`.",
    "project_archived": "This API key's project has been archived. Use a key of another project.",
}
"""Why a key opens nothing -> what its holder is told (ERR-04)."""

CLOSED: Final = {
    KeyState.REVOKED: "key_revoked",
    KeyState.EXPIRED: "key_expired",
    KeyState.PROJECT_ARCHIVED: "project_archived",
}
"""State of a key that opens nothing -> why."""

_Asked = tuple[bytes, Names]
"""A key's digest, and what it names."""

Quantity = str | int
"""Money as a decimal string of the major unit, counts as whole numbers."""


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation or a project."""

    id: str
    name: str


class KeyLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that the key's calls fall under, with its counter in the current window."""

    scope_kind: ScopeKind
    scope_id: str
    """An id with its prefix, or a name."""
    measure: Measure
    period: Period
    effect: Effect
    """``alert`` and ``shadow`` only tell; the others are never passed."""
    models: str | None
    """A model, or the beginning of one and ``*``; null means every model."""
    limit: Quantity
    """A temporary raise is included."""
    used: Quantity
    held: Quantity
    """By calls that are running."""
    remaining: Quantity
    resets_at: str | None
    """When the next window begins; null where this one never ends."""
    owner: str | None
    """Whom to ask about it."""
    origin: Origin
    """``tier``: it comes with the organisation's usage tier."""


class KeyBalance(msgspec.Struct, frozen=True, kw_only=True):
    """What the organisation has, as every answer of a call tells it too."""

    currency: str
    available: str
    held: str
    spendable: str
    """What a new call of this key's project may hold: with the floor, without what is set aside
    for other projects."""


class KeyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do now, and what is left of it."""

    object: Literal["key"] = "key"
    id: str
    name: str
    prefix: str
    state: KeyState
    at: str
    """The instant of every figure here; at most a second ago."""
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    """The last charged call, to the minute."""
    organization: Named
    project: Named
    environment: str
    allowed_models: list[str] | None
    """Names and beginnings with ``*``; null allows every model."""
    default_output_tokens: int | None
    """For calls of the feature that is named, like the next; null: the shipped one."""
    output_tokens_max: int | None
    limits: list[KeyLimit]
    rate_limits: list[KeyLimit]
    """Those that are forgotten when their minute or day is over."""
    balance: KeyBalance


class KeyStatusFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is made of, read in one snapshot."""

    key: KeyDetails
    organization: Organization
    grants: Sequence[Grant]
    """Those that have money left."""
    limits: Sequence[ScopeLimits]
    """Of the key's scopes, the defaults of every kind, and the allocations."""
    now: datetime
    """The database's time."""


class KeyStatusStore(Protocol):
    """Where it is read."""

    async def read(self, digest: bytes, names: Names) -> KeyStatusFacts | None:
        """Everything about the key with that digest and what it names; None where there is none.

        Raises:
            UnavailableError: The database is away.
        """


class KeyStatuses:
    """Answers to keys that ask, each kept for a second."""

    def __init__(self, store: KeyStatusStore, *, monotonic: Callable[[], float]) -> None:
        """Put it together.

        Args:
            store: Where keys are read.
            monotonic: Seconds of a clock that never goes back.
        """
        self._store = store
        self._monotonic = monotonic
        self._reads = asyncio.Semaphore(READS_MAX)
        self._kept: OrderedDict[_Asked, tuple[KeyStatus | None, float]] = OrderedDict()
        self._reading: dict[_Asked, asyncio.Task[KeyStatus | None]] = {}

    async def of(self, key: str, names: Names = NAMELESS) -> KeyStatus | None:
        """What a key is told; None for a text that is no key for models here.

        Args:
            key: Its text, as it was sent.
            names: What its calls say of themselves besides.

        Raises:
            UnavailableError: The database is away.
        """
        if kind_of(key) in {None, KeyKind.ADMIN}:
            return None
        asked = (digest(key), names)
        kept = self._kept.get(asked)
        if kept is not None and self._monotonic() - kept[1] < FRESH_SECONDS:
            return kept[0]
        # Of a crowd with one key, the first reads for all; it may go while the others wait.
        read = self._reading.get(asked)
        if read is None:
            read = self._reading[asked] = asyncio.create_task(self._read(asked))
            read.add_done_callback(lambda done: self._has_read(asked, done))
        return await asyncio.shield(read)

    async def _read(self, asked: _Asked) -> KeyStatus | None:
        async with self._reads:
            begun = self._monotonic()
            facts = await self._store.read(*asked)
        status = None if facts is None else key_status(facts, asked[1])
        self._kept[asked] = (status, begun)
        self._kept.move_to_end(asked)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return status

    def _has_read(self, asked: _Asked, done: asyncio.Task[KeyStatus | None]) -> None:
        del self._reading[asked]
        if not done.cancelled():
            done.exception()  # whoever waited has heard of it; perhaps nobody did


def key_status(facts: KeyStatusFacts, names: Names = NAMELESS) -> KeyStatus:
    """What a key is told, of what it names too."""
    key, organization = facts.key, facts.organization
    state = OrganizationState(
        organization=organization, grants=list(facts.grants), limits=list(facts.limits)
    )
    books = Books(state, epochs={}, catalogue_revision=0, now=facts.now)
    limits = list(_limits(books, key, names))
    own = key.feature_caps.get(names.feature, UNCAPPED)
    cap = own.within(key.default_output_tokens, key.output_tokens_max)
    return KeyStatus(
        id=format_id("key", key.id),
        name=key.name,
        prefix=key.prefix,
        state=key.state_at(books.now),
        at=str(documents.instant(books.now)),
        created_at=str(documents.instant(key.created_at)),
        expires_at=documents.instant(key.expires_at),
        last_used_at=documents.instant(key.last_used_at),
        organization=Named(id=format_id("org", organization.id), name=key.organization_name),
        project=Named(id=format_id("proj", key.project_id), name=key.project_name),
        environment=key.environment,
        allowed_models=None if key.allowed_models is None else list(key.allowed_models),
        default_output_tokens=cap.default_output_tokens,
        output_tokens_max=cap.output_tokens_max,
        limits=[limit for limit in limits if limit.period not in RATES],
        rate_limits=[limit for limit in limits if limit.period in RATES],
        balance=KeyBalance(
            currency=organization.currency,
            available=format_amount(books.available),
            held=format_amount(books.held),
            spendable=format_amount(books.spendable_for(key.project_id)),
        ),
    )


def scopes_of_key(key: KeyDetails, names: Names = NAMELESS) -> Iterator[tuple[ScopeKind, str]]:
    """The scopes that calls of a key are counted under, if they name that and nothing else."""
    dimensions = Dimensions(
        project_id=key.project_id,
        key_id=key.id,
        feature=names.feature,
        environment=names.environment or key.environment,
        model="",
        lane="",
        endpoint="",
    )
    return scopes_of(
        key.organization_id,
        dimensions,
        user=names.user,
        run=names.run,
        tags=dict(names.tags),
    )


def _limits(books: Books, key: KeyDetails, names: Names) -> Iterator[KeyLimit]:
    for kind, ref in scopes_of_key(key, names):
        for standing in books.counters.standing_in(books.counters.scope(kind, ref)):
            if standing.rule.measure is Measure.DEPTH:
                # How deep the named run is below the scope, as a call in it would be.
                depth = names.run.count(RUN_SEPARATOR) - ref.count(RUN_SEPARATOR)
                yield _limit(structs.replace(standing, observed=depth))
            else:
                yield _limit(standing)


def _limit(standing: Standing) -> KeyLimit:
    rule, scope = standing.rule, standing.scope
    endless = rule.period is Period.TOTAL
    return KeyLimit(
        scope_kind=scope.kind,
        scope_id=shown_scope(scope.kind, scope.ref),
        measure=rule.measure,
        period=rule.period,
        effect=rule.effect,
        models=rule.models or None,
        limit=shown_amount(rule.measure, standing.maximum),
        used=shown_amount(rule.measure, standing.used),
        held=shown_amount(rule.measure, standing.window.held),
        remaining=shown_amount(rule.measure, max(0, standing.left)),
        resets_at=None if endless else documents.instant(instant(standing.window.end)),
        owner=rule.owner or None,
        origin=rule.origin,
    )
