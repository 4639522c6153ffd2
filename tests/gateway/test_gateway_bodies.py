"""Hostile requests over HTTP: each gets a clear error of its own, and none leaves a trace of money.

After every one of them the tenant has no hold, no call and no cent less.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.house import House
from tests.support.tenants import RawCall, Tenant, call_id, chat_body, make_tenant

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
MEGABYTE = b" " * 1_000_000


@pytest.fixture(scope="module")
def tenant(house: House) -> Tenant:
    """One tenant for all: none of these requests may cost it anything."""
    return make_tenant(house, f"hostile bodies {token_hex(4)}")


@pytest.fixture(scope="module", autouse=True)
def untouched(tenant: Tenant) -> Iterator[None]:
    """Whatever the tests send here costs nothing and holds nothing."""
    yield
    assert tenant.calls() == []
    assert tenant.spent() == 0


def nested(depth: int) -> bytes:
    """A body with a list in a list in a list."""
    return (
        b'{"model":"gpt-5.4","messages":[{"role":"user","content":"x"}],"x":'
        + b"[" * depth
        + b"]" * depth
        + b"}"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b"5",
        b'{"model":"gpt-5.4"}trailing',
        b"{'model': 'gpt-5.4'}",
        b"\xef\xbb\xbf{}",
        json.dumps(chat_body()).encode("utf-16"),
        b'{"model":"gpt-5.4","messages":"\xff\xfe"}',
        b'{"model":"\xed\xa0\x80","messages":[]}',
        b'{"model":"gpt-5.4","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"gpt-5.4","messages":[{"role":"user","content":"\\x41"}]}',
        b'{"model":"gpt-5.4","messages":[{"role":"user","content":"a\nb"}]}',
        b'{"model":"gpt-5.4","messages":[{"role":"user"}],"temperature":NaN}',
        b'{"model":"gpt-5.4","messages":[{"role":"user"}],"temperature":Infinity}',
        b'{"model":"gpt-5.4","messages":[{"role":"user"}],"temperature":01}',
        nested(100_000),
    ],
    ids=range(20),
)
@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
def test_what_is_no_json_object_is_told_so(tenant: Tenant, path: str, body: bytes) -> None:
    """ERR-07: malformed bodies are 400 with a sentence that says what to send, and a request id."""
    reply = tenant.post(path, body)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert "could not parse the JSON body" in reply.error["message"]
    call_id(reply)


RUBBISH: list[object] = [True, 5, -1, 1.5, "text", [], {}, [[]], [None], {"a": []}, 10**40]


@pytest.mark.parametrize(
    "field",
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "service_tier",
        "user",
        "safety_identifier",
        "n",
        "best_of",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "functions",
        "modalities",
        "web_search_options",
        "background",
        "previous_response_id",
        "conversation",
        "prompt",
        "data_sources",
        "plugins",
        "models",
        "search_parameters",
        "provider",
        "route",
        "prompt_embeds",
    ],
)
def test_wrong_types_are_refused_by_name(tenant: Tenant, field: str) -> None:
    """Every field that is read complains of the wrong type itself, never with a fault of ours."""
    for value in RUBBISH:
        if (field, value) in _FINE:
            continue
        # The output is so dear that nothing is admitted by a mistake of the test.
        fields: dict[str, Any] = {"max_completion_tokens": 90_000_000, "stream": True, "n": 128}
        reply = tenant.post(CHAT, chat_body(**(fields | {field: value})))
        assert reply.status in {400, 404}, (value, reply.body)
        assert reply.error["type"] == "invalid_request_error"
        if reply.status == 400:
            named = (reply.error["param"] or "") + reply.error["message"]
            assert field.split("_options", maxsplit=1)[0] in named, reply.error


_FINE: list[tuple[str, object]] = [
    ("stream", True),
    ("stream_options", {}),
    ("stream_options", {"a": []}),
    ("n", 5),
    ("best_of", 5),
    ("max_tokens", 5),
    ("max_completion_tokens", 5),
    ("tools", []),
    ("functions", []),
    ("functions", [[]]),
    ("functions", [None]),
    ("modalities", []),
    ("modalities", [[]]),
    ("modalities", [None]),
    ("user", "text"),
    ("safety_identifier", "text"),
]
"""What can be taken as it is; the provider has its own opinion."""


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{}, 5]}, "messages[1]"),
        ({"messages": [{"role": "user", "content": {"type": "image_url"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"n": 129}, "n"),
        ({"n": 0}, "n"),
        ({"max_completion_tokens": 100_000_001}, "max_completion_tokens"),
        ({"model": "x" * 201}, "model"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"Max_Tokens": 5}, "Max_Tokens"),
        ({"MODEL": "gpt-5.4"}, "MODEL"),
        ({"web_Search_options": {}}, "web_Search_options"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tools": [{"type": []}]}, "tools[0].type"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(
    tenant: Tenant, changes: dict[str, Any], param: str
) -> None:
    """A value that has no bound or no meaning is 400 and names the field."""
    reply = tenant.post(CHAT, chat_body(**changes))
    assert reply.status == 400
    assert reply.error["param"] == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_fields(tenant: Tenant, missing: str) -> None:
    """A required field that is missing is named."""
    body = chat_body()
    del body[missing]
    reply = tenant.post(CHAT, body)
    assert (reply.status, reply.error["param"]) == (400, missing)


@pytest.mark.parametrize(
    ("content", "way_out"),
    [
        ([{"type": "file", "file": {"file_id": "file-abc"}}], "file_data"),
        ("audio", "transcript"),
    ],
)
def test_what_other_tenants_may_own_is_refused(
    tenant: Tenant, content: object, way_out: str
) -> None:
    """Decision 18: a file or audio kept at the shared provider has no owner here."""
    message: dict[str, object] = {"role": "user", "content": content}
    if content == "audio":
        message = {"role": "assistant", "audio": {"id": "audio_abc"}}
    reply = tenant.chat(messages=[{"role": "user", "content": "x"}, message])
    assert reply.status == 400
    assert way_out in reply.error["message"]
    assert reply.error["param"].startswith("messages[1].")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/responses", 404, "unknown_url"),
        ("POST", "/v1/audio/speech", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/" + "x" * 5_000, 404, "unknown_url"),
        ("GET", "/v1/chat%2Fcompletions%00", 404, "unknown_url"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods(
    tenant: Tenant, method: str, path: str, status: int, code: str
) -> None:
    """ERR-04: what is not served is 404 or 405 in OpenAI's shape, with a request id."""
    reply = tenant.send(method, path, b"{}" if method == "POST" else None, None)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert len(reply.error["message"]) < 400
    call_id(reply)
    if status == 405:
        assert reply.headers["allow"]


def test_a_body_that_says_it_is_too_large_is_not_read(tenant: Tenant) -> None:
    """A hundred megabytes with a content-length are refused before they are sent."""
    where = urlsplit(tenant.house.gateway_url)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.key}\r\n"
        "content-length: 100000000\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port), 10) as sock:
        sock.sendall(head.encode())
        received = RawCall(sock).read_until(b'"code":"body_too_large"')
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"32 MiB" in received


def test_a_body_of_unknown_length_is_cut_off(tenant: Tenant) -> None:
    """The same without a content-length: the answer comes as soon as the limit is passed."""
    where = urlsplit(tenant.house.gateway_url)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.key}\r\n"
        "transfer-encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port), 10) as sock:
        sock.sendall(head.encode())
        for _ in range(34):
            sock.sendall(b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE))
        received = RawCall(sock).read_until(b'"code":"body_too_large"')
    assert received.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"X-Farebox-Tags": ",".join(f"k{i}=v" for i in range(5_000))}, "X-Farebox-Tags"),
        ({"X-Farebox-Tags": ",".join(f"k{i}=v" for i in range(33))}, "X-Farebox-Tags"),
        ({"X-Farebox-Tags": "novalue"}, "X-Farebox-Tags"),
        ({"X-Farebox-Tags": "=v"}, "X-Farebox-Tags"),
        ({"X-Farebox-Tags": "k" * 65 + "=v"}, "X-Farebox-Tags"),
        ({"X-Farebox-Tags": "k=" + "v" * 257}, "X-Farebox-Tags"),
        ({"X-Farebox-User": "u" * 201}, "X-Farebox-User"),
        ({"X-Farebox-Feature": "f" * 50_000}, "X-Farebox-Feature"),
        ({"X-Farebox-Priority": "urgent"}, "X-Farebox-Priority"),
        ({"X-Client-Request-Id": "i" * 513}, "X-Client-Request-Id"),
        ({"X-Client-Request-Id": "caf\u00e9"}, "X-Client-Request-Id"),
    ],
    ids=range(11),
)
def test_labels_that_are_too_long_or_malformed(
    tenant: Tenant, headers: dict[str, str], param: str
) -> None:
    """ATT-01: a label that cannot be kept is 400 and names its header."""
    encoded = {name: value.encode("latin-1").decode("latin-1") for name, value in headers.items()}
    reply = tenant.chat(encoded)
    assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.parametrize("inputs", [[], ["x"] * 2_049, "absent"], ids=["none", "many", "absent"])
def test_embeddings_inputs(tenant: Tenant, inputs: object) -> None:
    """An embeddings request needs one to 2,048 inputs."""
    body = {"model": "text-embedding-3-small"} | ({} if inputs == "absent" else {"input": inputs})
    reply = tenant.post(EMBEDDINGS, body)
    assert (reply.status, reply.error["param"]) == (400, "input")


def test_the_key_is_looked_at_before_the_body(tenant: Tenant) -> None:
    """A caller without a key learns nothing of how its body was read."""
    key = tenant.key
    other = "2" if key[-1] != "2" else "3"
    assert tenant.post(CHAT, b"rubbish", key="").status == 401
    assert tenant.post(CHAT, b"rubbish", key=key[:-1] + other).status == 401
    assert tenant.post(CHAT, b"rubbish", key=key).status == 400
