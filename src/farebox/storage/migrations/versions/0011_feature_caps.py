"""A project's features get output caps of their own; the SQL is beside this file."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL."""
    sql = Path(__file__).with_suffix(".sql").read_text()
    # Straight to the driver: colons and percent signs in the SQL mean themselves.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(sql)


def downgrade() -> None:
    """Forward only."""
    raise NotImplementedError("Migrations go forward only; restore a backup instead.")
