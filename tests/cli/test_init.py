"""``farebox init``: from nothing to a real installation, and harmless to repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Farebox

FEW = pytest.mark.usefixtures("few_prices")


@FEW
def test_one_command_makes_everything(real: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: organisation, provider, prices, credit, project and key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    made = real("init", "--org", "Acme", "--credit", "5.00", "--json").document
    assert (made["available"], made["credit_granted"], made["provider"]) == (
        "5.00",
        "5.00",
        "openai",
    )
    assert made["key"].startswith("fbx_live_")
    assert made["prices"] > 0
    (provider,) = real("providers", "list", "--json").document["data"]
    assert (provider["base_url"], provider["has_key"]) == ("https://api.openai.com/v1", True)
    (grant,) = real("credits", "grants", "--json").document["data"]
    assert (grant["source"], grant["reference"]) == ("purchased", "farebox init")


@FEW
def test_a_second_run_makes_nothing(real: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what exists; credit is not given twice, no second key is made."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    first = real("init", "--credit", "5.00", "--json").document
    second = real("init", "--credit", "5.00", "--json").document
    assert (second["key"], second["credit_granted"], second["prices"]) == (None, None, 0)
    for key in ("organization_id", "project_id", "available", "provider"):
        assert second[key] == first[key]
    assert all("already" in note for note in second["notes"])
    assert len(real("keys", "list", "--json").document["data"]) == 1
    assert "already" in real("init").out


@FEW
def test_an_interrupted_run_is_finished(real: Farebox) -> None:
    """Whatever is there is taken; only what is missing is made."""
    organization = real("orgs", "create", "Acme", "--json").document
    made = real("init", "--no-provider", "--json").document
    assert made["organization_id"] == organization["id"]
    assert made["provider"] is None
    assert made["credit_granted"] is None
    text = real("init")
    assert "providers add" in text.err
    assert "credits grant" in text.err


@FEW
def test_a_wrong_answer_is_refused(real: Farebox) -> None:
    """A bad flag names its field; what was made before it stays and is found again."""
    assert real("init", "--credit", "0", "--json", status=2).error["field"] == "credit"
    assert real("init", "--base-url", "ftp://x", "--json", status=2).error["field"] == "base_url"
    real("orgs", "create", "Other")
    assert real("init", "--json", status=2).error["field"] == "org"
    assert real("init", "--org", "Other", "--json").document["key"] is not None


def test_a_sandbox_is_not_made_real(farebox: Farebox) -> None:
    """Play money never becomes real money."""
    assert farebox("init", "--json", status=1).error["code"] == "incompatible"


def test_an_empty_folder_becomes_an_installation(tmp_path: Path) -> None:
    """The real program, its bundled PostgreSQL and nothing else: made, found again, left clean."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("FAREBOX_", "DATABASE_URL", "OPENAI_"))
    }

    def run(*arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "farebox", *arguments, "--json"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    made = run("init", "--org", "Acme", "--credit", "1.5")
    assert Path(str(made["home"])) == tmp_path / ".farebox"
    assert run("credits", "balance", "--org", "acme")["available"] == "1.50"
    assert run("init")["key"] is None
    assert run("books", "check")["status"] == "clean"
