"""The Celery app of one installation: built here from settings, passed to who needs it, never global."""

# kombu and Celery have no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.backends.base import Backend
from celery.result import AsyncResult
from kombu.connection import Connection
from kombu.entity import Queue

from orchestrator.broker.memory import memory_transport
from orchestrator.broker.message import TaskMessage, task_message
from orchestrator.broker.publisher import OnLost, Publisher, RabbitPublisher, RedisPublisher
from orchestrator.cached_property import cached_property
from orchestrator.contracts.dispatch import Priority, agent_run_id_of
from orchestrator.errors import SettingsInvalid, UsageError
from orchestrator.settings import Settings, mask

_RABBIT = frozenset({"amqp", "amqps", "pyamqp"})
_REDIS = frozenset({"redis", "rediss"})

_HEARTBEAT_SECONDS = 10

#: RabbitMQ drops what it has delivered more often than a queue's limit, 20 by default since 4.0. A message of ours is
#: delivered again by each restart of a worker, and how often an agent run may take its worker along the database decides.
_MOST_DELIVERIES = 1_000_000


class FleetApp(Celery):
    """A Celery app whose results are the agent runs and whose messages are ours."""

    def __init__(self, settings: Settings, make_backend: Callable[[Celery], Backend]) -> None:
        self.settings = settings
        self._make_backend = make_backend
        #: In place of the transport that the URL names.
        self.transport: type[Any] | None = None
        #: How canvas that Celery carries on is published; whoever runs workers of this app sets it.
        self.send: Callable[[Sequence[TaskMessage]], object] | None = None
        self.kind = "memory"
        url = "memory://localhost//"
        if settings.broker_url is None:
            self.transport = memory_transport()
        else:
            url = settings.broker_url.get_secret_value()
            self.kind = _kind(url)
            if self.kind == "redis":
                from orchestrator.broker.redis import RedisTransport

                self.transport = RedisTransport
            if self.kind != "rabbitmq" and settings.queue_type == "quorum":
                raise SettingsInvalid(
                    f"NIGHTFLEET_QUEUE_TYPE: only RabbitMQ has quorum queues, and the broker is {mask(url)}; unset it, or set "
                    "NIGHTFLEET_BROKER_URL to amqp://..."
                )
        super().__init__(settings.namespace, set_as_current=False, changes=_configuration(settings, url, self.kind))
        self.masked_broker_url = mask(url)

    @cached_property
    def store_backend(self) -> Any:
        """The result backend, one for all threads: it keeps no connection of its own."""
        return self._make_backend(self)

    def _get_backend(self) -> Backend:
        return self.store_backend

    def _connection(self, url: str, **options: Any) -> Connection:
        connection = super()._connection(url, **options)
        if self.transport is not None:
            connection.transport_cls = self.transport
        return connection

    def connection_for_read(self, url: str | None = None, **options: Any) -> Connection:
        connection = super().connection_for_read(url, **options)
        if self.kind == "rabbitmq":
            from orchestrator.broker.rabbitmq import RabbitTransport

            connection.transport_cls = RabbitTransport
        return connection

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Publish the next link of a chain, or a chord's body: the only tasks of this app are agent runs.

        Raises `UsageError` for anything else: work enters by `Orchestrator.submit`.
        """
        del args, kwargs  # immutable: what an agent run gets is in the database
        self._publish(name, options)
        return self.AsyncResult(str(options["task_id"]))

    def carry_on(
        self, signature: Mapping[str, Any], parent_id: str, chain: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Publish what a request carries: the next link with the rest of its `chain`, or a chord's body.

        The same as `Signature.apply_async` without making a signature and a result of it, which cost more than the message.
        """
        options: Mapping[str, Any] = signature["options"]
        self._publish(
            str(signature["task"]), {**options, "chain": chain or options.get("chain"), "parent_id": parent_id}
        )

    def _publish(self, name: str, options: Mapping[str, Any]) -> None:
        task_id = str(options.get("task_id") or "")
        try:
            agent_run_id_of(task_id)
        except ValueError:
            raise UsageError(f"{name} is an agent: submit a workflow with it, a task of its own has no run") from None
        if self.send is None:
            raise UsageError("this process publishes no agent runs")
        chain, chord, group_id = options.get("chain"), options.get("chord"), options.get("group_id")
        priority = options.get("priority")
        message = task_message(
            name,
            task_id,
            priority=Priority.LATER if priority is None else priority,
            parent_id=options.get("parent_id"),
            carries={"chain": chain, "chord": chord} if chain or chord else None,
            group=(group_id, options.get("group_index", 0)) if group_id else None,
        )
        self.send([message])

    def queue_for(self, name: str) -> Queue:
        """Give the declaration of an agent's queue, the same wherever it is declared."""
        full = f"{self.settings.namespace}.{name}"
        return Queue(full, routing_key=full, queue_arguments=self._queue_arguments(), durable=True)

    def _queue_arguments(self) -> dict[str, Any] | None:
        if self.kind != "rabbitmq":
            return None
        if self.settings.queue_type == "quorum":
            return {"x-queue-type": "quorum", "x-delivery-limit": _MOST_DELIVERIES}
        return {"x-max-priority": int(max(Priority))}

    def tell_workers(self, command: str) -> None:
        """Send a command of `worker/control.py` to all workers, without waiting for answers."""
        with self.connection_for_write(connect_timeout=self.settings.connect_timeout.total_seconds()) as connection:
            mailbox: Any = self.control.mailbox(connection)
            # Celery's own broadcast takes a connection out of a pool that nobody closes.
            producer = self.amqp.Producer(connection.default_channel, auto_declare=False)
            mailbox._publish(command, {}, channel=connection.default_channel, producer=producer)  # noqa: SLF001

    @property
    def bootsteps(self) -> dict[str, set[Any]]:
        """The steps that workers of this app (`worker`) and their consumers (`consumer`) run beside Celery's own."""
        steps: Any = self.steps
        return steps

    def consume(self, names: Iterable[str]) -> None:
        """Let workers of this app consume these agents' queues and no others."""
        self.conf.task_queues = tuple(self.queue_for(name) for name in names)

    def publisher(self, on_lost: OnLost) -> Publisher:
        """Make a publisher with a connection of its own."""
        made = {"rabbitmq": RabbitPublisher, "redis": RedisPublisher}.get(self.kind, Publisher)
        return made(self._publishing_connection, self.queue_for, self.masked_broker_url, on_lost)

    def _publishing_connection(self) -> Connection:
        seconds = self.settings.connect_timeout.total_seconds()
        # A server that accepts connections and says nothing must not hang a producer.
        options = {"socket_timeout": seconds} if self.kind == "redis" else {}
        return self.connection_for_write(
            transport_options={**self.conf.broker_transport_options, **options}, connect_timeout=seconds
        )


def make_app(settings: Settings, make_backend: Callable[[Celery], Backend]) -> FleetApp:
    """Build the Celery app: no connection is made, nothing global is touched."""
    return FleetApp(settings, make_backend)


def _kind(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme in _RABBIT:
        return "rabbitmq"
    if scheme in _REDIS:
        return "redis"
    raise SettingsInvalid(
        f"NIGHTFLEET_BROKER_URL: {scheme or 'no scheme'} is not supported; use amqp://, amqps://, redis:// or rediss://"
    )


def _configuration(settings: Settings, url: str, kind: str) -> dict[str, Any]:
    transport: dict[str, Any] = {}
    if kind == "rabbitmq":
        # Nothing that matters goes through Celery's own producers: agent runs are confirmed per batch by our publisher, and
        # waiting for the confirmation of each event would stop the worker's loop for a round trip.
        transport = {"confirm_publish": False}
    elif kind == "redis":
        transport = {
            # kombu would note each delivery in Redis and take the note away again, to repeat after a timeout what a dead
            # worker had: the database knows that better and sooner. A clean stop still gives back what was not begun.
            "ack_emulation": False,
            "socket_keepalive": True,
            "socket_connect_timeout": settings.connect_timeout.total_seconds(),
            "global_keyprefix": f"{settings.namespace}:",
            "priority_steps": [2 - int(step) for step in sorted(Priority, reverse=True)],
            "queue_order_strategy": "priority",
        }
    return {
        "broker_url": url,
        "broker_transport_options": transport,
        "broker_use_ssl": _tls(settings, url),
        "broker_heartbeat": _HEARTBEAT_SECONDS,
        # Embedded workers and long-lived fleets alike: a broker that is away is waited for, however long it takes.
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_channel_error_retry": True,
        "broker_connection_timeout": settings.connect_timeout.total_seconds(),
        # A message is acknowledged when its agent run has ended, whatever way: then it has said all it had to say.
        "task_acks_late": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        # Taken over by the lease instead, and fenced.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Celery would raise the count again from the threads of the pool, which then read from a connection that the
        # worker's loop reads from: deliveries are lost in between. `Prefetch` and `Gate` hold less, in the loop.
        "worker_enable_prefetch_count_reduction": False,
        # The claim tells duplicates apart; Celery's own memory of ids would lose chords.
        "worker_deduplicate_successful_tasks": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_create_missing_queues": False,
        "task_default_queue": f"{settings.namespace}.none",
        "task_send_sent_event": False,
        "task_track_started": False,
        "worker_send_task_events": settings.task_events and kind != "memory",
        "worker_hijack_root_logger": False,
        "worker_enable_remote_control": kind != "memory",
        "worker_disable_rate_limits": True,
        "worker_proc_alive_timeout": 30,
        "control_exchange": f"{settings.namespace}.control",
        "event_exchange": f"{settings.namespace}.events",
        "event_queue_prefix": f"{settings.namespace}.event",
        "enable_utc": True,
        "timezone": "UTC",
    }


def _tls(settings: Settings, url: str) -> dict[str, Any] | None:
    if urlsplit(url).scheme not in {"amqps", "rediss"}:
        return None
    import ssl

    authority = str(settings.broker_ca_file) if settings.broker_ca_file else ssl.get_default_verify_paths().cafile
    if urlsplit(url).scheme == "rediss":
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": authority}
    return {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": authority,
        "server_hostname": urlsplit(url).hostname,
    }
