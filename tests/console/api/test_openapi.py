"""The OpenAPI document: what is served is what is described."""

from __future__ import annotations

import json
import re
from typing import Any

from farebox.console.api.openapi import describe, statuses_of
from farebox.console.api.table import ROUTES
from tests.support.api_clients import API, House

_REFERENCE = re.compile(r'"\$ref":\s*"#/components/schemas/([^"]+)"')


async def test_anybody_may_read_the_document(house: House) -> None:
    """A client is made from it before there is a key."""
    async with house.nobody() as nobody:
        answer = await nobody.get(f"{API}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == describe(ROUTES)
    assert answer.json()["openapi"] == "3.1.0"


async def test_every_route_is_described_with_its_permission(house: House) -> None:
    """Nothing is undocumented: paths, methods, parameters, bodies, answers, statuses."""
    async with house.nobody() as nobody:
        document: Any = (await nobody.get(f"{API}/openapi.json")).json()
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) == len(ROUTES) + 1, "and what keys for models are told"
    for route in ROUTES:
        operation = document["paths"][API + route.path][route.method.lower()]
        assert operation["operationId"] == route.name
        statuses = {int(status) for status in operation["responses"]}
        assert statuses == statuses_of(route), route.name
        assert ("requestBody" in operation) == (route.body is not None)
        assert operation.get("x-farebox-action") == (route.action and route.action.value)
        names = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert names == set(re.findall(r"\{(\w+)\}", route.path))
        if route.is_write:
            assert "Idempotency-Key" in {each["name"] for each in operation["parameters"]}


def test_what_a_key_for_models_is_told_is_described_too() -> None:
    """LIM-10: with OpenAI's errors, and by a key for models alone."""
    document = json.loads(describe(ROUTES))
    operation = document["paths"]["/v1/key"]["get"]
    assert operation["security"] == [{"modelKey": []}]
    assert set(operation["responses"]) == {"200", "400", "401", "429", "503"}
    headers = {each["name"] for each in operation["parameters"] if each["in"] == "header"}
    assert {"X-Farebox-User", "X-Farebox-Feature", "X-Farebox-Run", "X-Farebox-Tags"} < headers
    told = document["components"]["schemas"]["KeyStatus"]["properties"]
    assert {"limits", "rate_limits", "balance", "allowed_models", "last_used_at"} <= set(told)


def test_every_reference_leads_somewhere() -> None:
    """A schema that another names is there, and no two kinds share a name."""
    text = describe(ROUTES).decode()
    names = set(re.findall(_REFERENCE, text))
    components = json.loads(text)["components"]["schemas"]
    assert names <= set(components)
    assert set(components) - names == set(), "described and never used"
