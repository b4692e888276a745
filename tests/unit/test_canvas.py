"""What is ready becomes Celery canvas of a bounded shape and size, and it is known what a request carries on."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from celery import chord
from celery.canvas import Signature, _chain  # pyright: ignore[reportPrivateUsage] - what `celery.chain` makes
from steps import join, plan_of, task

from orchestrator.broker.message import MAX_MESSAGE_BYTES, TaskMessage, full_headers
from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.planning.canvas import (
    MAX_CHAIN,
    MAX_CHORD_BRANCH,
    carried,
    compose,
    messages_of,
    signature_of,
    uncarried,
)
from orchestrator.planning.frontier import Plan

RUN = ids.new()


def dispatch(plan: Plan, name: str, number: int = 1) -> Dispatch:
    return Dispatch(plan.id_at(RUN, plan.position[name]), number, name, Priority.NEW)


def ready(plan: Plan, *names: str) -> list[Dispatch]:
    return [dispatch(plan, name) for name in names or [plan.tasks[position].id for position in plan.firsts]]


def path(length: int, prefix: str = "a", *after: str) -> list[Any]:
    """Define that many tasks in a row."""
    names = [f"{prefix}{number}" for number in range(length)]
    return [task(name, *([names[index - 1]] if index else after)) for index, name in enumerate(names)]


def branches(count: int, length: int) -> Plan:
    """Plan that many paths that meet."""
    made = [path(length, f"b{number}_") for number in range(count)]
    return plan_of(*itertools.chain(*made), task("end", *(branch[-1].id for branch in made)))


def agents(signatures: Iterable[Signature]) -> list[str]:
    return [signature["task"].removeprefix("agent.") for signature in signatures]


def shape(canvas: Any) -> Any:
    """Give a canvas as the names of its agents: text, a list for a chain, a pair of header and body for a chord."""
    match canvas.get("subtask_type"):
        case "chord":
            return ([shape(member) for member in canvas.tasks], shape(canvas.body))
        case "chain":
            return agents(canvas.tasks)
        case _:
            return agents([canvas])[0]


def shapes(plan: Plan, dispatches: Sequence[Dispatch] | None = None) -> list[Any]:
    return [shape(canvas) for canvas in compose(plan, RUN, ready(plan) if dispatches is None else dispatches)]


def size(message: TaskMessage) -> int:
    """The message as it goes over the wire: its body and its headers."""
    return len(message.body) + len(json.dumps(message.headers))


# Shapes ---------------------------------------------------------------------------------------------------------------


def test_one_task_is_a_plain_signature() -> None:
    [canvas] = compose(plan := plan_of(task("a")), RUN, ready(plan))
    assert type(canvas) is Signature
    assert canvas["options"] == {"task_id": f"{plan.id_at(RUN, 0)}.1", "priority": Priority.NEW}


@pytest.mark.parametrize(("length", "carries"), [(2, 2), (3, 3), (6, 6), (7, 6), (40, 6)])
def test_a_linear_path_is_a_chain_of_at_most_six(length: int, carries: int) -> None:
    plan = plan_of(*path(length))
    [canvas] = compose(plan, RUN, ready(plan))
    assert isinstance(canvas, _chain)
    assert shape(canvas) == [f"a{number}" for number in range(carries)]
    assert MAX_CHAIN == 6


def test_tasks_that_all_meet_in_one_are_a_chord_with_that_task_as_its_body() -> None:
    plan = join(3)
    [canvas] = compose(plan, RUN, ready(plan))
    assert isinstance(canvas, chord)
    assert shape(canvas) == (["a0", "a1", "a2"], "end")
    assert type(canvas.body) is Signature


def test_a_branch_of_a_chord_is_a_chain_of_at_most_four() -> None:
    branches = [*path(4, "a"), *path(2, "b"), task("c")]
    plan = plan_of(*branches, task("end", "a3", "b1", "c"))
    assert shapes(plan) == [([["a0", "a1", "a2", "a3"], ["b0", "b1"], "c"], "end")]
    assert MAX_CHORD_BRANCH == 4


def test_branches_that_are_longer_are_chains_and_meet_later() -> None:
    plan = plan_of(*path(5, "a"), task("b"), task("end", "a4", "b"))
    assert shapes(plan) == [["a0", "a1", "a2", "a3", "a4"], "b"]


def test_a_stage_never_embeds_the_stages_after_it() -> None:
    plan = plan_of(*path(2), *(task(f"b{number}", "a1") for number in range(3)), task("end", "b0", "b1", "b2"))
    assert shapes(plan) == [["a0", "a1"]]
    assert shapes(plan, ready(plan, "b0", "b1", "b2")) == [(["b0", "b1", "b2"], "end")]


def test_two_joins_are_two_chords() -> None:
    plan = plan_of(*map(task, "abcd"), task("x", "a", "b"), task("y", "c", "d"), task("end", "x", "y"))
    assert shapes(plan) == [(["a", "b"], "x"), (["c", "d"], "y")]


def test_what_is_no_series_and_no_parallel_is_plain_signatures() -> None:
    crossed = plan_of(task("a"), task("b"), task("c", "a", "b"), task("d", "b"), task("end", "c", "d"))
    assert shapes(crossed) == ["a", "b"]
    complete = plan_of(*map(task, "abc"), *(task(name, *"abc") for name in "xyz"))
    assert shapes(complete) == ["a", "b", "c"]


def test_a_join_of_which_only_some_members_are_ready_is_no_chord() -> None:
    plan = join(3)
    assert shapes(plan, ready(plan, "a0", "a2")) == ["a0", "a2"]


def test_what_ends_in_nothing_or_meets_a_condition_is_no_chord_and_no_chain() -> None:
    assert shapes(plan_of(task("a"), task("b"))) == ["a", "b"]
    assert shapes(plan_of(task("a"), task("b"), task("end", "a", "b", when="a.go"))) == ["a", "b"]
    assert shapes(plan_of(task("a"), task("b", "a", when="a.go"), task("c", "b"))) == ["a"]


def test_what_was_dispatched_before_carries_nothing() -> None:
    plan = join(2)
    assert shapes(plan, [dispatch(plan, "a0", 2), dispatch(plan, "a1")]) == ["a0", "a1"]
    linear = plan_of(*path(3))
    assert shapes(linear, [dispatch(linear, "a0", 2)]) == ["a0"]


def test_signatures_are_immutable_named_by_agent_and_know_their_priority() -> None:
    signature = signature_of(Dispatch(f"{RUN[:-5]}00001", 7, "reader", Priority.RECOVERED))
    assert signature["task"] == "agent.reader"
    assert signature["immutable"]
    assert (signature["args"], signature["kwargs"]) == ((), {})
    assert signature["options"] == {"task_id": f"{RUN[:-5]}00001.7", "priority": Priority.RECOVERED}


def random_plan(rng: random.Random) -> Plan:
    names = [f"t{number}" for number in range(rng.randint(1, 14))]
    return plan_of(
        *(
            task(
                name,
                *rng.sample(names[:index], min(index, rng.randint(0, 3))),
                **({"when": "true"} if rng.random() < 0.1 else {}),
            )
            for index, name in enumerate(names)
        )
    )


def test_of_any_graph_each_ready_task_is_published_exactly_once() -> None:
    rng = random.Random(7)
    for _ in range(500):
        plan = random_plan(rng)
        dispatches = [dispatch(plan, each.id, rng.choice([1, 1, 1, 2])) for each in plan.tasks if rng.random() < 0.5]
        made = [message.task_id for canvas in compose(plan, RUN, dispatches) for message in messages_of(canvas)]
        heads = [each.task_id for each in dispatches]
        assert set(heads) <= {*made}
        assert len(made) == len(set(made))
        assert set(made) <= {*heads}


# Messages -------------------------------------------------------------------------------------------------------------

LONG = "a" * 58  # with a number of five digits behind it, the longest name there may be


def long_names(plan: Plan) -> Plan:
    renamed = {each.id: f"{LONG}{number:05d}" for number, each in enumerate(plan.tasks)}
    return plan_of(*(task(renamed[each.id], *(renamed[key] for key in each.after)) for each in plan.tasks))


@pytest.mark.parametrize(
    "plan",
    [
        plan_of(*path(20)),
        join(2),
        join(1000),
        branches(50, length=4),
        branches(3, length=3),
    ],
    ids=["path", "pair", "thousand", "fifty chains of four", "three chains of three"],
)
def test_no_message_passes_four_kilobytes_with_the_longest_names(plan: Plan) -> None:
    plan = long_names(plan)
    assert {len(each.agent) for each in plan.tasks} == {63}
    parent = f"{RUN[:-5]}fffff.999"
    messages = [message for canvas in compose(plan, RUN, ready(plan)) for message in messages_of(canvas, parent)]
    assert max(map(size, messages)) <= MAX_MESSAGE_BYTES


def test_a_message_says_ids_and_nothing_else() -> None:
    plan = plan_of(task("a"))
    [message] = messages_of(signature_of(dispatch(plan, "a")), "parent")
    assert (message.queue, message.priority, message.task_id) == ("agent.a", Priority.NEW, f"{plan.id_at(RUN, 0)}.1")
    assert json.loads(message.body) == [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    assert message.headers == {"task": "agent.a", "id": message.task_id, "parent_id": "parent"}


def test_what_celery_knows_of_a_message_beyond_its_ids_is_added_where_it_arrives() -> None:
    plan = plan_of(task("a"))
    [message] = messages_of(signature_of(dispatch(plan, "a")), "parent")
    assert full_headers(message.headers) == {
        **message.headers,
        "root_id": RUN,
        "retries": 0,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "ignore_result": False,
    }


def test_a_chain_is_one_message_that_carries_the_rest_in_reverse() -> None:
    plan = plan_of(*path(4))
    [canvas] = compose(plan, RUN, ready(plan))
    [message] = messages_of(canvas)
    embedded = json.loads(message.body)[2]
    assert message.headers["task"] == "agent.a0"
    assert agents(embedded["chain"]) == ["a3", "a2", "a1"]
    assert embedded["chord"] is None


def test_a_chord_is_a_message_for_each_member_with_the_body_at_the_end_of_each() -> None:
    plan = plan_of(task("a"), *path(3, "b"), task("end", "a", "b2"))
    [canvas] = compose(plan, RUN, ready(plan))
    single, branch = messages_of(canvas)
    body_id = f"{plan.id_at(RUN, plan.position['end'])}.1"
    assert json.loads(single.body)[2]["chord"]["options"]["task_id"] == body_id
    assert (single.headers["group"], single.headers["group_index"]) == (body_id, 0)
    embedded = json.loads(branch.body)[2]
    assert embedded["chord"] is None
    last = embedded["chain"][0]["options"]
    assert (last["chord"]["options"]["task_id"], last["group_id"], last["group_index"]) == (body_id, body_id, 1)
    assert "chord" not in embedded["chain"][1]["options"]


# What a request carries -----------------------------------------------------------------------------------------------


def embedded_in(message: TaskMessage) -> dict[str, Any]:
    return json.loads(message.body)[2]


def test_a_plain_request_carries_nothing() -> None:
    assert carried(None, None) == carried([], None) == frozenset()


def test_a_chain_carries_its_next_task_and_no_later_one() -> None:
    plan = plan_of(*path(4))
    [canvas] = compose(plan, RUN, ready(plan))
    [message] = messages_of(canvas)
    assert carried(embedded_in(message)["chain"], None) == {dispatch(plan, "a1").task_id}


def test_a_single_member_of_a_chord_carries_the_body() -> None:
    plan = join(2)
    [canvas] = compose(plan, RUN, ready(plan))
    for message in messages_of(canvas):
        assert carried(None, embedded_in(message)["chord"]) == {dispatch(plan, "end").task_id}


def test_a_chain_inside_a_chord_carries_its_next_task_and_only_its_last_one_the_body() -> None:
    plan = plan_of(task("a"), *path(2, "b"), task("end", "a", "b1"))
    [canvas] = compose(plan, RUN, ready(plan))
    chain_of_branch = embedded_in(messages_of(canvas)[1])["chain"]
    body = chain_of_branch[0]["options"]["chord"]
    assert carried(chain_of_branch, body) == {dispatch(plan, "b1").task_id}
    assert carried([], body) == {dispatch(plan, "end").task_id}


def test_what_is_released_and_not_carried_is_for_us_to_publish() -> None:
    plan = plan_of(task("a"), task("b", "a"), task("c", "a"))
    released = ready(plan, "b", "c")
    assert uncarried(released, frozenset()) == tuple(released)
    assert uncarried(released, frozenset({released[0].task_id})) == (released[1],)
    assert uncarried([], frozenset({"other"})) == ()


def test_another_dispatch_of_what_a_request_carries_is_not_carried() -> None:
    """After a retry the number has moved on: Celery would publish a task id that is used up."""
    plan = plan_of(*path(2))
    again = dispatch(plan, "a1", 2)
    assert uncarried([again], frozenset({dispatch(plan, "a1").task_id})) == (again,)
