"""A diagnosis as a JSON document: the same for the command line, the API and the console."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Code
from farebox.advice.error_codes import finding_url
from farebox.advice.findings import Diagnosis, Evidence, Finding

Document = dict[str, Any]


def diagnosis_document(diagnosis: Diagnosis, *, base: str = "") -> Document:
    """The whole diagnosis.

    Args:
        diagnosis: What was found.
        base: The console's address, for links; empty where none is known.
    """
    return {
        "object": "diagnosis",
        "status": diagnosis.status.value,
        "area": diagnosis.area.value,
        "about": diagnosis.about,
        "whose": diagnosis.whose or None,
        "summary": diagnosis.summary,
        "diagnosed_at": _instant(diagnosis.at),
        "findings": [_finding(each, diagnosis.at, base) for each in diagnosis.findings],
        "checks": [
            {"step": check.step.value, "outcome": check.outcome.value, "note": check.note or None}
            for check in diagnosis.checks
        ],
    }


def code_document(code: Code, *, base: str = "") -> Document:
    """What the catalogue says of a finding."""
    entry = entry_of(code)
    return {
        "object": "finding_code",
        "code": code.value,
        "name": entry.name,
        "area": entry.area.value,
        "step": entry.step.value,
        "title": entry.title,
        "meaning": entry.meaning,
        "remedy": entry.remedy,
        "link": finding_url(code.value, base) or None,
    }


def _finding(finding: Finding, at: datetime, base: str) -> Document:
    entry = entry_of(finding.code)
    return {
        "code": finding.code.value,
        "name": entry.name,
        "severity": finding.severity.value,
        "mended": finding.mended,
        "step": entry.step.value,
        "area": entry.area.value,
        "title": finding.title,
        "cause": finding.cause,
        "evidence": [_evidence(each, at) for each in finding.evidence],
        "fixes": [
            {"text": fix.text, "command": fix.command or None, "adds_credit": fix.buys}
            for fix in finding.fixes
        ],
        "link": finding_url(finding.code.value, base) or None,
    }


def _evidence(evidence: Evidence, at: datetime) -> Document:
    return {
        "label": evidence.label,
        "value": evidence.value,
        "unit": evidence.unit or None,
        "at": _instant(evidence.at),
        "age_seconds": max(0, int((at - evidence.at).total_seconds())),
        "source": evidence.source,
    }


def _instant(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")
