"""Questions of agents to people: what is asked, and what has become of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from orchestrator.contracts.policy import Value


class QuestionState(StrEnum):
    """What has become of a question; one of an agent run that has ended is not open, whatever its row says."""

    OPEN = "open"
    ANSWERED = "answered"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What an agent asks: the `text`, and what an answer may be.

    `about` is what is being approved, as JSON; `schema` the JSON Schema of the answer, None for text. `default` is JSON
    text, given when the question expires; without one an expiry is an error.
    """

    text: str
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    about: Any = None
    expires_seconds: float | None = None
    default: str | None = None

    @property
    def digest(self) -> str:
        """The content of what is answered, by which an answer is bound to it."""
        return digest_of(self.text, self.choices, self.schema, self.about)

    def request(self) -> str:
        """Give what is stored beside the text, as JSON."""
        return json.dumps(
            {"choices": self.choices, "schema": self.schema, "about": self.about, "default": self.default},
            ensure_ascii=False,
            separators=(",", ":"),
        )


class Question(Value):
    """A question that waits for an answer.

    `about` is what is being approved. `answer_schema` is the JSON Schema of the answer; without one and without `choices`
    it is text. `digest` is that of text, choices, schema and `about`: an answer that names another one is refused.
    """

    schema_version: Literal[1] = 1
    id: str
    run_id: str
    project: str
    workflow: str
    task: str
    agent: str
    text: str
    choices: tuple[str, ...]
    about: Any
    answer_schema: dict[str, Any] | None
    digest: str
    asked_at: datetime
    expires_at: datetime | None


class Answered(Value):
    """An answer that was taken: `id` is the question's."""

    id: str
    run_id: str
    task: str
    answer: Any
    answered_by: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What an asker gets to know of its question: `answer` is JSON text once it is answered."""

    state: QuestionState
    answer: str | None = None
    #: Until it expires; None waits for ever.
    left_seconds: float | None = None


def digest_of(text: str, choices: Sequence[str], schema: Mapping[str, Any] | None, about: Any) -> str:
    """Give the sha256 of what is being answered."""
    canonical = json.dumps([text, list(choices), schema, about], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
