"""Answers of models that are shared by all who ask the same."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")


def upgrade() -> None:  # noqa: D103
    op.create_table(
        "model_answer",
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("agent_run_id", ID, nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("asked_at", TIME, nullable=False),
        sa.Column("answered_at", TIME, nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_run_id"], ["agent_run.id"], name="fk_model_answer_agent_run_id_agent_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_model_answer"),
    )
    op.create_index("ix_model_answer_agent_run", "model_answer", ["agent_run_id"], unique=False)
    op.create_index("ix_model_answer_expires", "model_answer", ["expires_at"], unique=False)


def downgrade() -> None:  # noqa: D103
    op.drop_table("model_answer")
