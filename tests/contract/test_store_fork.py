"""A fork begins where a run would be that had the same past: nothing of it happens again, and nothing is left out."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy import select, update
from steps import DONE, FAILED, Steps, ago, change, plan_of, race, task

from orchestrator.advance import Advancer
from orchestrator.bus.reading import packed
from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.contracts.mail import OUTSIDE, Filter, Letter, MailState
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.usage import Usage
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import RunNotFound, RunStateConflict
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Outcome
from orchestrator.store.dead import redrive
from orchestrator.store.fork import NewFork, create_fork
from orchestrator.store.store import Store
from orchestrator.store.tables import agent_message, agent_run, countdown, run

FINAL = {state.value for state in AgentRunState if state.final}


class Nobody:
    """A broker that takes everything."""

    def publish(self, messages: Any) -> None: ...


class World:
    """Runs of one workflow, executed by hand; `acts` says what each task does, as often as it is asked."""

    def __init__(self, store: Store, plan: Plan, acts: dict[str, Outcome] | None = None) -> None:
        self.steps = Steps(store, plan)
        self.store = store
        self.plan = plan
        self.acts = acts or {}
        self.advancer = Advancer(store, cast("Any", Nobody()))

    def start(self) -> str:
        [run_id] = self.steps.start()
        self.advancer.advance(run_id)
        return run_id

    def fork(self, source: str, *from_tasks: str) -> str:
        self.ready = self.fork_of(source, from_tasks)
        self.advancer.advance(self.new)
        return self.new

    def fork_of(self, source: str, from_tasks: Collection[str], **more: Any) -> tuple[Dispatch, ...]:
        self.new = ids.new()
        new = NewFork(self.new, source, self.plan, {self.plan.position[name] for name in from_tasks}, **more)
        return create_fork(self.store.database, self.store.runs, new, project="default")

    def drive(self, run_id: str, only: Collection[str] | None = None) -> list[str]:
        """Execute all that is queued, and what that sets free, until nothing moves; of `only` if given. Gives what ran."""
        ran: list[str] = []
        while True:
            queued = [name for name, state in self.steps.states(run_id).items() if state == "queued"]
            todo = [name for name in queued if only is None or name in only]
            if not todo:
                return ran
            for name in todo:
                if (claim := self.steps.try_claim(run_id, name)) is None:
                    continue
                ran.append(name)
                outcome = self.acts.get(name, DONE)
                if outcome.state is AgentRunState.FAILED and self.steps.plan.tasks[claim.position].on_error == "fail":
                    self.store.runs.fail(claim, outcome)
                else:
                    self.steps.finish(claim, outcome)
                self.advancer.advance(run_id)

    def stands(self, run_id: str) -> dict[str, Any]:
        """Give how a run stands: states, outputs, what the open ones and the run itself wait for."""
        with self.store.database.connect() as connection:
            query = select(countdown.c.id, countdown.c.remaining).where(countdown.c.run_id == run_id)
            left = {row.id: row.remaining for row in connection.execute(query)}
        found: dict[str, Any] = {"run": left.get(run_id)}
        for name, state in self.steps.states(run_id).items():
            waits = left.get(self.steps.id(run_id, name)) if state == "blocked" else None
            found[name] = (state, waits, self.steps.row(run_id, name)["output"])
        return found


DIAMOND = plan_of(task("a"), task("b", "a"), task("c", "a"), task("end", "b", "c"))


# What is kept ---------------------------------------------------------------------------------------------------------


def test_what_is_not_after_the_task_is_kept_with_all_that_came_of_it(store: Store) -> None:
    usage = Usage(input_tokens=7, model_calls=1)
    answered = Outcome(AgentRunState.SUCCEEDED, output='{"text":"new"}', usage=usage, model="m")
    world = World(store, DIAMOND, {"b": answered})
    source = world.start()
    world.drive(source)
    forked = world.fork(source, "c")
    assert world.steps.states(forked) == {"a": "succeeded", "b": "succeeded", "c": "queued", "end": "blocked"}
    before, after = world.steps.row(source, "b"), world.steps.row(forked, "b")
    same = ("output", "usage", "model", "worker", "queued_at", "started_at", "finished_at", "agent")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (after["epoch"], after["published_at"], after["worker_id"]) == (0, None, None)
    assert [dispatch.id for dispatch in world.ready] == [world.steps.id(forked, "c")]


def test_a_fork_runs_to_its_end_and_repeats_nothing_that_is_kept(store: Store) -> None:
    world = World(store, DIAMOND)
    source = world.start()
    world.drive(source)
    forked = world.fork(source, "b")
    assert world.drive(forked) == ["b", "end"]
    assert world.steps.state(forked) is RunState.SUCCEEDED
    assert world.steps.state(source) is RunState.SUCCEEDED


def test_a_fork_from_the_first_task_runs_all_anew(store: Store) -> None:
    world = World(store, DIAMOND)
    source = world.start()
    world.drive(source)
    assert world.drive(world.fork(source, "a")) == ["a", "b", "c", "end"]


def test_a_fork_has_the_input_of_its_run_and_names_it(store: Store) -> None:
    world = World(store, DIAMOND)
    source = world.start()
    world.drive(source)
    row = world.steps.run_row(world.fork(source, "end"))
    assert (row["input"], row["forked_from"], row["idempotency_key"]) == ({"text": "hello"}, source, None)


def test_a_fork_needs_nothing_of_its_run(store: Store) -> None:
    world = World(store, DIAMOND)
    source = world.start()
    world.drive(source)
    forked = world.fork(source, "end")
    assert store.deletions.delete_ended([source]) == 1
    assert world.drive(forked) == ["end"]
    assert world.steps.state(forked) is RunState.SUCCEEDED


# What failed ----------------------------------------------------------------------------------------------------------


def test_what_failed_its_run_runs_anew_also_before_another_task(store: Store) -> None:
    world = World(store, DIAMOND, {"b": FAILED})
    source = world.start()
    world.drive(source, only={"a", "c"})
    world.drive(source)
    assert world.steps.state(source) is RunState.FAILED
    world.acts = {}
    assert world.drive(world.fork(source, "end")) == ["b", "end"]
    assert world.drive(world.fork(source, "c")) == ["b", "c", "end"]


def test_what_its_run_lived_without_stays_failed_unless_it_is_asked_for(store: Store) -> None:
    plan = plan_of(task("a"), task("b", "a", on_error="continue"), task("c", "a"), task("end", "b", "c"))
    world = World(store, plan, {"b": FAILED})
    source = world.start()
    world.drive(source)
    forked = world.fork(source, "end")
    assert world.steps.states(forked) == {"a": "succeeded", "b": "failed", "c": "succeeded", "end": "queued"}
    assert world.steps.row(forked, "b")["error"] == world.steps.row(source, "b")["error"]
    assert world.drive(world.fork(source, "b")) == ["b", "end"]


def test_a_condition_after_the_task_is_decided_anew_and_one_before_it_is_not(store: Store) -> None:
    plan = plan_of(
        task("a"), task("yes", "a", when="a.go"), task("no", "a", when="!a.go"), task("end", "yes", "no")
    )  # fmt: skip
    world = World(store, plan, {"a": Outcome(AgentRunState.SUCCEEDED, output='{"go":true}')})
    source = world.start()
    world.drive(source)
    forked = world.fork(source, "end")
    assert world.steps.states(forked) == {"a": "succeeded", "yes": "succeeded", "no": "skipped", "end": "queued"}
    world.acts = {"a": Outcome(AgentRunState.SUCCEEDED, output='{"go":false}')}
    again = world.fork(source, "a")
    assert world.drive(again) == ["a", "no", "end"]
    assert world.steps.states(again)["yes"] == "skipped"


def test_a_task_whose_condition_was_false_is_asked_again(store: Store) -> None:
    plan = plan_of(task("a"), task("b", "a", when="a.go"), task("end", "b"))
    world = World(store, plan, {"a": Outcome(AgentRunState.SUCCEEDED, output='{"go":false}')})
    source = world.start()
    world.drive(source)
    forked = world.fork(source, "b")
    assert world.drive(forked) == []
    assert world.steps.states(forked) == {"a": "succeeded", "b": "skipped", "end": "skipped"}
    assert world.steps.state(forked) is RunState.SUCCEEDED


def test_what_only_has_skipped_tasks_before_it_is_skipped_and_its_run_ends(store: Store) -> None:
    plan = plan_of(task("a", when="false"), task("b", "a"))
    world = World(store, plan)
    source = world.start()
    assert world.steps.states(source) == {"a": "skipped", "b": "skipped"}
    forked = world.fork(source, "b")
    assert world.steps.states(forked) == {"a": "skipped", "b": "skipped"}
    assert world.steps.state(forked) is RunState.SUCCEEDED


PAID = plan_of(task("look"), task("charge", "look", compensate="refund"), task("ship", "charge"), task("log", "look"))


def cancelled(world: World, refund: AgentRunState) -> str:
    """Make a run that was cancelled before it shipped, and whose refund came to that."""
    source = world.start()
    world.drive(source, only={"look", "charge", "log"})
    world.store.runs.cancel(source)
    assert world.steps.state(source) is RunState.RUNNING  # until what it did is undone
    undo, database = world.plan.id_at(source, len(world.plan.tasks)), world.store.database
    at = world.steps.run_row(source)["created_at"]
    change(
        database, agent_run, undo, state=refund.value, started_at=at if database.dialect == "postgresql" else str(at)
    )
    finished = ago(database, 0)
    change(database, run, source, state="cancelled", finished_at=finished)
    return source


def test_what_was_undone_is_done_again_with_all_after_it(store: Store) -> None:
    world = World(store, PAID)
    forked = world.fork(cancelled(world, AgentRunState.SUCCEEDED), "ship")
    assert world.steps.states(forked) == {
        "look": "succeeded",
        "log": "succeeded",
        "charge": "queued",
        "ship": "blocked",
    }
    assert world.drive(forked) == ["charge", "ship"]


def test_what_could_not_be_undone_is_not_done_again(store: Store) -> None:
    world = World(store, PAID)
    assert world.drive(world.fork(cancelled(world, AgentRunState.FAILED), "ship")) == ["ship"]


def test_what_may_have_been_undone_must_be_asked_for(store: Store) -> None:
    world = World(store, PAID)
    source = cancelled(world, AgentRunState.CANCELLED)
    with pytest.raises(RunStateConflict, match="nothing tells whether what task 'charge' did is undone"):
        world.fork(source, "ship")
    assert world.drive(world.fork(source, "charge")) == ["charge", "ship"]


# What was redriven ------------------------------------------------------------------------------------------------------


@pytest.fixture
def redriven(store: Store) -> tuple[World, str]:
    """A diamond whose task `b` has succeeded with an input that somebody has given it after it had failed."""
    world = World(store, DIAMOND, {"b": FAILED})
    source = world.start()
    world.drive(source, only={"a", "c"})
    world.drive(source)
    redrive(store.runs, world.steps.id(source, "b"), '{"text":"mended"}')
    world.acts = {}
    world.drive(source)
    assert world.steps.state(source) is RunState.SUCCEEDED
    return world, source


@pytest.mark.parametrize("from_task", ["b", "c", "end"])
def test_a_fork_keeps_the_input_that_a_task_was_redriven_with(redriven: tuple[World, str], from_task: str) -> None:
    world, source = redriven
    forked = world.fork(source, from_task)
    assert world.steps.row(forked, "b")["input"] == {"text": "mended"}
    assert world.steps.row(forked, "c")["input"] is None


def test_behind_what_runs_anew_a_task_gets_what_its_workflow_says(redriven: tuple[World, str]) -> None:
    world, source = redriven
    assert world.steps.row(world.fork(source, "a"), "b")["input"] is None


def test_an_input_that_is_given_goes_before_the_one_that_it_was_redriven_with(redriven: tuple[World, str]) -> None:
    world, source = redriven
    world.fork_of(source, ["b"], given={world.plan.position["b"]})
    assert world.steps.row(world.new, "b")["input"] is None


def test_what_failed_with_the_input_it_was_redriven_with_gets_it_again(store: Store) -> None:
    world = World(store, DIAMOND, {"b": FAILED})
    source = world.start()
    world.drive(source)
    redrive(store.runs, world.steps.id(source, "b"), '{"text":"mended"}')
    world.drive(source)
    assert world.steps.state(source) is RunState.FAILED
    forked = world.fork(source, "end")
    assert json.loads(world.steps.claim(forked, "b").own_input or "") == {"text": "mended"}


def test_a_fork_may_have_a_deadline_of_its_own(store: Store) -> None:
    world = World(store, DIAMOND)
    source = world.start()
    world.drive(source)
    world.fork_of(source, ["end"], deadline=timedelta(seconds=90))
    row = world.steps.run_row(world.new)
    assert (row["deadline_at"] - row["created_at"]).total_seconds() == 90


# What is refused ------------------------------------------------------------------------------------------------------


def test_an_open_run_cannot_be_forked_nor_one_that_is_not_there(store: Store) -> None:
    world = World(store, DIAMOND)
    source = world.start()
    with pytest.raises(RunStateConflict, match="it can be forked when it has ended"):
        world.fork_of(source, ["a"])
    with pytest.raises(RunNotFound):
        world.fork_of(ids.new(), ["a"])
    assert store.runs.unfinished() == [source]


def test_a_fork_and_a_deletion_at_the_same_moment_make_a_whole_fork_or_none(store: Store) -> None:
    world = World(store, DIAMOND)
    for _ in range(15):
        source = world.start()
        world.drive(source)

        def fork(source: str = source) -> bool:
            try:
                world.fork_of(source, ["end"])
            except RunNotFound:
                return False
            return True

        made, deleted = race(fork, lambda source=source: store.deletions.delete_ended([source]))
        assert made or deleted
        if made:
            assert world.drive(world.new) == ["end"]


def test_a_fork_and_a_retry_at_the_same_moment_do_not_share_what_is_under_way(store: Store) -> None:
    world = World(store, DIAMOND, {"b": FAILED})
    for _ in range(15):
        world.acts = {"b": FAILED}
        source = world.start()
        world.drive(source, only={"a", "c"})
        world.drive(source)
        world.acts = {}

        def fork(source: str = source) -> bool:
            try:
                world.fork_of(source, ["c"])
            except RunStateConflict:
                return False
            return True

        made, _ = race(fork, lambda source=source: bool(store.runs.reopen(source)))
        assert world.drive(source) == ["b", "end"]
        if made:
            assert world.drive(world.new) == ["b", "c", "end"]


# Any workflow ---------------------------------------------------------------------------------------------------------


def random_world(store: Store, numbers: random.Random) -> World:
    """Make a workflow of up to nine tasks: joins, conditions, failures that the run lives with, failures that end it."""
    names = [f"t{index}" for index in range(numbers.randint(2, 9))]
    tasks, acts = [], dict[str, Outcome]()
    for index, name in enumerate(names):
        before = numbers.sample(names[:index], min(index, numbers.choice((0, 1, 1, 2, 3))))
        fields: dict[str, Any] = {}
        if before and numbers.random() < 0.3:
            fields["when"] = f"{before[0]} != null && {before[0]}.go"
        if numbers.random() < 0.3:
            fields["on_error"] = "continue"
        tasks.append(task(name, *before, **fields))
        acts[name] = Outcome(AgentRunState.SUCCEEDED, output=json.dumps({"go": numbers.random() < 0.6}))
        if numbers.random() < (0.5 if fields.get("on_error") else 0.05):
            acts[name] = FAILED
    return World(store, plan_of(*tasks), acts)


def after(plan: Plan, position: int) -> set[int]:
    """Give a task and all that depend on it."""
    found = {position}
    for index in plan.successors[position]:
        found |= after(plan, index)
    return found


def test_a_fork_stands_where_a_run_with_the_same_past_would(store: Store) -> None:
    for seed in range(150 if store.database.dialect == "sqlite" else 25):
        try:
            compare(store, random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def compare(store: Store, numbers: random.Random) -> None:
    world = random_world(store, numbers)
    plan, steps = world.plan, world.steps
    source = world.start()
    world.drive(source)
    if not steps.state(source).final:
        store.runs.cancel(source)
    ended = steps.states(source)
    chosen = numbers.choice(plan.tasks).id
    anew = {plan.tasks[index].id for index in after(plan, plan.position[chosen])}
    lived_with = {each.id for each in plan.tasks if each.on_error == "continue"}
    kept = {
        name
        for name, state in ended.items()
        if name not in anew and (state in {"succeeded", "skipped"} or (state == "failed" and name in lived_with))
    }
    forked, fresh = world.fork(source, chosen), world.start()
    assert steps.row(forked, chosen)["epoch"] == 0
    world.drive(fresh, only=kept)
    assert world.stands(forked) == world.stands(fresh)
    assert steps.state(forked).final is steps.state(fresh).final
    ran = world.drive(forked)
    assert not kept.intersection(ran)
    assert len(ran) == len(set(ran))
    world.drive(fresh)
    assert steps.states(forked) == steps.states(fresh)
    assert steps.state(forked) is steps.state(fresh)


def test_a_fork_has_as_long_as_its_workflow_allows_from_its_own_beginning(store: Store) -> None:
    plan = Plan(WorkflowDefinition.model_validate({"tasks": DIAMOND.tasks, "deadline": 60}))
    world = World(store, plan)
    source = world.start()
    world.drive(source)
    row = world.steps.run_row(world.fork(source, "end"))
    assert (row["deadline_at"] - row["created_at"]).total_seconds() == 60


# What agents have told each other, and what they had called -------------------------------------------------------------


TALK = plan_of(task("a"), task("b"), task("c"), task("end", "a", "b", "c"))


class Talk:
    """A run whose agents have sent each other messages; `end` is what runs anew, or is blocked meanwhile."""

    def __init__(self, store: Store) -> None:
        self.world = World(store, TALK)
        self.store = store
        self.run_id = self.world.start()
        self.claims = {name: self.world.steps.claim(self.run_id, name) for name in "abc"}
        self._numbers = 0

    def letter(self, to: str, body: Any, **fields: Any) -> Letter:
        identity = self.world.steps.id(self.run_id, to)
        return Letter(ids.new(), to, identity, "note", packed(json.dumps(body)), **fields)

    def entry(self, kind: str) -> Entry:
        self._numbers += 1
        return Entry(Slot("", self._numbers), kind, fingerprint(kind, None), EntryState.DONE)

    def send(self, sender: str, to: str, body: Any, **fields: Any) -> Letter:
        letter = self.letter(to, body, **fields)
        assert not self.store.mail.post(self.claims[sender], self.entry("send"), [letter]).refusals
        return letter

    def receive(self, name: str) -> Any:
        [found] = self.store.mail.look(self.claims[name], Filter(), 1).found
        assert self.store.mail.take(self.claims[name], self.entry("receive"), [found.number])
        return found.message.body

    def age(self, letter: Letter, seconds: float) -> None:
        """Let a message be older than it is, with its end."""
        ends = None if letter.ttl_seconds is None else ago(self.store.database, seconds - letter.ttl_seconds)
        with self.store.database.connect() as connection:
            sent = update(agent_message).where(agent_message.c.id == letter.id)
            connection.execute(sent.values(created_at=ago(self.store.database, seconds), expires_at=ends))

    def end(self) -> None:
        for claim in self.claims.values():
            self.world.steps.finish(claim, DONE)
        self.world.drive(self.run_id)
        assert self.world.steps.state(self.run_id) is RunState.SUCCEEDED

    def waiting(self, forked: str, name: str) -> list[tuple[str, Any]]:
        """Give what an agent of a fork finds in its mailbox, with its sender."""
        return [
            (each.sender, each.body)
            for each in self.store.mail.history(forked)
            if each.recipient == name and each.state is MailState.WAITING
        ]


def test_what_kept_tasks_and_others_outside_have_sent_waits_in_a_fork_for_those_that_run_anew(store: Store) -> None:
    talk = Talk(store)
    for number in range(3):
        talk.send("b", "a", number)
    assert [talk.receive("a"), talk.receive("a")] == [0, 1]
    store.mail.deliver(talk.run_id, talk.letter("a", "from outside"), sender=OUTSIDE)
    talk.send("b", "c", "for one that is kept")
    talk.send("c", "end", "for one that has not begun")
    talk.end()
    forked = talk.world.fork(talk.run_id, "a")
    assert talk.waiting(forked, "a") == [("b", 0), ("b", 1), ("b", 2), ("@outside", "from outside")]
    assert talk.waiting(forked, "end") == [("c", "for one that has not begun")]
    assert talk.waiting(forked, "c") == []
    claim = talk.world.steps.claim(forked, "a")
    [found] = store.mail.look(claim, Filter(sender="b"), 1).found
    assert found.message.body == 0
    assert store.mail.take(claim, talk.entry("receive"), [found.number])
    [again] = store.mail.look(claim, Filter(sender="b"), 1).found
    assert again.message.body == 1
    assert store.deletions.delete_ended([talk.run_id]) == 1, "a fork needs nothing of its run"


def test_what_those_have_sent_that_run_anew_is_not_there(store: Store) -> None:
    talk = Talk(store)
    talk.send("a", "end", "of a")
    request = talk.send("a", "b", "what?", wants_reply=True)
    talk.send("b", "a", "that", answers=request.id)
    talk.send("b", "end", "of b")
    talk.end()
    forked = talk.world.fork(talk.run_id, "a")
    assert [(each.sender, each.recipient, each.body) for each in store.mail.history(forked)] == [("b", "end", "of b")]


def test_a_sending_that_was_taken_back_is_in_no_fork_and_the_one_in_its_place_is_there_once(store: Store) -> None:
    talk = Talk(store)
    sent = talk.entry("send")
    first = talk.letter("a", "first")
    assert talk.store.mail.post(talk.claims["b"], sent, [first]).refusals == ()
    assert talk.receive("a") == "first"
    talk.age(first, 10)
    store.journal.void(talk.claims["b"], [sent.slot])
    assert talk.store.mail.post(talk.claims["b"], sent, [talk.letter("a", "second")]).refusals == ()
    gone = talk.entry("send")
    assert talk.store.mail.post(talk.claims["b"], gone, [talk.letter("a", "never")]).refusals == ()
    store.journal.void(talk.claims["b"], [gone.slot])
    talk.end()
    assert talk.waiting(talk.world.fork(talk.run_id, "a"), "a") == [("b", "second")]


def test_a_message_of_a_fork_lives_for_as_long_as_it_would_have(store: Store) -> None:
    talk = Talk(store)
    letter = talk.letter("a", "dead by now", ttl_seconds=1000)
    store.mail.deliver(talk.run_id, letter, sender=OUTSIDE)
    talk.age(letter, 2000)
    assert store.mail.look(talk.claims["a"], Filter(), 1).found == ()
    talk.end()
    forked = talk.world.fork(talk.run_id, "a")
    assert talk.waiting(forked, "a") == [("@outside", "dead by now")]
    with store.database.connect() as connection:
        ends = agent_message.c.expires_at
        query = select(ends > ago(store.database, -900), ends < ago(store.database, -1100))
        assert connection.execute(query.where(agent_message.c.run_id == forked)).one() == (True, True)


def test_a_fork_of_a_fork_has_the_messages_that_the_first_one_began_with(store: Store) -> None:
    talk = Talk(store)
    talk.send("b", "a", 1)
    talk.send("c", "end", 2)
    talk.end()
    first = talk.world.fork(talk.run_id, "a")
    talk.world.drive(first)
    second = talk.world.fork(first, "a")
    assert talk.waiting(second, "a") == [("b", 1)]
    assert talk.waiting(second, "end") == [("c", 2)]
