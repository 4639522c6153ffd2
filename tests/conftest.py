"""What every test may ask for."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest
import structlog

from tests.support.databases import TestServer, running_test_server
from tests.support.figures import figures, pytest_terminal_summary

__all__ = ["figures", "pytest_terminal_summary"]


def pytest_collection_finish() -> None:
    """Tell the collector of circles that the tests themselves stay.

    Tests that ask it what a call leaves would else have it look through all of them each time.
    """
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Log where servers do: a house beside a test may log while that reads what a command said."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """One PostgreSQL per test process."""
    with running_test_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def dsn(postgres: TestServer) -> Iterator[str]:
    """A fresh, migrated sandbox database."""
    with postgres.database() as dsn:
        yield dsn
