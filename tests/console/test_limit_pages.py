"""The page of limits: every limit with what is left of it, and whom to ask (LIM-10)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from farebox.console import limit_pages
from farebox.kit.errors import UnavailableError
from farebox.kit.ids import format_id
from farebox.kit.money import parse_amount
from farebox.ledger.commands import SetLimit
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.scopes import ScopeKind
from farebox.tenancy import permissions
from farebox.tenancy.permissions import Action, Role
from tests.support.api_clients import House
from tests.support.console_people import Payer, Visitor


def panel(page: str, name: str) -> str:
    """The text of a panel, tags removed, blanks made one."""
    part = page[page.index(f'id="{name}-title"') :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part[: part.index("</section>")]))


async def limit(payer: Payer, maximum: int, **fields: Any) -> None:
    """Set a limit, a month of money unless told otherwise."""
    values: dict[str, Any] = {"period": Period.MONTH, **fields}
    await payer.send(SetLimit(organization_id=payer.id, maximum=maximum, **values))


def be_member(payer: Payer, role: Role) -> None:
    """The console's person is no operator any more, and has that role."""
    with psycopg.connect(payer.dsn, autocommit=True) as sql:
        sql.execute("UPDATE console_user SET operator = false")
        sql.execute(
            "INSERT INTO member (organization_id, user_id, role)"
            " SELECT %s, id, %s FROM console_user",
            (payer.id, role.value),
        )


async def test_each_limit_is_shown_with_what_is_left_and_until_when(
    inside: Visitor, dsn: str
) -> None:
    """LIM-10: scope by name, measure, window, effect, maximum, used, held, left, reset in the
    organisation's zone, where it came from.
    """
    payer = Payer(dsn)
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute("UPDATE organization SET zone = 'Asia/Tokyo'")
    await payer.grant("50")
    await limit(payer, parse_amount("4"), owner="ada")
    await limit(payer, parse_amount("9"), origin=Origin.TIER, owner="tier Basic")
    await limit(
        payer, 20, scope_kind=ScopeKind.PROJECT, scope_ref=payer.project_id.hex,
        measure=Measure.CALLS, period=Period.UTC_DAY, effect=Effect.THROTTLE, models="gpt-5*",
    )  # fmt: skip
    await limit(payer, 2, scope_kind=ScopeKind.KEY, measure=Measure.PARALLEL, period=Period.TOTAL)
    await payer.settle(await payer.admit("1"), 400_000, 0)
    await payer.admit("2.5")
    page = (await inside.get(f"{payer.path}/limits")).text
    own, others = panel(page, "own"), panel(page, "others")
    now = datetime.now(ZoneInfo("Asia/Tokyo"))
    next_month = f"{now.year + now.month // 12}-{now.month % 12 + 1:02}-01 00:00"
    assert "Resets (Asia/Tokyo)" in own
    assert re.search(
        rf"Money per month refuses \$4\.00 \$1\.00 \$2\.50 \$0\.50 {next_month} in .* set by hand"
        r" ask ada", own,
    )  # fmt: skip
    assert re.search(r"\$9\.00 \$1\.00 \$2\.50 \$5\.50 .* usage tier Basic", own)
    assert re.search(
        r"project search Calls per day in UTC gpt-5\* waits for room, then refuses 20 1 1 18",
        others,
    )
    assert re.search(r"each key Calls at a time refuses 2 counted in each one's own row", others)
    assert re.search(
        r"key laptop Calls at a time refuses 2 0 1 1 never default of each key", others
    )
    assert 'aria-label="25 % used"' in page
    assert f'datetime="{datetime.now(UTC):%Y-%m}' in page, "the instant itself is in UTC"
    for scope in (payer.project_id, payer.key_id):
        assert scope.hex not in page, "names, not ids"


async def test_raises_shadows_and_what_is_reached_are_told(inside: Visitor, dsn: str) -> None:
    """BUD-16, BUD-03: a raise with its end and the usual maximum, one that begins later; what a
    shadow would have refused; what refuses already.
    """
    payer = Payer(dsn)
    await payer.grant("50")
    until = datetime(2099, 1, 1, 12, tzinfo=UTC)
    await limit(payer, parse_amount("1"), raised_to=parse_amount("7"), raised_until=until)
    await limit(
        payer, 30, measure=Measure.CALLS, raised_to=60,
        raised_from=datetime(2098, 1, 1, tzinfo=UTC), raised_until=until,
    )  # fmt: skip
    await limit(payer, 1, measure=Measure.CALLS, period=Period.DAY, effect=Effect.SHADOW)
    await limit(
        payer, 2, scope_kind=ScopeKind.USER, measure=Measure.CALLS, period=Period.MINUTE,
        count_failed=False,
    )  # fmt: skip
    await limit(
        payer, 0, scope_kind=ScopeKind.KEY, scope_ref="f" * 32, measure=Measure.PARALLEL,
        period=Period.TOTAL, effect=Effect.STOP, owner="too much",
    )  # fmt: skip
    calls = [await payer.admit("1") for _ in range(3)]
    page = (await inside.get(f"{payer.path}/limits")).text
    own, others = panel(page, "own"), panel(page, "others")
    assert "$7.00 raised from $1.00 until 2099-01-01 12:00 $0.00 $3.00 $4.00" in own
    assert "30 60 from 2098-01-01 00:00 until 2099-01-01 12:00 0 3 27" in own
    assert re.search(r"in shadow: notes only Would have refused 2 calls since", own)
    assert f"; the last at {datetime.now(UTC):%Y-%m}" in own
    assert format_id("req", calls[-1]) in own
    assert re.search(rf"key key_{'f' * 32} Calls at a time stopped reached 0 0 0 0", others)
    assert "set by hand too much" in others
    assert "each user Calls per minute, failed ones left out refuses 2" in others
    assert "reached" not in own


async def test_where_no_limit_is_set_it_says_how_to_set_one(inside: Visitor, dsn: str) -> None:
    """An empty page helps; `/limits` leads to it, and the page of the balance too."""
    payer = Payer(dsn)
    assert (await inside.get("/limits")).headers["location"] == f"{payer.path}/limits"
    page = (await inside.get(f"{payer.path}/limits")).text
    assert "None is set: the balance alone bounds its calls." in panel(page, "own")
    command = f"farebox limits set --org {format_id('org', payer.id)}"
    assert f"{command} --monthly 100.00" in panel(page, "own")
    assert f"{command} --each user" in panel(page, "others")
    assert "tier-title" not in page
    assert f'href="{payer.path}/limits"' in (await inside.get(payer.path)).text


async def test_the_tier_says_what_the_next_one_needs(inside: Visitor, house: House) -> None:
    """LIM-07: the tier, what was bought, and what is missing for the next."""
    async with house.operator() as operator:
        for position, name, purchases in ((0, "Basic", "0"), (1, "Grown", "40")):
            await operator.done(
                "PUT", f"/tiers/USD/{name}",
                {"position": position, "purchases": purchases, "monthly_maximum": "100",
                 "age_days": position * 7, "balance_maximum": "60"},
            )  # fmt: skip
    await house.payer.grant("15")
    page = (await inside.get(f"{house.payer.path}/limits")).text
    tier = panel(page, "tier")
    assert "Tier Basic by what was bought, and age" in tier
    assert "May be bought now $45.00" in tier
    assert re.search(r"For Grown : buy \$25\.00 more, and be here until \d{4}-", tier)
    assert "usage tier Basic" in panel(page, "own")


async def test_long_lists_come_in_pages_and_are_narrowed(
    inside: Visitor, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is bounded; the next one is a link, and a kind or a name finds the rest."""
    monkeypatch.setattr(limit_pages, "ROWS_SHOWN", 2)
    payer = Payer(dsn)
    await limit(payer, 5)
    for number in range(5):
        await limit(payer, 5, scope_kind=ScopeKind.USER, scope_ref=f"u{number}")
    await limit(payer, 5, scope_kind=ScopeKind.PROJECT, scope_ref=payer.project_id.hex)
    seen: list[str] = []
    place = page = ""
    for _ in range(5):
        page = (await inside.get(f"{payer.path}/limits{place}")).text
        assert "Money per month" in panel(page, "own"), "its own limits stand on every page"
        seen += re.findall(r"(user u\d|project search) Money", panel(page, "others"))
        match = re.search(r'href="(\?[^"]+)" rel="next"', page)
        if match is None:
            break
        place = match[1].replace("&amp;", "&")
    assert sorted(seen) == ["project search", *(f"user u{number}" for number in range(5))]
    assert "First page of all" in page
    path = f"{payer.path}/limits"
    one = panel((await inside.get(path, params={"kind": "user", "scope": "u3"})).text, "others")
    assert re.findall(r"user u\d|project search", one.split("Left", 1)[1]) == ["user u3"]
    project = (await inside.get(path, params={"kind": "project", "scope": "search"})).text
    assert "project search Money" in panel(project, "others")
    assert "There are more" not in page
    monkeypatch.setattr(limit_pages, "OWN_ROWS_SHOWN", 1)
    await limit(payer, 5, period=Period.DAY)
    assert "There are more: farebox limits list --org" in panel(
        (await inside.get(path)).text, "own"
    )
    none = await inside.get(path, params={"kind": "key", "scope": "<b>none</b>"})
    assert "No limit stands on any key called “&lt;b&gt;none&lt;/b&gt;”." in none.text


async def test_a_key_is_found_by_its_name_after_it_was_rotated(
    inside: Visitor, house: House, dsn: str
) -> None:
    """ORG-16: of several keys of one name the one that stands is meant; of several, an id is
    asked for.
    """
    payer = house.payer
    await limit(payer, 7, scope_kind=ScopeKind.KEY, scope_ref=payer.key_id.hex)
    asked = {"kind": "key", "scope": "laptop"}
    path = f"{payer.path}/limits"
    async with house.operator() as operator:
        place = f"/organizations/{payer.path.rsplit('/', 1)[1]}/keys"
        key = format_id("key", payer.key_id)
        new = (await operator.done("POST", f"{place}/{key}/rotate", {}))["id"]
        await limit(payer, 9, scope_kind=ScopeKind.KEY, scope_ref=new.removeprefix("key_"))
        found = panel((await inside.get(path, params=asked)).text, "others")
        assert "key laptop Money per month refuses $0.00 0000009" in found
        await operator.done(
            "POST", place, {"name": "laptop", "project_id": format_id("proj", payer.project_id)}
        )
    several = await inside.get(path, params=asked)
    assert several.status_code == 400
    assert "names several keys; give the id: " in several.text


async def test_without_the_database_it_says_so(
    inside: Visitor, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with the time to wait, and without inner details."""

    async def away(*_: object) -> None:
        raise UnavailableError("The database is away: secret host")

    monkeypatch.setattr(limit_pages, "find_limits", away)
    answer = await inside.get(f"{Payer(dsn).path}/limits")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "secret host" not in answer.text


@pytest.mark.parametrize(
    "query", ["kind=nothing", "cursor=zz", "scope=" + "x" * 401, "scope=a%00b", "cursor=%00"]
)
async def test_a_query_that_means_nothing_is_told_so(query: str, inside: Visitor, dsn: str) -> None:
    """A page for people with what to do, never a fault of ours."""
    answer = await inside.get(f"{Payer(dsn).path}/limits?{query}")
    assert answer.status_code == 400
    assert "Back to the console" in answer.text


async def test_who_may_not_change_limits_is_told_who_may(inside: Visitor, dsn: str) -> None:
    """ORG-13, ORG-14: a viewer sees the limits and whom to ask; no command that would fail."""
    payer = Payer(dsn)
    be_member(payer, Role.VIEWER)
    page = (await inside.get(f"{payer.path}/limits")).text
    assert (
        "You may see limits here and not change them. No member here may; ask an operator" in page
    )
    assert "farebox limits set" not in page
    with psycopg.connect(dsn, autocommit=True) as sql:
        for number in range(7):
            sql.execute(
                "WITH u AS (INSERT INTO console_user (id, email, password_hash)"
                " VALUES (gen_random_uuid(), %s, 'x') RETURNING id)"
                " INSERT INTO member (organization_id, user_id, role)"
                " SELECT %s, id, 'billing_admin' FROM u",
                (f"b{number}@example.org", payer.id),
            )
    asked = re.search(r"Ask ([^<]+)\.</p>", (await inside.get(f"{payer.path}/limits")).text)
    assert asked is not None
    assert re.fullmatch(r"(b\d@example\.org, ){4}b\d@example\.org or 2 more", asked[1])


async def test_who_may_not_see_limits_is_told_who_may(
    inside: Visitor, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ORG-13: every role may see limits today; were it not so, the page says who may."""
    payer = Payer(dsn)
    be_member(payer, Role.VIEWER)
    only_owners = {**permissions.PERMITTED, Action.LIMITS_VIEW: frozenset({Role.OWNER})}
    for module in (permissions, limit_pages):
        monkeypatch.setattr(module, "PERMITTED", MappingProxyType(only_owners))
    answer = await inside.get(f"{payer.path}/limits")
    assert answer.status_code == 403
    assert "limits.view needs: owner or operator. No member here may" in answer.text


async def test_another_organisation_s_limits_are_not_there(inside: Visitor, dsn: str) -> None:
    """Decision 18: neither another's, nor what is no id; nobody sees anything without a session."""
    payer, other = Payer(dsn), Payer(dsn, "Zoo")
    be_member(payer, Role.OWNER)
    for path in (other.path, "/organizations/org_1", "/organizations/org_" + "0" * 32):
        assert (await inside.get(f"{path}/limits")).status_code == 404
    inside.cookies.clear()
    answer = await inside.get(f"{payer.path}/limits")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in?to=%2Forganizations%2F")
    assert answer.headers["location"].endswith("%2Flimits")


@pytest.fixture
def house(app: Any, dsn: str) -> House:
    """An organisation and callers of every kind."""
    return House(app, dsn)
