"""Service accounts on PostgreSQL."""

from __future__ import annotations

from uuid import UUID

import pytest

from farebox.kit.errors import ConflictError, NotFoundError
from farebox.ledger.commands import Admitted, Refused
from tests.support.office import Office
from tests.support.till import Till

NOBODY = UUID(int=99)


async def test_a_service_account_is_of_one_project(office: Office) -> None:
    """ORG-05, ORG-18: names are unique inside a project while they stand."""
    organization = await office.organization()
    web, batch = await office.project(organization), await office.project(organization, "batch")
    create = office.administration.create_service_account
    first = await create("nightly", web.id, purpose=" reports ")
    second = await create("nightly", batch.id)
    assert (first.organization_id, first.project_name, first.purpose) == (
        *(organization.id, "web"),
        "reports",
    )
    listed = office.tenants.service_accounts
    assert await listed(organization_id=organization.id, limit=9) == [first, second]
    assert await listed(project_id=batch.id, limit=9) == [second]
    assert await listed(name="NIGHTLY", after=first.id, limit=9) == [second]
    with pytest.raises(ConflictError):
        await create("Nightly", web.id)
    with pytest.raises(NotFoundError):
        await create("x", NOBODY)
    with pytest.raises(NotFoundError):
        await office.administration.disable_service_account(NOBODY)
    with pytest.raises(NotFoundError, match="service account of its project"):
        await office.administration.create_key("k", web.id, service_account_id=second.id)


async def test_no_call_is_admitted_after_its_account_ended(office: Office) -> None:
    """ORG-18: its keys are revoked in the same transaction, and the engine refuses them."""
    till = Till()
    till.put_into_database(office.dsn)
    await office.submit(till.grant(1_000))
    account = await office.administration.create_service_account("nightly", till.project_id)
    key = await office.administration.create_key(
        "k", till.project_id, service_account_id=account.id
    )
    till.key_id = key.id
    assert isinstance(await office.submit(till.admit()), Admitted)
    ended = await office.administration.disable_service_account(account.id)
    refused = await office.submit(till.admit())
    assert isinstance(refused, Refused)
    assert refused.code == "key_revoked"
    again = await office.administration.disable_service_account(account.id)
    assert again.disabled_at == ended.disabled_at
    assert (await office.actions())[-1] == "service_account.disabled"
    (event,) = await office.log.events(action="service_account.disabled", limit=9)
    assert '"keys_revoked":1' in str(event.after)
