"""Labels: headers first, then OpenAI's own fields, then the project's; all within their limits."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.gateway.attribution import CLIENT_REQUEST_ID_CHARACTERS_MAX, Labels, read_labels
from farebox.gateway.openai_errors import GatewayError
from farebox.ledger.commands import Attribution
from farebox.operations.attribution import (
    LABEL_CHARACTERS_MAX,
    TAG_KEY_CHARACTERS_MAX,
    TAG_VALUE_CHARACTERS_MAX,
    TAGS_MAX,
)


def labels(headers: dict[str, str] | None = None, **more: Any) -> Labels:
    """Labels of a request."""
    values: dict[str, Any] = {"user": None, "metadata": None, "environment": "production"}
    return read_labels(headers or {}, **(values | more))


def test_where_each_label_comes_from() -> None:
    """ATT-03: a header goes before the body, the body before the project."""
    plain = labels()
    assert (plain.feature, plain.environment) == ("", "production")
    assert plain.attribution.tags == {}
    mixed = labels(
        {"x-farebox-user": " h ", "x-farebox-environment": "dev", "x-farebox-tags": "a=1"},
        user="b",
        metadata={"a": "2", "b": "3"},
    )
    assert (mixed.attribution.user, mixed.environment) == ("h", "dev")
    assert mixed.attribution.tags == {"a": "1", "b": "3"}
    assert labels({"x-farebox-user": "  "}, user="b").attribution.user == "b"


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-farebox-tags": "a"}, "X-Farebox-Tags"),
        ({"x-farebox-user": "x" * 201}, "X-Farebox-User"),
        ({"x-farebox-priority": "highest"}, "X-Farebox-Priority"),
    ],
)
def test_a_header_that_is_wrong_is_named(headers: dict[str, str], param: str) -> None:
    """ATT-01: 400 with the header as its parameter and a whole sentence."""
    with pytest.raises(GatewayError) as caught:
        labels(headers)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param} ")
    assert caught.value.message.endswith(".")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "x-farebox-user",
                "x-farebox-tags",
                "x-farebox-priority",
                "x-client-request-id",
                "x-stainless-retry-count",
            ]
        ),
        st.text(max_size=300),
    ),
    st.none() | st.text(max_size=300),
    st.none() | st.dictionaries(st.text(max_size=80), st.text(max_size=300), max_size=40),
)
def test_every_label_fits_its_column(
    headers: dict[str, str], user: str | None, metadata: dict[str, str] | None
) -> None:
    """Whatever a client sends is refused, or fits the limits."""
    found = Attribution()
    with suppress(GatewayError):
        found = labels(headers, user=user, metadata=metadata).attribution
    assert len(found.user) <= LABEL_CHARACTERS_MAX
    assert len(found.tags) <= TAGS_MAX
    assert all(len(key) <= TAG_KEY_CHARACTERS_MAX for key in found.tags)
    assert all(len(value) <= TAG_VALUE_CHARACTERS_MAX for value in found.tags.values())
    assert len(found.client_request_id) <= CLIENT_REQUEST_ID_CHARACTERS_MAX
    assert 0 <= found.retry_count < 10_000
    assert "\0" not in found.user or "\0" in headers.get("x-farebox-user", "")


@pytest.mark.parametrize(
    ("text", "count"), [("2", 2), ("", 0), ("-1", 0), ("99999", 0), ("\u0663", 0), ("x", 0)]
)
def test_retries(text: str, count: int) -> None:
    """The official clients count their retries; nonsense counts as none (ATT-06)."""
    assert labels({"x-stainless-retry-count": text}).attribution.retry_count == count


def test_a_run_within_a_run_is_a_path() -> None:
    """BUD-12: the runs it is a part of come first, at most sixteen, none without a name."""
    assert labels({"x-farebox-run": "crawl-17/page-3"}).attribution.run == "crawl-17/page-3"
    deepest = "/".join("abcdefghijklmnop")
    assert labels({"x-farebox-run": deepest}).attribution.run == deepest
    for bad in (f"{deepest}/q", "a//b", "/a", "a/", "/", "a/ /b"):
        with pytest.raises(GatewayError) as caught:
            labels({"x-farebox-run": bad})
        assert (caught.value.status, caught.value.param) == (400, "X-Farebox-Run")
