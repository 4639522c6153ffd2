"""Wishes: commands in the abstract, made concrete when their batch is formed.

"Settle the third open call at a little over its hold" becomes a command by looking at the plain
model, so that examples shrink well and stay near the places where something changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import prod
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hypothesis import strategies as st

from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    AnyCommand,
    Attribution,
    Correct,
    Dispute,
    DisputeStep,
    ExpireGrants,
    Extend,
    Forget,
    GrantCredit,
    Lapse,
    LineItem,
    Refund,
    Release,
    Report,
    SetFloor,
    SetLimit,
    Settle,
    SetZone,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.holds import Dimensions
from farebox.ledger.limits import Effect, Measure, Origin, Period
from farebox.ledger.scopes import ScopeKind, scope_number
from tests.support.ledger_model_facts import places_of
from tests.support.ledger_model_limits import EPOCH, Cap

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ledger_model import ModelOrg, World
    from tests.support.ledger_model_facts import Call, Lot

PRICES = (1_000_000, 300_000, 2_500_000, 0)
KINDS = (
    *("admit",) * 9,
    *("settle",) * 6,
    *("grant",) * 4,
    *("limit",) * 4,
    *("extend", "late") * 2,
    *("release", "lapse", "report", "expire", "refund", "dispute", "correct", "floor", "zone"),
    "forget",
)
ZONES = (
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Apia",
    "UTC",
    "Atlantic/Azores",  # the clocks go back over midnight on the first day,
    "America/Havana",  # here a week later
)

# Few names, so that calls and limits meet.
USERS = ("ann", "", "bob")
FEATURES = ("search", "")
ENVIRONMENTS = ("prod", "")
RUNS = ("", "run-1", "run-1/a", "run-1/a/b", "/odd")
TAGS: tuple[dict[str, str], ...] = ({"team": "a"}, {}, {"team": "b", "tier": "x"})
FIRST_KEY = len(USERS) * len(FEATURES) * len(ENVIRONMENTS) * len(TAGS) * len(RUNS)
"""Numbers below this say that a call is for the organisation's first key."""
EVERYBODY = len(USERS) * len(FEATURES) * len(ENVIRONMENTS) * len(TAGS) * RUNS.index("run-1/a")
"""Says that a call is for the first of everything, and for a run within a run."""

MEASURES = (
    Measure.MONEY,
    Measure.TOKENS,
    Measure.CALLS,
    Measure.PARALLEL,
    Measure.MONEY,
    Measure.TOKENS,
    Measure.SECONDS,
    Measure.DEPTH,
)
RUNS_ONLY = {Measure.SECONDS, Measure.DEPTH}
TOTAL_ONLY = {Measure.PARALLEL, *RUNS_ONLY}
PERIODS = (Period.MONTH, Period.MINUTE, Period.TOTAL, Period.DAY, Period.UTC_DAY, Period.WEEK)
EFFECTS = (
    Effect.HARD,
    Effect.HARD,
    Effect.HARD,
    Effect.THROTTLE,
    Effect.ALERT,
    Effect.SHADOW,
    Effect.ALLOCATION,
    Effect.STOP,
)
MODELS = ("", "model-0", "model-*")
THRESHOLDS: tuple[tuple[int, ...], ...] = ((), (100, 50), (80,), (1, 100, 150))


@dataclass(frozen=True)
class Wish:
    """A command in the abstract."""

    kind: str
    org: int
    pick: int
    mode: int
    n: int
    when: int
    time: int = 0
    who: int = 0
    """Whom a call is for, or which limit is meant: several choices in one number."""


MODES = st.integers(0, 3)
SMALL = st.integers(0, 40)
REFS = 3
LIMIT_BASES = (len(ScopeKind), REFS, len(MEASURES), len(PERIODS), len(EFFECTS), len(MODELS))
WHO = st.integers(0, prod(LIMIT_BASES) - 1)
WISHES = st.builds(
    Wish,
    kind=st.sampled_from(KINDS),
    org=st.integers(0, 1),
    pick=st.integers(0, 7),
    mode=MODES,
    n=SMALL,
    when=st.integers(0, 7),
    time=st.sampled_from([0] * 14 + [2, 3, *range(5, 15)]),
    who=WHO,
)


def uuid(number: int) -> UUID:
    """A small, readable id."""
    return UUID(int=number)


def near(mode: int, n: int, *places: int) -> int:
    """A small number, or one that lies on or beside a place where something changes."""
    if mode == 0 or mode > len(places):
        return n
    return max(0, places[mode - 1] + n % 3 - 1)


def choices(number: int, *bases: int) -> list[int]:
    """Several small numbers out of a large one."""
    found = []
    for base in bases:
        number, digit = divmod(number, base)
        found.append(digit)
    return found


def limit_number(chosen: list[int]) -> int:
    """The number that says which limit is meant, of those choices."""
    number = 0
    for digit, base in zip(reversed(chosen), reversed(LIMIT_BASES), strict=True):
        number = number * base + digit
    return number


RPM = (Measure.CALLS, Period.MINUTE)
"""The only kind of limit that may leave failed calls out."""

RICH = 1_000
"""Nobody spends such an amount at once: with more than this, only limits matter."""


class Maker:
    """Makes commands of wishes, for a world as it is now."""

    def __init__(self, world: World, clock: datetime) -> None:
        self.world = world
        self.clock = clock
        self.count = 100

    def next_id(self) -> UUID:
        """An id that nothing has yet."""
        self.count += 1
        return uuid(self.count)

    def make(self, wish: Wish) -> AnyCommand | None:
        """The concrete command; None where there is nothing it could be about."""
        org = self.world.orgs[uuid(wish.org + 1)]
        makers: dict[str, Callable[[ModelOrg, Wish], AnyCommand]] = {
            "admit": self.make_admit,
            "expire": lambda org, _: ExpireGrants(organization_id=org.id),
            "grant": self.make_grant,
            "limit": self.make_limit,
            "floor": lambda org, wish: SetFloor(organization_id=org.id, floor=Nanos(wish.n // 2)),
            "zone": lambda org, wish: SetZone(
                organization_id=org.id, zone=ZONES[wish.n % len(ZONES)]
            ),
            "forget": lambda org, _: Forget(organization_id=org.id, numbers=scopes_seen(org)),
            "correct": lambda org, wish: Correct(
                organization_id=org.id,
                command_id=self.next_id(),
                amount=Nanos(1 + near(wish.mode, wish.n, max(0, org.spendable() - 1))),
                note="",
            ),
        }
        if wish.kind in makers:
            return makers[wish.kind](org, wish)
        if wish.kind in {"refund", "dispute"}:
            lots = list(org.lots.values())
            return self.make_about_grant(org, wish, lots[wish.pick % len(lots)]) if lots else None
        late = wish.kind == "late"
        calls = [
            call for call in org.calls.values() if call.state == ("lapsed" if late else "open")
        ]
        if wish.pick in range(1, 6) and not calls and not late:
            return self.make_admit(org, wish)
        calls = calls or list(org.calls.values())
        return self.make_about_call(org, wish, calls[wish.pick % len(calls)]) if calls else None

    # --- calls --------------------------------------------------------------------------------

    def make_admit(self, org: ModelOrg, wish: Wish) -> Admit:
        """A call for somebody, near what money or a limit of money or tokens leaves."""
        user, feature, environment, tags, run, key, tokens = choices(
            wish.who, len(USERS), len(FEATURES), len(ENVIRONMENTS), len(TAGS), len(RUNS), 3, 3
        )
        low = wish.n % 5 if wish.when & 1 else 0
        node = uuid(30 + wish.pick % 2)
        foreign_key = wish.pick == 3 and wish.n % 8 == 0
        call = Admit(
            organization_id=org.id,
            call_id=self.next_id(),
            node_id=node,
            epoch=self.world.epochs[node] - (wish.pick == 6),
            catalogue_revision=1,
            fixed=Nanos(0),
            output_price=PRICES[wish.n % 4],
            output_min=low,
            output_max=low if wish.when & 2 else low + wish.n * 3,
            latest_end_after=timedelta(hours=1 + wish.when * 3),
            dimensions=Dimensions(
                project_id=uuid(
                    19 + wish.org + (wish.pick != 4 or wish.n % 8 != 0) + 40 * (key == 2)
                ),
                key_id=uuid((10, 40, 50)[key] + (wish.org + foreign_key) % 3),
                feature=FEATURES[feature],
                environment=ENVIRONMENTS[environment],
                model=f"model-{wish.n % 2}",
                lane="standard",
                endpoint="chat",
            ),
            price_id=uuid(7),
            upstream_account_id=uuid(8),
            attribution=Attribution(user=USERS[user], run=RUNS[run], tags=TAGS[tags]),
        )
        now = max(self.clock, org.now)
        spans = org.caps.spans(places_of(call), call.dimensions.model, now)
        money = org.caps.least_left(spans, Measure.MONEY, now) or 0
        room = org.caps.least_left(spans, Measure.TOKENS, now) or 0
        small = wish.n if wish.n % 3 else wish.n % (1 + max(0, org.spendable()) // 3)
        fixed = near(wish.mode, small, org.spendable(), money, org.posted())
        if org.spendable() > RICH:
            hard = [s.cap for s in spans if s.cap.refuses and s.cap.asked.measure is Measure.MONEY]
            most = min((cap.maximum(now) for cap in hard), default=0)
            fixed = near(wish.mode, wish.n, money, most)
        reserved = (0, wish.n % 7, near(1, wish.n, room - low))[tokens]
        return Admit(
            **{name: getattr(call, name) for name in call.__struct_fields__}
            | {
                "fixed": Nanos(0 if wish.when == 5 else max(0, fixed)),
                "input_tokens": max(0, reserved),
            }
        )

    def make_about_call(self, org: ModelOrg, wish: Wish, call: Call) -> AnyCommand:
        """Whatever may happen to an admitted call, near what is held and what is left."""
        asked = call.asked
        who: dict[str, Any] = {"organization_id": org.id, "call_id": asked.call_id}
        node: dict[str, Any] = {"node_id": asked.node_id, "epoch": asked.epoch}
        spans = org.caps.spans_of(call)
        limited = org.caps.least_left(spans, Measure.MONEY, org.now) or 0
        room = max(0, org.spendable() if org.spendable() <= RICH else limited)
        left = org.caps.least_left(spans, Measure.TOKENS, org.now) or 0
        tokens = near((wish.mode + wish.pick) % 4, wish.n, call.tokens, left, call.tokens + left)
        match wish.kind:
            case "extend":
                small = wish.n % (1 + room)
                amount = near(wish.mode, small, room - 1, min(org.posted(), RICH) - 1, limited - 1)
                return Extend(
                    **who,
                    **node,
                    amount=Nanos(1 + amount),
                    step=max(1, call.steps + 1 - (wish.pick == 7)),
                    tokens=tokens if wish.n % 3 else 0,
                )
            case "settle" | "late":
                base = call.held if call.state == "open" else call.charge
                metered = near(wish.mode, wish.n, base, base + room)
                return Settle(
                    **who,
                    metered=Nanos(metered),
                    cost=Nanos(metered // 2),
                    lines=(LineItem("token", metered, 1_000_000, Nanos(metered)),),
                    usage=Usage(output_tokens=tokens - tokens // 3, input_tokens=tokens // 3),
                    lane="flex" if wish.when == 1 else "",
                )
            case "release":
                return Release(**who, reason="nothing")
            case "report":
                metered = near(wish.mode, wish.n, call.held, call.held + room)
                return Report(
                    **who,
                    **node,
                    metered=Nanos(metered),
                    cost=Nanos(metered),
                    input_tokens=1,
                    output_tokens=tokens,
                )
            case _:
                return Lapse(**who, **node, reason="unseen")

    # --- credit -------------------------------------------------------------------------------

    def make_grant(self, org: ModelOrg, wish: Wish) -> GrantCredit:
        """Credit of any source, now, later or since a while."""
        effective = [None, None, None, timedelta(hours=5), timedelta(days=2), timedelta(days=-3)]
        lasts = [None, timedelta(hours=3), timedelta(days=1), timedelta(days=33)]
        start = effective[wish.when % len(effective)]
        begins = None if start is None else self.clock + start
        length = lasts[wish.mode]
        return GrantCredit(
            organization_id=org.id,
            grant_id=self.next_id(),
            source=list(Source)[wish.pick % 7],
            amount=Nanos(1 + wish.n),
            effective_at=begins,
            expires_at=None if length is None else (begins or self.clock) + length,
            default_expiry=bool(wish.n % 2),
        )

    def make_about_grant(self, org: ModelOrg, wish: Wish, lot: Lot) -> AnyCommand:
        """A refund or a step of a dispute."""
        if wish.kind == "refund":
            return Refund(
                organization_id=org.id,
                command_id=self.next_id(),
                grant_id=lot.id,
                amount=Nanos(1 + near(wish.mode, wish.n, org.unheld(lot) - 1)),
                note="",
            )
        step = list(DisputeStep)[wish.n % 3]
        return Dispute(organization_id=org.id, grant_id=lot.id, step=step)

    # --- limits -------------------------------------------------------------------------------

    def make_limit(self, org: ModelOrg, wish: Wish) -> SetLimit:
        """A limit that there is, changed or removed; or another one."""
        known = [cap.asked for mine in org.caps.caps.values() for cap in mine.values()]
        if known and wish.pick < 4:
            return self.limit_like(org, wish, known[wish.who % len(known)])
        kind, ref, measure, period, effect, models = choices(wish.who, *LIMIT_BASES)
        what, model = MEASURES[measure], MODELS[models]
        scope_kind = ScopeKind.RUN if what in RUNS_ONLY else list(ScopeKind)[kind]
        name = refs(scope_kind, wish.org)[ref]
        if EFFECTS[effect] is Effect.ALLOCATION:
            scope_kind, what, model = ScopeKind.PROJECT, Measure.MONEY, ""
            name = uuid((20, 60)[ref % 2] + wish.org).hex
        if EFFECTS[effect] is Effect.STOP:
            what, model = Measure.PARALLEL, ""
        if EFFECTS[effect] is Effect.THROTTLE and what is not Measure.PARALLEL:
            # Only what goes away by itself can be waited for.
            what = Measure.CALLS if what in RUNS_ONLY else what
            period = period if PERIODS[period] is not Period.TOTAL else 0
        hard = scope_kind is ScopeKind.ORGANIZATION and EFFECTS[effect] is Effect.HARD
        wanted = SetLimit(
            organization_id=org.id,
            scope_kind=scope_kind,
            scope_ref=name,
            measure=what,
            period=Period.TOTAL if what in TOTAL_ONLY else PERIODS[period],
            effect=EFFECTS[effect],
            models=model,
            maximum=0,
            origin=Origin.TIER if hard and wish.pick % 2 else Origin.MANUAL,
        )
        return self.limit_like(org, wish, wanted)

    def limit_like(self, org: ModelOrg, wish: Wish, like: SetLimit) -> SetLimit:
        """That limit with another maximum, near what it counts; or without one."""
        now = max(self.clock, org.now)
        span = org.caps.span(org.caps.place(like), Cap(like, EPOCH), now)
        counted = org.caps.used(span) + org.caps.held(span)
        small = like.measure not in {Measure.MONEY, Measure.TOKENS}
        maximum = near(wish.mode % 3, wish.n % 5 if small else wish.n * 2, counted, org.posted())
        if like.measure is Measure.SECONDS:
            maximum = wish.n % 5 * 3600
        stops = like.effect is Effect.STOP
        maximum = 0 if stops else maximum
        return SetLimit(
            organization_id=org.id,
            scope_kind=like.scope_kind,
            scope_ref=like.scope_ref,
            measure=like.measure,
            period=like.period,
            effect=like.effect,
            models=like.models,
            maximum=None if wish.when == 0 else Nanos(maximum),
            raised_to=maximum + wish.n % 9 if wish.mode == 3 and not stops else None,
            raised_from=now + timedelta(hours=wish.when - 1) if wish.when & 2 else None,
            raised_until=now + timedelta(hours=wish.when) if wish.when & 1 else None,
            thresholds=THRESHOLDS[(wish.n + wish.when) % len(THRESHOLDS)],
            owner="eve" if wish.n % 7 == 1 else "",
            origin=like.origin,
            count_failed=wish.n % 3 > 0 or (like.measure, like.period) != RPM,
        )


def scopes_seen(org: ModelOrg) -> tuple[int, ...]:
    """The numbers of every scope that a call was counted under, and of the organisation."""
    places = {place for call in org.calls.values() for place in call.places}
    return tuple(sorted(scope_number(*place) for place in places)) or (0,)


def refs(kind: ScopeKind, org: int) -> tuple[str, str, str]:
    """What limits of a kind are set on; the first one's calls are the most, empty is the default.

    The organisation's own is meant whatever is named.
    """
    return {
        ScopeKind.ORGANIZATION: ("", "", ""),
        ScopeKind.PROJECT: (uuid(20 + org).hex, "", uuid(60 + org).hex),
        ScopeKind.KEY: (uuid(10 + org).hex, "", uuid(40 + org).hex),
        ScopeKind.USER: ("ann", "", "bob"),
        ScopeKind.FEATURE: ("search", "", "chat"),
        ScopeKind.ENVIRONMENT: ("prod", "", "test"),
        ScopeKind.TAG: ("team=a", "", "tier=x"),
        ScopeKind.RUN: ("run-1", "", "run-1/a"),
    }[kind]
