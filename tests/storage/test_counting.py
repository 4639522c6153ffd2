"""Limits that begin in the middle of traffic: counted outside the lock, exact under it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from farebox.kit.ids import uuid7_from_millis
from farebox.kit.periods import day_start, month_start
from farebox.ledger import limiting
from farebox.ledger.commands import Admit, Attribution, Done, SetLimit, SetZone, Usage
from farebox.ledger.limits import Effect, Measure, Period
from farebox.ledger.scopes import ScopeKind, scopes_of
from farebox.operations.check_books import check_books
from farebox.storage import batch_store, counting, loading
from farebox.storage.audit_store import PostgresAuditStore
from farebox.storage.connecting import Connector
from tests.support.engine_shadow import Shadow
from tests.support.shop import Shop
from tests.support.till import MONTH_MILLIS

NOON = datetime(2027, 3, 10, 12, 20, tzinfo=UTC)
USER: dict[str, Any] = {"scope_kind": ScopeKind.USER, "scope_ref": "u"}


def at(shop: Shop, instant: datetime) -> None:
    """Set the deployment's clock."""
    shop.sql("UPDATE deployment SET clock_offset = %s - clock_timestamp()", instant)


def limit(shop: Shop, **changes: Any) -> SetLimit:
    """A limit on the user of every call, in a month."""
    fields = {**USER, "period": Period.MONTH, "maximum": 10**6} | changes
    return SetLimit(organization_id=shop.till.organization_id, **fields)


async def use(shop: Shop, amount: int, call: Admit | None = None) -> Admit:
    """A call from its admission to its charge."""
    call = call or shop.till.admit(amount)
    await shop.run(call)
    await shop.run(shop.till.settle(call, amount))
    return call


async def lapse(shop: Shop, call: Admit) -> None:
    """Its node is gone, and comes back."""
    shop.sql("UPDATE node SET epoch = epoch + 1 WHERE id = %s", shop.till.node_id)
    await shop.run(shop.till.lapse(call))
    shop.till.epoch += 1


def windows(shop: Shop, *kinds: str) -> list[tuple[Any, ...]]:
    """Used and held of every window, by kind, name and beginning."""
    return shop.sql(
        "SELECT kind, ref, starts_at, used, held FROM scope_window"
        " WHERE kind = ANY(%s) ORDER BY 1, 2, 3",
        list(kinds) or ["user"],
    )


_Work = Callable[[], Awaitable[object]]


class Between:
    """Does something after the scan and before the lock, and counts the questions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, work: _Work) -> None:
        self.work: _Work | None = work
        self.wholes = 0
        """How often everything was read under the lock."""
        load, pages = loading.load, counting._pages

        async def wrapped(*args: Any, **options: Any) -> Any:
            found, self.work = self.work, None
            if found is not None:
                await found()
            return await load(*args, **options)

        async def reading(*args: Any, **options: Any) -> Any:
            self.wholes += args[3] is None
            return await pages(*args, **options)

        monkeypatch.setattr(batch_store, "load", wrapped)
        monkeypatch.setattr(counting, "_pages", reading)


@pytest.fixture
async def busy(shop: Shop) -> Shop:
    """Calls that ended, and credit for more."""
    at(shop, NOON)
    await shop.run(shop.till.grant(10**6))
    for amount in (1, 2, 4):
        await use(shop, amount)
    return shop


@pytest.fixture
async def second(shop: Shop) -> Any:
    """Another lane on the same database."""
    other = Shop.of(shop.dsn)
    other.till = shop.till
    yield other
    await other.store.aclose()


async def is_clean(shop: Shop) -> bool:
    """Whether the books agree, every window counted anew among them."""
    connection = await Connector(shop.dsn, name="audit", durable=False).connect()
    async with connection:
        return (await check_books(PostgresAuditStore(connection))).is_clean


async def test_what_happens_between_scan_and_lock_is_counted_once(
    busy: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": a call that settles, one that begins and ends, a late and an open one."""
    till = busy.till
    running, lapsed, forgotten, open_still = (till.admit(100) for _ in range(4))
    await busy.run(running, lapsed, forgotten, open_still)
    await lapse(busy, lapsed)
    await lapse(busy, forgotten)

    async def meanwhile() -> None:
        await second.run(till.settle(running, 8))
        await second.run(till.settle(lapsed, 16))
        await use(second, 32)

    between = Between(monkeypatch, meanwhile)
    await busy.run(limit(busy))
    ((_, _, start, used, held),) = windows(busy)
    assert (start, used, held) == (datetime(2027, 3, 1, tzinfo=UTC), 63, 100)
    assert between.wholes == 0
    await busy.run(till.settle(open_still, 64), till.settle(forgotten, 128))
    assert windows(busy)[0][3:] == (255, 0)
    assert await is_clean(busy)


async def test_a_call_that_the_short_way_misses_is_noticed(
    busy: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": a node whose clock is an hour behind makes older ids; all is read then."""
    behind = uuid7_from_millis(MONTH_MILLIS - 3_600_000, b"0123456789")
    old = structs.replace(busy.till.admit(8), call_id=behind)
    between = Between(monkeypatch, lambda: use(second, 8, old))
    await busy.run(limit(busy))
    assert windows(busy)[0][3:] == (15, 0)
    assert between.wholes == 1
    assert await is_clean(busy)


async def test_credit_between_scan_and_lock_is_no_call(
    busy: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": grants have numbers of the same row; they are told from calls."""
    between = Between(monkeypatch, lambda: second.run(second.till.grant(5)))
    await busy.run(limit(busy))
    assert (windows(busy)[0][3:], between.wholes) == ((7, 0), 0)


async def test_a_window_that_turns_meanwhile_is_counted_by_itself(
    busy: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": the scan's window is not the lock's; what it counted serves nobody."""

    async def turn() -> None:
        at(second, datetime(2027, 4, 1, 0, 0, 1, tzinfo=UTC))
        await use(second, 8)

    between = Between(monkeypatch, turn)
    await busy.run(limit(busy))
    assert windows(busy) == [("user", "u", datetime(2027, 4, 1, tzinfo=UTC), 8, 0)]
    assert between.wholes == 1


async def test_a_month_that_is_dropped_meanwhile_is_counted_once(
    busy: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": retention has moved calls into its sums, which the lock reads."""

    async def drop() -> None:
        second.sql("INSERT INTO dropped_month VALUES ('call', '2026-01-01', 0, 0)")

    between = Between(monkeypatch, drop)
    await busy.run(limit(busy, period=Period.TOTAL))
    assert (windows(busy)[0][3:], between.wholes) == ((7, 0), 1)


async def test_what_retention_has_kept_counts_in_total(busy: Shop) -> None:
    """BUD-14: calls of dropped months, of the run and of runs within it; other models' do not."""
    busy.sql(
        "INSERT INTO dropped_use SELECT o.id, u.kind, u.ref, u.model, '1970-01-01Z', 100, 10, 1"
        " FROM organization o, (VALUES ('user', 'u', 'gpt-5.4'), ('run', 'r', 'gpt-5.4'),"
        " ('run', 'r/a', 'gpt-5.4'), ('run', 'rr', 'gpt-5.4'), ('run', 'r', 'o3'))"
        " AS u (kind, ref, model) WHERE o.id = %s",
        busy.till.organization_id,
    )
    run = {"scope_kind": ScopeKind.RUN, "scope_ref": "r", "models": "gpt*"}
    await busy.run(limit(busy, period=Period.TOTAL), limit(busy, period=Period.TOTAL, **run))
    assert [row[3] for row in windows(busy, "run", "user")] == [207, 107]


async def test_pages_are_bounded(busy: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "A batch": no snapshot is held for long; every call is in one page."""
    monkeypatch.setattr(counting, "PAGE_CALLS", 2)
    for amount in (8, 16):
        await use(busy, amount)
    await busy.run(limit(busy), limit(busy, measure=Measure.CALLS))
    assert sorted(row[3] for row in windows(busy)) == [5, 31]


async def test_a_changed_maximum_counts_nothing_again(
    busy: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": only a limit that begins has a past; one set anew in a batch begins."""
    await busy.run(limit(busy))
    await use(busy, 8)

    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be counted")

    with monkeypatch.context() as patch:
        patch.setattr(counting, "_pages", never)
        await busy.run(limit(busy, maximum=50))
    assert windows(busy)[0][3:] == (15, 0)
    await busy.run(limit(busy, maximum=None), limit(busy, maximum=60))
    assert windows(busy)[0][3:] == (15, 0)


async def test_the_database_knows_the_scopes_of_a_call(shop: Shop) -> None:
    """ADR 12: in SQL as in ``ledger/scopes.py``, odd names and runs within runs too."""
    till = shop.till
    await shop.run(till.grant(1_000))
    calls = {}
    odd = 'é"\\%s'
    for run in ("", "r", "r/a/b", "/odd", "a//b", "r/", "/", "//", odd):
        about = Attribution(user=odd, run=run, tags={"team": odd, "a=b": "c", "t": "x=y", "e": ""})
        call = structs.replace(till.admit(1), attribution=about)
        await use(shop, 1, call)
        calls[call.call_id] = call
    found: dict[UUID, set[tuple[str, str]]] = {}
    for call_id, kind, ref in shop.sql("SELECT id, kind, replace(ref, '-', '') FROM call_scope"):
        found.setdefault(call_id, set()).add((kind, ref))
    for call_id, call in calls.items():
        scopes = scopes_of(
            till.organization_id,
            call.dimensions,
            user=odd,
            run=call.attribution.run,
            tags=call.attribution.tags,
        )
        assert found[call_id] == {(kind.value, ref.replace("-", "")) for kind, ref in scopes}


EDGES = (
    # Zone before and after, and now: clocks go forward, go back, a leap day, ends of months.
    ("UTC", "America/New_York", datetime(2027, 3, 14, 6, 30, tzinfo=UTC)),
    ("America/New_York", "Europe/Berlin", datetime(2027, 11, 7, 5, 30, tzinfo=UTC)),
    ("Europe/Berlin", "Pacific/Kiritimati", datetime(2028, 2, 29, 12, tzinfo=UTC)),
    ("Pacific/Apia", "UTC", datetime(2027, 1, 31, 23, 59, tzinfo=UTC)),
    ("Asia/Kolkata", "America/St_Johns", datetime(2027, 5, 1, 1, 0, tzinfo=UTC)),
)


@pytest.mark.parametrize(("before", "after", "now"), EDGES)
async def test_another_zone_counts_days_and_months_again(
    shop: Shop, before: str, after: str, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BUD-01: calls on both sides of old and new beginnings, open and closed, defaults too."""
    shop.till = till = shop.new_till(zone=before)
    shadow = Shadow(shop.dsn)
    shadow.stand_in(monkeypatch)
    starts = [start(now, zone) for start in (month_start, day_start) for zone in (before, after)]
    instants = sorted(
        edge
        for start in starts
        for edge in (start - timedelta(minutes=1), start, start + timedelta(minutes=20))
        if edge < now
    )
    at(shop, instants[0])
    await shop.run(till.grant(10**9))
    project = {"scope_kind": ScopeKind.PROJECT, "scope_ref": till.project_id.hex}
    for number, instant in enumerate(instants):
        at(shop, instant)
        if number == 1:
            await shop.run(
                limit(shop, scope_ref=""),
                limit(shop, period=Period.DAY, measure=Measure.CALLS, effect=Effect.ALERT),
                limit(shop, **project),
                limit(shop, **project, period=Period.WEEK, measure=Measure.TOKENS),
                limit(shop, **project, period=Period.TOTAL),
            )
        await use(shop, 1 << number)
        await shop.run(till.admit(1 << number))
    at(shop, now)
    command = SetZone(organization_id=till.organization_id, zone=after)
    assert not (await shop.run(command)).exists
    starts_now = {row[2] for row in windows(shop, "user", "project")}
    assert {month_start(now, after), day_start(now, after)} <= {
        start.astimezone(UTC) for start in starts_now
    }
    assert shop.sql("SELECT zone FROM organization WHERE id = %s", till.organization_id) == [
        (after,)
    ]
    await use(shop, 5)
    assert (await shop.run(command)).exists
    assert await is_clean(shop)


async def test_what_ends_while_the_zone_changes_is_counted_once(
    busy: Shop, second: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENGINE "Limits": a zone is changed in two steps too, and a new user's row is found."""
    till = busy.till
    running = till.admit(100)
    await busy.run(running)
    await busy.run(limit(busy, scope_ref=""), limit(busy, scope_ref="u"))

    async def meanwhile() -> None:
        await second.run(till.settle(running, 8))
        call = till.admit(16, attribution=Attribution(user="new"))
        await use(second, 16, call)

    between = Between(monkeypatch, meanwhile)
    result = await busy.run(SetZone(organization_id=till.organization_id, zone="Asia/Tokyo"))
    assert isinstance(result, Done)
    assert [(row[1], *row[3:]) for row in windows(busy)] == [("new", 16, 0), ("u", 15, 0)]
    assert between.wholes == 1
    assert await is_clean(busy)


async def test_what_is_refused_is_not_counted(busy: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Limits": a zone of too many scopes costs nobody a scan."""
    await busy.run(limit(busy), limit(busy, scope_ref="ada"))
    monkeypatch.setattr(limiting, "ZONED_SCOPES_MAX", 1)

    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be counted")

    monkeypatch.setattr(counting, "_pages", never)
    refused = await busy.run(SetZone(organization_id=busy.till.organization_id, zone="Asia/Tokyo"))
    assert refused.code == "too_many_scopes"


async def test_a_zone_and_a_limit_in_one_batch(busy: Shop) -> None:
    """BUD-01: whatever begins in the batch begins by the zone that it sets."""
    await busy.run(
        limit(busy), SetZone(organization_id=busy.till.organization_id, zone="Asia/Tokyo")
    )
    ((_, _, start, used, _),) = windows(busy)
    assert (start, used) == (datetime(2027, 2, 28, 15, tzinfo=UTC), 7)


async def test_tokens_and_usage_are_counted_by_their_measure(busy: Shop) -> None:
    """BUD-12: tokens of input and output."""
    call = busy.till.admit(8)
    await busy.run(call)
    await busy.run(busy.till.settle(call, 8, usage=Usage(input_tokens=40, output_tokens=2)))
    await busy.run(limit(busy, measure=Measure.TOKENS, period=Period.WEEK))
    assert windows(busy)[0][3] == 42 + 7 + 3 * 2
