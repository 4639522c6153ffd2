"""What a refusal's link leads to."""

from __future__ import annotations

import pytest

from farebox.advice.codes import Code
from farebox.advice.error_codes import finding_url
from tests.support.console_people import Visitor


@pytest.mark.parametrize("code", ["D12", "D18", "D63"])
async def test_a_finding_is_explained_to_everybody(visitor: Visitor, code: str) -> None:
    """ERR-03, DOC-16: its title, what it means and what helps, without a login."""
    page = await visitor.get(f"/doctor/{code}")
    assert page.status_code == 200
    assert code in page.text
    assert "What helps:" in page.text


async def test_every_code_has_its_page(visitor: Visitor) -> None:
    """DOC-16: each link that a refusal can carry leads somewhere."""
    for code in Code:
        url = finding_url(code.value, str(visitor.base_url))
        assert (await visitor.get(url)).status_code == 200, code


@pytest.mark.parametrize("code", ["D0", "d12", "%00", "D12x"])
async def test_an_unknown_code_is_no_page(visitor: Visitor, code: str) -> None:
    """DOC-16: 404 in words."""
    assert (await visitor.get(f"/doctor/{code}")).status_code == 404
