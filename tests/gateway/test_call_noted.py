"""Calls are noted for the watch and for operators: beside the money path, without their content."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from farebox.gateway.http import Answer, StreamAnswer
from farebox.kit.ids import format_id
from tests.support.scripted_upstream import ScriptedResponse, usage, whole
from tests.support.small_gateway import (
    ACCOUNT,
    KEY_ID,
    MODEL,
    ORGANIZATION,
    PROJECT,
    SmallGateway,
)

HEADERS = {"x-farebox-run": "crawl-17", "x-farebox-user": "ada"}


async def test_every_admitted_call_is_noted_once_and_no_refused_one() -> None:
    """ANO-01, ANO-04: whole and streamed; key, run, user, model and the body as it came."""
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    async with SmallGateway(lambda _: ScriptedResponse([whole(usage(9, 3))])) as gateway:
        gateway.desk.note_request = lambda *who, **what: noted.append((who, what))
        answer = await gateway.call(headers=HEADERS)
        assert isinstance(answer, Answer)
        assert answer.status == 200
        await gateway.stream(headers=HEADERS)
        await gateway.settled()
        refused = await gateway.call(headers=HEADERS, max_completion_tokens=100_000_000)
        assert not isinstance(refused, StreamAnswer)
        assert refused.status in {400, 429}
        await gateway.settled()
    assert [who for who, _ in noted] == [(ORGANIZATION, PROJECT, KEY_ID)] * 2
    assert {(what["run"], what["user"], what["model"]) for _, what in noted} == {
        ("crawl-17", "ada", MODEL)
    }
    assert b"Say hello." in noted[0][1]["body"]


async def test_a_used_up_account_is_noted_and_no_other_refusal() -> None:
    """ERR-08: the account, the provider, its status and the call, whole and streamed; a rate limit
    of the provider's is no want of money.
    """
    noted: list[tuple[Any, dict[str, Any]]] = []

    def note(account_id: UUID, **what: Any) -> None:
        noted.append((account_id, what))

    used_up = b'{"error": {"code": "insufficient_quota", "message": "no more"}}'
    answers = [
        ScriptedResponse([used_up], status=429),
        ScriptedResponse([b"{}"], status=402),
        ScriptedResponse([b'{"error": {"code": "rate_limit_exceeded"}}'], status=429),
        ScriptedResponse([b"{}"], status=401),
    ]
    async with SmallGateway(lambda _: answers.pop(0)) as gateway:
        gateway.desk.note_exhausted = note
        refused = [await gateway.call() for _ in range(2)]
        refused += [await gateway.call(stream=True), await gateway.call()]
        await gateway.settled()
    assert [account for account, _ in noted] == [ACCOUNT] * 2
    assert [(what["provider"], what["status"]) for _, what in noted] == [
        ("openai", 429),
        ("openai", 402),
    ]
    headers = [dict(each.headers) for each in refused]
    assert [format_id("req", what["call_id"]) for _, what in noted] == [
        each["x-request-id"] for each in headers[:2]
    ]
