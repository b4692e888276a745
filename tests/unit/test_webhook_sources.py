"""The file of sources, and what a message becomes: every mistake is told, at its place."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InputInvalid, SettingsInvalid
from orchestrator.webhooks.sources import load_sources
from orchestrator.webhooks.template import filled

GOOD = """
[sources.approvals]
secrets = ["APPROVALS_SECRET", "APPROVALS_SECRET_NEW"]
tolerance = 60

[[sources.approvals.rules]]
answer = { question = "${body.question}", value = "${body.value}", by = "${body.user?}" }

[sources.github]
scheme = "github"
secrets = ["GITHUB_SECRET"]

[[sources.github.rules]]
when = 'headers["x-github-event"] == "issues" && body.action == "opened"'
submit = { workflow = "reader | summarizer", project = "triage", input = { text = "${body.issue.body}" } }

[[sources.github.rules]]
send = { run = "${body.run}", to = "editor" }
"""
ROOTS: dict[str, Any] = {
    "body": {"items": [{"name": "Ada"}], "count": 2, "none": None, "a.b": 1},
    "headers": {"x-github-event": "issues"},
    "id": "m1",
    "source": "github",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "webhooks.toml"
    path.write_text(text)
    return path


def test_sources_are_read_with_what_they_leave_out(tmp_path: Path) -> None:
    found = load_sources(written(tmp_path, GOOD))
    approvals, github = found["approvals"], found["github"]
    assert (approvals.scheme, approvals.tolerance, github.tolerance) == (
        "standard", timedelta(seconds=60), timedelta(minutes=5),
    )  # fmt: skip
    assert approvals.rules[0].answer is not None
    assert github.rules[0].submit is not None
    assert github.rules[1].send is not None
    assert github.rules[1].send.body == "${body}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('secrets = ["GITHUB_SECRET"]', "", "sources.github.secrets: Field required"),
        ('secrets = ["GITHUB_SECRET"]', 'secrets = ["whsec_abc"]', "named by the environment variables"),
        ('secrets = ["GITHUB_SECRET"]', 'secrets = ["NIGHTFLEET_X"]', "are settings"),
        ('scheme = "github"', 'scheme = "gitlab"', "sources.github.scheme"),
        ("tolerance = 60", "tolerence = 60", "no such key, did you mean tolerance"),
        ("tolerance = 60", "tolerance = 7200", "sources.approvals.tolerance"),
        ("sources.approvals", "sources.Approvals", "is no name"),
        ("${body.value}", "${data.value}", "refers to nothing: a message has body, headers, id, source"),
        ("${body.value}", "${boddy.value}", "did you mean 'body'"),
        ('"opened"\'', '"opened" &&\'', "sources.github.rules.0.when"),
        ('body.action == "opened"', 'bdy.action == "opened"', "there is no 'bdy'"),
        ("send = {", 'submit = { workflow = "a" }\nsend = {', "one of answer, submit and send"),
        ('workflow = "reader | summarizer"', 'workflow = "${body.workflow}"', "is not for the sender to say"),
        ("[sources", "[source", "did you mean sources"),
    ],
)
def test_a_mistake_is_told_at_its_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(SettingsInvalid, match="webhooks ") as refused:
        load_sources(written(tmp_path, GOOD.replace(old, new)))
    assert message in refused.value.message
    assert "whsec_abc" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "message"), [("", "names no source"), ("[sources", "webhooks.toml"), ("a = 1", "no such key")]
)
def test_a_file_that_is_none_says_so(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        load_sources(written(tmp_path, text))


def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"no such file or directory \(from --sources or NIGHTFLEET_WEBHOOKS"):
        load_sources(tmp_path / "webhooks.toml")


def test_references_are_replaced_as_values_or_within_text() -> None:
    template = {
        "who": "${body.items.0.name}",
        "n": "${body.count}",
        "text": "${source}: ${body.count} ${headers.x-github-event}",
    }
    assert filled(template, ROOTS) == {"who": "Ada", "n": 2, "text": "github: 2 issues"}
    assert filled("${body}", ROOTS) == ROOTS["body"]
    assert filled(["${id}", 1, None], ROOTS) == ["m1", 1, None]
    assert filled("${body.nothing.at.all?}", ROOTS) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("body.naem", "body has items, count, none, a.b"),
        ("body.items.1.name", "body.items is a list of 1"),
        ("body.count.x", "body.count is a int, without fields"),
        ("body.none.x", "body.none is null"),
    ],
)
def test_a_reference_that_leads_to_nothing_says_what_is_there(path: str, message: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        filled(f"${{{path}}}", ROOTS)
    assert message in refused.value.message
