"""Evaluations and what came of their trials; experiments, and which arm of one a run belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # noqa: D103
    schema = _schema()
    if schema is not None:
        # As in 0003: not behind somebody's open transaction, with everybody else behind us.
        op.execute("SET LOCAL lock_timeout = '10s'")
        op.execute(f'LOCK TABLE "{schema}".run IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    op.add_column("run", sa.Column("variant", sa.Text(), nullable=True), schema=schema)
    where = sa.text("variant IS NOT NULL")
    op.create_index("ix_run_variant", "run", ["variant", "created_at"], postgresql_where=where, sqlite_where=where)
    _create_evaluations()
    _create_trials()
    _create_experiments()


def _create_evaluations() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("definition", JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name="fk_evaluation_project_id_project", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation"),
    )
    op.create_index("ix_evaluation_created", "evaluation", ["tenant_id", "created_at"], unique=False)
    is_open = sa.text("state = 'running'")
    op.create_index(
        "uq_evaluation_open",
        "evaluation",
        ["tenant_id", "project_id", "digest"],
        unique=True,
        postgresql_where=is_open,
        sqlite_where=is_open,
    )


def _create_trials() -> None:
    op.create_table(
        "trial",
        sa.Column("evaluation_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("case_id", sa.Text(), nullable=False),
        sa.Column("case_digest", sa.String(64), nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("output", JSON, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("grades", JSON, nullable=False),
        sa.Column("milliseconds", LONG, nullable=True),
        sa.Column("cost_nanousd", LONG, nullable=False),
        sa.Column("judge_nanousd", LONG, nullable=False),
        sa.Column("tokens", LONG, nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.id"], name="fk_trial_evaluation_id_evaluation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "number", name="pk_trial"),
    )


def _create_experiments() -> None:
    op.create_table(
        "experiment",
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", JSON, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", name="pk_experiment"),
    )


def downgrade() -> None:  # noqa: D103
    op.drop_table("experiment")
    op.drop_table("trial")
    op.drop_table("evaluation")
    op.drop_index("ix_run_variant", "run")
    op.drop_column("run", "variant", schema=_schema())


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
