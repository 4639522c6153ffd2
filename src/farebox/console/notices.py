"""What is the matter with a balance, each matter by its own name.

Used up, expired, owed, held, frozen and not begun are different things with different remedies;
nothing here ever says "no money left" (UXF-05, CRD-12).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from farebox.kit.ids import format_id
from farebox.kit.money import Nanos
from farebox.operations.balance import Balance
from farebox.operations.console_views import OrganizationView


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that a person should know."""

    kind: str
    """``stop`` where calls are refused, ``wait`` where that passes by itself, else ``know``."""
    title: str
    amount: Nanos | None = None
    """Shown behind the title."""
    text: str = ""
    command: str | None = None
    """What to type in a terminal."""


def notices(view: OrganizationView) -> tuple[Notice, ...]:
    """Everything that stands in the way of calls, or soon will; the gravest first."""
    return tuple(_notices(view))


def _notices(view: OrganizationView) -> Iterator[Notice]:
    balance = view.balance
    if not view.active:
        yield Notice("stop", "Switched off", text="All calls are refused, whatever the balance.")
    if balance.granted == 0 and balance.owed == 0:
        yield Notice(
            "stop" if balance.spendable <= 0 else "know",
            "No credit yet",
            text="Calls need credit before they leave. Grant some:",
            command=_grant_command(view),
        )
        return
    if balance.owed > 0:
        yield Notice(
            "stop" if balance.spendable <= 0 else "know",
            "Owed",
            balance.owed,
            "The next purchased, business, contract or adjustment credit repays it first.",
        )
    if balance.spendable <= 0:
        yield from _why_nothing_is_available(view)


def _why_nothing_is_available(view: OrganizationView) -> Iterator[Notice]:
    balance = view.balance
    if balance.held > 0:
        yield Notice(
            "wait",
            "Held by open calls",
            balance.held,
            "Not spent: what a call does not use comes back when it ends.",
        )
    if balance.frozen > 0:
        yield Notice(
            "stop", "Frozen", balance.frozen, "A payment is disputed; nothing of it can be used."
        )
    if balance.pending > 0:
        yield Notice("wait", "Not begun", balance.pending, _begins(balance))
    if balance.posted + balance.floor > 0:
        return  # only the holds stand in the way
    if balance.expired > 0:
        text = "Credit that ended unused; its end cannot be moved."
        command = None if balance.spent > 0 else _grant_command(view)  # said once is enough
        yield Notice("stop", "Expired", balance.expired, text, command)
    if balance.refunded > 0:
        yield Notice("stop", "Refunded", balance.refunded, "Credit that was taken back unspent.")
    if balance.spent > 0:
        text = "Charged for calls. Grant more credit to go on:"
        yield Notice("stop", "Used up", balance.spent, text, _grant_command(view))


def _begins(balance: Balance) -> str:
    first = min(grant.effective_at for grant in balance.grants if grant.state == "pending")
    return f"Credit that can be used from {first:%Y-%m-%d %H:%M:%S} UTC on."


def _grant_command(view: OrganizationView) -> str:
    return (
        f"farebox credits grant --org {format_id('org', view.id)} --amount 5.00 --source purchased"
    )
