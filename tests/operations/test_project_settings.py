"""What a project may be set to, when it is made and when it changes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from farebox.kit.errors import ConflictError, InvalidInputError, NotFoundError
from farebox.operations.tenants import OutputCap, ProjectChange
from farebox.storage.key_store import find_key
from farebox.tenancy.api_keys import KeyState, digest
from tests.support.office import Office


def cap(default: int | None, most: int | None) -> OutputCap:
    """A feature's cap."""
    return OutputCap(default_output_tokens=default, output_tokens_max=most)


FULL = ProjectChange(
    purpose=" Answers customers. ",
    owner="ada@example.org",
    allowed_models=("gpt-5*", "gpt-4o"),
    default_output_tokens=500,
    output_tokens_max=1_000,
    stores_content=True,
    content_retention_days=30,
    slices=True,
)


async def test_everything_can_be_set_at_once_or_later(office: Office) -> None:
    """ORG-05, ORG-10, ORG-17, SAV-12: the same settings, checked by the same rules."""
    organization = await office.organization()
    made = await office.administration.create_project("web", organization.id, settings=FULL)
    later = await office.project(organization, "later")
    changed = await office.administration.change_project(later.id, FULL)
    for project in (made, changed):
        assert (project.purpose, project.owner) == ("Answers customers.", "ada@example.org")
        assert project.allowed_models == ("gpt-5*", "gpt-4o")
        assert (project.default_output_tokens, project.output_tokens_max) == (500, 1_000)
        assert (project.stores_content, project.content_retention_days) == (True, 30)
        assert project.slices


async def test_what_is_not_set_stays_and_none_takes_a_bound_away(office: Office) -> None:
    """A change names what changes, and nothing else."""
    organization = await office.organization()
    made = await office.administration.create_project("web", organization.id, settings=FULL)
    changed = await office.administration.change_project(
        made.id,
        ProjectChange(
            name="site",
            environment="Staging",
            allowed_models=None,
            output_tokens_max=None,
            stores_content=False,
            content_retention_days=None,
        ),
    )
    assert (changed.name, changed.environment) == ("site", "staging")
    assert (changed.allowed_models, changed.output_tokens_max) == (None, None)
    assert (changed.stores_content, changed.content_retention_days) == (False, None)
    assert (changed.purpose, changed.default_output_tokens, changed.slices) == (
        *("Answers customers.", 500),
        True,
    )
    nothing = await office.administration.change_project(made.id, ProjectChange(allowed_models=()))
    assert nothing.allowed_models == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"environment": "a b"}, "environment"),
        ({"purpose": "x" * 501}, "purpose"),
        ({"owner": "a\nb"}, "owner"),
        ({"allowed_models": ("*a",)}, "allowed_models"),
        ({"default_output_tokens": 0}, "default_output_tokens"),
        ({"output_tokens_max": 10_000_001}, "output_tokens_max"),
        ({"output_tokens_max": 499}, "default_output_tokens"),
        ({"feature_caps": {str(n): OutputCap() for n in range(101)}}, "feature_caps"),
        ({"feature_caps": {"": cap(1, None)}}, "feature_caps."),
        ({"feature_caps": {" a": cap(1, None)}}, "feature_caps. a"),
        ({"feature_caps": {"a": cap(0, 5)}}, "feature_caps.a.default_output_tokens"),
        ({"feature_caps": {"a": cap(None, 10**8)}}, "feature_caps.a.output_tokens_max"),
        ({"feature_caps": {"a": cap(6, 5)}}, "feature_caps.a.default_output_tokens"),
        ({"content_retention_days": 0}, "content_retention_days"),
        ({"content_retention_days": None}, "content_retention_days"),
    ],
)
async def test_a_wrong_setting_is_named(office: Office, change: dict[str, Any], field: str) -> None:
    """Also one that does not fit what stays as it is; nothing is written."""
    organization = await office.organization()
    made = await office.administration.create_project("web", organization.id, settings=FULL)
    with pytest.raises(InvalidInputError) as caught:
        await office.administration.change_project(made.id, ProjectChange(**change))
    assert caught.value.field == field
    assert await office.tenants.projects(limit=9) == [made]


async def test_gateways_hear_of_a_change(office: Office) -> None:
    """What a key carries is read anew; the directory's revision says when."""
    organization = await office.organization()
    project = await office.project(organization)
    key = await office.administration.create_key("k", project.id)
    before = await office.one("SELECT revision FROM directory")
    caps = {"chat": cap(5, 7), "batch": cap(None, 8)}
    change = ProjectChange(allowed_models=("gpt-5*",), output_tokens_max=9)
    for _ in range(2):
        await office.administration.change_project(project.id, change)
    assert await office.one("SELECT revision FROM directory") == before + 1
    row = await find_key(office.connection, digest(key.text))
    assert row is not None
    assert (row.allowed_models, row.output_tokens_max, row.plan_id) == (("gpt-5*",), 9, None)
    # Those of features too (SAV-12); what says nothing is not kept.
    change = ProjectChange(feature_caps=caps | {"nothing": OutputCap()})
    changed = await office.administration.change_project(project.id, change)
    assert await office.administration.change_project(project.id, change) == changed
    assert await office.one("SELECT revision FROM directory") == before + 2
    row = await find_key(office.connection, digest(key.text))
    assert row is not None
    assert row.feature_caps == changed.feature_caps == caps


async def test_an_archived_project_is_closed_for_good(office: Office) -> None:
    """Its keys open nothing any more; twice is the same as once."""
    organization = await office.organization()
    project = await office.project(organization)
    key = await office.administration.create_key("k", project.id)
    archived = await office.administration.archive_project(project.id)
    assert await office.administration.archive_project(project.id) == archived
    (listed,) = await office.tenants.keys(key_id=key.id, limit=1)
    assert listed.state_at(await office.tenants.now()) is KeyState.PROJECT_ARCHIVED
    assert (await office.actions()).count("project.archived") == 1
    for missing in (
        office.administration.archive_project(UUID(int=99)),
        office.administration.change_project(UUID(int=99), FULL),
    ):
        with pytest.raises(NotFoundError):
            await missing


async def test_a_name_is_taken_once(office: Office) -> None:
    """A project cannot be renamed to another one of its organisation."""
    organization = await office.organization()
    await office.project(organization)
    other = await office.project(organization, "other")
    with pytest.raises(ConflictError, match="already"):
        await office.administration.change_project(other.id, ProjectChange(name="WEB"))


async def test_the_usual_split_is_made_once(office: Office) -> None:
    """ORG-07: testing, production, customer project, internal tool; what is there is left alone."""
    organization = await office.organization()
    own = await office.project(organization, "Production")
    first = await office.administration.create_split(organization.id)
    second = await office.administration.create_split(organization.id)
    assert [project.id for project in first] == [project.id for project in second]
    assert own.id in {project.id for project in first}
    assert len(await office.tenants.projects(limit=99)) == 4
    with pytest.raises(NotFoundError):
        await office.administration.create_split(UUID(int=99))
