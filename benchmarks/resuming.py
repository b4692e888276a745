"""Agents that wait for a person: how soon one ends that has its answer, and how fast what it has done is given back."""

from __future__ import annotations

from collections.abc import Sequence

from harness import OURS, Bench, Row, expect, percentile, wait_for
from ours import DURABLE_AGENTS, Fleet

ANSWERS = 40
RESUME_TARGET_MS = 20.0
EFFECTS = 5_000
REPLAY_TARGET = 10_000.0


def resume(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        fleet = Fleet(alone, "rabbitmq", concurrency=alone.concurrency, agents=DURABLE_AGENTS)
        fleet.start_worker()
        _answered(fleet, 5)
        rounds = [percentile(_answered(fleet, alone.count(ANSWERS)), 50) for _ in range(alone.rounds)]
    what = "a suspended agent gets its answer, resumes and ends, rabbitmq, p50"
    return [Row("resume", what, {OURS: rounds}, "ms", RESUME_TARGET_MS, "at most")]


def _answered(fleet: Fleet, count: int) -> Sequence[float]:
    """Run agents that ask, one after the other; gives the milliseconds from each answer to the end of its run."""
    since = fleet.scalar("SELECT clock_timestamp()")
    for _ in range(count):
        [run_id] = fleet.submit("approver", [{}])
        _suspended(fleet)
        fleet.orchestrator.answer(run_id, "1")
        fleet.wait()
    fleet.finished("approver", since, count, 1)
    found = fleet.rows(
        "SELECT (extract(epoch FROM r.finished_at - q.answered_at) * 1000)::float8, a.epoch "
        "FROM @question q JOIN @run r ON r.id = q.run_id JOIN @agent_run a ON a.id = q.agent_run_id "
        "WHERE r.created_at >= %s AND q.state = 'answered'",
        since,
    )
    expect([epoch for _, epoch in found], [2] * count, "claims of each agent run that was asked for")
    return [milliseconds for milliseconds, _ in found]


def replay(bench: Bench) -> list[Row]:
    with bench.alone() as alone:
        fleet = Fleet(alone, "rabbitmq", concurrency=alone.concurrency, agents=DURABLE_AGENTS)
        fleet.start_worker()
        steps = alone.count(EFFECTS)
        rates = [steps / seconds for seconds in _repeated(fleet, steps, alone.rounds)]
    what = f"an agent resumes behind {EFFECTS:,} recorded effects, Postgres"
    return [Row("replay", what, {OURS: rates}, "effects/s", REPLAY_TARGET)]


def _repeated(fleet: Fleet, steps: int, times: int) -> list[float]:
    """Let one agent do many steps and repeat it; gives the seconds from each claim to the question behind the steps."""
    since = fleet.scalar("SELECT clock_timestamp()")
    [run_id] = fleet.submit("repeated", [{"steps": steps, "questions": times + 1}])
    seconds: list[float] = []
    for _ in range(times):
        _suspended(fleet)
        fleet.orchestrator.answer(run_id, "1")
        _suspended(fleet)
        seconds.append(
            fleet.scalar(
                "SELECT extract(epoch FROM q.created_at - a.claimed_at)::float8 FROM @agent_run a "
                "JOIN @question q ON q.agent_run_id = a.id AND q.state = 'open'"
            )
        )
    fleet.orchestrator.answer(run_id, "1")
    fleet.wait()
    # The agent's output is how often a step was called: none was repeated.
    fleet.finished("repeated", since, 1, steps)
    recorded = fleet.rows("SELECT kind, state, count(*) FROM @journal GROUP BY 1, 2 ORDER BY 1")
    expect(recorded, [("ask", "done", times + 1), ("step", "done", steps)], "recorded effects")
    return seconds


def _suspended(fleet: Fleet) -> None:
    waits = "SELECT count(*) FROM @agent_run WHERE state = 'suspended'"
    wait_for(lambda: fleet.scalar(waits) == 1, "the agent is suspended", alive=fleet.worker)
