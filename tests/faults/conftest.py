"""What the fault tests stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farebox.system.postgres.throwaway import throwaway
from tests.support.processes import DurableServer


@pytest.fixture(scope="session")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DurableServer]:
    """A server that keeps what it acknowledges, and a sandbox in it to copy."""
    folder = tmp_path_factory.mktemp("durable")
    with throwaway(folder, durable=True) as server:
        yield DurableServer(server, folder)
