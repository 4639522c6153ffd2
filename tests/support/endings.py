"""How a call ended, as the database has it: for tests of endings of every kind."""

from __future__ import annotations

import pytest

from tests.support.tenants import (
    CallRow,
    Reply,
    Tenant,
    call_id,
)

INPUT, OUTPUT = 2_500, 15_000
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


def fault(text: str, **more: str) -> dict[str, str]:
    """The header that orders a fault from the simulated provider."""
    return {"X-Sandbox-Fault": text, **more}


def script(name: str) -> dict[str, str]:
    """The header that names a script."""
    return {"X-Sandbox-Script": name}


def ended(tenant: Tenant, reply: Reply | None = None) -> CallRow:
    """The one call there was, in books that agree."""
    call = tenant.only_call()
    tenant.check_books()
    if reply is not None:
        assert call.id == call_id(reply)
    return call


def released(tenant: Tenant, reply: Reply, reason: str, status: int) -> None:
    """It cost nothing, and its row says why (DED-14, ERR-11)."""
    call = ended(tenant, reply)
    assert (call.state, call.charge, call.cost, call.reason) == ("released", 0, 0, reason)
    assert call.http_status == status
    assert tenant.spent() == 0


SHORT = 12
"""Completion tokens of a short stream: some ten events."""


def events_of_a_short_stream(tenant: Tenant) -> int:
    """How many events the simulated provider makes of it."""
    reply = tenant.chat(stream=True, max_completion_tokens=SHORT)
    return reply.body.count(b"data: ")
