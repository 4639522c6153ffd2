"""Checks of what there is to spend: expired, used up, negative, frozen, not begun (DOC-04).

They are told apart by the grants themselves: a grant that ended with money on it expired, one that
calls have drawn was used; the last of these to happen is why there is nothing now (CRD-12).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Code
from farebox.advice.error_codes import finding_of
from farebox.advice.facts import CallRecord, Case, GrantRecord, MoneyFacts
from farebox.advice.findings import Evidence, Finding, Fix, Severity, finding
from farebox.advice.wording import amount, fact, money, news, quoted, request, top_up, when
from farebox.kit.money import Nanos
from farebox.ledger.limits import Effect

USED_UP_PART: Final = 10
"""A tenth or less of what was given is left: it is used up, whatever a call needs."""

VANISHED_WITHIN: Final = timedelta(days=90)
"""Expiry longer ago is history."""

ENDS_WITHIN: Final = timedelta(days=30)
"""Credit that ends sooner is worth a warning if it will not be used by then (CRD-14)."""

GRANTS_SHOWN_MAX: Final = 5

_TOLD_BY_CODE: Final = (Code.D11, Code.D13)
"""What a refusal's code says for sure, whatever the books say now."""


def shortage(case: Case, call: CallRecord | None = None) -> list[Finding]:
    """Why there is nothing, or not enough, to spend.

    Args:
        case: With its money.
        call: The refused call that needed more; None asks about any call at all.
    """
    facts = case.money
    if facts is None:
        return _without_figures(case, call)
    need = call.needed if call is not None else Nanos(1)
    if facts.spendable >= need:
        return [_mended(case, facts, call)] if call is not None else []
    code, cause = _why(case, facts, call)
    then = _call_evidence(case, call)
    evidence = (*then, *news(_books_evidence(case, facts, code), then))
    fixes = _fixes(case, facts, code, need)
    return [finding(code, cause, evidence=evidence, fixes=fixes)]


def _why(case: Case, facts: MoneyFacts, call: CallRecord | None) -> tuple[Code, str]:
    """The one reason, and its sentence."""
    currency = case.currency
    left, need = amount(facts.available, currency), Nanos(0) if call is None else call.needed
    if facts.owed and facts.available < 0:
        return Code.D13, (
            f"{amount(facts.owed, currency)} is owed: more was charged than there was credit. The "
            "next purchase pays that first, so only the rest of it can be used."
        )
    if not facts.granted:
        return Code.D65, "No credit was ever given to this organisation; it begins with none."
    if facts.frozen and facts.spendable + facts.frozen >= need:
        return Code.D66, (
            f"{amount(facts.frozen, currency)} waits for the end of a dispute; {left} can be used."
        )
    if facts.pending and facts.spendable + facts.pending >= need:
        begins = min(g.effective_at for g in facts.grants if g.state == "pending")
        return Code.D67, (
            f"{amount(facts.pending, currency)} has been given and begins on {when(begins)}; "
            f"{left} can be used now."
        )
    ended = _last_ended(facts)
    if ended is not None and _expiry_was_last(facts, ended[1]):
        return Code.D11, (
            f"{amount(ended[0], currency)} was left when the last credit ended on "
            f"{when(ended[1])}. It expired: no call used it, and its end cannot be moved."
        )
    if call is not None and not _is_used_up(facts):
        return Code.D64, (
            f"{left} is available, and this call may cost up to {amount(need, currency)}: its "
            "input, and all the output that it may ask for."
        )
    rest = f" {amount(facts.expired, currency)} had expired before." if facts.expired else ""
    return Code.D12, (
        f"Calls have spent {amount(facts.spent, currency)} of the "
        f"{amount(facts.granted, currency)} that was given; {left} is left.{rest}"
    )


def _is_used_up(facts: MoneyFacts) -> bool:
    """Whether next to nothing is left of what may still be used."""
    live = sum(g.amount for g in facts.grants if g.state in {"active", "used"}) or facts.granted
    return facts.spent > 0 and facts.available * USED_UP_PART <= live


def _last_ended(facts: MoneyFacts) -> tuple[Nanos, datetime] | None:
    """What the last expiry took, and when."""
    ended = [g for g in facts.grants if g.lapsed and g.expires_at is not None]
    if not ended:
        return None
    last = max(g.expires_at for g in ended if g.expires_at is not None)
    return Nanos(sum(g.lapsed for g in ended if g.expires_at == last)), last


def _expiry_was_last(facts: MoneyFacts, ended_at: datetime) -> bool:
    """Whether nothing was spent after it: then it is why there is nothing."""
    return facts.last_charge_at is None or facts.last_charge_at <= ended_at


def _call_evidence(case: Case, call: CallRecord | None) -> tuple[Evidence, ...]:
    if call is None or not call.needed:
        return ()
    source = request(call.id)
    return (
        money("the call needs up to", call.needed, case.currency, at=call.at, source=source),
        money("available", call.available, case.currency, at=call.at, source=source),
    )


def _books_evidence(case: Case, facts: MoneyFacts, code: Code) -> tuple[Evidence, ...]:
    shown = [("available", facts.available), ("held by open calls", facts.held)]
    extra = {
        Code.D13: [("owed", facts.owed)],
        Code.D66: [("frozen", facts.frozen)],
        Code.D67: [("begins later", facts.pending)],
    }
    shown += extra.get(code, [])
    if code in {Code.D11, Code.D12, Code.D64}:
        shown += [("spent", facts.spent), ("expired", facts.expired)]
    if facts.floor:
        shown.append(("may go below zero by", facts.floor))
    books = [
        money(label, value, case.currency, at=case.at, source="books")
        for label, value in shown
        if value or label == "available"
    ]
    return (*books, *(_spender(case) if code is Code.D12 else ()))


def _spender(case: Case) -> tuple[Evidence, ...]:
    """Who spent most lately: attribution before any top-up (DOC-12)."""
    if case.spending is None or not case.spending.spenders:
        return ()
    first = case.spending.spenders[0]
    label = f"last day, {first.key_name or 'a key'} on {first.model}"
    return (money(label, first.charge, case.currency, at=case.at, source="usage"),)


def _fixes(case: Case, facts: MoneyFacts, code: Code, need: int) -> tuple[Fix, ...]:
    org = case.organization
    where = f" --org {quoted(org.name)}" if org is not None else ""
    buy = Fix(
        text="Add credit",
        command=f"farebox credits grant{where} --amount {top_up(need - facts.spendable)} "
        "--source purchased",
        buys=True,
    )
    calls = Fix(text="See what spent it", command=f"farebox calls list{where}")
    less = Fix(text="Name a smaller max_completion_tokens, or send less")
    match code:
        case Code.D11:
            grants = Fix(text="See what ended when", command=f"farebox credits grants{where}")
            return (grants, buy, Fix(text="Buy as much as is used before it ends, not more"))
        case Code.D13:
            history = Fix(text="See what was charged", command=f"farebox credits history{where}")
            return (history, buy)
        case Code.D64:
            return (less, buy)
        case Code.D66:
            return (Fix(text="Settle the dispute with the card's bank"), buy)
        case Code.D67:
            return (Fix(text="Wait until it begins"), buy)
        case Code.D65:
            return (buy,)
        case _:
            return (calls, *((less,) if facts.available > 0 else ()), buy)


def _mended(case: Case, facts: MoneyFacts, call: CallRecord) -> Finding:
    """A refusal that would not be given now."""
    cause = (
        f"There was too little when the call was made. Now "
        f"{amount(facts.spendable, case.currency)} can be spent, which is enough for it."
    )
    said = finding_of(call.code)
    if said not in _TOLD_BY_CODE:
        said = Code.D64 if call.available > 0 else Code.D12
    return finding(
        said,
        cause,
        mended=True,
        evidence=(*_call_evidence(case, call), *_books_evidence(case, facts, Code.D64)),
        fixes=(Fix(text="Send the call again"),),
    )


def _without_figures(case: Case, call: CallRecord | None) -> list[Finding]:
    """No organisation is known: what can be said in general, or by the code alone."""
    said = finding_of(call.code) if call is not None else None
    if said in _TOLD_BY_CODE:
        entry = entry_of(said)
        remedy = Fix(text=entry.remedy.rstrip("."))
        evidence = _call_evidence(case, call)
        return [finding(said, entry.meaning, evidence=evidence, fixes=(remedy,))]
    cause = (
        "There is not enough credit for the call: used up, expired, or less than the call's worst "
        "case. Which of these it is, the organisation's books say."
    )
    fixes = (
        Fix(text="Ask again with the refusal's id, the x-request-id of the answer",
            command="farebox doctor req_..."),
        Fix(text="Or say whose key it was", command="farebox doctor ERROR --org ORG"),
    )  # fmt: skip
    return [finding(Code.D12, cause, title="Not enough credit", evidence=_call_evidence(case, call),
                    fixes=fixes)]  # fmt: skip


def held(case: Case, call: CallRecord) -> list[Finding]:
    """Money that only open calls hold (``balance_held``)."""
    facts = case.money
    evidence = [*_call_evidence(case, call)]
    if call.held:
        evidence.append(
            money(
                "held by open calls", call.held, case.currency, at=call.at, source=request(call.id)
            )
        )
    mended = False
    if facts is not None:
        evidence.append(money("available", facts.available, case.currency, at=case.at,
                              source="books"))  # fmt: skip
        evidence.append(
            money("held by open calls", facts.held, case.currency, at=case.at, source="books")
        )
        mended = facts.spendable >= call.needed and call.limit is None
    holds = case.holds
    if holds is not None and holds.oldest_at is not None:
        evidence.append(
            fact("oldest open call", when(holds.oldest_at), at=holds.oldest_at, source="holds")
        )
    whose = "the limit" if call.limit is not None else "the balance"
    cause = (
        f"Posted money could pay, but open calls hold {whose} for their worst case, and the call "
        "waited in order for as long as one may. What they do not use comes back when they end."
    )
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    fixes = (
        Fix(text="Send it again after a pause; clients do so by themselves"),
        Fix(text="Name smaller output limits, so that each call holds less"),
        Fix(text="See what is open", command=f"farebox calls list{where}"),
    )
    return [finding(Code.D63, cause, evidence=tuple(evidence), fixes=fixes, mended=mended)]


def set_aside(case: Case, call: CallRecord) -> list[Finding]:
    """Credit that other projects' allocations keep (``credit_set_aside``, CRD-21)."""
    facts = case.money
    mine = "" if case.project is None else case.project.id.hex
    others = [
        each
        for each in case.limits
        if each.effect == Effect.ALLOCATION and each.scope_ref != mine and not each.is_template
    ]
    aside = sum(each.left for each in others)
    evidence = [*_call_evidence(case, call)]
    if facts is not None:
        evidence += news(_books_evidence(case, facts, Code.D88), evidence)
    evidence += [
        money(f"kept for the project {each.scope_name}", each.left, case.currency, at=case.at,
              source="allocations")
        for each in others[:GRANTS_SHOWN_MAX]
    ]  # fmt: skip
    enough = facts is not None and facts.spendable - aside >= call.needed
    cause = (
        f"{amount(aside, case.currency)} of what is left is set aside for other projects; this "
        "project may use the rest alone."
    )
    if enough:
        cause = "Other projects kept the credit when the call was made. Now there is enough."
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    buys = Fix(
        text="Or add credit",
        command=f"farebox credits grant{where} --amount {top_up(call.needed)} --source purchased",
        buys=True,
    )
    lower = Fix(text="Lower another project's allocation", command=f"farebox limits list{where}")
    if others and case.organization is not None:
        largest = max(others, key=lambda each: each.left)
        lower = Fix(
            text=f"Lower the allocation of {largest.scope_name}",
            command=f"farebox limits set{where} --project {quoted(largest.scope_name)} "
            f"--{'total' if largest.resets_at is None else 'monthly'} AMOUNT --allocation",
        )
    fixes = (Fix(text="Send the call again"),) if enough else (lower, buys)
    return [finding(Code.D88, cause, evidence=tuple(evidence), fixes=fixes, mended=enough)]


def vanished(case: Case) -> list[Finding]:
    """Credit that expired lately, or will before it is used (D47)."""
    facts = case.money
    if facts is None:
        return []
    return [*_gone(case, facts), *_going(case, facts)]


def _gone(case: Case, facts: MoneyFacts) -> list[Finding]:
    gone = [
        grant
        for grant in facts.grants
        if grant.lapsed and grant.expires_at and case.at - grant.expires_at <= VANISHED_WITHIN
    ]
    if not gone:
        return []
    total = sum(grant.lapsed for grant in gone)
    cause = (
        f"{amount(total, case.currency)} expired unused within the last {VANISHED_WITHIN.days} "
        "days. It is counted as expired, never as used."
    )
    gone.sort(key=lambda grant: grant.expires_at or case.at, reverse=True)
    evidence = tuple(
        money(f"expired of {grant.source.value} {amount(grant.amount)}", grant.lapsed,
              case.currency, at=grant.expires_at or case.at, source="journal")
        for grant in gone[:GRANTS_SHOWN_MAX]
    )  # fmt: skip
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    fixes = (
        Fix(text="See every grant and its end", command=f"farebox credits grants{where}"),
        Fix(text="Buy as much as is used before it ends; spend on queued work what ends first"),
    )
    return [
        finding(Code.D47, cause, severity=Severity.NOTE, evidence=evidence, fixes=fixes,
                title="Credit has expired", subject="gone")
    ]  # fmt: skip


def _going(case: Case, facts: MoneyFacts) -> list[Finding]:
    """What will be left at its end if days go on costing what they cost."""
    going = [
        (grant, wasted)
        for grant in facts.grants
        if grant.state == "active"
        and grant.available
        and grant.expires_at is not None
        and grant.expires_at - case.at <= ENDS_WITHIN
        and (wasted := _waste(case, grant)) > 0
    ]
    if not going:
        return []
    going.sort(key=lambda pair: pair[0].expires_at or case.at)
    grant, wasted = going[0]
    assert grant.expires_at is not None
    cause = (
        f"{amount(grant.available, case.currency)} of {grant.source.value} credit ends on "
        f"{when(grant.expires_at)}. At the use of the last days about "
        f"{amount(_cents(wasted), case.currency)} of it will be left then, and be gone."
    )
    evidence = tuple(
        money(f"{each.source.value} that ends {when(each.expires_at)[:10]}", each.available,
              case.currency, at=case.at, source="books")
        for each, _ in going[:GRANTS_SHOWN_MAX] if each.expires_at is not None
    )  # fmt: skip
    fixes = (Fix(text="Use it in time: evaluation runs, batches and backlogs first"),)
    return [
        finding(Code.D47, cause, severity=Severity.WARNING, evidence=evidence, fixes=fixes,
                title="Credit will expire unused", subject="going")
    ]  # fmt: skip


def _waste(case: Case, grant: GrantRecord) -> int:
    """What will be left of a grant at its end, taken alone, at the average of the days known."""
    assert grant.expires_at is not None
    days = case.spending.days if case.spending is not None else ()
    if not days:
        return grant.available
    known = 1 + max(each.age_days for each in days)
    hours_left = (grant.expires_at - case.at) // timedelta(hours=1)
    return grant.available - sum(each.charge for each in days) * hours_left // (24 * known)


def _cents(nanos: int) -> int:
    """A forecast, to the hundredth: more digits would pretend to know them."""
    cent = 10_000_000
    return -(-nanos // cent) * cent
