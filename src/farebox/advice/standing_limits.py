"""Checks of limits: the one that refused a call, and those that would refuse the next."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from msgspec import structs

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Code
from farebox.advice.error_codes import finding_of
from farebox.advice.facts import CallRecord, Case, LimitRecord
from farebox.advice.findings import Evidence, Finding, Fix, Severity, finding
from farebox.advice.wording import (
    amount,
    fact,
    measured,
    news,
    period,
    quoted,
    request,
    scope,
    sentence,
    when,
)
from farebox.kit.ids import format_id
from farebox.kit.money import ZERO, Nanos
from farebox.ledger.limits import OBSERVED, Effect, LimitFigures, Measure, Origin, Period
from farebox.ledger.scopes import EVERY, ScopeKind

NEARLY_PERCENT: Final = 80
"""From here on a limit is worth a warning."""

_RATES: Final = frozenset({Period.MINUTE.value, Period.UTC_DAY.value})

_PASSING: Final = frozenset({Measure.PARALLEL, *OBSERVED})
"""What leaves no figure behind that would stand in the way of the next call."""

_STOPPING: Final = frozenset({Effect.HARD, Effect.ALLOCATION})
"""What stops calls until somebody acts or the window turns."""


_WORDS: Final = {
    Measure.TOKENS.value: "token",
    Measure.CALLS.value: "call",
    Measure.SECONDS.value: "time",
}


def refused_by(case: Case, call: CallRecord, code: Code) -> list[Finding]:
    """What the limit is that refused a call, then and now."""
    figures = call.limit
    if figures is None:
        return _without_figures(case, call, code)
    code = code_of(figures)
    now = _same(case, figures)
    if code is Code.D89:
        return [_stopped(case, figures, mended=now is None)]
    mended = _has_room(now, call, figures)
    then = _then(case, call, figures)
    evidence = (*then, *news(_now(case, now, figures), then))
    return [
        finding(
            code,
            _cause(case, figures, now, mended=mended),
            title=_title(case, code, figures),
            evidence=evidence,
            fixes=_fixes(case, code, figures, now, mended=mended, needed=call.needed),
            subject=_subject(figures),
            mended=mended,
        )
    ]


def standing(case: Case) -> list[Finding]:
    """Limits that nothing more fits under, or nearly so, whoever was refused by them."""
    found = []
    for each in case.limits:
        if each.effect == Effect.STOP and not each.is_template:
            found.append(_stopped(case, _figures(each), mended=False))
            continue
        if each.is_template or each.effect == Effect.SHADOW or each.measure in _PASSING:
            continue
        if code_of(_figures(each)) is Code.D20:
            continue  # told with the tier
        full = each.used >= each.maximum
        nearly = each.used * 100 >= each.maximum * NEARLY_PERCENT
        if each.period in _RATES and not full:
            continue
        if full or nearly:
            found.append(_standing(case, each, full=full))
    return [*found, *_tier(case)]


def _stopped(case: Case, figures: LimitFigures, *, mended: bool) -> Finding:
    """A run, a key or another scope that a rule or a person has stopped (ANO-01)."""
    named = _named(case, figures)
    cause = f"{sentence(named)} was stopped{f': {figures.owner}' if figures.owner else ''}."
    fixes: tuple[Fix, ...] = (Fix(text="Send the call again"),)
    if mended:
        cause += " It has been released since."
    else:
        cause += " Its calls are refused until it is released."
        where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
        command = set_command(case, figures, _same(case, figures))
        release = command.replace("--parallel N", "--parallel none")
        fixes = (
            Fix(text="See what it did", command=f"farebox alerts list{where}"),
            Fix(text="Release it", command=release),
        )
    return finding(
        Code.D89,
        cause,
        title=sentence(f"{named} was stopped"),
        fixes=fixes,
        subject=_subject(figures),
        mended=mended,
    )


def _standing(case: Case, each: LimitRecord, *, full: bool) -> Finding:
    figures = _figures(each)
    code = code_of(figures)
    stops = full and each.effect in _STOPPING
    severity = Severity.WRONG if stops and each.period not in _RATES else Severity.WARNING
    used, unit = measured(each.measure, each.used, case.currency)
    maximum, _ = measured(each.measure, each.maximum, case.currency)
    what = "is reached" if full else "is nearly reached"
    title = sentence(f"{_name(case, figures)} {what}")
    resets = f" It resets on {when(each.resets_at)}." if each.resets_at else " It never resets."
    stopped = " Calls that it counts are refused." if stops else ""
    return finding(
        code,
        f"{used} of {maximum} {unit} are used.{stopped}{resets}",
        title=title,
        severity=severity,
        evidence=_now(case, each, figures),
        fixes=_fixes(case, code, figures, each, mended=False),
        subject=_subject(figures),
    )


def assigned(case: Case, needed: Nanos = ZERO) -> list[Finding]:
    """The limit of the usage tier (``organization_usage_limit_exceeded``).

    Args:
        case: With the organisation's tier.
        needed: What the call that was refused would have held; zero where that is not known.
    """
    tier = case.tier
    if tier is None or tier.monthly_maximum is None:
        ask = Fix(text="Ask the operator which tier the organisation is in, and for the next one")
        cause = "The tier that was assigned to the organisation allows no more use this month."
        return [finding(Code.D20, cause, fixes=(ask,))]
    full = tier.used >= tier.monthly_maximum or tier.used + needed > tier.monthly_maximum
    asks = f", and the call needs up to {amount(needed, case.currency)}" if needed else ""
    cause = (
        f"Tier {tier.name} allows {amount(tier.monthly_maximum, case.currency)} a month; "
        f"{amount(tier.used, case.currency)} is used{asks}. It begins anew on "
        f"{when(tier.resets_at)}."
    )
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    show = Fix(text="See where it stands and what is next", command=f"farebox tiers show{where}")
    fixes = [show, Fix(text=f"Or wait until {when(tier.resets_at)}")]
    if tier.next_name:
        needs = (
            f", which needs {amount(tier.next_needs, case.currency)} of purchases in all"
            if tier.next_needs is not None
            else ""
        )
        fixes.insert(0, Fix(text=f"Reach tier {tier.next_name}{needs}, or ask the operator for it"))
    else:
        fixes.insert(0, Fix(text="Ask the operator for a higher limit"))
    evidence = (
        Evidence(label="used this month", value=amount(tier.used), unit=case.currency, at=case.at,
                 source="usage"),
        Evidence(label="allowed a month", value=amount(tier.monthly_maximum), unit=case.currency,
                 at=case.at, source=f"tier {tier.name}"),
    )  # fmt: skip
    return [finding(Code.D20, cause, evidence=evidence, fixes=tuple(fixes), mended=not full)]


def _tier(case: Case) -> list[Finding]:
    tier = case.tier
    if tier is None or tier.monthly_maximum is None or tier.used < tier.monthly_maximum:
        return []
    return assigned(case)


def code_of(figures: LimitFigures) -> Code:
    """The finding that a limit means when it refuses."""
    if figures.effect == Effect.STOP:
        return Code.D89
    if figures.effect == Effect.ALLOCATION:
        return Code.D22
    if figures.period in _RATES or figures.measure == Measure.PARALLEL:
        return Code.D17
    if figures.effect == Effect.THROTTLE and figures.used < figures.maximum:
        return Code.D17
    if figures.origin == Origin.TIER:
        return Code.D20
    found = finding_of(f"{figures.scope_kind}_spend_limit_exceeded")
    return Code.D21 if found is None else found


def _without_figures(case: Case, call: CallRecord, code: Code) -> list[Finding]:
    """A refusal that came without its figures: as a pasted error does."""
    full = [each for each in standing(case) if each.code is code]
    if full:
        return full
    cause = entry_of(code).meaning + (f" The error says: {call.message}" if call.message else "")
    if code is Code.D17 and "too large" in call.message.lower():
        cause += " This one request is larger than a whole window: trying again never helps."
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    fixes = [Fix(text=entry_of(code).remedy.rstrip("."))]
    if code is not Code.D17:
        fixes.append(Fix(text="See the limits", command=f"farebox limits list{where}"))
    return [finding(code, cause, fixes=tuple(fixes))]


def _same(case: Case, figures: LimitFigures) -> LimitRecord | None:
    """The limit as it stands now; None where it was removed, or nothing is known of it.

    A scope that has no counter yet stands under the default of its kind, with nothing used.
    """
    wanted = _key(figures)
    own = next((each for each in case.limits if _key(_figures(each)) == wanted), None)
    if own is not None:
        return own
    template = _key(structs.replace(figures, scope_id=EVERY))
    found = next((each for each in case.limits if _key(_figures(each)) == template), None)
    if found is None:
        return None
    return structs.replace(
        found, scope_ref=figures.scope_id, scope_name=figures.scope_id, is_template=False
    )


def _key(figures: LimitFigures) -> tuple[str, ...]:
    return (
        figures.scope_kind, figures.scope_id, figures.measure, figures.period, figures.effect,
        figures.models, figures.origin,
    )  # fmt: skip


def _figures(each: LimitRecord) -> LimitFigures:
    return LimitFigures(
        scope_kind=each.scope_kind,
        scope_id=each.scope_ref,
        period=each.period,
        maximum=each.maximum,
        used=each.used,
        held=each.held,
        resets_at=each.resets_at,
        measure=each.measure,
        effect=each.effect,
        models=each.models,
        owner=each.owner,
        origin=each.origin,
    )


def _has_room(now: LimitRecord | None, call: CallRecord, figures: LimitFigures) -> bool:
    """Whether the call would pass that limit now; a rate is never mended by waiting."""
    if now is None:
        return True
    if figures.period in _RATES or figures.measure == Measure.PARALLEL:
        return False
    if figures.measure in OBSERVED:
        return now.maximum > figures.used  # what a run has seen does not come back
    need = call.needed if figures.measure == Measure.MONEY else 1
    return now.left >= need


def _named(case: Case, figures: LimitFigures) -> str:
    """What the limit is set on, as a sentence names it."""
    now = _same(case, figures)
    named = figures.scope_id if now is None else now.scope_name
    if now is None and figures.scope_kind in {ScopeKind.PROJECT, ScopeKind.KEY}:
        named = ""
    return scope(figures.scope_kind, named)


def _name(case: Case, figures: LimitFigures) -> str:
    """The limit as a sentence names it."""
    named = _named(case, figures)
    if figures.effect == Effect.ALLOCATION:
        return f"the allocation of {named}"
    words = [period(figures.period)]
    if figures.measure == Measure.PARALLEL:
        words = ["parallel-call"]
    elif figures.measure in OBSERVED:
        words = [_WORDS.get(figures.measure, figures.measure)]
    elif figures.measure != Measure.MONEY:
        words.append(_WORDS.get(figures.measure, figures.measure))
    models = f" for {figures.models}" if figures.models else ""
    return f"the {' '.join(words)} limit{models} of {named}"


def _title(case: Case, code: Code, figures: LimitFigures) -> str:
    if code is Code.D17:
        return entry_of(code).title
    what = "is reached" if figures.used >= figures.maximum else "leaves too little for the call"
    return sentence(f"{_name(case, figures)} {what}")


def _cause(case: Case, figures: LimitFigures, now: LimitRecord | None, *, mended: bool) -> str:
    maximum, unit = measured(figures.measure, figures.maximum, case.currency)
    used, _ = measured(figures.measure, figures.used, case.currency)
    held, _ = measured(figures.measure, figures.held, case.currency)
    name = _name(case, figures)
    if figures.measure == Measure.PARALLEL:
        return f"{sentence(name)} is {maximum} at a time, and {held} were running."
    if figures.measure in OBSERVED:
        rest = (
            " There is room for it now." if mended else " What a run has seen does not come back."
        )
        return f"{sentence(name)} is {maximum} {unit}, and the call was at {used}.{rest}"
    then = f"{sentence(name)} is {maximum} {unit}: {used} used, {held} held by open calls"
    if mended:
        rest = "the limit has been removed" if now is None else "there is room again"
        return f"{then} when the call was refused. Now {rest}."
    if figures.period in _RATES:
        return f"{then} in that window. Credit does not help; the next window does."
    resets = figures.resets_at if now is None else now.resets_at
    until = f"It resets on {when(resets)}." if resets is not None else "It never resets."
    return f"{then}. {until}"


def _then(case: Case, call: CallRecord, figures: LimitFigures) -> tuple[Evidence, ...]:
    source = request(call.id)
    shown = _labelled(figures.measure, figures.effect, figures.maximum, figures.used, figures.held)
    evidence = [_figure(label, value, figures, case, call, source) for label, value in shown]
    if figures.measure == Measure.MONEY and call.needed:
        evidence.append(_figure("the call needs up to", call.needed, figures, case, call, source))
    return tuple(evidence)


def _labelled(
    measure: str, effect: str, maximum: int, used: int, held: int
) -> list[tuple[str, int]]:
    """A limit's figures under the words that fit what it counts."""
    first = ("allocation" if effect == Effect.ALLOCATION else "limit", maximum)
    if measure == Measure.PARALLEL:
        return [first, ("running", held)]
    if measure in OBSERVED:
        return [first, *([("the call was at", used)] if used else [])]
    return [first, ("used", used), ("held by open calls", held)]


def _figure(
    label: str, value: int, figures: LimitFigures, case: Case, call: CallRecord, source: str
) -> Evidence:
    text, unit = measured(figures.measure, value, case.currency)
    return Evidence(label=label, value=text, unit=unit, at=call.at, source=source)


def _now(case: Case, now: LimitRecord | None, figures: LimitFigures) -> tuple[Evidence, ...]:
    if now is None:
        return ()
    shown = _labelled(now.measure, now.effect, now.maximum, now.used, now.held)
    if now.measure not in _PASSING:
        shown.append(("left", now.left))
    evidence = []
    for label, value in shown:
        text, unit = measured(figures.measure, value, case.currency)
        evidence.append(Evidence(label=label, value=text, unit=unit, at=case.at, source="limits"))
    if now.resets_at is not None:
        evidence.append(fact("resets", when(now.resets_at), at=case.at, source="limits"))
    if now.owner:
        evidence.append(fact("owner", now.owner, at=case.at, source="limits"))
    return tuple(evidence)


def _fixes(
    case: Case,
    code: Code,
    figures: LimitFigures,
    now: LimitRecord | None,
    *,
    mended: bool,
    needed: Nanos = ZERO,
) -> tuple[Fix, ...]:
    if mended:
        return (Fix(text="Send the call again"),)
    owner = figures.owner or (now.owner if now is not None else "")
    where = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    see = Fix(text="See the limit and what is left", command=f"farebox limits list{where}")
    change = set_command(case, figures, now, owner=owner)
    if code is Code.D17:
        waiting = (
            Fix(text="Wait for retry-after and try again with growing, random pauses"),
            Fix(text="Queue calls, send fewer at once, or name smaller output limits"),
        )
        what = "Or raise the rate" if figures.maximum else "Raise the rate"
        raising = Fix(text=f"Ask {owner} for a higher rate" if owner else what, command=change)
        if figures.origin == Origin.TIER:
            raising = Fix(text="Or reach a higher usage tier", command=f"farebox tiers show{where}")
        return (*(waiting if figures.maximum else ()), raising, see)
    what = "Move more of the balance to the project" if code is Code.D22 else "Raise the limit"
    raised = Fix(
        text=f"Ask {owner} to raise it" if owner else what,
        command=change,
    )
    resets = figures.resets_at if now is None else now.resets_at
    if figures.measure in OBSERVED:
        return (Fix(text="Start a new run"), raised, see)
    wait = () if resets is None else (Fix(text=f"Or wait until {when(resets)}"),)
    smaller: tuple[Fix, ...] = ()
    if figures.measure == Measure.MONEY and needed:
        maximum, left = (figures.maximum, 0) if now is None else (now.maximum, now.left)
        if needed > maximum:
            wait = ()  # no window has room for it
        if maximum and (left > 0 or needed > maximum):
            smaller = (Fix(text="Or name a smaller max_completion_tokens, or send less"),)
    return (raised, *smaller, *wait, see)


def set_command(
    case: Case, figures: LimitFigures, now: LimitRecord | None, *, owner: str = ""
) -> str:
    """What to type to change exactly this limit; empty where the organisation is not known."""
    if case.organization is None:
        return ""
    words = ["farebox limits set", f"--org {quoted(case.organization.name)}"]
    if figures.scope_kind == ScopeKind.KEY:
        words.append(f"--key {format_id('key', UUID(figures.scope_id))}")  # names are not unique
    elif figures.scope_kind == ScopeKind.PROJECT:
        known = now is not None and now.scope_name != now.scope_ref
        name = now.scope_name if now is not None and known else ""
        words.append(f"--project {quoted(name or format_id('proj', UUID(figures.scope_id)))}")
    elif figures.scope_kind != ScopeKind.ORGANIZATION:
        words.append(f"--{figures.scope_kind} {quoted(figures.scope_id)}")
    unit = "AMOUNT" if figures.measure == Measure.MONEY else "N"
    words.append(f"--{_OPTIONS.get(figures.measure) or _OPTIONS[figures.period]} {unit}")
    if figures.measure in {Measure.TOKENS, Measure.CALLS}:
        words.append(f"--{figures.measure}")
    if figures.models:
        words.append(f"--models {quoted(figures.models)}")
    if figures.effect != Effect.HARD:
        words.append(f"--{figures.effect}")
    if owner:
        words.append(f"--owner {quoted(owner)}")
    return " ".join(words)


_OPTIONS: Final = {
    Period.MINUTE.value: "per-minute",
    Period.UTC_DAY.value: "per-day",
    Period.DAY.value: "daily",
    Period.WEEK.value: "weekly",
    Period.MONTH.value: "monthly",
    Period.TOTAL.value: "total",
    Measure.PARALLEL.value: "parallel",
    Measure.SECONDS.value: "seconds",
    Measure.DEPTH.value: "depth",
}
"""Period, or a measure of its own -> the option of ``farebox limits set``."""


def _subject(figures: LimitFigures) -> str:
    return ":".join(_key(figures))
