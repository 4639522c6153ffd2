"""``farebox replay``: bad input is told in a sentence, before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farebox.assembly.ready import write_ready
from farebox.cli.main import main

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = HEADER + "2023-11-16 18:17:03.9799600,4808,10\n"


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a sandbox."""
    monkeypatch.setenv("FAREBOX_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REPLAY_KEY", raising=False)
    return tmp_path / "home"


def replay(file: Path, *flags: str) -> int:
    """Run it against a port where nobody is."""
    where = ("--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "REPLAY_KEY")
    return main(["replay", str(file), "--model", "gpt-5.4", *(flags or where)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "must begin with the line TIMESTAMP,ContextTokens,GeneratedTokens"),
        ("time,in,out\n1,2,3\n", "must begin with the line"),
        (HEADER, "has no calls"),
        (HEADER + "x,-5,3\n", "line 2: ContextTokens must be a whole number"),
        (HEADER + "x,5,-3\n", "line 2: GeneratedTokens must be a whole number"),
        (HEADER + "x,5,3\nx,0,3\n", "line 3: ContextTokens"),
        (HEADER + "x,5.5,3\n", "got '5.5'"),
        (HEADER + "x,\u0665,3\n", "ContextTokens must be"),
        (HEADER + "x,10000001,3\n", "from 1 to 10000000"),
        (HEADER + "x," + "9" * 5_000 + ",3\n", "ContextTokens must be"),
        (HEADER + "x,5\n", "line 2 has 2 fields, not 3"),
        (HEADER + "x,5,3,9\n", "line 2 has 4 fields"),
        (HEADER + '"' + "x" * 200_000 + '",5,3\n', "is not a CSV file"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_trace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    said: str,
) -> None:
    """The line and the field that are wrong are named; nothing is sent."""
    monkeypatch.setenv("REPLAY_KEY", "fbx_test_x")
    file = tmp_path / "trace.csv"
    file.write_text(content, encoding="utf-8")
    assert replay(file) != 0
    assert said in capsys.readouterr().err


def test_files_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, a folder and bytes that are no text are errors of the file."""
    monkeypatch.setenv("REPLAY_KEY", "fbx_test_x")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing.csv", tmp_path, binary):
        assert replay(file) != 0
        assert "cannot be read" in capsys.readouterr().err


def test_where_to_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a sandbox, an address or a key, it says which flag is needed."""
    file = tmp_path / "trace.csv"
    file.write_text(GOOD)
    assert main(["replay", str(file), "--model", "m"]) != 0
    assert "--base-url" in capsys.readouterr().err
    assert replay(file) != 0
    assert "--api-key-env" in capsys.readouterr().err


def test_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gateway that is not there is an error of each call, counted, with exit status 1."""
    monkeypatch.setenv("REPLAY_KEY", "fbx_test_x")
    file = tmp_path / "trace.csv"
    file.write_text(GOOD * 1 + "x,1,1\n")
    where = ("--base-url", "http://127.0.0.1:9/v1/", "--api-key-env", "REPLAY_KEY")
    assert replay(file, "--json", *where) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["calls"], found["answered"], found["charge"]) == (2, 0, "0.00")
    assert sum(found["errors"].values()) == 2
    assert replay(file, "--base-url", "nonsense", "--api-key-env", "REPLAY_KEY") == 2


@pytest.mark.parametrize("concurrency", ["0", "-1", "100000"])
def test_a_concurrency_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    concurrency: str,
) -> None:
    """The flag's range is told."""
    monkeypatch.setenv("REPLAY_KEY", "fbx_test_x")
    file = tmp_path / "trace.csv"
    file.write_text(GOOD)
    where = ("--base-url", "http://127.0.0.1:9/v1", "--api-key-env", "REPLAY_KEY")
    assert replay(file, "--concurrency", concurrency, *where) != 0
    assert "--concurrency must be from 1 to" in capsys.readouterr().err


def test_the_sandbox_is_found_by_itself(
    empty_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The running sandbox's address and key are the default."""
    write_ready(empty_home, {"gateway_url": "http://127.0.0.1:9", "api_key": "fbx_test_x"})
    file = tmp_path / "trace.csv"
    file.write_text(GOOD)
    assert main(["replay", str(file), "--model", "m"]) == 1
    assert "upstream_not_reached" in capsys.readouterr().out
