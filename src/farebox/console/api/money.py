"""Credit: the balance, the grants it is made of, the journal, and what an operator does by hand."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from farebox.console.api.fields import (
    Amount,
    AmountIn,
    CallId,
    GrantId,
    Instant,
    InstantIn,
    OrganizationId,
    Page,
    PageQuery,
    Text,
    page_of,
    read_instant,
    read_number_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import format_amount, parse_positive_amount
from farebox.ledger.commands import Correct, Granted
from farebox.ledger.grants import Grant as GrantRow
from farebox.ledger.grants import Source
from farebox.operations.balance import GrantView
from farebox.operations.credits import RefundException, plan_grant, plan_refund
from farebox.operations.documents import document
from farebox.tenancy.permissions import Action


class SourceRow(Struct, frozen=True, kw_only=True):
    """What one source has left."""

    source: Source
    available: Amount
    held: Amount
    earliest_expiry: Instant | None
    grants: int


class Balance(Struct, frozen=True, kw_only=True):
    """Money at an instant; never one bare total."""

    object: Literal["balance"] = "balance"
    organization_id: OrganizationId
    currency: str
    at: Instant
    available: Amount
    spendable: Amount
    posted: Amount
    held: Amount
    owed: Amount
    granted: Amount
    spent: Amount
    expired: Amount
    refunded: Amount
    absorbed: Amount
    frozen: Amount
    pending: Amount
    floor: Amount
    maximum_exposure: Amount
    earliest_expiry: Instant | None
    sources: list[SourceRow]


class Grant(Struct, frozen=True, kw_only=True):
    """A lot of credit; its parts add up to its amount."""

    object: Literal["grant"] = "grant"
    id: GrantId
    sequence: int
    source: Source
    state: str
    amount: Amount
    available: Amount
    remaining: Amount
    held: Amount
    frozen: Amount
    spent: Amount
    repaid: Amount
    expired: Amount
    refunded: Amount
    effective_at: Instant
    expires_at: Instant | None
    reference: str | None


class GrantOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit to give."""

    amount: AmountIn
    source: Source
    expires_at: InstantIn | None = None
    """Without one: bought credit a year, other six months."""
    reference: Text | None = None


class RefundOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unspent credit to take back."""

    exception: RefundException
    """Credit is not refundable but for these."""
    amount: AmountIn | None = None
    """All that is unspent and not held, if left out."""
    note: Annotated[str, Meta(max_length=400)] | None = None


class Refund(Struct, frozen=True, kw_only=True):
    """What was taken back."""

    object: Literal["refund"] = "refund"
    id: str
    grant_id: GrantId
    amount: Amount
    note: str


class CorrectionOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Credit to take away; what is not there is owed."""

    amount: AmountIn
    note: Annotated[str, Meta(min_length=1, max_length=500)]


class Correction(Struct, frozen=True, kw_only=True):
    """What was taken away."""

    object: Literal["correction"] = "correction"
    id: str
    amount: Amount
    note: str


class Posting(Struct, frozen=True, kw_only=True):
    """One posting of the journal."""

    object: Literal["posting"] = "posting"
    id: int
    kind: str
    at: Instant
    booked_at: Instant
    change: Amount
    """Of the customer's credit less debt."""
    entries: dict[str, Amount]
    """Account -> amount; debits positive; they sum to zero."""
    grant_id: GrantId | None
    call_id: CallId | None
    first_sequence: int | None
    last_sequence: int | None
    note: str | None


async def show_balance(context: Context) -> Balance:
    """Available, held, posted, owed, spent, expired: each by itself."""
    return shown(Balance, await context.session.money.balance(context.organization.id))


async def list_grants(context: Context) -> Page[Grant]:
    """Every grant there ever was, newest first."""
    query = context.query_as(PageQuery)
    found = await context.session.money.grants(
        context.organization.id, before=read_number_cursor(query.cursor), limit=query.limit + 1
    )
    rows = [document(grant, of="grant") for grant in found]
    return page_of(Grant, rows, query.limit, [grant.sequence for grant in found])


async def show_grant(context: Context) -> Grant:
    """One grant."""
    grant = await _find(context)
    return shown(Grant, await _view(context, grant.sequence), of="grant")


async def give_grant(context: Context) -> Grant:
    """Give credit, or book a purchase, by hand."""
    order, session = context.body_as(GrantOrder), context.session
    command = plan_grant(
        context.organization.id,
        context.effect_id,
        source=order.source,
        amount=parse_positive_amount(order.amount),
        expires_at=read_instant(order.expires_at, field="expires_at"),
        reference=order.reference,
        now=await session.now(),
    )
    result = await session.submit(command)
    assert isinstance(result, Granted), result
    grant = await session.money.grant(result.grant_id)
    return shown(Grant, await _view(context, grant.sequence), of="grant")


async def refund_grant(context: Context) -> Refund:
    """Take unspent credit back where an exception applies."""
    grant, order = await _find(context), context.body_as(RefundOrder)
    command = plan_refund(
        grant,
        context.effect_id,
        amount=None if order.amount is None else parse_positive_amount(order.amount),
        exception=order.exception,
        note=order.note,
    )
    await context.session.submit(command)
    return Refund(
        id=format_id("cmd", command.command_id),
        grant_id=format_id("grant", grant.id),
        amount=format_amount(command.amount),
        note=command.note,
    )


async def correct(context: Context) -> Correction:
    """An operator's correction downwards."""
    order = context.body_as(CorrectionOrder)
    if not order.note.strip() or not order.note.isprintable():
        raise InvalidInputError("note", "must be a sentence on one line")
    command = Correct(
        organization_id=context.organization.id,
        command_id=context.effect_id,
        amount=parse_positive_amount(order.amount),
        note=order.note,
    )
    await context.session.submit(command)
    return Correction(
        id=format_id("cmd", command.command_id),
        amount=format_amount(command.amount),
        note=order.note,
    )


async def list_ledger(context: Context) -> Page[Posting]:
    """The journal, newest first."""
    query = context.query_as(PageQuery)
    found = await context.session.money.history(
        context.organization.id, before=read_number_cursor(query.cursor), limit=query.limit + 1
    )
    rows = [document(entry) for entry in found]
    return page_of(Posting, rows, query.limit, [row["id"] for row in rows])


async def _find(context: Context) -> GrantRow:
    """The path's grant; another organisation's is not there."""
    grant = await context.session.money.grant(context.ids["grant_id"])
    if grant.organization_id != context.organization.id:
        raise NotFoundError("There is no such grant.")
    return grant


async def _view(context: Context, sequence: int) -> GrantView:
    (view,) = await context.session.money.grants(
        context.organization.id, before=sequence + 1, limit=1
    )
    return view


_ONE: Final = "/organizations/{organization_id}"
_GRANTS: Final = f"{_ONE}/grants"

ROUTES: Final = (
    Route(
        method="GET",
        path=f"{_ONE}/balance",
        name="showBalance",
        summary="What is left, and what became of the rest",
        tag="credit",
        handler=show_balance,
        action=Action.BALANCE_VIEW,
        answer=Balance,
    ),
    Route(
        method="GET",
        path=_GRANTS,
        name="listGrants",
        summary="Grants, newest first",
        tag="credit",
        handler=list_grants,
        action=Action.BILLING_VIEW,
        query=PageQuery,
        answer=Page[Grant],
    ),
    Route(
        method="POST",
        path=_GRANTS,
        name="giveGrant",
        summary="Give credit by hand",
        tag="credit",
        handler=give_grant,
        action=Action.CREDIT_GRANT,
        body=GrantOrder,
        answer=Grant,
        status=201,
        atomic=False,
    ),
    Route(
        method="GET",
        path=_GRANTS + "/{grant_id}",
        name="showGrant",
        summary="A grant",
        tag="credit",
        handler=show_grant,
        action=Action.BILLING_VIEW,
        answer=Grant,
    ),
    Route(
        method="POST",
        path=_GRANTS + "/{grant_id}/refunds",
        name="refundGrant",
        summary="Take unspent credit back where an exception applies",
        tag="credit",
        handler=refund_grant,
        action=Action.CREDIT_GRANT,
        body=RefundOrder,
        answer=Refund,
        status=201,
        atomic=False,
    ),
    Route(
        method="POST",
        path=f"{_ONE}/corrections",
        name="correct",
        summary="Take credit away; what is not there is owed",
        tag="credit",
        handler=correct,
        action=Action.CREDIT_GRANT,
        body=CorrectionOrder,
        answer=Correction,
        status=201,
        atomic=False,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/ledger",
        name="listLedger",
        summary="The journal, newest first",
        tag="credit",
        handler=list_ledger,
        action=Action.BILLING_VIEW,
        query=PageQuery,
        answer=Page[Posting],
    ),
)
