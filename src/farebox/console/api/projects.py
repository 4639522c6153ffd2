"""Projects: the parts of an organisation, and what is allowed in each."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from farebox.advice.catalogue import entry_of
from farebox.advice.findings import Severity
from farebox.advice.lint import without_owner
from farebox.console.api.fields import (
    Instant,
    Name,
    OrganizationId,
    Page,
    PageQuery,
    ProjectId,
    Text,
    page_by_id,
    read_id_cursor,
    shown,
)
from farebox.console.api.routing import Context, Route
from farebox.kit.errors import ConflictError, NotFoundError
from farebox.kit.ids import format_id, parse_id
from farebox.operations import tenants
from farebox.operations.documents import document
from farebox.operations.tenants import OutputCap, ProjectChange
from farebox.tenancy.permissions import Action
from farebox.tenancy.project_templates import ENVIRONMENTS

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
Days = Annotated[int, Meta(ge=1, le=3_650)]
Patterns = Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=500)]


Environment = Annotated[
    str,
    Meta(max_length=64, examples=list(ENVIRONMENTS), description="Shown in every report."),
]


class FeatureCap(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the answers of one feature's calls may be."""

    default_output_tokens: Tokens | None = None
    """For calls that name no limit; null: the project's."""
    output_tokens_max: Tokens | None = None
    """The most that a call may ask for; where the project has one too, the lower holds."""


FeatureCaps = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=200)], FeatureCap],
    Meta(max_length=100, description="By feature, as calls name it (X-Farebox-Feature)."),
]


class Project(Struct, frozen=True, kw_only=True):
    """A part of an organisation with keys of its own."""

    object: Literal["project"] = "project"
    id: ProjectId
    organization_id: OrganizationId
    name: str
    environment: str
    purpose: str
    owner: str
    default_output_tokens: int | None
    output_tokens_max: int | None
    feature_caps: dict[str, FeatureCap]
    allowed_models: list[str] | None
    slices: bool
    stores_content: bool
    content_retention_days: int | None
    created_at: Instant
    archived_at: Instant | None


class ProjectPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be set; what is left out stays, null takes a bound away."""

    name: Name | UnsetType = UNSET
    environment: Environment | UnsetType = UNSET
    purpose: Text | UnsetType = UNSET
    owner: Text | UnsetType = UNSET
    slices: bool | UnsetType = UNSET
    default_output_tokens: Tokens | UnsetType | None = UNSET
    output_tokens_max: Tokens | UnsetType | None = UNSET
    feature_caps: FeatureCaps | UnsetType = UNSET
    """All of them: a feature that is left out has none any more."""
    allowed_models: Patterns | UnsetType | None = UNSET
    stores_content: bool | UnsetType = UNSET
    content_retention_days: Days | UnsetType | None = UNSET

    def change(self) -> ProjectChange:
        """The same for the house."""
        models = self.allowed_models
        return ProjectChange(
            name=self.name,
            environment=self.environment,
            purpose=self.purpose,
            owner=self.owner,
            slices=self.slices,
            default_output_tokens=self.default_output_tokens,
            output_tokens_max=self.output_tokens_max,
            feature_caps=self._feature_caps(),
            allowed_models=tuple(models) if isinstance(models, list) else models,
            stores_content=self.stores_content,
            content_retention_days=self.content_retention_days,
        )

    def _feature_caps(self) -> dict[str, OutputCap] | UnsetType:
        if isinstance(self.feature_caps, UnsetType):
            return UNSET
        return {
            feature: OutputCap(
                default_output_tokens=cap.default_output_tokens,
                output_tokens_max=cap.output_tokens_max,
            )
            for feature, cap in self.feature_caps.items()
        }


class ProjectOrder(ProjectPatch, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new project."""

    name: Name


class Split(Struct, frozen=True, kw_only=True):
    """The usual projects, as they are."""

    object: Literal["project_split"] = "project_split"
    data: list[Project]


class ProjectFinding(Struct, frozen=True, kw_only=True):
    """Something about a project that is worth mending."""

    object: Literal["project_finding"] = "project_finding"
    code: str
    name: str
    """Of the finding; the code's page says more."""
    severity: Severity
    project_id: ProjectId
    project_name: str
    cause: str
    remedy: str


async def list_findings(context: Context) -> Page[ProjectFinding]:
    """Projects without an owner, in the order of their making (ORG-10)."""
    query = context.query_as(PageQuery)
    found = await context.session.tenants.projects(
        organization_id=context.organization.id,
        without_owner=True,
        after=read_id_cursor("proj", query.cursor),
        limit=query.limit + 1,
    )
    rows = [_finding_row(project) for project in found]
    return page_by_id(ProjectFinding, rows, query.limit, name="project_id")


def _finding_row(project: tenants.Project) -> dict[str, object]:
    told = without_owner(project.id, project.name)
    entry = entry_of(told.code)
    return {
        "code": told.code,
        "name": entry.name,
        "severity": told.severity,
        "project_id": told.subject,
        "project_name": project.name,
        "cause": told.cause,
        "remedy": entry.remedy,
    }


async def list_projects(context: Context) -> Page[Project]:
    """In the order of their making, archived ones too."""
    query = context.query_as(PageQuery)
    found = await context.session.tenants.projects(
        organization_id=context.organization.id,
        after=read_id_cursor("proj", query.cursor),
        limit=query.limit + 1,
    )
    rows = [document(project, of="proj") for project in found]
    return page_by_id(Project, rows, query.limit)


async def create_project(context: Context) -> Project:
    """Make a project."""
    order = context.body_as(ProjectOrder)
    made = await context.session.administration.create_project(
        order.name, context.organization.id, settings=order.change()
    )
    return shown(Project, made, of="proj")


async def split_projects(context: Context) -> Split:
    """Make the usual ones: testing, production, customer project, internal tool."""
    made = await context.session.administration.create_split(context.organization.id)
    return Split(data=[shown(Project, each, of="proj") for each in made])


async def show_project(context: Context) -> Project:
    """One project."""
    return shown(Project, await find_project(context), of="proj")


async def change_project(context: Context) -> Project:
    """Change what is set."""
    project = await find_project(context)
    change = context.body_as(ProjectPatch).change()
    changed = await context.session.administration.change_project(project.id, change)
    return shown(Project, changed, of="proj")


async def archive_project(context: Context) -> Project:
    """Close it for good."""
    project = await find_project(context)
    archived = await context.session.administration.archive_project(project.id)
    return shown(Project, archived, of="proj")


async def find_project(context: Context, text: str | None = None) -> tenants.Project:
    """The path's project, or one that a body names; another organisation's is not there.

    Raises:
        NotFoundError: There is none.
    """
    project_id = (
        context.ids["project_id"] if text is None else parse_id("proj", text, field="project_id")
    )
    found = await context.session.tenants.projects(
        project_id=project_id, organization_id=context.organization.id, limit=1
    )
    if not found:
        raise NotFoundError("There is no such project.")
    return found[0]


async def find_open_project(context: Context, text: str) -> tenants.Project:
    """A project that a body names and that can still have new things.

    Raises:
        NotFoundError: There is none.
        ConflictError: It is archived.
    """
    project = await find_project(context, text)
    if project.archived_at is not None:
        raise ConflictError(f"{format_id('proj', project.id)} is archived.")
    return project


_PROJECTS: Final = "/organizations/{organization_id}/projects"
_ONE: Final = _PROJECTS + "/{project_id}"

ROUTES: Final = (
    Route(
        method="GET",
        path=_PROJECTS,
        name="listProjects",
        summary="Projects",
        tag="projects",
        handler=list_projects,
        action=Action.PROJECTS_VIEW,
        query=PageQuery,
        answer=Page[Project],
    ),
    Route(
        method="POST",
        path=_PROJECTS,
        name="createProject",
        summary="Make a project",
        tag="projects",
        handler=create_project,
        action=Action.PROJECTS_CHANGE,
        body=ProjectOrder,
        answer=Project,
        status=201,
    ),
    Route(
        method="POST",
        path="/organizations/{organization_id}/project-split",
        name="splitProjects",
        summary="Make the projects that suit most; those that are there are left alone",
        tag="projects",
        handler=split_projects,
        action=Action.PROJECTS_CHANGE,
        answer=Split,
    ),
    Route(
        method="GET",
        path="/organizations/{organization_id}/project-findings",
        name="listProjectFindings",
        summary="What is worth mending about projects, such as one without an owner",
        tag="projects",
        handler=list_findings,
        action=Action.PROJECTS_VIEW,
        query=PageQuery,
        answer=Page[ProjectFinding],
    ),
    Route(
        method="GET",
        path=_ONE,
        name="showProject",
        summary="A project",
        tag="projects",
        handler=show_project,
        action=Action.PROJECTS_VIEW,
        answer=Project,
    ),
    Route(
        method="PATCH",
        path=_ONE,
        name="changeProject",
        summary="Change a project",
        tag="projects",
        handler=change_project,
        action=Action.PROJECTS_CHANGE,
        body=ProjectPatch,
        answer=Project,
    ),
    Route(
        method="POST",
        path=_ONE + "/archive",
        name="archiveProject",
        summary="Close a project and its keys for good",
        tag="projects",
        handler=archive_project,
        action=Action.PROJECTS_CHANGE,
        answer=Project,
    ),
)
