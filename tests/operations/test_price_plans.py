"""Price plans: found, bounded, checked."""

from __future__ import annotations

from uuid import UUID

import pytest

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.operations import price_plans
from farebox.rating.price_plans import PlanTerms
from tests.support.office import Office


async def test_a_plan_is_found_by_id_or_name(office: Office) -> None:
    """In any case; what is not there is not found, with the command that lists them."""
    made = await office.plans.revise("Reseller", PlanTerms(markup=1))
    for text in ("RESELLER", format_id("plan", made.plan_id), str(made.plan_id)):
        assert (await office.plans.find_plan(text)).id == made.plan_id
    for text in ("other", format_id("plan", UUID(int=9))):
        with pytest.raises(NotFoundError, match="price-plans list"):
            await office.plans.find_plan(text)


async def test_wrong_terms_make_no_plan(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither terms that cannot be rated, nor a name, nor one plan too many."""
    for name, terms in (("", PlanTerms()), ("P", PlanTerms(markup=-10_001))):
        with pytest.raises(InvalidInputError):
            await office.plans.revise(name, terms)
    assert await office.plan_store.plans(limit=9) == []
    monkeypatch.setattr(price_plans, "PLANS_MAX", 1)
    await office.plans.revise("P", PlanTerms())
    with pytest.raises(InvalidInputError, match="at most 1"):
        await office.plans.revise("Q", PlanTerms())
    assert (await office.plans.revise("P", PlanTerms())).number == 2
