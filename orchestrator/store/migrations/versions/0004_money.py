"""Budgets, the ledger of model calls, and whom a run is charged to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # noqa: D103
    if op.get_bind().dialect.name == "postgresql":
        # As in 0003: not behind somebody's open transaction, with everybody else behind us.
        op.execute("SET LOCAL lock_timeout = '10s'")
        op.execute(f'LOCK TABLE "{_schema()}".run, "{_schema()}".agent_run IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    op.add_column("run", sa.Column("user_label", sa.Text(), nullable=True), schema=_schema())
    op.add_column("run", sa.Column("batch_id", ID, nullable=True), schema=_schema())
    _budget()
    _budget_wait()
    _model_call()


def _budget() -> None:
    op.create_table(
        "budget",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("on_cap", sa.String(8), nullable=False),
        sa.Column("limit_nanousd", LONG, nullable=False),
        *_amounts("settled_nanousd", "reserved_nanousd", "unknown_nanousd"),
        sa.Column("unknown_calls", sa.Integer(), server_default="0", nullable=False),
        *_amounts("learned_cost", "learned_worst"),
        sa.Column("period_from", TIME, nullable=False),
        sa.Column("warned_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_budget_tenant_id_tenant", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_budget_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_budget"),
        sa.UniqueConstraint("tenant_id", "scope", "period", name="uq_budget_tenant_id_scope_period"),
        postgresql_with={"fillfactor": 50},
    )
    _index("ix_budget_run", "budget", ["run_id"], "run_id IS NOT NULL")


def _budget_wait() -> None:
    op.create_table(
        "budget_wait",
        sa.Column("call_id", ID, nullable=False),
        sa.Column("budget_id", ID, nullable=False),
        sa.Column("agent_run_id", ID, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("nanousd", LONG, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_run_id"], ["agent_run.id"], name="fk_budget_wait_agent_run_id_agent_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("call_id", name="pk_budget_wait"),
    )
    op.create_index("ix_budget_wait_agent_run", "budget_wait", ["agent_run_id"], unique=False)


def _model_call() -> None:
    op.create_table(
        "model_call",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=True),
        sa.Column("batch_id", ID, nullable=True),
        sa.Column("user_label", sa.Text(), nullable=True),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("agent_run_id", ID, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("credential", sa.String(16), nullable=True),
        sa.Column("state", sa.String(8), nullable=False),
        *_amounts("reserved_nanousd", "expected_nanousd"),
        sa.Column("cost_nanousd", LONG, nullable=True),
        *_counts(
            "input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens", "reasoning_tokens"
        ),
        sa.Column("price", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("provenance", sa.String(8), server_default="provider", nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("settled_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_model_call"),
    )
    op.create_index("ix_model_call_created", "model_call", ["created_at"], unique=False)
    op.create_index("ix_model_call_project", "model_call", ["project_id", "created_at"], unique=False)
    _index("ix_model_call_user", "model_call", ["user_label", "created_at"], "user_label IS NOT NULL")
    _index("ix_model_call_batch", "model_call", ["batch_id"], "batch_id IS NOT NULL")
    op.create_index("ix_model_call_run", "model_call", ["run_id"], unique=False)
    _index("ix_model_call_open", "model_call", ["id"], "state = 'reserved'")


def downgrade() -> None:  # noqa: D103
    for table in ("model_call", "budget_wait", "budget"):
        op.drop_table(table)
    for column in ("batch_id", "user_label"):
        op.drop_column("run", column, schema=_schema())


def _amounts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, LONG, server_default="0", nullable=False) for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer(), server_default="0", nullable=False) for name in names]


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
