"""`memory` as it is typed: documents in, found, listed and forgotten, with what it prints for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from shell import ROOT, Done

from orchestrator.cli import main
from orchestrator.clock import ids
from orchestrator.contracts.memory import MemoryItem, MemoryScope, SessionRef, StoredMessage
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from orchestrator.store.store import Store
from worker.memory.embedding import embed_offline

Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/guide").mkdir(parents=True)
    (tmp_path / "docs/mooring.md").write_text("# Mooring\n\nShips are moored with two ropes.")
    (tmp_path / "docs/guide/tea.txt").write_text("Tea is brewed in a pot.")

    def carry_out(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as stopped:
            main(("memory", *arguments))
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, shown.out, shown.err, 0.0)

    return carry_out


@pytest.fixture
def remembered(command: Command) -> list[str]:
    """What an agent of this folder's installation remembers; gives the ids, the oldest first."""
    store = Store.from_settings(Settings())
    schema.upgrade(store.database)
    texts = ["the customer is called Ada", "the order was late", "ask the bank first"]
    made = embed_offline(texts)
    scope = MemoryScope.of_agent(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, "helper")
    kept = [
        MemoryItem(ids.new(), scope, text, made.embedder, vector, "semantic", "ada", "run/task")
        for text, vector in zip(texts, made.vectors, strict=True)
    ]
    for item in kept:
        store.memories.put([item])
    ref = SessionRef(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, "helper", "ada")
    store.sessions.append(ref, [StoredMessage(ids.new(), "{}"), StoredMessage(ids.new(), "{}")], keep=9)
    store.close()
    return [item.id for item in kept]


def check(name: str, done: Done) -> object:
    document = json.loads(done.out)
    published = json.loads((ROOT / "docs/schemas" / f"{name}.json").read_text())
    Draft202012Validator(published, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(document)
    return document


def test_documents_are_ingested_found_and_listed(command: Command) -> None:
    done = command("ingest", "docs", "--corpus", "manual")
    assert (done.code, done.out) == (
        0, "corpus manual: 2 documents, 0 unchanged, 0 forgotten; 2 new passages\n",
    )  # fmt: skip
    assert "guide/tea.txt: 1 passages" in done.err
    found = command("search", "how are ships moored", "--in", "corpus:manual", "--limit", "1")
    assert "mooring.md:1" in found.out
    assert len(found.out.splitlines()) == 2
    assert "corpus:manual       2          2  offline/384" in command("list").out
    assert "guide/tea.txt:1" in command("list", "corpus:manual").out
    (Path("docs") / "mooring.md").unlink()
    assert "1 documents, 1 unchanged, 1 forgotten; 0 new" in command("ingest", "docs", "--corpus", "manual").out


def test_what_is_printed_for_programs_is_what_is_published(command: Command, remembered: list[str]) -> None:
    check("ingested", command("ingest", "docs", "--corpus", "manual", "--json"))
    check("passages", command("search", "tea", "--in", "corpus:manual", "--json"))
    check("passages", command("list", "corpus:manual", "--json"))
    check("memories", command("search", "who is the customer", "--in", "agent:helper", "--json"))
    listed = check("memories", command("list", "agent:helper", "--json"))
    assert isinstance(listed, list)
    assert [each["id"] for each in listed] == remembered[::-1]
    assert [each["whose"] for each in json.loads(command("list", "--json").out)] == ["agent:helper", "corpus:manual"]
    check("memory-summaries", command("list", "--json"))
    check("sessions", command("sessions", "--json"))
    check("reembedded", command("reembed", "--json"))
    assert check("forgotten", command("forget", "agent:helper", remembered[0], "--json")) == {"forgotten": 1}


def test_memories_are_forgotten_as_it_is_said(command: Command, remembered: list[str]) -> None:
    assert command("forget", "agent:helper", "--older-than", "1").out == "agent:helper: 0 forgotten\n"
    assert command("forget", "agent:helper", "--keep", "2").out == "agent:helper: 1 forgotten\n"
    assert remembered[0] not in command("list", "agent:helper").out
    assert command("forget", "agent:helper", "--session", "ada").out == "agent:helper: 2 forgotten\n"
    assert command("forget", "agent:helper", "--all").out == "agent:helper: 2 forgotten\n"
    assert command("list", "agent:helper").err == "agent:helper holds nothing\n"


def test_conversations_are_listed(command: Command, remembered: list[str]) -> None:
    assert "helper  ada             2" in command("sessions").out
    assert command("sessions", "somebody").err == "no conversations\n"


def test_projects_have_each_their_own(command: Command, remembered: list[str]) -> None:
    assert command("ingest", "docs", "--corpus", "manual", "--project", "press").code == 0
    assert "corpus:manual" not in command("list").out
    assert "agent:helper" not in command("list", "--project", "press").out
    assert "corpus:manual" in command("list", "--project", "press").out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("forget", "agent:helper"), "say what to forget, in one way"),
        (("forget", "agent:helper", "--all", "--keep", "1"), "say what to forget, in one way"),
        (("forget", "agent:helper", "x"), "'x' is the id of no piece"),
        (("forget", "corpus:manual", "--keep", "1"), "a corpus holds whole documents"),
        (("forget", "project", "--session", "ada"), "conversations are of agents"),
        (("search", "x", "--in", "helper"), "write agent:NAME, corpus:NAME or project"),
        (("search", " ", "--in", "project"), "the query is empty"),
        (("list", "--project", "nowhere"), "there is no project 'nowhere'"),
        (("ingest", "nowhere", "--corpus", "manual"), "nowhere is no folder"),
        (("ingest", "docs", "--corpus", "a\nb"), "is no name for a corpus"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(command: Command, arguments: tuple[str, ...], reason: str) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert reason in done.err


def test_an_installation_that_remembers_nothing_says_so_and_leaves_nothing_behind(command: Command) -> None:
    done = command("list")
    assert (done.code, done.out, done.err) == (0, "", "nothing is remembered\n")
    assert not Path(".nightfleet").exists()
