"""Who may do what: every action tried as every role, as an operator, as a stranger, as nobody."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest

from farebox.kit.errors import NotFoundError, RefusedError
from farebox.tenancy.actors import Actor, ActorKind, Door
from farebox.tenancy.permissions import PERMITTED, Action, Role, Standing, may

HERE, THERE = UUID(int=1), UUID(int=2)
ACTOR = Actor(kind=ActorKind.USER, id="user_1", name="ada@example.org", door=Door.API)

# What the table must say, in full: o owner, b billing admin, d developer, f finance viewer,
# v viewer; an empty one is an operator's alone.
EXPECTED = {
    "organization.view": "obdfv",
    "organization.change": "o",
    "balance.view": "obdfv",
    "billing.view": "obf",
    "credit.purchase": "ob",
    "limits.view": "obdfv",
    "limits.change": "ob",
    "projects.view": "obdfv",
    "projects.change": "o",
    "keys.view": "od",
    "keys.change": "od",
    "management_keys.change": "o",
    "members.view": "obdfv",
    "members.change": "o",
    "usage.view": "obdfv",
    "calls.view": "obdf",
    "content.view": "od",
    "export": "obf",
    "audit.view": "obf",
    "prices.view": "obdfv",
    "credit.grant": "",
    "organization.create": "",
    "tier.change": "",
    "plan.change": "",
    "deployment.view": "",
    "deployment.change": "",
}


def test_the_table_is_complete_and_as_agreed() -> None:
    """ORG-11, ORG-12: each action has its roles, and a change of any is a change of this test."""
    assert {action.value for action in Action} == EXPECTED.keys()
    assert PERMITTED.keys() == set(Action)
    for action in Action:
        assert (
            "".join(role.value[0] for role in Role if role in PERMITTED[action])
            == (EXPECTED[action.value])
        ), action


@pytest.mark.parametrize(("action", "role"), list(itertools.product(Action, Role)))
def test_every_action_as_every_role(action: Action, role: Role) -> None:
    """A member may what the table says, here; there they are a stranger, whatever they are here."""
    standing = Standing(actor=ACTOR, roles={HERE: role})
    allowed = role in PERMITTED[action]
    assert standing.may(action, HERE) is allowed
    assert not standing.may(action, THERE)
    assert not standing.may(action)
    if allowed:
        standing.require(action, HERE)
    else:
        with pytest.raises(RefusedError) as caught:
            standing.require(action, HERE)
        assert caught.value.reason == "permission_denied"
        assert role.value.replace("_", " ") in caught.value.message
        assert "operator" in caught.value.message
    with pytest.raises(NotFoundError):
        standing.require(action, THERE)


@pytest.mark.parametrize("action", list(Action))
def test_operators_may_everything_and_nobody_nothing(action: Action) -> None:
    """An operator everywhere; somebody without any role nowhere, and learns of no organisation."""
    operator, nobody = Standing(actor=ACTOR, operator=True), Standing(actor=ACTOR)
    for organization in (HERE, None):
        operator.require(action, organization)
        assert not nobody.may(action, organization)
    with pytest.raises(NotFoundError):
        nobody.require(action, HERE)
    with pytest.raises(RefusedError, match="operator"):
        nobody.require(action)
    assert may(action, operator=True, role=None)


def test_a_refusal_names_who_may() -> None:
    """ORG-13: permission, not zeros: the message says whose right it is."""
    standing = Standing(actor=ACTOR, roles={HERE: Role.DEVELOPER})
    with pytest.raises(RefusedError, match="needs: owner or billing admin or operator"):
        standing.require(Action.CREDIT_PURCHASE, HERE)
