"""The doctor: from the facts of one instant to findings in order.

First the product area is decided (DOC-02), then the error code is read (DOC-06), then the checks
are made in their order (DOC-03). While something of the configuration is wrong, no fix buys credit
(DOC-14).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from msgspec import structs

from farebox.advice import (
    access,
    balance,
    endings,
    installation,
    refusals,
    spending,
    standing_limits,
)
from farebox.advice.catalogue import entry_of
from farebox.advice.codes import CONFIGURATION, ORDER, Area, Code, Step
from farebox.advice.complaints import ErrorBody, Subject
from farebox.advice.error_codes import (
    ALSO_THE_PROVIDERS,
    LIMITS,
    MONEY,
    finding_of,
    finding_of_error,
)
from farebox.advice.facts import CallRecord, Case
from farebox.advice.findings import (
    Check,
    Diagnosis,
    Finding,
    Fix,
    Outcome,
    Severity,
    finding,
    status_of,
)
from farebox.advice.wording import amount, quoted, request, top_up
from farebox.kit.money import Nanos
from farebox.ledger.scopes import ScopeKind
from farebox.tenancy.api_keys import KeyState

_SEVERITIES: Final = {severity: place for place, severity in enumerate(Severity)}

_NO_ID: Final = UUID(int=0)

_LEAST: Final = Nanos(1)
"""What any call needs at least, where nobody knows how much it was."""

_WHOLE: Final = frozenset({Subject.ORGANIZATION, Subject.PROJECT, Subject.KEY, Subject.GRANT})
"""Subjects for which everything is checked."""


def diagnose(case: Case) -> Diagnosis:
    """Everything that the facts say, the cause first."""
    code = leading_code(case)
    area = area_of(case, code)
    findings = in_order(_found(case, code, area))
    return Diagnosis(
        status=status_of(findings),
        area=area,
        at=case.at,
        about=_about(case),
        whose=_whose(case),
        summary=_summary(case, findings),
        findings=findings,
        checks=_checks(case, findings, code, area),
    )


def leading_code(case: Case) -> Code | None:
    """What the error code says, where there is one: read before everything else."""
    call, error = case.call, case.complaint.error
    if call is not None and call.status == "refused":
        return finding_of(call.code)
    if error is not None:
        return finding_of_error(code=error.code, kind=error.kind, status=error.status)
    if call is not None and call.status != "open":
        return endings.finding_of_reason(call.code)
    return None


def area_of(case: Case, code: Code | None) -> Area:
    """The product area: decided first."""
    if case.complaint.subject is Subject.SUBSCRIPTION:
        return Area.SUBSCRIPTION
    if code is not None:
        return entry_of(code).area
    if case.complaint.subject is Subject.KEY:
        opens = case.key is not None and case.key.state is KeyState.ACTIVE
        return Area.API_BILLING if opens else Area.NOT_BILLING
    if case.complaint.subject in _WHOLE or case.call is not None:
        return Area.API_BILLING
    return Area.NOT_BILLING


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings once each, what is wrong first, then by the order of the checks; no vain purchase.

    Args:
        findings: In any order, perhaps with doubles.
    """
    once: dict[tuple[Code, str], Finding] = {}
    for each in findings:
        once.setdefault((each.code, each.subject), each)
    ordered = sorted(once.values(), key=_rank)
    if any(_is_configuration(each) for each in ordered):
        ordered = [structs.replace(each, fixes=_without_buying(each.fixes)) for each in ordered]
    return tuple(ordered)


def _without_buying(fixes: tuple[Fix, ...]) -> tuple[Fix, ...]:
    """What is left to do while the configuration is wrong: never nothing."""
    kept = tuple(fix for fix in fixes if not fix.buys)
    return kept if kept or not fixes else (Fix(text="First mend what is told above"),)


def _rank(each: Finding) -> tuple[int, bool, int, str, str]:
    place = ORDER[entry_of(each.code).step]
    return _SEVERITIES[each.severity], each.mended, place, each.code.value, each.subject


def _is_configuration(each: Finding) -> bool:
    """Whether it stands in the way and no purchase mends it."""
    wrong = each.severity is Severity.WRONG and not each.mended
    entry = entry_of(each.code)
    return wrong and entry.step in CONFIGURATION and entry.area is not Area.SUBSCRIPTION


# What is looked at.


def _found(case: Case, code: Code | None, area: Area) -> list[Finding]:
    if area is Area.SUBSCRIPTION:
        return _subscription(case)
    call, error = case.call, case.complaint.error
    if call is not None and call.status != "refused":
        ended = endings.explain(case, call, code)
        return ended if ended or error is None or code is None else _of_error(case, error, code)
    if call is not None and code is not None:
        return refusals.explain(case, call, code)
    if call is not None:
        return [_not_understood(f"The refusal's code {call.code} is not known.")]
    if error is not None:
        if code is None:
            return [_ambiguous(error)]
        return _of_error(case, error, code)
    if case.complaint.subject in _WHOLE and (case.organization is not None or case.key_asked):
        return _everything(case)
    return [_unknown(case)]


def _of_error(case: Case, error: ErrorBody, code: Code) -> list[Finding]:
    """An error that was pasted: the newest recorded refusal like it has its figures."""
    quota = code in MONEY | LIMITS | {Code.D61}
    recorded = refusals.newest_like(case, code) if quota else None
    if recorded is not None:
        told = finding_of(recorded.code)
        return refusals.explain(case, recorded, code if told is None else told)
    call = CallRecord(
        id=error.request_id or _NO_ID,
        status="refused",
        code=error.code,
        message=error.message,
        at=case.at,
        model=error.model,
        http_status=error.status,
    )
    if error.code in ALSO_THE_PROVIDERS and _is_from_elsewhere(case, error, code):
        return refusals.from_elsewhere(case)
    if case.organization is not None and code in MONEY:
        return refusals.explain(case, structs.replace(call, needed=_LEAST), code)
    return refusals.explain(case, call, code)


def _is_from_elsewhere(case: Case, error: ErrorBody, code: Code) -> bool:
    """Whether nobody here gave this error about credit."""
    if error.is_the_providers:
        return True
    if code is Code.D20 and case.tier is not None:
        return False
    refused = any(finding_of(group.last.code) in MONEY | LIMITS for group in case.refusals)
    return not refused and _could_call(case)


def _could_call(case: Case) -> bool:
    """Whether nothing of money or limits stands in the way of a small call now."""
    if case.organization is None or case.money is None or not case.organization.active:
        return False
    full = [each for each in standing_limits.standing(case) if each.severity is Severity.WRONG]
    return case.money.spendable > 0 and not full


def _everything(case: Case) -> list[Finding]:
    """All checks, in their order."""
    access_found = [*access.organization(case), *access.project(case), *access.key(case)]
    lone_key = case.organization is None
    if lone_key:
        return access_found
    money_found = [*refusals.lately(case)]
    has_money = any(entry_of(each.code).step is Step.BALANCE for each in money_found)
    if not has_money:
        short = balance.shortage(case)
        money_found += [*access.elsewhere(case), *short] if short else []
    return [
        *installation.installation(case),
        *access_found,
        *access.no_key(case),
        *access.model(case),
        *money_found,
        *(each for each in balance.vanished(case) if not _is_the_cause(each, money_found)),
        *standing_limits.standing(_within(case)),
        *spending.jumped(case),
        *spending.free_first(case),
        *installation.absorbed(case),
    ]


def _is_the_cause(each: Finding, found: list[Finding]) -> bool:
    """Whether the expiry is told already, as the reason why there is nothing."""
    return each.subject == "gone" and any(other.code is Code.D11 for other in found)


def _within(case: Case) -> Case:
    """Without the limits of other projects and keys, where one is asked about."""
    key, project = case.key, case.project
    if key is None and project is None:
        return case
    mine = {
        ScopeKind.PROJECT.value: key.project_id.hex if key is not None else "",
        ScopeKind.KEY.value: key.id.hex if key is not None else "",
    }
    if project is not None:
        mine[ScopeKind.PROJECT.value] = project.id.hex
    kept = tuple(
        each
        for each in case.limits
        if each.scope_kind not in mine or each.scope_ref == mine[each.scope_kind]
    )
    return structs.replace(case, limits=kept)


# Findings of the doctor's own.


def _subscription(case: Case) -> list[Finding]:
    org, money = case.organization, case.money
    cause = entry_of(Code.D01).meaning
    if org is None or money is None:
        fixes = (
            Fix(text="See which organisation the key belongs to", command="farebox keys list"),
            Fix(text="Add credit to it", buys=True, command="farebox credits grant --org ORG "
                f"--amount {top_up(0)} --source purchased"),
        )  # fmt: skip
        return [finding(Code.D01, cause, fixes=fixes)]
    if money.spendable > 0:
        cause += f" {org.name} has {amount(money.spendable, org.currency)} of API credit."
        return [finding(Code.D01, cause, severity=Severity.NOTE)]
    cause += f" {org.name} has no API credit that can be used."
    buy = Fix(
        text="Add credit",
        command=f"farebox credits grant --org {quoted(org.name)} --amount {top_up(0)} "
        "--source purchased",
        buys=True,
    )
    return [finding(Code.D01, cause, fixes=(buy,)), *access.organization(case)]


def _ambiguous(error: ErrorBody) -> Finding:
    if error.status == 429 and not error.code:
        cause = (
            "A 429 has two meanings: with a retry-after header it is a rate limit and passes by "
            "itself; without one it is about credit or a budget and does not. The body says which."
        )
    else:
        cause = f"Nobody here gives the code {error.code or error.status!r}."
    return _not_understood(cause)


def _not_understood(cause: str) -> Finding:
    fixes = (
        Fix(text="Give the whole error body, as JSON", command="farebox doctor - < error.json"),
        Fix(text="Or the x-request-id of the answer", command="farebox doctor req_..."),
        Fix(text="Or the organisation", command="farebox doctor ORG"),
    )
    return finding(Code.D82, cause, fixes=fixes)


def _unknown(case: Case) -> Finding:
    complaint = case.complaint
    if complaint.subject is Subject.CALL and complaint.id is not None:
        cause = (
            f"No call, open hold or refusal here is {request(complaint.id)}. It may be of another "
            "installation or of the model provider, whose ids look alike; a refusal is recorded "
            "within a second; and of more than ten like refusals in a second the rest share a row."
        )
        fixes = (Fix(text="See the last calls", command="farebox calls list --org ORG"),)
        return finding(Code.D81, cause, fixes=fixes)
    if complaint.subject is Subject.NAME:
        cause = f"There is no organisation {complaint.text!r}, and it reads like no error."
        see = Fix(text="See the organisations", command="farebox orgs list")
        base = _not_understood(cause)
        return structs.replace(base, fixes=(see, *base.fixes))
    if complaint.id is not None:
        kind = complaint.subject.value
        cause = f"There is no {kind} {complaint.text} here."
        return finding(Code.D81, cause, fixes=(Fix(text="Look for its id: farebox keys, projects "
                                                   "and orgs have a list each"),))  # fmt: skip
    return _not_understood(entry_of(Code.D82).meaning)


# What is said about it all.


def _about(case: Case) -> str:
    if case.call is not None:
        return request(case.call.id)
    if case.complaint.subject is Subject.ERROR:
        error = case.complaint.error
        assert error is not None
        named = error.code or error.kind
        status = "" if error.status is None else f"{error.status} "
        return f"error {status}{named}".strip()
    if case.organization is not None and case.complaint.subject is not Subject.KEY:
        return case.organization.name
    return case.complaint.text


def _whose(case: Case) -> str:
    names = [] if case.organization is None else [case.organization.name]
    if case.key is not None:
        names += [case.key.project_name, f"{case.key.name} ({case.key.prefix}...)"]
    elif case.project is not None:
        names.append(case.project.name)
    return " / ".join(names)


def _summary(case: Case, findings: tuple[Finding, ...]) -> str:
    if findings:
        first = findings[0]
        mended = " It is mended." if first.mended else ""
        return f"{first.title}.{mended}"
    call = case.call
    if call is not None:
        charged = amount(call.charge, case.currency)
        return f"Nothing is wrong with this call: it was {call.status} and charged {charged}."
    return "Nothing is wrong."


def _checks(
    case: Case, findings: tuple[Finding, ...], code: Code | None, area: Area
) -> tuple[Check, ...]:
    """Each step and what became of it."""
    worst: dict[Step, Finding] = {}
    for each in findings:
        if each.severity is not Severity.NOTE:
            worst.setdefault(entry_of(each.code).step, each)
    checks = []
    for step in Step:
        skipped = _why_skipped(case, step, code, area)
        if step in worst:
            checks.append(Check(step, Outcome.FOUND, worst[step].code.value))
        elif skipped:
            checks.append(Check(step, Outcome.SKIPPED, skipped))
        else:
            checks.append(Check(step, Outcome.PASSED, _passed_note(case, step)))
    return tuple(checks)


def _passed_note(case: Case, step: Step) -> str:
    if step is Step.ACCOUNT:
        return case.books_note
    if step is Step.SYNC:
        return "balance and limits are read from the books: exact, no delay"
    return ""


def _why_skipped(case: Case, step: Step, code: Code | None, area: Area) -> str:
    """Why a step was not looked at; empty where it was."""
    if area is Area.SUBSCRIPTION and step is not Step.ACCOUNT:
        return "a subscription is another product"
    if step is Step.PAYMENT:
        return "no payments are recorded here yet"
    missing = {
        Step.ACCOUNT: case.installation is None,
        Step.ORGANIZATION: case.organization is None,
        Step.PROJECT: case.project is None and case.key is None,
        Step.KEY: case.key is None and not case.usable_keys and case.key_asked is None,
        Step.MODEL: case.model is None,
        Step.ERROR: False,
        Step.USE: case.spending is None,
    }
    if ORDER[step] > ORDER[Step.ERROR] and code is not None:
        if entry_of(code).step in CONFIGURATION:
            return "the error code is no billing matter"
        if step is Step.USE and code is Code.D17:
            return "a rate is no matter of credit"
    if case.call is not None and case.call.status != "refused":
        looked = {Step.ACCOUNT, Step.ERROR, Step.USE}
        return "" if step in looked else "the call was admitted"
    if step in {Step.BALANCE, Step.SYNC, Step.LIMITS} and case.money is None:
        return "the organisation is not known"
    return "not asked about" if missing.get(step, False) else ""
