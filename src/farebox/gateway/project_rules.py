"""What a project allows its keys: which models, and how long an answer (ORG-17, SAV-12).

These are no billing matters: a model that is not allowed is refused whatever the balance, and an
answer is cut to the maximum of its project and its feature, which goes upstream as the call's own
limit.
"""

from __future__ import annotations

from msgspec import structs

from farebox.operations.directory import Caller
from farebox.operations.tenants import UNCAPPED, OutputCap
from farebox.rating.ceiling import DEFAULT_OUTPUT_TOKENS, PromptFacts
from farebox.tenancy.model_access import allows


def may_call(caller: Caller, asked: str, served: str) -> bool:
    """Tell whether a key's project allows a model, by the name asked for or the one it has here."""
    allowed = caller.allowed_models
    return allowed is None or allows(allowed, served) or allows(allowed, asked)


def output_maximum(caller: Caller, feature: str) -> int | None:
    """The most output of one answer: the lower of the project's and the feature's (SAV-12)."""
    return _cap(caller, feature).output_tokens_max


def output_default(caller: Caller, feature: str) -> int:
    """The limit of an answer where the client names none (SAV-12).

    The feature's where it has one, else the project's, else the shipped one; never above the
    maximum.
    """
    cap = _cap(caller, feature)
    default = cap.default_output_tokens or DEFAULT_OUTPUT_TOKENS
    return min(default, cap.output_tokens_max or default)


def _cap(caller: Caller, feature: str) -> OutputCap:
    own = caller.feature_caps.get(feature, UNCAPPED)
    return own.within(caller.default_output_tokens, caller.output_tokens_max)


def capped(facts: PromptFacts, output_tokens_max: int | None) -> PromptFacts:
    """The request with its limit for one choice cut to a maximum."""
    limit = facts.output_limit
    if output_tokens_max is None or limit is None or limit <= output_tokens_max:
        return facts
    return structs.replace(facts, output_limit=output_tokens_max)
