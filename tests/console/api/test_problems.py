"""Which error is which answer."""

from __future__ import annotations

import msgspec
import pytest

from farebox.console.api.problems import CODES, TITLES, field_error, problem_of, response_of
from farebox.kit.errors import (
    ConflictError,
    FareboxError,
    IncompatibleError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInputError("name", "is missing"), 422, "invalid_input"),
        (NotFoundError(), 404, "not_found"),
        (ConflictError(), 409, "conflict"),
        (RefusedError("permission_denied", "no"), 403, "permission_denied"),
        (RefusedError("idempotency_key_reused", "no"), 422, "idempotency_key_reused"),
        (RefusedError("last_owner", "no"), 409, "last_owner"),
        (UnavailableError(), 503, "billing_unavailable"),
        (IncompatibleError(), 503, "billing_unavailable"),
        (FareboxError("odd"), 500, "farebox_error"),
    ],
)
def test_an_error_of_the_house_has_its_status(error: FareboxError, status: int, code: str) -> None:
    """ERR: the status says whose turn it is; the code is stable."""
    response = response_of(problem_of(error))
    document = msgspec.json.decode(response.body)
    assert (response.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["title"] == TITLES[status]
    assert response.media_type == "application/problem+json"


def test_what_is_away_is_asked_for_again() -> None:
    """A 503 says when; and what the database said is not repeated to strangers."""
    problem = problem_of(UnavailableError("host=10.0.0.5 refused"))
    assert problem.headers["retry-after"]
    assert "10.0.0.5" not in problem.detail
    assert problem.code == CODES[503]


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """Inside."""

    amount: str


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """Outside."""

    name: str
    rows: list[Inner] = []
    prices: dict[str, int] = {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "name"),
        ('{"name": 1}', "name"),
        ('{"name": "a", "rows": [{}]}', "rows[0].amount"),
        ('{"name": "a", "rows": [{"amount": "1", "x": 1}]}', "rows[0].x"),
        ('{"name": "a", "y": 1}', "y"),
        ('{"name": "a", "prices": {"b": "c"}}', "prices[...]"),
        ("[]", "body"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_place(body: str, field: str) -> None:
    """Bad input gets a clear error naming the field."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=Outer)
    wrong = field_error(caught.value, root="body")
    assert wrong.field == field
    assert wrong.reason
