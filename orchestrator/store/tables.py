"""The tables. Postgres is the reference; SQLite has the same columns with the nearest types.

Every row of users' data names its tenant. `agent`, `agent_pool`, `worker` and `worker_queue` describe the fleet, which
tenants share.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine, Uuid

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Json(TypeDecorator[Any]):
    """JSONB on Postgres, text on SQLite. The drivers hand over text on both (`database.py`), decoded here."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(postgresql.JSONB() if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        return json.loads(value) if isinstance(value, str) else value


#: Text in the canonical form in Python, `uuid` on Postgres.
Id = Uuid(as_uuid=False).with_variant(String(36), "sqlite")
#: Ids in the order in which they matter; JSON text on SQLite.
Ids = postgresql.ARRAY(Uuid(as_uuid=False)).with_variant(Text(), "sqlite")
#: An aware UTC time on Postgres; ISO text of fixed width on SQLite, which sorts as it should.
Time = postgresql.TIMESTAMP(timezone=True).with_variant(String(32), "sqlite")
Long = BigInteger().with_variant(Integer(), "sqlite")
#: Numbers of four bytes; on SQLite packed one after the other.
Vector = postgresql.ARRAY(postgresql.REAL).with_variant(LargeBinary(), "sqlite")


def _key() -> Column[Any]:
    return Column("id", Id, primary_key=True)


def _tenant() -> Column[Any]:
    return Column("tenant_id", Id, ForeignKey("tenant.id", ondelete="CASCADE"), nullable=False)


def _tenant_of_run() -> Column[Any]:
    # No foreign key: the run's own keeps it true, and checking it for each part would lock one tenant row all day.
    return Column("tenant_id", Id, nullable=False)


def _project() -> Column[Any]:
    return Column("project_id", Id, ForeignKey("project.id", ondelete="CASCADE"), nullable=False)


def _run(**options: Any) -> Column[Any]:
    return Column("run_id", Id, ForeignKey("run.id", ondelete="CASCADE"), nullable=False, **options)


def _created() -> Column[Any]:
    return Column("created_at", Time, nullable=False)


def _where(condition: str) -> dict[str, Any]:
    """Give the options of an index of some rows alone, on either database."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


tenant = Table("tenant", metadata, _key(), Column("name", Text, nullable=False, unique=True), _created())

project = Table(
    "project",
    metadata,
    _key(),
    _tenant(),
    Column("name", Text, nullable=False),
    _created(),
    #: How long its runs are kept, where it differs from the settings.
    Column("retention", Json),
    UniqueConstraint("tenant_id", "name"),
)

#: Definitions by content: a run keeps the one it began with, and a thousand equal runs share one row.
workflow = Table(
    "workflow",
    metadata,
    _key(),
    _tenant(),
    Column("digest", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("definition", Json, nullable=False),
    _created(),
    UniqueConstraint("tenant_id", "digest"),
    Index("ix_workflow_name", "name"),
)

#: On Postgres alone: not every SQLite has the operator, and none of the embedded ones has a million failed runs.
_ERROR_CODE = text("(error ->> 'code')")
_FAILED = text("error IS NOT NULL")

run = Table(
    "run",
    metadata,
    _key(),
    _tenant(),
    Column("project_id", Id, ForeignKey("project.id", ondelete="CASCADE"), nullable=False),
    Column("workflow_id", Id, ForeignKey("workflow.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("input", Json, nullable=False),
    Column("error", Json),
    Column("idempotency_key", Text),
    Column("input_digest", String(32)),
    _created(),
    Column("started_at", Time),
    Column("finished_at", Time),
    #: When it is ended as failed if it has not ended.
    Column("deadline_at", Time),
    #: The run whose recorded past it shares.
    Column("forked_from", Id),
    #: The state and error that it ends with once what it did is undone; stays when it has ended so.
    Column("ending", Json),
    #: Whom its costs are charged to, beside its project: a label of the installation's own.
    Column("user_label", Text),
    Column("batch_id", Id),
    #: What it is one of: an evaluation's variant, or an arm of an experiment, `name/variant`.
    Column("variant", Text),
    # Without the id: on a table that was never analysed the planner would look ids up in them, through the whole index.
    # Which listing reads which of them, and why there are so many: `listing.py`.
    Index("ix_run_state", "state", "created_at"),
    Index("ix_run_project", "project_id", "state", "created_at"),
    Index("ix_run_workflow", "workflow_id", "project_id", "state", "created_at"),
    Index("ix_run_error", _ERROR_CODE, "created_at", "project_id", postgresql_where=_FAILED).ddl_if("postgresql"),
    Index(
        "ix_run_workflow_error",
        *("workflow_id", "project_id", _ERROR_CODE, "created_at"),
        postgresql_where=_FAILED,
    ).ddl_if("postgresql"),
    Index("uq_run_idempotency", "project_id", "idempotency_key", unique=True, **_where("idempotency_key IS NOT NULL")),
    Index("ix_run_deadline", "deadline_at", **_where("deadline_at IS NOT NULL AND finished_at IS NULL")),
    Index("ix_run_variant", "variant", "created_at", **_where("variant IS NOT NULL")),
)

agent_run = Table(
    "agent_run",
    metadata,
    _key(),
    _tenant_of_run(),
    _run(),
    Column("task", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("agent", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("predecessors", Ids, nullable=False),
    #: A condition decides whether it runs: it is never queued by a completion, only by `advance`.
    Column("gated", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    #: The number of the last publication, part of the Celery task id.
    Column("dispatch", Integer, nullable=False, server_default="0"),
    #: How often the sweep has published it again since it was queued; doubles the delay of the next time.
    Column("republished", SmallInteger, nullable=False, server_default="0"),
    #: Who runs it, and nobody once it does not run any more.
    Column("worker_id", Id),
    Column("output", Json),
    Column("error", Json),
    Column("usage", Json),
    Column("model", Text),
    Column("queued_at", Time),
    Column("due_at", Time),
    Column("published_at", Time),
    Column("claimed_at", Time),
    Column("started_at", Time),
    Column("finished_at", Time),
    #: The name of the worker that claimed it last: it outlives the worker's own row.
    Column("worker", Text),
    #: It was running on a worker that died: it runs alone until that is settled.
    Column("suspect", Boolean, nullable=False, server_default=text("false")),
    #: What somebody has redriven it with, in place of what its task says that it gets.
    Column("input", Json),
    #: When a suspended one is woken at the latest; NULL waits for an event alone.
    Column("wake_at", Time),
    #: What a suspended one waits for, for people.
    Column("waiting_for", Text),
    #: What wakes a suspended one before its time, by kind (`contracts/interest.py`). In the row itself: who brings an event
    #: sees the row as it is when the lock is theirs, and another table as it was when their statement began.
    Column("listening", Json),
    #: The agent that its run got for the capability that its task names: a retry goes back to it.
    Column("assigned", Text),
    #: Who has asked for it, of what is no task of the workflow, and as part of which sub-work.
    Column("parent_id", Id),
    Column("subwork_id", Id),
    #: Whether it has ever asked for any: its end then ends that too.
    Column("has_subwork", Boolean, nullable=False, server_default=text("false")),
    Index("ix_agent_run_run", "run_id", "position"),
    Index("ix_agent_run_parent", "parent_id", **_where("parent_id IS NOT NULL")),
    Index("ix_agent_run_subwork", "subwork_id", "position", **_where("parent_id IS NOT NULL")),
    Index("ix_agent_run_lost", "queue", "priority", "published_at", **_where("state = 'queued'")),
    Index("ix_agent_run_due", "due_at", **_where("state = 'queued' AND published_at IS NULL")),
    Index(
        "ix_agent_run_claimed",
        "queue",
        "priority",
        "claimed_at",
        postgresql_include=["published_at"],
        **_where("state <> 'queued'"),
    ),
    Index("ix_agent_run_held", "worker_id", **_where("state = 'running'")),
    Index("ix_agent_run_gated", "id", **_where("state = 'blocked' AND gated")),
    Index("ix_agent_run_wake", "wake_at", **_where("state = 'suspended'")),
    # Said in a way that no other index of suspended rows answers to: those hold the ones of all runs.
    Index("ix_agent_run_listening", "run_id", **_where("CASE WHEN state = 'suspended' THEN listening END IS NOT NULL")),
    postgresql_with={"fillfactor": 70},
)

#: The recorded effects of agent runs, by where in the agent's code they happen. No foreign key to `run`: it would be
#: checked for each effect, and an agent run goes with its run.
journal = Table(
    "journal",
    metadata,
    Column("agent_run_id", Id, ForeignKey("agent_run.id", ondelete="CASCADE"), primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _tenant_of_run(),
    Column("kind", String(16), nullable=False),
    Column("fingerprint", String(32), nullable=False),
    Column("state", String(8), nullable=False),
    #: The beginning of the request, for people: what it was exactly is in the fingerprint.
    Column("request", Text),
    #: Encoded JSON (`journal/encoding.py`): text of any size stands in `content`, once.
    Column("outcome", LargeBinary),
    Column("error", Json),
    Column("usage", Json),
    Column("model", Text),
    #: The version of the agent that made the effect.
    Column("digest", String(64)),
    #: The last message of what a model was asked, in `content`.
    Column("conversation", String(32)),
    Column("epoch", Integer, nullable=False),
    Column("milliseconds", Integer),
    Column("recorded_at", Time, nullable=False),
)

#: Long text and the messages of conversations, each once in a run; a message names the one before it.
content = Table(
    "content",
    metadata,
    _run(primary_key=True),
    Column("hash", String(32), primary_key=True),
    _tenant_of_run(),
    Column("parent", String(32)),
    Column("body", LargeBinary, nullable=False),
)

#: What agents ask people.
question = Table(
    "question",
    metadata,
    _key(),
    _tenant_of_run(),
    _run(),
    Column("agent_run_id", Id, nullable=False),
    Column("scope", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("request", Json, nullable=False),
    #: Of what is being approved: an answer that names another one is refused.
    Column("digest", String(64), nullable=False),
    Column("expires_at", Time),
    Column("answer", Json),
    Column("answered_by", Text),
    Column("answered_at", Time),
    _created(),
    UniqueConstraint("agent_run_id", "scope", "number"),
    Index("ix_question_run", "run_id"),
    Index("ix_question_open", "created_at", **_where("state = 'open'")),
)

#: How much may be spent in a scope, and how much of it is. The amounts are those of the period that began at
#: `period_from`: whoever finds them to be of an earlier one begins at nothing.
budget = Table(
    "budget",
    metadata,
    _key(),
    _tenant(),
    #: `project/<id>`, `user/<label>`, `run/<id>` ..., as calls look for it.
    Column("scope", Text, nullable=False),
    #: Of the budget of a run, or of an agent run: it goes with the run.
    Column("run_id", Id, ForeignKey("run.id", ondelete="CASCADE")),
    Column("period", String(8), nullable=False),
    Column("mode", String(8), nullable=False),
    Column("on_cap", String(8), nullable=False),
    Column("limit_nanousd", Long, nullable=False),
    Column("settled_nanousd", Long, nullable=False, server_default="0"),
    Column("reserved_nanousd", Long, nullable=False, server_default="0"),
    Column("unknown_nanousd", Long, nullable=False, server_default="0"),
    Column("unknown_calls", Integer, nullable=False, server_default="0"),
    #: What the last calls have cost, and what they could have cost at most: fading sums.
    Column("learned_cost", Long, nullable=False, server_default="0"),
    Column("learned_worst", Long, nullable=False, server_default="0"),
    Column("period_from", Time, nullable=False),
    Column("warned_at", Time),
    _created(),
    UniqueConstraint("tenant_id", "scope", "period"),
    Index("ix_budget_run", "run_id", **_where("run_id IS NOT NULL")),
    postgresql_with={"fillfactor": 50},
)

#: Calls that wait for room in a budget, longest first: who is woken when there is some. A budget that is gone has room.
budget_wait = Table(
    "budget_wait",
    metadata,
    Column("call_id", Id, primary_key=True),
    Column("budget_id", Id, nullable=False),
    Column("agent_run_id", Id, ForeignKey("agent_run.id", ondelete="CASCADE"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("nanousd", Long, nullable=False),
    Column("since", Time, nullable=False),
    Index("ix_budget_wait_agent_run", "agent_run_id"),
)

#: The ledger: a line for each try of a model call. It outlives runs, since it is what a bill is checked with.
model_call = Table(
    "model_call",
    metadata,
    _key(),
    _tenant_of_run(),
    Column("project_id", Id),
    Column("batch_id", Id),
    Column("user_label", Text),
    Column("run_id", Id, nullable=False),
    Column("agent_run_id", Id, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("slot", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("agent", Text, nullable=False),
    Column("model", Text, nullable=False),
    #: The alias of the key that it was made with.
    Column("credential", String(16)),
    Column("state", String(8), nullable=False),
    #: What budgets hold for it: strict ones, and those that expect.
    Column("reserved_nanousd", Long, nullable=False, server_default="0"),
    Column("expected_nanousd", Long, nullable=False, server_default="0"),
    #: NULL for a model without a price, and for what nobody knows.
    Column("cost_nanousd", Long),
    Column("input_tokens", Integer, nullable=False, server_default="0"),
    Column("cached_input_tokens", Integer, nullable=False, server_default="0"),
    Column("cache_write_input_tokens", Integer, nullable=False, server_default="0"),
    Column("output_tokens", Integer, nullable=False, server_default="0"),
    Column("reasoning_tokens", Integer, nullable=False, server_default="0"),
    #: Whose price, of when.
    Column("price", Text),
    Column("request_id", Text),
    Column("provenance", String(8), nullable=False, server_default="provider"),
    _created(),
    Column("settled_at", Time),
    Index("ix_model_call_created", "created_at"),
    Index("ix_model_call_project", "project_id", "created_at"),
    Index("ix_model_call_user", "user_label", "created_at", **_where("user_label IS NOT NULL")),
    Index("ix_model_call_batch", "batch_id", **_where("batch_id IS NOT NULL")),
    Index("ix_model_call_run", "run_id"),
    Index("ix_model_call_open", "id", **_where("state = 'reserved'")),
)

#: What models have answered, for all of a tenant who ask the same, and who is asking: the key is a hash of the question. It
#: goes with the run that has paid for it.
model_answer = Table(
    "model_answer",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("agent_run_id", Id, ForeignKey("agent_run.id", ondelete="CASCADE"), nullable=False),
    Column("slot", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    #: The response as JSON, encoded as outcomes of the journal are; NULL while it is asked for.
    Column("body", LargeBinary),
    Column("asked_at", Time, nullable=False),
    Column("answered_at", Time),
    #: When somebody else may ask: of one that is being asked, and of an answer.
    Column("expires_at", Time, nullable=False),
    Index("ix_model_answer_agent_run", "agent_run_id"),
    Index("ix_model_answer_expires", "expires_at"),
)

#: How many predecessors an agent run (or, under the run's own id, how many ends a run) still waits for. A row of its own,
#: so that a wide join updates four small columns and nothing else; `remaining` 0 is the decision.
countdown = Table(
    "countdown",
    metadata,
    _key(),
    _tenant_of_run(),
    _run(index=True),
    Column("remaining", Integer, nullable=False),
    postgresql_with={"fillfactor": 50},
)

#: What an agent run has asked other agents for at one place of its code: some agent runs of the same run, and how far they
#: are. Whoever changes one holds the row of the agent run that has asked.
subwork = Table(
    "subwork",
    metadata,
    #: That of its first agent run.
    _key(),
    _tenant_of_run(),
    _run(),
    Column("parent_id", Id, nullable=False),
    Column("scope", Text, nullable=False),
    Column("number", Integer, nullable=False),
    #: Of what was asked for: the same goes on when it is asked for again.
    Column("fingerprint", String(32), nullable=False),
    Column("agent", Text, nullable=False),
    Column("state", String(8), nullable=False),
    #: Its agent runs, as their caller counts them, and by their positions in the run.
    Column("first_number", Integer, nullable=False),
    Column("first_position", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    #: How many of them may be under way at once.
    Column("max_concurrency", Integer, nullable=False),
    Column("fail_fast", Boolean, nullable=False),
    Column("return_exceptions", Boolean, nullable=False),
    #: None before it is left to be queued.
    Column("next_position", Integer, nullable=False),
    #: How many have not ended; 0 is the decision.
    Column("remaining", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    #: What it was asked for with, where that differs from what holds anyway (`SubworkOptions`): once, for any number of them.
    Column("options", Json),
    #: What people know it by, beside the names of its tasks: the step of a loop, the task of a nested workflow.
    Column("label", Text),
    _created(),
    Index("ix_subwork_run", "run_id"),
    Index("ix_subwork_parent", "parent_id"),
    Index("uq_subwork_slot", "parent_id", "scope", "number", unique=True, **_where("state <> 'void'")),
    postgresql_with={"fillfactor": 50},
)

#: How many positions behind those of its workflow a run has given to sub-work.
subwork_count = Table(
    "subwork_count",
    metadata,
    _run(primary_key=True),
    _tenant_of_run(),
    Column("taken", Integer, nullable=False),
    postgresql_with={"fillfactor": 50},
)

#: Messages between the agents of a run, one row for each recipient.
agent_message = Table(
    "agent_message",
    metadata,
    _run(primary_key=True),
    #: The order in which they were sent to a recipient; of all runs on Postgres, so that nobody counts.
    Column("number", Long, Identity(), primary_key=True),
    Column("id", Id, nullable=False, unique=True),
    _tenant_of_run(),
    #: A task, or `@outside` or `@nightfleet`.
    Column("sender", Text, nullable=False),
    #: The agent run that has sent it, and where in its code.
    Column("sender_id", Id),
    Column("sent_scope", Text),
    Column("sent_number", Integer),
    Column("recipient", Text, nullable=False),
    Column("recipient_id", Id, nullable=False),
    Column("type", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    #: Encoded as outcomes of the journal are: text of any size stands in `content`, once.
    Column("body", LargeBinary, nullable=False),
    Column("wants_reply", Boolean, nullable=False),
    #: The message that it is the reply to.
    Column("answers", Id),
    Column("state", String(8), nullable=False),
    #: Why nobody will receive it, of a dead one.
    Column("reason", Text),
    _created(),
    Column("expires_at", Time),
    #: Where in the recipient's code it was received.
    Column("taken_scope", Text),
    Column("taken_number", Integer),
    Column("ended_at", Time),
    Index("ix_agent_message_waiting", "recipient_id", "number", **_where("state = 'waiting'")),
    Index("ix_agent_message_reply", "answers", **_where("state = 'waiting' AND answers IS NOT NULL")),
    Index("ix_agent_message_expires", "expires_at", **_where("state = 'waiting' AND expires_at IS NOT NULL")),
)

#: What the shared context of a run holds in all. Whoever changes that, or is about to wait for a change, holds this row first.
shared_context = Table(
    "shared_context",
    metadata,
    _run(primary_key=True),
    _tenant_of_run(),
    #: The number of the last change.
    Column("changes", Long, nullable=False),
    Column("keys", Integer, nullable=False),
    Column("bytes", Long, nullable=False),
    postgresql_with={"fillfactor": 50},
)

#: The keys of shared contexts, and which version each has. The namespace is a task, or empty for the run's own.
shared_key = Table(
    "shared_key",
    metadata,
    _run(primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    _tenant_of_run(),
    Column("version", Integer, nullable=False),
    Column("number", Long, nullable=False),
    Column("present", Boolean, nullable=False),
    postgresql_with={"fillfactor": 70},
)

#: Every value that a key has had.
shared_version = Table(
    "shared_version",
    metadata,
    _run(primary_key=True),
    Column("namespace", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    _tenant_of_run(),
    Column("number", Long, nullable=False),
    #: Encoded as outcomes of the journal are: long text stands in `content`, once. NULL where it was deleted.
    Column("body", LargeBinary),
    #: Bytes that it counts with.
    Column("size", Integer, nullable=False),
    Column("task", Text, nullable=False),
    _created(),
)

#: Progress lines of agents, in the order of their ids; the stream of `run.events()`.
run_event = Table(
    "run_event",
    metadata,
    _key(),
    _tenant_of_run(),
    _run(),
    Column("task", Text),
    Column("message", Text, nullable=False),
    Column("data", Json),
    _created(),
    Index("ix_run_event_run", "run_id", "id"),
)

#: How many pieces of answers a run has shown: each takes its number here, so that they are committed in that order.
stream = Table(
    "stream",
    metadata,
    _run(primary_key=True),
    _tenant_of_run(),
    Column("pieces", Long, nullable=False),
    postgresql_with={"fillfactor": 50},
)

#: What models have answered, piece by piece as watchers were shown it; also what was taken back.
stream_piece = Table(
    "stream_piece",
    metadata,
    Column("agent_run_id", Id, ForeignKey("agent_run.id", ondelete="CASCADE"), primary_key=True),
    #: Where in the agent's code the model was asked.
    Column("slot", Text, primary_key=True),
    Column("id", Id, primary_key=True),
    _tenant_of_run(),
    Column("run_id", Id, nullable=False),
    #: Its place among all pieces of the run.
    Column("number", Long, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("task", Text, nullable=False),
    Column("agent", Text, nullable=False),
    #: Where in the answer it stands, in characters; what was shown from there on is taken back if it is `restarted`.
    Column("start", Integer, nullable=False),
    Column("restarted", Boolean, nullable=False),
    Column("body", Text, nullable=False),
    _created(),
    Index("uq_stream_piece_number", "run_id", "number", unique=True),
)

#: What agents remember, and passages of documents. See `memories.py`.
memory = Table(
    "memory",
    metadata,
    _key(),
    _tenant_of_run(),
    _project(),
    #: `agent:NAME`, `project` or `corpus:NAME`.
    Column("scope", Text, nullable=False),
    #: Empty for passages.
    Column("kind", String(16), nullable=False),
    Column("about", Text),
    Column("body", Text, nullable=False),
    Column("source", Text),
    Column("line", Integer),
    #: Of the document that a passage is of.
    Column("digest", String(64)),
    #: Who has made the vector, with its dimension: vectors of two of them have nothing to do with each other.
    Column("embedder", Text, nullable=False),
    #: An array, which needs no extension; where there is pgvector, it is one cast away.
    Column("embedding", Vector, nullable=False),
    _created(),
    Index("ix_memory_scope", "tenant_id", "project_id", "scope", "created_at", "id"),
    Index(
        "ix_memory_source", "tenant_id", "project_id", "scope", "source", postgresql_where=text("source IS NOT NULL")
    ),
    Index("ix_memory_created", "created_at"),
)

memory_session = Table(
    "memory_session",
    metadata,
    _key(),
    _tenant_of_run(),
    _project(),
    Column("agent", Text, nullable=False),
    Column("name", Text, nullable=False),
    #: The number that the next message gets: appends to one conversation take turns at this row.
    Column("next_number", Long, nullable=False),
    _created(),
    Column("used_at", Time, nullable=False),
    UniqueConstraint("tenant_id", "project_id", "agent", "name"),
    Index("ix_memory_session_used", "used_at"),
)

memory_message = Table(
    "memory_message",
    metadata,
    _key(),
    Column("session_id", Id, ForeignKey("memory_session.id", ondelete="CASCADE"), nullable=False),
    _tenant_of_run(),
    Column("number", Long, nullable=False),
    #: JSON text.
    Column("body", Text, nullable=False),
    _created(),
    UniqueConstraint("session_id", "number"),
)

#: An evaluation: what was asked for, without its cases.
evaluation = Table(
    "evaluation",
    metadata,
    _key(),
    _tenant_of_run(),
    _project(),
    Column("name", Text, nullable=False),
    #: A hash of all that it follows from, by which the same one goes on.
    Column("digest", String(64), nullable=False),
    Column("definition", Json, nullable=False),
    Column("state", String(16), nullable=False),
    Column("cases", Integer, nullable=False),
    _created(),
    Column("finished_at", Time),
    Index("ix_evaluation_created", "tenant_id", "created_at"),
    # At most one of the same content is open, however many processes begin it at once.
    Index("uq_evaluation_open", "tenant_id", "project_id", "digest", unique=True, **_where("state = 'running'")),
)

#: What came of one case under one variant; its run may be deleted before it.
trial = Table(
    "trial",
    metadata,
    Column("evaluation_id", Id, ForeignKey("evaluation.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _tenant_of_run(),
    Column("variant", Text, nullable=False),
    Column("case_id", Text, nullable=False),
    #: A hash of the case's input and of what is expected: another case of the same name is not the same.
    Column("case_digest", String(64), nullable=False),
    Column("tags", Json, nullable=False),
    Column("run_id", Id),
    Column("succeeded", Boolean, nullable=False),
    Column("output", Json),
    Column("error", Text),
    #: By grader.
    Column("grades", Json, nullable=False),
    Column("milliseconds", Long),
    Column("cost_nanousd", Long, nullable=False),
    Column("judge_nanousd", Long, nullable=False),
    Column("tokens", Long, nullable=False),
)

experiment = Table(
    "experiment",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("definition", Json, nullable=False),
    Column("active", Boolean, nullable=False),
    _created(),
    Column("changed_at", Time, nullable=False),
)

#: Who is told of what happens: an address, the events that it wants, and the names of the variables that hold its keys. Its
#: rows are read by the triggers that write `webhook_delivery`.
webhook_endpoint = Table(
    "webhook_endpoint",
    metadata,
    _key(),
    _tenant(),
    #: Whose events it gets; all of them without one.
    Column("project_id", Id, ForeignKey("project.id", ondelete="CASCADE")),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    #: Types of events, each by its whole name.
    Column("events", Json, nullable=False),
    #: Names of environment variables, never what is in them.
    Column("secrets", Json, nullable=False),
    Column("options", Json, nullable=False),
    Column("active", Boolean, nullable=False),
    #: Why it is not.
    Column("note", Text),
    #: Requests that failed since the last one that did not.
    Column("failures", Integer, nullable=False, server_default="0"),
    #: Until when it has asked to be left alone.
    Column("paused_until", Time),
    _created(),
    UniqueConstraint("tenant_id", "name"),
)

#: One event for one endpoint, from the moment of the event on. Triggers on `run` and `question` write it in the transaction
#: that ends a run or asks a question, whichever statement that is: see migration 0012. Without foreign keys, since they would be
#: checked at the end of each run; and it outlives its run.
webhook_delivery = Table(
    "webhook_delivery",
    metadata,
    #: The order of events: of two of one run, the later one has the greater number.
    Column("number", Long, primary_key=True, autoincrement=True),
    Column("id", Id, nullable=False),
    _tenant_of_run(),
    Column("endpoint_id", Id, nullable=False),
    Column("project_id", Id),
    Column("run_id", Id),
    Column("type", String(32), nullable=False),
    #: Of an event that can be told more than once: only the first one counts.
    Column("key", Text),
    #: What was the case when it happened.
    Column("subject", Json, nullable=False),
    #: What is sent, as it was sent the first time.
    Column("body", Text),
    Column("state", String(16), nullable=False),
    Column("sending", Boolean, nullable=False),
    #: Raised by each claim: the fence.
    Column("epoch", Integer, nullable=False),
    #: Requests since it was made, or given to be delivered again.
    Column("attempts", Integer, nullable=False),
    #: When it is sent; while it is being sent, when somebody else may.
    Column("due_at", Time, nullable=False),
    #: What came of the last requests.
    Column("tries", Json),
    _created(),
    Column("finished_at", Time),
    Index("uq_webhook_delivery_id", "id", unique=True),
    Index("uq_webhook_delivery_key", "endpoint_id", "key", unique=True, **_where("key IS NOT NULL")),
    Index("ix_webhook_delivery_due", "endpoint_id", "due_at", **_where("state = 'open'")),
    Index("ix_webhook_delivery_sending", "endpoint_id", "due_at", **_where("sending")),
    Index("ix_webhook_delivery_dead", "endpoint_id", "number", **_where("state = 'dead'")),
    Index("ix_webhook_delivery_run", "run_id", **_where("run_id IS NOT NULL")),
    Index("ix_webhook_delivery_finished", "finished_at", **_where("finished_at IS NOT NULL")),
    sqlite_autoincrement=True,
)

#: What has come in from outside, so that nothing is done twice.
webhook_receipt = Table(
    "webhook_receipt",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("source", Text, primary_key=True),
    #: The sender's own id where it is signed, else a hash of what is.
    Column("message_id", Text, primary_key=True),
    Column("digest", String(64), nullable=False),
    #: What it is about, noted before anything is done.
    Column("target", Text),
    #: What it was answered; NULL while somebody is at it.
    Column("reply", Json),
    Column("held_until", Time),
    _created(),
    Index("ix_webhook_receipt_created", "created_at"),
)

agent = Table(
    "agent",
    metadata,
    Column("name", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("card", Json, nullable=False),
    Column("updated_at", Time, nullable=False),
)

worker = Table(
    "worker",
    metadata,
    _key(),
    Column("name", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    Column("started_at", Time, nullable=False),
    Column("beat_at", Time, nullable=False),
    Column("beat_seq", Long, nullable=False, server_default="0"),
    #: Which broker and namespace it consumes from, without secrets.
    Column("broker", Text),
    #: The machine that it runs on, as that calls itself.
    Column("host", Text),
    postgresql_with={"fillfactor": 50},
)

worker_queue = Table(
    "worker_queue",
    metadata,
    Column("worker_id", Id, ForeignKey("worker.id", ondelete="CASCADE"), primary_key=True),
    Column("queue", Text, primary_key=True),
    #: The start of the uninterrupted stretch with a live consumer and a free slot; NULL while there is none.
    Column("idle_from", Time),
    #: The version of the agent that this worker has.
    Column("digest", Text),
    Index("ix_worker_queue_queue", "queue"),
    postgresql_with={"fillfactor": 50},
)

#: What is wished for the agents of the fleet; workers follow it with their heartbeats. No row: everything.
agent_pool = Table(
    "agent_pool",
    metadata,
    Column("agent", Text, primary_key=True),
    #: None of its agent runs begins.
    Column("paused", Boolean, nullable=False),
    #: How many of its agent runs may run at a time, in the whole fleet and in one worker; NULL: as many as there are slots.
    Column("fleet_slots", Integer),
    Column("worker_slots", Integer),
    Column("changed_at", Time, nullable=False),
)

#: One row: whose turn it is to sweep.
sweep = Table(
    "sweep",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("ran_at", Time, nullable=False),
    #: When another one may sweep although the last has not said that it is done.
    Column("held_until", Time),
)
