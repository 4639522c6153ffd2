"""What the command line's tests share: the program run in this process, on a fresh database."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from farebox.cli import database
from farebox.cli.main import main
from farebox.providers import price_catalogue
from farebox.providers.price_catalogue import CatalogueSnapshot
from farebox.rating.price_book import ModelFacts, PriceVersion
from farebox.storage.connecting import Connector
from tests.support.doctor_house import doctor, house, new_tenant, run, tenant

__all__ = ["doctor", "house", "new_tenant", "run", "tenant"]


class Outcome(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The JSON error on stderr."""
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


Farebox = Callable[..., Outcome]


@pytest.fixture
def farebox(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Farebox:
    """``farebox(*arguments, stdin="")`` on a sandbox; it must succeed unless ``status`` says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("FAREBOX_HOME", str(tmp_path / "home"))
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    # The tests' server may forget on a crash, which the program refuses.
    monkeypatch.setattr(database, "Connector", partial(Connector, durable=False))

    def run(*arguments: str, stdin: str = "", status: int = 0) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        found = main(arguments)
        said = capsys.readouterr()
        assert found == status, said
        return Outcome(found, said.out, said.err)

    return run


@pytest.fixture
def real(farebox: Farebox, dsn: str) -> Farebox:
    """The same on a real installation."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE deployment SET sandbox = false")
    return farebox


@pytest.fixture(scope="session")
def catalogue() -> CatalogueSnapshot:
    """The installed price catalogue, read once."""
    return price_catalogue.import_catalogue()


@pytest.fixture
def few_prices(catalogue: CatalogueSnapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of a few OpenAI models only: most tests need no more, and it is much faster."""
    wanted = {"gpt-5", "gpt-5.4", "gpt-5.4-mini", "gpt-5.5", "gpt-4o"}
    few = catalogue._replace(
        versions=tuple(v for v in catalogue.versions if is_wanted(v, wanted)),
        facts=tuple(f for f in catalogue.facts if is_wanted(f, wanted)),
        skipped=(),
    )
    monkeypatch.setattr(price_catalogue, "import_catalogue", lambda: few)


def is_wanted(row: PriceVersion | ModelFacts, models: set[str]) -> bool:
    """Tell whether a row is of one of those models of OpenAI's."""
    return row.provider == "openai" and row.model in models
