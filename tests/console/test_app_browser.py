"""The console in a real browser: live, quiet in its log, and narrow enough for a telephone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from farebox.kit.ids import format_id
from farebox.kit.money import parse_amount
from farebox.ledger.commands import SetLimit
from farebox.ledger.grants import Source
from farebox.ledger.limits import Period
from farebox.ledger.scopes import ScopeKind
from tests.support.console_people import EMAIL, PASSWORD, Payer, run_apart, serving_console

pytestmark = pytest.mark.browser

WIDTHS = (320, 360, 768, 900, 1440)


def _installed() -> str | None:
    """A browser of this machine; None leaves it to Playwright's own."""
    named = os.environ.get("FAREBOX_BROWSER")
    known = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next(filter(None, map(shutil.which, known)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here."""
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=_installed(),
                # It visits our own pages alone; containers often allow no sandbox, and root none.
                args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            )
        except Error as error:
            first = str(error).strip().splitlines()[0]
            pytest.skip(f"no browser to be had ({first}); install chromium or set FAREBOX_BROWSER")
        yield browser
        browser.close()


@pytest.fixture
def address(dsn: str, tmp_path: Path) -> Iterator[str]:
    """Where the console is."""
    with serving_console(dsn, tmp_path / ".farebox") as address:
        yield address


@pytest.fixture
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    """A browser's profile, gone with the test."""
    context = browser.new_context(base_url=address)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A page whose complaints are kept."""
    return context.new_page()


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """What the browser's log says: errors and warnings."""
    heard: list[str] = []
    page.on(
        "console",
        lambda line: heard.append(line.text) if line.type in {"error", "warning"} else None,
    )
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard


@pytest.fixture
def sign_in(page: Page) -> Callable[[], None]:
    """Goes through the door as a person does."""

    def go() -> None:
        page.goto("/")
        page.get_by_label("E-mail").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()

    return go


def test_the_balance_changes_before_ones_eyes(
    page: Page, complaints: list[str], sign_in: Callable[[], None], dsn: str
) -> None:
    """A grant, a hold and a charge show without a reload, and the browser has no complaint."""
    payer = Payer(dsn, "Acme")
    sign_in()
    expect(page.get_by_role("heading", name="Acme")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("data-live", "live")
    expect(page.get_by_text("No credit yet.")).to_be_visible()
    page.evaluate("window.stayed = true")

    run_apart(payer.grant("5", Source.FREE))
    expect(page.locator("#available")).to_have_text("$5.00", timeout=10_000)
    expect(page.get_by_text("No credit yet.")).to_have_count(0)

    call_id = run_apart(payer.admit("1.25"))
    expect(page.locator("#held")).to_have_text("$1.25", timeout=10_000)
    expect(page.locator("#available")).to_have_text("$3.75")
    expect(page.locator(f"#hold-{call_id.hex}")).to_contain_text(format_id("req", call_id))

    run_apart(payer.settle(call_id, 4_808, 10))
    expect(page.locator("#spent")).to_have_text("$0.01217", timeout=10_000)
    expect(page.locator("#held")).to_have_text("$0.00")
    expect(page.locator(f"#call-{call_id.hex}-0")).to_contain_text("settled")

    assert page.evaluate("window.stayed"), "the page was reloaded"
    assert complaints == []


def test_lost_figures_stay_and_say_so(
    page: Page, context: BrowserContext, sign_in: Callable[[], None], dsn: str
) -> None:
    """DESIGN.md promise 7: without the console the last figures stay, marked as not live."""
    payer = Payer(dsn)
    run_apart(payer.grant("5"))
    sign_in()
    expect(page.locator("html")).to_have_attribute("data-live", "live")
    context.set_offline(True)
    expect(page.get_by_text("Not live.")).to_be_visible(timeout=10_000)
    expect(page.locator("#available")).to_have_text("$5.00")
    context.set_offline(False)
    expect(page.get_by_text("Not live.")).to_be_hidden(timeout=10_000)

    page.route("**/live", lambda route: route.fulfill(status=503, body="<h1>away</h1>"))
    expect(page.get_by_text("Not live.")).to_be_visible(timeout=10_000)
    expect(page.locator("#available")).to_have_text("$5.00")
    page.unroute("**/live")
    expect(page.get_by_text("Not live.")).to_be_hidden(timeout=10_000)


def test_a_session_that_ends_leads_to_the_door_and_back(
    page: Page, context: BrowserContext, sign_in: Callable[[], None], dsn: str
) -> None:
    """A page that was left open does not show a door within itself; signing in leads back."""
    payer = Payer(dsn)
    sign_in()
    expect(page.locator("#available")).to_be_visible()
    context.clear_cookies()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible(timeout=10_000)
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(re.escape(payer.path) + "$"))
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_it_works_without_scripts(browser: Browser, address: str, dsn: str) -> None:
    """Signing in, choosing, reading and signing out are plain HTML."""
    payer, other = Payer(dsn, "Acme"), Payer(dsn, "Zoo")
    run_apart(payer.grant("5"))
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("E-mail").fill(EMAIL)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Acme").click()
    expect(page.locator("#available")).to_have_text("$5.00")
    expect(page.get_by_text("Reload the page to see newer figures.")).to_be_visible()
    run_apart(payer.grant("2"))
    page.reload()
    expect(page.locator("#available")).to_have_text("$7.00")
    page.get_by_label("Organisation").select_option("Zoo")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="Zoo")).to_be_visible()
    expect(page).to_have_url(re.compile(re.escape(other.path) + "$"))
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    context.close()


def test_no_page_scrolls_sideways(
    page: Page, complaints: list[str], sign_in: Callable[[], None], dsn: str
) -> None:
    """From 320 to 1440 px everything fits, with amounts and names as long as they get."""
    payer = Payer(dsn, "Donaudampfschifffahrtsgesellschaftskapitän" * 4, currency="CHF")
    Payer(dsn, "<b>another</b>")
    run_apart(payer.grant("987654321.123456789"))
    run_apart(payer.settle(run_apart(payer.admit("99999.5")), 18_059_974_000, 245_896))
    run_apart(payer.admit("123456789.123456789", streamed=True))
    for kind, ref in ((ScopeKind.ORGANIZATION, ""), (ScopeKind.USER, "u" * 200)):
        run_apart(
            payer.send(
                SetLimit(
                    organization_id=payer.id, scope_kind=kind, scope_ref=ref, owner="o" * 200,
                    period=Period.MONTH, maximum=parse_amount("987654321.123456789"),
                )
            )
        )  # fmt: skip
    payer.refuse("a_code_that_is_as_long_as_codes_can_ever_get", model="m" * 60, times=123_456)
    page.goto("/sign-in")
    doors = [_sideways(page, width) for width in WIDTHS]
    sign_in()
    expect(page.get_by_role("heading", name="Which organisation?")).to_be_visible()
    lists = [_sideways(page, width) for width in WIDTHS]
    page.goto(payer.path)
    expect(page.locator("#available")).to_be_visible()
    inside = [_sideways(page, width) for width in WIDTHS]
    page.get_by_role("link", name="Limits").click()
    expect(page.get_by_text("987,654,321").first).to_be_visible()
    limits = [_sideways(page, width) for width in WIDTHS]
    assert (doors, lists, inside, limits) == ([0] * 5, [0] * 5, [0] * 5, [0] * 5)
    assert complaints == []


def test_markup_in_a_name_is_not_run(
    page: Page, complaints: list[str], sign_in: Callable[[], None], dsn: str
) -> None:
    """An organisation called like a script is a heading, nothing else, refreshes included."""
    name = "<script>window.run=1</script><img src=x onerror=window.run=2>"
    payer = Payer(dsn, name)
    sign_in()
    expect(page.get_by_role("heading", name="window.run=1")).to_have_text(name)
    payer.refuse(name, model=name)
    expect(page.get_by_role("cell", name=name).first).to_be_visible(timeout=10_000)
    assert page.evaluate("window.run") is None
    assert complaints == []


def _sideways(page: Page, width: int) -> int:
    """How many pixels stick out at that width."""
    page.set_viewport_size({"width": width, "height": 800})
    root = "document.documentElement"
    return int(page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))
