"""Messages between agents: how many a fleet moves, how fast one is answered, and what waiting for one costs."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness import HERE, OURS, Bench, BenchmarkError, Child, Row, expect, interleaved, wait_for
from kombu.connection import Connection
from ours import Fleet

from orchestrator import Orchestrator, RunResult, TaskDefinition, WorkflowDefinition

AGENTS = str(HERE / "talking_agents")
PAIRS, SIZE = 4, 100
QUESTIONS, SUSPENDED_QUESTIONS = 100, 10
#: Longer than a receiver stays in the process.
PAUSE_SECONDS = 1.5
IDLE_RUNS = 10_000


def talking(bench: Bench) -> list[Row]:
    return [*_embedded(bench), *_durable(bench), *_answers(bench), *_mailboxes(bench)]


def together(**agents: str) -> WorkflowDefinition:
    """Give a workflow of tasks that run at the same time, by id."""
    return WorkflowDefinition(
        name="talk", tasks=tuple(TaskDefinition(id=key, agent=agent) for key, agent in agents.items())
    )


def pairs(count: int) -> WorkflowDefinition:
    """Give a workflow in which so many agents send to another one each."""
    return together(
        **{f"{agent}{number}": agent for number in range(count) for agent in ("receiver", "sender")},
    )


def _took(done: RunResult) -> float:
    """Give how many seconds a run took: not when somebody noticed that it had ended."""
    if done.state != "succeeded" or done.started_at is None or done.finished_at is None:
        raise BenchmarkError(f"run {done.id} has {done.state}: {done.error}")
    return (done.finished_at - done.started_at).total_seconds()


# Embedded -------------------------------------------------------------------------------------------------------------


def _embedded(bench: Bench) -> list[Row]:
    rates: list[float] = []
    late: list[float] = []
    with bench.alone() as alone:
        process = Child(alone, "embedded-bus", [sys.executable, __file__], {}, talks=True)
        process.ask(batches=5, times=20)
        for _ in range(alone.rounds):
            batches = alone.count(200)
            answer = process.ask(batches=batches, times=QUESTIONS)
            rates.append(batches * SIZE / answer["seconds"])
            late.append(statistics.median(answer["late"]))
    return [
        Row(
            "messages-embedded",
            f"embedded: messages of one agent to another, {SIZE} at a time",
            {OURS: rates},
            "messages/s",
            10_000.0,
        ),
        Row(
            "message-embedded",
            "embedded: from the send of a message to its receipt, median",
            {OURS: late},
            "ms",
            1.0,
            "at most",
        ),
    ]


def _measure_embedded(nf: Orchestrator, batches: int, times: int) -> dict[str, Any]:
    seconds = _took(nf.submit(pairs(1), {"batches": batches, "size": SIZE}).wait(timeout=120))
    run = nf.submit(together(hearer="hearer", teller="teller"), {"times": times, "pause": 0.003})
    return {"seconds": seconds, "late": run.result(timeout=120)["hearer"]["took"]}


# Durable --------------------------------------------------------------------------------------------------------------


class Ours(Fleet):
    """Pairs of agents on two worker processes."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench, "rabbitmq", concurrency=PAIRS, processes=2, agents=AGENTS)

    def move(self, count: int) -> float:
        """Let so many messages be sent and received; gives messages a second."""
        batches = count // (PAIRS * SIZE)
        run = self.orchestrator.submit(pairs(PAIRS), {"batches": batches, "size": SIZE})
        done = run.wait(timeout=300)
        seconds = _took(done)
        expect({part["n"] for part in done.output.values()}, {batches * SIZE}, "messages of each agent")
        return batches * SIZE * PAIRS / seconds


class Kombu:
    """A publisher in this process and a consumer in another one, which acknowledges each message; nothing is stored."""

    name = "kombu"

    def __init__(self, bench: Bench) -> None:
        self.queue = f"kombu{bench.token()}"
        self.url = bench.broker_url("rabbitmq")
        self.consumer = Child(bench, "kombu", [sys.executable, __file__, self.url, self.queue], {}, talks=True)
        bench.stack.callback(self._remove)

    def pause(self) -> None:
        self.consumer.pause()

    def resume(self) -> None:
        self.consumer.resume()

    def move(self, count: int) -> float:
        from kombu.entity import Queue
        from kombu.messaging import Producer

        with Connection(self.url) as connection, connection.channel() as channel:
            queue = Queue(self.queue, channel=channel, durable=True)
            queue.declare()
            producer = Producer(channel, routing_key=self.queue, serializer="json")
            began = time.monotonic()
            for number in range(count):
                producer.publish({"n": number}, delivery_mode=2)
            expect(self.consumer.ask(count=count)["n"], count, "messages consumed")
            return count / (time.monotonic() - began)

    def _remove(self) -> None:
        with Connection(self.url) as connection, connection.channel() as channel:
            channel.queue_delete(self.queue)


def _durable(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        ours, raw = Ours(alone), Kombu(alone)
        ours.start_worker()
        count = alone.count(20_000) // (PAIRS * SIZE) * PAIRS * SIZE
        ours.move(PAIRS * SIZE)
        rounds = interleaved(alone, [ours, raw], lambda side: side.move(count))
    what = f"RabbitMQ and Postgres: {PAIRS} agents send to {PAIRS} on two worker processes, {SIZE} messages at a time"
    return [
        Row("messages-durable", what, {OURS: rounds[OURS]}, "messages/s", 3000.0),
        Row("messages-kombu", f"{what}, against kombu's publish and consume", rounds, "messages/s", 0.4, ratio=True),
    ]


# Questions and answers ------------------------------------------------------------------------------------------------


def _answers(bench: Bench) -> list[Row]:
    live: list[float] = []
    suspended: list[float] = []
    with bench.alone() as alone:
        fleet = Fleet(alone, "rabbitmq", concurrency=1, processes=2, agents=AGENTS)
        fleet.start_worker()
        for _ in range(alone.rounds):
            live.append(_answer(fleet, QUESTIONS, 0.0))
            suspended.append(_answer(fleet, SUSPENDED_QUESTIONS, PAUSE_SECONDS))
    return [
        Row(
            "answer-live",
            "a question and its answer, two agents on two workers, median",
            {OURS: live},
            "ms",
            5.0,
            "at most",
        ),
        Row(
            "answer-suspended",
            "the same when who is asked was suspended, median",
            {OURS: suspended},
            "ms",
            25.0,
            "at most",
        ),
    ]


def _answer(fleet: Fleet, questions: int, pause: float) -> float:
    """Give the median time from a question to the receipt of its answer, in milliseconds by the database's clock.

    An asker that is repeated has its answers at once: so its own clock says nothing.
    """
    given = {"questions": questions, "pause": pause}
    run = fleet.orchestrator.submit(together(answerer="answerer", asker="asker"), given)
    run.result(timeout=300)
    told = fleet.orchestrator.messages(run)
    asked = {message.id: message.sent_at for message in told if message.wants_reply}
    took = [
        (message.ended_at - asked[message.answers]).total_seconds() * 1000
        for message in told
        if message.answers is not None and message.ended_at is not None
    ]
    expect(len(took), questions, "answers")
    return statistics.median(took)


# Open mailboxes -------------------------------------------------------------------------------------------------------


def _mailboxes(bench: Bench) -> list[Row]:
    grown: list[float] = []
    with bench.alone() as alone:
        fleet = Fleet(alone, "rabbitmq", concurrency=20, agents=AGENTS)
        worker = fleet.start_worker()
        few, many = 200, alone.count(IDLE_RUNS)
        _suspended(fleet, few)
        before, queues = worker.memory_mb(), _queues(fleet)
        threads = _threads(worker)
        _suspended(fleet, many)
        grown.append(worker.memory_mb() / before)
        expect(_queues(fleet), queues, "queues of the broker")
        if _threads(worker) > threads + 2:
            raise BenchmarkError(f"{_threads(worker)} threads with {many:,} open mailboxes, {threads} with {few}")
    what = (
        f"{many:,} runs with open mailboxes on one worker: its memory, by that with {few}; no queue and no thread more"
    )
    return [Row("mailboxes-memory", what, {OURS: grown}, "x", 1.1, "at most")]


def _suspended(fleet: Fleet, count: int) -> None:
    before = fleet.scalar("SELECT count(*) FROM @agent_run WHERE state = 'suspended'")
    fleet.submit("idler", [{}] * count)
    wanted = before + count
    suspended = "SELECT count(*) FROM @agent_run WHERE state = 'suspended'"
    wait_for(lambda: fleet.scalar(suspended) == wanted, "all wait", alive=fleet.worker, timeout=900)


def _queues(fleet: Fleet) -> list[str]:
    import urllib.request
    from base64 import b64encode
    from urllib.parse import urlsplit

    url = urlsplit(fleet.bench.urls["NIGHTFLEET_TEST_RABBITMQ_MANAGEMENT_URL"])
    request = urllib.request.Request(f"http://{url.hostname}:{url.port}/api/queues")
    request.add_header("Authorization", f"Basic {b64encode(f'{url.username}:{url.password}'.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return sorted(queue["name"] for queue in json.loads(answer.read()) if fleet.namespace in queue["name"])


def _threads(child: Child) -> int:
    return len([*Path(f"/proc/{child.process.pid}/task").iterdir()])


# The other processes --------------------------------------------------------------------------------------------------


def _consume(url: str, name: str, count: int) -> dict[str, Any]:
    from kombu.entity import Queue
    from kombu.messaging import Consumer

    got = 0

    def take(body: Mapping[str, Any], message: Any) -> None:
        nonlocal got
        expect(body["n"], got, "the next message")
        got += 1
        message.ack()

    with Connection(url) as connection, connection.channel() as channel:
        channel.basic_qos(0, 200, a_global=False)
        with Consumer(channel, [Queue(name, durable=True)], callbacks=[take]):
            while got < count:
                connection.drain_events(timeout=60)
    return {"n": got}


def main() -> None:
    # Answers have stdout to themselves; whatever else writes there goes to the log.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(work: Any) -> None:
        for line in sys.stdin:
            try:
                found: dict[str, Any] = work(**json.loads(line))
            except Exception as error:  # noqa: BLE001 - whoever asked decides
                found = {"error": repr(error)}
            print(json.dumps(found), file=answers, flush=True)

    if len(sys.argv) > 1:
        answer(partial(_consume, sys.argv[1], sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as home, Orchestrator.embedded(home, agents_path=AGENTS) as nf:
        answer(partial(_measure_embedded, nf))


if __name__ == "__main__":
    main()
