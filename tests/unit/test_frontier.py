"""A plan knows by position what follows what, and names every agent run of any run."""

from __future__ import annotations

from steps import plan_of, task

from orchestrator.clock import agent_run_id, ids
from orchestrator.planning.frontier import Plan

DIAMOND = plan_of(task("end", "b", "c"), task("b", "a"), task("c", "a"), task("a"))


def names(plan: Plan, positions: tuple[int, ...]) -> list[str]:
    return [plan.tasks[position].id for position in positions]


def test_positions_follow_the_dependencies_not_the_order_of_writing() -> None:
    assert [each.id for each in DIAMOND.tasks][0::3] == ["a", "end"]
    assert all(before < position for position, found in enumerate(DIAMOND.predecessors) for before in found)
    assert [DIAMOND.position[each.id] for each in DIAMOND.tasks] == [0, 1, 2, 3]


def test_firsts_wait_for_nothing_and_for_ends_nothing_waits() -> None:
    assert names(DIAMOND, DIAMOND.firsts) == ["a"]
    assert names(DIAMOND, DIAMOND.ends) == ["end"]
    loose = plan_of(task("a"), task("b"))
    assert loose.firsts == loose.ends == (0, 1)


def test_successors_mirror_predecessors() -> None:
    for plan in (DIAMOND, plan_of(*map(task, "abc"), *(task(name, *"abc") for name in "xyz"))):
        edges = {(before, after) for after, found in enumerate(plan.predecessors) for before in found}
        assert edges == {(before, after) for before, found in enumerate(plan.successors) for after in found}


def test_a_counter_is_needed_by_joins_and_conditions_only() -> None:
    plan = plan_of(
        task("a"),
        task("gate", when="input.go"),
        task("b", "a"),
        task("c", "a", when="a.go"),
        task("d", "b", "c"),
        task("e", "b", "c", "d", when="d.go"),
    )
    counters = {plan.tasks[position].id: count for position, count in plan.countdowns.items()}
    assert counters == {"gate": 0, "c": 1, "d": 2, "e": 3}


def test_the_end_of_a_task_brings_its_successors_nearer_and_an_end_the_run() -> None:
    run_id = ids.new()
    first, last = DIAMOND.position["a"], DIAMOND.position["end"]
    assert DIAMOND.waiting_on(run_id, first) == [agent_run_id(run_id, 1), agent_run_id(run_id, 2)]
    assert DIAMOND.waiting_on(run_id, last) == [run_id]


def test_ids_tell_the_position_and_sort_like_it() -> None:
    run_id = ids.new()
    found = [DIAMOND.id_at(run_id, position) for position in range(4)]
    assert found == sorted(found)
    assert found[2] == agent_run_id(run_id, 2)


def test_a_path_goes_on_while_each_task_releases_the_next_and_no_other() -> None:
    plan = plan_of(task("a"), task("b", "a"), task("c", "b"), task("d", "c"), task("e", "c"), task("f", "d", "e"))
    assert names(plan, plan.path(0, 9)) == ["a", "b", "c"]
    assert names(plan, plan.path(0, 2)) == ["a", "b"]
    assert names(plan, plan.path(plan.position["d"], 9)) == ["d"]


def test_a_path_stops_before_a_condition() -> None:
    plan = plan_of(task("a"), task("b", "a"), task("c", "b", when="b.go"))
    assert names(plan, plan.path(0, 9)) == ["a", "b"]


def test_a_task_meets_the_one_join_that_waits_for_it() -> None:
    assert [DIAMOND.meets(DIAMOND.position[name]) for name in ("b", "c")] == [DIAMOND.position["end"]] * 2
    assert DIAMOND.meets(DIAMOND.position["a"]) is None
    assert DIAMOND.meets(DIAMOND.position["end"]) is None
    gated = plan_of(task("a"), task("b"), task("end", "a", "b", when="a.go"))
    assert gated.meets(0) is None
