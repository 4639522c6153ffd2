"""The settings of one process: read once, from flags over environment, checked, never changed.

What belongs to the installation and must survive it (organisations, prices, limits) is in the
database; here is only what a process needs to find the database and its own sockets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from farebox.kit.errors import InvalidInputError

GATEWAY_PORT: Final = 8080
CONSOLE_PORT: Final = 8081
HOST: Final = "127.0.0.1"

HOME_VARIABLE: Final = "FAREBOX_HOME"
DATABASE_VARIABLE: Final = "DATABASE_URL"
HOST_VARIABLE: Final = "FAREBOX_HOST"
GATEWAY_PORT_VARIABLE: Final = "FAREBOX_GATEWAY_PORT"
CONSOLE_PORT_VARIABLE: Final = "FAREBOX_CONSOLE_PORT"
CONSOLE_URL_VARIABLE: Final = "FAREBOX_CONSOLE_URL"
ERROR_CODES_VARIABLE: Final = "FAREBOX_ERROR_CODES"

_PORT_MAX: Final = 65_535
_URL_TEXT: Final = re.compile(r"https?://[A-Za-z0-9._:%\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")
_HOST_TEXT: Final = re.compile(r"[A-Za-z0-9._:%-]+")
_TEXT_LENGTH_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a process is told from outside."""

    home: Path
    """Where state lives (absolute): keys, logs and, without a database URL, the database."""
    database_url: str | None = None
    """Another PostgreSQL; None means the bundled one of the home."""
    gateway_host: str = HOST
    gateway_port: int = GATEWAY_PORT
    """Zero lets the system choose."""
    console_host: str = HOST
    console_port: int = CONSOLE_PORT
    console_url: str = ""
    """Where people reach the console, without a slash at the end: what refusals link to (ERR-03).
    Empty where nobody said: then it is the console of the same process, if there is one."""
    classic_codes: bool = False
    """Whether a billing refusal's code is ``insufficient_quota`` whatever the cause, for clients
    that know no other (ERR-02)."""
    sandbox: bool = False
    """Play money and simulated providers, marked as such everywhere."""


def read_settings(
    environ: Mapping[str, str] | None = None,
    *,
    home: str | None = None,
    database_url: str | None = None,
    host: str | None = None,
    gateway_port: str | int | None = None,
    console_port: str | int | None = None,
    sandbox: bool = False,
) -> Settings:
    """Read the settings; an argument (a flag) goes before its variable.

    Args:
        environ: The environment; the process's own where None. An empty variable counts as unset.
        home: Over ``FAREBOX_HOME`` (default ``.farebox`` in the working directory).
        database_url: Over ``DATABASE_URL``.
        host: Over ``FAREBOX_HOST``, for both planes.
        gateway_port: Over ``FAREBOX_GATEWAY_PORT``.
        console_port: Over ``FAREBOX_CONSOLE_PORT``.
        sandbox: From the flag alone, lest a forgotten variable make real money play money.

    Raises:
        InvalidInputError: Naming the variable, and how to mend it.
    """
    source = os.environ if environ is None else environ
    where = _text(HOST_VARIABLE, host, source) or HOST
    if not _HOST_TEXT.fullmatch(where):
        raise InvalidInputError(HOST_VARIABLE, "must be a host name or an IP address")
    settings = Settings(
        home=_home(_text(HOME_VARIABLE, home, source)),
        database_url=_database(_text(DATABASE_VARIABLE, database_url, source)),
        gateway_host=where,
        gateway_port=_port(GATEWAY_PORT_VARIABLE, gateway_port, source, GATEWAY_PORT),
        console_host=where,
        console_port=_port(CONSOLE_PORT_VARIABLE, console_port, source, CONSOLE_PORT),
        console_url=_url(CONSOLE_URL_VARIABLE, source),
        classic_codes=_is_classic(ERROR_CODES_VARIABLE, source),
        sandbox=sandbox,
    )
    if settings.gateway_port == settings.console_port != 0:
        raise InvalidInputError(
            CONSOLE_PORT_VARIABLE,
            f"must not be the gateway's port {settings.gateway_port}; set one of the two apart",
        )
    return settings


def _text(variable: str, flag: str | None, source: Mapping[str, str]) -> str | None:
    """The flag or the variable, without outer spaces; None where neither says anything."""
    text = (source.get(variable, "") if flag is None else flag).strip()
    if "\x00" in text or len(text) > _TEXT_LENGTH_MAX:
        raise InvalidInputError(variable, f"must have at most {_TEXT_LENGTH_MAX} plain characters")
    return text or None


def _url(variable: str, source: Mapping[str, str]) -> str:
    text = (_text(variable, None, source) or "").rstrip("/")
    if text and not _URL_TEXT.fullmatch(text):
        raise InvalidInputError(
            variable, f"must be an address such as https://credits.example.com (got {text[:40]!r})"
        )
    return text


def _is_classic(variable: str, source: Mapping[str, str]) -> bool:
    text = _text(variable, None, source) or "native"
    if text not in {"native", "classic"}:
        raise InvalidInputError(variable, f"must be native or classic (got {text[:40]!r})")
    return text == "classic"


def _home(text: str | None) -> Path:
    home = Path(".farebox" if text is None else text)
    try:
        home = home.expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise InvalidInputError(HOME_VARIABLE, f"cannot be found: {error}") from error
    if home.exists() and not home.is_dir():
        raise InvalidInputError(HOME_VARIABLE, f"must be a folder; {home} is a file")
    return home


def _database(text: str | None) -> str | None:
    """A URL, or the keywords of libpq (``host=... dbname=...``)."""
    is_url = text is not None and text.startswith(("postgresql://", "postgres://"))
    if text is not None and not is_url and ("://" in text or "=" not in text):
        # The text is not repeated: it may hold a password.
        raise InvalidInputError(
            DATABASE_VARIABLE, "must begin with postgresql:// ; Farebox runs on PostgreSQL alone"
        )
    return text


def _port(variable: str, flag: str | int | None, source: Mapping[str, str], default: int) -> int:
    text = _text(variable, None if flag is None else str(flag), source)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and int(text) <= _PORT_MAX):
        raise InvalidInputError(
            variable, f"must be a port from 0 to {_PORT_MAX} (got {text[:40]!r})"
        )
    return int(text)
