"""The journal: balanced postings."""

from __future__ import annotations

from uuid import UUID

import pytest

from farebox.ledger.journal import Account, PostingKind, posting
from tests.support.ledger_scenes import NOON, Scene

ORG = UUID(int=1)


def test_a_posting_leaves_out_what_is_empty() -> None:
    """DED-16: entries of zero say nothing; the rest sums to zero."""
    made = posting(
        ORG,
        PostingKind.CALLS,
        NOON,
        {Account.CUSTOMER_CREDIT: 5, Account.RECEIVABLE: 0, Account.REVENUE: -5},
        sequences=(3, 9),
    )
    assert made.accounts == (Account.CUSTOMER_CREDIT, Account.REVENUE)
    assert made.amounts == (5, -5)
    assert (made.first_sequence, made.last_sequence) == (3, 9)


def test_a_posting_that_does_not_balance_is_our_own_mistake() -> None:
    """DED-16: it cannot be made."""
    with pytest.raises(AssertionError):
        posting(ORG, PostingKind.CALLS, NOON, {Account.REVENUE: -5, Account.RECEIVABLE: 4})


def test_a_batch_posts_its_calls_together() -> None:
    """DED-16: one posting names the first and last sequence that it covers."""
    scene = Scene(floor=4)
    scene.give("paid", 10, "purchased")
    scene.run(*(scene.admit(f"call {i}", 4) for i in range(3)))
    scene.run(scene.settle("call 0", 4), scene.settle("call 1", 5), scene.settle("call 2", 9))
    (posted,) = scene.posted(PostingKind.CALLS)
    assert posted == {
        Account.CUSTOMER_CREDIT: 10,
        Account.RECEIVABLE: 4,
        Account.ABSORBED: 4,
        Account.REVENUE: -18,
    }
    (calls,) = [p for p in scene.ledger.postings if p.kind is PostingKind.CALLS]
    assert (calls.first_sequence, calls.last_sequence, calls.at) == (2, 4, NOON)
