"""Admitted calls are noted for the watch: beside the money path, without their content."""

from __future__ import annotations

from typing import Any

from farebox.gateway.http import Answer, StreamAnswer
from tests.support.scripted_upstream import ScriptedResponse, usage, whole
from tests.support.small_gateway import KEY_ID, MODEL, ORGANIZATION, PROJECT, SmallGateway

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
