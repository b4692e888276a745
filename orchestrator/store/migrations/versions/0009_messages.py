"""Messages between agents as they are now, and what a suspended agent run listens for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
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
        op.execute(f'LOCK TABLE "{schema}".agent_run IN ACCESS EXCLUSIVE MODE')
        op.execute("SET LOCAL lock_timeout = 0")
    op.add_column("agent_run", sa.Column("listening", JSON, nullable=True), schema=schema)
    # Nothing has ever been written to the first one.
    op.drop_table("agent_message")
    _create_messages()


def _create_messages() -> None:
    op.create_table(
        "agent_message",
        sa.Column("run_id", ID, nullable=False),
        _numbered(),
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("sender_id", ID, nullable=True),
        sa.Column("sent_scope", sa.Text(), nullable=True),
        sa.Column("sent_number", sa.Integer(), nullable=True),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("recipient_id", ID, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("wants_reply", sa.Boolean(), nullable=False),
        sa.Column("answers", ID, nullable=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("taken_scope", sa.Text(), nullable=True),
        sa.Column("taken_number", sa.Integer(), nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_agent_message_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_agent_message"),
        sa.UniqueConstraint("id", name="uq_agent_message_id"),
    )
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "ix_agent_message_waiting",
        "agent_message",
        ["recipient_id", "number"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    reply = sa.text("state = 'waiting' AND answers IS NOT NULL")
    op.create_index("ix_agent_message_reply", "agent_message", ["answers"], postgresql_where=reply, sqlite_where=reply)
    expiring = sa.text("state = 'waiting' AND expires_at IS NOT NULL")
    op.create_index(
        "ix_agent_message_expires", "agent_message", ["expires_at"], postgresql_where=expiring, sqlite_where=expiring
    )


def _numbered() -> sa.Column[int]:
    if _schema() is None:
        return sa.Column("number", sa.Integer(), nullable=False)
    return sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False)


def downgrade() -> None:  # noqa: D103
    op.drop_table("agent_message")
    op.create_table(
        "agent_message",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("sequence", LONG, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("correlation_id", ID, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_agent_message_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_agent_message"),
        sa.UniqueConstraint("run_id", "recipient", "sequence", name="uq_agent_message_run_id_recipient_sequence"),
    )
    op.drop_column("agent_run", "listening", schema=_schema())


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
