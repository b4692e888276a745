"""Webhooks: who is told, what is to be told and what came of it, and what has come in.

What is to be told is written by triggers on `run` and `question`, in the transaction of whichever statement ends a run or asks
a question: see docs/decisions/0057. On SQLite a later migration that copies one of these tables has to make its trigger again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
TIME = postgresql.TIMESTAMP(timezone=True).with_variant(sa.String(32), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")
LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: Columns that a trigger fills.
COLUMNS = (
    "id, tenant_id, endpoint_id, project_id, run_id, type, subject, state, sending, epoch, attempts, due_at, created_at"
)

#: Only the run's own values: what is asked of other tables is asked when it is sent. The look before the insert costs less than
#: an insert of nothing, which opens every index. It goes by the tenant, for which there is an index: see `connect.py`.
POSTGRES_RUN = """
CREATE FUNCTION {schema}.webhook_run_ended() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM {schema}.webhook_endpoint WHERE tenant_id = NEW.tenant_id AND active) THEN
        RETURN NULL;
    END IF;
    INSERT INTO {schema}.webhook_delivery ({columns})
    SELECT gen_random_uuid(), NEW.tenant_id, e.id, NEW.project_id, NEW.id, 'run.' || NEW.state,
           jsonb_build_object(
               'state', NEW.state, 'workflow_id', NEW.workflow_id, 'error', NEW.error, 'created_at', NEW.created_at,
               'started_at', NEW.started_at, 'finished_at', NEW.finished_at, 'user', NEW.user_label,
               'batch_id', NEW.batch_id, 'variant', NEW.variant, 'forked_from', NEW.forked_from
           ),
           'open', false, 0, 0, now(), now()
    FROM {schema}.webhook_endpoint e
    WHERE e.tenant_id = NEW.tenant_id AND e.active AND (e.project_id IS NULL OR e.project_id = NEW.project_id)
      AND e.events ? ('run.' || NEW.state);
    RETURN NULL;
END $body$
"""
POSTGRES_QUESTION = """
CREATE FUNCTION {schema}.webhook_question_asked() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM {schema}.webhook_endpoint WHERE tenant_id = NEW.tenant_id AND active) THEN
        RETURN NULL;
    END IF;
    INSERT INTO {schema}.webhook_delivery ({columns})
    SELECT gen_random_uuid(), NEW.tenant_id, e.id, r.project_id, NEW.run_id, 'question.asked',
           jsonb_build_object(
               'question_id', NEW.id, 'agent_run_id', NEW.agent_run_id, 'text', left(NEW.text, 2000),
               'choices', NEW.request -> 'choices', 'digest', NEW.digest, 'expires_at', NEW.expires_at,
               'asked_at', NEW.created_at, 'workflow_id', r.workflow_id
           ),
           'open', false, 0, 0, now(), now()
    FROM {schema}.webhook_endpoint e JOIN {schema}.run r ON r.id = NEW.run_id
    WHERE e.tenant_id = NEW.tenant_id AND e.active AND (e.project_id IS NULL OR e.project_id = r.project_id)
      AND e.events ? 'question.asked';
    RETURN NULL;
END $body$
"""
POSTGRES_TRIGGERS = (
    """
    CREATE TRIGGER webhook_run_ended AFTER UPDATE OF state ON {schema}.run FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state AND NEW.state IN ('succeeded', 'failed', 'cancelled'))
    EXECUTE FUNCTION {schema}.webhook_run_ended()
    """,
    """
    CREATE TRIGGER webhook_question_asked AFTER INSERT OR UPDATE OF id ON {schema}.question FOR EACH ROW
    WHEN (NEW.state = 'open') EXECUTE FUNCTION {schema}.webhook_question_asked()
    """,
)

SQLITE_ID = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' "
    "|| substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
)
SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
SQLITE_RUN = """
CREATE TRIGGER webhook_run_ended AFTER UPDATE OF state ON run FOR EACH ROW
WHEN OLD.state <> NEW.state AND NEW.state IN ('succeeded', 'failed', 'cancelled')
    AND EXISTS (SELECT 1 FROM webhook_endpoint WHERE active)
BEGIN
    INSERT INTO webhook_delivery ({columns})
    SELECT {new_id}, NEW.tenant_id, e.id, NEW.project_id, NEW.id, 'run.' || NEW.state,
           json_object(
               'state', NEW.state, 'workflow_id', NEW.workflow_id, 'error', json(NEW.error), 'created_at', NEW.created_at,
               'started_at', NEW.started_at, 'finished_at', NEW.finished_at, 'user', NEW.user_label,
               'batch_id', NEW.batch_id, 'variant', NEW.variant, 'forked_from', NEW.forked_from
           ),
           'open', 0, 0, 0, {now}, {now}
    FROM webhook_endpoint e
    WHERE e.tenant_id = NEW.tenant_id AND e.active AND (e.project_id IS NULL OR e.project_id = NEW.project_id)
      AND EXISTS (SELECT 1 FROM json_each(e.events) t WHERE t.value = 'run.' || NEW.state);
END
"""
SQLITE_QUESTION = """
CREATE TRIGGER {name} AFTER {event} ON question FOR EACH ROW WHEN NEW.state = 'open'
BEGIN
    INSERT INTO webhook_delivery ({columns})
    SELECT {new_id}, NEW.tenant_id, e.id, r.project_id, NEW.run_id, 'question.asked',
           json_object(
               'question_id', NEW.id, 'agent_run_id', NEW.agent_run_id, 'text', substr(NEW.text, 1, 2000),
               'choices', json_extract(NEW.request, '$.choices'), 'digest', NEW.digest, 'expires_at', NEW.expires_at,
               'asked_at', NEW.created_at, 'workflow_id', r.workflow_id
           ),
           'open', 0, 0, 0, {now}, {now}
    FROM webhook_endpoint e JOIN run r ON r.id = NEW.run_id
    WHERE e.tenant_id = NEW.tenant_id AND e.active AND (e.project_id IS NULL OR e.project_id = r.project_id)
      AND EXISTS (SELECT 1 FROM json_each(e.events) t WHERE t.value = 'question.asked');
END
"""
SQLITE_TRIGGERS = ("webhook_run_ended", "webhook_question_asked", "webhook_question_asked_anew")


def upgrade() -> None:  # noqa: D103
    _create_endpoints()
    _create_deliveries()
    _create_receipts()
    schema = _schema()
    if schema is None:
        given = {"columns": COLUMNS, "new_id": SQLITE_ID, "now": SQLITE_NOW}
        op.execute(SQLITE_RUN.format(**given))
        op.execute(SQLITE_QUESTION.format(name=SQLITE_TRIGGERS[1], event="INSERT", **given))
        op.execute(SQLITE_QUESTION.format(name=SQLITE_TRIGGERS[2], event="UPDATE OF id", **given))
        return
    # As in 0003: not behind somebody's open transaction, with everybody else behind us.
    op.execute("SET LOCAL lock_timeout = '10s'")
    for command in (POSTGRES_RUN, POSTGRES_QUESTION, *POSTGRES_TRIGGERS):
        op.execute(command.format(schema=f'"{schema}"', columns=COLUMNS))
    op.execute("SET LOCAL lock_timeout = 0")


def _create_endpoints() -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("secrets", JSON, nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("paused_until", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenant.id"], name="fk_webhook_endpoint_tenant_id_tenant", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name="fk_webhook_endpoint_project_id_project", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoint"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_webhook_endpoint_tenant_id_name"),
    )


def _create_deliveries() -> None:
    op.create_table(
        "webhook_delivery",
        sa.Column("number", LONG, autoincrement=True, nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("endpoint_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=True),
        sa.Column("run_id", ID, nullable=True),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("subject", JSON, nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sending", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("tries", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_webhook_delivery"),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_webhook_delivery_id", "webhook_delivery", ["id"], unique=True)
    _create_index("uq_webhook_delivery_key", ["endpoint_id", "key"], "key IS NOT NULL", unique=True)
    _create_index("ix_webhook_delivery_due", ["endpoint_id", "due_at"], "state = 'open'")
    _create_index("ix_webhook_delivery_sending", ["endpoint_id", "due_at"], "sending")
    _create_index("ix_webhook_delivery_dead", ["endpoint_id", "number"], "state = 'dead'")
    _create_index("ix_webhook_delivery_run", ["run_id"], "run_id IS NOT NULL")
    _create_index("ix_webhook_delivery_finished", ["finished_at"], "finished_at IS NOT NULL")


def _create_index(name: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, "webhook_delivery", columns, unique=unique, postgresql_where=where, sqlite_where=where)


def _create_receipts() -> None:
    op.create_table(
        "webhook_receipt",
        sa.Column("tenant_id", ID, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("reply", JSON, nullable=True),
        sa.Column("held_until", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "source", "message_id", name="pk_webhook_receipt"),
    )
    op.create_index("ix_webhook_receipt_created", "webhook_receipt", ["created_at"], unique=False)


def downgrade() -> None:  # noqa: D103
    schema = _schema()
    if schema is None:
        for name in SQLITE_TRIGGERS:
            op.execute(f"DROP TRIGGER IF EXISTS {name}")
    else:
        for name, table in (("webhook_run_ended", "run"), ("webhook_question_asked", "question")):
            op.execute(f'DROP TRIGGER {name} ON "{schema}".{table}')
            op.execute(f'DROP FUNCTION "{schema}".{name}()')
    op.drop_table("webhook_receipt")
    op.drop_table("webhook_delivery")
    op.drop_table("webhook_endpoint")


def _schema() -> str | None:
    """Give the schema of our tables: changes of a table are not translated to it, as its creation is."""
    return op.get_context().version_table_schema
