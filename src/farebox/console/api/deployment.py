"""The deployment's own: who has a login, who administers it, and whether strangers are let in."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Instant,
    Page,
    PageQuery,
    UserId,
    page_by_id,
    read_id_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.operations import people
from farebox.operations.documents import document, instant
from farebox.tenancy.permissions import Action

SelfSignUp = Annotated[
    bool,
    Meta(
        description="Whether strangers may make a login and an organisation; off unless an "
        "operator says so. Their e-mail address is not verified: whoever signs up may name one "
        "that is not theirs."
    ),
]


class Deployment(Struct, frozen=True, kw_only=True):
    """What holds for every organisation."""

    object: Literal["deployment"] = "deployment"
    self_sign_up: SelfSignUp
    at: Instant
    """The database's time; a sandbox's clock may be ahead."""


class DeploymentPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to hold."""

    self_sign_up: SelfSignUp


class User(Struct, frozen=True, kw_only=True):
    """A person who may sign in."""

    object: Literal["user"] = "user"
    id: UserId
    email: str
    operator: bool
    created_at: Instant
    disabled_at: Instant | None


class ChangedUser(User, frozen=True, kw_only=True):
    """One who was changed."""

    management_keys_revoked: int
    """Management keys that they had made and that opened more than they may now."""


class UserPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed; what is left out stays."""

    operator: bool | None = None
    disabled: Literal[True] | None = None
    """Closes the login: sessions end, keys that the person owns or made are revoked."""


async def show_deployment(context: Context) -> Deployment:
    """What holds."""
    session = context.session
    allowed = await session.people_store.may_sign_up()
    return Deployment(self_sign_up=allowed, at=str(instant(await session.now())))


async def change_deployment(context: Context) -> Deployment:
    """Let strangers in, or do not."""
    allowed = context.body_as(DeploymentPatch).self_sign_up
    await context.session.people_store.allow_sign_up(allowed=allowed)
    return await show_deployment(context)


async def list_users(context: Context) -> Page[User]:
    """Everybody who has a login, closed ones too."""
    query = context.query_as(PageQuery)
    found = await context.session.people_store.users(
        after=read_id_cursor("user", query.cursor), limit=query.limit + 1
    )
    return page_by_id(User, [document(user, of="user") for user in found], query.limit)


async def show_user(context: Context) -> User:
    """One of them."""
    return shown(User, await _find(context), of="user")


async def change_user(context: Context) -> ChangedUser:
    """Make somebody an operator or not, or close a login."""
    user, patch = await _find(context), context.body_as(UserPatch)
    if patch.operator is None and patch.disabled is None:
        raise InvalidInputError("operator", "or disabled must be given")
    if patch.operator and (patch.disabled or user.disabled_at is not None):
        raise InvalidInputError("operator", "cannot be somebody whose login is closed")
    store, revoked = context.session.people_store, 0
    if patch.operator is not None:
        changed = await store.set_operator(user.id, operator=patch.operator)
        revoked += changed.management_keys_revoked
    if patch.disabled:
        changed = await store.disable_user(user.id)
        revoked += changed.management_keys_revoked
    return shown(ChangedUser, await _find(context), of="user", management_keys_revoked=revoked)


async def _find(context: Context) -> people.User:
    found = await context.session.people_store.users(user_id=context.ids["user_id"], limit=1)
    if not found:
        raise NotFoundError("There is no such person.")
    return found[0]


_USER: Final = "/users/{user_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path="/deployment",
        name="showDeployment",
        summary="What holds for every organisation",
        tag="deployment",
        handler=show_deployment,
        action=Action.DEPLOYMENT_VIEW,
        answer=Deployment,
    ),
    Route(
        method="PATCH",
        path="/deployment",
        name="changeDeployment",
        summary="Let strangers sign up, or do not; their addresses are not verified",
        tag="deployment",
        handler=change_deployment,
        action=Action.DEPLOYMENT_CHANGE,
        body=DeploymentPatch,
        answer=Deployment,
    ),
    Route(
        method="GET",
        path="/users",
        name="listUsers",
        summary="People who have a login",
        tag="deployment",
        handler=list_users,
        action=Action.DEPLOYMENT_VIEW,
        query=PageQuery,
        answer=Page[User],
    ),
    Route(
        method="GET",
        path=_USER,
        name="showUser",
        summary="Somebody who has a login",
        tag="deployment",
        handler=show_user,
        action=Action.DEPLOYMENT_VIEW,
        answer=User,
    ),
    Route(
        method="PATCH",
        path=_USER,
        name="changeUser",
        summary="Make somebody an operator or not, or close a login",
        tag="deployment",
        handler=change_user,
        action=Action.DEPLOYMENT_CHANGE,
        body=UserPatch,
        answer=ChangedUser,
    ),
)
