"""Who asks: a management key, somebody who is signed in, or a key for models where those may.

A key in the header counts before a cookie. A cookie comes with every request of its browser, so a
write by cookie needs what another site's page cannot have: our origin and the session's form token.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import Request

from farebox.console.api.problems import CODES, ProblemError
from farebox.console.cookies import (
    SESSION_COOKIE,
    form_token_matches,
    read_cookie,
    token_digest,
)
from farebox.console.forms import refuse_foreign
from farebox.operations.api_ports import ApiConnection
from farebox.tenancy.actors import Actor, ActorKind, Via
from farebox.tenancy.api_keys import KeyKind, digest, kind_of
from farebox.tenancy.permissions import Standing

FORM_TOKEN_HEADER: Final = "x-farebox-form-token"  # noqa: S105 - a name
"""What a page of ours sends with a write: the token of its forms."""

_BEARER: Final = "bearer "
_HOW: Final = "Send a key that is in use: Authorization: Bearer fbx_admin_..."


class Who(NamedTuple):
    """Whoever asks."""

    standing: Standing
    model_key_of: UUID | None = None


def address_of(request: Request) -> str:
    """The network address that a request came from."""
    return request.client.host if request.client else ""


def credential_of(request: Request) -> str:
    """The text that a request shows: its header, or its session's token; empty for none."""
    header = request.headers.get("authorization")
    return (read_cookie(request, SESSION_COOKIE) or "") if header is None else header


async def find_caller(
    connection: ApiConnection,
    request: Request,
    via: Via,
    *,
    write: bool,
    model_keys: bool,
    strangers: bool = False,
) -> Who:
    """Find out who asks.

    Args:
        connection: Of the request.
        request: Its header counts before its cookie.
        via: How it came.
        write: Whether it changes anything.
        model_keys: Whether keys for models may ask.
        strangers: Whether whoever shows nothing may ask.

    Raises:
        ProblemError: 401 nobody, 403 somebody who may not ask in this way.
    """
    header = request.headers.get("authorization")
    if header is not None:
        return await _by_key(connection, header, via, model_keys=model_keys)
    token = read_cookie(request, SESSION_COOKIE)
    found = None if token is None else await connection.person_standing(token_digest(token), via)
    if found is None:
        if not strangers:
            raise nobody()
        return Who(Standing(actor=_actor(ActorKind.STRANGER, "stranger", via)))
    if write:
        refuse_foreign(request)
        if not form_token_matches(token, request.headers.get(FORM_TOKEN_HEADER, "")):
            raise ProblemError(
                403, "form_token_missing", f"A write by cookie needs {FORM_TOKEN_HEADER}."
            )
    return Who(found)


async def _by_key(connection: ApiConnection, header: str, via: Via, *, model_keys: bool) -> Who:
    key = header[len(_BEARER) :].strip()
    kind = kind_of(key) if header[: len(_BEARER)].lower() == _BEARER else None
    if kind is None:
        raise nobody()
    if kind is KeyKind.ADMIN:
        standing = await connection.key_standing(digest(key), via)
        if standing is None:
            raise nobody()
        return Who(standing)
    organization_id = await connection.organization_of_key(digest(key))
    if organization_id is None:
        raise nobody()
    if not model_keys:
        raise ProblemError(
            403,
            "model_key_manages_nothing",
            "A key for models manages nothing; send a management key (fbx_admin_...).",
        )
    actor = _actor(ActorKind.SYSTEM, "model key", via)
    return Who(Standing(actor=actor), organization_id)


def _actor(kind: ActorKind, name: str, via: Via) -> Actor:
    """Somebody whom nothing is done in the name of."""
    return Actor(
        kind=kind, id=name, name="", door=via.door, address=via.address, request_id=via.request_id
    )


def nobody() -> ProblemError:
    """The answer to whoever has no key, a wrong one, or one that opens nothing any more."""
    return ProblemError(401, CODES[401], _HOW, headers={"www-authenticate": "Bearer"})
