"""`agents` and `workers` of a fleet as they are typed: who is there, how busy, and how many may run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, fleet
from jsonschema import Draft202012Validator
from shell import ROOT, Done

from orchestrator.cli import main

Command = Callable[..., Done]
CAPABLE_AGENTS = ROOT / "tests/capable_agents"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), agents_path=CAPABLE_AGENTS, heartbeat=0.5) as made:
        made.start_worker()
        yield made


@pytest.fixture
def command(installation: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    for name, value in installation.environment.items():
        if not name.startswith("NIGHTFLEET_TEST_"):
            monkeypatch.setenv(name, value)

    def carry_out(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, shown.out, shown.err, 0.0)

    return carry_out


def checked(name: str, done: Done) -> Any:
    """Give what was printed, which is what the published schema says."""
    assert done.code == 0, done.err
    value = done.json()
    schema = json.loads((ROOT / f"docs/schemas/{name}.json").read_text())
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)
    return value


def test_agents_are_listed_as_they_are_now(command: Command) -> None:
    found = {each["name"]: each for each in checked("live-agents", command("agents", "list", "--live", "--json"))}
    strict = found["strict"]
    assert (strict["state"], strict["workers"], strict["slots"]) == ("served", 1, 20)
    assert strict["capabilities"] == ["review", "reject"]
    assert (strict["queue"], strict["limits"]["model_calls"]) == ("agent.strict", 5)
    assert [each["digest"] for each in strict["versions"]] == [strict["digest"]]
    listed = command("agents", "--live")
    head, *lines = listed.out.splitlines()
    assert head.split() == ["agent", "state", "workers", "slots", "running", "queued", "pool", "version", "can"]
    assert any(line.split()[:4] == ["strict", "served", "1", "20"] and "all slots" in line for line in lines)


def test_an_agent_is_shown_with_who_serves_it(command: Command) -> None:
    shown = checked("live-agent", command("agents", "show", "strict", "--live", "--json"))
    page = command("agents", "show", "strict", "--live").out
    assert f"served by {shown['served_by'][0]}" in page
    assert "limits    model_calls 5" in page
    assert "busy      0 running in 20 slots, 0 queued" in page
    checked("agent", command("agents", "show", "strict", "--json"))
    wrong = command("agents", "show", "strickt", "--live")
    assert (wrong.code, wrong.out) == (2, "")
    assert "no worker has announced an agent 'strickt', did you mean 'strict'?" in wrong.err


def test_workers_are_listed(command: Command, installation: Fleet) -> None:
    [worker] = checked("workers", command("workers", "--json"))
    assert (worker["pid"], worker["state"], worker["slots"]) == (installation.workers[0].pid, "live", 20)
    assert {"strict", "kind"} <= set(worker["agents"])
    head, line = command("workers").out.splitlines()
    assert head.split()[:6] == ["worker", "host", "pid", "state", "slots", "running"]
    assert worker["name"] in line


def test_a_pool_is_paused_scaled_and_resumed(command: Command) -> None:
    assert checked("pool", command("agents", "pause", "kind", "--json"))["paused"]
    assert command("agents", "resume", "kind").out == "kind: all slots; 0 running\n"
    assert command("agents", "scale", "kind", "4").out == "kind: 4 in the fleet; 0 running\n"
    assert command("agents", "scale", "kind", "--grow", "2").out == "kind: 6 in the fleet; 0 running\n"
    shrunk = command("agents", "scale", "kind", "--shrink", "5", "--per-worker", "1")
    assert shrunk.out == "kind: 1 in the fleet, 1 per worker; 0 running\n"
    assert "1 in the fleet, 1 per worker" in command("agents", "--live").out
    assert checked("pool", command("agents", "scale", "kind", "all", "--per-worker", "all", "--json"))["slots"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pause", "kindd"), "no worker has announced an agent 'kindd', did you mean 'kind'?"),
        (("scale", "kind"), "say how many may run at a time: SLOTS, --grow, --shrink or --per-worker"),
        (("scale", "kind", "4", "--grow", "1"), "give one of them"),
        (("scale", "kind", "many"), "'many' is no number of slots: give one such as 4, or all"),
        (("scale", "kind", "0"), "a pool has at least one slot, not 0: pause the agent"),
        (("scale", "kind", "--grow", "1"), "is not bounded: it grows with the workers that serve the agent"),
        (("pause", "kind", "--embedded"), "an embedded installation has no pools"),
    ],
)
def test_what_cannot_be_wished_exits_2(
    command: Command, arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("agents", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_without_workers_there_is_nothing_to_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, words in ((["workers"], "no workers; "), (["agents", "--live"], "no worker has announced an agent")):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        shown = capsys.readouterr()
        assert shown.out == ""
        assert words in shown.err
    assert list(tmp_path.iterdir()) == []
