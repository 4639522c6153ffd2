"""Making and finding tenants: organisations, projects and keys, by id or by name.

Values are checked here, once, for every door (command line, console, API). A key's text leaves
exactly once, in the answer to its making.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from typing import Final
from uuid import UUID

from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import format_id
from farebox.kit.money import ZERO, Nanos
from farebox.kit.periods import zone as known_zone
from farebox.ledger.organizations import OnLapse, OnOverrun
from farebox.operations.finding import NAMED_MAX, by_id_or_name, candidates, only
from farebox.operations.key_administration import KeyAdministration, MadeKey
from farebox.operations.project_settings import checked_change, checked_project
from farebox.operations.tenants import (
    NewOrganization,
    NewProject,
    OrganizationChange,
    OrganizationProfile,
    Project,
    ProjectChange,
)
from farebox.tenancy.names import parse_name
from farebox.tenancy.project_templates import SPLIT

NO_CHANGE: Final = ProjectChange()
"""Nothing is set but what stands."""

__all__ = ["Administration", "MadeKey", "parse_currency"]

_CURRENCY: Final = re.compile(r"[A-Z]{3}")


class Administration(KeyAdministration):
    """The use cases over one store."""

    def together(self) -> AbstractAsyncContextManager[None]:
        """All changes inside commit together, or none does."""
        return self._store.together()

    # Organisations.

    async def create_organization(
        self,
        name: str,
        *,
        currency: str = "USD",
        zone: str = "UTC",
        floor: Nanos = ZERO,
        on_overrun: OnOverrun = OnOverrun.ABSORB,
        on_lapse: OnLapse = OnLapse.METERED,
        plan_id: UUID | None = None,
        organization_id: UUID | None = None,
    ) -> OrganizationProfile:
        """Make an organisation: prepaid (DED-19), and without any credit (CRD-25).

        Args:
            name: Of no other organisation.
            currency: Of its credit, for good.
            zone: Of its budget months.
            floor: How far below zero it may go.
            on_overrun: Who bears usage beyond hold, balance and limits.
            on_lapse: What a call whose end is unknown is charged.
            plan_id: How its calls are rated; None passes prices through.
            organization_id: Its id, where the caller has one; a new one else.

        Raises:
            InvalidInputError: Naming the field.
            ConflictError: The name is taken.
        """
        if floor < 0:
            raise InvalidInputError("floor", "must be zero or more: it is how far below zero")
        new = NewOrganization(
            id=organization_id or await self._new_id(),
            name=parse_name(name),
            currency=parse_currency(currency),
            zone=known_zone(zone).key,
            floor=floor,
            on_overrun=on_overrun,
            on_lapse=on_lapse,
            plan_id=plan_id,
        )
        return await self._store.insert_organization(new)

    async def change_organization(
        self, organization_id: UUID, change: OrganizationChange
    ) -> OrganizationProfile:
        """Change what is given; currency never, floor and zone by the engine's own commands.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is none.
            ConflictError: The name is taken.
        """
        checked = OrganizationChange(
            name=None if change.name is None else parse_name(change.name),
            active=change.active,
            on_overrun=change.on_overrun,
            on_lapse=change.on_lapse,
        )
        return await self._store.change_organization(organization_id, checked)

    async def find_organization(self, text: str, *, field: str = "org") -> OrganizationProfile:
        """The organisation with that id or name.

        Raises:
            NotFoundError: There is none.
        """
        by = by_id_or_name("org", text, field)
        found = await self._store.organizations(organization_id=by.id, name=by.name, limit=2)
        return only(found, "organisation", text, field)

    async def only_organization(self, *, field: str = "org") -> OrganizationProfile:
        """The one organisation there is, for commands that name none.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: There are several.
        """
        found = await self._store.organizations(limit=2)
        if not found:
            raise NotFoundError(
                "There is no organisation yet; `farebox orgs create NAME` makes one."
            )
        if len(found) > 1:
            raise InvalidInputError(field, "must be given: there are several organisations")
        return found[0]

    # Projects.

    async def create_project(
        self,
        name: str,
        organization_id: UUID,
        *,
        environment: str = "production",
        default_output_tokens: int | None = None,
        slices: bool = False,
        settings: ProjectChange = NO_CHANGE,
    ) -> Project:
        """Make a project.

        Args:
            name: Of no other project of the organisation.
            organization_id: Whose it is.
            environment: Such as production or testing.
            default_output_tokens: The output limit of calls that name none.
            slices: Whether its streams hold their output slice by slice.
            settings: Everything else, told at :class:`farebox.operations.tenants.Project`.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such organisation.
            ConflictError: The organisation has a project of that name.
        """
        new = NewProject(
            id=await self._new_id(),
            organization_id=organization_id,
            name=name,
            environment=environment,
            default_output_tokens=default_output_tokens,
            slices=slices,
        )
        return await self._store.insert_project(checked_project(new, settings))

    async def create_split(self, organization_id: UUID) -> list[Project]:
        """Make the projects that suit most organisations (ORG-07); those of a name are left alone.

        Returns:
            The projects of the split, made now or before.

        Raises:
            NotFoundError: There is no such organisation.
        """
        found = []
        async with self._store.together():
            for template in SPLIT:
                standing = await self._store.projects(
                    name=template.name, organization_id=organization_id, limit=1
                )
                found += standing or [
                    await self.create_project(
                        template.name,
                        organization_id,
                        environment=template.environment,
                        settings=ProjectChange(purpose=template.purpose),
                    )
                ]
        return found

    async def change_project(self, project_id: UUID, change: ProjectChange) -> Project:
        """Change what is set: purpose, owner, models, output caps, slices, content.

        Raises:
            InvalidInputError: Naming the field.
            NotFoundError: There is no such project.
            ConflictError: The organisation has a project of that name.
        """
        found = await self._store.projects(project_id=project_id, limit=1)
        if not found:
            raise NotFoundError("There is no such project.")
        return await self._store.change_project(project_id, checked_change(found[0], change))

    async def archive_project(self, project_id: UUID) -> Project:
        """Close a project for good: no further call of its keys is admitted; its history stays.

        Raises:
            NotFoundError: There is no such project.
        """
        return await self._store.archive_project(project_id)

    async def find_project(
        self, text: str, *, organization_id: UUID | None = None, field: str = "project"
    ) -> Project:
        """The project with that id or name, of one organisation or of any.

        Raises:
            NotFoundError: There is none.
            InvalidInputError: Several organisations have one of that name.
        """
        by = by_id_or_name("proj", text, field)
        found = await self._store.projects(
            project_id=by.id, name=by.name, organization_id=organization_id, limit=NAMED_MAX + 1
        )
        if len(found) > 1:
            which = candidates(
                [f"{format_id('proj', p.id)} of {p.organization_name}" for p in found]
            )
            raise InvalidInputError(
                field, f"{text!r} is a project of several organisations; give the id: {which}"
            )
        return only(found, "project", text, field)


def parse_currency(text: str, *, field: str = "currency") -> str:
    """Read a currency code.

    Raises:
        InvalidInputError: It is not three letters.
    """
    code = text.strip().upper()
    if not _CURRENCY.fullmatch(code):
        raise InvalidInputError(field, f"must be three letters such as USD (got {text[:40]!r})")
    return code
