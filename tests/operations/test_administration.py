"""Making and finding tenants, on the real store."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.operations.administration import Administration
from farebox.operations.tenants import OrganizationChange
from farebox.storage.connecting import Connector
from farebox.storage.key_store import find_key, find_management_key
from farebox.storage.tenancy_store import PostgresTenantStore
from farebox.tenancy.api_keys import KeyKind, digest, kind_of


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PostgresTenantStore]:
    """The store of an empty sandbox."""
    async with await Connector(dsn, name="test", durable=False).connect() as connection:
        yield PostgresTenantStore(connection)


@pytest.fixture
def people(store: PostgresTenantStore) -> Administration:
    """The use cases on it, with a chance that repeats."""
    return Administration(store, chance=random.Random(1).randbytes, key_kind=KeyKind.TEST)


async def test_a_new_organisation_is_prepaid_and_strict(people: Administration) -> None:
    """DED-19, CRD-25: prepaid, no floor, in dollars and UTC, unless somebody says otherwise."""
    made = await people.create_organization(" Acme ")
    assert (made.name, made.currency, made.zone, made.floor) == ("Acme", "USD", "UTC", 0)
    assert (made.billing_mode, made.on_overrun, made.on_lapse) == ("prepaid", "absorb", "metered")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x", "currency": "dollars"}, "currency"),
        ({"name": "x", "zone": "Mars/Olympus"}, "zone"),
        ({"name": "x", "floor": Nanos(-1)}, "floor"),
    ],
)
async def test_a_wrong_setting_is_named(
    people: Administration, values: dict[str, object], field: str
) -> None:
    """CRD-17: currency and zone are checked when they are given, not at the first call."""
    with pytest.raises(InvalidInputError) as caught:
        await people.create_organization(**values)  # type: ignore[arg-type]
    assert caught.value.field == field


async def test_things_are_found_by_id_or_by_name(people: Administration) -> None:
    """A name in any case, an id with or without its prefix; everything else is not found."""
    organization = await people.create_organization("Acme")
    project = await people.create_project("web", organization.id)
    for text in ("ACME", format_id("org", organization.id), str(organization.id)):
        assert await people.find_organization(text) == organization
    for text in ("Web", format_id("proj", project.id), project.id.hex):
        assert await people.find_project(text) == project
    for text in ("nobody", format_id("org", project.id)):
        with pytest.raises(NotFoundError, match="farebox orgs list"):
            await people.find_organization(text)
    with pytest.raises(NotFoundError, match="farebox projects list"):
        await people.find_project("nothing")


async def test_a_project_of_several_organisations_must_be_named_exactly(
    people: Administration,
) -> None:
    """An ambiguous name is refused with the ids to choose from; the organisation decides too."""
    one = await people.create_organization("One")
    two = await people.create_organization("Two")
    mine = await people.create_project("web", one.id)
    theirs = await people.create_project("web", two.id)
    with pytest.raises(InvalidInputError, match=f"{mine.id.hex} of One.*{theirs.id.hex} of Two"):
        await people.find_project("web")
    assert await people.find_project("web", organization_id=two.id) == theirs


async def test_a_command_may_leave_out_the_only_organisation(people: Administration) -> None:
    """With one organisation nothing must be typed; with none or several, the error says what."""
    with pytest.raises(NotFoundError, match="orgs create"):
        await people.only_organization()
    one = await people.create_organization("One")
    assert await people.only_organization() == one
    await people.create_organization("Two")
    with pytest.raises(InvalidInputError, match="org must be given"):
        await people.only_organization()


async def test_a_keys_text_leaves_once_and_is_not_kept(
    people: Administration, store: PostgresTenantStore
) -> None:
    """ORG-03: the answer has the text; what is stored finds the key and cannot show it."""
    organization = await people.create_organization("Acme")
    project = await people.create_project("web", organization.id)
    made = await people.create_key("laptop", project.id)
    assert kind_of(made.text) is KeyKind.TEST
    connection = store._connection
    row = await find_key(connection, digest(made.text))
    stored = await (await connection.execute("SELECT api_key::text FROM api_key")).fetchone()
    assert row is not None
    assert (row.id, row.project_id, row.organization_id) == (made.id, project.id, organization.id)
    assert stored is not None
    assert made.text not in stored[0]
    assert made.text.removeprefix(made.prefix) not in stored[0]


async def test_a_key_cannot_end_before_it_begins(
    people: Administration, store: PostgresTenantStore
) -> None:
    """An end in the past is a slip; an end to come is kept."""
    organization = await people.create_organization("Acme")
    project = await people.create_project("web", organization.id)
    now = await store.now()
    with pytest.raises(InvalidInputError, match="expires_at"):
        await people.create_key("late", project.id, expires_at=now)
    ends = now + timedelta(days=1)
    made = await people.create_key("soon", project.id, expires_at=ends)
    assert (await people.find_key(format_id("key", made.id))).expires_at == ends


async def test_a_name_means_the_key_that_still_stands(people: Administration) -> None:
    """A key made anew under the old name is meant; two that stand must be told apart by id."""
    organization = await people.create_organization("Acme")
    project = await people.create_project("web", organization.id)
    first = await people.create_key("ci", project.id)
    await people.revoke_key(first.id)
    assert (await people.find_key("ci")).id == first.id
    second = await people.create_key("ci", project.id)
    assert (await people.find_key("CI", project_id=project.id)).id == second.id
    third = await people.create_key("ci", project.id)
    with pytest.raises(InvalidInputError, match=third.prefix):
        await people.find_key("ci")
    with pytest.raises(NotFoundError, match="farebox keys list"):
        await people.find_key("other")


async def test_a_management_key_opens_no_project(
    people: Administration, store: PostgresTenantStore
) -> None:
    """It has a prefix of its own and is no API key."""
    made = await people.create_management_key("ops")
    assert kind_of(made.text) is KeyKind.ADMIN
    assert await find_management_key(store._connection, digest(made.text)) is not None
    assert await find_key(store._connection, digest(made.text)) is None


async def test_a_change_is_checked_like_a_making(people: Administration) -> None:
    """A name that could not be given at first cannot be given later."""
    organization = await people.create_organization("Acme")
    with pytest.raises(InvalidInputError, match="name"):
        await people.change_organization(organization.id, OrganizationChange(name=" "))
    changed = await people.change_organization(organization.id, OrganizationChange(name=" New "))
    assert changed.name == "New"


@pytest.mark.parametrize("tokens", [0, -1, 10_000_001])
async def test_a_projects_output_limit_is_sensible(people: Administration, tokens: int) -> None:
    """The default limit of calls is a number of tokens that some model could give."""
    organization = await people.create_organization("Acme")
    with pytest.raises(InvalidInputError, match="default_output_tokens"):
        await people.create_project("web", organization.id, default_output_tokens=tokens)
    await people.create_project("web", organization.id, default_output_tokens=1)
    with pytest.raises(ConflictError):
        await people.create_project("WEB", organization.id)
