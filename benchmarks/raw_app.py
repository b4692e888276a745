"""The Celery app of the raw sides: chains and chords of tasks that do nothing, results in a backend of Celery."""

# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery import Celery, chain, chord


@dataclass(frozen=True, slots=True)
class RawConfig:
    """A raw installation; travels to its worker as JSON."""

    name: str
    broker_url: str
    result_backend: str
    concurrency: int
    #: Celery's defaults, or: no gossip, mingle, heartbeat and rate limits.
    tuned: bool = False
    #: Acknowledge after the task and take one message for each slot, as our workers do.
    late: bool = False
    #: `ours` is the pool of our workers, `threads` the stock one.
    pool: str = "ours"
    #: Postgres schema of the tables, for the database backend.
    schema: str | None = None


def make_raw_app(config: RawConfig) -> Celery:
    app = Celery(config.name, broker=config.broker_url, backend=config.result_backend, set_as_current=False)
    app.conf.update(
        task_default_queue=config.name,
        # So that several installations share a broker without hearing each other; costs nothing.
        control_exchange=f"{config.name}.control",
        event_exchange=f"{config.name}.events",
        event_queue_prefix=f"{config.name}.event",
        worker_prefetch_multiplier=1 if config.late else 4,
        task_acks_late=config.late,
        worker_send_task_events=False,
        worker_disable_rate_limits=config.tuned,
        broker_connection_retry_on_startup=True,
    )
    if config.broker_url.startswith("amqp"):
        app.conf.broker_transport_options = {"confirm_publish": True}
    elif config.tuned and not config.late:
        # As ours: without it nothing is noted in Redis for each delivery.
        app.conf.broker_transport_options = {"ack_emulation": False}
    if config.schema is not None:
        app.conf.database_table_schemas = {"task": config.schema, "group": config.schema}
        app.conf.database_table_names = {"task": "task_result", "group": "group_result"}

    @app.task(name="step", shared=False)
    def step(n: int) -> int:
        return n + 1

    @app.task(name="join", shared=False)
    def join(parts: list[int]) -> int:
        return sum(parts)

    return app


def make_canvas(app: Celery, shape: str) -> Any:
    """Give the canvas; its result is 3, whatever the shape."""
    step, join = app.tasks["step"], app.tasks["join"]
    if shape == "chain":
        return chain(step.s(0), step.s(), step.s())
    return chord([step.s(0), step.s(0), step.s(0)], join.s())
