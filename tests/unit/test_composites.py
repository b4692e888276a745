"""Loops, maps, routers and nested workflows as agents: what their steps get, what they give, and what cannot be decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from orchestrator.contracts.workflow import KINDS, TaskDefinition
from orchestrator.errors import BoundReached, CallFailed, InputInvalid, NightfleetError, OutputInvalid
from orchestrator.planning.steps import MADE_OF_OTHERS
from orchestrator.planning.subwork import names_called
from worker.agent import AsyncContext, BaseAgent, Context, PermissionDenied, Permissions
from worker.composites import EXECUTORS
from worker.nodes.builtin import BUILT_IN
from worker.testing import REAL, Recorder, run_agent

AGENTS = str(Path(__file__).parents[1] / "composite_agents")


def task(**fields: Any) -> TaskDefinition:
    return TaskDefinition.model_validate({"id": "t", **fields})


def run(given: TaskDefinition, data: Any, **calls: Any) -> Any:
    return run_agent(given, data, calls=calls, agents_path=AGENTS)


# Loops ----------------------------------------------------------------------------------------------------------------


def test_a_loop_gives_its_step_what_that_gave_last_until_the_condition_holds() -> None:
    recorder = Recorder()
    loop = task(loop={"do": "plus", "until": "output.n >= 3"})
    assert run_agent(loop, {"n": 0}, calls={"plus": REAL}, agents_path=AGENTS, recorder=recorder) == {"n": 3}
    assert [call.input for call in recorder.called] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_condition_may_look_at_the_iteration_and_the_input() -> None:
    assert (
        run(task(loop={"do": "plus", "until": "iteration == input.times"}), {"n": 0, "times": 4}, plus=REAL)["n"] == 4
    )


def test_next_says_what_the_step_gets_after_the_first_time() -> None:
    recorder = Recorder()
    following = {"n": "${output.n}", "goal": "${input.goal}", "round": "${iteration}"}
    loop = task(loop={"do": "plus", "next": following, "until": "output.n >= input.goal"})
    run_agent(loop, {"n": 0, "goal": 2}, calls={"plus": REAL}, agents_path=AGENTS, recorder=recorder)
    assert [call.input for call in recorder.called] == [{"n": 0, "goal": 2}, {"n": 1, "goal": 2, "round": 2}]


def test_a_step_of_a_loop_may_have_an_input_of_its_own_every_time() -> None:
    loop = task(
        loop={"do": {"agent": "total", "input": {"a": "${input.n}", "b": "${output}"}}, "until": "output.n > 9"}
    )
    assert run(loop, {"n": 4}, total=REAL) == {"n": 12}


def test_what_has_not_been_given_yet_is_null_to_a_step_of_a_loop() -> None:
    recorder = Recorder()
    step = {"agent": "total", "input": {"n": "${input.n}", "last": "${output.n}"}}
    loop = task(loop={"do": step, "until": "iteration == 2"})
    run_agent(loop, {"n": 1}, calls={"total": REAL}, agents_path=AGENTS, recorder=recorder)
    assert [call.input for call in recorder.called] == [{"n": 1, "last": None}, {"n": 1, "last": 1}]


def test_a_loop_that_does_not_come_to_its_end_fails_or_gives_what_was_last() -> None:
    with pytest.raises(BoundReached, match=r"`until: false` has not held after 3 iterations: .*unmet: last"):
        run(task(loop={"do": "plus", "until": "false", "max_iterations": 3}), {"n": 0}, plus=REAL)
    last = task(loop={"do": "plus", "until": "false", "max_iterations": 3, "unmet": "last"})
    assert run(last, {"n": 0}, plus=REAL) == {"n": 3}


def test_a_condition_of_a_loop_that_cannot_be_decided_says_after_which_iteration_and_what_was_there() -> None:
    said = r"`until` cannot be decided after iteration 1: .*there is no field 'm'.*\n.*output is \{\"n\": 1\}"
    with pytest.raises(InputInvalid, match=said):
        run(task(loop={"do": "plus", "until": "output.m > 1"}), {"n": 0}, plus=REAL)


def test_a_step_that_is_done_without_gives_null_to_a_loop() -> None:
    loop = task(loop={"do": {"agent": "plus", "on_error": "continue"}, "until": "output == null"})
    assert run(loop, {"n": 0}, plus=ValueError("no")) is None


# Maps -----------------------------------------------------------------------------------------------------------------


def test_a_map_is_over_its_input_or_the_field_that_it_names() -> None:
    assert run(task(map={"do": "plus"}), [{"n": 1}, {"n": 2}], plus=REAL) == [{"n": 2}, {"n": 3}]
    assert run(task(map={"do": "plus", "over": "a.b"}), {"a": {"b": [{"n": 1}]}}, plus=REAL) == [{"n": 2}]
    assert run(task(map={"do": "plus"}), [], plus=REAL) == []


def test_a_step_of_a_map_gets_its_own_mapping_of_item_index_and_input() -> None:
    step = {"agent": "total", "input": {"item": "${item.n}", "index": "${index}", "more": "${input.more}"}}
    mapped = task(map={"do": step, "over": "items"})
    assert run(mapped, {"items": [{"n": 1}, {"n": 2}], "more": 100}, total=REAL) == [{"n": 101}, {"n": 103}]


@pytest.mark.parametrize(
    ("over", "data", "said"),
    [
        (None, {"n": 1}, "the input of the map is an object, and a map is over a list: say with `over`"),
        ("items", {"items": "text"}, "`over: items` is 'text', and a map is over a list"),
        ("items", {"item": []}, r"`over` refers to \$\{input.items\}, but input has no 'items', did you mean 'item'"),
    ],
)
def test_what_is_no_list_is_an_error_that_says_what_there_is(over: str | None, data: Any, said: str) -> None:
    with pytest.raises(InputInvalid, match=said):
        run(task(map={"do": "plus", "over": over}), data, plus=REAL)


def test_the_first_failure_fails_a_map_unless_its_step_is_done_without() -> None:
    def odd(data: dict[str, Any]) -> Any:
        if data["n"] % 2:
            raise ValueError(f"{data['n']} is odd")
        return data["n"]

    items = [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}]
    with pytest.raises(
        CallFailed, match=r"^t-2 \(plus\) failed: agent_failed: ValueError: 1 is odd; 2 of 4 have failed"
    ):
        run(task(map={"do": "plus"}), items, plus=odd)
    assert run(task(map={"do": {"agent": "plus", "on_error": "continue"}}), items, plus=odd) == [0, None, 2, None]


# Routers --------------------------------------------------------------------------------------------------------------


def test_a_router_goes_where_the_answer_says_and_gives_what_the_route_gives() -> None:
    router = task(router={"by": "pick", "routes": {"up": "plus", "down": "spare"}})
    assert run(router, {"n": 1, "to": "up"}, pick=REAL, plus=REAL) == {"n": 2, "to": "up"}
    assert run(router, {"n": 1, "to": " down\n"}, pick=REAL, spare=REAL) == {"n": -1}


def test_a_route_gets_its_own_mapping_of_the_input_and_the_answer() -> None:
    up = {"agent": "total", "input": {"a": "${input.n}", "b": "${by.n}"}}
    router = task(router={"by": {"agent": "pick", "input": {"to": "up", "n": "${input.n}"}}, "routes": {"up": up}})
    assert run(router, {"n": 4}, pick=REAL, total=REAL) == {"n": 8}


def test_without_somebody_who_decides_the_input_says_where_to_go() -> None:
    router = task(router={"choice": "a.b", "routes": {"up": "plus"}})
    assert run(router, {"n": 1, "a": {"b": "up"}}, plus=REAL)["n"] == 2


def test_every_other_name_goes_to_otherwise() -> None:
    router = task(router={"by": "pick", "routes": {"up": "plus"}, "otherwise": "spare"})
    assert run(router, {"n": 1, "to": "sideways"}, pick=REAL, spare=REAL) == {"n": -1}
    assert run(router, {"n": 1, "to": None}, pick=REAL, spare=REAL) == {"n": -1}
    lenient = task(
        router={"by": {"agent": "pick", "on_error": "continue"}, "routes": {"up": "plus"}, "otherwise": "spare"}
    )
    assert run(lenient, {"n": 1}, pick=ValueError("no"), spare=REAL) == {"n": -1}


@pytest.mark.parametrize(
    ("router", "answer", "said"),
    [
        ({}, {"choice": "upp"}, "there is no route 'upp', did you mean 'up'.*give the router an `otherwise`"),
        ({}, {"choice": None}, "no route was chosen"),
        ({}, {"choice": 3}, "`choice: choice` is 3, and the name of a route is text"),
        (
            {"choice": "result.way"},
            {"result": {"to": 1}},
            r"`choice` refers to \$\{by.result.way\}, but by.result has no 'way'",
        ),
        ({}, "up", "is 'up', without fields"),
    ],
)
def test_a_choice_that_leads_nowhere_is_an_error_that_says_what_there_is(
    router: dict[str, Any], answer: Any, said: str
) -> None:
    def pick(_: Any) -> Any:
        return answer

    with pytest.raises(InputInvalid, match=said):
        run(task(router={"by": "pick", "routes": {"up": "plus"}, **router}), {"n": 1}, pick=pick)


# Nested workflows -----------------------------------------------------------------------------------------------------


def nested(*tasks: dict[str, Any], **fields: Any) -> TaskDefinition:
    return task(workflow={"name": "inner", "tasks": list(tasks), **fields})


def test_a_nested_workflow_gives_what_a_run_of_its_own_would() -> None:
    diamond = nested(
        {"id": "a", "agent": "plus"},
        {"id": "b", "agent": "plus", "after": ["a"]},
        {"id": "c", "agent": "plus", "after": ["a"], "when": "a.n > 100"},
        {"id": "d", "agent": "total", "after": ["b", "c"]},
    )
    recorder = Recorder()
    calls = {"plus": REAL, "total": REAL}
    assert run_agent(diamond, {"n": 0}, calls=calls, agents_path=AGENTS, recorder=recorder) == {"n": 2}
    assert [call.agent for call in recorder.called] == ["plus", "plus", "total"], "what is skipped is not called"


def test_a_nested_workflow_has_inputs_with_defaults_and_an_output() -> None:
    inner = nested(
        {"id": "a", "agent": "plus", "input": {"n": "${input.n}"}},
        inputs={"n": {"type": "integer", "default": 7}},
        output={"was": "${input.n}", "is": "${a.n}"},
    )
    assert run(inner, {}, plus=REAL) == {"was": 7, "is": 8}
    with pytest.raises(InputInvalid, match=r"the input of workflow 'inner' is invalid: .*integer"):
        run(inner, {"n": "text"}, plus=REAL)


def test_a_task_of_a_nested_workflow_that_fails_fails_it_unless_it_goes_on_without() -> None:
    first = {"id": "a", "agent": "plus"}
    second = {"id": "b", "agent": "total", "after": ["a"], "input": {"n": "${input.n}", "a": "${a}"}}
    with pytest.raises(CallFailed, match=r"t-1 \(a: plus\) failed: agent_error: 1 is refused"):
        run(nested(first, second), {"n": 1, "fails": True}, plus=REAL, total=REAL)
    lenient = nested({**first, "on_error": "continue"}, second)
    assert run(lenient, {"n": 1, "fails": True}, plus=REAL, total=REAL) == {"n": 1}


def test_what_a_task_of_a_nested_workflow_cannot_get_is_an_error_of_that_task() -> None:
    inner = nested({"id": "a", "agent": "plus", "input": {"n": "${input.m}"}})
    with pytest.raises(InputInvalid, match=r"the input of task 'a' refers to \$\{input.m\}"):
        run(inner, {"n": 1}, plus=REAL)
    lenient = nested({"id": "a", "agent": "plus", "input": {"n": "${input.m}"}, "on_error": "continue"})
    assert run(lenient, {"n": 1}, plus=REAL) is None


def test_tasks_of_any_kind_may_be_inside_of_each_other() -> None:
    inner = nested(
        {"id": "a", "map": {"do": {"loop": {"do": "plus", "until": "output.n >= 3"}}, "over": "items"}},
        {"id": "b", "after": ["a"], "function": "builtins:len", "input": {"obj": "${a}"}},
        {"id": "yes", "condition": "b == 2", "after": ["b"]},
        {"id": "c", "agent": "total", "after": ["yes"], "branch": "then", "input": {"a": "${a}", "b": "${b}"}},
    )
    calls = {"plus": REAL, "total": REAL, "loop": REAL, "map": REAL, "function": 2}
    assert run(inner, {"items": [{"n": 0}, {"n": 1}]}, **calls) == {"n": 8}


def test_every_kind_that_is_made_of_others_has_an_executor_and_a_queue() -> None:
    assert EXECUTORS.keys() == MADE_OF_OTHERS
    assert BUILT_IN.keys() == {kind.name for kind in KINDS.values() if not kind.settled}


# Permissions and checks -----------------------------------------------------------------------------------------------


class Asking(BaseAgent):
    """Calls what a test gives it."""

    permissions = Permissions(agents=("plus",))
    asked: Any = None

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        return self.asked(ctx, data)


def asking(asked: Callable[[Context, Any], Any]) -> Asking:
    agent = Asking()
    agent.asked = asked
    return agent


def test_whoever_calls_a_task_has_to_be_permitted_everything_inside_of_it() -> None:
    given = task(
        workflow={
            "name": "inner",
            "tasks": [
                {"id": "a", "loop": {"do": "plus", "until": "true"}},
                {"id": "b", "router": {"by": "pick", "routes": {"x": {"function": "m:f"}}, "otherwise": {"tool": "k"}}},
                {"id": "c", "capability": "counting", "on_error": {"fallback": "spare"}},
                {"id": "d", "condition": "true", "after": ["a"]},
                {"id": "e", "celery": "images.resize"},
            ],
        }
    )
    names = ("plus", "pick", "function", "tool", "capability:counting", "spare", "celery")
    assert sorted(names_called(given)) == sorted(names)
    router = task(router={"routes": {"x": "plus", "y": "total"}})
    with pytest.raises(PermissionDenied, match=r"calls 'total': add permissions = Permissions\(agents=\('total',\)\)"):
        run_agent(asking(lambda ctx, data: ctx.call(router, data)), {}, calls={"router": REAL})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"agent": "plus", "input": {"n": 1}}, "has input, and its input is what it is called with: leave that out"),
        ({"agent": "plus", "after": ["a"]}, "has after, and it has no place in a workflow"),
        ({"condition": "true"}, "a condition decides about other tasks of a workflow: write it as an `if`"),
    ],
)
def test_what_means_nothing_to_a_call_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputInvalid, match=said):
        run_agent(asking(lambda ctx, data: ctx.call(task(**given), data)), {}, calls={"plus": {}})
    with pytest.raises(TypeError, match="call an agent by its name, or a TaskDefinition, not 3"):
        run_agent(asking(lambda ctx, data: ctx.call(cast("Any", 3), data)), {})


def test_what_is_said_with_a_call_goes_before_what_its_task_says() -> None:
    given = task(agent="plus", on_error="continue")
    assert run_agent(asking(lambda ctx, data: ctx.call(given, {})), {}, calls={"plus": ValueError()}) is None
    both = asking(lambda ctx, data: [str(each) for each in ctx.map(given, [{}], return_exceptions=True)])
    [found] = run_agent(both, {}, calls={"plus": ValueError("no")})
    assert found == "asking-1 (t: plus) failed: agent_failed: ValueError: no"


def test_a_run_of_a_workflow_is_a_call_of_it() -> None:
    recorder = Recorder()
    calls = {"plus": REAL, "workflow": REAL}
    sync = asking(lambda ctx, data: ctx.run("plus | x=plus", data))
    assert run_agent(sync, {"n": 0}, calls=calls, agents_path=AGENTS, recorder=recorder) == {"n": 2}
    assert [call.agent for call in recorder.called] == ["workflow", "plus", "plus"]

    class Running(BaseAgent):
        permissions = Permissions(agents=("plus",))

        async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
            return await ctx.run("plus", data)

    assert run_agent(Running, {"n": 0}, calls=calls, agents_path=AGENTS) == {"n": 1}
    with pytest.raises(NightfleetError, match="expected an agent"):
        run_agent(asking(lambda ctx, data: ctx.run("plus |", data)), {"n": 0}, calls=calls)


def test_a_test_says_what_tasks_give_by_their_words_and_capabilities() -> None:
    class Wide(BaseAgent):
        permissions = Permissions(agents=("*",))

        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            loop = TaskDefinition.model_validate({"id": "x", "loop": {"do": "plus", "until": "true"}})
            return [ctx.call(loop, data), ctx.call(task(capability="counting"), {"n": 1})]

    assert run_agent(Wide, {}, calls={"loop": 1, "counting": 2}) == [1, 2]
    assert run_agent(Wide, {}, calls={"loop": 1, "counting": REAL}, agents_path=AGENTS) == [1, {"n": 2}]
    with pytest.raises(
        AssertionError, match=r"calls a loop of plus: say what that gives, run_agent\(..., calls=\{'loop'"
    ):
        run_agent(Wide, {})


def test_a_result_that_is_not_the_model_names_what_gave_it() -> None:
    class Word(BaseModel):
        text: str

    given = task(loop={"do": "plus", "until": "true"})
    with pytest.raises(OutputInvalid, match=r"what loop of plus gave .* is no Word"):
        run_agent(asking(lambda ctx, data: ctx.call(given, data, output=Word)), {}, calls={"loop": {"n": 1}})
