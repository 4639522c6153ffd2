"""What a diagnosis says: findings with evidence, cause and fix, in order."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Area, Code, Step


class Severity(StrEnum):
    """How much a finding matters; the first first."""

    WRONG = "wrong"
    """It stands in the way, or did."""
    WARNING = "warning"
    """It will, or may."""
    NOTE = "note"
    """It explains."""


class Status(StrEnum):
    """What a diagnosis comes to."""

    WRONG = "wrong"
    """Something is wrong now."""
    MENDED = "mended"
    """Something was wrong, and is not any more."""
    WARNING = "warning"
    OK = "ok"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One figure or fact that a finding stands on."""

    label: str
    value: str
    """As it is shown; amounts exact, in the major unit."""
    unit: str = ""
    """Currency, ``tokens`` or ``calls``, where the value is an amount."""
    at: datetime
    """The instant it is of: its age is counted from here."""
    source: str
    """Which record says so."""


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do."""

    text: str
    command: str = ""
    """Exactly what to type; upper-case words are to be replaced."""
    buys: bool = False
    """Whether it adds credit; left out while the configuration is wrong (DOC-14)."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the doctor has found."""

    code: Code
    severity: Severity
    title: str
    cause: str
    evidence: tuple[Evidence, ...] = ()
    fixes: tuple[Fix, ...] = ()
    subject: str = ""
    """What it is about, where a diagnosis may have several of one code."""
    mended: bool = False
    """It stood in the way then, and does not any more."""


class Outcome(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FOUND = "found"
    SKIPPED = "skipped"


class Check(msgspec.Struct, frozen=True):
    """One step of the order, and what became of it."""

    step: Step
    outcome: Outcome
    note: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    status: Status
    area: Area
    at: datetime
    about: str
    """What was asked, as the doctor understood it."""
    whose: str = ""
    """Organisation, project and key, as far as they are known."""
    summary: str
    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]


def finding(
    code: Code,
    cause: str,
    *,
    severity: Severity = Severity.WRONG,
    title: str = "",
    evidence: tuple[Evidence, ...] = (),
    fixes: tuple[Fix, ...] = (),
    subject: str = "",
    mended: bool = False,
) -> Finding:
    """A finding, titled as in the catalogue unless told otherwise."""
    return Finding(
        code=code,
        severity=severity,
        title=title or entry_of(code).title,
        cause=cause,
        evidence=evidence,
        fixes=fixes,
        subject=subject,
        mended=mended,
    )


def status_of(findings: tuple[Finding, ...]) -> Status:
    """What findings come to together."""
    wrong = [each for each in findings if each.severity is Severity.WRONG]
    if any(not each.mended for each in wrong):
        return Status.WRONG
    if wrong:
        return Status.MENDED
    if any(each.severity is Severity.WARNING for each in findings):
        return Status.WARNING
    return Status.OK
