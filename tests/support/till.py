"""A till: one organisation with a key and a node, and the commands that a gateway sends for it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from msgspec import structs

from farebox.kit.ids import uuid7_from_millis
from farebox.kit.money import Nanos
from farebox.ledger.commands import (
    Admit,
    Attribution,
    Extend,
    GrantCredit,
    Lapse,
    LineItem,
    Release,
    Report,
    Settle,
    Usage,
)
from farebox.ledger.grants import Source
from farebox.ledger.holds import Dimensions
from farebox.ledger.state import KeyFacts

if TYPE_CHECKING:
    from tests.support.ledger_memory import MemoryLedger

START = datetime(2026, 11, 1, tzinfo=UTC)
MONTH_MILLIS = 1_793_500_000_000
"""Unix milliseconds in November 2026: call ids of one month, whatever the real day is."""

_numbers = itertools.count(1)


def new_id() -> UUID:
    """An id that no other test of this process has."""
    number = next(_numbers)
    return uuid7_from_millis(MONTH_MILLIS + number, number.to_bytes(10, "big"))


class Till:
    """One organisation's commands; amounts are plain nanos."""

    def __init__(self, *, zone: str = "UTC", lane: int | None = None) -> None:
        """Choose the ids.

        Args:
            zone: The organisation's.
            lane: Which of two lanes it shall have.
        """
        self.zone = zone
        self.organization_id = new_id()
        while lane is not None and self.organization_id.int % 2 != lane:
            self.organization_id = new_id()
        self.project_id, self.key_id, self.node_id = new_id(), new_id(), new_id()
        self.account_id, self.price_id = new_id(), new_id()
        self.epoch = 1

    def admit(self, held: int = 10, **changes: Any) -> Admit:
        """Hold so much, for input alone."""
        command = Admit(
            organization_id=self.organization_id,
            call_id=new_id(),
            node_id=self.node_id,
            epoch=self.epoch,
            catalogue_revision=1,
            fixed=Nanos(held),
            output_price=0,
            output_min=7,
            output_max=7,
            latest_end_after=timedelta(hours=2),
            dimensions=Dimensions(
                self.project_id, self.key_id, "f", "production", "gpt-5.4", "standard", "chat"
            ),
            price_id=self.price_id,
            upstream_account_id=self.account_id,
            attribution=Attribution(user="u", run="r", tags={"team": "blue"}),
        )
        return structs.replace(command, **changes)

    def settle(self, call: Admit, metered: int = 10, **changes: Any) -> Settle:
        """Charge so much for a call."""
        command = Settle(
            organization_id=call.organization_id,
            call_id=call.call_id,
            metered=Nanos(metered),
            cost=Nanos(metered // 2),
            lines=(LineItem("input", metered, 1_000_000, Nanos(metered)),),
            usage=Usage(input_tokens=metered, cached_tokens=1, output_tokens=2),
        )
        return structs.replace(command, **changes)

    def release(self, call: Admit) -> Release:
        """Give a call's hold back."""
        return Release(
            organization_id=call.organization_id, call_id=call.call_id, reason="upstream_refused"
        )

    def extend(self, call: Admit, amount: int, step: int = 1) -> Extend:
        """Hold more for a call."""
        return Extend(
            organization_id=call.organization_id,
            call_id=call.call_id,
            node_id=call.node_id,
            epoch=call.epoch,
            amount=Nanos(amount),
            step=step,
        )

    def report(self, call: Admit, metered: int) -> Report:
        """Note a call's use so far."""
        return Report(
            organization_id=call.organization_id,
            call_id=call.call_id,
            node_id=call.node_id,
            epoch=call.epoch,
            metered=Nanos(metered),
            cost=Nanos(metered // 2),
            input_tokens=metered,
            output_tokens=1,
        )

    def lapse(self, call: Admit) -> Lapse:
        """End a call's hold as the sweep does."""
        return Lapse(
            organization_id=call.organization_id,
            call_id=call.call_id,
            node_id=call.node_id,
            epoch=call.epoch,
            reason="node_gone",
        )

    def grant(self, amount: int, source: Source = Source.PURCHASED, **changes: Any) -> GrantCredit:
        """Give credit."""
        command = GrantCredit(
            organization_id=self.organization_id,
            grant_id=new_id(),
            source=source,
            amount=Nanos(amount),
            reference="order 1",
        )
        return structs.replace(command, **changes)

    def put_into(self, ledger: MemoryLedger, *, now: datetime = START) -> None:
        """Make the organisation, its key and its node in memory."""
        ledger.add_organization(self.organization_id, now, zone=self.zone)
        ledger.add_key(
            KeyFacts(self.key_id, self.organization_id, self.project_id, None, None, None)
        )
        ledger.epochs[self.node_id] = self.epoch

    def put_into_database(self, dsn: str) -> None:
        """Make the organisation, its key and its node in a database."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            run = connection.execute
            run(
                "INSERT INTO organization (id, name, zone) VALUES (%s, %s, %s)",
                (self.organization_id, str(self.organization_id), self.zone),
            )
            run(
                "INSERT INTO project (id, organization_id, name) VALUES (%s, %s, 'p')",
                (self.project_id, self.organization_id),
            )
            run(
                "INSERT INTO api_key (id, organization_id, project_id, name, digest, prefix)"
                " VALUES (%s, %s, %s, 'k', %s, 'fbx')",
                (self.key_id, self.organization_id, self.project_id, self.key_id.bytes * 2),
            )
            run(
                "INSERT INTO node (id, epoch, name) VALUES (%s, %s, 'n')",
                (self.node_id, self.epoch),
            )
