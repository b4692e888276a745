"""Which agent a task that names a capability got; who serves which version of an agent; the pools of agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")

#: Columns that may be empty, so that no row is written.
_ADDED = (("agent_run", "assigned"), ("worker", "host"), ("worker_queue", "digest"))


def upgrade() -> None:  # noqa: D103
    schema = _schema()
    if schema is not None:
        # As in 0003: not behind somebody's open transaction, with everybody else behind us.
        op.execute("SET LOCAL lock_timeout = '10s'")
        for table, _ in _ADDED:
            op.execute(f'LOCK TABLE "{schema}".{table} IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    for table, column in _ADDED:
        op.add_column(table, sa.Column(column, sa.Text(), nullable=True), schema=schema)
    op.create_table(
        "agent_pool",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("fleet_slots", sa.Integer(), nullable=True),
        sa.Column("worker_slots", sa.Integer(), nullable=True),
        sa.Column("changed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("agent", name="pk_agent_pool"),
    )


def downgrade() -> None:  # noqa: D103
    op.drop_table("agent_pool")
    for table, column in reversed(_ADDED):
        op.drop_column(table, column, schema=_schema())


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
