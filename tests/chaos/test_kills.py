"""Row 1: random workers are killed, the last one too, with no beat: nothing is lost and nothing recorded is repeated."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random

import pytest
from chaos.figures import percentile, report
from chaos.forms import LEASE_TTL, LONG, PATIENCE_SECONDS, QUICK, SEED, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_outputs, check_settled, effects_begun
from fleet import Fleet, fleet

RUNS = form(short=100, long=2000)
KILLS = form(short=10, long=200)
WORKERS = 3
#: Every so many kills all workers die at once.
ALL_AT_ONCE = 5
STEPS = 3
#: How many runs are open at a time. Behind a backlog no slot is free, and how long a takeover takes says nothing: so the long
#: form, which measures that, submits as runs end. The short form has all of them wait.
OPEN = form(short=RUNS, long=60)
STEP_SECONDS = form(short=0.1, long=0.5)


@dataclass
class Takeovers:
    """How long what the dead held waited to be claimed again, in seconds of the database's clock.

    Counted from the kill, or from the start of the first worker that was still alive then: who is killed sees nobody die.
    """

    installation: Fleet
    waiting: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    #: When workers came and went.
    lives: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    seconds: list[float] = field(default_factory=list[float])
    stop: threading.Event = field(default_factory=threading.Event)
    looking: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.looking = threading.Thread(target=self._keep_looking, daemon=True)

    def note_living(self) -> None:
        """Take note of who lives."""
        for pid, at in self.installation.query("SELECT pid, extract(epoch FROM started_at)::float FROM worker"):
            self.lives.setdefault(pid, [at, inf])

    def note_held(self, pids: list[int]) -> int:
        """Begin to wait for what dead workers hold; gives how much that is."""
        [(now,)] = self.installation.query("SELECT extract(epoch FROM clock_timestamp())::float")
        for pid in pids:
            self.lives[pid][1] = now
        held = self.installation.query(
            "SELECT a.id::text, a.epoch, extract(epoch FROM clock_timestamp())::float FROM agent_run a "
            "JOIN worker w ON w.id = a.worker_id WHERE a.state = 'running' AND w.pid = ANY(%s)",
            pids,
        )
        self.waiting |= {row[0]: (row[1], row[2]) for row in held}
        return len(held)

    def look(self) -> None:
        self.note_living()  # who has claimed something may be new
        claimed = self.installation.query(
            "SELECT id::text, epoch, extract(epoch FROM claimed_at)::float FROM agent_run WHERE id = ANY(%s::uuid[])",
            list(self.waiting),
        )
        for identity, epoch, at in claimed:
            before, killed = self.waiting[identity]
            if epoch > before:
                observed = min(began for began, ended in list(self.lives.values()) if ended > at)
                self.seconds.append(at - max(killed, observed))
                del self.waiting[identity]

    def keep_looking(self) -> None:
        """Look again and again, from a thread of its own, until `look_last`."""
        self.looking.start()

    def look_last(self) -> None:
        """Look once more, when nobody else does."""
        self.stop.set()
        self.looking.join()
        self.look()

    def _keep_looking(self) -> None:
        while not self.stop.wait(0.2):
            if self.waiting:
                self.look()


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=4 * 3600))
@pytest.mark.parametrize("broker", brokers("rabbitmq"))
def test_killed_workers_lose_nothing_and_repeat_at_most_the_effects_in_flight(broker: str, tmp_path: Path) -> None:
    chance = Random(SEED)
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        for _ in range(WORKERS):
            installation.start_worker()
        takeovers, killed = Takeovers(installation), set[int]()
        takeovers.note_living()
        producer = threading.Thread(target=_produce, args=(installation,))
        producer.start()
        held = _kill(installation, chance, takeovers, killed)
        producer.join()
        installation.finish(form(short=300, long=1800))
        takeovers.look_last()

        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", RUNS)]
        check_outputs(installation)
        performed = Performed.of(installation)
        assert performed.wrongly_repeated(killed) == []
        assert len(performed.executions) == 4 * RUNS
        assert {len(performed.effects(task)) for task in performed.executions} == {STEPS}
        p95 = percentile(takeovers.seconds, 0.95)
        if LONG:
            assert p95 <= LEASE_TTL + 5
        report(
            1,
            broker,
            f"{KILLS} kills over {RUNS:,} runs: {RUNS * 4:,} agent runs succeeded; {held} were running on what was killed, "
            f"{len(performed.repeated())} of {RUNS * 4 * STEPS:,} effects were repeated, all of them in flight; takeover "
            f"p95 {p95:.1f} s after the kill, or after the start of the first worker that survived (lease {LEASE_TTL} s)",
        )
        check_settled(installation)


def _produce(installation: Fleet) -> None:
    """Submit all runs, so many at a time."""
    submitted = 0
    while submitted < RUNS:
        missing = min(OPEN - installation.open_runs(), RUNS - submitted)
        if missing > 0:
            inputs = [{"steps": STEPS, "seconds": STEP_SECONDS}] * missing
            installation.orchestrator.submit_many("head=laborer | [a=laborer, b=laborer] | end=laborer", inputs)
            submitted += missing
        else:
            threading.Event().wait(0.2)


def _kill(installation: Fleet, chance: Random, takeovers: Takeovers, killed: set[int]) -> int:
    """Kill workers while there is work, evenly over all of it; gives how many agent runs they were executing."""
    takeovers.keep_looking()
    held = done = 0
    total = RUNS * 4 * STEPS
    while done < KILLS:
        target = total * (done + 1) // (KILLS + 2)
        installation.until(
            lambda target=target: effects_begun(installation) >= target,
            "work goes on",
            timeout=300,
        )
        living = [worker for worker in installation.workers if worker.poll() is None]
        victims = living if (done + 1) % ALL_AT_ONCE == 0 else [chance.choice(living)]
        for victim in victims:
            installation.kill(victim)
        killed |= {victim.pid for victim in victims}
        held += takeovers.note_held([victim.pid for victim in victims])
        done += len(victims)
        for _ in victims:
            installation.start_worker()
        takeovers.note_living()
    return held
