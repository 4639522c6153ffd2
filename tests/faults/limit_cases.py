"""The kinds of limits that storms are sent against: scope, measure, period and effect.

Not every combination, but each value of each at least twice, and each pair that is decided by code
of its own. ``room`` is how many average calls fit, as a share of all calls of the case: under one,
somebody has to be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farebox.kit.money import NANOS_PER_UNIT, format_amount
from tests.faults.limit_house import Order
from tests.faults.limit_judge import codes_of

TOKENS = (610, 900, 1_250)
"""Output limits that make ceilings of 2 to 4 cents."""

ODD = 7
"""Added to money and tokens, so that no limit is a multiple of anything."""

CREDIT = 10_000 * NANOS_PER_UNIT
LATENCIES_MS = (0, 50, 150)

COUNTED_MODEL = "gpt-4o"
"""Its prompts are counted before anybody is refused."""

Labels = Mapping[str, str]
NOBODY: Labels = {}


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a case, its maximum by the number of calls."""

    scope: str = "organization"
    name: str = ""
    measure: str = "money"
    period: str = "month"
    effect: str = "hard"
    room: float = 0.4
    maximum: int | None = None
    """In place of ``room``."""
    models: str = ""
    thresholds: tuple[int, ...] = ()
    raised_by: float | None = None
    """A raise that is on during the storm, as a multiple of the maximum."""

    def order(self, calls: int) -> dict[str, Any]:
        """As the API takes it."""
        maximum = self.maximum if self.maximum is not None else self._maximum(calls)
        found: dict[str, Any] = {
            "scope_kind": self.scope,
            "scope_name": self.name,
            "measure": self.measure,
            "period": self.period,
            "effect": self.effect,
            "models": self.models,
            "maximum": maximum,
            "thresholds_percent": list(self.thresholds),
            "owner": "whoever",
        }
        if self.raised_by is not None:
            found |= {
                "raised_to": int(maximum * self.raised_by),
                "raised_until": "2099-01-01T00:00:00Z",
            }
        return found

    def codes(self) -> set[str]:
        """What it may refuse with."""
        return codes_of(self.scope, self.measure, self.period, self.effect)

    def _maximum(self, calls: int) -> int:
        odd = ODD if self.measure in {"money", "tokens"} else 0
        return max(1, _room(self.measure, self.room * calls)) + odd


@dataclass(frozen=True, slots=True)
class Case:
    """A storm of calls at once against some limits."""

    name: str
    limits: tuple[Limit, ...]
    answers: str = "exact"
    """``exact``, ``cheap`` or ``overrun``."""
    who: tuple[Labels, ...] = (NOBODY,)
    """What the calls are for, in turn."""
    models: tuple[str, ...] = ()
    """What they ask for, in turn; the one that is bounded by its bytes where there is none."""
    refuses: bool = True
    """Whether somebody has to be refused."""
    credit_room: float | None = None
    """Credit for so many average calls, as a share of all; without it there is enough."""
    latencies_ms: tuple[int, ...] = LATENCIES_MS
    tier: tuple[str, ...] = ()
    """What the command line sets a usage tier to, before it is given to the tenant."""
    waves: int = 1
    """Storms one after the other, the later ones when the wall time of a run is over."""

    def tier_options(self, calls: int) -> list[str]:
        """The tier, by the number of calls."""
        room = format_amount(_room("money", 0.4 * calls) + ODD)
        return [option.format(half=calls // 2, room=room) for option in self.tier]

    def credit(self, calls: int) -> int:
        """What the tenant is given."""
        return CREDIT if self.credit_room is None else _room("money", self.credit_room * calls)

    def orders(self, calls: int) -> list[Order]:
        """The calls; every other is a stream."""
        found = []
        for number in range(calls):
            tokens = TOKENS[number % len(TOKENS)]
            share = {"exact": 1.0, "cheap": 0.3, "overrun": 1.0}[self.answers]
            found.append(
                Order(
                    tokens,
                    self.who[number % len(self.who)],
                    stream=number // len(TOKENS) % 2 == 1,
                    share=share,
                    overrun=300 if self.answers == "overrun" else 0,
                    head_ms=self.latencies_ms[number // 2 % len(self.latencies_ms)],
                    **({"model": self.models[number % len(self.models)]} if self.models else {}),
                )
            )
        return found


def _room(measure: str, calls: float) -> int:
    """What so many average calls need."""
    return int(sum(Order(tokens).needed[measure] for tokens in TOKENS) * calls / len(TOKENS))


def _each(kind: str, prefix: str, count: int) -> tuple[Labels, ...]:
    return tuple({kind: f"{prefix}{number}"} for number in range(count))


RUNS: tuple[Labels, ...] = tuple(
    {"run": run} for run in ("crawl", "crawl/page", "crawl/page/figure", "crawl/other", "crawler")
)
"""Paths; the last one is no part of ``crawl``."""

USERS = _each("user", "user-", 5)
BOTH_KEYS: tuple[Labels, ...] = ({"key": "main"}, {"key": "side"})
PERCENT = (50, 80, 100)

MONEY = (
    Case("organisation, month", (Limit(thresholds=PERCENT),)),
    Case(
        "project, day",
        (Limit("project", "main", period="day", room=0.1, thresholds=PERCENT),),
        "cheap",
        BOTH_KEYS,
    ),
    Case("key, week", (Limit("key", "main", period="week", room=0.2),), "overrun", BOTH_KEYS),
    Case(
        "user, all time",
        (Limit("user", "user-1", period="total", room=0.08, thresholds=(1, 100)),),
        "exact",
        USERS,
    ),
    Case(
        "runs within a run",
        (
            Limit("run", "crawl", period="total", room=0.15),
            Limit("run", "crawl/page", period="total", room=0.05),
        ),
        "cheap",
        RUNS,
    ),
    Case(
        "each tag and each feature",
        (
            Limit("tag", period="month", room=0.1, thresholds=PERCENT),
            Limit("feature", period="minute", room=0.15),
        ),
        "overrun",
        tuple({"tags": f"team={n},tier=gold", "feature": f"f{n % 2}"} for n in range(4)),
    ),
    Case("with a raise", (Limit("key", "main", room=0.1, raised_by=4.0, thresholds=PERCENT),)),
    Case(
        "waiting in order",
        (Limit("feature", "search", period="week", effect="throttle", room=0.4),),
        "cheap",
        ({"feature": "search"},),
        refuses=False,
    ),
    Case(
        "an allocation",
        (Limit("project", "main", effect="allocation", room=0.3),),
        "cheap",
        BOTH_KEYS,
        credit_room=0.4,
    ),
    Case(
        "two allocations",
        (
            Limit("project", "main", effect="allocation", room=0.2),
            Limit("project", "side", effect="allocation", period="week", room=0.1),
        ),
        "exact",
        BOTH_KEYS,
        credit_room=0.35,
    ),
)

TOKENS_CASES = (
    Case(
        "feature, minute",
        (Limit("feature", "search", "tokens", "minute", thresholds=(100,)),),
        "cheap",
        ({"feature": "search"}, {"feature": "search", "user": "a"}),
    ),
    Case(
        "environment, UTC day",
        (Limit("environment", "live", "tokens", "utc_day", room=0.2),),
        "exact",
        ({"environment": "live"}, {"environment": "test"}),
    ),
    Case(
        "tag, month",
        (Limit("tag", "team=search", "tokens", "month", room=0.2, thresholds=PERCENT),),
        "overrun",
        ({"tags": "team=search,tier=gold"}, {"tags": "team=sales"}),
    ),
    Case("run, all time", (Limit("run", "crawl", "tokens", "total", room=0.15),), "cheap", RUNS),
    Case(
        "each user, week",
        (Limit("user", "", "tokens", "week", room=0.1), Limit("user", "user-0", "tokens", "week")),
        "exact",
        USERS,
    ),
    Case(
        "each environment, day, shadow beside hard",
        (
            Limit("environment", "", "tokens", "day", effect="shadow", room=0.05),
            Limit("environment", "", "tokens", "day", room=0.2),
        ),
        "exact",
        _each("environment", "env-", 3),
    ),
    Case(
        "families of models",
        (
            Limit("project", "main", "tokens", "day", models="gpt-4-*", room=0.2),
            Limit("project", "main", "calls", "day", models=COUNTED_MODEL, room=0.1),
            Limit("organization", "", "calls", "minute", models="gpt-4*", room=0.9),
        ),
        "cheap",
        models=("gpt-4-turbo", COUNTED_MODEL),
    ),
)

CALLS = (
    Case(
        "requests and tokens a minute",
        (
            Limit(measure="calls", period="minute", room=0.5, thresholds=(80, 100)),
            Limit(measure="tokens", period="minute", room=0.9),
        ),
        "cheap",
    ),
    Case("key, UTC day", (Limit("key", "side", "calls", "utc_day"),), "exact", BOTH_KEYS),
    Case("user, day", (Limit("user", "user-2", "calls", "day", room=0.1),), "exact", USERS),
    Case(
        "each user, all time: nobody was seen before",
        (Limit("user", "", "calls", "total", maximum=3, thresholds=(100,)),),
        "exact",
        _each("user", "new-", 5),
    ),
    Case(
        "each run, month",
        (Limit("run", "", "calls", "month", room=0.1),),
        "cheap",
        RUNS,
    ),
    Case(
        "each key and each project, week",
        (
            Limit("key", "", "calls", "week", room=0.3),
            Limit("project", "", "calls", "minute", room=0.4),
        ),
        "exact",
        BOTH_KEYS,
    ),
    Case(
        "waiting for a minute",
        (Limit("key", "main", "calls", "minute", effect="throttle"),),
        "exact",
    ),
    Case(
        "a usage tier",
        (),
        "cheap",
        tier=("--rate", "*:calls_per_minute={half},tokens_per_day=100000000"),
    ),
    Case(
        "a usage tier's month",
        (),
        "exact",
        tier=("--monthly-maximum", "{room}", "--rate", "gpt-4*:tokens_per_minute=99000000"),
    ),
)

OTHERS = (
    Case(
        "at a time",
        (Limit("project", "main", "parallel", "total", maximum=5),),
        latencies_ms=(200, 300),
        refuses=False,
    ),
    Case(
        "at a time, each user, waiting",
        (Limit("user", "", "parallel", "total", effect="throttle", maximum=2),),
        who=USERS,
        latencies_ms=(200, 300),
        refuses=False,
    ),
    Case(
        "wall time of a run",
        (Limit("run", "crawl", "seconds", "total", maximum=2),),
        who=RUNS,
        waves=2,
    ),
    Case(
        "wall time of each run",
        (Limit("run", "", "seconds", "total", maximum=2),),
        who=RUNS,
        waves=2,
    ),
    Case(
        "a run that was stopped",
        (Limit("run", "crawl/page", "parallel", "total", effect="stop", maximum=0),),
        who=RUNS,
    ),
    Case(
        "a user and a key that were stopped",
        (
            Limit("user", "user-2", "parallel", "total", effect="stop", maximum=0),
            Limit("key", "side", "parallel", "total", effect="stop", maximum=0),
        ),
        who=tuple({**labels, "key": ("main", "side")[n % 2]} for n, labels in enumerate(USERS)),
    ),
    Case("depth below a run", (Limit("run", "crawl", "depth", "total", maximum=1),), who=RUNS),
    Case("depth below each run", (Limit("run", "", "depth", "total", maximum=1),), who=RUNS),
    Case(
        "alerts alone",
        (
            Limit(effect="alert", room=0.2, thresholds=(50, 80, 100, 200)),
            Limit("project", "main", "tokens", "day", effect="alert", room=0.1, thresholds=PERCENT),
            Limit("key", "", "calls", "total", effect="alert", maximum=3, thresholds=(34, 100)),
        ),
        "cheap",
        refuses=False,
    ),
    Case(
        "in the shadow",
        (
            Limit("project", "main", "calls", "total", effect="shadow", maximum=6),
            Limit("user", "", effect="shadow", period="day", room=0.05, thresholds=PERCENT),
        ),
        "overrun",
        USERS,
        refuses=False,
    ),
    Case(
        "everything at once",
        (
            Limit(room=0.8, thresholds=PERCENT),
            Limit(measure="calls", period="minute", room=0.9),
            Limit("project", "main", "tokens", "day", room=0.7),
            Limit("key", "main", "money", "week", effect="throttle", room=0.7),
            Limit("user", "", "calls", "utc_day", room=0.3),
            Limit("feature", "", "money", "total", room=0.4, raised_by=1.5),
            Limit("environment", "live", "tokens", "minute", effect="alert", room=0.1),
            Limit("tag", "team=search", "money", "month", effect="shadow", room=0.1),
            Limit("run", "", "tokens", "total", room=0.5),
            Limit("run", "crawl", "depth", "total", maximum=1),
        ),
        "cheap",
        tuple(
            {**labels, "user": f"user-{n % 3}", "feature": "f", "environment": "live"}
            | {"tags": "team=search"}
            for n, labels in enumerate(RUNS)
        ),
    ),
)

GROUPS = {"money": MONEY, "tokens": TOKENS_CASES, "calls": CALLS, "others": OTHERS}
