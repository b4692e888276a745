"""The first tables, with the default tenant and project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Copies, not imports: a migration stays what it was when the tables of today move on.
ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
IDS = postgresql.ARRAY(sa.Uuid(as_uuid=False)).with_variant(sa.Text(), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TENANT = "00000000-0000-7000-8000-000000000001"
PROJECT = "00000000-0000-7000-8000-000000000002"


def upgrade() -> None:  # noqa: D103
    op.create_table(
        "agent",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("card", JSON, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_agent"),
    )
    op.create_table(
        "sweep",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("ran_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweep"),
    )
    op.create_table(
        "tenant",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenant"),
        sa.UniqueConstraint("name", name="uq_tenant_name"),
    )
    op.create_table(
        "worker",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("beat_at", TIME, nullable=False),
        sa.Column("beat_seq", LONG, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "project",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_project_tenant_id_tenant", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_project"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_project_tenant_id_name"),
    )
    op.create_table(
        "worker_queue",
        sa.Column("worker_id", ID, nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("idle_from", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["worker.id"], name="fk_worker_queue_worker_id_worker", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("worker_id", "queue", name="pk_worker_queue"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("ix_worker_queue_queue", "worker_queue", ["queue"], unique=False)
    op.create_table(
        "workflow",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_workflow_tenant_id_tenant", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_workflow"),
        sa.UniqueConstraint("tenant_id", "digest", name="uq_workflow_tenant_id_digest"),
    )
    op.create_table(
        "run",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("workflow_id", ID, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("input", JSON, nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("input_digest", sa.String(length=32), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name="fk_run_project_id_project", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_run_tenant_id_tenant", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workflow_id"], ["workflow.id"], name="fk_run_workflow_id_workflow"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
    )
    op.create_index("ix_run_listing", "run", ["project_id", "created_at"], unique=False)
    op.create_index("ix_run_state", "run", ["state", "created_at"], unique=False)
    op.create_index(
        "uq_run_idempotency",
        "run",
        ["project_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
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
    op.create_table(
        "agent_run",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("predecessors", IDS, nullable=False),
        sa.Column("gated", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("dispatch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("republished", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("worker_id", ID, nullable=True),
        sa.Column("output", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("queued_at", TIME, nullable=True),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("published_at", TIME, nullable=True),
        sa.Column("claimed_at", TIME, nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_agent_run_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_agent_run"),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_agent_run_claimed",
        "agent_run",
        ["queue", "priority", "claimed_at"],
        unique=False,
        postgresql_include=["published_at"],
        postgresql_where=sa.text("state <> 'queued'"),
        sqlite_where=sa.text("state <> 'queued'"),
    )
    op.create_index(
        "ix_agent_run_due",
        "agent_run",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND published_at IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND published_at IS NULL"),
    )
    op.create_index(
        "ix_agent_run_held",
        "agent_run",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_agent_run_lost",
        "agent_run",
        ["queue", "priority", "published_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index("ix_agent_run_run", "agent_run", ["run_id", "position"], unique=False)
    op.create_table(
        "countdown",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("remaining", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_countdown_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_countdown"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("ix_countdown_run_id", "countdown", ["run_id"], unique=False)
    op.create_table(
        "run_event",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("task", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_run_event_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_run_event"),
    )
    op.create_index("ix_run_event_run", "run_event", ["run_id", "id"], unique=False)
    _seed()


def _seed() -> None:
    now = (
        sa.text("now()")
        if op.get_bind().dialect.name == "postgresql"
        else sa.text("strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    )
    # Tables, not `sa.table`: only these follow the schema that the connection translates to.
    data = sa.MetaData()
    tenant = sa.Table("tenant", data, sa.Column("id", ID), sa.Column("name", sa.Text), sa.Column("created_at", TIME))
    project = sa.Table(
        "project",
        data,
        sa.Column("id", ID),
        sa.Column("tenant_id", ID),
        sa.Column("name", sa.Text),
        sa.Column("created_at", TIME),
    )
    sweep = sa.Table("sweep", data, sa.Column("id", sa.Integer), sa.Column("ran_at", TIME))
    op.execute(tenant.insert().values(id=TENANT, name="default", created_at=now))
    op.execute(project.insert().values(id=PROJECT, tenant_id=TENANT, name="default", created_at=now))
    op.execute(sweep.insert().values(id=1, ran_at=now))


def downgrade() -> None:  # noqa: D103
    op.drop_table("run_event")
    op.drop_table("countdown")
    op.drop_table("agent_run")
    op.drop_table("agent_message")
    op.drop_table("run")
    op.drop_table("workflow")
    op.drop_table("worker_queue")
    op.drop_table("project")
    op.drop_table("worker")
    op.drop_table("tenant")
    op.drop_table("sweep")
    op.drop_table("agent")
