"""Who does something, and through which door they came: what the audit log names."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class ActorKind(StrEnum):
    """What acts."""

    USER = "user"
    """A person who signed in to the console."""
    MANAGEMENT_KEY = "management_key"
    """Whoever holds it."""
    SHELL = "shell"
    """Whoever may run commands on the machine: named by the system's user."""
    STRANGER = "stranger"
    """Somebody who has shown nothing; what they may do is done in the name of who they turn out to
    be."""
    SYSTEM = "system"
    """Farebox itself, by a rule that somebody set."""


class Door(StrEnum):
    """Where it was asked for."""

    CLI = "cli"
    API = "api"
    CONSOLE = "console"
    WORKER = "worker"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who and from where; every text is as it shall stand in the audit log."""

    kind: ActorKind
    id: str
    """With its prefix (``user_...``, ``key_...``); the name where there is no id."""
    name: str
    """An e-mail address, a key's name, a system's user."""
    door: Door
    address: str = ""
    """The network address the request came from."""
    request_id: str = ""


class Via(msgspec.Struct, frozen=True, kw_only=True):
    """How a request came, before it is known who sent it."""

    door: Door
    address: str = ""
    request_id: str = ""


SYSTEM: Final = Actor(kind=ActorKind.SYSTEM, id="farebox", name="farebox", door=Door.WORKER)
"""Farebox itself."""
