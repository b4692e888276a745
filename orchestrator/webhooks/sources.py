"""The file of sources: who may send what in, and what comes of it.

::

    [sources.approvals]                              # POST /hooks/approvals
    secrets = ["APPROVALS_SECRET"]                   # names of environment variables; several while one replaces another

    [[sources.approvals.rules]]
    answer = { question = "${body.data.question_id}", value = "${body.data.decision}", by = "${body.data.user}" }

    [sources.github]
    scheme = "github"                                # standard (Standard Webhooks), github or stripe
    secrets = ["GITHUB_WEBHOOK_SECRET"]

    [[sources.github.rules]]                         # the first rule whose `when` holds
    when = 'headers["x-github-event"] == "issues" && body.action == "opened"'
    submit = { workflow = "reader | summarizer", project = "triage", input = { text = "${body.issue.body}" } }
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from orchestrator.contracts.policy import Positive, Value
from orchestrator.contracts.webhook import checked_name, checked_secrets
from orchestrator.errors import SettingsInvalid
from orchestrator.planning import condition
from orchestrator.webhooks.template import check_references

Scheme = Literal["standard", "github", "stripe"]

#: What a condition may look at.
VARIABLES = frozenset({"body", "headers"})


class AnswerRule(Value):
    """Answer a question: by its id, or that of a run that asks just one. `digest`, if given, is that of what was answered."""

    question: str
    value: Any
    by: str | None = None
    digest: str | None = None


class SubmitRule(Value):
    """Submit a run of a workflow: an expression, or a file, which is read when the receiver starts."""

    workflow: str
    input: Any = "${body}"
    project: str = "default"
    user: str | None = None


class SendRule(Value):
    """Send a message to an agent of a run, who gets it from `@outside`; `to` is a task, an agent or a capability."""

    run: str
    to: str
    body: Any = "${body}"
    type: str = "message"


class Rule(Value):
    """What comes of a message for which `when`, a CEL condition on `body` and `headers`, holds; always, without one."""

    when: str | None = None
    answer: AnswerRule | None = None
    submit: SubmitRule | None = None
    send: SendRule | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Rule:
        if sum(each is not None for each in (self.answer, self.submit, self.send)) != 1:
            raise ValueError("a rule says one of answer, submit and send")
        if self.submit is not None and "${" in self.submit.workflow:
            raise ValueError("which workflow is run is not for the sender to say: write one rule for each")
        for action in (self.answer, self.submit, self.send):
            if action is not None:
                check_references(action.model_dump())
        return self

    @field_validator("when")
    @classmethod
    def _decidable(cls, value: str | None) -> str | None:
        if value is not None:
            condition.compiled(value)
            unknown = condition.names(value) - VARIABLES - condition.TYPE_NAMES
            if unknown:
                raise ValueError(f"a condition looks at body and headers, there is no {min(unknown)!r}")
        return value


class Source(Value):
    """Who sends. `tolerance` is how far the time of a message may be from ours; `max_bytes` bounds its body."""

    scheme: Scheme = "standard"
    secrets: tuple[str, ...] = Field(min_length=1, max_length=4)
    rules: tuple[Rule, ...] = Field(min_length=1)
    tolerance: Positive = Field(default=timedelta(minutes=5), le=timedelta(hours=1))
    max_bytes: int = Field(default=1_000_000, ge=1, le=25_000_000)

    @field_validator("secrets")
    @classmethod
    def _variables(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_secrets(value)


class _File(Value):
    sources: dict[str, Source] = Field(default_factory=dict)

    @field_validator("sources")
    @classmethod
    def _named(cls, value: dict[str, Source]) -> dict[str, Source]:
        for name in value:
            checked_name(name)
        return value


def load_sources(path: Path) -> Mapping[str, Source]:
    """Give the sources of a TOML file, by name; raises `SettingsInvalid` with every problem."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsInvalid(f"webhooks {path}: {reason} (from --sources or NIGHTFLEET_WEBHOOKS)") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"webhooks {path}: {error}") from None
    try:
        found = _File.model_validate(data).sources
    except ValidationError as error:
        lines = [_line(fault) for fault in error.errors(include_input=False, include_url=False)]
        count = f"{len(lines)} problem{'s' if len(lines) != 1 else ''}"
        raise SettingsInvalid(f"webhooks {path}: {count}\n" + "\n".join(f"  - {line}" for line in lines)) from None
    if not found:
        raise SettingsInvalid(f"webhooks {path}: it names no source: [sources.NAME] begins one")
    return found


def _line(fault: Mapping[str, Any]) -> str:
    place = [str(part) for part in fault["loc"]]
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = {
            field for model in (_File, Source, Rule, AnswerRule, SubmitRule, SendRule) for field in model.model_fields
        }
        near = difflib.get_close_matches(place[-1], known, n=1)
        message = "there is no such key" + (f", did you mean {near[0]}?" if near else "")
    return f"{'.'.join(place)}: {message}" if place else message
