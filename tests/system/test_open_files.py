"""How many files a process may have open: what its system allows, and no fewer than before."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from farebox.system.open_files import allow_open_files

FILES = resource.RLIMIT_NOFILE


@pytest.fixture(autouse=True)
def limits() -> Iterator[tuple[int, int]]:
    """The limits of this process, as they were afterwards too."""
    found = resource.getrlimit(FILES)
    yield found
    resource.setrlimit(FILES, found)


def test_the_soft_limit_is_raised(limits: tuple[int, int]) -> None:
    """DESIGN promise 6: a thousand streams need two thousand connections; shells give half."""
    _, hard = limits
    resource.setrlimit(FILES, (256, hard))
    assert allow_open_files(512) == 512
    assert resource.getrlimit(FILES) == (512, hard)


def test_it_is_never_lowered(limits: tuple[int, int]) -> None:
    """DESIGN promise 6: who was given more keeps it."""
    _, hard = limits
    resource.setrlimit(FILES, (512, hard))
    assert allow_open_files(256) == 512
    assert resource.getrlimit(FILES) == (512, hard)


def test_what_the_system_refuses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN promise 6: a limit that cannot be raised keeps nobody from starting."""

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allow_open_files() == 256


def test_no_limit_at_all_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN promise 6: where nothing is limited, nothing is changed."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert allow_open_files(10) == 10
