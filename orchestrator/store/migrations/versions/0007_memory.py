"""What agents remember, and their conversations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
VECTOR = postgresql.ARRAY(postgresql.REAL).with_variant(sa.LargeBinary(), "sqlite")


def upgrade() -> None:  # noqa: D103
    op.create_table(
        "memory",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("about", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("embedder", sa.Text(), nullable=False),
        sa.Column("embedding", VECTOR, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name="fk_memory_project_id_project", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_memory"),
    )
    op.create_index("ix_memory_scope", "memory", ["tenant_id", "project_id", "scope", "created_at", "id"], unique=False)
    op.create_index(
        "ix_memory_source",
        "memory",
        ["tenant_id", "project_id", "scope", "source"],
        unique=False,
        postgresql_where=sa.text("source IS NOT NULL"),
    )
    op.create_index("ix_memory_created", "memory", ["created_at"], unique=False)
    _create_sessions()


def _create_sessions() -> None:
    op.create_table(
        "memory_session",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next_number", LONG, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name="fk_memory_session_project_id_project", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_memory_session"),
        sa.UniqueConstraint(
            "tenant_id", "project_id", "agent", "name", name="uq_memory_session_tenant_id_project_id_agent_name"
        ),
    )
    op.create_index("ix_memory_session_used", "memory_session", ["used_at"], unique=False)
    op.create_table(
        "memory_message",
        sa.Column("id", ID, nullable=False),
        sa.Column("session_id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("number", LONG, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["memory_session.id"],
            name="fk_memory_message_session_id_memory_session",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_memory_message"),
        sa.UniqueConstraint("session_id", "number", name="uq_memory_message_session_id_number"),
    )


def downgrade() -> None:  # noqa: D103
    op.drop_table("memory_message")
    op.drop_table("memory_session")
    op.drop_table("memory")
