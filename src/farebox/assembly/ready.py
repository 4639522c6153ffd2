"""``ready.json``: what a running sandbox tells scripts, in a file that only its owner can read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

READY_FILE: Final = "ready.json"


def read_ready(home: Path) -> dict[str, Any]:
    """What an earlier start wrote; empty where it did not."""
    try:
        facts = json.loads((home / READY_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write_ready(home: Path, facts: dict[str, Any]) -> Path:
    """Write ``ready.json``, whole or not at all, readable by its owner alone."""
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{READY_FILE}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(facts, file, indent=2)
        file.write("\n")
    target = home / READY_FILE
    draft.replace(target)
    return target
