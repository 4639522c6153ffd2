"""``farebox doctor`` on a running house: how it is asked, and what it says of the house.

Every fixture asserts the exact codes of what is found, then mends it and asserts that the finding
has gone or says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from farebox.cli.output import WIDTH
from tests.support.doctor_house import Doctor, Run, org, spend
from tests.support.house import House
from tests.support.tenants import Tenant


def test_nothing_is_wrong(tenant: Tenant, doctor: Doctor) -> None:
    """DOC-01: an organisation, a key and a call with which nothing is wrong; exit status 0."""
    reply = spend(tenant, 100)
    request_id = reply.headers["x-request-id"]
    tenant.calls()
    for asked in (org(tenant), tenant.name, tenant.key, tenant.key[:13], request_id):
        found = doctor(asked)
        assert (found.exit, found.codes, found.document["status"]) == (0, [], "ok"), asked
        assert "Nothing is wrong" in found.document["summary"]
        assert tenant.key not in found.text + json.dumps(found.document)
    assert "charged 0.001525 USD" in doctor(request_id).document["summary"]
    steps = [check["step"] for check in doctor(org(tenant)).document["checks"]]
    assert steps.index("organization") < steps.index("key") < steps.index("balance")


def test_a_complaint_comes_from_stdin_or_a_file(
    tenant: Tenant, run: Run, doctor: Doctor, tmp_path: Path
) -> None:
    """DOC-01: a body may be pasted, piped or read from a file; words need no quotes."""
    body = tenant.chat(model="gpt-nothing").body.decode()
    path = tmp_path / "error.json"
    path.write_text(body)
    assert doctor("-", stdin=body).codes == ["D06"]
    assert doctor("--file", str(path)).codes == ["D06"]
    assert doctor("The", "model", "`gpt-nothing`", "does", "not", "exist", "or", "you", "do",
                  "not", "have", "access").codes == ["D06"]  # fmt: skip
    assert run("doctor", "-", stdin=" ", status=2).err.count("\n") == 1
    assert "cannot be read" in run("doctor", "--file", str(tmp_path / "no"), status=2).err
    run("doctor", "x", "--file", str(path), status=2)
    run("doctor", "insufficient_quota", "--org", "Nobody", status=1)
    run("doctor", "insufficient_quota", "--key", "Nobody", status=2)


def test_what_nobody_knows(tenant: Tenant, doctor: Doctor) -> None:
    """An unknown id, name or code is a finding, with what to give instead; exit status 1."""
    for asked, code in (
        ("req_" + "0" * 32, "D81"),
        ("org_" + "0" * 32, "D81"),
        ("Nobody Ltd", "D82"),
        ("429", "D82"),
    ):
        assert (doctor(asked).exit, doctor(asked).codes) == (1, [code])
    assert doctor("My ChatGPT Plus is paid!", "--org", org(tenant)).codes == ["D01"]


def test_a_text_cannot_steer_the_terminal(
    new_tenant: Callable[..., Tenant], doctor: Doctor
) -> None:
    """What was pasted, and what clients put into labels, is shown without control characters."""
    doctor("\x1b[2Jbad \x07 text")
    doctor('{"error": {"message": "\\u001b[2J", "code": "context_length_exceeded"}}')


def test_a_finding_is_explained_without_a_database(run: Run) -> None:
    """DOC-16: every code and its meaning is on the command line too."""
    assert "The credit is used up" in run("doctor", "D12").out
    rows = json.loads(run("doctor", "--codes", "--json").out)["data"]
    assert {"D04", "D05", "D06", "D07", "D11", "D12", "D17", "D18", "D19", "D20", "D21", "D22",
            "D43", "D46", "D47"} <= {row["code"] for row in rows}  # fmt: skip
    assert all(len(line) <= WIDTH for line in run("doctor", "--codes").out.splitlines())


def test_the_books_are_checked_along(tenant: Tenant, house: House, doctor: Doctor) -> None:
    """D76: where a total is not the sum of its rows, that comes first, and nothing is bought."""
    spend(tenant, 100)
    tenant.calls()
    house.execute(
        "UPDATE organization SET spent_nanos = spent_nanos + 5, granted_nanos = granted_nanos + 5"
        " WHERE id = %s",
        tenant.organization_id,
    )
    found = doctor(org(tenant), "--books")
    assert (found.exit, found.codes[0]) == (1, "D76")
    house.execute(
        "UPDATE organization SET spent_nanos = spent_nanos - 5, granted_nanos = granted_nanos - 5"
        " WHERE id = %s",
        tenant.organization_id,
    )
    assert doctor(org(tenant)).codes == []
