"""The page of an organisation: exact, of one instant, and helpful when there is nothing yet."""

from __future__ import annotations

import re
from datetime import timedelta

import psycopg
import pytest

from farebox.console import pages
from farebox.kit.ids import format_id
from farebox.ledger.grants import Source
from tests.support.console_people import Payer, Visitor


def figure(page: str, name: str) -> str:
    """The plain decimal of a figure."""
    match = re.search(rf'id="{name}"><data class="money" value="([^"]+)"', page)
    assert match is not None, name
    return match[1]


def section(page: str, name: str) -> str:
    """The text of a panel, tags removed."""
    part = page[page.index(f'id="{name}-title"') :]
    return re.sub(r"<[^>]+>", "", part[: part.index("</section>")])


async def test_each_figure_is_exact_and_by_itself(inside: Visitor, dsn: str) -> None:
    """CRD-12, CRD-13, NEG-08: available, posted, held, owed, spent, expired and exposure."""
    payer = Payer(dsn)
    await payer.grant("5", Source.FREE, expires_in=timedelta(days=30))
    payer.advance_clock(timedelta(days=31))
    await payer.grant("48.838375")
    charge = await payer.settle(await payer.admit("1"), 4_808, 10)
    assert charge == 12_170_000
    await payer.admit("0.000000001")
    page = (await inside.get(payer.path)).text
    names = ("available", "posted", "held", "owed", "spent", "expired", "exposure")
    assert {name: figure(page, name) for name in names} == {
        "available": "48.826204999",
        "posted": "48.826205",
        "held": "0.000000001",
        "owed": "0.00",
        "spent": "0.01217",
        "expired": "5.00",
        "exposure": "48.826205",
    }
    assert "sandbox clock, 31 d ahead" in page


async def test_credit_is_shown_by_source_and_class_with_its_end(inside: Visitor, dsn: str) -> None:
    """CRD-13, UXF-10: sources in burn-down order, with class and earliest expiry in UTC."""
    payer = Payer(dsn)
    await payer.grant("20", expires_in=timedelta(days=200, minutes=5))
    await payer.grant("3", Source.PROMO, expires_in=timedelta(days=90, minutes=5))
    await payer.grant("2", Source.PROMO, expires_in=timedelta(days=9, minutes=5))
    text = section((await inside.get(payer.path)).text, "sources")
    assert "Earliest expiry (UTC)" in text
    promo, purchased = text.index("Promo"), text.index("Purchased")
    assert promo < purchased
    assert re.search(r"1 · given\s+\$5\.00\s+\$0\.00\s+\d{4}-\d\d-\d\d [\d:]{8} in 9 d", text)
    assert re.search(r"3 · purchased\s+\$20\.00\s+\$0\.00\s+\S+ \S+ in 200 d", text)


async def test_open_holds_and_last_calls_are_told_apart(inside: Visitor, dsn: str) -> None:
    """A running call is among the holds, an ended one among the calls, a refused one with why."""
    payer = Payer(dsn)
    await payer.grant("5")
    ended = await payer.admit("1")
    await payer.settle(ended, 4_808, 10)
    released = await payer.admit("1")
    await payer.release(released, "upstream_refused")
    refused = payer.refuse("monthly_limit", times=37)
    running = await payer.admit("0.25", streamed=True)
    page = (await inside.get(payer.path)).text
    holds, calls = section(page, "holds"), section(page, "calls")
    assert format_id("req", running) in holds
    assert "$0.25" in holds
    assert "stream" in holds
    assert format_id("req", running) not in calls
    order = [calls.index(format_id("req", one)) for one in (refused, released, ended)]
    assert order == sorted(order), "the newest comes first"
    assert re.search(r"refused \S37 monthly_limit", calls)
    assert re.search(r"released upstream_refused", calls)
    assert re.search(
        r"settled\s+gpt-5\.4\s+search · laptop\s+4,808 / 10\s+1\.2 s\s+\$0\.01217", calls
    )


async def test_long_lists_are_cut_and_say_so(
    inside: Visitor, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy organisation has a short page: the oldest holds with their number, the last calls."""
    monkeypatch.setattr(pages, "HOLDS_SHOWN", 2)
    monkeypatch.setattr(pages, "CALLS_SHOWN", 3)
    payer = Payer(dsn)
    await payer.grant("5")
    holds = [await payer.admit("0.01") for _ in range(4)]
    refused = [payer.refuse("monthly_limit") for _ in range(4)]
    page = (await inside.get(payer.path)).text
    assert "The 2 oldest of 4." in section(page, "holds")
    assert [format_id("req", one) in page for one in holds] == [True, True, False, False]
    assert [format_id("req", one) in page for one in refused] == [False, True, True, True]


async def test_the_refresh_is_the_same_part_of_the_page(inside: Visitor, dsn: str) -> None:
    """The page without scripts and its refresh show the same facts."""
    payer = Payer(dsn)
    await payer.grant("5")
    time = re.compile(r"<time[^>]*>[^<]+</time>|in \d+ \w+")
    page = time.sub("", (await inside.get(payer.path)).text)
    live = time.sub("", (await inside.get(f"{payer.path}/live")).text)
    assert live in page
    assert "<html" not in live
    assert figure(live, "available") == "5.00"


async def test_one_organisation_is_gone_to_at_once(inside: Visitor, dsn: str) -> None:
    """Nobody chooses among one."""
    payer = Payer(dsn)
    assert (await inside.get("/")).headers["location"] == payer.path
    assert "<select" not in (await inside.get(payer.path)).text


async def test_several_are_chosen_by_name_with_their_ids(inside: Visitor, dsn: str) -> None:
    """UXF-03: name and id are prominent, and every page has the switch."""
    zoo, acme = Payer(dsn, "Zoo"), Payer(dsn, "Acme")
    page = (await inside.get("/")).text
    assert page.index("Acme") < page.index("Zoo")
    assert format_id("org", zoo.id) in page
    own = (await inside.get(acme.path)).text
    assert f'<h1>Acme</h1>\n    <p><code class="id">{format_id("org", acme.id)}' in own
    assert re.search(r'<option value="org_\w+" selected>Acme</option>', own)
    for wanted in (format_id("org", zoo.id), "zoo", " Zoo "):
        answer = await inside.get("/", params={"organization": wanted})
        assert answer.headers["location"] == zoo.path


async def test_of_very_many_any_is_found(
    inside: Visitor, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the list, an organisation is found by its name or id."""
    monkeypatch.setattr(pages, "ORGANIZATIONS_SHOWN", 2)
    payers = [Payer(dsn, f"team {number}") for number in range(4)]
    page = (await inside.get("/")).text
    assert "by name or id" in page
    assert "team 3" not in page
    assert (await inside.get("/?organization=team 3")).headers["location"] == payers[3].path
    assert "team 3" in (await inside.get(payers[3].path)).text


@pytest.mark.parametrize(
    "wanted", ["nobody", "org_" + "0" * 32, "org_zzz", "%", "x" * 5_000, "a\x00b", "\u202e"]
)
async def test_one_that_is_not_there_is_said(wanted: str, inside: Visitor, dsn: str) -> None:
    """A wrong name or id leads to the choice, with a word."""
    Payer(dsn)
    answer = await inside.get("/", params={"organization": wanted})
    assert answer.status_code == 404
    assert "There is no organisation with the name or id" in answer.text


@pytest.mark.parametrize("text", ["org_" + "0" * 32, "org_1", "proj_" + "0" * 32, "x" * 3_000])
async def test_a_page_that_is_not_there(text: str, inside: Visitor) -> None:
    """A wrong id is a page that is not there, never a fault."""
    for path in (f"/organizations/{text}", f"/organizations/{text}/live"):
        assert (await inside.get(path)).status_code == 404


async def test_nothing_yet_says_what_to_do(inside: Visitor, dsn: str) -> None:
    """An empty installation and an empty organisation name the command that goes on."""
    assert "farebox orgs create" in (await inside.get("/")).text
    payer = Payer(dsn)
    page = (await inside.get(payer.path)).text
    assert f"farebox credits grant --org {format_id('org', payer.id)}" in page
    assert "farebox keys create" in page
    assert "No call is running." in page


async def test_the_sandbox_is_marked_on_every_page(inside: Visitor, dsn: str) -> None:
    """DESIGN.md decision 13: nobody takes play money for money."""
    for path in ("/", Payer(dsn).path, "/nothing"):
        page = (await inside.get(path, follow_redirects=True)).text
        assert '<aside class="sandbox"' in page, path
        assert "<title>[Sandbox] " in page, path


async def test_an_expired_grant_is_not_available_on_the_page(inside: Visitor, dsn: str) -> None:
    """CRD-10, CRD-12: at its instant credit moves from available to expired, job or no job."""
    payer = Payer(dsn)
    await payer.grant("3", expires_in=timedelta(days=1))
    payer.advance_clock(timedelta(days=1))
    page = (await inside.get(payer.path)).text
    assert (figure(page, "available"), figure(page, "expired")) == ("0.00", "3.00")
    assert "Expired: " in page
    assert "Used up" not in page
    with psycopg.connect(dsn) as sql:
        row = sql.execute("SELECT expired_nanos FROM organization").fetchone()
    assert row == (0,), "looking has posted nothing"
