"""Environments: a project's property, in every call and every report."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from farebox.operations.usage import Dimension, UsageQuestion
from farebox.storage.usage_store import PostgresUsageStore
from tests.support.tenants import Tenant, administration_of


def test_a_project_s_environment_is_in_the_reports(tenant: Tenant) -> None:
    """ORG-06: calls of a staging project are staging's, unless they say otherwise themselves."""
    house = tenant.house

    async def staging() -> str:
        async with await house.database.connector("test").connect() as connection:
            administration = administration_of(connection)
            project = await administration.create_project(
                "staging", tenant.organization_id, environment="Staging"
            )
            return (await administration.create_key("ci", project.id)).text

    key = house.run(staging())
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello."}]}
    assert tenant.post("/v1/chat/completions", body, key=key).status == 200
    assert tenant.chat().status == 200
    assert tenant.chat({"x-farebox-environment": "test"}).status == 200
    assert [row.environment for row in tenant.calls()] == ["staging", "production", "test"]

    async def report() -> dict[str | None, int]:
        async with await house.database.connector("test").connect() as connection:
            cursor = await connection.execute("SELECT farebox_now()")
            row = await cursor.fetchone()
            assert row is not None
            question = UsageQuestion(
                organization_id=UUID(int=tenant.organization_id.int),
                zone="UTC",
                since=row[0] - timedelta(hours=2),
                until=row[0] + timedelta(hours=1),
                by=frozenset({Dimension.ENVIRONMENT}),
                bucket=None,
            )
            page = await PostgresUsageStore(connection).read(question, limit=9, offset=0)
            return {each.environment: each.sums.calls for each in page.rows}

    assert house.run(report()) == {"staging": 1, "production": 1, "test": 1}
    told = tenant.get("/v1/key", key=key).json
    assert (told["environment"], told["project"]["name"]) == ("staging", "staging")
