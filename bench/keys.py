"""Keys by the hundred thousand, put in as rows: what is measured is using them, not making them."""

from __future__ import annotations

import os

import psycopg

from bench.engine import Tenant, new_id
from farebox.tenancy.api_keys import KeyKind, digest, make_key, shown_prefix


def add_keys(dsn: str, tenants: list[Tenant], count: int) -> list[str]:
    """Share so many keys out among the projects of tenants; gives their texts."""
    made: list[str] = []
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        columns = "id, organization_id, project_id, name, digest, prefix"
        with cursor.copy(f"COPY api_key ({columns}) FROM STDIN") as copy:
            for number in range(count):
                organization, project, _ = tenants[number % len(tenants)]
                text = make_key(KeyKind.LIVE, os.urandom(32))
                made.append(text)
                name = f"key {number}"
                row = (new_id(), organization, project, name, digest(text), shown_prefix(text))
                copy.write_row(row)
    return made
