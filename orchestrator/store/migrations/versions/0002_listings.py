"""Indexes for listings with any filter, and the name of the worker that ran an agent run.

Whoever looks at runs waits until it is done: eight seconds for a million runs on two busy cores. Processes of the version
before go on working then; they leave `worker` empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:  # noqa: D103
    if op.get_bind().dialect.name == "postgresql":
        # Both at once, in the order in which everybody locks: taken one by one, they would meet a completion halfway.
        # Not for long: behind a lock that waits for somebody's open transaction every claim would wait too.
        op.execute("SET LOCAL lock_timeout = '10s'")
        op.execute(f'LOCK TABLE "{_schema()}".run, "{_schema()}".agent_run IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    op.add_column("agent_run", sa.Column("worker", sa.Text(), nullable=True), schema=_schema())
    op.create_index("ix_workflow_name", "workflow", ["name"], unique=False)
    op.create_index("ix_run_project", "run", ["project_id", "state", "created_at"], unique=False)
    op.create_index("ix_run_workflow", "run", ["workflow_id", "project_id", "state", "created_at"], unique=False)
    op.drop_index("ix_run_listing", table_name="run")
    if op.get_bind().dialect.name == "postgresql":
        code, failed = sa.text("(error ->> 'code')"), sa.text("error IS NOT NULL")
        op.create_index("ix_run_error", "run", [code, "created_at", "project_id"], postgresql_where=failed)
        op.create_index(
            "ix_run_workflow_error", "run", ["workflow_id", "project_id", code, "created_at"], postgresql_where=failed
        )


def downgrade() -> None:  # noqa: D103
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_run_workflow_error", table_name="run")
        op.drop_index("ix_run_error", table_name="run")
    op.create_index("ix_run_listing", "run", ["project_id", "created_at"], unique=False)
    op.drop_index("ix_run_workflow", table_name="run")
    op.drop_index("ix_run_project", table_name="run")
    op.drop_index("ix_workflow_name", table_name="workflow")
    op.drop_column("agent_run", "worker", schema=_schema())


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
