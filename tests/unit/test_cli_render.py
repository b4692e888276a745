"""What the terminal shows, from values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from results import RUN, START, event, part, result

from orchestrator.commands import render
from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.run import AgentRunState, ErrorInfo, RunState, RunSummary
from orchestrator.contracts.usage import Usage

FAILURE = ErrorInfo(code="agent_failed", message="no \x1b[31mink", task="reader")


def test_a_table_aligns_its_columns() -> None:
    assert render.table(("name", ">n"), [("a", "1"), ("bcdef", "100")]) == "name     n\na        1\nbcdef  100"


def test_a_cell_is_one_line() -> None:
    assert render.table(("error",), [("two\nlines",)]) == "error\ntwo lines"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.004, "0.00 s"),
        (9.999, "10.0 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 00 s"),
        (60, "1 min 00 s"),
        (3599.9, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


def test_hosts_whose_clocks_differ_make_no_negative_duration() -> None:
    assert render.between(START + timedelta(seconds=1), START) == 0
    assert render.between(None, START) is None


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain", "plain"),
        ({"text": "the text", "model": "offline"}, "the text"),
        ({"a": {"text": "ü"}}, '{\n  "a": {\n    "text": "ü"\n  }\n}'),
        (None, "null"),
    ],
)
def test_the_output_for_people(output: Any, text: str) -> None:
    assert render.output_text(output) == text


def test_offline_is_never_shown_as_a_language_model() -> None:
    table = render.agent_runs_table(
        result(
            part("reader", output={"model": "offline"}),
            part("critic", model="offline"),
            part("editor", model="openai:gpt-5-mini", output={"model": "offline"}),
            part("other", output=["offline"]),
        )
    )
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert "offline (no language model)" in rows["reader"]
    assert "offline (no language model)" in rows["critic"]
    assert "openai:gpt-5-mini" in rows["editor"]
    assert "offline" not in rows["editor"] + rows["other"]


def test_timings_and_tries() -> None:
    table = render.agent_runs_table(
        result(
            part("retried", failures=2, crashes=1),
            part("failed", state=AgentRunState.FAILED, failures=4),
            part("blocked", state=AgentRunState.BLOCKED, queued_at=None, started_at=None, finished_at=None),
        )
    )
    rows = {line.split()[0]: line.split()[3:] for line in table.splitlines()}
    assert rows["retried"] == ["-", "4", "1.00", "s", "2.50", "s"]
    assert rows["failed"][1] == "4"
    assert rows["blocked"] == ["-", "0", "-", "-"]


def test_each_error_is_shown_once_and_cannot_steer_the_terminal() -> None:
    failed = result(part(error=FAILURE), state=RunState.FAILED, error=FAILURE)
    assert render.errors_of(failed) == ["reader: agent_failed: no [31mink"]
    of_the_run = result(part(), state=RunState.FAILED, error=ErrorInfo(code="x", message="y"))
    assert render.errors_of(of_the_run) == ["x: y"]


def test_the_page_of_a_run() -> None:
    page = render.run_page(
        result(
            part(error=FAILURE),
            state=RunState.FAILED,
            error=FAILURE,
            warnings=("nobody serves it",),
            usage=Usage(model_calls=1, input_tokens=1200, output_tokens=3),
        )
    )
    assert page.startswith(f"run       {RUN}\nworkflow  demo\nproject   press\nstate     failed\n")
    assert "models    1 call, 1,200 tokens in, 3 out\n" in page
    assert "\n\nwarning: nobody serves it\n\nreader: agent_failed" in page


def test_runs_in_a_table() -> None:
    summary = RunSummary(
        id=RUN,
        project="press",
        workflow="demo",
        state=RunState.FAILED,
        error=FAILURE,
        created_at=START,
        started_at=START,
        finished_at=START,
    )
    assert "12:00:00Z  press    demo      failed  0.00 s  reader: agent_failed: no [31mink" in render.runs_table(
        [summary]
    )


def test_the_page_of_an_agent() -> None:
    page = render.agent_page(AgentCard(name="reader", digest="0" * 32, output_schema={"type": "string"}), 2)
    assert "workers   2\n" in page
    assert "takes\nany object" in page
    assert 'gives\n{\n  "type": "string"\n}' in page


LONG = " ".join(["x" * 40] * 5)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (event(), "reader running"),
        (event(state="queued"), None),
        (event(state="queued", error=FAILURE), "reader waits for a retry: no [31mink"),
        (event(state="failed", error=FAILURE), "reader failed: no [31mink"),
        (event(kind="progress", state=None, message="half\nway", data={"fraction": 0.5}), "reader: half way (50%)"),
        (event(kind="progress", state=None, message="on"), "reader: on"),
        (event(kind="run", task=None), None),
        (event(state="suspended", message=f"{LONG}\n`raise it`"), f"reader {LONG} `raise it`"),
    ],
)
def test_events_as_lines(given: RunEvent, line: str | None) -> None:
    assert render.event_line(given) == line


def test_what_can_be_done_next() -> None:
    offline = render.next_steps(result(part(model="offline")), " --embedded")
    assert f"nightfleet runs show {RUN} --embedded" in offline
    assert "OPENAI_API_KEY" in offline
    failed = render.next_steps(result(part(), state=RunState.FAILED), "")
    assert f"nightfleet runs retry {RUN} " in failed
    assert "OPENAI_API_KEY" not in failed


def test_a_fork_names_what_it_has_copied() -> None:
    page = render.run_page(result(part(copied=True), part("editor"), forked_from=RUN))
    assert f"fork of   {RUN}\ncopied    reader\n" in page
    assert "copied" not in render.run_page(result(part()))


@pytest.mark.parametrize(
    ("code", "option"), [("nondeterminism", "--restart"), ("effect_uncertain", "--repeat-uncertain")]
)
def test_what_a_retry_alone_would_meet_again_is_tried_with_the_option_that_helps(code: str, option: str) -> None:
    failed = part(state=AgentRunState.FAILED, error=ErrorInfo(code=code, message="no"))
    assert f"nightfleet runs retry {RUN} --embedded {option} " in render.next_steps(
        result(failed, state=RunState.FAILED), " --embedded"
    )


def test_a_run_that_was_undone_is_forked_or_its_failed_compensations_are_tried_again() -> None:
    ended: dict[str, Any] = {"state": RunState.FAILED, "ending": RunState.FAILED}
    undone = render.next_steps(result(part(), part("undo_reader", undoes="reader"), **ended), "")
    assert f"nightfleet runs fork {RUN} --from reader " in undone
    assert "retry" not in undone
    half = render.next_steps(
        result(part(), part("undo_reader", undoes="reader", state=AgentRunState.FAILED), **ended), ""
    )
    assert f"nightfleet runs retry {RUN} " in half
