"""Refusals in OpenAI's shape: status, type, code and headers decide what a client does next."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import structs

from farebox.gateway.http import Answer
from farebox.gateway.openai_errors import (
    GatewayError,
    away,
    internal,
    invalid_request,
    missing_key,
    model_not_allowed,
    refused,
    too_large,
    unknown_model,
    wrong_key,
)
from farebox.kit.money import Nanos
from farebox.ledger.commands import Refused
from farebox.ledger.limits import LimitFigures
from tests.support.scripted_upstream import ScriptedResponse
from tests.support.small_gateway import SmallGateway

FIGURES = LimitFigures(
    scope_kind="organization",
    scope_id=UUID(int=1).hex,
    period="month",
    maximum=Nanos(5),
    used=Nanos(3),
    held=Nanos(1),
    resets_at=datetime(2026, 12, 1, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("refusal", "status", "kind", "code", "retry"),
    [
        (Refused(code="key_revoked", message="m"), 401, None, "invalid_api_key", None),
        (Refused(code="key_expired", message="m"), 401, None, "invalid_api_key", None),
        (Refused(code="key_not_found", message="m"), 401, None, "invalid_api_key", None),
        (Refused(code="project_archived", message="m"), 401, None, "invalid_api_key", None),
        (Refused(code="stale_epoch", message="m"), 503, None, "billing_unavailable", None),
        (
            Refused(code="organization_suspended", message="m"),
            429,
            "billing_not_active",
            "billing_not_active",
            "false",
        ),
        (
            Refused(code="credit_balance_exhausted", message="m"),
            429,
            "insufficient_quota",
            "credit_balance_exhausted",
            "false",
        ),
        (
            Refused(code="project_spend_limit_exceeded", message="m", limit=FIGURES),
            429,
            "insufficient_quota",
            "project_spend_limit_exceeded",
            "false",
        ),
        (
            Refused(code="balance_held", message="m", limit=FIGURES, blocked_by_holds=True),
            429,
            "rate_limit_error",
            "balance_held",
            None,
        ),
    ],
    ids=lambda value: value.code if isinstance(value, Refused) else "",
)
def test_what_the_engine_refused(
    refusal: Refused, status: int, kind: str | None, code: str, retry: str | None
) -> None:
    """ERR-01, ERR-04, LIM-04: the broad type, the cause in the code, and whether to try again."""
    error = refused(refusal)
    assert (error.status, error.code) == (status, code)
    assert kind is None or error.kind == kind
    headers = dict(error.headers)
    assert headers.get("x-should-retry") == retry
    assert ("retry-after" in headers) == (code in {"balance_held", "billing_unavailable"})


def test_what_to_do_about_it() -> None:
    """ERR-03: a refusal says what a person can do, and where."""
    error = refused(
        Refused(code="organization_spend_limit_exceeded", message="M.", limit=FIGURES),
        help_url="http://127.0.0.1:8081",
    )
    assert error.message.startswith("M. Raise the limit")
    assert error.message.endswith("See http://127.0.0.1:8081/doctor/D19")
    assert refused(Refused(code="credit_balance_exhausted", message="M.")).message == "M."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Raise the limit, or wait until it resets."),
        ({"period": "total", "resets_at": None}, "Raise the limit; it never resets."),
        ({"origin": "tier"}, "Ask for a higher usage tier, or wait until it resets."),
        ({"measure": "depth", "resets_at": None}, ""),
    ],
)
def test_what_helps_against_a_limit_is_said_as_far_as_it_does(
    changes: dict[str, Any], said: str
) -> None:
    """ERR-03, BUD-11: nobody is told to wait for what never resets, or to raise a tier's limit."""
    limit = structs.replace(FIGURES, **changes)
    error = refused(Refused(code="organization_spend_limit_exceeded", message="M.", limit=limit))
    assert error.message == f"M. {said}".strip()


def test_what_was_stopped_waits_for_a_release() -> None:
    """ANO-01, ERR-03: no raised limit and no wait helps; the message links to its own page."""
    stopped = Refused(
        code="run_stopped",
        message="The run r-1 was stopped. Its calls are refused until it is released.",
        limit=structs.replace(FIGURES, effect="stop"),
    )
    error = refused(stopped, help_url="http://127.0.0.1:8081")
    assert (error.status, error.code, dict(error.headers)) == (
        429,
        "run_stopped",
        {"x-should-retry": "false"},
    )
    assert error.message == f"{stopped.message} See http://127.0.0.1:8081/doctor/D89"


@pytest.mark.parametrize(
    "error",
    [
        missing_key(),
        wrong_key(),
        unknown_model("x" * 10_000),
        away(),
        too_large(32 * 1024 * 1024),
        internal(ValueError("a secret")),
        GatewayError(400, "caf\u00e9 \ud800"[:4]),
    ],
    ids=range(7),
)
def test_the_shape(error: GatewayError) -> None:
    """ERR-07: all four keys, always; a request id; JSON; no inside of ours."""
    answer = error.answer("req_1")
    assert ("x-request-id", "req_1") in answer.headers
    assert dict(answer.headers)["content-type"] == "application/json"
    document = msgspec.json.decode(answer.body)["error"]
    assert set(document) == {"message", "type", "param", "code"}
    assert isinstance(document["message"], str)
    assert isinstance(document["type"], str)
    assert len(document["message"]) < 400
    assert "secret" not in document["message"]


def test_the_native_shape() -> None:
    """Our own API answers application/problem+json."""
    answer = away().problem("req_1")
    assert dict(answer.headers)["content-type"] == "application/problem+json"
    document = msgspec.json.decode(answer.body)
    assert (document["status"], document["title"]) == (503, "Service Unavailable")
    assert document["code"] == "billing_unavailable"
    assert ("retry-after", "1") in answer.headers


@pytest.mark.parametrize(
    ("error", "finding"),
    [
        (wrong_key(), "D04"),
        (unknown_model("x"), "D06"),
        (model_not_allowed("x"), "D06"),
        (away(), "D71"),
        (internal(RuntimeError()), "D83"),
        (too_large(1), "D68"),
        (invalid_request("No."), ""),
    ],
)
def test_every_refusal_links_to_its_finding(error: GatewayError, finding: str) -> None:
    """ERR-03, DOC-16: whatever has a code has a page that explains it; it is linked once."""
    said = error.message
    error.explain("")
    assert error.message == said
    for _ in range(2):
        error.explain("http://127.0.0.1:8081")
    link = f" See http://127.0.0.1:8081/doctor/{finding}" if finding else ""
    assert error.message == said + link


@pytest.mark.parametrize("stream", [False, True])
async def test_in_classic_mode_every_cause_has_the_classic_code(stream: bool) -> None:
    """ERR-02: clients of before match one code; message, link and record still name the cause."""
    async with SmallGateway(lambda _: ScriptedResponse(())) as small:
        small.desk.help_url = "http://127.0.0.1:8081"
        small.desk.classic_codes = True
        answer = await small.call(max_completion_tokens=128_000, n=9, stream=stream)
        assert isinstance(answer, Answer)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["type"], error["code"]) == (
            *(429, "insufficient_quota"),
            "insufficient_quota",
        )
        assert error["message"].endswith(" See http://127.0.0.1:8081/doctor/D12")
        assert error["message"].count("http") == 1
        assert dict(answer.headers)["x-should-retry"] == "false"
        (noted,) = small.noted
        assert noted.refusal.code == "credit_balance_exhausted"
    expired = Refused(code="credit_balance_expired", message="M.")
    error = refused(expired, help_url="http://c", classic=True)
    assert (error.code, error.message) == ("insufficient_quota", "M. See http://c/doctor/D11")
    held = Refused(code="balance_held", message="M.", blocked_by_holds=True)
    assert refused(held, classic=True).code == "balance_held", "trying again helps: no such refusal"


async def test_whatever_refuses_a_call_links_to_its_finding() -> None:
    """ERR-03: keys, models, money and the provider's trouble with us alike, streamed or not."""
    no_quota = b'{"error":{"message":"x","code":"insufficient_quota"}}'
    async with SmallGateway(lambda _: ScriptedResponse([no_quota], status=429)) as small:
        small.desk.help_url = "http://127.0.0.1:8081"
        for stream in (False, True):
            found = [
                await small.call(headers={"authorization": "Bearer x"}, stream=stream),
                await small.call(model="gpt-nothing", stream=stream),
                await small.call(max_completion_tokens=128_000, n=9, stream=stream),
                await small.call(stream=stream),
            ]
            for answer, code in zip(found, ("D04", "D06", "D12", "D42"), strict=True):
                assert isinstance(answer, Answer)
                message = json.loads(answer.body)["error"]["message"]
                assert message.endswith(f" See http://127.0.0.1:8081/doctor/{code}"), message
                assert message.count("http") == 1


def test_a_refusal_names_whom_to_ask() -> None:
    """ERR-03, BUD-05: a limit's owner is in the message, after what else helps."""
    limit = structs.replace(FIGURES, owner="ann@acme.example")
    refusal = Refused(code="project_spend_limit_exceeded", message="No room.", limit=limit)
    assert refused(refusal).message == (
        "No room. Raise the limit, or wait until it resets. Ask ann@acme.example."
    )


def test_what_does_not_help_is_not_said() -> None:
    """ERR-03, CRD-21: a call larger than any window does not wait; an allocation has its page."""
    large = Refused(code="key_spend_limit_exceeded", message="No.", limit=FIGURES, needed=Nanos(9))
    assert refused(large).message == "No. Raise the limit, or ask for less output."
    aside = structs.replace(FIGURES, effect="allocation", resets_at=None)
    refusal = Refused(code="project_spend_limit_exceeded", message="No.", limit=aside)
    assert refused(refusal, help_url="http://x").message == (
        "No. Raise the limit; it never resets. See http://x/doctor/D22"
    )
    stopped = structs.replace(FIGURES, effect="stop", owner="it repeats itself")
    refusal = Refused(code="run_stopped", message="Stopped.", limit=stopped)
    assert refused(refusal).message == "Stopped."
