"""``farebox tiers``: what organisations may do by what they have bought (LIM-05, LIM-07)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from farebox.cli.output import Document, facts, hint, page, say, show, table
from farebox.cli.reading import read_count

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.kit.money import Nanos
    from farebox.operations.tiers import TierStanding
    from farebox.tenancy.tiers import Tier, TierRate

_COUNT_MAX = 10**15
_DAYS_MAX = 36_500
_POSITION_MAX = 1_000
_FAILED_SHOWN = 20

RATE_FIELDS = ("calls_per_minute", "tokens_per_minute", "calls_per_day", "tokens_per_day")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="the table")
    listed.add_argument("--currency", help="such as USD (default: all)")

    change = actions.add_parser("set", help="add a tier, or change the one of that name, whole")
    change.add_argument("name", metavar="NAME")
    change.add_argument("--currency", default="USD", help="of its amounts (default USD)")
    change.add_argument("--position", metavar="N", required=True, help="its place, from 0 on")
    change.add_argument("--purchases", metavar="AMOUNT", default="0", help="bought in all")
    change.add_argument("--age-days", metavar="N", default="0", help="since the organisation began")
    change.add_argument("--monthly-maximum", metavar="AMOUNT", help="usage of a calendar month")
    change.add_argument("--balance-maximum", metavar="AMOUNT", help="credit held at one time")
    change.add_argument("--recharge-maximum", metavar="AMOUNT", help="of one automatic recharge")
    change.add_argument(
        "--rate",
        metavar="MODELS:COUNT=N,...",
        action="append",
        default=[],
        help="such as 'gpt-5*:calls_per_minute=5000,tokens_per_minute=1000000'; * for every "
        "model; counts: " + ", ".join(RATE_FIELDS),
    )
    removed = actions.add_parser("remove", help="take a tier out of the table")
    removed.add_argument("name", metavar="NAME")
    removed.add_argument("--currency", default="USD")

    assign = actions.add_parser("assign", help="give an organisation a tier, or the rule's again")
    assign.add_argument("tier", metavar="TIER", help="a tier's name, or auto: by the rule")
    assign.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    shown = actions.add_parser("show", help="where an organisation stands, and what is next")
    shown.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
    actions.add_parser("apply", help="move whoever the rule moves, now")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {
        "list": _list,
        "set": _set,
        "remove": _remove,
        "assign": _assign,
        "show": _show,
        "apply": _apply,
    }
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.tier_store import PostgresTierStore

    currency = None if args.currency is None else args.currency.strip().upper()
    found = await PostgresTierStore(session.connection).tiers(currency=currency)
    rows = [describe(tier) for tier in found]

    def text() -> None:
        if not rows:
            hint("There are no tiers, so nothing is bounded by them: farebox tiers set --help")
            return
        table(
            ["tier", "currency", "purchases", "days", "month", "balance", "recharge"],
            [
                (
                    r["name"],
                    r["currency"],
                    r["purchases"],
                    r["age_days"],
                    _bound(r["monthly_maximum"]),
                    _bound(r["balance_maximum"]),
                    _bound(r["recharge_maximum"]),
                )
                for r in rows
            ],
            right="purchases days month balance recharge",
        )

    show(args, page(rows, None), text)
    return 0


async def _set(session: Session, args: argparse.Namespace) -> int:
    from uuid import UUID

    from farebox.kit.money import parse_amount
    from farebox.operations.administration import parse_currency
    from farebox.tenancy.tiers import Tier

    def bound(field: str) -> Nanos | None:
        text = getattr(args, field)
        return None if text is None else parse_amount(text, field=field)

    tier = Tier(
        id=UUID(int=0),
        currency=parse_currency(args.currency),
        position=read_count(args.position, field="position", low=0, high=_POSITION_MAX),
        name=args.name,
        purchases=parse_amount(args.purchases, field="purchases"),
        age_days=read_count(args.age_days, field="age_days", low=0, high=_DAYS_MAX),
        monthly_maximum=bound("monthly_maximum"),
        balance_maximum=bound("balance_maximum"),
        recharge_maximum=bound("recharge_maximum"),
        rates=tuple(map(read_rate, args.rate)),
    )
    put = await session.tiers.set_tier(tier)
    document = describe(put.tier) | {"all_follow": put.all_follow}

    def text() -> None:
        if put.all_follow:
            say(f"Set tier {put.tier.name}; organisations in it follow.")
        else:
            say(f"Set tier {put.tier.name}.")
            hint(
                "A worker gives the many organisations here their limits, some two thousand a "
                "minute; now, all of them: farebox tiers apply"
            )

    show(args, document, text)
    return 0


async def _remove(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.administration import parse_currency
    from farebox.storage.tier_store import PostgresTierStore

    tier = await session.tiers.find_tier(args.name, parse_currency(args.currency))
    await PostgresTierStore(session.connection, session.by).remove_tier(tier.id)
    show(args, describe(tier), lambda: say(f"Removed tier {tier.name}."))
    return 0


async def _assign(session: Session, args: argparse.Namespace) -> int:
    desk = session.tiers
    organization = await session.organization(args.org)
    tier = None
    if args.tier.strip().lower() != "auto":
        tier = await desk.find_tier(args.tier, organization.currency)
    standing = await desk.assign(organization.id, tier)
    _show_standing(args, standing)
    return 0


async def _show(session: Session, args: argparse.Namespace) -> int:
    organization = await session.organization(args.org)
    _show_standing(args, await session.tiers.show(organization.id))
    return 0


async def _apply(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import format_id

    followed = await session.tiers.step()
    changed, failed = followed.changed, followed.failed
    document = {
        "object": "tiers_applied",
        "organizations_changed": changed,
        "organizations_failed": len(failed),
    }
    show(args, document, lambda: say(f"{changed} organisations changed."))
    for organization_id, error in failed[:_FAILED_SHOWN]:
        hint(f"{format_id('org', organization_id)} keeps its limits: {error}")
    if len(failed) > _FAILED_SHOWN:
        hint(f"... and {len(failed) - _FAILED_SHOWN} more.")
    return 1 if failed else 0


def _show_standing(args: argparse.Namespace, standing: TierStanding) -> None:
    from farebox.operations.documents import document

    described = {"object": "tier_standing", **document(standing, of="tier")}

    def text() -> None:
        tier = standing.tier
        if tier is None:
            say(f"{standing.organization_name} stands in no tier: there is none of its currency.")
            return
        given = "given by hand" if standing.fixed else "by the rule"
        say(f"{standing.organization_name}: {tier.name} ({given})", "")
        shown = described["tier"]
        facts(
            [
                ("purchased", described["purchased"]),
                ("balance", described["balance"]),
                ("month at most", _bound(shown["monthly_maximum"])),
                ("balance at most", _bound(shown["balance_maximum"])),
                ("recharge at most", _bound(shown["recharge_maximum"])),
                *((f"rate {rate['models']}", _counts(rate)) for rate in shown["rates"]),
                ("may buy now", _bound(described["purchase_room"])),
            ]
        )
        if standing.next is None:
            say("", "This is the highest tier.")
        else:
            say("", f"Next: {standing.next.name}: {_needed(described['next'])}")

    show(args, described, text)


def read_rate(text: str) -> TierRate:
    """A rate such as ``gpt-5*:calls_per_minute=5000``.

    Raises:
        InvalidInputError: It cannot be read.
    """
    from farebox.kit.errors import InvalidInputError
    from farebox.tenancy.tiers import TierRate

    models, _, rest = text.strip().rpartition(":")
    counts: dict[str, Any] = {}
    for part in rest.split(","):
        match = re.fullmatch(rf"({'|'.join(RATE_FIELDS)})=(.+)", part.strip())
        if match is None or not models:
            raise InvalidInputError(
                "rate",
                "must be models, a colon and counts, such as gpt-5*:calls_per_minute=5000 "
                f"(got {text[:60]!r}); counts: {', '.join(RATE_FIELDS)}",
            )
        counts[match[1]] = read_count(match[2], field=match[1], low=0, high=_COUNT_MAX)
    return TierRate(models=models.strip(), **counts)


def describe(tier: Tier) -> Document:
    """A tier's document."""
    from farebox.operations.documents import document

    return {"object": "tier", **document(tier, of="tier")}


def _bound(amount: object) -> str:
    return "no bound" if amount is None else str(amount)


def _counts(rate: Document) -> str:
    return ", ".join(
        f"{rate[field]:,} {field.replace('_', ' ')}"
        for field in RATE_FIELDS
        if rate[field] is not None
    )


def _needed(following: Document) -> str:
    needed = []
    if following["purchases_missing"] != "0.00":
        needed.append(f"{following['purchases_missing']} more bought")
    if following["old_enough_at"] is not None:
        needed.append(f"old enough on {following['old_enough_at'][:10]}")
    return " and ".join(needed) or "moved by the next `farebox tiers apply`"
