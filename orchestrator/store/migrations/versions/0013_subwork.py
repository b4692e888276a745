"""Sub-work: agent runs that an agent run asks for, of the same run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")


def upgrade() -> None:  # noqa: D103
    schema = _schema()
    if schema is not None:
        # As in 0003: not behind somebody's open transaction, with everybody else behind us.
        op.execute("SET LOCAL lock_timeout = '10s'")
        op.execute(f'LOCK TABLE "{schema}".agent_run IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    for column in (
        sa.Column("parent_id", ID, nullable=True),
        sa.Column("subwork_id", ID, nullable=True),
        sa.Column("has_subwork", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    ):
        op.add_column("agent_run", column, schema=schema)
    asked_for = sa.text("parent_id IS NOT NULL")
    for name, columns in (
        ("ix_agent_run_parent", ["parent_id"]),
        ("ix_agent_run_subwork", ["subwork_id", "position"]),
    ):
        op.create_index(name, "agent_run", columns, postgresql_where=asked_for, sqlite_where=asked_for, schema=schema)
    _create_subwork()
    op.create_table(
        "subwork_count",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_subwork_count_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", name="pk_subwork_count"),
        postgresql_with={"fillfactor": 50},
    )


def _create_subwork() -> None:
    op.create_table(
        "subwork",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("parent_id", ID, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("first_number", sa.Integer(), nullable=False),
        sa.Column("first_position", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("max_concurrency", sa.Integer(), nullable=False),
        sa.Column("fail_fast", sa.Boolean(), nullable=False),
        sa.Column("return_exceptions", sa.Boolean(), nullable=False),
        sa.Column("next_position", sa.Integer(), nullable=False),
        sa.Column("remaining", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("options", JSON, nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_subwork_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_subwork"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("ix_subwork_run", "subwork", ["run_id"])
    op.create_index("ix_subwork_parent", "subwork", ["parent_id"])
    wanted = sa.text("state <> 'void'")
    op.create_index(
        "uq_subwork_slot",
        "subwork",
        ["parent_id", "scope", "number"],
        unique=True,
        postgresql_where=wanted,
        sqlite_where=wanted,
    )


def downgrade() -> None:  # noqa: D103
    schema = _schema()
    op.drop_table("subwork_count")
    op.drop_table("subwork")
    for name in ("ix_agent_run_subwork", "ix_agent_run_parent"):
        op.drop_index(name, "agent_run", schema=schema)
    for column in ("has_subwork", "subwork_id", "parent_id"):
        op.drop_column("agent_run", column, schema=schema)


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
