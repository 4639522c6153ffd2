"""What a refusal or an error means: its code is read first, then only what the code is about."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from farebox.advice import access, balance, installation, spending, standing_limits
from farebox.advice.catalogue import entry_of
from farebox.advice.codes import CONFIGURATION, Code
from farebox.advice.error_codes import LIMITS, MONEY, finding_of
from farebox.advice.facts import CallRecord, Case, RefusalGroup
from farebox.advice.findings import Finding, Fix, Severity, finding
from farebox.advice.wording import ago, counted, fact, request, when
from farebox.tenancy.api_keys import KeyState

GROUPS_MAX: Final = 20

RECENT: Final = timedelta(hours=1)
"""What passes by itself is worth a word for so long."""


def explain(case: Case, call: CallRecord, code: Code) -> list[Finding]:
    """What a refusal means, by its code (DOC-06).

    Args:
        case: With the facts of now.
        call: The refusal, with its figures where it is recorded.
        code: What its code means.
    """
    standing = [*access.organization(case), *access.project(case), *access.key(case)]
    if code is Code.D06:
        return [*standing, *access.refused_model(case)]
    if entry_of(code).step in CONFIGURATION:
        return _of_configuration(case, call, code)
    if code is Code.D84:
        return [_as_said(call, code)]
    # A key or project that has ended since comes along, and what keeps money from coming back.
    return [*installation.stuck(case), *standing, *_of_money(case, call, code)]


def _of_configuration(case: Case, call: CallRecord, code: Code) -> list[Finding]:
    """A refusal that no money mends."""
    match code:
        case Code.D04:
            return access.refused_key(case, code=call.code)
        case Code.D05:
            return access.header(case)
        case Code.D07:
            return access.permission(case)
        case Code.D61 | Code.D62:
            return _switched(case, code)
        case Code.D71 | Code.D72:
            return _away(case, code)
        case Code.D42 | Code.D70:
            cause = f"{entry_of(code).meaning} Nothing was charged."
            return [finding(code, cause, fixes=installation.upstream_fixes(case, code))]
        case _:
            return [_as_said(call, code)]


def _of_money(case: Case, call: CallRecord, code: Code) -> list[Finding]:
    """A refusal for lack of money or room."""
    if code is Code.D63:
        return balance.held(case, call)
    if code is Code.D88:
        return balance.set_aside(case, call)
    if code is Code.D20:
        return standing_limits.assigned(case, call.needed)
    if code in LIMITS:
        found = standing_limits.refused_by(case, call, code)
        return [*found, *(spending.jumped(case) if code is not Code.D17 else ())]
    short = balance.shortage(case, call)
    if any(not each.mended for each in short) and case.money is not None:
        short = [*access.elsewhere(case), *short, *spending.jumped(case)]
    return short


def _switched(case: Case, code: Code) -> list[Finding]:
    """An organisation or project that was switched off: still, or not any more."""
    found = access.organization(case) if code is Code.D61 else access.project(case)
    if found:
        return found
    known = case.organization if code is Code.D61 else case.project
    if known is None:
        return [
            finding(
                code, entry_of(code).meaning, fixes=(Fix(text=entry_of(code).remedy.rstrip(".")),)
            )
        ]
    cause = f"{known.name} was switched off when the call was made. It is active now."
    return [finding(code, cause, mended=True, fixes=(Fix(text="Send the call again"),))]


def _away(case: Case, code: Code) -> list[Finding]:
    """Billing was away, or nobody answered."""
    found = installation.no_gateway(case, severity=Severity.WRONG)
    if found:
        return found
    known = case.installation
    evidence = (
        ()
        if known is None
        else (fact("gateways alive", known.gateways_alive, at=case.at, source="nodes"),)
    )
    cause = f"{entry_of(code).meaning} Now the database answers and a gateway is running."
    if code is Code.D72:
        cause = "A gateway is running here: check the host and port of the client's base_url."
    fix = Fix(text="Try again; clients do so by themselves")
    return [
        finding(
            code,
            cause if known is not None else entry_of(code).meaning,
            evidence=evidence,
            fixes=(fix,),
            mended=known is not None,
        )
    ]


def _as_said(call: CallRecord, code: Code) -> Finding:
    entry = entry_of(code)
    said = f" It says: {call.message}" if call.message else ""
    return finding(code, f"{entry.meaning}{said}", fixes=(Fix(text=entry.remedy.rstrip(".")),))


def from_elsewhere(case: Case) -> list[Finding]:
    """A quota error that nobody here gave (D87)."""
    error = case.complaint.error
    said = error is not None and error.is_the_providers
    why = (
        "It points to the provider's own site, as errors of this gateway never do."
        if said
        else "No call was refused for lack of credit or for a limit here within the last day, and "
        "nothing stands in the way of one now."
    )
    org = "here" if case.organization is None else f"of {case.organization.name}"
    cause = (
        f"{why} The client probably talks to the provider directly, whose purse is another one; "
        f"credit {org} does not help there."
    )
    fixes = (
        Fix(text="Set base_url (OPENAI_BASE_URL) of the client to this gateway, ending in /v1, and "
            "its key to one that begins with fbx_"),
        Fix(text="Or give the doctor the x-request-id of the answer"),
    )  # fmt: skip
    return [finding(Code.D87, cause, fixes=fixes)]


def newest_like(case: Case, code: Code) -> CallRecord | None:
    """The newest recorded refusal that a pasted error may be: of the same kind.

    An error that says no more than ``insufficient_quota`` may be any of money and limits.
    """
    error = case.complaint.error
    broad = error is not None and error.code in {"", "insufficient_quota"} and code is Code.D12
    wanted = MONEY | LIMITS - {Code.D17} if broad else {code}
    groups = [g for g in case.refusals if finding_of(g.last.code) in wanted]
    return max((g.last for g in groups), key=lambda call: call.at, default=None)


def lately(case: Case) -> list[Finding]:
    """What was refused within the last day and still would be."""
    found: list[Finding] = []
    for group in case.refusals[:GROUPS_MAX]:
        code = finding_of(group.last.code)
        if code is None:
            found.append(_unknown(group))
        elif code in {Code.D04, Code.D62}:
            if not _is_told(case, group):
                found.append(_still_sent(case, group, code))
        elif code in {Code.D17, Code.D63}:
            if case.at - group.last.at > RECENT:
                continue
            found += _passing(case, group, code)
        elif code in MONEY | LIMITS:
            found += [each for each in _of_money(case, group.last, code) if not each.mended]
    return found


def _is_told(case: Case, group: RefusalGroup) -> bool:
    """Whether the key is the one that is asked about, whose state is told anyway."""
    key = case.key
    if key is None or key.state is KeyState.ACTIVE:
        return False
    return key.prefix == group.last.key_prefix


def _still_sent(case: Case, group: RefusalGroup, code: Code) -> Finding:
    last = group.last
    word = {"key_revoked": "revoked", "key_expired": "expired"}.get(last.code, "not valid")
    what = f"A key that is {word}" if code is Code.D04 else "A key of an archived project"
    cause = (
        f"{what} ({last.key_prefix}...) is still sent: {counted(group.times)} "
        "refused for it "
        f"within the last day, the newest {ago(case.at - last.at)}."
    )
    evidence = (
        fact("refused", counted(group.times), at=last.at, source=request(last.id)),
        fact("first", when(group.first_at), at=group.first_at, source="refusals"),
    )
    fixes = (Fix(text="Give whoever sends it a key that is active"),)
    return finding(code, cause, severity=Severity.WARNING, evidence=evidence, fixes=fixes,
                   subject=last.key_prefix)  # fmt: skip


def _passing(case: Case, group: RefusalGroup, code: Code) -> list[Finding]:
    """Refusals that pass by themselves: told once, as a warning."""
    last = group.last
    source = request(last.id)
    base = (
        standing_limits.refused_by(case, last, code)
        if code is Code.D17
        else balance.held(case, last)
    )
    if code is Code.D17 and base[0].mended:  # the limit has gone since
        return []
    evidence = (
        fact("refused", counted(group.times), at=last.at, source=source),
        *base[0].evidence,
    )
    return [
        finding(code, base[0].cause, severity=Severity.WARNING, evidence=evidence,
                fixes=base[0].fixes, subject=base[0].subject)
    ]  # fmt: skip


def _unknown(group: RefusalGroup) -> Finding:
    last = group.last
    evidence = (fact("refused", counted(group.times), at=last.at, source=request(last.id)),)
    cause = f"Calls were refused with the code {last.code}: {last.message}"
    return finding(Code.D82, cause, severity=Severity.WARNING, evidence=evidence,
                   subject=last.code)  # fmt: skip
