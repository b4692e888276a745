"""What watchers are shown of models' answers while they come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # noqa: D103
    op.create_table(
        "stream",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("pieces", LONG, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_stream_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", name="pk_stream"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "stream_piece",
        sa.Column("agent_run_id", ID, nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("number", LONG, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("restarted", sa.Boolean(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_run_id"], ["agent_run.id"], name="fk_stream_piece_agent_run_id_agent_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("agent_run_id", "slot", "id", name="pk_stream_piece"),
    )
    op.create_index("uq_stream_piece_number", "stream_piece", ["run_id", "number"], unique=True)


def downgrade() -> None:  # noqa: D103
    op.drop_table("stream_piece")
    op.drop_table("stream")
