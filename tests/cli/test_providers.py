"""``farebox providers``: keys that never show, and a test that says what it got."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from typing_extensions import override

from tests.cli.conftest import Farebox

SECRET = "sk-do-not-show-me"
URL = ("--base-url", "http://127.0.0.1:9/v1")


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A provider that gives one answer to everything; its base URL and the keys it was sent."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(f"{self.path} {self.headers.get('authorization')}")
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # It looks for its end that often; half a second if nobody says.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", keys
        finally:
            server.shutdown()
            thread.join()


def test_a_provider_is_added_tested_and_removed(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes from the environment, goes upstream as it is, and is forgotten at the end."""
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    with answering(200, b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}') as (url, keys):
        added = farebox(
            *("providers", "add", "oai", "--base-url", url, "--api-key-env", "MY_KEY", "--json")
        )
        assert added.document["has_key"] is True
        tested = farebox("providers", "test", "oai", "--json").document
        assert keys == [f"/v1/models Bearer {SECRET}"]
    assert (tested["status"], tested["http_status"], tested["models"]) == ("ok", 200, 2)
    listed = farebox("providers", "list", "--json")
    assert [row["name"] for row in listed.document["data"]] == ["oai"]
    assert SECRET not in added.out + listed.out + farebox("providers", "list").out
    assert "already" in farebox("providers", "add", "oai", *URL, status=1).err
    gone = farebox("providers", "remove", "oai", "--json").document
    assert (gone["removed"], gone["has_key"]) == (True, False)
    assert "no provider" in farebox("providers", "test", "oai", status=1).err
    assert "providers add" in farebox("providers", "list").err


def test_a_stored_key_cannot_be_read_from_the_database(
    farebox: Farebox, dsn: str, tmp_path: Path
) -> None:
    """Encrypted at rest: neither the database nor a dump of it has the key."""
    file = tmp_path / "key.txt"
    file.write_text(f"{SECRET}\n")
    farebox("providers", "add", "oai", *URL, "--api-key-file", str(file))
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT secret, provider::text FROM provider").fetchone()
    assert row is not None
    assert SECRET.encode() not in row[0]
    assert SECRET not in row[1]
    (tmp_path / "home" / "secrets.key").unlink()
    outcome = farebox("providers", "test", "oai", "--json", status=1)
    assert outcome.error["code"] == "secret_key"


def test_a_key_may_come_from_stdin(farebox: Farebox) -> None:
    """For a password manager's pipe."""
    with answering(200, b'{"data":[]}') as (url, keys):
        farebox(
            *("providers", "add", "p", "--base-url", url, "--api-key-stdin"), stdin=f"{SECRET}\n"
        )
        farebox("providers", "test", "p")
        assert keys == [f"/v1/models Bearer {SECRET}"]


def test_a_local_provider_needs_no_key(farebox: Farebox) -> None:
    """Without a way to a key, none is sent."""
    with answering(200, b'{"data":[]}') as (url, keys):
        assert "no key" in farebox("providers", "add", "p", "--base-url", url).err
        farebox("providers", "test", "p")
        assert keys == ["/v1/models None"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b'{"error":{"message":"bad key"}}', "does not accept the key"),
        (404, b"nothing here", "check the base URL"),
        (500, b'{"error":{"message":"on fire"}}', "on fire"),
        (200, b"<html>", "not with a list of models"),
        (302, b"", "error"),
    ],
)
def test_a_test_says_what_it_got(farebox: Farebox, status: int, body: bytes, said: str) -> None:
    """Each answer has its meaning, and the exit status is 1."""
    with answering(status, body) as (url, _):
        farebox("providers", "add", "p", "--base-url", url)
        outcome = farebox("providers", "test", "p", "--json", status=1)
    assert said in outcome.document["message"]
    assert outcome.document["http_status"] == status


def test_the_sandboxs_own_provider_is_always_there(farebox: Farebox, dsn: str) -> None:
    """A simulated provider has no address; a test of it says so instead of failing."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "WITH a AS (INSERT INTO upstream_account (id, name)"
            " VALUES (gen_random_uuid(), 'simulated') RETURNING id)"
            " INSERT INTO provider (id, name, kind, price_list, base_url, account_id)"
            " SELECT gen_random_uuid(), 'simulated', 'simulated', 'openai', 'simulated:', id FROM a"
        )
    assert "nothing to reach" in farebox("providers", "test", "simulated").out


def test_a_provider_that_is_not_there_is_no_crash(farebox: Farebox) -> None:
    """Nobody listens: said in one line, status 1."""
    farebox("providers", "add", "p", *URL)
    outcome = farebox("providers", "test", "p", "--json", status=1)
    assert outcome.document["status"] == "failed"
    assert "127.0.0.1:9" in outcome.document["message"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("a b", *URL), "name"),
        (("p", "--base-url", "ftp://x"), "base_url"),
        (("p", "--base-url", "https://key@x/v1"), "base_url"),
        (("p", *URL, "--api-version", "2024-10-21"), "api_version"),
        (("p", *URL, "--price-list", "a/b"), "price_list"),
        (("p", *URL, "--account", "a b"), "account"),
        (("p", *URL, "--api-key-env", "NOT_THERE"), "api_key_env"),
        (("p", *URL, "--api-key-file", "not/there"), "api_key_file"),
        (("p", *URL, "--api-key-stdin"), "api_key_stdin"),
    ],
)
def test_a_wrong_setting_is_named(farebox: Farebox, arguments: tuple[str, ...], field: str) -> None:
    """Nothing is added that could not be spoken to."""
    assert farebox("providers", "add", *arguments, "--json", status=2).error["field"] == field
    assert farebox("providers", "list", "--json").document["data"] == []


@pytest.mark.parametrize("text", ["two words", "ümlaut", "x" * 9000, "two\nlines"])
def test_a_key_that_cannot_be_one_is_refused_and_not_repeated(farebox: Farebox, text: str) -> None:
    """A pasted sentence or file is told from a key before it is stored."""
    outcome = farebox("providers", "add", "p", *URL, "--api-key-stdin", stdin=text, status=2)
    assert "api_key_stdin" in outcome.err
    assert text not in outcome.err


def test_azure_speaks_in_its_own_way(farebox: Farebox) -> None:
    """An Azure provider has its version and the model's place in its URL."""
    added = farebox(
        *("providers", "add", "az", "--kind", "azure", "--api-version", "2024-10-21"),
        *("--base-url", "https://x.openai.azure.com/openai/deployments/{model}"),
        *("--price-list", "openai", "--json"),
    ).document
    assert (added["kind"], added["api_version"], added["price_list"]) == (
        "azure",
        "2024-10-21",
        "openai",
    )
