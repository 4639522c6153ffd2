"""Static files: only those, unchanged ones kept, vendored ones what they say they are."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import farebox.console
from farebox.console.assets import _KINDS, Assets
from tests.support.console_people import Visitor

STATIC = Path(farebox.console.__file__).parent / "static"


def test_vendored_files_are_what_the_manifest_says() -> None:
    """Each file that is not ours has its version, its licence and its digest, and is unchanged."""
    listed = json.loads((STATIC / "vendor/manifest.json").read_text())["files"]
    known = {"manifest.json"}
    for entry in listed:
        for name, digest in (("file", "sha256"), ("license_file", "license_sha256")):
            content = (STATIC / "vendor" / entry[name]).read_bytes()
            assert sha256(content).hexdigest() == entry[digest], entry[name]
            known.add(entry[name])
        assert entry["version"] in entry["source"]
        algorithm, _, value = entry["integrity"].partition("-")
        assert (algorithm, len(base64.b64decode(value))) == ("sha512", 64)
    assert {path.name for path in (STATIC / "vendor").iterdir()} == known


def test_every_static_file_is_served() -> None:
    """No file lies around that no page can ask for."""
    there = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    papers = {"vendor/manifest.json", "vendor/htmx.LICENSE.txt"}
    assert there - papers == set(_KINDS)


async def test_a_file_is_kept_by_its_digest_and_asked_for_otherwise(visitor: Visitor) -> None:
    """A page's address of a file never changes its content; the bare one is checked each time."""
    address = Assets().address("console.css")
    whole = await visitor.get(address)
    assert whole.status_code == 200
    assert whole.headers["content-type"] == "text/css; charset=utf-8"
    assert whole.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert whole.content == (STATIC / "console.css").read_bytes()
    bare = await visitor.get("/static/console.css")
    assert bare.headers["cache-control"] == "no-cache"
    again = await visitor.get(
        "/static/console.css", headers={"if-none-match": bare.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/vendor/manifest.json",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
    ],
)
async def test_nothing_else_is_there(path: str, app: Any) -> None:
    """A path that climbs, or names another file, finds nothing."""
    async with Visitor(app) as visitor:
        assert (await visitor.get(path)).status_code == 404
