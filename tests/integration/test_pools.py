"""Pools on real brokers: agents are paused, scaled and resumed, and workers that live, start and die follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import BROKERS, Fleet, fleet

from orchestrator import RunHandle, UnknownAgent, UsageError

#: Agents that wait until a file of their own is there: `patient` and `blocker` of `proof_agents`.
AGENT = "patient"
GREETER = """
from worker.agent import BaseAgent


class Greeter(BaseAgent):
    def execute(self, data, ctx):
        return {{"version": {}}}
"""


class Work:
    """Runs of one agent that end one by one, when they are let."""

    def __init__(self, installation: Fleet, folder: Path, count: int) -> None:
        self.installation = installation
        self.files = [folder / f"go-{number}" for number in range(count)]
        inputs = [{"until": str(file)} for file in self.files]
        self.runs: list[RunHandle] = installation.orchestrator.submit_many(AGENT, inputs)

    def running(self) -> set[str]:
        """Give the runs that have begun and not ended, by what agents have written."""
        now: set[str] = set()
        for event, run, _, _ in self.installation.ledger():
            (now.add if event == "begin" else now.discard)(run)
        return now

    def begun(self) -> int:
        return len(self.installation.executions("begin"))

    def let_end(self, count: int) -> None:
        """Let some of those that run end."""
        running = self.running()
        meant = [file for file, run in zip(self.files, self.runs, strict=True) if run.id in running]
        for file in meant[:count]:
            file.touch()

    def most_at_once(self) -> int:
        now, most = set[str](), 0
        for event, run, _, _ in self.installation.ledger():
            (now.add if event == "begin" else now.discard)(run)
            most = max(most, len(now))
        return most

    def finish(self) -> None:
        for file in self.files:
            file.touch()
        self.installation.finish()
        assert {run.state for run in self.runs} == {"succeeded"}


def sweeps(installation: Fleet, count: int) -> None:
    """Wait for so many sweeps."""
    seen: set[object] = set()

    def enough() -> bool:
        seen.add(installation.query("SELECT ran_at FROM sweep WHERE id = 1")[0][0])
        return len(seen) > count

    installation.until(enough, f"{count} sweeps")


@pytest.mark.parametrize("broker", BROKERS)
def test_a_paused_agent_waits_with_the_broker_while_others_go_on_and_nothing_is_published_again(
    broker: str, tmp_path: Path
) -> None:
    with fleet(
        tmp_path, broker, concurrency=8, heartbeat=0.3, sweep_interval=0.3, idle_grace=0.5, republish_after=1
    ) as installation:
        known = installation.start_worker()
        nf = installation.orchestrator
        pool = nf.agents.pool(AGENT)
        assert pool.pause().paused
        installation.stop_worker(known)
        # More than a worker would take at once. It starts after the wish.
        work = Work(installation, tmp_path, 30)
        installation.start_worker()
        for _ in range(3):
            assert nf.submit("branch", {}).wait(60).state == "succeeded"
        sweeps(installation, 10)
        assert work.begun() == 0
        rows = installation.query("SELECT DISTINCT state, republished, epoch FROM agent_run WHERE agent = %s", AGENT)
        assert rows == [("queued", 0, 0)]
        assert installation.kernel.publisher.depth(f"agent.{AGENT}") == 30
        assert work.runs[0].snapshot().warnings == (
            f"agent '{AGENT}' is paused: it waits until `nightfleet agents resume {AGENT}`",
        )
        assert nf.agents.get(AGENT).state == "paused"
        assert not pool.resume().paused
        installation.until(lambda: work.begun() == 8, "all slots are used again")
        work.finish()
        assert sum(installation.executions("begin").values()) == 30


#: Quorum queues count messages for each queue by themselves, so workers hold them in another way.
KINDS = {"rabbitmq": ("rabbitmq", {}), "quorum": ("rabbitmq", {"queue_type": "quorum"}), "redis": ("redis", {})}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fleet_never_runs_more_than_the_pool_allows_and_no_less(kind: str, tmp_path: Path) -> None:
    broker, settings = KINDS[kind]
    with fleet(tmp_path, broker, concurrency=8, heartbeat=0.3, **settings) as installation:
        wish(installation, slots=3)
        installation.start_worker()
        installation.start_worker()
        pool = installation.orchestrator.agents.pool(AGENT)
        work = Work(installation, tmp_path, 14)
        installation.until(lambda: work.begun() == 3, "three begin")
        for ended in range(1, 7):
            work.let_end(1)
            installation.until(lambda ended=ended: work.begun() == 3 + ended, "another one begins in its place")
        assert work.most_at_once() == 3
        assert pool.grow(2).slots == 5
        installation.until(lambda: len(work.running()) == 5, "two more begin")
        assert pool.status().running == 5
        assert pool.shrink(4).slots == 1
        followed(installation)
        work.let_end(4)
        installation.until(lambda: len(work.running()) == 1, "what ran goes on to its end")
        begun = work.begun()
        work.let_end(1)
        installation.until(lambda: work.begun() == begun + 1, "one begins in its place")
        assert len(work.running()) == 1
        pool.scale(None)
        work.finish()
        assert sum(installation.executions("begin").values()) == 14


@pytest.mark.parametrize("kind", KINDS)
def test_each_worker_runs_no_more_than_its_share_and_other_agents_have_the_rest(kind: str, tmp_path: Path) -> None:
    broker, settings = KINDS[kind]
    with fleet(tmp_path, broker, concurrency=4, heartbeat=0.3, **settings) as installation:
        wish(installation, worker_slots=1)
        workers = [installation.start_worker(), installation.start_worker()]
        work = Work(installation, tmp_path, 6)
        installation.until(lambda: work.begun() == 2, "one begins in each")
        assert {int(pid) for event, _, _, pid in installation.ledger() if event == "begin"} == {w.pid for w in workers}
        assert installation.orchestrator.submit("branch", {}).wait(60).state == "succeeded"
        assert work.begun() == 2
        assert installation.orchestrator.agents.get(AGENT).slots == 2
        work.finish()
        assert work.most_at_once() == 2


def wish(installation: Fleet, **fields: int) -> None:
    """Wish something of the agent before any worker has announced it: those that start follow it from the beginning."""
    installation.kernel.store.pools.change(AGENT, lambda pool: pool.model_copy(update=fields))


def followed(installation: Fleet) -> None:
    """Wait until every live worker has beaten a few times: at each beat it follows what is wished."""
    before = dict(installation.query("SELECT id::text, beat_seq FROM worker"))
    installation.until(
        lambda: all(
            number >= before.get(worker, 0) + 3
            for worker, number in installation.query("SELECT id::text, beat_seq FROM worker")
        ),
        "every worker has beaten",
    )


def test_workers_that_are_told_follow_before_their_next_heartbeat(tmp_path: Path) -> None:
    """A heartbeat each quarter of an hour is none that a test waits for."""
    with fleet(tmp_path, concurrency=4, heartbeat=900, lease_ttl=3600, log_level="INFO") as installation:
        installation.start_worker()
        installation.until(installation.listens, "it hears what it is told")
        pool = installation.orchestrator.agents.pool(AGENT)

        def heard(times: int) -> None:
            log = tmp_path / "worker-0.log"
            installation.until(
                lambda: log.read_text().count("the pool of an agent has changed") == times, "it was told"
            )

        pool.scale(1)
        heard(1)
        work = Work(installation, tmp_path, 4)
        installation.until(lambda: work.begun() == 1, "one begins")
        pool.grow(2)
        heard(2)
        installation.until(lambda: work.begun() == 3, "two more begin")
        assert work.most_at_once() == 3
        work.finish()


@pytest.mark.parametrize("broker", BROKERS)
def test_a_worker_that_is_killed_is_seen_within_the_lease_and_its_share_is_taken_over(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, concurrency=4, heartbeat=0.3, lease_ttl=8, sweep_interval=0.5) as installation:
        wish(installation, slots=2, worker_slots=1)
        first, second = installation.start_worker(), installation.start_worker()
        nf = installation.orchestrator
        work = Work(installation, tmp_path, 5)
        installation.until(lambda: work.begun() == 2, "one begins in each")
        assert {worker.state for worker in nf.agents.workers()} == {"live"}
        assert nf.agents.get(AGENT).workers == 2
        installation.kill(first)
        states: set[str] = set()

        def is_gone() -> bool:
            found = {worker.pid: str(worker.state) for worker in nf.agents.workers()}
            states.add(found.get(first.pid, "gone"))
            return found == {second.pid: "live"}

        installation.until(is_gone, "the registry knows no worker but the one that lives")
        assert states <= {"live", "lost", "gone"}
        agent = nf.agents.get(AGENT)
        assert (agent.workers, agent.slots, agent.state) == (1, 1, "served")
        work.finish()


def test_two_versions_of_an_agent_are_seen_while_both_are_served(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "greeter.py").write_text(GREETER.format(1))
    with fleet(tmp_path, agents_path=agents) as installation:
        first = installation.start_worker()
        registry = installation.orchestrator.agents
        [old] = registry.get("greeter").versions
        (agents / "greeter.py").write_text(GREETER.format(2))
        installation.start_worker()
        assert sorted(version.workers for version in registry.get("greeter").versions) == [1, 1]
        assert old.digest in {version.digest for version in registry.get("greeter").versions}
        installation.stop_worker(first)
        [new] = registry.get("greeter").versions
        assert new.digest != old.digest


def test_what_cannot_be_wished_is_refused_with_the_reason(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        installation.start_worker()
        registry = installation.orchestrator.agents
        pool = registry.pool(AGENT)
        with pytest.raises(UnknownAgent, match="did you mean 'patient'"):
            registry.pool("patent").pause()
        with pytest.raises(UnknownAgent, match="'function'"):
            registry.pool("function").pause()
        with pytest.raises(UsageError, match="at least one slot, not 0: pause the agent"):
            pool.scale(0)
        with pytest.raises(UsageError, match="is not bounded: it grows with the workers"):
            pool.grow()
        assert pool.pause().paused
        shrunk = pool.shrink(5)
        assert (shrunk.slots, shrunk.paused) == (15, True)
        with pytest.raises(UsageError, match="has 15 slots and keeps at least one: pause it"):
            pool.shrink(15)
        assert pool.status().slots == 15
