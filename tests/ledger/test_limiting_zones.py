"""The zone of an organisation: its limits' days, weeks and months follow it exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from farebox.ledger import limiting
from farebox.ledger.commands import Done, Refused, SetZone
from farebox.ledger.limits import Measure, Period, Window, micros
from farebox.ledger.scopes import ScopeKind
from tests.support.ledger_scenes import DAY, HOUR, MICRO, Scene

USER: dict[str, Any] = {"scope_kind": ScopeKind.USER, "scope_ref": "ada"}
EACH: dict[str, Any] = {"scope_kind": ScopeKind.USER}
NEW_YORK = "America/New_York"
FIRST = datetime(2027, 4, 1, tzinfo=UTC)


def funded(now: datetime, zone: str = "UTC") -> Scene:
    """An organisation with credit for everything below."""
    scene = Scene(now=now, zone=zone)
    scene.give("paid", 10_000, "purchased", ends=now + 300 * DAY)
    return scene


def move(scene: Scene, zone: str) -> Done:
    """Set the zone."""
    return scene.one(SetZone(organization_id=scene.id, zone=zone), Done)


def use(scene: Scene, name: str, amount: int, **about: Any) -> None:
    """A call from its admission to its charge."""
    scene.hold(name, amount, **about)
    scene.charge(name, amount)


def spans(window: Window) -> tuple[int, int]:
    """Where a window begins and ends."""
    return window.start, window.end


def test_the_month_of_now_is_counted_again_by_the_new_zone() -> None:
    """BUD-01: at 02:00 UTC on the first, New York is in March still: all of March is counted."""
    scene = funded(FIRST - 31 * DAY)
    use(scene, "in february there", 1)
    scene.now = FIRST - 20 * DAY
    use(scene, "in march", 2)
    scene.set_limit(100)
    scene.now = FIRST + HOUR
    use(scene, "in april here", 4)
    assert scene.counted() == (4, 0)
    scene.hold("open", 8)
    scene.later(HOUR)
    move(scene, NEW_YORK)
    assert scene.org.zone == NEW_YORK
    (window,) = scene.windows()
    assert spans(window) == (
        micros(FIRST - 31 * DAY + 5 * HOUR),
        micros(FIRST + 4 * HOUR),
    )
    assert scene.counted() == (6, 8)
    scene.charge("open", 5)
    assert scene.counted() == (11, 0)
    assert scene.refuse("over", 90).code == "organization_spend_limit_exceeded"
    scene.now = FIRST + 4 * HOUR
    scene.hold("in april there", 100)


def test_what_a_call_holds_moves_with_it() -> None:
    """DED-16: a call of yesterday's by the new zone counts in no window of today's."""
    scene = funded(datetime(2027, 3, 10, 3, tzinfo=UTC))
    daily = USER | {"period": Period.DAY}
    scene.set_limit(100, **daily)
    scene.set_limit(100, **USER, period=Period.TOTAL)
    scene.hold("early", 10, user="ada")
    scene.later(4 * HOUR)
    scene.hold("late", 20, user="ada")
    move(scene, NEW_YORK)  # midnight there was at five
    assert scene.counted(**daily) == (0, 20)
    assert scene.counted(**USER, period=Period.TOTAL) == (0, 30)
    assert len(scene.open("early").raised) == 1
    scene.charge("early", 10)
    scene.charge("late", 15)
    assert scene.counted(**daily) == (15, 0)
    move(scene, "UTC")
    assert scene.counted(**daily) == (25, 0)


def test_the_same_zone_changes_nothing() -> None:
    """DED-17: a repetition answers so."""
    scene = funded(FIRST)
    scene.set_limit(100)
    assert move(scene, "UTC").exists
    assert not move(scene, "Asia/Tokyo").exists
    assert move(scene, "Asia/Tokyo").exists


def test_rates_and_totals_know_no_zone() -> None:
    """LIM-01: minutes and UTC days stay as they are, with what they have told."""
    scene = funded(FIRST)
    which: list[dict[str, Any]] = [
        {"measure": Measure.CALLS, "period": Period.MINUTE},
        {"measure": Measure.CALLS, "period": Period.UTC_DAY, "thresholds": (1,)},
        {"period": Period.TOTAL},
    ]
    for each in which:
        scene.set_limit(50, **each)
    use(scene, "one", 5)
    before = [scene.windows(**each) for each in which]
    move(scene, "Asia/Kolkata")
    assert [scene.windows(**each) for each in which] == before


def test_a_default_counts_nothing_from_before_it_was_set() -> None:
    """BUD-14: the new month begins earlier, the default does not."""
    scene = funded(FIRST + HOUR)
    use(scene, "before", 1, user="ada")
    scene.set_limit(50, **EACH, period=Period.MONTH)
    use(scene, "after", 2, user="ada")
    move(scene, "Pacific/Kiritimati")
    assert scene.counted(**USER) == (2, 0)
    (window,) = scene.windows(**USER)
    assert window.start == micros(FIRST + HOUR + MICRO)
    use(scene, "bob", 4, user="bob")
    assert scene.counted(scope_kind=ScopeKind.USER, scope_ref="bob") == (4, 0)


def test_a_zone_that_comes_back_brings_the_first_hours_of_its_month_back() -> None:
    """BUD-01, BUD-14: a default counts what came after it, whichever zones were set since."""
    scene = funded(FIRST - DAY)
    scene.set_limit(50, **EACH, period=Period.MONTH)
    scene.now = FIRST + 2 * HOUR
    use(scene, "in march in New York", 1, user="ada")
    scene.now = FIRST + 5 * HOUR
    scene.hold("open", 2, user="ada")
    move(scene, NEW_YORK)
    assert scene.counted(**USER) == (0, 2)
    move(scene, "UTC")
    assert scene.counted(**USER) == (1, 2)
    (window,) = scene.windows(**USER)
    assert spans(window) == (micros(FIRST), micros(FIRST + 30 * DAY))


def test_an_open_call_from_before_a_default_is_not_counted() -> None:
    """BUD-14: nor does the change make a row for whom no call was counted."""
    scene = funded(FIRST + HOUR)
    scene.hold("early", 5, user="ada")
    scene.set_limit(50, **EACH, period=Period.MONTH)
    move(scene, "Asia/Tokyo")
    assert not any(limits.ref == "ada" for limits in scene.ledger.limits.values())
    scene.charge("early", 5)
    use(scene, "later", 7, user="ada")
    assert scene.counted(**USER) == (7, 0)


def test_what_was_told_is_told_again_only_in_a_window_that_has_not_reached_it() -> None:
    """BUD-07: once per window; the same use is not told of twice because its midnight moved."""
    scene = funded(datetime(2027, 3, 10, 3, tzinfo=UTC))
    daily = {"period": Period.DAY, "thresholds": (50, 80)}
    scene.set_limit(100, **daily)
    use(scene, "early", 30)
    scene.later(4 * HOUR)
    use(scene, "late", 55)
    assert [facts["percent"] for facts in scene.told("limit_threshold")] == ["50", "80"]
    move(scene, NEW_YORK)
    assert (scene.counted(**daily), scene.window(**daily).told) == ((55, 0), 50)
    use(scene, "more", 30)
    assert [facts["percent"] for facts in scene.told("limit_threshold")] == ["50", "80", "80"]


def test_a_late_answer_to_an_earlier_window_is_counted_nowhere() -> None:
    """ADR 16: a limit begins with its current window, when it is set and when its zone changes."""
    scene = funded(FIRST - HOUR)
    scene.set_limit(100)
    scene.hold("late", 10)
    scene.later(2 * HOUR)
    scene.vanish("late")
    move(scene, "Asia/Kolkata")
    assert len(scene.windows()) == 1
    scene.charge("late", 10)
    assert scene.counted() == (10, 0)  # april began at half past six in the evening there
    move(scene, "UTC")
    assert scene.counted() == (0, 0)


def test_a_late_answer_within_the_month_is_counted_under_a_default() -> None:
    """BUD-14: the zone changed while a lapsed call had cost nothing: its charge counts, tells."""
    scene = funded(FIRST + 2 * DAY)
    scene.set_limit(15, **EACH, period=Period.MONTH, thresholds=(50,))
    scene.hold("late", 10, user="ada")
    scene.vanish("late")
    move(scene, NEW_YORK)
    scene.charge("late", 10)
    assert scene.counted(**USER) == (10, 0)
    assert [facts["percent"] for facts in scene.told("limit_threshold")] == ["50"]
    assert scene.refuse("over", 6, user="ada").code == "user_spend_limit_exceeded"


def test_a_zone_of_too_many_scopes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENGINE "Limits": what is counted again under the lock is bounded."""
    monkeypatch.setattr(limiting, "ZONED_SCOPES_MAX", 1)
    scene = funded(FIRST)
    scene.set_limit(50)
    move(scene, "Asia/Tokyo")
    scene.set_limit(50, **USER)
    refused = scene.one(SetZone(organization_id=scene.id, zone="UTC"), Refused)
    assert refused.code == "too_many_scopes"
    assert refused.message.startswith("zone: limits count more than 1 scopes")
    assert scene.org.zone == "Asia/Tokyo"


CALENDAR = [
    # Zone, an instant, and the day and month that it lies in.
    (NEW_YORK, "2027-03-14T12:00", ("2027-03-14T05:00", "2027-03-15T04:00"), "2027-04-01T04:00"),
    (NEW_YORK, "2027-11-07T12:00", ("2027-11-07T04:00", "2027-11-08T05:00"), "2027-12-01T05:00"),
    ("UTC", "2028-02-29T23:59", ("2028-02-29T00:00", "2028-03-01T00:00"), "2028-03-01T00:00"),
    ("Asia/Tokyo", "2028-02-29T15:00", ("2028-02-29T15:00", "2028-03-01T15:00"),
     "2028-03-31T15:00"),
    ("UTC", "2027-02-28T12:00", ("2027-02-28T00:00", "2027-03-01T00:00"), "2027-03-01T00:00"),
    ("Asia/Kathmandu", "2027-01-31T18:14", ("2027-01-30T18:15", "2027-01-31T18:15"),
     "2027-01-31T18:15"),
    ("Europe/Berlin", "2027-12-31T22:59", ("2027-12-30T23:00", "2027-12-31T23:00"),
     "2027-12-31T23:00"),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "now", "day", "month_ends"), CALENDAR)
def test_days_and_months_turn_by_the_zone_to_the_microsecond(
    zone: str, now: str, day: tuple[str, str], month_ends: str
) -> None:
    """BUD-01: days of 23, 25 hours and a leap day; to the last microsecond, and not one longer."""

    def instant(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    scene = funded(instant(now))
    move(scene, zone)
    daily = {"period": Period.DAY}
    scene.set_limit(10, **daily)
    scene.set_limit(15)
    use(scene, "one", 10)
    assert spans(scene.window(**daily)) == tuple(micros(instant(edge)) for edge in day)
    scene.now = instant(day[1]) - MICRO
    assert scene.refuse("the same day", 1).code == "organization_spend_limit_exceeded"
    scene.now = instant(day[1])
    within = instant(day[1]) < instant(month_ends)
    scene.hold("the next day", 5)
    assert scene.counted() == ((10, 5) if within else (0, 5))
    scene.now = instant(month_ends) + timedelta(hours=30)
    scene.hold("the next month", 10)
    assert scene.counted() == (0, 10) if within else (0, 15)
