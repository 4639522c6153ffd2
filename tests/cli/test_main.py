"""The program's door: commands, help, errors, exit status."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

from farebox.cli.main import COMMANDS, main
from tests.cli.conftest import Farebox

HEAVY = ("alembic", "asyncio", "cryptography", "jinja2", "msgspec", "psycopg", "rich", "sqlalchemy")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once(command: str) -> None:
    """``--help`` of every command exits 0, says something, and loads none of the slow libraries."""
    program = (
        "import sys; from farebox.cli.main import main; status = main(sys.argv[1:]);"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules];"
        "print('loaded', loaded, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *filter(None, [command]), "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: farebox" in done.stdout
    assert done.stderr == "loaded []\n"


def test_every_line_of_help_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing that a newcomer sees fits 80 columns and names every command."""
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for name in COMMANDS:
        assert f"  {name} " in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module(command: str) -> None:
    """The table names modules that are there and keep the convention."""
    module = importlib.import_module(f"farebox.cli.{COMMANDS[command][1]}")
    assert callable(module.add_arguments)
    assert callable(module.run)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["org", "list"], "did you mean `orgs`"),
        (["nonsense"], "there is no command 'nonsense'"),
        (["orgs"], "ACTION"),
        (["orgs", "creat"], "invalid choice"),
        (["orgs", "create"], "NAME"),
        (["credits", "grant", "--amount", "1", "--source", "gold"], "--source"),
        (["orgs", "list", "--lim", "3"], "--lim"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_a_wrong_use_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be read is explained on one line of stderr, with where to look."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("farebox: error: ")
    assert said in printed.err
    assert "--help`" in printed.err


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was asked, so nothing was done: status 2, and what can be asked."""
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("farebox ")


def test_flags_may_stand_before_the_command(farebox: Farebox) -> None:
    """``farebox --json orgs list`` is ``farebox orgs list --json``."""
    assert farebox("--json", "orgs", "list").document == farebox("orgs", "list", "--json").document


def test_an_error_with_json_is_json(farebox: Farebox) -> None:
    """A script gets a code, the field and the sentence; stdout stays empty."""
    outcome = farebox("orgs", "create", "  ", "--json", status=2)
    assert outcome.out == ""
    assert outcome.error == {
        "code": "invalid_input",
        "field": "name",
        "message": "name must not be empty",
    }
    assert farebox("orgs", "show", "nobody", "--json", status=1).error["code"] == "not_found"
    assert farebox("credits", "transfer", "--json", status=1).error["reason"] == (
        "transfer_not_allowed"
    )
    assert json.loads(farebox("orgs", "frob", "--json", status=2).err)["error"]["code"] == "usage"


def test_a_document_is_plain_ascii(farebox: Farebox) -> None:
    """JSON is ASCII, so no terminal and no pipe can spoil a name."""
    outcome = farebox("orgs", "create", "Łódź", "--json")
    assert outcome.out.isascii()
    assert outcome.document["name"] == "Łódź"


def test_a_home_without_farebox_is_not_made_by_looking(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asking makes nothing: the error says how to begin, and the folder stays away."""
    home = tmp_path_factory.mktemp("empty") / "home"
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main(["orgs", "list", "--home", str(home)]) == 1
    assert "farebox init" in capsys.readouterr().err
    assert not home.exists()


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("postgresql://nobody:hunter2@127.0.0.1:1/x", 1, "cannot be reached"),
        ("mysql://nobody:hunter2@h/x", 2, "DATABASE_URL"),
        ("postgresql://nobody:hunter2@h/x?colour=red", 2, "DATABASE_URL"),
    ],
)
def test_a_database_that_cannot_be_used_is_explained(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch, url: str, status: int, said: str
) -> None:
    """One line, the variable named, and never the password."""
    monkeypatch.setenv("DATABASE_URL", url)
    outcome = farebox("orgs", "list", status=status)
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert "hunter2" not in outcome.err


def test_a_reader_that_leaves_is_no_error_message() -> None:
    """``farebox ... | head`` ends without a traceback."""
    program = (
        "import os, sys; from farebox.cli import main as m\n"
        "def gone(arguments):\n"
        "    raise BrokenPipeError\n"
        "m._run = gone\n"
        "sys.exit(m.main(['orgs']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help is laid out for 80 columns, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "80")
