"""What a gateway notes of requests: only what is frequent, only hashes and counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

import pytest
from typing_extensions import override

from farebox.kit.errors import UnavailableError
from farebox.operations import request_watch
from farebox.operations.request_watch import (
    NotedRepeat,
    NotedUser,
    RequestWatch,
    request_hash,
)

ORG, PROJECT, KEY = (UUID(int=number) for number in (1, 2, 3))


class Kept:
    """Adds up what is written, as the database does."""

    def __init__(self) -> None:
        self.repeats: dict[tuple[bytes, str], int] = {}
        self.users: dict[str, int] = {}
        self.away = False
        self.seconds = 0.0
        self.orders: list[list[bytes]] = []

    async def note_repeats(self, found: Sequence[NotedRepeat]) -> None:
        if self.away:
            raise UnavailableError
        self.orders.append([each.watched for each in found])
        for each in found:
            key = (each.watched, each.run)
            self.repeats[key] = self.repeats.get(key, 0) + each.calls - each.written

    async def note_users(self, found: Sequence[NotedUser]) -> None:
        for each in found:
            self.users[each.user] = self.users.get(each.user, 0) + each.calls - each.written


def body(text: str, **more: object) -> bytes:
    """A request."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "gpt-5.4", "messages": messages, **more}).encode()


def watch_of(kept: Kept) -> RequestWatch:
    """A gateway's watch, at an hour that the test sets."""
    return RequestWatch(kept, monotonic=lambda: kept.seconds)


def note(watch: RequestWatch, text: str, *, run: str = "r", user: str = "", times: int = 1) -> None:
    """The same request, so many times."""
    for _ in range(times):
        watch.note(ORG, PROJECT, KEY, run=run, user=user, model="gpt-5.4", body=body(text))


async def test_what_comes_again_is_counted_and_what_comes_once_is_not() -> None:
    """ANO-01: near-identical requests of one key and run; every count is written once."""
    kept = Kept()
    watch = watch_of(kept)
    for number in range(100):
        note(watch, f"another question {chr(97 + number // 10)}{chr(97 + number % 10)}")
    for number in range(7):
        note(watch, f"Try {number}, at 12:0{number}.")
    note(watch, "Try 1, at 12:01.", run="other", times=2)
    assert await watch.flush() == 1
    assert list(kept.repeats.values()) == [7]
    note(watch, "Try 8, at 12:08.", times=3)
    assert await watch.flush() == 1
    assert await watch.flush() == 0
    assert list(kept.repeats.values()) == [10]


async def test_a_minute_later_it_begins_anew() -> None:
    """ANO-01: the same request now and then is no loop; memory is given back."""
    kept = Kept()
    watch = watch_of(kept)
    for _ in range(10):
        note(watch, "How are you?", user="ada", times=2)
        kept.seconds += 61
        await watch.flush()
    assert (kept.repeats, kept.users, len(watch._requests)) == ({}, {}, 0)


async def test_users_who_call_often_are_counted() -> None:
    """ANO-04: from five calls a minute on, whatever they ask."""
    kept = Kept()
    watch = watch_of(kept)
    for number in range(9):
        note(watch, f"question {chr(65 + number)}", user="ada")
    note(watch, "one", user="bob", times=2)
    await watch.flush()
    note(watch, "ten", user="ada")
    await watch.flush()
    assert kept.users == {"ada": 10}


async def test_what_could_not_be_written_is_written_later() -> None:
    """The database away costs nothing but time, and counts nothing twice."""
    kept = Kept()
    watch = watch_of(kept)
    note(watch, "again", times=5)
    kept.away = True
    with pytest.raises(UnavailableError):
        await watch.flush()
    kept.away = False
    note(watch, "again", times=2)
    await watch.flush()
    assert list(kept.repeats.values()) == [7]


async def test_what_comes_while_it_is_written_is_written_later() -> None:
    """ANO-01: a count that grew during the write is neither lost nor written twice."""

    class Growing(Kept):
        @override
        async def note_repeats(self, found: Sequence[NotedRepeat]) -> None:
            await super().note_repeats(found)
            if len(self.orders) == 1:
                note(watch, "again", times=2)

    kept = Growing()
    watch = watch_of(kept)
    note(watch, "again", times=5)
    await watch.flush()
    await watch.flush()
    assert list(kept.repeats.values()) == [7]


async def test_whoever_is_passed_over_is_written_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """ANO-04: more frequent users than one write has room for: nobody waits for good."""
    monkeypatch.setattr(request_watch, "ROWS_MAX", 4)
    kept = Kept()
    watch = watch_of(kept)
    for _ in range(3):
        for user in "abcdef":
            note(watch, f"question of {user}", user=user, times=5)
        await watch.flush()
    assert set(kept.users) == set("abcdef")


def test_of_a_request_that_came_once_there_is_a_hash_alone() -> None:
    """What most requests are takes no more memory than its count."""
    watch = watch_of(Kept())
    note(watch, "once")
    note(watch, "often", times=3)
    assert set(map(type, watch._requests.values())) == {int, NotedRepeat}


async def test_memory_and_writes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recent is forgotten first; a write has so many rows, in one order."""
    monkeypatch.setattr(request_watch, "REQUESTS_MAX", 50)
    monkeypatch.setattr(request_watch, "USERS_MAX", 5)
    monkeypatch.setattr(request_watch, "ROWS_MAX", 4)
    kept = Kept()
    watch = watch_of(kept)
    for number in range(200):
        note(watch, "the loop")
        letters = chr(65 + number % 26) + chr(65 + number // 26)
        note(watch, letters, user=f"user {letters}")
    assert len(watch._requests) <= 50
    assert len(watch._users) <= 4
    await watch.flush()
    assert list(kept.repeats.values()) == [200]
    for number in range(10):
        note(watch, chr(97 + number), times=3)
    assert await watch.flush() == 4
    assert await watch.flush() == 4
    assert all(order == sorted(order) for order in kept.orders)


def hash_of(request: bytes, run: str = "r") -> bytes:
    """The hash of the key's request."""
    return request_hash(KEY, run, request)


@pytest.mark.parametrize("size", [10, 5_000, 50_000])
def test_near_identical_is_the_same_but_for_digits_and_blanks(size: int) -> None:
    """ANO-01: a counter, a time or another layout makes no other request; a word does, wherever."""
    text = "".join(f"{chr(97 + number % 23)}{chr(97 + number % 7)} " for number in range(size // 3))
    one = hash_of(body(f"{text} at 12:04:05, try 17"))
    assert hash_of(body(f"{text} at 13:59:01, try 18")) == one
    assert hash_of(body(f"{text} at 12:04:05, try 17", n=2)) != one
    assert hash_of(body(f"{text} at 12:04:05, trial 17")) != one
    assert hash_of(body(f"Hello {text} at 12:04:05, try 17")) != one
    assert hash_of(body(f"{text} at 12:04:05, try 17"), run="s") != one
    assert request_hash(UUID(int=9), "r", body(f"{text} at 12:04:05, try 17")) != one
    assert len(one) == 16


def test_other_texts_in_the_middle_of_a_long_request_are_other_requests() -> None:
    """ANO-01: a long template with another document in it each time is no loop."""
    template = "Classify the following document carefully. " * 200
    end = "Answer with one word. " * 200
    texts = [chr(97 + number) * 2_000 for number in range(20)]
    assert len({hash_of(body(template + text + end)) for text in texts}) == 20
