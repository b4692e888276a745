"""The journal of effects, what its values share, waits and questions, deadlines, retention, suspects, and a worker's broker.

Columns without a default that is computed and small partial indexes: the table of agent runs is read once to build one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")


def upgrade() -> None:  # noqa: D103
    if op.get_bind().dialect.name == "postgresql":
        # As in 0002: both at once, in the order in which everybody locks, and not behind somebody's open transaction.
        op.execute("SET LOCAL lock_timeout = '10s'")
        op.execute(f'LOCK TABLE "{_schema()}".run, "{_schema()}".agent_run IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    _add("project", sa.Column("retention", JSON, nullable=True))
    _add("worker", sa.Column("broker", sa.Text(), nullable=True))
    _add("sweep", sa.Column("held_until", TIME, nullable=True))
    _add("run", sa.Column("deadline_at", TIME, nullable=True))
    _add("run", sa.Column("forked_from", ID, nullable=True))
    _add("run", sa.Column("ending", JSON, nullable=True))
    _add("agent_run", sa.Column("suspect", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    _add("agent_run", sa.Column("input", JSON, nullable=True))
    _add("agent_run", sa.Column("wake_at", TIME, nullable=True))
    _add("agent_run", sa.Column("waiting_for", sa.Text(), nullable=True))
    _index("ix_run_deadline", "run", ["deadline_at"], "deadline_at IS NOT NULL AND finished_at IS NULL")
    _index("ix_agent_run_wake", "agent_run", ["wake_at"], "state = 'suspended'")
    _index("ix_agent_run_gated", "agent_run", ["id"], "state = 'blocked' AND gated")
    _journal()
    _content()
    _question()


def _journal() -> None:
    op.create_table(
        "journal",
        sa.Column("agent_run_id", ID, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("outcome", sa.LargeBinary(), nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("conversation", sa.String(32), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("milliseconds", sa.Integer(), nullable=True),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_run_id"], ["agent_run.id"], name="fk_journal_agent_run_id_agent_run", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("agent_run_id", "scope", "number", name="pk_journal"),
    )


def _content() -> None:
    op.create_table(
        "content",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("hash", sa.String(32), nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("parent", sa.String(32), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_content_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "hash", name="pk_content"),
    )


def _question() -> None:
    op.create_table(
        "question",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("agent_run_id", ID, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("answer", JSON, nullable=True),
        sa.Column("answered_by", sa.Text(), nullable=True),
        sa.Column("answered_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_question_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_question"),
        sa.UniqueConstraint("agent_run_id", "scope", "number", name="uq_question_agent_run_id_scope_number"),
    )
    op.create_index("ix_question_run", "question", ["run_id"], unique=False)
    _index("ix_question_open", "question", ["created_at"], "state = 'open'")


def downgrade() -> None:  # noqa: D103
    op.drop_table("question")
    op.drop_table("content")
    op.drop_table("journal")
    op.drop_index("ix_agent_run_gated", table_name="agent_run")
    op.drop_index("ix_agent_run_wake", table_name="agent_run")
    op.drop_index("ix_run_deadline", table_name="run")
    for table, column in (
        ("agent_run", "waiting_for"),
        ("agent_run", "wake_at"),
        ("agent_run", "input"),
        ("agent_run", "suspect"),
        ("run", "ending"),
        ("run", "forked_from"),
        ("run", "deadline_at"),
        ("sweep", "held_until"),
        ("worker", "broker"),
        ("project", "retention"),
    ):
        op.drop_column(table, column, schema=_schema())


def _add(table: str, column: sa.Column[object]) -> None:
    op.add_column(table, column, schema=_schema())


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
