"""What a project allows its keys: which models, and how long an answer (ORG-17, SAV-12).

These are no billing matters: a model that is not allowed is refused whatever the balance, and an
answer is cut to the project's maximum, which goes upstream as the call's own limit.
"""

from __future__ import annotations

from msgspec import structs

from farebox.operations.directory import Caller
from farebox.rating.ceiling import PromptFacts
from farebox.tenancy.model_access import allows


def may_call(caller: Caller, asked: str, served: str) -> bool:
    """Tell whether a key's project allows a model, by the name asked for or the one it has here."""
    allowed = caller.allowed_models
    return allowed is None or allows(allowed, served) or allows(allowed, asked)


def capped(facts: PromptFacts, output_tokens_max: int | None) -> PromptFacts:
    """The request with its limit for one choice cut to the project's maximum."""
    limit = facts.output_limit
    if output_tokens_max is None or limit is None or limit <= output_tokens_max:
        return facts
    return structs.replace(facts, output_limit=output_tokens_max)
