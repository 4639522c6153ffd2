"""Checks of who calls: organisation, project, key, permission, model (DOC-03).

None of what they find is mended by money, so their fixes never buy credit (DOC-14).
"""

from __future__ import annotations

from typing import Final

from farebox.advice.codes import Code
from farebox.advice.facts import Case, KeyAsked, KeyRecord, ModelFinding
from farebox.advice.findings import Evidence, Finding, Fix, Severity, finding
from farebox.advice.wording import amount, counted, fact, money, quoted, request, when
from farebox.tenancy.api_keys import KeyState
from farebox.tenancy.model_access import allows

KEYS_SHOWN_MAX: Final = 3
MODELS_SHOWN_MAX: Final = 5
NEIGHBOURS_SHOWN_MAX: Final = 3

_OTHER_KIND: Final = {"live": "a real installation", "test": "a sandbox"}


def organization(case: Case) -> list[Finding]:
    """Whether the organisation may call at all."""
    org = case.organization
    if org is None or org.active:
        return []
    fix = Fix(
        text="Switch it on again, if that is meant",
        command=f"farebox orgs update {quoted(org.name)} --activate",
    )
    evidence = (fact("state", "suspended", at=case.at, source="organisation"),)
    cause = f"{org.name} is switched off: every call is refused, whatever its balance is."
    return [finding(Code.D61, cause, evidence=evidence, fixes=(fix,))]


def elsewhere(case: Case) -> list[Finding]:
    """Credit of the same people in another organisation (ORG-04)."""
    org = case.organization
    if org is None or not case.neighbours:
        return []
    shown = case.neighbours[:NEIGHBOURS_SHOWN_MAX]
    evidence = tuple(
        money(
            f"available in {each.name}", each.available, each.currency, at=case.at, source="books"
        )
        for each in shown
    )
    richest = shown[0]
    both = f" ({', '.join(richest.members)} belongs to both)" if richest.members else ""
    cause = (
        f"The key belongs to {org.name}, which cannot pay; {richest.name} has "
        f"{amount(richest.available, richest.currency)}{both}. Credit pays for its own "
        "organisation's calls alone and cannot be moved."
    )
    fixes = (
        Fix(
            text=f"Call with a key of {richest.name}",
            command=f"farebox keys list --org {quoted(richest.name)}",
        ),
    )
    severity = Severity.WRONG if richest.members else Severity.WARNING
    return [finding(Code.D02, cause, severity=severity, evidence=evidence, fixes=fixes)]


def project(case: Case) -> list[Finding]:
    """Whether the project still stands."""
    found = case.project
    if found is None or found.archived_at is None or found.archived_at > case.at:
        return []
    return [
        finding(
            Code.D62,
            f"The project {found.name} was archived; its keys open nothing any more.",
            evidence=(
                fact("archived", when(found.archived_at), at=found.archived_at, source="project"),
            ),
            fixes=_key_fixes(case),
        )
    ]


def key(case: Case) -> list[Finding]:
    """Whether the key opens anything."""
    asked = case.key_asked
    if asked is not None and asked.found is None and case.key is None:
        return [_unknown_key(case, asked)]
    if case.key is None:
        return []
    return _state(case, case.key)


def _state(case: Case, found: KeyRecord) -> list[Finding]:
    label = f"The key {found.name} ({found.prefix}...) of {found.project_name}"
    if found.state is KeyState.REVOKED and found.revoked_at is not None:
        cause = f"{label} was revoked on {when(found.revoked_at)}; a revoked key stays so."
        since = fact("revoked", when(found.revoked_at), at=found.revoked_at, source="key")
    elif found.state is KeyState.EXPIRED and found.expires_at is not None:
        cause = f"{label} expired on {when(found.expires_at)}."
        since = fact("expired", when(found.expires_at), at=found.expires_at, source="key")
    else:
        return []
    return [
        finding(
            Code.D04,
            cause,
            evidence=(since, *_used(found), *_refused(case, found)),
            fixes=_key_fixes(case),
            subject=found.prefix,
        )
    ]


def _used(found: KeyRecord) -> tuple[Evidence, ...]:
    if found.used_at is None:
        return ()
    return (fact("last used", when(found.used_at), at=found.used_at, source="key"),)


def _refused(case: Case, found: KeyRecord) -> tuple[Evidence, ...]:
    """How often it was sent all the same."""
    groups = [g for g in case.refusals if g.last.key_prefix == found.prefix]
    own = [g for g in groups if g.last.code in {"key_revoked", "key_expired"}]
    return tuple(
        fact("refused in the last day", counted(g.times), at=g.last.at, source=request(g.last.id))
        for g in own
    )


def _unknown_key(case: Case, asked: KeyAsked) -> Finding:
    """A key that is not a key for models here."""
    shown = fact("key", f"{asked.prefix}...", at=case.at, source="keys")
    if asked.management_name is not None:
        cause = (
            f"{asked.prefix}... is the management key {asked.management_name}: it manages, and "
            "never calls a model."
        )
        if asked.management_revoked_at is not None:
            cause += f" It was revoked on {when(asked.management_revoked_at)} besides."
        return finding(Code.D07, cause, evidence=(shown,), fixes=_key_fixes(case))
    if asked.kind == "provider":
        cause = (
            f"{asked.prefix}... is a key of the model provider. This gateway takes its own keys "
            "alone, which begin with fbx_; the provider's stays with the operator."
        )
    elif asked.several > 1:
        cause = (
            f"{asked.several} keys begin with {asked.prefix}; none of them could be told apart. "
            "Give the key's id."
        )
    else:
        cause = f"No key here begins with {asked.prefix}: it was mistyped, cut short, or deleted."
        sandbox = case.installation is not None and case.installation.sandbox
        if asked.kind in _OTHER_KIND and (asked.kind == "test") is not sandbox:
            here = _OTHER_KIND["test" if sandbox else "live"]
            cause = f"{asked.prefix}... is a key of {_OTHER_KIND[asked.kind]}; this one is {here}."
    return finding(Code.D04, cause, evidence=(shown,), fixes=_key_fixes(case))


def refused_key(case: Case, *, code: str) -> list[Finding]:
    """What a refusal for the key's sake means, where the key itself says no more."""
    found = key(case) or project(case)
    if found:
        return found
    if case.key is not None and case.key.state is KeyState.ACTIVE:
        cause = (
            f"The key {case.key.name} ({case.key.prefix}...) is active now; when the call was made "
            "it was not, or another text was sent."
        )
        return [finding(Code.D04, cause, mended=True, fixes=_key_fixes(case))]
    words = {
        "key_revoked": "The key that was sent has been revoked.",
        "key_expired": "The key that was sent has expired.",
    }
    cause = words.get(
        code,
        "The key that was sent is none of this gateway's: mistyped, cut short, of another "
        "installation, or missing.",
    )
    return [finding(Code.D04, cause, fixes=_key_fixes(case))]


def _key_fixes(case: Case) -> tuple[Fix, ...]:
    """Which key to use instead: the active ones, or how to make one."""
    fixes = []
    for each in case.usable_keys[:KEYS_SHOWN_MAX]:
        of = f"{each.name} ({each.prefix}...) of {each.project_name}"
        fixes.append(Fix(text=f"Use the key {of}, made {when(each.created_at)}"))
    org = case.organization
    where = f" --org {quoted(org.name)}" if org is not None else ""
    project_name = "PROJECT"
    if case.project is not None and case.project.archived_at is None:
        project_name = quoted(case.project.name)
    elif case.key is not None and case.key.state is not KeyState.PROJECT_ARCHIVED:
        project_name = quoted(case.key.project_name)
    make = f"farebox keys create NAME --project {project_name}{where}"
    fixes.append(Fix(text="Make a new key", command=make))
    if org is None:
        fixes.insert(0, Fix(text="See which keys there are", command="farebox keys list"))
    return tuple(fixes)


def no_key(case: Case) -> list[Finding]:
    """An organisation that nobody can call for."""
    if case.organization is None or case.usable_keys:
        return []
    cause = f"{case.organization.name} has no active key of a project that stands."
    return [
        finding(
            Code.D85,
            cause,
            severity=Severity.WARNING,
            evidence=(fact("active keys", 0, at=case.at, source="keys"),),
            fixes=_key_fixes(case),
        )
    ]


def header(case: Case) -> list[Finding]:
    """A request that names another organisation than its key's."""
    org = case.organization
    whose = f"The key belongs to {org.name}" if org is not None else "A key says whose call it is"
    cause = (
        f"{whose}; the request's OpenAI-Organization or OpenAI-Project header names another one."
    )
    fixes = (
        Fix(text="Remove organization= and project= from the client, and OPENAI_ORG_ID and "
            "OPENAI_PROJECT_ID from its environment"),
        Fix(text="See which organisation a key belongs to", command="farebox keys list"),
    )  # fmt: skip
    return [finding(Code.D05, cause, fixes=fixes)]


def permission(case: Case) -> list[Finding]:
    """Somebody who may not do this."""
    if case.key_asked is not None and case.key_asked.management_name is not None:
        return key(case)
    error = case.complaint.error
    said = error.message if error is not None else ""
    cause = "The role or the kind of key does not reach so far. It is no matter of credit."
    if said:
        cause += f" The error says: {said}"
    whom = ", ".join(case.owners)
    where = "" if case.organization is None else f" --org {quoted(case.organization.name)}"
    fixes = (
        Fix(text=f"Ask an owner of the organisation: {whom}" if whom else
            "Ask an owner of the organisation, or the operator",
            command=f"farebox members list{where}"),
        Fix(text="Keys for models call models; management keys manage. See both",
            command="farebox keys list --management"),
    )  # fmt: skip
    return [finding(Code.D07, cause, fixes=fixes)]


def model(case: Case) -> list[Finding]:
    """Whether the model in question can be called by this organisation and project."""
    asked = case.model
    if asked is None:
        return []
    project_facts = case.project
    name = asked.asked[:100]
    evidence = [fact("model", name, at=case.at, source="request")]
    lists = Fix(text="See what can be called", command="farebox models list")
    near = _nearest(case, asked)
    if project_facts is not None and not allows(project_facts.allowed_models, asked.asked):
        allowed = ", ".join(project_facts.allowed_models or ()) or "none"
        evidence.append(fact("allowed models", allowed, at=case.at, source="project"))
        whom = f" ({project_facts.owner})" if project_facts.owner else ""
        cause = f"The project {project_facts.name} may not call {name}."
        models = ",".join((*(project_facts.allowed_models or ()), name))
        where = "" if case.organization is None else f" --org {quoted(case.organization.name)}"
        allow = Fix(
            text=f"Have the project's owner{whom} allow it",
            command=f"farebox projects update {quoted(project_facts.name)}{where} "
            f"--models {quoted(models)}",
        )
        fixes = (*near, allow)
        return [finding(Code.D06, cause, evidence=tuple(evidence), fixes=fixes, subject=name)]
    if asked.sold_by:
        return []
    if not asked.known:
        cause = f"No provider here has a model {name}, under that name or another."
        fixes = (*near, lists, Fix(text="Bring in newer prices", command="farebox prices import"))
    elif asked.priced_in and case.currency:
        evidence.append(fact("prices in", ", ".join(asked.priced_in), at=case.at, source="prices"))
        cause = f"{name} has no price in {case.currency}, the currency of {_org(case)}."
        fixes = (
            Fix(text=f"Set its price in {case.currency}", command="farebox prices set --help"),
        )
    elif asked.lanes:
        evidence.append(fact("priced tiers", ", ".join(asked.lanes), at=case.at, source="prices"))
        cause = f"{name} has no standard price now; name one of the service tiers it has."
        fixes = (lists, *near)
    else:
        cause = f"{name} is known, but no provider that was added has a price of it now."
        add = "farebox providers add --help"
        fixes = (*near, Fix(text="Add the provider that has it", command=add), lists)
    return [finding(Code.D06, cause, evidence=tuple(evidence), fixes=fixes, subject=name)]


def refused_model(case: Case) -> list[Finding]:
    """What a refusal for the model's sake means."""
    found = model(case)
    if found:
        return found
    if case.model is not None:
        cause = (
            f"{case.model.asked[:100]} can be called here now, in the standard tier; when the call "
            "was made it could not, or another tier was asked for."
        )
        evidence = (fact("sold by", ", ".join(case.model.sold_by), at=case.at, source="prices"),)
        return [finding(Code.D06, cause, evidence=evidence, mended=True)]
    fixes = (Fix(text="See what can be called", command="farebox models list"),)
    cause = "The model that was named is not on sale here, in that tier, or not for this project."
    return [finding(Code.D06, cause, fixes=fixes)]


def _nearest(case: Case, asked: ModelFinding) -> tuple[Fix, ...]:
    allowed = case.project.allowed_models if case.project is not None else None
    names = [name for name in asked.nearest if allows(allowed, name)][:MODELS_SHOWN_MAX]
    if not names:
        return ()
    *first, last = names
    text = f"{', '.join(first)} or {last}" if first else last
    return (Fix(text=f"Call {text} instead"),)


def _org(case: Case) -> str:
    return "the organisation" if case.organization is None else case.organization.name
