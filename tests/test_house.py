"""The tidy test: the rules of the house that no linter knows.

Each test lists every offender with what to do, so that one run is enough to put the house in order.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "farebox"
PURE_ROOMS = ("kit", "ledger", "rating", "tenancy", "advice")

LINES_PER_FILE_MAX = 500  # a file is one noun; two nouns need two files
LINES_PER_FUNCTION_MAX = 70  # one screen, docstring not counted
LINES_PER_README_MAX = 70  # one screen
LINES_PER_ADR_MAX = 60

# Folders that a tool made; everything else in the checkout is ours.
TOOL_FOLDERS = {
    ".boot",
    ".farebox",
    ".git",
    ".hypothesis",
    ".import_linter_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "dist",
    "htmlcov",
    "node_modules",
    "vendor",
}
TEXT_SUFFIXES = {
    "",
    ".cfg",
    ".css",
    ".csv",
    ".html",
    ".ini",
    ".js",
    ".json",
    ".lock",
    ".md",
    ".py",
    ".sh",
    ".sql",
    ".svg",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}


def _walk(top: Path) -> list[Path]:
    """Every file of ours under a folder, in a stable order."""
    found: list[Path] = []
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = sorted(set(subfolders) - TOOL_FOLDERS)
        found += [Path(folder, name) for name in sorted(names)]
    return found


def _python_files(top: Path) -> list[Path]:
    return [path for path in _walk(top) if path.suffix == ".py"]


def _text_files(top: Path) -> list[tuple[Path, str]]:
    texts: list[tuple[Path, str]] = []
    for path in _walk(top):
        if path.suffix in TEXT_SUFFIXES and not path.is_symlink():
            try:
                texts.append((path, path.read_text(encoding="utf-8")))
            except UnicodeDecodeError:
                continue  # a binary file without a suffix
    return texts


def _where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _rooms() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def _project() -> dict[str, object]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(project, dict)
    return project


def _lock_files() -> list[Path]:
    return sorted(ROOT.glob("requirements*.lock"))


def _locked(path: Path) -> dict[str, str]:
    """The blocks of a lock file: the requirement line -> everything under it."""
    blocks: dict[str, str] = {}
    requirement = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            blocks[requirement] += line + "\n"
        else:
            requirement = line.removesuffix("\\").strip()
            blocks[requirement] = ""
    return blocks


# --- rooms and files ---------------------------------------------------------------------------


def test_every_room_has_a_readme_of_one_screen() -> None:
    """Each room says on one screen what it owns, what it does not own and what is always true."""
    offenders = []
    for room in _rooms():
        readme = room / "README.md"
        if not readme.is_file():
            offenders.append(f"{_where(room)}: no README.md")
        elif len(readme.read_text(encoding="utf-8").splitlines()) > LINES_PER_README_MAX:
            offenders.append(f"{_where(readme)}: longer than {LINES_PER_README_MAX} lines")
    assert offenders == []


def test_every_python_file_opens_with_a_docstring() -> None:
    """A reader learns from the first line of any file what it is for."""
    offenders = [
        _where(path)
        for path in _python_files(ROOT)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert offenders == []


def test_no_source_file_is_too_long() -> None:
    """A file holds one noun; one that outgrows the limit is split by noun."""
    sizes = {
        _where(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in _walk(PACKAGE)
        if path.suffix in {".py", ".sql"}
    }
    assert {path: n for path, n in sizes.items() if n > LINES_PER_FILE_MAX} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    """A function can be read without scrolling; its docstring is not counted."""
    offenders = []
    for path in _python_files(PACKAGE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # A docstring is the first statement: the body begins at the second.
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                lines = (node.end_lineno or 0) - first.lineno + 1
                if lines > LINES_PER_FUNCTION_MAX:
                    offenders.append(f"{_where(path)}:{node.lineno} {node.name}: {lines} lines")
    assert offenders == []


def test_no_leftover_marks() -> None:
    """Unfinished work is finished or written down in an issue, not marked in the code."""
    # Written in halves so that this file does not find itself.
    mark = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    offenders = [
        f"{_where(path)}:{number}"
        for top in ("src", "tests", "docs", ".ci")
        for path, text in _text_files(ROOT / top)
        for number, line in enumerate(text.splitlines(), 1)
        if mark.search(line)
    ]
    assert offenders == []


def test_every_test_file_mirrors_a_source_file() -> None:
    """tests/<room>/test_<file>.py tests src/farebox/<room>/<file>.py, so both are found by name.

    A large subject may have several: test_<file>_<aspect>.py.
    """
    offenders = []
    for room in _rooms():
        for path in _python_files(ROOT / "tests" / room.name):
            if not path.name.startswith("test_"):
                continue  # conftest.py and helpers
            folder = PACKAGE / path.parent.relative_to(ROOT / "tests")
            subject = path.stem.removeprefix("test_")
            sources = {
                source.stem if source.is_file() else source.name for source in folder.glob("*")
            }
            if not any(subject == name or subject.startswith(f"{name}_") for name in sources):
                offenders.append(f"{_where(path)}: no {_where(folder)}/{subject}.py")
    assert offenders == []


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_examples_in_docstrings_are_true(room: str) -> None:
    """An example in a docstring of the core is run and gives what it says."""
    failures = []
    for path in _python_files(PACKAGE / room):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if doctest.testmod(importlib.import_module(name)).failed:
            failures.append(name)
    assert failures == []


# --- nothing of the machine that made it -------------------------------------------------------


def test_no_file_names_a_place_on_a_machine() -> None:
    """The checkout works anywhere: no file holds a path that exists on one machine only."""
    personal = re.compile(
        r"(?<![\w.:/~$}-])/(?:home|root|Users|work|workspace|mnt|media|builds|opt)/[\w.-]+"
    )
    here = str(ROOT) if len(ROOT.parts) > 2 else None
    offenders = []
    for path, text in _text_files(ROOT):
        for number, line in enumerate(text.splitlines(), 1):
            if personal.search(line) or (here and here in line):
                offenders.append(f"{_where(path)}:{number}: {line.strip()[:80]}")
    assert offenders == []


def test_no_paper_points_outside_the_checkout() -> None:
    """A relative path in a paper, a configuration or a script stays inside the checkout."""
    climbs = re.compile(r"(?<![\w./])(?:\.\./)+[\w./-]*")
    offenders = [
        f"{_where(path)}: {match.group()}"
        for path, text in _text_files(ROOT)
        if path.suffix in {".md", ".toml", ".yaml", ".yml", ".sh", ""}
        for match in climbs.finditer(text)
        if not (path.parent / match.group()).resolve().is_relative_to(ROOT)
    ]
    assert offenders == []


def test_every_link_between_papers_leads_somewhere() -> None:
    """A relative link in a paper names a file that is there."""
    link = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
    offenders = [
        f"{_where(path)}: {target}"
        for path, text in _text_files(ROOT)
        if path.suffix == ".md"
        for target in link.findall(text)
        if not (path.parent / target).exists()
    ]
    assert offenders == []


# --- dependencies ------------------------------------------------------------------------------


def test_lock_files_hold_names_versions_and_hashes_only() -> None:
    """A lock file has a hash for each package and no trace of the index it was made with."""
    assert [path.name for path in _lock_files()] == [
        "requirements-dev.lock",
        "requirements-fuzz.lock",
        "requirements-uv.lock",
        "requirements.lock",
    ]
    requirement = re.compile(r"[a-z0-9][a-z0-9._-]*==[\w.+!]+(?: ; [^/@]+)?")
    digest = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}(?: \\)?")
    for path in _lock_files():
        for name, hashes in _locked(path).items():
            assert requirement.fullmatch(name), f"{path.name}: {name}"
            assert hashes, f"{path.name}: {name} has no hash"
            assert all(digest.fullmatch(line) for line in hashes.splitlines()), (path.name, name)


def test_the_development_set_holds_the_runtime_set() -> None:
    """What is tested is what runs: both lock files agree on every version and hash."""
    development = _locked(ROOT / "requirements-dev.lock")
    strangers = [
        f"{other}: {name}"
        for other in ("requirements.lock", "requirements-uv.lock")
        for name, hashes in _locked(ROOT / other).items()
        if development.get(name) != hashes
    ]
    assert strangers == [], "run ./dev lock"


def test_every_dependency_is_locked_and_explained() -> None:
    """Each runtime dependency has a version in the lock and a reason in its decision record."""
    record = (ROOT / "docs/adr/0005-dependencies.md").read_text(encoding="utf-8")
    locked = {name.split("==")[0] for name in _locked(ROOT / "requirements.lock")}
    dependencies = _project()["dependencies"]
    assert isinstance(dependencies, list)
    names = [re.split(r"[\[<>=;~! ]", dependency)[0] for dependency in dependencies]
    assert sorted(names) == names, "keep them in order"
    assert [name for name in names if name not in locked] == [], "run ./dev lock"
    assert [name for name in names if f"`{name}`" not in record] == [], "say why in ADR 0005"


# --- papers ------------------------------------------------------------------------------------


def test_the_root_has_its_papers() -> None:
    """A visitor finds the usual papers where they are usual."""
    papers = ["CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md", "STYLE.md"]
    assert [name for name in papers if not (ROOT / name).is_file()] == []


def test_decision_records_are_numbered_and_short() -> None:
    """Decision records count up without a gap and can be read in two minutes."""
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    numbers = [path.name.split("-")[0] for path in records]
    assert numbers == [f"{number:04}" for number in range(1, len(records) + 1)]
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. "), f"{_where(path)}: title"
        assert len(text.splitlines()) <= LINES_PER_ADR_MAX, f"{_where(path)}: too long"
        for heading in ("## Context", "## Decision", "## Consequences"):
            assert heading in text, f"{_where(path)}: no {heading}"


def test_the_changelog_is_open_and_knows_the_version() -> None:
    """The change log has a place for the next change and speaks of the version the code has."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    version = importlib.import_module("farebox").__version__
    assert version == _project()["version"]
