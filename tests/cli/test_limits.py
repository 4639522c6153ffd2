"""``farebox limits`` and ``farebox clock``."""

from __future__ import annotations

from tests.cli.conftest import Farebox


def test_a_monthly_limit_is_set_shown_and_removed(farebox: Farebox) -> None:
    """BUD: a hard limit per calendar month, with what is used and left of it."""
    farebox("orgs", "create", "Acme")
    assert "limits set" in farebox("limits", "list").err
    made = farebox("limits", "set", "--org", "Acme", "--monthly", "100.00", "--json").document
    assert [(row["maximum"], row["left"], row["period"]) for row in made["data"]] == [
        ("100.00", "100.00", "month")
    ]
    assert farebox("limits", "list", "--json").document == made
    assert "100.00" in farebox("limits", "list").out
    assert farebox("limits", "set", "--monthly", "none", "--json").document["data"] == []
    for text in ("-1", "x"):
        error = farebox("limits", "set", f"--monthly={text}", "--json", status=2).error
        assert error["field"] == "monthly"


def test_the_clock_moves_in_a_sandbox(farebox: Farebox) -> None:
    """DESIGN.md, decision 17: forwards, as told, and shown."""
    assert farebox("clock", "show", "--json").document["offset_seconds"] == 0
    moved = farebox("clock", "advance", "31d", "--json").document
    assert (moved["offset_seconds"], moved["sandbox"]) == (31 * 86_400, True)
    assert "31 days" in farebox("clock", "show").out
    assert farebox("clock", "advance", "tomorrow", "--json", status=2).error["field"] == "duration"


def test_a_real_clock_stays(real: Farebox) -> None:
    """Outside a sandbox moving the clock is a typed refusal."""
    assert real("clock", "advance", "1d", "--json", status=1).error["reason"] == "not_a_sandbox"


def test_limits_of_every_scope_and_measure(farebox: Farebox) -> None:
    """BUD-04, BUD-05, BUD-12..14, LIM-08: each by its option; the list names them all."""
    farebox("orgs", "create", "Acme")
    farebox("projects", "create", "Search", "--org", "Acme")
    farebox("keys", "create", "laptop", "--project", "Search")
    for arguments in (
        ("--monthly", "100"),
        ("--monthly", "80", "--alert", "--thresholds", "50,80%,100", "--owner", "ada@acme.test"),
        ("--project", "Search", "--weekly", "20"),
        ("--project", "Search", "--total", "10", "--allocation"),
        ("--key", "laptop", "--daily", "1000000", "--tokens", "--models", "gpt-5*"),
        ("--user", "bob", "--per-minute", "60", "--calls", "--ignore-failed"),
        ("--each", "user", "--per-day", "1000", "--calls"),
        ("--feature", "chat", "--parallel", "4", "--throttle"),
        ("--environment", "test", "--daily", "1", "--shadow"),
        ("--tag", "team=red", "--monthly", "5", "--raise-to", "9", "--until", "2030-01-01"),
        ("--run", "crawl-17", "--total", "5"),
        ("--each", "run", "--seconds", "600"),
        ("--each", "run", "--depth", "3"),
    ):
        farebox("limits", "set", *arguments)
    rows = farebox("limits", "list", "--json").document["data"]
    assert {(r["scope_kind"], r["measure"], r["period"], r["effect"]) for r in rows} >= {
        ("organization", "money", "month", "hard"),
        ("organization", "money", "month", "alert"),
        ("project", "money", "week", "hard"),
        ("project", "money", "total", "allocation"),
        ("key", "tokens", "day", "hard"),
        ("user", "calls", "minute", "hard"),
        ("user", "calls", "utc_day", "hard"),
        ("feature", "parallel", "total", "throttle"),
        ("environment", "money", "day", "shadow"),
        ("tag", "money", "month", "hard"),
        ("run", "money", "total", "hard"),
        ("run", "seconds", "total", "hard"),
        ("run", "depth", "total", "hard"),
    }
    (tag,) = [r for r in rows if r["scope_kind"] == "tag"]
    assert (tag["maximum"], tag["raised_to"]) == ("9.00", "9.00")
    (key,) = [r for r in rows if r["scope_kind"] == "key"]
    assert (key["scope_name"], key["maximum"], key["models"]) == ("laptop", 1_000_000, "gpt-5*")
    # LIM-03: failed calls count unless the limit says otherwise.
    assert [r["scope_id"] for r in rows if not r["count_failed"]] == ["bob"]
    shown = farebox("limits", "list").out
    assert "each user" in shown
    assert "calls (no\n" in shown
    assert "would have refused since" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_limit_that_makes_no_sense_is_refused(farebox: Farebox) -> None:
    """BUD-02: each error names the field and the fix."""
    farebox("orgs", "create", "Acme")
    for field, arguments in {
        "monthly": ("--monthly", "1.5", "--calls"),
        "until": ("--monthly", "5", "--raise-to", "9"),
        "thresholds": ("--monthly", "5", "--thresholds", "half"),
        "user": ("--user", " ", "--monthly", "5"),
        "scope_kind": ("--user", "bob", "--seconds", "5"),
        "count_failed": ("--per-day", "5", "--calls", "--ignore-failed"),
        "parallel": ("--parallel", "5", "--calls"),
        "effect": ("--user", "bob", "--monthly", "5", "--allocation"),
        "scope_ref": ("--tag", "red", "--monthly", "5"),
    }.items():
        error = farebox("limits", "set", *arguments, "--json", status=2).error
        assert error["field"] == field, error


def test_thresholds_are_a_setting_of_each_limit(farebox: Farebox) -> None:
    """BUD-06: 50, 80 and 100 percent unless told otherwise; none is none; a rate tells nothing."""
    farebox("orgs", "create", "Acme")

    def told(*options: str) -> list[int]:
        found = farebox("limits", "set", *options, "--json").document["data"]
        thresholds: list[int] = found[-1]["thresholds_percent"]
        return thresholds

    assert told("--monthly", "5") == [50, 80, 100]
    assert told("--monthly", "5", "--thresholds", "25,90%") == [25, 90]
    assert told("--monthly", "5", "--thresholds", "none") == []
    farebox("limits", "set", "--monthly", "none")
    assert told("--per-minute", "5", "--calls") == []


def test_what_a_shadow_would_have_refused_is_listed(farebox: Farebox) -> None:
    """BUD-03: counted with the limit, with since when it counts; other limits count nothing."""
    farebox("orgs", "create", "Acme")
    farebox("limits", "set", "--monthly", "5")
    assert "shadow" not in farebox("limits", "list").out
    rows = farebox("limits", "set", "--daily", "1", "--shadow", "--json").document["data"]
    (hard, shadow) = sorted(rows, key=lambda row: str(row["effect"]))
    assert hard["would_have_refused"] is None
    told = shadow["would_have_refused"]
    assert (told["calls"], told["last_call_id"], told["last_call_at"]) == (0, None, None)
    assert f"since {told['since'][:10]}" in farebox("limits", "list").out


def test_a_key_is_looked_for_in_its_organisation_alone(farebox: Farebox) -> None:
    """ORG-03: every organisation has a key "main"; --org says whose is limited, let in, revoked."""
    for name in ("Acme", "Zoo"):
        farebox("orgs", "create", name)
        farebox("projects", "create", "web", "--org", name)
        farebox("keys", "create", "main", "--project", "web", "--org", name)
    farebox("keys", "create", "only here", "--project", "web", "--org", "Zoo")
    rows = farebox("limits", "set", "--org", "Acme", "--key", "main", "--monthly", "5", "--json")
    assert [row["scope_name"] for row in rows.document["data"]] == ["main"]
    released = ("alerts", "release", "--org", "Acme", "--key", "main")
    assert "that is stopped" in farebox(*released, status=1).err, "it is found, and runs"
    revoked = farebox("keys", "revoke", "main", "--org", "Acme", "--json").document
    assert revoked["state"] == "revoked"
    for command in (
        ("limits", "set", "--key", "only here", "--monthly", "5"),
        ("alerts", "release", "--key", "only here"),
        ("keys", "revoke", "only here"),
    ):
        error = farebox(*command, "--org", "Acme", "--json", status=1).error
        assert "There is no key 'only here'" in str(error["message"])
