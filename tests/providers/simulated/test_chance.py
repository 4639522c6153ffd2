"""Chance that can be replayed."""

from __future__ import annotations

from itertools import islice

from farebox.providers.simulated.chance import digest, draws


def test_the_same_seed_draws_the_same() -> None:
    """Draws depend on the seed, the purpose and the data, and on nothing else."""
    first = digest(1, "a", b"x")
    assert first == digest(1, "a", b"x")
    assert len({first, digest(2, "a", b"x"), digest(1, "b", b"x"), digest(1, "a", b"y")}) == 4
    assert list(islice(draws(first), 5)) == list(islice(draws(first), 5))


def test_draws_are_spread() -> None:
    """Cutting a stream by draws uses every kind of cut."""
    drawn = list(islice(draws(digest(0, "a", b"")), 1000))
    assert all(0 <= draw < 2**32 for draw in drawn)
    assert {draw % 8 for draw in drawn} == set(range(8))
