"""After a storm: what was shown is what was enforced, and nobody was refused who fitted.

Everything that people see is compared with the recount of ``limit_recount``: the API's and the
command line's figures, the refusals' own words and headers, the receipts of calls, the alerts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from farebox.kit.ids import parse_id
from farebox.kit.money import format_amount, parse_amount
from farebox.ledger.limits import Micros, Rule, instant
from tests.faults.limit_house import House, Order, Tenant, Told
from tests.faults.limit_recount import OBSERVED, Place, Recount, Scope, is_for, maximum_at
from tests.faults.traffic import MODEL

RATES = {"minute", "utc_day"}
WINDOW_SECONDS = {"minute": 60, "utc_day": 86_400}

RETRY_SECONDS_MAX = 31 * 86_400
"""The longest window that a throttled budget waits for."""

WORDS = {
    "money": "spend",
    "tokens": "token",
    "calls": "call",
    "seconds": "time",
    "depth": "depth",
}
CREDIT_CODES = {
    "credit_balance_exhausted",
    "credit_balance_expired",
    "credit_balance_negative",
    "credit_set_aside",
}

RATE_CODE = "rate_limit_exceeded"
TIER_CODES = {RATE_CODE, "organization_usage_limit_exceeded", "balance_held"}

_FIGURES = re.compile(
    r" limit(?: for \S+)?(?: of its usage tier)? is (?P<maximum>[\d.,]+)\D*:"
    r" (?P<used>[\d.,]+)\D* used,"
    r" (?P<held>[\d.,]+)\D* held by open calls(?:, and this call needs up to (?P<need>[\d.,]+\d))?"
)


_SEEN = re.compile(
    r" limit is (?P<maximum>[\d,]+) (?:calls? at a time|seconds?|levels?),"
    r" and (?:this call is at )?(?P<at>[\d,]+) (?:is running|are running|seconds?|levels?)"
)


def codes_of(rule_scope: str, measure: str, period: str, effect: str) -> set[str]:
    """What a limit may refuse with."""
    if effect in {"alert", "shadow"}:
        return set()
    if effect == "stop":
        return {f"{rule_scope}_stopped"}
    if period in RATES or measure == "parallel":
        return {RATE_CODE}
    found = {f"{rule_scope}_{WORDS[measure]}_limit_exceeded"}
    if effect == "throttle":
        found.add(RATE_CODE)
    if measure in {"money", "tokens"}:
        found.add("balance_held")
    return found


def judge_figures(told: Told) -> bool:
    """A refusal's own figures: nobody fitted; gives whether there were any."""
    seen = _SEEN.search(told.message)
    if seen is not None:
        maximum, at = int(seen["maximum"].replace(",", "")), int(seen["at"].replace(",", ""))
        assert at > maximum if "depth" in told.message else at >= maximum, told.message
        return True
    if told.code.endswith("_stopped"):
        return " was stopped" in told.message
    found = _FIGURES.search(told.message)
    if found is None:
        assert told.code in {*CREDIT_CODES, "balance_held"}, told.message
        return False
    is_money = "tokens" not in told.message.split(" held by")[0]

    def number(text: str | None) -> int:
        if text is None:
            return 1  # a call
        return parse_amount(text, field="figure") if "." in text else int(text.replace(",", ""))

    maximum, used, held, need = (number(found[n]) for n in ("maximum", "used", "held", "need"))
    assert used + held + need > maximum, told.message
    if told.code == "balance_held":
        assert used + need <= maximum, told.message
    elif told.code.endswith(("_spend_limit_exceeded", "_token_limit_exceeded")):
        # Refused for good: not even everything that is held would make room.
        assert used + need > maximum, told.message
    if told.order.model == MODEL and found["need"] is not None:
        assert need == told.order.needed["money" if is_money else "tokens"], told.message
    return True


def judge_headers(told: Told) -> None:
    """Rate refusals say when to come back; refusals for money say not to (LIM-02, LIM-04)."""
    headers = told.headers
    rate_headers = [name for name in headers if name.startswith("x-ratelimit-")]
    assert told.status == 429, told
    if told.kind == "rate_limit_error":
        assert 1 <= int(headers["retry-after"]) <= RETRY_SECONDS_MAX, told
        assert "x-should-retry" not in headers, told
        return
    assert told.kind == "insufficient_quota", told
    assert headers["x-should-retry"] == "false", told
    assert "retry-after" not in headers, told
    assert rate_headers == [], told


class Judge:
    """What became of one tenant's storm."""

    def __init__(
        self, house: House, tenant: Tenant, recount: Recount, told: Sequence[Told]
    ) -> None:
        self.house = house
        self.tenant = tenant
        self.recount = recount
        self.told = told
        self.by_id = {each.call_id: each for each in told}
        self.at = recount.at
        """Engine time after the storm."""

    async def everything(self, *, command: bool, receipts: int) -> dict[str, int]:
        """All there is to judge; gives counts.

        Args:
            command: Ask the command line too, which takes a process.
            receipts: How many answers and how many refusals are looked up.
        """
        self.never_passed()
        self.charged_as_told()
        counts = {"refusals with figures": sum(judge_figures(t) for t in self.refused)}
        for each in self.refused:
            judge_headers(each)
        counts["remaining counted down"] = self.counted_down()
        counts["figures shown"] = await self.shown(command=command)
        counts["alerts, each once"] = await self.alerts()
        counts["noted by limits in the shadow"] = await self.shadowed()
        await self.refusal_rows()
        counts["receipts read"] = await self.receipts(receipts)
        return counts

    async def whatever_changed(self, *, command: bool, receipts: int) -> dict[str, int]:
        """What holds even where limits came, moved and went meanwhile; gives counts."""
        self.never_passed()
        self.charged_as_told()
        counts = {"refusals with figures": sum(judge_figures(t) for t in self.refused)}
        for each in self.refused:
            judge_headers(each)
        counts["figures shown"] = await self.shown(command=command)
        await self.refusal_rows()
        counts["receipts read"] = await self.receipts(receipts)
        return counts

    @property
    def refused(self) -> list[Told]:
        """Who was turned away."""
        return [each for each in self.told if not each.is_whole]

    def never_passed(self) -> None:
        """At no commit was a limit passed, or a counter wrong; nothing is open."""
        recount = self.recount
        assert recount.wrong == [], (self.tenant.name, recount.wrong)
        assert (recount.worst_over, recount.open_calls) == (0, 0), self.tenant.name
        assert recount.worst_over_credit <= 0, self.tenant.name

    def charged_as_told(self) -> None:
        """Every answer is charged once, with what its client was told, and nothing else is."""
        charged = {UUID(call_id): call.money for call_id, call in self.recount.calls.items()}
        whole = {each.call_id: each.charge for each in self.told if each.is_whole}
        # A call whose admission came too late for its client is given back, and costs nothing.
        given_back = {call_id for call_id, charge in charged.items() if call_id not in whole}
        assert not any(charged[call_id] for call_id in given_back), self.tenant.name
        assert {k: v for k, v in charged.items() if k in whole} == whole, self.tenant.name

    # Rates.

    def counted_down(self) -> int:
        """What is left of a rate is told to each admitted call once: one less each time."""
        by_place: dict[tuple[Place, int], list[int]] = {}
        for each in self.told:
            call = self.recount.calls.get(str(each.call_id))
            if call is None:
                self._rate_refusal(each)
                continue
            rules = self._rates(call.scopes, call.model, "calls")
            assert bool(rules) == ("x-ratelimit-limit-requests" in each.headers), each
            if len(rules) != 1:
                continue
            ((scope, rule),) = rules
            place = self.recount.place_of(scope, rule, call.at)
            assert place is not None
            assert each.headers["x-ratelimit-limit-requests"] == str(rule.maximum)
            left = int(each.headers["x-ratelimit-remaining-requests"])
            by_place.setdefault((place, rule.maximum), []).append(left)
        for (place, maximum), lefts in by_place.items():
            used = self.recount.tallies[place].used
            if used == len(lefts):  # else some of its calls had other limits besides
                assert sorted(lefts) == list(range(maximum - used, maximum)), place
        return sum(map(len, by_place.values()))

    def _rate_refusal(self, told: Told) -> None:
        """The headers of a refusal by the one rate there is: not enough is left."""
        labels = told.order.labels
        rules = [
            (scope, rule)
            for scope, some in self.recount.rules.items()
            for rule in some
            if rule.period in RATES and rule.effect in {"hard", "throttle"}
        ]
        if told.code != RATE_CODE or len(rules) != 1 or not rules[0][0][1] or "run" in labels:
            return
        rule = rules[0][1]
        word = {"calls": "requests", "tokens": "tokens"}.get(rule.measure)
        if word is not None and f"x-ratelimit-remaining-{word}" in told.headers:
            assert told.headers[f"x-ratelimit-limit-{word}"] == str(rule.maximum)
            left = int(told.headers[f"x-ratelimit-remaining-{word}"])
            assert left < told.order.needed[rule.measure], told
            assert int(told.headers["retry-after"]) <= WINDOW_SECONDS[rule.period], told

    def _rates(self, scopes: Any, model: str, measure: str) -> list[tuple[Scope, Rule]]:
        return [
            (scope, rule)
            for scope in scopes
            for rule in self.recount.rules_of(scope).values()
            if rule.period in RATES and rule.measure == measure and is_for(rule.models, model)
        ]

    # What is shown.

    async def shown(self, *, command: bool) -> int:
        """The API's figures are the recount's, and the command line's are the API's."""
        ((now,),) = await self.house.installed.rows("SELECT farebox_now()")
        self.at = _micros(now.isoformat())
        documents = await self.house.shown_limits(self.tenant)
        for document in documents:
            self._shown(document)
        if command:
            listed = await self.house.command("limits", "list", "--org", self.tenant.name)
            ours = [d for d in map(_steady, documents) if d is not None]
            theirs = [d for d in map(_steady, listed["data"]) if d is not None]
            assert sorted(ours, key=_order) == sorted(theirs, key=_order)
        return len(documents)

    def _shown(self, document: dict[str, Any]) -> None:
        scope = _scope(document)
        rule = self._rule(scope, document)
        if rule.measure in OBSERVED:
            return
        assert _amount(document, "maximum") == maximum_at(rule, self.at), document
        if not scope[1]:
            assert (_amount(document, "used"), _amount(document, "held")) == (0, 0), document
            return
        found = [
            tally
            for place, tally in self.recount.tallies.items()
            if place[:2] == (scope, rule.number)
            and (document["starts_at"] is None or _text(place.start) == document["starts_at"])
        ]
        assert len(found) <= 1, document
        used = found[0].used if found else 0
        assert (_amount(document, "used"), _amount(document, "held")) == (used, 0), document
        left = max(0, _amount(document, "maximum") - used)
        assert _amount(document, "left") == left, document

    def _rule(self, scope: Scope, document: dict[str, Any]) -> Rule:
        wanted = tuple(document[name] for name in ("measure", "period", "effect", "models"))
        (found,) = (
            rule
            for rule in self.recount.rules_of(scope).values()
            if (rule.measure, rule.period, rule.effect, rule.models or None) == wanted
        )
        return found

    async def alerts(self) -> int:
        """Each threshold that use has reached is in the outbox once, and no other."""
        expected = Counter(
            (*place.scope, rule.number, place.start, percent)
            for place, tally in self.recount.tallies.items()
            for rule in [self.recount.rules_of(place.scope)[place.rule]]
            for percent in rule.thresholds
            if rule.measure in {"money", "tokens", "calls"}
            and 0 < tally.used * 100 >= percent * maximum_at(rule, self.at)
        )
        rows = await self.house.installed.rows(
            "SELECT facts FROM outbox WHERE organization_id = %s AND kind = 'limit_threshold'",
            self.tenant.id,
        )
        told = Counter(
            (
                facts["scope_kind"],
                facts["scope_ref"],
                self._rule(
                    (facts["scope_kind"], facts["scope_ref"]),
                    {**facts, "models": facts["models"] or None},
                ).number,
                _micros(facts["window_start"]),
                int(facts["percent"]),
            )
            for (facts,) in rows
        )
        assert told == expected, (self.tenant.name, told - expected, expected - told)
        return len(told)

    async def shadowed(self) -> int:
        """Exactly the calls beyond a limit in the shadow have noted that it would have refused."""
        rows = await self.house.installed.rows(
            "SELECT f FROM call, jsonb_array_elements(limit_figures) AS f"
            " WHERE organization_id = %s"
            " AND f ->> 'effect' = 'shadow' AND f ->> 'measure' = 'calls'",
            self.tenant.id,
        )
        noted = sum(1 for (f,) in rows if f["used"] + f["held"] >= f["maximum"])
        beyond = 0
        for place, tally in self.recount.tallies.items():
            rule = self.recount.rules_of(place.scope)[place.rule]
            if (rule.effect, rule.measure) == ("shadow", "calls"):
                beyond += max(0, tally.used - rule.maximum)
        assert noted == beyond, self.tenant.name
        return noted

    async def refusal_rows(self) -> None:
        """Every refusal is on record, with figures by which it did not fit."""
        refused = len(self.refused)
        await self.house.installed.until(
            "SELECT coalesce(sum(times), 0) = %s FROM refusal WHERE organization_id = %s",
            refused,
            self.tenant.id,
        )
        for call_id, code, needed, available, figures in await self.house.installed.rows(
            "SELECT id, code, needed_nanos, available_nanos, limit_figures FROM refusal"
            " WHERE organization_id = %s",
            self.tenant.id,
        ):
            order = self.by_id[call_id].order
            assert code == self.by_id[call_id].code
            if figures is None:
                assert needed > available or code == "credit_set_aside", code
                continue
            used, held, maximum = figures["used"], figures["held"], figures["maximum"]
            match figures.get("measure", "money"):
                case "money":
                    assert used + held + needed > maximum, figures
                case "seconds":
                    assert used >= maximum, figures
                case "depth":
                    assert used > maximum, figures
                case measure:
                    if order.model == MODEL:
                        assert used + held + order.needed[measure] > maximum, figures

    async def receipts(self, count: int) -> int:
        """The receipts of some calls, answered and refused, say what their clients were told."""
        shown = 0
        for each in [t for t in self.told if t.is_whole][:count]:
            receipt = await self.house.shown_call(each.call_id)
            assert each.charge is not None
            assert (receipt["status"], receipt["charge"]) == (
                "settled",
                format_amount(each.charge),
            )
            for limit in receipt["decision"]["limits"]:
                self._fitted(each.order, receipt, limit)
            shown += 1
        rows = await self.house.installed.rows(
            "SELECT id FROM refusal WHERE organization_id = %s LIMIT %s", self.tenant.id, count
        )
        for (call_id,) in rows:
            receipt = await self.house.shown_call(call_id)
            told = self.by_id[call_id]
            assert (receipt["status"], receipt["reason"]) == ("refused", told.code)
            assert told.message.startswith(receipt["message"]), receipt
            shown += 1
        return shown

    def _fitted(self, order: Order, receipt: dict[str, Any], limit: dict[str, Any]) -> None:
        """At its decision every limit that refuses had room for what the call held."""
        if limit["effect"] in {"alert", "shadow"}:
            return
        left = limit["left"]
        match limit["measure"]:
            case "money":
                need = parse_amount(receipt["decision"]["needed"], field="needed")
                assert need <= parse_amount(left, field="left"), limit
            case "tokens" if order.model == MODEL:
                assert order.needed["tokens"] <= left, limit
            case "depth":
                assert left >= 0, limit
            case _:
                assert left >= 1, limit


def _steady(document: dict[str, Any]) -> dict[str, Any] | None:
    """What two looks at different moments have in common."""
    if document["period"] == "minute" or document["measure"] in OBSERVED:
        return None
    steady = {k: v for k, v in document.items() if k not in {"id", "scope_name"}}
    if (shadow := steady.get("would_have_refused")) is not None:
        steady["would_have_refused"] = shadow | {"since": None}
    return steady


def _order(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


def _scope(document: dict[str, Any]) -> Scope:
    kind, text = document["scope_kind"], document["scope_id"]
    prefix = {"organization": "org", "project": "proj", "key": "key"}.get(kind)
    if prefix is None or not text:
        return kind, text
    return kind, parse_id(prefix, text, field="scope_id").hex


def _amount(document: dict[str, Any], name: str) -> int:
    value = document[name]
    return parse_amount(value, field=name) if isinstance(value, str) else int(value)


def _text(at: int) -> str:
    return instant(Micros(at)).isoformat().replace("+00:00", "Z")


def _micros(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )
