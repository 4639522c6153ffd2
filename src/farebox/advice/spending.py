"""Checks of how credit is spent: a jump, and the order in which grants go (DOC-12, ANO-02)."""

from __future__ import annotations

from datetime import datetime
from statistics import median_high
from typing import Final, NamedTuple

from farebox.advice.codes import Code
from farebox.advice.facts import Case, DaySpend, SpenderFacts, SpendingFacts
from farebox.advice.findings import Evidence, Finding, Fix, Severity, finding
from farebox.advice.wording import amount, fact, money, quoted
from farebox.kit.ids import format_id
from farebox.kit.money import NANOS_PER_UNIT
from farebox.ledger.grants import BURN_CLASS

BASELINE_DAYS_MIN: Final = 3
"""Fewer days before do not say what is usual."""

JUMP_TIMES: Final = 3
"""The last day costs at least so many times the median day before..."""

PEAK_TIMES_PERCENT: Final = 150
"""...and this much of the dearest of them, so that a weekly peak is no jump..."""

JUMP_NANOS_MIN: Final = NANOS_PER_UNIT // 2
"""...and so much more than the median, so that cents make no noise."""

RETRIED_PERCENT: Final = 20
"""From this share on, calls sent again are worth naming."""


class Jump(NamedTuple):
    """A last day that costs much more than days did."""

    last: DaySpend
    usual: int
    """The median of the days before, in nanos."""
    dearest: int
    calls_usual: int


def spend_jump(spending: SpendingFacts) -> Jump | None:
    """Whether spending has jumped: the last 24 hours against the days before (D43).

    Days without calls count as zero, as far as the organisation has existed.
    """
    last = next((day for day in spending.days if day.age_days == 0), None)
    if last is None or spending.known_days < BASELINE_DAYS_MIN:
        return None
    by_age = {day.age_days: day for day in spending.days}
    before = [by_age.get(age) for age in range(1, spending.known_days + 1)]
    charges = [0 if day is None else day.charge for day in before]
    usual, dearest = median_high(charges), max(charges)
    jumped = (
        last.charge >= JUMP_TIMES * usual
        and last.charge * 100 >= PEAK_TIMES_PERCENT * dearest
        and last.charge - usual >= JUMP_NANOS_MIN
        and dearest > 0
    )
    calls = median_high([0 if day is None else day.calls for day in before])
    return Jump(last, usual, dearest, calls) if jumped else None


def jumped(case: Case) -> list[Finding]:
    """Spending that has jumped, with who it is and what has changed."""
    if case.spending is None:
        return []
    jump = spend_jump(case.spending)
    if jump is None:
        return []
    top = _riser(case.spending)
    cause = (
        f"The last 24 hours cost {amount(jump.last.charge, case.currency)}; the median day before "
        f"was {amount(jump.usual, case.currency)} and the dearest "
        f"{amount(jump.dearest, case.currency)}."
    )
    if top is not None:
        share = top.charge * 100 // max(1, jump.last.charge)
        cause += (
            f" {share} % of it comes from the key {top.key_name or top.key_prefix} on {top.model}"
            f"{_what_changed(top, case.spending.known_days)}."
        )
    return [
        finding(
            Code.D43,
            cause,
            severity=Severity.WARNING,
            evidence=_jump_evidence(case, jump, top),
            fixes=_jump_fixes(case, top),
        )
    ]


def _riser(spending: SpendingFacts) -> SpenderFacts | None:
    """Whose share of the last day grew most over their daily average before."""
    days = max(1, spending.known_days)
    rises = [(each.charge - each.before_charge // days, each) for each in spending.spenders]
    return max(rises, key=lambda pair: pair[0])[1] if rises else None


def _what_changed(top: SpenderFacts, days: int) -> str:
    """More calls, larger calls, or somebody new."""
    if not top.before_calls:
        return ", which was not used before"
    calls_times = top.calls * days // max(1, top.before_calls)
    size = top.tokens // max(1, top.calls)
    size_before = top.before_tokens // top.before_calls
    if calls_times >= 2:
        return f": about {calls_times} times as many calls as on other days"
    if size >= 2 * max(1, size_before):
        return f": {size:,} tokens a call instead of {size_before:,}"
    return ""


def _jump_evidence(case: Case, jump: Jump, top: SpenderFacts | None) -> tuple[Evidence, ...]:
    assert case.spending is not None
    at, currency = case.at, case.currency
    evidence = [
        money("last 24 hours", jump.last.charge, currency, at=at, source="usage"),
        money("median day before", jump.usual, currency, at=at, source="usage"),
        _calls("calls", jump.last.calls, at),
        _calls("calls on a median day", jump.calls_usual, at),
    ]
    if top is not None:
        evidence.append(
            money(f"{top.key_name or top.key_prefix} on {top.model}", top.charge, currency,
                  at=at, source="usage")
        )  # fmt: skip
        size = top.tokens // max(1, top.calls)
        evidence.append(fact("tokens a call", f"{size:,}", unit="tokens", at=at, source="usage"))
        if top.before_calls:
            size = top.before_tokens // top.before_calls
            evidence.append(
                fact("tokens a call before", f"{size:,}", unit="tokens", at=at, source="usage")
            )
    retried, seen = case.spending.retried_calls, case.spending.looked_at_calls
    if seen and retried * 100 >= RETRIED_PERCENT * seen:
        text = f"{retried:,} of the last {seen:,}"
        evidence.append(fact("sent again by clients", text, unit="calls", at=at, source="calls"))
    return tuple(evidence)


def _calls(label: str, count: int, at: datetime) -> Evidence:
    unit = "call" if count == 1 else "calls"
    return fact(label, f"{count:,}", unit=unit, at=at, source="usage")


def _jump_fixes(case: Case, top: SpenderFacts | None) -> tuple[Fix, ...]:
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    fixes = [Fix(text="See the calls", command=f"farebox calls list{where}")]
    if top is not None:
        command = f"farebox keys revoke {format_id('key', top.key_id)}"
        fixes.append(Fix(text="If nobody meant it, end the key", command=command))
    fixes.append(Fix(text="Cap the month", command=f"farebox limits set{where} --monthly AMOUNT"))
    return tuple(fixes)


def free_first(case: Case) -> list[Finding]:
    """Free credit that goes while purchased credit stands still (D46)."""
    facts = case.money
    if facts is None or facts.last_charge_at is None:
        return []
    free = [g for g in facts.grants if BURN_CLASS[g.source] == 1 and g.spent]
    paid = [
        grant
        for grant in facts.grants
        if BURN_CLASS[grant.source] > 1
        and grant.state == "active"
        and not grant.spent
        and grant.effective_at <= facts.last_charge_at
    ]
    if not free or not paid:
        return []
    spent, untouched = sum(g.spent for g in free), sum(g.available + g.held for g in paid)
    names = " and ".join(dict.fromkeys(g.source.value for g in free))
    last = " and ".join(dict.fromkeys(g.source.value for g in paid))
    cause = (
        f"{amount(spent, case.currency)} of {names} credit has been spent, and none of the "
        f"{amount(untouched, case.currency)} of {last} credit: it goes last, so its own figure "
        "stands still while the balance falls."
    )
    left = sum(g.available for g in free)
    evidence = (
        money(f"{names} credit spent", spent, case.currency, at=case.at, source="books"),
        money(f"{names} credit left", left, case.currency, at=case.at, source="books"),
        money(f"{last} credit untouched", untouched, case.currency, at=case.at, source="books"),
    )
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    fix = Fix(text="See the balance by source", command=f"farebox credits balance{where}")
    return [finding(Code.D46, cause, severity=Severity.NOTE, evidence=evidence, fixes=(fix,))]
