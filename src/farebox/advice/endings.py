"""How a call ended, or why it has not: what its own record says."""

from __future__ import annotations

from typing import Final

from farebox.advice.balance import shortage
from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Code
from farebox.advice.facts import CallRecord, Case
from farebox.advice.findings import Evidence, Finding, Fix, Severity, finding
from farebox.advice.installation import upstream_fixes
from farebox.advice.wording import amount, fact, money, request, when

ESTIMATED: Final = frozenset({"usage_missing", "usage_incomplete", "usage_invalid"})
"""Reasons that say only that the tokens were counted here."""

REASONS: Final = {
    "": None,
    "usage_missing": Code.D79,
    "usage_incomplete": Code.D79,
    "usage_invalid": Code.D79,
    "client_disconnected": Code.D78,
    "client_gone_before_dispatch": Code.D78,
    "interrupted": Code.D78,
    "aborted": Code.D78,
    "node_gone": Code.D78,
    "latest_end": Code.D78,
    "slice_refused": Code.D64,
    "answer_too_large": Code.D69,
    "upstream_broken": Code.D69,
    "upstream_error": Code.D69,
    "upstream_not_reached": Code.D69,
    "upstream_timeout": Code.D69,
    "upstream_quota_exhausted": Code.D42,
    "upstream_credentials_refused": Code.D70,
    "upstream_region_unsupported": Code.D80,
}
"""Why a call ended -> the finding; None for an ordinary end."""

_STATUS: Final = "upstream_status_"

_SENTENCES: Final = {
    "client_disconnected": "The client closed the connection before the answer was whole.",
    "client_gone_before_dispatch": "The client was gone before the call left.",
    "interrupted": "The gateway stopped, or the client went, before the answer began.",
    "aborted": "The call's time was up, or its gateway had lost its place.",
    "node_gone": "Its gateway was gone, so the sweep ended it.",
    "latest_end": "It ran until its latest end, and the sweep ended it.",
    "answer_too_large": "The answer was larger than the gateway passes on.",
    "upstream_broken": "The provider broke off its answer.",
    "upstream_error": "The provider answered with an error instead of an answer.",
    "upstream_not_reached": "The provider could not be reached.",
    "upstream_region_unsupported": "The provider does not serve the place of this gateway.",
    "upstream_timeout": "The provider did not answer in time.",
}


def finding_of_reason(reason: str) -> Code | None:
    """The finding that the reason of a closed call means; None for an ordinary end."""
    name = reason.split(":", 1)[0]
    if not name.startswith(_STATUS):
        return REASONS.get(name)
    status = name.removeprefix(_STATUS)
    if status in {"401", "403", "407"}:
        return Code.D70
    if status == "402":
        return Code.D42
    return Code.D69 if status == "429" or not status.startswith("4") else Code.D68


def explain(case: Case, call: CallRecord, told: Code | None) -> list[Finding]:
    """What there is to say of a call that was admitted.

    Args:
        case: With the call's organisation.
        call: Open or closed.
        told: What the error says that the client got, where it is known: it may say more than the
            record, such as whose quota a provider's 429 means.
    """
    if call.status == "open":
        return [_open(case, call)]
    found = []
    code = finding_of_reason(call.code)
    if code in {Code.D69, Code.D68} and told in {Code.D42, Code.D69, Code.D68}:
        code = told
    if code is Code.D64:
        found += _cut_off(case, call)
    elif code is Code.D79 or (call.estimated and code is None):
        found.append(_estimated(case, call))
    elif code is not None:
        found.append(_ended(case, call, code))
    if call.absorbed:
        found.append(_absorbed(case, call))
    return found


def _open(case: Case, call: CallRecord) -> Finding:
    evidence = [
        money("holds", call.needed, case.currency, at=case.at, source="holds"),
        fact("admitted", when(call.at), at=case.at, source="holds"),
    ]
    if call.latest_end is not None:
        evidence.append(fact("ends by itself", when(call.latest_end), at=case.at, source="holds"))
    overdue = call.latest_end is not None and call.latest_end <= case.at
    if call.node_alive and not overdue:
        cause = (
            f"It has run since {when(call.at)} and holds {amount(call.needed, case.currency)}; "
            "what it does not use comes back when it ends."
        )
        return finding(Code.D86, cause, severity=Severity.NOTE, evidence=tuple(evidence))
    cause = (
        "Its time is up" if overdue else "The gateway that ran it has not been seen for a minute"
    ) + ", and no worker has ended it; until then its hold stays."
    fix = Fix(text="Start a worker (serve runs one too)", command="farebox worker")
    return finding(Code.D74, cause, evidence=tuple(evidence), fixes=(fix,))


def _charged(case: Case, call: CallRecord) -> tuple[Evidence, ...]:
    at, source = call.ended_at or call.at, request(call.id)
    evidence = [
        fact("ended", f"{call.status}, {call.code or 'ordinary'}", at=at, source=source),
        money("charged", call.charge, case.currency, at=at, source=source),
        money("had held", call.needed, case.currency, at=call.at, source=source),
    ]
    if call.http_status:
        evidence.append(fact("HTTP status", call.http_status, at=at, source=source))
    return tuple(evidence)


def _ended(case: Case, call: CallRecord, code: Code) -> Finding:
    name = call.code.split(":", 1)[0]
    sentence = _SENTENCES.get(name)
    if sentence is None:
        status = name.removeprefix(_STATUS)
        sentence = f"The provider answered with status {status}."
        if status == "429" and code is Code.D69:
            sentence += (
                " That is the provider's own limit for this installation, of requests or of "
                "credit; it is not the tenant's."
            )
        if code is Code.D42:
            sentence = entry_of(code).meaning
    charged = (
        "Nothing was charged for it."
        if not call.charge
        else f"What had been metered was charged: {amount(call.charge, case.currency)}."
    )
    severity = Severity.WRONG
    if code is Code.D78:
        gone = name.startswith("client") or name == "interrupted"
        severity = Severity.NOTE if gone else Severity.WARNING
    fixes: tuple[Fix, ...] = upstream_fixes(case, code)
    if code is Code.D68:
        fixes = (Fix(text="Mend the request as the provider's message says"),)
    elif code is Code.D78:
        fixes = (Fix(text="See its receipt", command=f"farebox calls show {request(call.id)}"),)
    return finding(
        code,
        f"{sentence} {charged}",
        severity=severity,
        evidence=_charged(case, call),
        fixes=fixes,
    )


def _cut_off(case: Case, call: CallRecord) -> list[Finding]:
    """A stream that was sliced and could hold no further slice."""
    short = shortage(case)
    cause = "The answer was cut off: no more of it could be held. What it had produced was charged."
    if short and not short[0].mended:
        return short
    fix = Fix(text="Send it again, or name a smaller output limit")
    return [finding(Code.D64, cause, evidence=_charged(case, call), fixes=(fix,), mended=True)]


def _estimated(case: Case, call: CallRecord) -> Finding:
    cause = (
        f"The provider gave no usage that could be charged ({call.code or 'estimated'}), so the "
        f"tokens were counted here: {amount(call.charge, case.currency)}."
    )
    fix = Fix(text="See the receipt", command=f"farebox calls show {request(call.id)}")
    return finding(
        Code.D79, cause, severity=Severity.NOTE, evidence=_charged(case, call), fixes=(fix,)
    )


def _absorbed(case: Case, call: CallRecord) -> Finding:
    cause = (
        f"It used {amount(call.absorbed, case.currency)} more than it held and the balance or a "
        "limit allowed; the operator bore that."
    )
    return finding(Code.D77, cause, severity=Severity.NOTE, evidence=_charged(case, call))
