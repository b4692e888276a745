"""Where a fork begins, by position."""

from __future__ import annotations

from steps import plan_of, task

from orchestrator.contracts.run import AgentRunState
from orchestrator.planning.fork import Beginning, beginning

S = AgentRunState
DIAMOND = plan_of(task("a"), task("b", "a"), task("c", "a"), task("end", "b", "c"))


def test_a_fork_of_all_keeps_nothing() -> None:
    assert beginning(DIAMOND, [S.SUCCEEDED] * 4, {0}) == Beginning((), (), (0,), (0,), {3: 2}, 1)


def test_what_waits_counts_what_is_not_kept() -> None:
    assert beginning(DIAMOND, [S.SUCCEEDED] * 4, {2}) == Beginning((0, 1), (), (2,), (2,), {3: 1}, 1)
    assert beginning(DIAMOND, [S.SUCCEEDED, S.FAILED, S.CANCELLED, S.CANCELLED], {3}) == Beginning(
        (0,), (), (1, 2), (1, 2), {3: 2}, 1
    )


def test_a_condition_is_ready_to_be_decided_and_not_to_run() -> None:
    plan = plan_of(task("a"), task("b", "a", when="a.go"))
    assert beginning(plan, [S.SUCCEEDED, S.SKIPPED], {1}) == Beginning((0,), (), (1,), (), {1: 0}, 1)


def test_skips_that_follow_from_what_is_kept_end_the_run() -> None:
    plan = plan_of(task("a", when="false"), task("b", "a"), task("c", "b"))
    assert beginning(plan, [S.SKIPPED] * 3, {1}) == Beginning((0,), (1, 2), (), (), {0: 0}, 0)
