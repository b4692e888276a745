"""Questions of agents on the command line: told of, listed, answered by options and at the terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from shell import COMMAND, ROOT, Shell, run_id_in

from orchestrator.contracts.question import Question

AGENTS = '''
from pydantic import BaseModel
from worker.agent import BaseAgent, Context


class Review(BaseModel):
    stars: int


class Sender(BaseAgent):
    """Ask before sending."""

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": ctx.ask("Send it?", choices=["yes", "no"], about={"usd": 5})}


class Reviewer(BaseAgent):
    """Ask for a review."""

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": f"{ctx.ask('How was it?', answer=Review).stars} stars"}
'''


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {})
    shell.write("agents/asking.py", AGENTS)
    return shell


def until_asked(nf: Shell, run: subprocess.Popen[str]) -> tuple[str, str]:
    """Read what a `run` says until it has told of a question; gives its ids."""
    assert run.stderr is not None
    said = ""
    while "answer with:" not in said:
        line = run.stderr.readline()
        assert line, said
        said += line
    assert "sender asks: Send it?" in said
    assert '"usd": 5' in said
    [command] = [line for line in said.splitlines() if "answer with:" in line]
    assert command.endswith("--yes, or --no")
    return run_id_in(said), command.split()[5]


def test_a_run_tells_how_to_answer_and_goes_on_when_somebody_does(nf: Shell) -> None:
    with nf.start("run", "sender") as run:
        run_id, question_id = until_asked(nf, run)
        listed, one, shown, wrong, neither, both, answered, again, none = nf.one_after_the_other(
            ("runs", "questions", "--json"),
            ("runs", "questions", run_id),
            ("runs", "show", run_id),
            ("runs", "answer", question_id, "--text", "perhaps"),
            ("runs", "answer", question_id),
            ("runs", "answer", question_id, "--yes", "--no"),
            ("runs", "answer", run_id, "--yes", "--by", "ada", "--json"),
            ("runs", "answer", question_id, "--no"),
            ("runs", "answer", "nobody", "--no"),
        )
        out, _ = run.communicate(timeout=60)
    published = {name: json.loads((ROOT / f"docs/schemas/{name}.json").read_text()) for name in ("questions", "answer")}
    Draft202012Validator(published["questions"]).validate(listed.json())
    Draft202012Validator(published["answer"]).validate(answered.json())
    [question] = [Question.model_validate(each) for each in listed.json()]
    assert (question.id, question.run_id, question.choices) == (question_id, run_id, ("yes", "no"))
    assert question_id in one.out
    assert '"usd": 5' in one.out
    assert "sender waits for an answer: Send it?" in shown.out
    assert (wrong.code, neither.code, both.code) == (2, 2, 2)
    assert "must be one of" in wrong.err
    assert "nobody is there to be asked" in neither.err
    assert "leave all but one out" in both.err
    expected = {"id": question_id, "run_id": run_id, "task": "sender", "answer": "yes", "answered_by": "ada"}
    assert json.loads(answered.out) == expected
    assert (again.code, none.code) == (2, 2)
    assert "answered already" in again.err or "has ended" in again.err
    assert "no question" in none.err
    assert (run.returncode, out) == (0, "yes\n")


def at_a_terminal(nf: Shell, *arguments: str, typed: tuple[tuple[str, str], ...]) -> str:
    """Run a command at a terminal, type each answer when its prompt is there; gives all that was to be seen."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **nf.environment}
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=nf.folder, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen, todo, deadline = "", list(typed), time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.2)[0]:
            continue
        try:
            seen += os.read(master, 65_536).decode()
        except OSError:  # the other end is closed
            break
        if todo and seen.count(todo[0][0]) >= len(typed) - len(todo) + 1:
            os.write(master, f"{todo.pop(0)[1]}\n".encode())
    process.kill()
    process.wait()
    os.close(master)
    return seen


def test_who_runs_a_workflow_at_a_terminal_is_asked_there(nf: Shell) -> None:
    prompt = "answer (JSON): "
    seen = at_a_terminal(
        nf, "run", "reviewer", typed=((prompt, "five"), (prompt, '{"stars": "5"}'), (prompt, '{"stars": 5}'))
    )
    assert "reviewer asks: How was it?" in seen
    assert "that is no JSON" in seen
    assert "stars must be of type integer" in seen
    assert "5 stars" in seen


def test_what_is_interrupted_while_it_asks_is_taken_up_again(nf: Shell) -> None:
    with nf.start("run", "sender") as run:
        _, question_id = until_asked(nf, run)
        run.terminate()
        run.wait(60)
    assert nf("runs", "answer", question_id, "--no").code == 0
    resumed = nf("runs", "resume")
    assert (resumed.code, resumed.out) == (0, "no\n")


def test_text_is_no_answer_where_one_of_a_shape_is_wanted(nf: Shell) -> None:
    with nf.start("run", "reviewer") as run:
        assert run.stderr is not None
        question_id = next(line.split()[5] for line in run.stderr if "answer with:" in line)
        refused = nf("runs", "answer", question_id, "--text", "five")
        answered = nf("runs", "answer", question_id, "--value", '{"stars": 5}')
        run.communicate(timeout=60)
    assert (refused.code, answered.code, run.returncode) == (2, 0, 0)
    assert "give JSON with --value" in refused.err
