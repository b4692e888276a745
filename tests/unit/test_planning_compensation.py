"""Which compensations a workflow has, in which order they run, and what each of them gets."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from pydantic import ValidationError
from steps import plan_of, task

from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.workflow import Compensation, TaskDefinition, WorkflowDefinition
from orchestrator.errors import UnknownAgent, WorkflowInvalid
from orchestrator.planning.builders import parallel, sequential
from orchestrator.planning.canvas import compose
from orchestrator.planning.compensation import Undo, undo_input
from orchestrator.planning.diagram import as_text
from orchestrator.planning.files import workflow_from_data
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream
from orchestrator.planning.validate import validate

RUN = "01a1f8e2-2a12-7db5-bf29-1320ff100000"


def undoable(identity: str, *after: str, **fields: object) -> TaskDefinition:
    return task(identity, *after, compensate={"agent": "undoer", **fields})


def order_of(plan: Plan) -> list[str]:
    return [undo.task.id for undo in plan.undos]


# Order ----------------------------------------------------------------------------------------------------------------


def test_a_chain_is_undone_from_its_end_on() -> None:
    plan = plan_of(undoable("flight"), task("mail", "flight"), undoable("hotel", "mail"))
    assert order_of(plan) == ["undo_hotel", "undo_flight"]
    assert [undo.stage for undo in plan.undos] == [2, 0]


def test_a_workflow_without_compensations_has_none() -> None:
    assert plan_of(task("a"), task("b", "a")).undos == ()


def random_plans(count: int) -> Iterator[Plan]:
    """Make any acyclic graphs, written in any order, in which any tasks can be undone."""
    for seed in range(count):
        chance = random.Random(seed)
        tasks: list[TaskDefinition] = []
        for number in range(chance.randint(1, 12)):
            before = sorted(chance.sample(range(number), chance.randint(0, min(4, number))))
            make = undoable if chance.random() < 0.6 else task
            tasks.append(make(f"t{number}", *(f"t{index}" for index in before)))
        yield plan_of(*chance.sample(tasks, len(tasks)))


def needed_by(plan: Plan, position: int) -> set[int]:
    """Everything that a task waits for, at any distance."""
    found = set(plan.predecessors[position])
    for before in plan.predecessors[position]:
        found |= needed_by(plan, before)
    return found


def test_no_task_is_undone_before_or_with_one_that_needed_it() -> None:
    for plan in random_plans(200):
        for index, undo in enumerate(plan.undos):
            with_it = [other for other in plan.undos if other.stage == undo.stage]
            for other in (*plan.undos[:index], *with_it):
                assert other.of not in needed_by(plan, undo.of)
            assert undo.of not in {other.of for other in plan.undos[:index]}
        assert {undo.of for undo in plan.undos} == {
            index for index, each in enumerate(plan.tasks) if each.compensate is not None
        }


def test_positions_of_tasks_stay_and_those_of_compensations_follow() -> None:
    for plan in random_plans(50):
        for position, each in enumerate(plan.tasks):
            assert (plan.task_at(position), plan.undo_at(position)) == (each, None)
        for index, undo in enumerate(plan.undos):
            position = len(plan.tasks) + index
            assert (plan.task_at(position), plan.undo_at(position)) == (undo.task, undo)
        ids = [plan.task_at(position).id for position in range(len(plan.tasks) + len(plan.undos))]
        assert len(set(ids)) == len(ids)


def test_a_compensation_whose_name_is_taken_gets_a_number_and_a_long_one_is_cut() -> None:
    long = "a" * 63
    plan = plan_of(undoable("a"), task("undo_a", "a"), undoable(long, "a"), undoable(long[:-1], "a"))
    assert order_of(plan) == [f"undo_{long}"[:63], f"undo_{long}"[:61] + "_2", "undo_a_2"]


# What is undone -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", AgentRunState)
def test_what_succeeded_is_undone_and_with_partial_whatever_began(state: AgentRunState) -> None:
    [undo], [partial] = plan_of(undoable("a")).undos, plan_of(undoable("a", partial=True)).undos
    assert undo.applies(state) is (state is AgentRunState.SUCCEEDED)
    assert partial.applies(state)


# What it gets ---------------------------------------------------------------------------------------------------------

DONE = AgentRunState.SUCCEEDED


def given_to(plan: Plan, upstream: dict[str, Upstream], run_input: object = None) -> object:
    undo: Undo = plan.undos[0]
    return undo_input(undo, plan.tasks[undo.of], run_input, upstream)


def test_a_compensation_gets_the_input_and_the_output_of_its_task() -> None:
    plan = plan_of(task("cart"), undoable("charge", "cart"))
    upstream = {"cart": Upstream(DONE, {"total": 7}), "charge": Upstream(DONE, {"id": "ch_1"})}
    assert given_to(plan, upstream) == {"input": {"total": 7}, "output": {"id": "ch_1"}}


def test_a_declared_input_reaches_the_run_the_task_and_what_it_waited_for() -> None:
    declared = {"who": "${input.user}", "what": "${charge.id}", "how_much": "${cart.total}"}
    plan = plan_of(task("cart"), undoable("charge", "cart", input=declared))
    upstream = {"cart": Upstream(DONE, {"total": 7}), "charge": Upstream(DONE, {"id": "ch_1"})}
    assert given_to(plan, upstream, {"user": "ada"}) == {"who": "ada", "what": "ch_1", "how_much": 7}


def test_what_began_and_did_not_succeed_has_no_output_and_perhaps_not_even_an_input() -> None:
    plan = plan_of(undoable("charge", partial=True))
    failed = {"charge": Upstream(AgentRunState.FAILED)}
    assert given_to(plan, failed, {"user": "ada"}) == {"input": {"user": "ada"}, "output": None}
    unreadable = plan_of(task("charge", input={"x": "${input.nothing}"}, compensate={"agent": "b", "partial": True}))
    assert given_to(unreadable, failed, {}) == {"input": None, "output": None}


# Writing it -----------------------------------------------------------------------------------------------------------


def test_a_compensation_is_an_agent_by_name_or_an_object() -> None:
    def first(value: object) -> Compensation | None:
        return workflow_from_data({"tasks": {"charge": {"compensate": value}}}, "here").tasks[0].compensate

    assert first("refund") == first({"agent": "refund"}) == Compensation(agent="refund")
    assert first({"function": "shop:refund", "partial": True}) == Compensation(function="shop:refund", partial=True)
    found = first({"celery": "shop.refund"})
    assert found is not None
    assert found.does == "celery shop.refund"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "write `compensate: agent`"),
        ({}, "what the task does is missing"),
        ({"agnt": "refund"}, "unknown key 'agnt', did you mean 'agent'?"),
        ({"agent": "refund", "retry": {"retris": 1}}, "unknown key 'retris', did you mean 'retries'?"),
        ({"agent": "refund", "function": "shop:refund"}, "keep one"),
        ({"agent": "refund", "input": {"x": "${cart.total}"}}, "a task that this one does not wait for"),
        ({"agent": "refund", "input": {"x": "${charge}"}}, None),
    ],
)
def test_what_is_wrong_with_a_compensation_is_said_with_its_place(value: object, said: str | None) -> None:
    data = {"tasks": {"cart": {}, "charge": {"compensate": value}}}
    if said is None:
        workflow_from_data(data, "here")
        return
    with pytest.raises(WorkflowInvalid) as raised:
        workflow_from_data(data, "here")
    assert said in raised.value.message
    assert "tasks.charge.compensate" in raised.value.message


def test_the_agent_of_a_compensation_must_be_known() -> None:
    workflow = WorkflowDefinition(tasks=(undoable("a"),))
    with pytest.raises(UnknownAgent, match=r"tasks\.a\.compensate\.agent: unknown agent 'undoer'"):
        validate(workflow, ["a"])
    validate(workflow, ["a", "undoer"])
    assert Plan(workflow).agents == {"a", "undoer"}


def test_references_of_a_compensation_follow_when_tasks_are_renamed() -> None:
    charge = task("charge", input={"x": "${input.y}"}, compensate={"agent": "refund", "input": {"id": "${charge.id}"}})
    renamed = parallel(charge, charge, aggregate="editor").by_id["charge_2"]
    assert renamed.compensate == Compensation(agent="refund", input={"id": "${charge_2.id}"})


def test_a_plan_in_words_says_what_undoes_a_task() -> None:
    text = as_text(sequential(undoable("charge"), "ship"))
    assert "charge  undone by undoer" in text


def test_a_workflow_without_compensations_has_the_digest_that_it_always_had() -> None:
    with_none = WorkflowDefinition(tasks=(task("a"),))
    assert with_none.canonical == '{"tasks":[{"id":"a","agent":"a"}]}'


def test_a_compensation_with_no_agent_is_refused_in_python_too() -> None:
    with pytest.raises(ValidationError, match="missing"):
        Compensation()


def test_compensations_are_published_one_by_one_since_what_follows_depends_on_the_run() -> None:
    plan = plan_of(undoable("a"), undoable("b", "a"))
    [made] = compose(plan, RUN, [Dispatch(plan.id_at(RUN, 2), 1, "undoer", 1)])
    assert made.get("subtask_type") is None
    assert made["options"]["task_id"] == f"{plan.id_at(RUN, 2)}.1"
