"""Named SQL: every statement of the package can be found, and the server understands it."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from farebox.storage import sql
from farebox.storage.sql import queries

FOLDER = Path(sql.__file__).parent / "queries"
FILES = sorted(path.stem for path in FOLDER.glob("*.sql"))


@pytest.mark.parametrize("file", FILES)
def test_every_statement_has_a_name_and_a_body(file: str) -> None:
    """ENGINE "A batch": comments and names stay at home, whole statements travel."""
    found = queries(file)
    text = (FOLDER / f"{file}.sql").read_text()
    assert list(found) == re.findall(r"^-- name: (\w+)$", text, re.MULTILINE)
    for name, body in found.items():
        assert body.strip(), name
        assert "--" not in body, name
        assert not body.rstrip().endswith(";"), name
    assert queries(file) is found


@pytest.mark.parametrize("file", FILES)
def test_the_server_understands_every_statement(file: str, dsn: str) -> None:
    """DESIGN 1: no statement names a table, column or function that the schema does not have."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, body in queries(file).items():
            # As the driver would send it: every placeholder a parameter of unknown type.
            numbered = _numbered(body)
            result = connection.pgconn.prepare(name.encode(), numbered.encode())
            assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, (name, result.error_message)


def _numbered(body: str) -> str:
    """A statement with numbers in the place of the driver's placeholders."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[1] or str(len(numbers)), f"${len(numbers) + 1}")

    return re.sub(r"%\((\w+)\)s|%s", number, body).replace("%%", "%")


def test_there_is_no_such_file() -> None:
    """DESIGN 1: a wrong name is a programmer's error and found at once."""
    with pytest.raises(FileNotFoundError):
        queries("nowhere")


def test_a_name_stands_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN 1: two statements of one name cannot hide each other."""
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "twice.sql").write_text("-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n")
    monkeypatch.setattr(sql, "files", lambda _: tmp_path)
    with pytest.raises(AssertionError, match="a"):
        queries("twice")
