"""How a delivery becomes a request for the pool: Celery's default strategy without what agent runs never have.

An agent run has no ETA, no expiry, no rate limit and no arguments, and its body is decoded once instead of twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from celery.worker.request import create_request_cls
from celery.worker.state import task_reserved
from kombu.utils.imports import symbol_by_name

from orchestrator.broker.message import EMPTY_BODY, full_headers
from orchestrator.contracts.dispatch import agent_of

OnMessage = Callable[..., None]

#: What `EMPTY_BODY` says; nobody changes the body of a request.
_NOTHING = json.loads(EMPTY_BODY)


class _Once:
    """Tells once that a delivery was settled, whoever settles it first."""

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = [tell]

    def before(self, settle: Callable[..., Any]) -> Callable[..., Any]:
        """Give a function that tells, and then settles."""

        def told(*args: Any, **kwargs: Any) -> Any:
            with contextlib.suppress(IndexError):  # of two threads one takes it out
                self._tell.pop()()
            return settle(*args, **kwargs)

        return told


def agent_run_strategy(task: Any, app: Any, consumer: Any, **_: Any) -> OnMessage:
    """Give the function that Celery's consumer calls with each delivery for `task`."""
    eventer = consumer.event_dispatcher
    request_class: Any = create_request_cls(
        symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, eventer, app=app
    )
    revoked = consumer.controller.state.revoked
    hand_over = consumer.on_task_request
    agent, doors = agent_of(task.name), consumer.doors

    def on_message(message: Any, _body: Any, ack: Any, reject: Any, callbacks: Iterable[Any], **_: Any) -> None:
        if not doors.take(agent, message):
            return
        settled = _Once(lambda: doors.settled(agent))
        request = request_class(
            message,
            on_ack=settled.before(ack),
            on_reject=settled.before(reject),
            app=app,
            hostname=consumer.hostname,
            eventer=eventer,
            task=task,
            connection_errors=consumer.connection_errors,
            body=_NOTHING if message.body == EMPTY_BODY else message.payload,
            headers=full_headers(message.headers),
            decoded=True,
        )
        if request.id in revoked and request.revoked():
            return
        request.received()
        task_reserved(request)
        for callback in callbacks:
            callback(request)
        hand_over(request)

    return on_message
