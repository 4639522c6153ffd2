"""Scopes: what a limit can be set on, and which of them a call is counted under.

A scope is a kind and a reference within one organisation: a project's id, a user's name, a tag. Its
number is a hash of both, the same in every process, so that a hold names the counters it raised in
eight bytes each and a batch finds them by one short key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from farebox.kit.texts import storable

if TYPE_CHECKING:
    from uuid import UUID

    from farebox.ledger.holds import Dimensions

EVERY: Final = ""
"""The reference that means each scope of its kind: a default for scopes not seen before."""


RUN_SEPARATOR: Final = "/"


class ScopeKind(StrEnum):
    """What a limit is set on."""

    ORGANIZATION = "organization"
    PROJECT = "project"
    KEY = "key"
    USER = "user"
    FEATURE = "feature"
    ENVIRONMENT = "environment"
    TAG = "tag"
    RUN = "run"


ID_KINDS: Final = frozenset({ScopeKind.ORGANIZATION, ScopeKind.PROJECT, ScopeKind.KEY})
"""Kinds whose references are ids of rows, which say nothing to a person."""


class Scope(msgspec.Struct, frozen=True):
    """A kind and a reference: an id as 32 hex digits, or a name as the caller gave it."""

    kind: ScopeKind
    ref: str

    @property
    def number(self) -> int:
        """Its number within the organisation."""
        return scope_number(self.kind, self.ref)


@lru_cache(maxsize=1 << 13)
def scope_number(kind: str, ref: str) -> int:
    """A positive 63-bit number of a scope; two of one organisation never meet in practice.

    It is that of the reference as the database keeps it: the same before and after.
    """
    digest = sha256(f"{kind}\0{storable(ref)}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


_EVERY_NUMBER: Final = {kind: scope_number(kind, EVERY) for kind in ScopeKind}


def default_number(kind: ScopeKind) -> int:
    """The number of the defaults of a kind."""
    return _EVERY_NUMBER[kind]


def scopes_of(
    organization_id: UUID,
    dimensions: Dimensions,
    *,
    user: str,
    run: str,
    tags: Mapping[str, str],
) -> Iterator[tuple[ScopeKind, str]]:
    """Every scope that a call is counted under, each once; what it does not name is none.

    A tag whose name has an equals sign in it is none either: ``a=b=c`` is the tag ``a``.
    """
    yield ScopeKind.ORGANIZATION, organization_id.hex
    yield ScopeKind.PROJECT, dimensions.project_id.hex
    yield ScopeKind.KEY, dimensions.key_id.hex
    if dimensions.environment:
        yield ScopeKind.ENVIRONMENT, dimensions.environment
    if dimensions.feature:
        yield ScopeKind.FEATURE, dimensions.feature
    if user:
        yield ScopeKind.USER, user
    if run:
        # A run within a run is written as a path; what it uses, its parents have used too.
        for place, letter in enumerate(run):
            if letter == RUN_SEPARATOR and place:
                yield ScopeKind.RUN, run[:place]
        yield ScopeKind.RUN, run
    for name, value in tags.items():
        if "=" not in name:
            yield ScopeKind.TAG, f"{name}={value}"
