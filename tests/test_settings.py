"""What a process is told from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from farebox.kit.errors import InvalidInputError
from farebox.settings import Settings, read_settings


def test_without_a_word_everything_is_local(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The defaults are those that DESIGN.md fixes: .farebox here, 127.0.0.1, 8080 and 8081."""
    monkeypatch.chdir(tmp_path)
    settings = read_settings({})
    assert settings == Settings(
        home=tmp_path / ".farebox",
        database_url=None,
        gateway_host="127.0.0.1",
        gateway_port=8080,
        console_host="127.0.0.1",
        console_port=8081,
        sandbox=False,
    )


def test_a_flag_goes_before_its_variable(tmp_path: Path) -> None:
    """What is typed now wins over what was exported earlier."""
    environ = {
        "FAREBOX_HOME": "/elsewhere",
        "DATABASE_URL": "postgresql://h/d",
        "FAREBOX_HOST": "192.0.2.1",
        "FAREBOX_GATEWAY_PORT": "1",
        "FAREBOX_CONSOLE_PORT": " 2 ",
        "FAREBOX_CONSOLE_URL": "https://credits.example.com/",
        "FAREBOX_ERROR_CODES": "classic",
    }
    settings = read_settings(environ, home=str(tmp_path), gateway_port=0)
    assert (settings.home, settings.gateway_port, settings.console_port) == (tmp_path, 0, 2)
    assert settings.gateway_host == settings.console_host == "192.0.2.1"
    assert settings.database_url == "postgresql://h/d"
    assert settings.console_url == "https://credits.example.com"
    assert settings.classic_codes is True, "ERR-02"
    assert read_settings({"FAREBOX_ERROR_CODES": "native"}).classic_codes is False


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({"FAREBOX_GATEWAY_PORT": "http"}, "FAREBOX_GATEWAY_PORT"),
        ({"FAREBOX_GATEWAY_PORT": "70000"}, "FAREBOX_GATEWAY_PORT"),
        ({"FAREBOX_CONSOLE_PORT": "-1"}, "FAREBOX_CONSOLE_PORT"),
        ({"FAREBOX_CONSOLE_PORT": "8080"}, "FAREBOX_CONSOLE_PORT"),
        ({"FAREBOX_CONSOLE_URL": "credits.example.com"}, "FAREBOX_CONSOLE_URL"),
        ({"FAREBOX_CONSOLE_URL": "https://a b"}, "FAREBOX_CONSOLE_URL"),
        ({"FAREBOX_ERROR_CODES": "old"}, "FAREBOX_ERROR_CODES"),
        ({"FAREBOX_HOST": "a b"}, "FAREBOX_HOST"),
        ({"FAREBOX_HOST": "http://x"}, "FAREBOX_HOST"),
        ({"DATABASE_URL": "mysql://user:hunter2@h/d"}, "DATABASE_URL"),
        ({"DATABASE_URL": "hunter2"}, "DATABASE_URL"),
        ({"FAREBOX_HOME": __file__}, "FAREBOX_HOME"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], field: str) -> None:
    """The error names the variable, and never repeats a database URL with its password."""
    with pytest.raises(InvalidInputError) as caught:
        read_settings(environ)
    assert caught.value.field == field
    assert "hunter2" not in caught.value.message
