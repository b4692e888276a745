"""What the agents of a run share, and an index of those that wait for a change of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # noqa: D103
    listening = sa.text("CASE WHEN state = 'suspended' THEN listening END IS NOT NULL")
    op.create_index(
        "ix_agent_run_listening", "agent_run", ["run_id"], postgresql_where=listening, sqlite_where=listening
    )
    op.create_table(
        "shared_context",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("changes", LONG, nullable=False),
        sa.Column("keys", sa.Integer(), nullable=False),
        sa.Column("bytes", LONG, nullable=False),
        sa.Column("watched_until", TIME),
        _of_run("shared_context"),
        sa.PrimaryKeyConstraint("run_id", name="pk_shared_context"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "shared_key",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("number", LONG, nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        _of_run("shared_key"),
        sa.PrimaryKeyConstraint("run_id", "namespace", "key", name="pk_shared_key"),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "shared_version",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("number", LONG, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        _of_run("shared_version"),
        sa.PrimaryKeyConstraint("run_id", "namespace", "key", "version", name="pk_shared_version"),
    )


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=f"fk_{table}_run_id_run", ondelete="CASCADE")


def downgrade() -> None:  # noqa: D103
    op.drop_table("shared_version")
    op.drop_table("shared_key")
    op.drop_table("shared_context")
    op.drop_index("ix_agent_run_listening", table_name="agent_run")
