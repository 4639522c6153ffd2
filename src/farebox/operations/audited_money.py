"""Money by hand, noted: what a person asks of the engine is in the audit log with its outcome.

The engine's transactions stay as short as they are: the wish is noted first, then the command is
sent, then its outcome is chained. A process that dies in between leaves the note, which is chained
as unknown later: no money action is ever without its trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from msgspec import structs

from farebox.kit.errors import FareboxError, RefusedError, UnavailableError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos, format_amount
from farebox.ledger.commands import (
    AnyCommand,
    Correct,
    Dispute,
    GrantCredit,
    Granted,
    Refund,
    Refused,
    Result,
    SetFloor,
    SetLimit,
    SetZone,
)
from farebox.ledger.limits import Rule
from farebox.ledger.scopes import EVERY
from farebox.operations.audit_log import AuditLog, AuditNote, Facts
from farebox.operations.balance import LimitView
from farebox.operations.documents import instant
from farebox.operations.limit_documents import shown_amount, shown_scope
from farebox.operations.tier_limits import refuse_reserved
from farebox.tenancy.audit_chain import Outcome

Submit = Callable[[AnyCommand], Awaitable[Result]]
"""Has the engine decide and commit a command."""


async def audited(
    log: AuditLog,
    submit: Submit,
    command: AnyCommand,
    *,
    before: Facts | None = None,
    reason: str = "",
) -> Result:
    """Have the engine decide a command, and note who asked and what became of it.

    Args:
        log: Writes in the name of whoever asks.
        submit: The engine; it may answer a refusal or raise it.
        command: One that a person may ask for.
        before: What stood in its place before.
        reason: The sentence that the person gave.

    Raises:
        FareboxError: As ``submit``.
    """
    if isinstance(command, SetLimit):
        refuse_reserved(command)
    note = money_note(command, before=before, reason=reason)
    pending = await log.begin(note)
    try:
        result = await submit(command)
    except UnavailableError:
        raise  # it may have taken effect: the note stays until it is known to be unknown
    except FareboxError as error:
        code = error.reason if isinstance(error, RefusedError) else error.code
        await log.finish(pending, _refused(note, code))
        raise
    if isinstance(result, Refused):
        await log.finish(pending, _refused(note, result.code))
    else:
        await log.finish(pending, _done(note, result))
    return result


def money_note(command: AnyCommand, *, before: Facts | None = None, reason: str = "") -> AuditNote:
    """What the log says of a command that a person asks for."""
    organization_id = command.organization_id
    org = format_id("org", organization_id)
    match command:
        case GrantCredit():
            action, subject, subject_id = "credit.granted", "grant", _grant(command.grant_id)
            after: dict[str, object] = {
                "source": command.source.value,
                "amount": format_amount(command.amount),
                "expires_at": instant(command.expires_at),
                "reference": command.reference,
            }
        case Refund():
            action, subject, subject_id = "credit.refunded", "grant", _grant(command.grant_id)
            after = {"amount": format_amount(command.amount), "note": command.note}
        case Dispute():
            action, subject, subject_id = "credit.disputed", "grant", _grant(command.grant_id)
            after = {"step": command.step.value}
        case Correct():
            action, subject, subject_id = "credit.corrected", "organization", org
            after = {"amount": format_amount(command.amount), "note": command.note}
        case SetFloor():
            action, subject, subject_id = "organization.floor_set", "organization", org
            after = {"floor": format_amount(command.floor)}
        case SetZone():
            action, subject, subject_id = "organization.zone_set", "organization", org
            after = {"zone": command.zone}
        case SetLimit():
            action = "limit.removed" if command.maximum is None else "limit.set"
            subject, subject_id, after = "limit", _limit(command), _limit_facts(command)
        case _:
            raise AssertionError(f"no person asks for {type(command).__name__}")
    return AuditNote(
        action=action,
        subject_kind=subject,
        subject_id=subject_id,
        organization_id=organization_id,
        before=before,
        after=after,
        reason=reason,
    )


def limit_before(command: SetLimit, standing: Iterable[LimitView]) -> Facts | None:
    """What stood in the place of a limit, for the log; None where there was none of its own.

    Args:
        command: What is asked for.
        standing: The organisation's limits.
    """
    scope = command.scope
    for limit in standing:
        rule = limit.rule
        is_meant = limit.number == command.number
        is_there = (limit.scope_kind, limit.scope_ref) == (scope.kind, scope.ref)
        is_own = not limit.is_default or limit.scope_ref == EVERY
        if is_meant and is_there and is_own:
            return _limit_facts(rule)
    return None


def _grant(grant_id: UUID) -> str:
    return format_id("grant", grant_id)


def _limit(command: SetLimit) -> str:
    """What the limit is, in one line: there is one of each in an organisation."""
    scope = command.scope
    parts = [scope.kind.value, shown_scope(scope.kind, scope.ref) or "every"]
    parts += [command.measure.value, command.period.value, command.effect.value]
    return " ".join([*parts, command.models or "all models"])


def _limit_facts(command: SetLimit | Rule) -> dict[str, object]:
    def shown(amount: int | None) -> object:
        return None if amount is None else shown_amount(command.measure, amount)

    facts: dict[str, object] = {"maximum": shown(command.maximum)}
    if command.raised_to is not None:
        facts["raised_to"] = shown(command.raised_to)
        facts["raised_from"] = instant(command.raised_from)
        facts["raised_until"] = instant(command.raised_until)
    if not command.count_failed:
        facts["count_failed"] = False
    if command.thresholds:
        facts["thresholds_percent"] = list(command.thresholds)
    if command.owner:
        facts["owner"] = command.owner
    return facts


def _refused(note: AuditNote, code: str) -> AuditNote:
    reason = f"{code}: {note.reason}" if note.reason else code
    return structs.replace(note, outcome=Outcome.REFUSED, reason=reason)


def _done(note: AuditNote, result: Result) -> AuditNote:
    if not getattr(result, "exists", False):
        facts = dict(note.after or {})
        if isinstance(result, Granted):
            facts["expires_at"] = instant(result.expires_at)
            facts["repaid"] = format_amount(Nanos(result.repaid))
        return structs.replace(note, after=facts)
    reason = f"repeated: {note.reason}" if note.reason else "repeated"
    return structs.replace(note, reason=reason)
