"""What a project may be set to: checked once for every door, when it is made and changed."""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, UnsetType, structs

from farebox.kit.errors import InvalidInputError
from farebox.operations.tenants import NewProject, OutputCap, Project, ProjectChange
from farebox.tenancy.model_access import parse_models
from farebox.tenancy.names import parse_environment, parse_name, parse_sentence

OUTPUT_TOKENS_MAX: Final = 10_000_000
"""No model answers with more; a project's default above it is a slip."""

RETENTION_DAYS_MAX: Final = 3_650
"""Ten years: what must be kept for longer is kept elsewhere."""

FEATURE_CAPS_MAX: Final = 100
"""Features of one project with caps of their own: every call of it carries them along."""

_PARSERS: Final[dict[str, Any]] = {
    "name": parse_name,
    "environment": parse_environment,
    "purpose": parse_sentence,
    "owner": parse_sentence,
}


def checked_project(new: NewProject, settings: ProjectChange) -> NewProject:
    """A new project with every setting read.

    Args:
        new: The project as it would be.
        settings: What is set otherwise.

    Raises:
        InvalidInputError: Naming the field.
    """
    read = structs.replace(new, **_read(structs.asdict(new) | _given(settings)))
    _check_together(read)
    return read


def checked_change(project: Project, change: ProjectChange) -> ProjectChange:
    """A change with every setting read, and fitting what stays as it is.

    Raises:
        InvalidInputError: Naming the field.
    """
    read = _read(_given(change))
    _check_together(structs.replace(project, **read))
    return ProjectChange(**read)


def _given(change: ProjectChange) -> dict[str, Any]:
    return {name: value for name, value in structs.asdict(change).items() if value is not UNSET}


def _read(given: dict[str, Any]) -> dict[str, Any]:
    found = dict(given)
    for field, parse in _PARSERS.items():
        if field in given:
            found[field] = parse(given[field], field=field)
    if given.get("allowed_models") is not None:
        found["allowed_models"] = parse_models(given["allowed_models"])
    for field in ("default_output_tokens", "output_tokens_max"):
        _check_count(field, given.get(field), OUTPUT_TOKENS_MAX)
    if "feature_caps" in given:
        found["feature_caps"] = _read_caps(given["feature_caps"])
    _check_count("content_retention_days", given.get("content_retention_days"), RETENTION_DAYS_MAX)
    return found


def _read_caps(caps: dict[str, OutputCap]) -> dict[str, OutputCap]:
    """Each feature's cap, without those that say nothing."""
    if len(caps) > FEATURE_CAPS_MAX:
        raise InvalidInputError(
            "feature_caps", f"may name at most {FEATURE_CAPS_MAX} features of a project"
        )
    for feature, cap in caps.items():
        where = f"feature_caps.{feature[:40]}"
        if parse_name(feature, field=where) != feature:
            raise InvalidInputError(where, "must be the feature's name as calls give it")
        for field in ("default_output_tokens", "output_tokens_max"):
            _check_count(f"{where}.{field}", getattr(cap, field), OUTPUT_TOKENS_MAX)
        _check_pair(cap, where + ".")
    return {feature: cap for feature, cap in caps.items() if cap != OutputCap()}


def _check_count(field: str, value: int | UnsetType | None, most: int) -> None:
    if value is not None and not isinstance(value, UnsetType) and not 0 < value <= most:
        raise InvalidInputError(field, f"must be from 1 to {most:,}")


def _check_pair(cap: NewProject | OutputCap, where: str = "") -> None:
    default, most = cap.default_output_tokens, cap.output_tokens_max
    if default is not None and most is not None and default > most:
        raise InvalidInputError(
            f"{where}default_output_tokens", f"must not be more than output_tokens_max ({most:,})"
        )


def _check_together(project: NewProject | Project) -> None:
    _check_pair(project)
    if project.stores_content and project.content_retention_days is None:
        raise InvalidInputError(
            "content_retention_days",
            "must be given where content is stored: nothing is kept for good",
        )
