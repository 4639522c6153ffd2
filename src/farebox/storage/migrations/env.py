"""How Alembic runs the migrations: one connection, one transaction for each."""

from __future__ import annotations

import psycopg
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

config = context.config
dsn: str = config.attributes["dsn"]
engine = create_engine(
    "postgresql+psycopg://",
    creator=lambda: psycopg.connect(dsn),
    poolclass=StaticPool,
)
try:
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
finally:
    engine.dispose()
