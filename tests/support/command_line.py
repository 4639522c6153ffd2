"""The command ``farebox``, run in this process against a test's database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import psycopg

from farebox.cli.main import main
from farebox.storage.connecting import Connector

if TYPE_CHECKING:
    import pytest


class CommandLine:
    """Runs commands and keeps what they said."""

    def __init__(
        self, dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        named = psycopg.conninfo.conninfo_to_dict(dsn)
        monkeypatch.setenv("DATABASE_URL", f"postgresql://?{urlencode(named)}")
        # The test server forgets commits when the machine crashes, and is refused for that.
        monkeypatch.setattr(Connector, "_check", _no_check)
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def run(self, *arguments: str) -> int:
        """Run a command; gives its exit status."""
        self._capsys.readouterr()
        status = main(arguments)
        self.out, self.err = self._capsys.readouterr()
        return status

    def json(self, *arguments: str) -> Any:
        """Run a command with ``--json``; gives its document."""
        self.run(*arguments, "--json")
        return json.loads(self.out)


async def _no_check(connector: Connector, connection: object) -> None:
    """Take the server as it is."""
