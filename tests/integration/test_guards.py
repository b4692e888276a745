"""Guards in real workers: a verdict outlives the worker, what is hidden is stored nowhere, a refusal is told to people."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from fleet import Fleet, broker_url, fleet

from orchestrator import Orchestrator, RunFailed, Settings
from orchestrator.cli import cli
from worker.emulator import Answer, Emulator, Match, ToolCall
from worker.testing import replay

AGENTS = Path(__file__).parents[1] / "tool_agents"
NOTES = "NIGHTFLEET_TEST_NOTES"
#: What a guard looks at of one run, each once.
LOOKED_AT = ["the arguments of send", "the input", "the output", "the result of send"]


@contextmanager
def installation(folder: Path) -> Generator[tuple[Fleet, Emulator, Path]]:
    """Give a fleet, and a model that has a letter sent to whom it is told, and says so."""
    notes = folder / "notes"
    notes.touch()
    with (
        Emulator() as emulator,
        fleet(folder, agents_path=AGENTS, redis_url=broker_url("redis"), heartbeat=0.5, lease_ttl=8) as made,
    ):
        made.environment |= emulator.env | {NOTES: str(notes)}
        wish = ToolCall(name="send", arguments={"to": "zoe@example.net"}, id="call-1")
        emulator.reply_to(Match(turn=0, text="Write to <EMAIL_1>."), [Answer(tool_calls=(wish,))], repeat=True)
        emulator.reply_to(Match(turn=1), [Answer(text="It was sent to max@example.org.")], repeat=True)
        yield made, emulator, notes


@pytest.mark.parametrize(
    ("agent", "record"), [("clerk", 1), ("clerk", 2), ("async_clerk", 1), ("async_clerk", 2), ("alone_clerk", 2)]
)
def test_a_verdict_is_not_asked_for_again_after_a_kill(tmp_path: Path, agent: str, record: int) -> None:
    """The first record is the verdict on the question, the second an answer with the verdict on its arguments."""
    with installation(tmp_path) as (made, emulator, notes):
        worker = made.start_worker(NIGHTFLEET_FAILPOINTS=f"after_record=kill:{record}")
        run = made.orchestrator.submit(agent, {"to": "ada@example.com"})
        made.until(lambda: worker.poll() is not None, "it dies between a verdict and what it allows")
        made.start_worker()
        made.finish()
        assert run.snapshot().output == {"said": "It was sent to <EMAIL_1>."}
        lines = notes.read_text().splitlines()
        assert sorted(line.removeprefix("looks at ") for line in lines if line.startswith("looks")) == LOOKED_AT
        assert [line for line in lines if line.startswith("send")] == ["send <EMAIL_1>"]
        assert len(emulator.calls) == 2


def stored_in(made: Fleet, text: str) -> set[str]:
    """Give the columns of the database in which a text stands, as text or as bytes."""
    schema = made.environment["NIGHTFLEET_DATABASE_SCHEMA"]
    columns = made.query(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s", schema
    )
    assert len(columns) > 50
    return {
        f"{table}.{column}"
        for table, column in columns
        if made.query(
            f'SELECT 1 FROM "{table}" WHERE position(%s IN "{column}"::text) > 0 OR position(%s IN "{column}"::text) > 0 LIMIT 1',
            text,
            text.encode().hex(),
        )
    }


def test_what_a_guard_has_hidden_is_stored_in_the_input_of_the_run_and_nowhere_else(tmp_path: Path) -> None:
    with installation(tmp_path) as (made, _, _):
        made.start_worker()
        run = made.orchestrator.submit("clerk", {"to": "ada@example.com"})
        made.finish()
        assert run.snapshot().output == {"said": "It was sent to <EMAIL_1>."}
        assert stored_in(made, "Write to <EMAIL_1>.") >= {"journal.request"}
        assert stored_in(made, "ada@example.com") == {"run.input"}
        for hidden in ("zoe@example.net", "eve@example.org", "max@example.org"):
            assert stored_in(made, hidden) == set()
        told = [event.message for event in run.events() if event.message and event.message.startswith("guard")]
        assert told == [
            "guard noted_pii has rewritten the input: 1 EMAIL_ADDRESS",
            "guard noted_pii has rewritten the arguments of send: 1 EMAIL_ADDRESS",
            "guard noted_pii has rewritten the result of send: 1 EMAIL_ADDRESS",
            "guard noted_pii has rewritten the output: 1 EMAIL_ADDRESS",
        ]


# Embedded -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    monkeypatch.setenv("NIGHTFLEET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTFLEET_AGENTS_PATH", str(AGENTS))
    with Orchestrator.embedded(settings=Settings.load()) as made:
        yield made


def test_a_refusal_is_the_outcome_of_the_run_and_shown_with_its_reason(nf: Orchestrator, tmp_path: Path) -> None:
    run = nf.submit("careful", {"text": "something forbidden"})
    reason = "guard strict refuses the input: it is about what is forbidden"
    with pytest.raises(RunFailed, match=reason):
        run.result(timeout=60)
    error = run.snapshot().error
    assert error is not None
    assert error.code == "guard_refused"
    assert reason in [event.message for event in run.events()]
    shown = CliRunner().invoke(cli, ["runs", "show", run.id])
    assert "guard_refused" in shown.output
    assert reason in " ".join(shown.output.split())


def test_a_retry_by_a_person_asks_the_guard_of_today(nf: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    run = nf.submit("careful", {"text": "something forbidden"})
    with pytest.raises(RunFailed, match="guard strict refuses the input"):
        run.result(timeout=60)
    monkeypatch.setenv("NIGHTFLEET_TEST_LENIENT", "1")
    nf.service.retry(run.id)
    assert "said" in run.result(timeout=60)


def test_a_person_decides_and_the_guard_is_not_asked_again(nf: Orchestrator, tmp_path: Path) -> None:
    run = nf.submit("careful", {"text": "something doubtful"})
    next(event for event in run.events() if event.message and event.message.startswith("asks: "))
    [question] = nf.questions(run.id)
    assert question.text == "May the input pass? Guard strict asks: somebody has to say so"
    assert question.about == {"stage": "input", "text": "something doubtful"}
    nf.answer(question.id, "let it pass")
    assert "said" in run.result(timeout=60)
    assert (tmp_path / "notes").read_text().splitlines() == ["looks at the input"]


def test_a_replay_asks_no_guard(nf: Orchestrator, tmp_path: Path) -> None:
    for text in ("something forbidden", "all is well"):
        run = nf.submit("careful", {"text": text})
        run.wait(60)
        before = (tmp_path / "notes").read_text()
        assert replay(run.id).verdict == "same"
        assert (tmp_path / "notes").read_text() == before
