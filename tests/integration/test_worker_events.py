"""The task events of a real worker, as Flower and `celery events` receive them: complete, prompt, and in few messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.events.receiver import EventReceiver
from fleet import BROKERS, Fleet, fleet

from orchestrator.clock import system_clock


class Receiver(EventReceiver):  # type: ignore[misc]
    """Celery's own receiver, which counts the messages with events of tasks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches: list[int] = []

    def _receive(self, body: Any, message: Any, *args: Any, **options: Any) -> None:
        events = body if isinstance(body, list) else [body]
        tasks = [event for event in events if str(event["type"]).startswith("task-")]
        if tasks:
            self.batches.append(len(tasks))
        super()._receive(body, message, *args, **options)


class Events:
    """What has been received, by task and type."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, dict[str, Any]]] = {}
        self.count = 0
        self.batches: list[int] = []

    def note(self, event: dict[str, Any]) -> None:
        if event["type"].startswith("task-"):
            self.of.setdefault(event["uuid"], {})[event["type"]] = event
            self.count += 1


@contextmanager
def received(installation: Fleet) -> Generator[Events]:
    """Receive events in a thread of its own while the block runs."""
    events = Events()
    ready, over = threading.Event(), threading.Event()

    def listen() -> None:
        with installation.kernel.app.connection_for_read() as connection:
            receiver = Receiver(connection, handlers={"*": events.note}, app=installation.kernel.app)
            events.batches = receiver.batches
            with receiver.consumer_context(wakeup=False) as (consuming, *_):
                ready.set()
                while not over.is_set():
                    try:
                        consuming.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert ready.wait(60)
        yield events
    finally:
        over.set()
        thread.join(60)


def complete(events: Events, count: int) -> Callable[[], bool]:
    """Whether so many tasks have been received, started and succeeded."""
    types = {"task-received", "task-started", "task-succeeded"}
    return lambda: sum(types <= set(of) for of in list(events.of.values())) == count


@pytest.mark.parametrize("broker", BROKERS)
def test_an_agent_runs_events_arrive_with_its_run_as_their_root(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker) as installation:
        installation.start_worker()
        with received(installation) as events:
            run = installation.orchestrator.submit("first=branch | second=quiet", {})
            assert run.wait(60).state == "succeeded"
            installation.until(complete(events, 2), "all events of both have arrived")
        rows = installation.query("SELECT id::text || '.' || dispatch, agent FROM agent_run WHERE run_id = %s", run.id)
        assert set(events.of) == {identity for identity, _ in rows}
        for identity, agent in rows:
            of = events.of[identity]
            assert set(of) == {"task-received", "task-started", "task-succeeded"}
            assert of["task-received"]["root_id"] == run.id
            assert of["task-received"]["name"] == f"agent.{agent}"
            assert len({event["hostname"] for event in of.values()}) == 1
            assert of["task-received"]["clock"] < of["task-started"]["clock"] < of["task-succeeded"]["clock"]
        # A monitor builds its picture of the tasks from nothing else.
        state: Any = installation.kernel.app.events.State()
        for of in events.of.values():
            for event in of.values():
                state.event(event)
        assert {task.state for task in state.tasks.values()} == {"SUCCESS"}
        assert {task.root_id for task in state.tasks.values()} == {run.id}


def test_the_events_of_many_runs_come_in_far_fewer_messages(tmp_path: Path) -> None:
    runs = 200
    with fleet(tmp_path) as installation:
        installation.start_worker()
        with received(installation) as events:
            began = system_clock.monotonic()
            installation.orchestrator.submit_many("t=quiet", [{}] * runs)
            installation.finish()
            installation.until(complete(events, runs), "all events have arrived")
            seconds = system_clock.monotonic() - began
        assert events.count == 3 * runs
        assert sum(events.batches) == 3 * runs
        # They leave four times a second, and whenever two hundred have gathered.
        assert len(events.batches) < max(events.count / 10, 4 * seconds + 5), events.batches


def test_a_worker_that_stops_sends_what_it_still_has(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        worker = installation.start_worker()
        until = tmp_path / "go"
        with received(installation) as events:
            run = installation.orchestrator.submit("blocker", {"until": str(until)})
            installation.until(lambda: installation.executions("begin"), "it runs")
            worker.terminate()
            until.touch()
            worker.wait(120)
            assert run.state == "succeeded"
            installation.until(complete(events, 1), "its last event has arrived")
