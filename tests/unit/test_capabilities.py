"""Tasks that name a capability: definitions, files, checks, drawings, canvas, and which agent a run gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from steps import plan_of, task

from orchestrator import any_agent, parallel, sequential
from orchestrator.binding import Binder
from orchestrator.clock import ids
from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.variant import Changes
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import UnknownAgent, UnknownCapability, WorkflowInvalid
from orchestrator.planning.canvas import compose, messages_of
from orchestrator.planning.capabilities import agents_by_capability, nobody_can, tasks_that_can
from orchestrator.planning.diagram import as_text
from orchestrator.planning.files import load_workflow
from orchestrator.planning.frontier import Plan
from orchestrator.planning.mermaid import as_mermaid
from orchestrator.planning.validate import validate
from orchestrator.planning.variants import changed
from orchestrator.store.census import Load
from orchestrator.store.creation import Arm, NewRun

RUN = ids.new()


def capable(identity: str, *after: str, can: str = "review", **fields: Any) -> TaskDefinition:
    return TaskDefinition.model_validate({"id": identity, "capability": can, "after": after, **fields})


def card(name: str, *capabilities: str) -> AgentCard:
    return AgentCard(name=name, digest="0123456789", capabilities=capabilities)


# What a task says -----------------------------------------------------------------------------------------------------


def test_a_task_names_a_capability_and_no_agent() -> None:
    made = capable("judge")
    assert (made.agent, made.capability, made.does) == ("", "review", "capability review")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"agent": "critic"}, "this one has agent and capability: keep one"),
        ({"function": "a:b"}, "this one has function and capability: keep one"),
        ({"celery": "images.resize"}, "this one has celery and capability: keep one"),
    ],
)
def test_a_task_is_one_thing(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskDefinition.model_validate({"id": "judge", "capability": "review", **fields})


def test_a_definition_that_names_no_capability_has_the_digest_that_it_has_always_had() -> None:
    plain = WorkflowDefinition(tasks=(task("a"),))
    assert plain.canonical == '{"tasks":[{"id":"a","agent":"a"}]}'
    assert WorkflowDefinition.model_validate_json(plain.canonical) == plain


def test_a_definition_with_a_capability_comes_back_as_it_was_stored() -> None:
    stored = WorkflowDefinition(tasks=(task("a"), capable("b", "a", model="offline", on_error={"fallback": "a"})))
    assert WorkflowDefinition.model_validate_json(stored.canonical) == stored


def test_a_file_names_a_capability(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("tasks:\n  reader: {}\n  judge: {capability: review, after: [reader]}\n")
    assert load_workflow(path).by_id["judge"] == capable("judge", "reader")


def test_a_file_that_names_an_agent_too_is_refused_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("tasks:\n  judge: {capability: review, agent: critic}\n")
    with pytest.raises(WorkflowInvalid, match=r":2:3: tasks\.judge: a task is one of agent, capability, function"):
        load_workflow(path)


def test_builders_take_any_agent_that_can() -> None:
    made = sequential("reader", parallel(any_agent("review"), any_agent("review"), aggregate="editor"))
    assert [(each.id, each.capability) for each in made.tasks[1:3]] == [("review", "review"), ("review_2", "review")]
    assert any_agent("price check", id="prices").capability == "price check"
    with pytest.raises(ValidationError, match="id"):
        any_agent("price check")


def test_drawings_say_what_is_asked_for() -> None:
    made = WorkflowDefinition(tasks=(task("reader"), capable("judge", "reader")))
    assert "judge (capability review)  after reader" in as_text(made)
    assert 'task_judge["judge (capability review)"]' in as_mermaid(made)


def test_a_variant_that_names_an_agent_names_it_in_place_of_the_capability() -> None:
    made = WorkflowDefinition(tasks=(task("reader"), capable("judge", "reader")))
    varied = changed(made, Changes(task="judge", agent="critic")).by_id["judge"]
    assert (varied.agent, varied.capability) == ("critic", None)
    cheaper = changed(made, Changes(task="judge", model="openai:gpt-5-nano")).by_id["judge"]
    assert (cheaper.capability, cheaper.model) == ("review", "openai:gpt-5-nano")


# Whether anybody can --------------------------------------------------------------------------------------------------


def test_a_capability_that_nobody_has_is_an_error_with_the_one_that_was_meant() -> None:
    made = WorkflowDefinition(tasks=(capable("judge", can="reviw"), capable("other", can="reviw")))
    with pytest.raises(UnknownCapability) as caught:
        validate(made, {"critic"}, {"review"})
    assert caught.value.message == (
        "tasks.judge.capability and 1 more: no agent has the capability 'reviw', did you mean 'review'? "
        "`nightfleet agents list` shows what agents can"
    )
    assert caught.value.details == {"capabilities": ["reviw"]}


def test_unknown_agents_and_capabilities_are_told_at_once() -> None:
    made = WorkflowDefinition(tasks=(task("critc"), capable("judge", can="reviw")))
    with pytest.raises(UnknownAgent) as caught:
        validate(made, {"critic"}, {"review"})
    assert not isinstance(caught.value, UnknownCapability)
    assert "unknown agent 'critc', did you mean 'critic'?" in caught.value.message
    assert "no agent has the capability 'reviw'" in caught.value.message


def test_what_is_wrong_with_a_workflow_besides_is_told_together_with_it() -> None:
    made = WorkflowDefinition(tasks=(capable("judge", "nobody", can="reviw"),))
    with pytest.raises(WorkflowInvalid, match=r"(?s)there is no task 'nobody'.*no agent has the capability"):
        validate(made, {"critic"}, {"review"})


def test_nobody_can_tell_is_no_error() -> None:
    made = WorkflowDefinition(tasks=(capable("judge"),))
    validate(made, None)
    validate(made, {"critic"}, {"review"})


def test_capabilities_are_known_by_what_agents_declare() -> None:
    declared = [("b", ("review", "sum")), ("a", ("review",)), ("function", ("review",)), ("c", ())]
    assert agents_by_capability(declared) == {"review": ("a", "b"), "sum": ("b",)}
    assert nobody_can("sing", []).startswith("no agent has the capability 'sing': `nightfleet agents list`")


def test_a_message_to_a_capability_is_for_the_tasks_whose_agents_have_it() -> None:
    """The agents are those of the run's rows: chosen ones and fallbacks too."""
    cards = {each.name: each for each in (card("critic", "review"), card("judge", "review", "sum"), card("reader"))}
    agents = {"first": "reader", "second": "judge", "third": "critic", "fourth": "gone"}
    assert tasks_that_can("review", agents, cards) == ("second", "third")
    assert tasks_that_can("sum", agents, cards) == ("second",)
    assert tasks_that_can("sing", agents, cards) == ()


# Canvas ---------------------------------------------------------------------------------------------------------------


def dispatch(plan: Plan, name: str, agent: str) -> Dispatch:
    return Dispatch(plan.id_at(RUN, plan.position[name]), 1, agent, Priority.NEW)


def test_no_message_carries_a_task_whose_agent_the_plan_does_not_know() -> None:
    plan = plan_of(task("a"), task("b", "a"), capable("c", "b"), task("d", "c"))
    [canvas] = compose(plan, RUN, [dispatch(plan, "a", "a")])
    assert [each["task"] for each in canvas["kwargs"]["tasks"]] == ["agent.a", "agent.b"]
    [behind] = compose(plan, RUN, [dispatch(plan, "c", "critic")])
    assert [each["task"] for each in behind["kwargs"]["tasks"]] == ["agent.critic", "agent.d"]


def test_a_join_that_names_a_capability_is_the_body_of_no_chord() -> None:
    plan = plan_of(capable("a"), capable("b"), capable("c", "a", "b"))
    assert plan.meets(0) is None
    made = compose(plan, RUN, [dispatch(plan, "a", "x"), dispatch(plan, "b", "y")])
    assert [each["task"] for each in made] == ["agent.x", "agent.y"]


def test_members_of_a_chord_may_name_capabilities() -> None:
    plan = plan_of(capable("a"), capable("b"), task("c", "a", "b"))
    [made] = compose(plan, RUN, [dispatch(plan, "a", "x"), dispatch(plan, "b", "y")])
    assert made.get("subtask_type") == "chord"
    assert len(messages_of(made)) == 2


# Which agent a run gets -----------------------------------------------------------------------------------------------


class Clock:
    time = 0.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> Any:
        raise AssertionError("nobody asks for the time of the day")


class World:
    """Agents with their loads; counts how often it is asked for them."""

    def __init__(self, able: Mapping[str, tuple[str, ...]], *loads: Load) -> None:
        self.able = able
        self.loads = {load.agent: load for load in loads}
        self.asked: list[frozenset[str]] = []
        self.clock = Clock()
        self.binder = Binder(lambda: self.able, self._read, self.clock)

    def _read(self, agents: Collection[str]) -> Sequence[Load]:
        self.asked.append(frozenset(agents))
        return [self.loads.get(name, Load(name, 0, 0, 0)) for name in sorted(agents)]

    def bind(self, plan: Plan, count: int) -> Sequence[NewRun]:
        return self.binder.bound(plan, [NewRun(ids.new(), "{}") for _ in range(count)])


def spread(runs: Sequence[NewRun], position: int = 0) -> dict[str, int]:
    return dict(Counter(run.agents[position] for run in runs))


REVIEW = {"review": ("a", "b", "c")}


def test_runs_of_a_workflow_without_capabilities_are_left_as_they_are_and_nobody_is_asked() -> None:
    world = World(REVIEW)
    runs = [NewRun(ids.new(), "{}")]
    assert world.binder.bound(plan_of(task("a")), runs) is runs
    assert world.asked == []


def test_a_thousand_runs_are_spread_over_the_agents_by_their_slots() -> None:
    world = World(REVIEW, Load("a", 10, 0, 0), Load("b", 20, 0, 0), Load("c", 10, 0, 0))
    assert spread(world.bind(plan_of(capable("judge")), 1000)) == {"a": 250, "b": 500, "c": 250}
    assert world.asked == [frozenset("abc")]


def test_the_least_busy_agent_is_filled_up_first() -> None:
    world = World(REVIEW, Load("a", 10, 10, 90), Load("b", 10, 5, 0), Load("c", 10, 10, 20))
    assert spread(world.bind(plan_of(capable("judge")), 20)) == {"b": 20}
    assert spread(world.bind(plan_of(capable("judge")), 20)) == {"b": 12, "c": 8}
    # In the end all have the same to do: 125 each.
    assert spread(world.bind(plan_of(capable("judge")), 200)) == {"a": 25, "b": 88, "c": 87}


def test_two_tasks_of_one_run_get_different_agents_where_these_are_equally_busy() -> None:
    world = World({"review": ("a", "b")}, Load("a", 4, 0, 0), Load("b", 4, 0, 0))
    for run in world.bind(plan_of(capable("one"), capable("two")), 50):
        assert {run.agents[0], run.agents[1]} == {"a", "b"}


def test_what_was_given_counts_until_the_loads_are_read_again() -> None:
    world = World({"review": ("a", "b")}, Load("a", 1, 0, 0), Load("b", 1, 0, 0))
    plan = plan_of(capable("judge"))
    first = [world.bind(plan, 1)[0].agents[0] for _ in range(10)]
    assert Counter(first) == {"a": 5, "b": 5}
    assert len(world.asked) == 1
    world.clock.time += 10
    world.loads["a"] = Load("a", 1, 1, 7)
    assert [world.bind(plan, 1)[0].agents[0] for _ in range(3)] == ["b"] * 3
    assert len(world.asked) == 2


def test_agents_that_are_equally_busy_are_not_always_tried_in_the_same_order() -> None:
    """A thousand processes that submit one run each must not all choose the first."""
    chosen: set[str] = set()
    for _ in range(200):
        world = World(REVIEW, *(Load(name, 4, 0, 0) for name in "abc"))
        chosen.update(world.bind(plan_of(capable("judge")), 1)[0].agents.values())
    assert chosen == {"a", "b", "c"}


def test_who_has_no_live_worker_or_is_paused_is_chosen_only_if_there_is_nobody_else() -> None:
    served, idle, paused = Load("a", 4, 4, 900), Load("b", 0, 0, 0), Load("c", 0, 0, 0, paused=True)
    plan = plan_of(capable("judge"))
    assert spread(World(REVIEW, served, idle, paused).bind(plan, 9)) == {"a": 9}
    assert spread(World({"review": ("b", "c")}, idle, paused).bind(plan, 9)) == {"b": 9}
    assert spread(World({"review": ("c",)}, paused).bind(plan, 9)) == {"c": 9}


def test_capabilities_of_the_same_agents_share_what_was_given() -> None:
    world = World({"review": ("a", "b"), "sum": ("a",)}, Load("a", 2, 0, 0), Load("b", 2, 0, 0))
    runs = world.bind(plan_of(capable("one", can="sum"), capable("two")), 8)
    assert {run.agents[0] for run in runs} == {"a"}
    assert {run.agents[1] for run in runs} == {"b"}


def test_each_arm_of_an_experiment_gets_agents_for_its_own_plan() -> None:
    world = World(REVIEW, Load("a", 1, 0, 0), Load("b", 1, 0, 0), Load("c", 1, 0, 0))
    asked, varied = plan_of(capable("judge")), plan_of(task("critic"))
    arms = [Arm(asked, (NewRun(ids.new(), "{}"),), asked), Arm(varied, (NewRun(ids.new(), "{}"),), asked)]
    first, second = world.binder.bound_arms(arms)
    assert first.runs[0].agents[0] in REVIEW["review"]
    assert first.agents == set(first.runs[0].agents.values())
    assert second.runs[0].agents == {}
    assert second.agents == {"critic"}


def test_a_capability_that_is_gone_is_an_error_of_the_submit() -> None:
    with pytest.raises(UnknownCapability, match="no agent has the capability 'review', did you mean 'reviews'"):
        World({"reviews": ("a",)}).bind(plan_of(capable("judge")), 1)


def test_a_look_up_reads_the_loads_each_time() -> None:
    world = World({"review": ("a", "b")}, Load("a", 4, 4, 0), Load("b", 4, 0, 0))
    assert world.binder.least_busy("review") == "b"
    world.loads["b"] = Load("b", 4, 4, 9)
    assert world.binder.least_busy("review") == "a"
