"""``farebox calls``."""

from __future__ import annotations

import asyncio

import pytest

from farebox.kit.ids import format_id
from tests.support.command_line import CommandLine
from tests.support.contents import ANSWER, REQUEST, store_content
from tests.support.small_books import SmallBooks, small_books


@pytest.fixture
def books(dsn: str) -> SmallBooks:
    """A few calls of every kind."""
    return asyncio.run(small_books(dsn))


@pytest.fixture
def farebox(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line on that database."""
    return CommandLine(dsn, monkeypatch, capsys)


def test_pages_of_calls_join_without_gap(books: SmallBooks, farebox: CommandLine) -> None:
    """ATT-01: every call is listed once, newest first, whatever the size of a page."""
    whole = farebox.json("calls", "list", "--org", books.tenant.name)
    assert whole["next_cursor"] is None
    ids = [row["id"] for row in whole["data"]]
    assert ids == sorted((format_id("req", i) for i in books.calls.values()), reverse=True)
    assert {row["status"] for row in whole["data"]} == {"settled", "late", "released", "open"}

    paged, cursor = [], None
    while True:
        arguments = ["calls", "list", "--limit", "2"] + (["--cursor", cursor] if cursor else [])
        page = farebox.json(*arguments)
        paged += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == whole["data"]


def test_the_list_fits_and_says_how_to_go_on(books: SmallBooks, farebox: CommandLine) -> None:
    """Text is a table of at most 80 columns; the next page's command stands on stderr."""
    assert farebox.run("calls", "list", "--limit", "3") == 0
    lines = farebox.out.splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines)
    assert "--cursor " in farebox.err


def test_an_organisation_without_calls_says_so(books: SmallBooks, farebox: CommandLine) -> None:
    """An empty list is an empty document, and a sentence for people."""
    books.traffic.sql("DELETE FROM hold")
    books.traffic.sql("DELETE FROM call")
    assert farebox.run("calls", "list") == 0
    assert farebox.out == ""
    assert "no call yet" in farebox.err
    assert farebox.json("calls", "list")["data"] == []


@pytest.mark.parametrize("name", ["settled", "beyond", "late", "returned", "released", "open"])
def test_every_call_has_a_receipt(books: SmallBooks, farebox: CommandLine, name: str) -> None:
    """A receipt fits 80 columns and shows the id, the charge and how it was decided."""
    call_id = format_id("req", books.calls[name])
    assert farebox.run("calls", "show", call_id) == 0
    text = farebox.out
    assert all(len(line) <= 80 for line in text.splitlines())
    document = farebox.json("calls", "show", call_id)
    shown = [call_id, document["status"].upper(), document["charge"], "Charge in USD"]
    shown += [line["amount"] for line in document["lines"]]
    shown += [draw["grant_id"] for draw in document["draws"]]
    shown += [document["price"]["id"], document["decision"]["available"], "limit per month"]
    shown += [f"posting {posting['id']}" for posting in document["postings"]]
    assert [word for word in shown if word not in text] == []


def test_a_receipt_of_money_that_was_owed_and_absorbed(
    books: SmallBooks, farebox: CommandLine
) -> None:
    """What no grant paid and what the operator absorbed stand on the receipt too."""
    call_id = books.calls["settled"]
    books.traffic.sql(
        "UPDATE call SET owed_nanos = 1000, absorbed_nanos = 2000, estimated = true, price_id = id,"
        " limit_figures = NULL WHERE id = %s",
        call_id,
    )
    farebox.run("calls", "show", format_id("req", call_id))
    assert "owed: no grant was left" in farebox.out
    assert "absorbed by the operator" in farebox.out
    assert "-0.000002" in farebox.out
    assert "Usage (estimated)" in farebox.out
    assert format_id("price", call_id) in farebox.out


def test_a_label_cannot_steer_the_terminal(books: SmallBooks, farebox: CommandLine) -> None:
    """What a client sent as a label is shown without control characters."""
    books.traffic.sql("UPDATE call SET user_ref = %s, model = %s", "\x1b[2Jbad", "\x1b]0;bad\x07")
    assert farebox.run("calls", "show", format_id("req", books.calls["settled"])) == 0
    assert "bad" in farebox.out
    assert "\x1b" not in farebox.out
    assert farebox.run("calls", "list") == 0
    assert "\x1b" not in farebox.out


def test_refused_calls_are_explained_too(books: SmallBooks, farebox: CommandLine) -> None:
    """ERR-07, ERR-11: the id of a refusal is found, with its figures and a charge of zero."""
    refused = books.tenant.project_id
    books.traffic.sql(
        "INSERT INTO refusal (id, organization_id, project_id, key_id, code, message, model,"
        " endpoint, needed_nanos, available_nanos, held_nanos, limit_figures, times)"
        " SELECT %s, organization_id, project_id, key_id, 'credit_balance_exhausted',"
        " 'You have 1 available.', 'gpt-5.4', 'chat.completions', 5000000, 1000000, 10000000,"
        " limit_figures -> 0, 3 FROM call LIMIT 1",
        refused,
    )
    call_id = format_id("req", refused)
    assert farebox.run("calls", "show", call_id) == 0
    for words in (
        "REFUSED",
        "reason: credit_balance_exhausted",
        "You have 1 available.",
        "3 like calls of this second share this row.",
        "would have held",
        "held by open calls",
        "organization limit per month",
    ):
        assert words in farebox.out
    document = farebox.json("calls", "show", call_id)
    assert (document["status"], document["charge"]) == ("refused", "0.00")
    assert document["decision"]["needed"] == "0.005"
    rows = farebox.json("calls", "list")["data"]
    assert [row["status"] for row in rows if row["id"] == call_id] == ["refused"]
    farebox.run("calls", "list")
    assert "refused x3" in farebox.out


def test_what_is_wrongly_asked_is_named(books: SmallBooks, farebox: CommandLine) -> None:
    """A malformed id, limit or cursor is a usage error; an unknown id is not found."""
    assert farebox.run("calls", "show", "req_1") == 2
    assert "id must look like req_" in farebox.err
    assert farebox.run("calls", "show", format_id("req", books.tenant.id)) == 1
    assert "There is no such call" in farebox.err
    assert farebox.run("calls", "list", "--limit", "0") == 2
    assert farebox.run("calls", "list", "--limit", "1001") == 2
    assert farebox.run("calls", "list", "--cursor", "?") == 2
    assert "cursor must be the next_cursor" in farebox.err


def test_content_is_shown_and_deleted(books: SmallBooks, farebox: CommandLine, dsn: str) -> None:
    """What a call said, with what was cut; after it was deleted there is nothing, as for a call
    whose project stores none.
    """
    call, tenant = books.calls["settled"], books.tenant
    store_content(dsn, tenant.id, tenant.project_id, call)
    found = farebox.json("calls", "content", format_id("req", call))
    assert (found["request"], found["answer_truncated"]) == (REQUEST.decode(), True)
    assert farebox.run("calls", "content", format_id("req", call)) == 0
    assert "(cut)" in farebox.out
    assert ANSWER.decode() in farebox.out
    assert farebox.json("retention", "forget-content", "--org", tenant.name)["calls"] == 1
    assert farebox.run("calls", "content", format_id("req", call)) == 1
    assert "--content-days" in farebox.err
