"""What a project allows its keys: models and the length of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farebox.gateway.http import Answer
from farebox.kit.ids import format_id
from farebox.ledger.commands import Admit
from farebox.operations.tenants import OutputCap
from farebox.tenancy.api_keys import digest
from tests.support.scripted_upstream import ScriptedResponse, usage, whole
from tests.support.small_gateway import KEY, SmallGateway, key_row


def project(**rules: object) -> SmallGateway:
    """A gateway whose project has rules."""
    small = SmallGateway(lambda _: ScriptedResponse((whole(usage(10, 5)),)))
    small.directory.keys = {digest(KEY): key_row(**rules)}
    return small


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (None, 200),
        (("gpt-5*",), 200),
        (("gpt-5.4",), 200),
        (("gpt-5",), 403),
        (("o3", "gpt-4*"), 403),
        ((), 403),
    ],
)
async def test_a_project_calls_the_models_on_its_list(
    allowed: tuple[str, ...] | None, status: int
) -> None:
    """ORG-17, ERR-04: any other model is 403 in its own words, whatever the balance; never 429."""
    async with project(allowed_models=allowed) as small:
        answer = await small.call()
        assert isinstance(answer, Answer)
        assert answer.status == status
        if status == 403:
            error = json.loads(answer.body)["error"]
            assert (error["code"], error["param"]) == ("model_not_allowed", "model")
            assert not any(isinstance(command, Admit) for command in small.store.commands)


@pytest.mark.parametrize(("asked", "sent"), [(5_000, 300), (200, 200), (None, 300)])
async def test_an_answer_is_no_longer_than_the_project_allows(asked: int | None, sent: int) -> None:
    """SAV-12: the project's maximum is what is held and what goes upstream."""
    fields: dict[str, Any] = {} if asked is None else {"max_completion_tokens": asked}
    async with project(output_tokens_max=300) as small:
        answer = await small.call(**fields)
        assert isinstance(answer, Answer)
        assert answer.status == 200
        (admit,) = [c for c in small.store.commands if isinstance(c, Admit)]
        assert admit.output_max == sent
        (request,) = small.upstream.requests
        assert json.loads(request.body)["max_completion_tokens"] == sent


CAPS = {
    "chat": OutputCap(default_output_tokens=200, output_tokens_max=400),
    "long": OutputCap(default_output_tokens=5_000, output_tokens_max=9_000),
    "default": OutputCap(default_output_tokens=50),
}


@pytest.mark.parametrize(
    ("feature", "asked", "sent"),
    [
        ("chat", 5_000, 400),
        ("chat", 300, 300),
        ("chat", None, 200),
        ("long", 5_000, 1_000),  # the project's maximum is the lower one
        ("long", None, 1_000),
        ("default", 5_000, 1_000),
        ("default", None, 50),
        ("other", None, 600),
        ("", 5_000, 1_000),
    ],
)
async def test_an_answer_is_no_longer_than_its_feature_allows(
    feature: str, asked: int | None, sent: int
) -> None:
    """SAV-12: a feature's own default and maximum; the lower maximum is held and goes upstream."""
    fields: dict[str, Any] = {} if asked is None else {"max_completion_tokens": asked}
    headers = {"x-farebox-feature": feature} if feature else {}
    rules = {"output_tokens_max": 1_000, "default_output_tokens": 600, "feature_caps": CAPS}
    async with project(**rules) as small:
        answer = await small.call(headers=headers, **fields)
        assert isinstance(answer, Answer)
        assert answer.status == 200
        (admit,) = [c for c in small.store.commands if isinstance(c, Admit)]
        assert admit.output_max == sent
        (request,) = small.upstream.requests
        assert json.loads(request.body)["max_completion_tokens"] == sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt-nothing", "gpt-5.4"])
async def test_a_model_that_is_refused_is_a_row(model: str, stream: bool) -> None:
    """ERR-07, ERR-11: the answer's request id is that of the row, with its reason."""
    async with project(allowed_models=("o3",)) as small:
        answer = await small.call(model=model, stream=stream)
        assert isinstance(answer, Answer)
        (noted,) = small.noted
        assert format_id("req", noted.call_id) == dict(answer.headers)["x-request-id"]
        code = "model_not_found" if model == "gpt-nothing" else "model_not_allowed"
        assert (noted.refusal.code, noted.model) == (code, model)
        assert noted.refusal.message == json.loads(answer.body)["error"]["message"]
