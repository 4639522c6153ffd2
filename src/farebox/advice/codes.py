"""The catalogue of findings: each has a code that never changes its meaning (DOC-16).

D01 to D50 are the rows of the decision table that the doctor was designed by; what Farebox itself
adds begins at D61. Codes of that table that no check can find yet are not here.
"""

from __future__ import annotations

from enum import StrEnum


class Area(StrEnum):
    """What a complaint is about; decided first (DOC-02)."""

    API_BILLING = "api_billing"
    SUBSCRIPTION = "subscription"
    """A seat in a chat product: another purse than API credit."""
    NOT_BILLING = "not_billing"


class Step(StrEnum):
    """The checks, in their order (DOC-03)."""

    ACCOUNT = "account"
    """This installation and its own accounts at the providers."""
    ORGANIZATION = "organization"
    PROJECT = "project"
    KEY = "key"
    MODEL = "model"
    ERROR = "error"
    """What the error code says that is no billing matter."""
    BALANCE = "balance"
    SYNC = "sync"
    LIMITS = "limits"
    PAYMENT = "payment"
    USE = "use"
    """How credit is being spent."""


ORDER = {step: place for place, step in enumerate(Step)}
"""Step -> its place."""

CONFIGURATION = frozenset(
    {Step.ACCOUNT, Step.ORGANIZATION, Step.PROJECT, Step.KEY, Step.MODEL, Step.ERROR}
)
"""Steps whose findings no purchase mends (DOC-14)."""


class Code(StrEnum):
    """Every finding there can be; :mod:`farebox.advice.catalogue` says what each means."""

    D01 = "D01"
    D02 = "D02"
    D04 = "D04"
    D05 = "D05"
    D06 = "D06"
    D07 = "D07"
    D11 = "D11"
    D12 = "D12"
    D13 = "D13"
    D17 = "D17"
    D18 = "D18"
    D19 = "D19"
    D20 = "D20"
    D21 = "D21"
    D22 = "D22"
    D42 = "D42"
    D43 = "D43"
    D46 = "D46"
    D47 = "D47"
    D61 = "D61"
    D62 = "D62"
    D63 = "D63"
    D64 = "D64"
    D65 = "D65"
    D66 = "D66"
    D67 = "D67"
    D68 = "D68"
    D69 = "D69"
    D70 = "D70"
    D71 = "D71"
    D72 = "D72"
    D73 = "D73"
    D74 = "D74"
    D75 = "D75"
    D76 = "D76"
    D77 = "D77"
    D78 = "D78"
    D79 = "D79"
    D80 = "D80"
    D81 = "D81"
    D82 = "D82"
    D83 = "D83"
    D84 = "D84"
    D85 = "D85"
    D86 = "D86"
    D87 = "D87"
    D88 = "D88"
    D89 = "D89"
    D90 = "D90"
