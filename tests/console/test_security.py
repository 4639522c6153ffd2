"""Every answer, errors and redirects included, carries the headers that keep pages safe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import farebox.console
from farebox.console.security import HEADERS
from tests.support.console_people import Payer, Visitor

TEMPLATES = Path(farebox.console.__file__).parent / "templates"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 303),
        ("/sign-in", 200),
        ("/sign-out", 405),
        ("/nothing", 404),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/static/live.js", 200),
        ("/api/v1/calls/req_1", 401),
        ("/organizations/org_1/live", 303),
    ],
)
async def test_every_answer_is_guarded(path: str, status: int, visitor: Visitor) -> None:
    """No answer can be framed, sniffed, kept by a cache, or run a script of another's."""
    answer = await visitor.get(path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    if not path.startswith("/static/"):
        assert answer.headers["cache-control"] == "no-store"


async def test_a_fault_is_guarded_too(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of an unexpected fault has the headers, and nothing of the fault."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("farebox.console.people.make_token", fault)
    async with Visitor(app) as visitor:
        answer = await visitor.get("/sign-in")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert "secret detail" not in answer.text
    assert "ZeroDivision" not in answer.text


def test_no_template_has_inline_script_or_style_or_switches_escaping_off() -> None:
    """The strict policy never breaks a page, and no value goes unescaped."""
    inline = re.compile(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:|\|\s*safe")
    offenders = [
        f"{path.name}: {match.group()}"
        for path in sorted(TEMPLATES.iterdir())
        for match in inline.finditer(path.read_text())
    ]
    assert offenders == []


async def test_markup_in_names_stays_text(inside: Visitor, dsn: str) -> None:
    """An organisation, a model or a code called like a script is shown, never run."""
    name = "<script>alert(1)</script>\"'>&"
    payer = Payer(dsn, name)
    Payer(dsn, "<img src=x onerror=alert(2)>")
    payer.refuse("<b>code</b>", model="<i>model</i>")
    for path in (payer.path, f"{payer.path}/live", "/", "/?organization=<u>no</u>"):
        page = (await inside.get(path)).text
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path
        assert "<b>code" not in page, path
        assert "<i>model" not in page, path
        assert "<u>no" not in page, path
    page = (await inside.get(payer.path)).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&gt;&amp;" in page
