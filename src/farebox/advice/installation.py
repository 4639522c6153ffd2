"""Checks of the installation: what its operator must mend before any tenant's question counts."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from farebox.advice.catalogue import entry_of
from farebox.advice.codes import Code
from farebox.advice.facts import Case, EndingGroup
from farebox.advice.findings import Evidence, Finding, Fix, Severity, finding
from farebox.advice.wording import amount, counted, fact, quoted, request, when
from farebox.kit.ids import format_id

BOOKS_SHOWN_MAX: Final = 5

FAILURES_MIN: Final = 3
"""So many failures of the provider within a day are worth a word; one is not."""

RECENT: Final = timedelta(hours=1)
"""What failed within this time is taken to fail still."""

_CREDENTIALS: Final = ("upstream_status_401", "upstream_status_403", "upstream_status_407")
_CREDIT: Final = ("upstream_status_402", "upstream_quota_exhausted")
_REGION: Final = ("upstream_region_unsupported",)
_ALERTS: Final = "farebox alerts list --deployment"
_CREDENTIALS_TOO: Final = "upstream_credentials_refused"


def installation(case: Case) -> list[Finding]:
    """What stands in the way of every call here."""
    return [
        *_books(case),
        *_nothing_on_sale(case),
        *no_gateway(case, severity=Severity.WARNING),
        *_holds(case),
        *_quarantine(case),
        *_upstreams(case),
    ]


def stuck(case: Case) -> list[Finding]:
    """What makes an organisation's figures doubtful or keeps its money from coming back."""
    return [*_books(case), *_holds(case), *_quarantine(case)]


def _books(case: Case) -> list[Finding]:
    if not case.books:
        return []
    shown = case.books[:BOOKS_SHOWN_MAX]
    evidence = tuple(fact(d.code, d.message, at=case.at, source="books check") for d in shown)
    more = len(case.books) - len(shown)
    cause = "The books check found that rows and totals differ." + (
        f" {more} more differences are not shown." if more else ""
    )
    org = f" --org {quoted(case.organization.name)}" if case.organization is not None else ""
    fix = Fix(text="Keep a copy of the database, then see all", command=f"farebox books check{org}")
    return [finding(Code.D76, cause, evidence=evidence, fixes=(fix,))]


def _nothing_on_sale(case: Case) -> list[Finding]:
    known = case.installation
    if known is None:
        return []
    if not known.providers:
        fixes = (
            Fix(text="Add a provider", command="farebox providers add --help"),
            Fix(text="Bring in prices", command="farebox prices import"),
        )
        evidence = (fact("providers", 0, at=case.at, source="catalogue"),)
        return [finding(Code.D73, "No provider was added.", evidence=evidence, fixes=fixes)]
    currency = case.currency
    if currency and currency not in known.priced_currencies:
        priced = ", ".join(known.priced_currencies) or "no currency"
        cause = (
            f"The organisation's currency is {currency}, and the providers' models have prices in "
            f"{priced}."
        )
        command = "farebox prices import" if not known.priced_currencies else (
            f"farebox prices set --currency {currency} --help"
        )  # fmt: skip
        evidence = (fact("currencies with prices", priced, at=case.at, source="catalogue"),)
        fix = Fix(text=f"Give them prices in {currency}", command=command)
        return [finding(Code.D73, cause, evidence=evidence, fixes=(fix,))]
    return []


def no_gateway(case: Case, *, severity: Severity) -> list[Finding]:
    """No gateway that lives."""
    known = case.installation
    if known is None or known.gateways_alive:
        return []
    if known.gateway_seen_at is None:
        cause = "No gateway has ever run on this database."
        evidence: tuple[Evidence, ...] = ()
    else:
        cause = f"The last gateway was seen on {when(known.gateway_seen_at)}."
        seen = fact("last seen", when(known.gateway_seen_at), at=known.gateway_seen_at,
                    source="nodes")  # fmt: skip
        evidence = (seen,)
    command = "farebox serve --sandbox" if known.sandbox else "farebox serve"
    fix = Fix(text="Start it", command=command)
    return [finding(Code.D72, cause, severity=severity, evidence=evidence, fixes=(fix,))]


def _holds(case: Case) -> list[Finding]:
    holds = case.holds
    if holds is None or not holds.overdue:
        return []
    cause = (
        f"{holds.overdue} of {holds.count} open calls should have ended: their gateway is gone or "
        "their time is up. A worker ends them within a minute; none seems to run."
    )
    evidence = [fact("overdue holds", holds.overdue, at=case.at, source="holds")]
    if holds.oldest_at is not None:
        evidence.append(
            fact("oldest open call", when(holds.oldest_at), at=holds.oldest_at, source="holds")
        )
    fix = Fix(text="Start a worker (serve runs one too)", command="farebox worker")
    return [finding(Code.D74, cause, evidence=tuple(evidence), fixes=(fix,))]


def _quarantine(case: Case) -> list[Finding]:
    found = case.quarantine
    if found is None or not found.count:
        return []
    cause = (
        f"The database rejected {found.count} command{'' if found.count == 1 else 's'} of this "
        f"organisation, first a {found.command}: {found.error[:200]}"
    )
    evidence = (
        fact("waiting since", when(found.oldest_at), at=found.oldest_at, source="quarantine"),
    )
    fixes = (
        Fix(text="Look at them", command="farebox quarantine list"),
        Fix(text="Let the hold lapse", command=f"farebox quarantine rule {found.first_number}"),
    )
    return [finding(Code.D75, cause, severity=Severity.WARNING, evidence=evidence, fixes=fixes)]


def _upstreams(case: Case) -> list[Finding]:
    """What the providers have refused or failed at lately (ERR-08)."""
    findings = []
    for code, reasons in (
        (Code.D42, _CREDIT),
        (Code.D70, (*_CREDENTIALS, _CREDENTIALS_TOO)),
        (Code.D80, _REGION),
    ):
        groups = [each for each in case.endings if each.reason in reasons]
        if groups:
            findings.append(_upstream(case, code, groups))
        elif code is Code.D42:
            findings += _exhausted_elsewhere(case)
    failed = [
        each
        for each in case.endings
        if each.reason.startswith("upstream_")
        and each.reason not in {*_CREDENTIALS, *_CREDIT, _CREDENTIALS_TOO, *_REGION}
        and not each.reason.startswith("upstream_status_4")
    ]
    if sum(each.times for each in failed) >= FAILURES_MIN:
        findings.append(_upstream(case, Code.D69, failed))
    return findings


def _upstream(case: Case, code: Code, groups: list[EndingGroup]) -> Finding:
    times = sum(each.times for each in groups)
    last = max(groups, key=lambda each: each.last_at)
    still = case.at - last.last_at <= RECENT and code is not Code.D69
    evidence = tuple(
        fact(each.reason, counted(each.times), at=each.last_at, source=request(each.last_id))
        for each in groups
    )
    cause = f"{entry_of(code).meaning} Within the last day {counted(times)} ended so."
    return finding(
        code,
        cause,
        severity=Severity.WRONG if still else Severity.WARNING,
        evidence=evidence,
        fixes=upstream_fixes(case, code),
    )


def _exhausted_elsewhere(case: Case) -> list[Finding]:
    """What operators were told, where no call of this organisation's met it lately."""
    accounts = () if case.installation is None else case.installation.exhausted
    if not accounts:
        return []
    evidence = tuple(
        fact("used up", f"{each.account} at {each.provider}", at=each.at, source="alerts")
        for each in accounts
    )
    cause = (
        f"{entry_of(Code.D42).meaning} Operators were told within the last day; none of this "
        "organisation's latest calls met it."
    )
    fixes = (*upstream_fixes(case, Code.D42), Fix(text="See all", command=_ALERTS))
    return [finding(Code.D42, cause, severity=Severity.WARNING, evidence=evidence, fixes=fixes)]


def upstream_fixes(case: Case, code: Code) -> tuple[Fix, ...]:
    """What the operator does about a provider."""
    providers = () if case.installation is None else case.installation.providers
    name = providers[0] if len(providers) == 1 else "NAME"
    test = Fix(text="See whether the provider answers", command=f"farebox providers test {name}")
    if code is Code.D42:
        return (
            Fix(text="The operator adds credit at the provider, or adds another provider"),
            test,
        )
    if code is Code.D70:
        return (
            Fix(text="The operator replaces the key", command="farebox providers add --help"),
            test,
        )
    if code is Code.D80:
        return (
            Fix(text="The operator runs it in a region that the provider serves"),
            test,
        )
    return (Fix(text="Try again later, with growing pauses, or call another model"), test)


def absorbed(case: Case) -> list[Finding]:
    """Usage that the operator bore lately."""
    groups = [each for each in case.endings if each.absorbed]
    if not groups:
        return []
    total = sum(each.absorbed for each in groups)
    last = max(groups, key=lambda each: each.last_at)
    cause = (
        f"{amount(total, case.currency)} of the last day's usage lay beyond what calls held and "
        "was borne by the operator."
    )
    evidence = (
        fact("absorbed", amount(total), unit=case.currency, at=last.last_at, source="calls"),
    )
    fix = Fix(
        text="See the newest of them",
        command=f"farebox calls show {format_id('req', last.last_id)}",
    )
    return [finding(Code.D77, cause, severity=Severity.NOTE, evidence=evidence, fixes=(fix,))]
