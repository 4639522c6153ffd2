"""The installation: what its operator must mend."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from farebox.advice.codes import Code
from farebox.advice.facts import (
    BooksDifference,
    EndingGroup,
    ExhaustedAccount,
    HoldsFacts,
    QuarantineFacts,
)
from farebox.advice.findings import Severity
from farebox.advice.installation import absorbed, installation
from tests.support.doctor_cases import CALL_ID, INSTALLATION, NOW, case, units


def ending(reason: str, times: int = 1, age_hours: float = 0.1, **changes: Any) -> EndingGroup:
    """Calls that ended so."""
    at = NOW - timedelta(hours=age_hours)
    return EndingGroup(
        status="released", reason=reason, times=times, last_id=CALL_ID, last_at=at, **changes
    )


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, []),
        ({"installation": structs.replace(INSTALLATION, providers=())}, [Code.D73]),
        ({"installation": structs.replace(INSTALLATION, priced_currencies=("EUR",))}, [Code.D73]),
        ({"installation": structs.replace(INSTALLATION, priced_currencies=())}, [Code.D73]),
        ({"installation": structs.replace(INSTALLATION, gateways_alive=0)}, [Code.D72]),
        (
            {"installation": structs.replace(INSTALLATION, gateways_alive=0, gateway_seen_at=None)},
            [Code.D72],
        ),
        ({"holds": HoldsFacts(count=3, overdue=1, oldest_at=NOW)}, [Code.D74]),
        ({"holds": HoldsFacts(count=3)}, []),
        (
            {
                "quarantine": QuarantineFacts(
                    count=2, oldest_at=NOW, first_number=7, command="settle", error="no"
                )
            },
            [Code.D75],
        ),
        ({"books": (BooksDifference("spent", "spent is not the sum"),)}, [Code.D76]),
        ({"books": ()}, []),
        ({"installation": None}, []),
    ],
)
def test_each_trouble_of_the_operator(changes: dict[str, Any], wanted: list[Code]) -> None:
    """DOC-03: the account comes first: prices, gateways, holds, rulings, books."""
    found = installation(case(**changes))
    assert [each.code for each in found] == wanted
    assert all(each.fixes and each.cause for each in found)


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ([ending("upstream_status_402")], [(Code.D42, Severity.WRONG)]),
        ([ending("upstream_status_402", age_hours=5)], [(Code.D42, Severity.WARNING)]),
        ([ending("upstream_status_401")], [(Code.D70, Severity.WRONG)]),
        ([ending("upstream_status_500", 3)], [(Code.D69, Severity.WARNING)]),
        ([ending("upstream_timeout", 2)], []),
        ([ending("upstream_status_400", 50)], []),
        ([ending("upstream_region_unsupported")], [(Code.D80, Severity.WRONG)]),
        ([ending("client_disconnected", 50)], []),
    ],
)
def test_what_providers_refused_lately(
    groups: list[EndingGroup], wanted: list[tuple[Code, Severity]]
) -> None:
    """ERR-08: the operator's own credit and key at the provider are not the tenant's trouble."""
    found = installation(case(endings=tuple(groups)))
    assert [(each.code, each.severity) for each in found] == wanted


def test_an_account_that_others_found_used_up() -> None:
    """ERR-08: operators were told; who met it themselves is told that instead, as wrong now."""
    used_up = ExhaustedAccount(provider="openai", account="main", at=NOW)
    told = structs.replace(INSTALLATION, exhausted=(used_up,))
    (found,) = installation(case(installation=told))
    assert (found.code, found.severity) == (Code.D42, Severity.WARNING)
    assert [each.value for each in found.evidence] == ["main at openai"]
    assert found.fixes[-1].command == "farebox alerts list --deployment"
    mine = (ending("upstream_quota_exhausted"),)
    (found,) = installation(case(installation=told, endings=mine))
    assert (found.code, found.severity) == (Code.D42, Severity.WRONG)


def test_what_the_operator_bore() -> None:
    """NEG-03: absorbed usage of the last day is noted."""
    (found,) = absorbed(case(endings=(ending("", absorbed=units(0.5)),)))
    assert (found.code, found.severity) == (Code.D77, Severity.NOTE)
    assert absorbed(case()) == []
