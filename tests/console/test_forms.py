"""Forms are small and URL-encoded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.console_people import Visitor


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"a=1", "text/plain", 415),
        (b"a=1", "", 415),
        (b"a=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a%d=1" % n for n in range(50)), "application/x-www-form-urlencoded", 400),
        (b"a=\xff", "application/x-www-form-urlencoded", 400),
        (b"a=%ff", "application/x-www-form-urlencoded; charset=utf-8", 403),
    ],
)
async def test_other_bodies_are_refused(
    body: bytes, kind: str, status: int, visitor: Visitor
) -> None:
    """Nothing large, foreign or unreadable is taken in; the answer is a page that says so."""
    answer = await visitor.post("/sign-in", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")


async def test_a_body_without_a_length_is_counted(visitor: Visitor) -> None:
    """A client that does not say how much it sends is stopped at the limit."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1_000):
            yield b"a" * 1_000

    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = await visitor.post("/sign-in", content=endless(), headers=kind)
    assert answer.status_code == 413
