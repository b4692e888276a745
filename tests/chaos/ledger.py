"""What agents have really done, told by a file that no part of the system reads; and what must be true after any chaos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fleet import PROOF_AGENTS, Fleet

AGENTS_PATH = f"{PROOF_AGENTS}:{Path(__file__).parent / 'agents'}"
#: A slot has a thread, and one more for what its agent does that blocks; beside those are hub, sweep, loop, confirmations.
_THREADS_OF_A_SLOT, _OTHER_THREADS = 2, 40
#: What async agents do that blocks has threads of its own, at most so many in a worker.
ASYNC_THREADS = 64

Task = tuple[str, str]


class Line(NamedTuple):
    event: str
    run: str
    task: str
    #: One call of `execute`: a claim has one, a claim that is repeated another.
    execution: str
    #: The worker that it was in, a child process of the worker counts as the worker.
    worker: int
    effect: str


def lines(installation: Fleet) -> list[Line]:
    """Read the ledger as it is now."""
    path = Path(f"{installation.ledger_path}.effects")
    if not path.exists():
        return []
    split = (line.split() for line in path.read_text().splitlines())
    return [
        Line(event, run, task, execution, int(worker), effect) for event, run, task, execution, worker, effect in split
    ]


def effects_begun(installation: Fleet) -> int:
    """Count the effects in the ledger, for who asks again and again."""
    path = Path(f"{installation.ledger_path}.effects")
    return path.read_bytes().count(b"effect ") if path.exists() else 0


@dataclass(slots=True)
class Performed:
    """What the ledger says of each agent run: its executions in their order, and the effects of each."""

    executions: dict[Task, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    workers: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, installation: Fleet) -> Performed:
        made = cls()
        for line in lines(installation):
            effects = made.executions[line.run, line.task][line.execution]
            made.workers[line.execution] = line.worker
            if line.event == "effect":
                effects.append(line.effect)
        return made

    def effects(self, task: Task) -> set[str]:
        """Give which effects a task has performed, in all its executions."""
        return {effect for effects in self.executions[task].values() for effect in effects}

    def repeated(self) -> list[tuple[Task, str, str]]:
        """Give each effect that was performed again, with the execution that had performed it before."""
        found: list[tuple[Task, str, str]] = []
        for task, executions in self.executions.items():
            by: dict[str, str] = {}
            for execution, effects in executions.items():
                for effect in effects:
                    if effect in by:
                        found.append((task, effect, by[effect]))
                    by[effect] = execution
        return found

    def wrongly_repeated(self, killed: set[int]) -> list[tuple[Task, str, str]]:
        """Give what breaks the promise: repeated, and not in flight when what performed it was killed.

        An agent here does one thing after the other, so in flight is what its execution began last.
        """
        return [
            (task, effect, before)
            for task, effect, before in self.repeated()
            if self.executions[task][before][-1] != effect or self.workers[before] not in killed
        ]


def check_settled(installation: Fleet, *, states: Sequence[str] = ("succeeded",), others: int = 0) -> None:
    """Assert that nothing is left over: every run has ended well, or as it should; no lease, slot, thread or message.

    `others` are threads that its agents may need beside those of their slots.
    """
    query = installation.query
    assert query("SELECT DISTINCT state FROM run ORDER BY state") == [(state,) for state in states]
    assert query("SELECT count(*) FROM agent_run WHERE worker_id IS NOT NULL OR state IN ('running', 'queued')") == [
        (0,)
    ]
    # Each join has fired once: its counter was brought to 0 and never below it, and never reset.
    open_joins = (
        "SELECT count(*) FROM countdown c JOIN run r ON r.id = c.run_id WHERE r.state = 'succeeded' AND remaining <> 0"
    )
    assert query(open_joins) == [(0,)]
    alive = {worker.pid for worker in installation.workers if worker.poll() is None}
    installation.until(
        lambda: {row[0] for row in query("SELECT pid FROM worker")} == alive, "the dead have left the fleet"
    )
    for pid in alive:
        threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
        slots = int(installation.environment["NIGHTFLEET_CONCURRENCY"])
        assert threads <= slots * _THREADS_OF_A_SLOT + _OTHER_THREADS + others
    # One after the other: what one of them held without an acknowledgement comes to the next, and to nobody at the end.
    for worker in [worker for worker in installation.workers if worker.poll() is None]:
        _wait_until_idle(installation)
        assert installation.stop_worker(worker) == 0
    assert messages_left(installation) == []


def _wait_until_idle(installation: Fleet) -> None:
    """Wait until no message waits and every worker has said twice, one heartbeat after the other, that its slots are free."""
    query = installation.query
    beats = 0
    while beats < 2:
        after = dict(query("SELECT id::text, beat_seq FROM worker"))
        installation.until(
            lambda after=after: all(
                row[1] > after.get(row[0], 0) for row in query("SELECT id::text, beat_seq FROM worker")
            ),
            "they beat",
        )
        idle = query("SELECT count(*) FROM worker_queue WHERE idle_from IS NULL") == [(0,)]
        beats = beats + 1 if idle and installation.broker_depths() == 0 else 0


def check_outputs(installation: Fleet) -> None:
    """Assert that each agent run has one committed output, and that whoever comes after has seen that one."""
    rows: list[tuple[Any, ...]] = installation.query("SELECT run_id::text, task, output FROM agent_run")
    outputs = {(run, task): output for run, task, output in rows}
    performed = Performed.of(installation)
    for (run, task), output in outputs.items():
        assert output["execution"] in performed.executions[run, task]
        assert output["seen"] == {before: outputs[run, before]["execution"] for before in output["seen"]}


def messages_left(installation: Fleet) -> list[str]:
    """Give the ids of the messages that are in the queues of an installation, and take them out."""
    app, found = installation.kernel.app, list[str]()
    with app.connection_for_write() as connection:
        for (name,) in installation.query("SELECT DISTINCT queue FROM agent_run"):
            queue = app.queue_for(name)(connection.default_channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(str(message.headers["id"]))
    return found
