"""What was used lately, as much of it as fits: for what a process keeps so as not to ask again.

Two halves: what is used goes to the young one; when that is full, the old one is forgotten whole
and the young one is the old one. So between half of the most and the most that was used last is
kept, at the size of two plain dictionaries, and nothing takes longer than one look into each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Recent(Generic[_K, _V]):
    """Values by key; never more than so many."""

    __slots__ = ("_half", "_old", "_young", "turns")

    def __init__(self, most: int) -> None:
        """Begin empty.

        Args:
            most: How many values are kept at once; 2 or more, of an odd number one fewer.
        """
        assert most // 2
        self._half = most // 2
        self._young: dict[_K, _V] = {}
        self._old: dict[_K, _V] = {}
        self.turns = 0
        """How often an old half was forgotten."""

    def __len__(self) -> int:
        """How many values are kept now."""
        return len(self._young) + len(self._old)

    def __contains__(self, key: _K) -> bool:
        """Whether a value is kept; asking is no use of it."""
        return key in self._young or key in self._old

    def get(self, key: _K) -> _V | None:
        """The value of a key, which is thereby used; None where none is kept.

        >>> recent = Recent[str, int](4)
        >>> for number, letter in enumerate("abcde"):
        ...     recent.put(letter, number)
        >>> recent.get("a"), recent.get("c")
        (None, 2)
        """
        value = self._young.get(key)
        if value is None and (value := self._old.pop(key, None)) is not None:
            self.put(key, value)
        return value

    def put(self, key: _K, value: _V) -> None:
        """Keep a value, in the place of the key's last one."""
        if len(self._young) >= self._half and key not in self._young:
            self.turn()
        self._old.pop(key, None)
        self._young[key] = value

    def pop(self, key: _K) -> _V | None:
        """Keep a key's value no longer; gives it."""
        value = self._young.pop(key, None)
        return self._old.pop(key, None) if value is None else value

    def turn(self) -> None:
        """Forget what was not used since the last turn."""
        self._old, self._young = self._young, {}
        self.turns += 1

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old = {}, {}

    def values(self) -> Iterator[_V]:
        """All of them."""
        yield from self._young.values()
        yield from self._old.values()
