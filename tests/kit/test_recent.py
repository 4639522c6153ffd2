"""What was used lately is kept, and never more than so much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farebox.kit.recent import Recent

MOST = 6


@given(st.lists(st.tuples(st.sampled_from(["get", "put", "pop"]), st.integers(0, 12))))
def test_it_keeps_what_was_used_last_and_no_more(steps: list[tuple[str, int]]) -> None:
    """At most so many; at least the half that was used last, each with its last value."""
    recent: Recent[int, int] = Recent(MOST)
    last: dict[int, int | None] = {}
    """By last use; None for what was taken out."""
    for number, (step, key) in enumerate(steps, start=1):
        match step:
            case "put":
                recent.put(key, number)
                last.pop(key, None)
                last[key] = number
            case "get":
                found = recent.get(key)
                assert found in {None, last.get(key)}
                if found is not None:
                    last[key] = last.pop(key)
            case _:
                assert recent.pop(key) in {None, last.pop(key, None)}
                last[key] = None
        assert len(recent) <= MOST
        assert len(recent) == len(list(recent.values()))
        for lately in list(last)[-(MOST // 2) :]:
            assert (lately in recent) == (last[lately] is not None)


def test_a_key_is_in_one_half_and_turns_nothing_that_need_not_turn() -> None:
    """What moved to the young half has left the old one; a new value of a young key is no turn."""
    recent: Recent[str, int] = Recent(4)
    for letter in "abc":
        recent.put(letter, 0)
    recent.put("a", 1)
    assert (recent.pop("a"), "a" in recent, len(recent), recent.turns) == (1, False, 2, 1)
    recent = Recent(4)
    for letter in "abcd":
        recent.put(letter, 0)
    recent.put("d", 1)
    assert (recent.get("d"), len(recent), recent.turns) == (1, 4, 1)
    recent.clear()
    assert (len(recent), recent.get("a"), recent.get("d")) == (0, None, None)


def test_two_turns_without_use_forget() -> None:
    """What is not used between two turns is gone after them; what is used stays."""
    recent: Recent[str, str] = Recent(MOST)
    recent.put("used", "a")
    recent.put("left", "b")
    recent.turn()
    assert recent.get("used") == "a"
    recent.turn()
    assert (recent.get("used"), recent.get("left"), len(recent)) == ("a", None, 1)
    recent.clear()
    assert list(recent.values()) == []
