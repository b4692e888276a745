"""`run_workflow` takes an author's workflow through the death of its processes, and tells what that cost."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import services

from orchestrator.errors import AnswerRefused, UnknownAgent, UsageError
from orchestrator.failpoints import POINTS
from orchestrator.faults.kit import drawn_kills, run_workflow
from orchestrator.faults.trial import Trial
from orchestrator.planning.files import resolve_workflow

AGENTS = '''
import threading
from worker.agent import BaseAgent, RetryableError

def noted(path, word):
    with open(path, "a") as file:
        file.write(word + "\\n")
    return word

class Writer(BaseAgent):
    """Takes two steps that leave a mark outside."""
    def execute(self, data, ctx):
        return {"said": [ctx.step(noted, ctx.run_input["path"], f"{ctx.task} {n}") for n in range(2)]}

class Quiet(BaseAgent):
    def execute(self, data, ctx):
        return {}

class Flaky(BaseAgent):
    """Fails three times."""
    def execute(self, data, ctx):
        with open(ctx.run_input["path"] + ".flaky", "a+") as file:
            file.seek(0)
            if len(file.read()) < 3:
                file.write("x")
                raise RetryableError("not yet")
        return {}

class Waits(BaseAgent):
    """Waits often enough to be killed at each part of it."""
    def execute(self, data, ctx):
        for _ in range(3):
            ctx.sleep(1.5)
        return {}

class Broken(BaseAgent):
    def execute(self, data, ctx):
        raise ValueError("always")

class Asker(BaseAgent):
    model = "openai:gpt-5-mini"
    def execute(self, data, ctx):
        return {"text": ctx.llm("What is a harbour?")}

class Approver(BaseAgent):
    """Asks a person, and anybody else for a while."""
    def execute(self, data, ctx):
        approved = ctx.ask("Publish it?", choices=["yes", "no"])
        return {"approved": approved, "word": ctx.ask("A word?", expires=1, default="none")}

class Sleeper(BaseAgent):
    def execute(self, data, ctx):
        threading.Event().wait(60)
'''

WORKFLOW = """
name: everything
tasks:
  first:  {agent: writer}
  flaky:  {agent: flaky, after: [first], retry: {retries: 9, first_delay: 0.05}}
  broken: {agent: broken, after: [flaky], on_error: continue}
  waits:  {agent: waits, after: [broken]}
  last:   {agent: writer, after: [waits], when: "input.last"}
  # An acknowledgement comes when it comes: enough to do that there is always another one.
  more_1: {agent: quiet, after: [last]}
  more_2: {agent: quiet, after: [more_1]}
  more_3: {agent: quiet, after: [more_2]}
  more_4: {agent: quiet, after: [more_3]}
  more_5: {agent: quiet, after: [more_4]}
  more_6: {agent: quiet, after: [more_5]}
  more_7: {agent: quiet, after: [more_6]}
  more_8: {agent: quiet, after: [more_7]}
"""

#: In an order in which every one of them is still ahead. What was published may have run before the point is passed that
#: comes after it: that one is for tasks without effects.
EMBEDDED = (
    "before_submit", "before_claim", "before_effect", "before_record", "after_record:2",
    "before_completion", "before_requeue", "after_requeue", "before_failure", "after_failure", "before_suspend",
    "after_suspend", "after_wake", "before_decision", "after_decision", "before_ack", "after_ack",
    "after_publish", "before_republish",
)  # fmt: skip


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "under_test.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    return str(folder)


@pytest.mark.timeout(700)
def test_a_run_goes_through_the_death_of_its_process_at_every_point(tmp_path: Path, agents: str) -> None:
    marks = tmp_path / "marks"
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    report = run_workflow(
        "w.yaml", {"path": str(marks), "last": True}, agents_path=agents, kill_at=EMBEDDED, timeout=600
    )
    assert report.kills == tuple(point.partition(":")[0] for point in EMBEDDED)
    states = {part.task: part.state for part in report.result.agent_runs}
    assert report.result.state == "succeeded"
    assert states.pop("broken") == "failed"
    assert set(states.values()) == {"succeeded"}
    # Killed between its end and its record: it was in flight. So may be one of `last`, where a slow machine acknowledges
    # another message meanwhile.
    repeated = report.repeated
    assert repeated.pop(("first", "0")) == 2
    assert repeated in ({}, {("last", "0"): 2}, {("last", "1"): 2})
    assert report.repeated_though_recorded == ()
    done = marks.read_text().splitlines()
    assert set(done) == {"first 0", "first 1", "last 0", "last 1"}
    assert done.count("first 0") == 2, "done, killed before its record, done again; then it is recorded"


def test_a_run_goes_through_the_death_of_workers_of_a_fleet(
    tmp_path: Path, agents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = services.urls()
    monkeypatch.setenv("NIGHTFLEET_BROKER_URL", urls["NIGHTFLEET_TEST_RABBITMQ_URL"])
    monkeypatch.setenv("NIGHTFLEET_DATABASE_URL", urls["NIGHTFLEET_TEST_DATABASE_URL"])
    before = _schemas()
    restarted: list[int] = []
    kills = ("after_claim", "before_release", "after_release", "after_completion")
    report = run_workflow(
        "a=writer | [b=writer, c=writer] | d=writer",
        {"path": str(tmp_path / "marks")},
        agents_path=agents,
        kill_at=kills,
        deliver_twice=True,
        restart_broker_after=(2, lambda: restarted.append(1)),
        timeout=240,
    )
    assert (report.result.state, report.kills, restarted) == ("succeeded", kills, [1])
    assert report.repeated == {}
    assert sorted((tmp_path / "marks").read_text().split("\n")[:-1]) == [
        f"{task} {n}" for task in "abcd" for n in (0, 1)
    ]
    assert _schemas() == before, "what was made for the run is removed"


def test_people_answer_in_a_run_under_faults(agents: str) -> None:
    answers = {"Publish it?": "yes"}
    report = run_workflow("approver", agents_path=agents, kill_at="after_suspend", answers=answers, timeout=240)
    assert (report.result.state, report.kills) == ("succeeded", ("after_suspend",))
    assert report.result.output == {"approved": "yes", "word": "none"}


@pytest.mark.parametrize(
    ("answers", "error", "said"),
    [
        (None, UsageError, r"task 'approver' asks 'Publish it\?', and the test has no answer: add it, as answers="),
        ({"Publish it?": "perhaps"}, AnswerRefused, "perhaps|must be one of"),
    ],
)
def test_a_question_that_would_wait_for_ever_is_an_error_at_once(
    answers: dict[str, str] | None, error: type[Exception], said: str, agents: str
) -> None:
    with pytest.raises(error, match=said):
        run_workflow("approver", agents_path=agents, answers=answers, timeout=240)


def _schemas() -> set[str]:
    with psycopg.connect(services.urls()["NIGHTFLEET_TEST_DATABASE_URL"]) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'faults%'").fetchall()
    return {str(row[0]) for row in found}


def test_every_message_twice_changes_nothing_and_models_are_emulated(agents: str) -> None:
    report = run_workflow("asker", agents_path=agents, deliver_twice=True, timeout=240)
    assert report.result.output["text"].startswith("[emulator]")
    assert [(effect.task, effect.epoch, effect.slot) for effect in report.effects] == [("asker", 1, "0")]
    assert report.points["before_claim"] == 2
    assert report.points["after_claim"] == 1
    assert str(report).endswith("succeeded, not killed; 1 effect, repeated: none")


def test_a_number_of_kills_happens_where_the_seed_says(tmp_path: Path, agents: str) -> None:
    given = {"path": str(tmp_path / "marks")}
    report = run_workflow("a=writer | b=writer", given, agents_path=agents, kill_at=1, seed=4, timeout=240)
    assert (report.result.state, len(report.kills)) == ("succeeded", 1)
    assert drawn_kills(3, 4, tasks=2) == drawn_kills(3, 4, tasks=2) != drawn_kills(3, 5, tasks=2)


def test_a_run_that_fails_is_a_result(agents: str) -> None:
    report = run_workflow("broken", agents_path=agents, timeout=240)
    assert (report.result.state, report.kills) == ("failed", ())
    assert report.result.error is not None
    assert "always" in report.result.error.message


def test_a_point_that_no_process_came_to_is_an_error_that_names_those_it_came_to(agents: str) -> None:
    with pytest.raises(UsageError, match=r"no process came to before_requeue once .*they passed .*before_claim"):
        run_workflow("broken", agents_path=agents, kill_at="before_requeue", timeout=240)


@pytest.mark.parametrize("place", ["before_clam", "after_claim:x", "*"])
def test_a_point_that_there_is_not_is_an_error_that_lists_those_there_are(place: str) -> None:
    with pytest.raises(UsageError, match="kill_at: cannot read") as caught:
        run_workflow("broken", kill_at=place)
    assert all(point in caught.value.message for point in POINTS)


def test_what_a_submit_raises_is_raised(agents: str) -> None:
    with pytest.raises(UnknownAgent, match="asker"):
        run_workflow("askr", agents_path=agents)


def test_there_is_no_broker_to_restart_without_a_fleet() -> None:
    with pytest.raises(UsageError, match="there is no broker"):
        run_workflow("broken", restart_broker_after=(1, lambda: None))


def test_a_run_that_does_not_end_is_given_up(agents: str) -> None:
    with pytest.raises(TimeoutError, match="has not ended within 3 s"):
        run_workflow("sleeper", agents_path=agents, timeout=3)


def test_an_effect_that_is_performed_after_its_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(
        "before_effect a 1 0 step\nafter_record a 0\nbefore_effect a 1 1 step\nafter_record \nbefore_effect a 2 1 step\n"
        "before_effect a 2 0 step\n"
    )
    effects, points, too_often = Trial(tmp_path, resolve_workflow("a=writer"), {}, {}, False, 1).traced()
    assert len(effects) == points["before_effect"] == 4
    assert too_often == (("a", "0"),), "the other one was in flight"
