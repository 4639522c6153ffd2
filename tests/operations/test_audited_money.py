"""Money by hand is noted, whatever becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.errors import InvalidInputError, RefusedError, UnavailableError
from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    AnyCommand,
    Correct,
    Dispute,
    DisputeStep,
    GrantCredit,
    Refund,
    Refused,
    Result,
    SetFloor,
    SetLimit,
)
from farebox.ledger.grants import Source
from farebox.ledger.limits import Measure, Period
from farebox.ledger.scopes import ScopeKind
from farebox.operations.audited_money import audited, limit_before, money_note
from farebox.storage.balance_store import list_limits
from tests.support.office import Office
from tests.support.till import Till

ORG, THING = UUID(int=1), UUID(int=2)


async def test_what_was_done_and_what_was_refused_are_noted(office: Office) -> None:
    """With outcome, reason and the engine's own facts; a repeated command says so."""
    till = Till()
    till.put_into_database(office.dsn)
    grant = till.grant(100)
    for _ in range(2):
        await audited(office.log, office.submit, grant, reason="order 7")
    refund = Refund(
        organization_id=till.organization_id,
        command_id=THING,
        grant_id=grant.grant_id,
        amount=Nanos(500),
        note="billing_error",
    )
    assert isinstance(await audited(office.log, office.submit, refund), Refused)
    refused, repeated, done = await office.log.events(limit=9)
    assert (done.outcome, done.reason) == ("done", "order 7")
    assert '"amount":"0.0000001"' in str(done.after)
    assert '"repaid":"0.00"' in str(done.after)
    assert (repeated.outcome, repeated.reason) == ("done", "repeated: order 7")
    assert refused.outcome == "refused"
    assert refused.reason
    assert refused.organization_id == till.organization_id
    assert await office.one("SELECT count(*) FROM audit_pending") == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RefusedError("no_such_grant", "There is none."), "no_such_grant"),
        (InvalidInputError("amount", "is wrong"), "invalid_input"),
    ],
)
async def test_a_refusal_that_is_raised_is_noted_too(
    office: Office, error: Exception, reason: str
) -> None:
    """The caller gets the error as it was."""

    async def submit(_: AnyCommand) -> Result:
        raise error

    with pytest.raises(type(error)):
        await audited(office.log, submit, SetFloor(organization_id=ORG, floor=Nanos(1)))
    (event,) = await office.log.events(limit=9)
    assert (event.outcome, event.reason) == ("refused", reason)


async def test_what_nobody_knows_is_noted_as_unknown(office: Office) -> None:
    """The database went away in the middle: the note stays, and is chained later as unknown."""

    async def submit(_: AnyCommand) -> Result:
        raise UnavailableError

    with pytest.raises(UnavailableError):
        await audited(office.log, submit, SetFloor(organization_id=ORG, floor=Nanos(1)))
    assert await office.log.events(limit=9) == []
    assert await office.log.chain_abandoned() == 0
    await office.connection.execute("UPDATE audit_pending SET at = at - interval '1 hour'")
    assert await office.log.chain_abandoned() == 1
    (event,) = await office.log.events(limit=9)
    assert (event.outcome, event.after) == ("unknown", '{"floor":"0.000000001"}')


@pytest.mark.parametrize(
    ("command", "action", "subject", "after"),
    [
        (
            GrantCredit(
                organization_id=ORG,
                grant_id=THING,
                source=Source.PROMO,
                amount=Nanos(5_000_000_000),
                expires_at=datetime(2027, 1, 1, tzinfo=UTC),
                reference="code",
            ),
            "credit.granted",
            f"grant_{THING.hex}",
            {
                "source": "promo",
                "amount": "5.00",
                "expires_at": "2027-01-01T00:00:00Z",
                "reference": "code",
            },
        ),
        (
            Refund(organization_id=ORG, command_id=ORG, grant_id=THING, amount=Nanos(1), note="n"),
            "credit.refunded",
            f"grant_{THING.hex}",
            {"amount": "0.000000001", "note": "n"},
        ),
        (
            Dispute(organization_id=ORG, grant_id=THING, step=DisputeStep.LOST),
            "credit.disputed",
            f"grant_{THING.hex}",
            {"step": "lost"},
        ),
        (
            Correct(organization_id=ORG, command_id=THING, amount=Nanos(10**9), note="n"),
            "credit.corrected",
            f"org_{ORG.hex}",
            {"amount": "1.00", "note": "n"},
        ),
        (
            SetLimit(
                organization_id=ORG,
                scope_kind=ScopeKind.PROJECT,
                scope_ref=THING.hex,
                measure=Measure.CALLS,
                period=Period.MINUTE,
                models="gpt-5*",
                maximum=7,
                raised_to=9,
                thresholds=(80,),
                owner="Ada",
            ),
            "limit.set",
            f"project proj_{THING.hex} calls minute hard gpt-5*",
            {
                "maximum": 7,
                "raised_to": 9,
                "raised_from": None,
                "raised_until": None,
                "thresholds_percent": [80],
                "owner": "Ada",
            },
        ),
        (
            SetLimit(
                organization_id=ORG, scope_kind=ScopeKind.USER, period=Period.DAY, maximum=None
            ),
            "limit.removed",
            "user every money day hard all models",
            {"maximum": None},
        ),
    ],
)
def test_every_money_action_has_its_words(
    command: AnyCommand, action: str, subject: str, after: dict[str, Any]
) -> None:
    """Amounts as decimal strings, ids with their prefix."""
    note = money_note(command, before={"maximum": "1.00"}, reason="why")
    assert (note.action, note.subject_id, note.after) == (action, subject, after)
    assert (note.organization_id, note.before, note.reason) == (ORG, {"maximum": "1.00"}, "why")


def test_what_no_person_asks_for_is_a_mistake() -> None:
    """Calls are not in the audit log: they have rows of their own."""
    till = Till()
    with pytest.raises(AssertionError):
        money_note(till.admit())


async def test_what_a_limit_was_is_found_by_scope_and_kind(office: Office) -> None:
    """The one that is changed and no other: of that scope, measure, window and models."""
    till = Till()
    till.put_into_database(office.dsn)
    month = SetLimit(organization_id=till.organization_id, period=Period.MONTH, maximum=5)
    each = structs.replace(month, scope_kind=ScopeKind.USER, maximum=7, owner="Ada")
    user = structs.replace(each, scope_ref="eve")
    for command in (month, each):
        await office.submit(command)
    standing = await list_limits(office.connection, till.organization_id)
    assert limit_before(month, standing) == {"maximum": "0.000000005"}
    assert limit_before(each, standing) == {"maximum": "0.000000007", "owner": "Ada"}
    for other in (
        user,
        structs.replace(month, models="gpt-5*"),
        structs.replace(month, period=Period.DAY),
    ):
        assert limit_before(other, standing) is None
