"""The error tree."""

from __future__ import annotations

import pytest

from farebox.kit import errors
from farebox.kit.errors import FareboxError, InvalidInputError, RefusedError, UnavailableError

TREE = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, FareboxError)
]


def test_every_error_has_a_code_of_its_own() -> None:
    """ERR-01: a stable code tells each kind of trouble apart."""
    assert len({error.code for error in TREE}) == len(TREE) == 7


def test_an_input_error_names_field_and_fault() -> None:
    """ERR-01: the message of a bad input is the field and what is wrong with it."""
    error = InvalidInputError("amount", "must be more than zero")
    assert (error.field, error.reason) == ("amount", "must be more than zero")
    assert error.message == str(error) == "amount must be more than zero"


def test_a_refusal_names_its_rule() -> None:
    """CRD-19: a refusal carries the stable name of the rule beside the sentence."""
    error = RefusedError("transfer_not_allowed", "Credit stays with its organisation.")
    assert error.reason == "transfer_not_allowed"
    assert error.message == "Credit stays with its organisation."


def test_without_a_message_the_kind_speaks() -> None:
    """ERR-01: an error without its own sentence says what its kind means, or its code at least."""

    class BareError(FareboxError):
        code = "bare"

    BareError.__doc__ = None
    assert UnavailableError().message == (
        "Something that Farebox stands on is away; try again later."
    )
    assert BareError().message == "bare"
    with pytest.raises(FareboxError, match="bare"):
        raise BareError
