"""Hints between workers: that an agent of a run has mail. A topic exchange of kombu's, the same on every broker.

A hint says nothing that is not in the database, so one that is lost costs time and no message. Each process that listens
has one queue, bound for each run that it listens to. Keys have three words, `run.<run id>.<task>`, since the brokers disagree
about patterns for keys of any number (`*` and `#`); what arrives is looked at by its own words all the same.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer

from orchestrator.clock import system_clock
from orchestrator.observability.logging import get_logger

if TYPE_CHECKING:
    from kombu.connection import Connection

    from orchestrator.broker.app import FleetApp

log = get_logger("nightfleet.hints")

#: Stands for every agent of a run; no task has this id.
ALL = "all"

#: How long the queue of a process that is gone stays, and its bindings on Redis, which go when another one looks.
_EXPIRES_SECONDS = 60
_KEPT_SECONDS = 600
_AGAIN_SECONDS = 1.0
_DRAIN_SECONDS = 1.0

#: Gets the run and the task, or `ALL`.
Heard = Callable[[str, str], None]


def key_of(run_id: str, task: str) -> str:
    """Give the routing key of the hints for one agent of a run, or of those for `ALL`."""
    return f"run.{run_id}.{task}"


def pattern_of(run_id: str) -> str:
    """Give the binding for every hint of a run."""
    return f"run.{run_id}.*"


class Hints:
    """Sends hints to other processes, and hears those of the runs that this one listens to; thread-safe.

    Connects when it is first used, again whenever the connection breaks, and then tells `missed`: hints may have been lost.
    """

    def __init__(self, app: FleetApp, name: str, heard: Heard, missed: Callable[[], None]) -> None:
        self._app = app
        self._heard = heard
        self._missed = missed
        namespace = app.settings.namespace
        self._exchange = Exchange(f"{namespace}.mail", type="topic", durable=True, delivery_mode=1)
        self._queue = Queue(
            f"{namespace}.mail.{name}", durable=True, expires=_EXPIRES_SECONDS, message_ttl=_EXPIRES_SECONDS
        )
        self._lock = threading.Lock()
        self._out: Connection | None = None
        self._producer: Any = None
        self._bound: Any = None
        self._runs: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def listen(self, run_id: str) -> None:
        """Hear the hints of a run from now on, until `ignore` was called as often; without a broker, when there is one."""
        with self._lock:
            self._runs[run_id] = self._runs.get(run_id, 0) + 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._hear, name="nightfleet-hints", daemon=True)
                self._thread.start()
            if self._runs[run_id] == 1:
                self._attempt(lambda: self._own_queue().bind_to(self._exchange, pattern_of(run_id)))

    def ignore(self, run_id: str) -> None:
        """Hear the hints of a run no longer."""
        with self._lock:
            self._runs[run_id] -= 1
            if not self._runs[run_id]:
                del self._runs[run_id]
                self._attempt(lambda: self._own_queue().unbind_from(self._exchange, pattern_of(run_id)))

    def publish(self, run_id: str, tasks: Iterable[str]) -> None:
        """Tell whoever executes these agents of a run to look; without a broker nobody is told."""
        with self._lock:
            for task in tasks:
                self._attempt(lambda task=task: self._send(run_id, task))

    def close(self) -> None:
        """Hear nothing any more, and let go of the connections."""
        self._ended.set()
        with self._lock:
            self._drop()
        if self._thread is not None:
            self._thread.join(5)

    # Sending ----------------------------------------------------------------------------------------------------------

    def _send(self, run_id: str, task: str) -> None:
        if self._producer is None:
            self._producer = Producer(self._channel(), exchange=self._exchange, auto_declare=True)
        self._producer.publish(b"", routing_key=key_of(run_id, task), content_type="application/octet-stream")

    def _own_queue(self) -> Any:
        if self._bound is None:
            channel = self._channel()
            self._bound = self._declared(channel)
        return self._bound

    def _declared(self, channel: Any) -> Any:
        """Give the queue of this process at a channel, declared and not yet bound."""
        self._exchange(channel).declare()
        queue: Any = self._queue(channel)
        queue.declare()
        self._keep(channel)
        return queue

    def _keep(self, channel: Any) -> None:
        """Say that the queue has somebody still, where the broker does not notice that by itself."""
        if self._app.kind == "redis":
            channel.stay_bound(self._queue.name, self._exchange.name, _KEPT_SECONDS)

    def _channel(self) -> Any:
        if self._out is None:
            self._out = self._connect(self._app.connection_for_write())
        return self._out.default_channel

    def _attempt(self, work: Callable[[], object]) -> None:
        """Do something at the broker, once more with a new connection; hints are not worth waiting for."""
        for last in (False, True):
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the broker
                self._drop()
                if last:
                    log.debug("no hints: the broker is away", error=str(error))
            else:
                return

    def _drop(self) -> None:
        out, self._out, self._producer, self._bound = self._out, None, None, None
        if out is not None:
            with contextlib.suppress(Exception):
                out.release()

    def _connect(self, connection: Connection) -> Connection:
        seconds = self._app.settings.connect_timeout.total_seconds()
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=seconds)
        return connection

    # Hearing ----------------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        while not self._ended.is_set():
            try:
                self._hear_connected()
            except Exception as error:  # noqa: BLE001
                log.debug("hears no hints: the broker is away", error=str(error))
            self._ended.wait(_AGAIN_SECONDS)

    def _hear_connected(self) -> None:
        with self._connect(self._app.connection_for_read()) as connection:
            channel: Any = connection.default_channel
            queue = self._declared(channel)
            with self._lock:
                runs = list(self._runs)
            for run_id in runs:
                queue.bind_to(self._exchange, pattern_of(run_id))
            with Consumer(channel, queues=[queue], callbacks=[self._take], no_ack=True, auto_declare=False):
                self._missed()
                kept_at = system_clock.monotonic()
                while not self._ended.is_set():
                    if system_clock.monotonic() - kept_at > _KEPT_SECONDS / 10:
                        self._keep(channel)
                        kept_at = system_clock.monotonic()
                    with contextlib.suppress(TimeoutError, socket.timeout):
                        connection.drain_events(timeout=_DRAIN_SECONDS)
                    if connection.supports_heartbeats:
                        connection.heartbeat_check()

    def _take(self, body: Any, message: Any) -> None:
        del body
        words = str(message.delivery_info.get("routing_key")).split(".")
        if len(words) == 3 and words[0] == "run" and all(words):
            self._heard(words[1], words[2])
