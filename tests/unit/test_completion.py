"""What a shell is offered, without starting one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from orchestrator import cli
from orchestrator.commands import sections
from orchestrator.contracts.run import RunState


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a plugin of each kind and a workflow."""
    (tmp_path / "agents" / "weigher").mkdir(parents=True)
    (tmp_path / "agents" / "weigher" / "agent.py").write_text("raise SystemExit('a key press must run no plugin')")
    (tmp_path / "agents" / "counter.py").write_text("raise SystemExit('a key press must run no plugin')")
    (tmp_path / "agents" / "_helpers.py").write_text("")
    (tmp_path / "agents" / "notes").mkdir()
    (tmp_path / "night.yaml").write_text("tasks: {}\n")
    (tmp_path / "mine.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(*words: str) -> list[str]:
    *arguments, incomplete = words
    return [
        item.value
        for item in ShellComplete(cli.cli, {}, "nightfleet", "_X").get_completions(list(arguments), incomplete)
    ]


def test_commands_and_their_commands() -> None:
    assert {"run", "runs", "doctor", "init", "completion"} <= set(offered(""))
    assert offered("doc") == ["doctor"]
    assert {"list", "show", "cancel"} <= set(offered("runs", ""))
    assert offered("agents", "n") == ["new"]


def test_options_also_of_a_listing_that_is_not_named() -> None:
    assert "--async" in offered("agents", "new", "-")
    assert "--state" in offered("runs", "--st")
    assert "--state" in offered("runs", "list", "--st")


def test_states() -> None:
    assert (
        offered("runs", "--state", "") == offered("runs", "list", "--state", "") == [state.value for state in RunState]
    )


def test_names_of_agents_by_their_files() -> None:
    assert offered("agents", "show", "c") == ["chooser", "comparer", "counter", "critic"]
    assert "weigher" in offered("agents", "show", "")
    assert not {"_helpers", "notes"} & set(offered("agents", "show", ""))


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("we", ["weigher"]),
        ("reader | we", ["reader | weigher"]),
        ("reader|we", ["reader|weigher"]),
        ("[reader, x=we", ["[reader, x=weigher"]),
        ("(we", ["(weigher"]),
        ("nig", ["night.yaml"]),
    ],
)
def test_the_last_name_of_an_expression_or_a_file(begun: str, expected: list[str]) -> None:
    assert offered("run", begun) == expected
    assert offered("submit", begun) == expected


def test_profiles_that_ship_and_files() -> None:
    assert offered("run", "--config", "") == ["default", "embedded", "rabbitmq", "redis", "mine.toml"]
    assert offered("doctor", "--config", "re") == ["redis"]


def test_where_nothing_fits_the_shell_looks_for_files() -> None:
    found = ShellComplete(cli.cli, {}, "nightfleet", "_X").get_completions(["run"], "no/such")
    assert [(item.value, item.type) for item in found] == [("no/such", "file")]


def test_what_cannot_be_looked_up_offers_nothing() -> None:
    assert offered("runs", "show", "01a1") == []
    assert offered("nope", "") == offered("")


@pytest.mark.parametrize("words", ["", "nightfleet run 'reader | ", "nightfleet runs show '", "\\"])
def test_a_shell_hears_of_no_error(words: str, project: Path) -> None:
    asked = {"_NIGHTFLEET_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "many"}
    command = [sys.executable, "-P", "-m", "orchestrator.cli"]
    done = subprocess.run(command, env=asked, cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bash_itself_completes_inside_quotes(project: Path) -> None:
    script = f"""
        nightfleet() {{ {sys.executable} -P -m orchestrator.cli "$@"; }}
        eval "$(nightfleet completion bash)"
        mkdir bin; printf '#!/bin/sh\\nexec {sys.executable} -P -m orchestrator.cli "$@"\\n' > bin/nightfleet
        chmod +x bin/nightfleet; PATH=$PWD/bin:$PATH
        COMP_WORDS=(nightfleet run '"reader | we'); COMP_CWORD=2
        _nightfleet_completion nightfleet
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], cwd=project, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("reader | weigher\n", "")


@pytest.mark.parametrize(
    ("shell", "first"), [("bash", "# for this shell"), ("zsh", "#compdef nightfleet"), ("fish", "# for")]
)
def test_each_script_says_how_to_install_it(shell: str, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["completion", shell])
    script = capsys.readouterr().out
    assert stopped.value.code == 0
    assert script.startswith(first)
    assert f"nightfleet completion {shell}" in script.splitlines()[1] or shell in script.splitlines()[0]
    assert "_NIGHTFLEET_COMPLETE" in script


def test_every_command_is_in_one_section_of_the_first_page() -> None:
    named = [name for names in sections.SECTIONS.values() for name in names]
    assert sorted(named) == sorted(cli.COMMANDS)
