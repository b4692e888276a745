"""Workflows in one line: `a | b` in sequence, `[a, b] | c` in parallel with `c` aggregating, `x=critic` names a task.

::

    sequence = step { "|" step }
    step     = "[" sequence { "," sequence } "]" | "(" sequence ")" | task
    task     = agent | id "=" agent

Expressions know agents alone: a Python function or a Celery task has its place in a file or a `TaskDefinition`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.contracts.workflow import NAME_PATTERN, NODE_KINDS, TaskDefinition, WorkflowDefinition
from orchestrator.errors import WorkflowInvalid
from orchestrator.planning import compose
from orchestrator.planning.compose import Tasks
from orchestrator.planning.hints import excerpt

#: Far below Python's own bound on recursion, which is not ours to use up.
MAX_NESTING = 50

_NAME = re.compile(NAME_PATTERN)
_NAME_RULE = "names have lower-case letters, digits and _, begin with a letter, and are at most 63 long"
_AGENTS_ALONE = (
    "an expression names agents: a function or a Celery task has its place in a file, or in a TaskDefinition"
)
_TOKEN = re.compile(r"(?P<word>[\w.$-]+)|(?P<sign>[^\s])")


def parse_expression(text: str, name: str | None = None) -> WorkflowDefinition:
    """Give the workflow of an expression; raise WorkflowInvalid showing where it goes wrong and what may stand there.

    Tasks get the ids that the expression gives them, the others their agent's name, or `critic_2` where that is taken.
    """
    tasks = _Parser(text).parse()
    return WorkflowDefinition(tasks=tasks) if name is None else WorkflowDefinition(name=name, tasks=tasks)


class _Token(NamedTuple):
    text: str
    start: int
    is_word: bool


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [_Token(found[0], found.start(), found.lastgroup == "word") for found in _TOKEN.finditer(text)]
        self._tokens.append(_Token("", len(text.rstrip()), is_word=False))
        self._next = 0
        self._depth = 0
        self._ids = compose.UniqueIds(self._given_ids())

    def parse(self) -> Tasks:
        tasks = self._sequence()
        if self._token.text:
            raise self._expected("'|' or the end")
        return tasks

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _given_ids(self) -> Iterator[str]:
        """Give the ids before a `=`: agents that come earlier must not take them."""
        seen: set[str] = set()
        for token, following in zip(self._tokens, self._tokens[1:], strict=False):
            if token.is_word and following.text == "=":
                if token.text in seen:
                    raise self._error(
                        f"{token.text!r} is the name of another task already: give this one its own", token
                    )
                seen.add(token.text)
                yield token.text

    def _sequence(self) -> Tasks:
        steps = [self._step()]
        while self._accept("|"):
            steps.append(self._step())
        return compose.in_sequence(steps)

    def _step(self) -> Tasks:
        token = self._token
        if token.is_word:
            return (self._task(),)
        if token.text not in {"[", "("}:
            raise self._expected("an agent, '[' or '('")
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"more than {MAX_NESTING} brackets inside each other: put it in a file", token)
        self._next += 1
        tasks = self._parallel() if token.text == "[" else self._sequence()
        closing = "]" if token.text == "[" else ")"
        if not self._accept(closing):
            raise self._expected(f"'|', ',' or {closing!r}" if closing == "]" else f"'|' or {closing!r}")
        self._depth -= 1
        return tasks

    def _parallel(self) -> Tasks:
        branches = [self._sequence()]
        while self._accept(","):
            branches.append(self._sequence())
        return compose.in_parallel(branches)

    def _task(self) -> TaskDefinition:
        first = self._token
        word = self._word()
        agent, named = (self._token, self._word()) if self._accept("=") else (first, None)
        if (named or word) in NODE_KINDS:
            raise self._error(f"{agent.text!r} is no agent: {_AGENTS_ALONE}", agent)
        return TaskDefinition(id=self._ids.take(word) if named is None else word, agent=named or word)

    def _word(self) -> str:
        token = self._token
        if not token.is_word:
            raise self._expected("an agent")
        if not _NAME.fullmatch(token.text):
            hint = f"; {_AGENTS_ALONE}" if "." in token.text else ""
            raise self._error(f"{token.text!r} is no name: {_NAME_RULE}{hint}", token)
        self._next += 1
        return token.text

    def _accept(self, text: str) -> bool:
        found = self._token.text == text
        self._next += found
        return found

    def _expected(self, what: str) -> WorkflowInvalid:
        token = self._token
        return self._error(f"expected {what}, found {repr(token.text) if token.text else 'the end'}", token)

    def _error(self, message: str, token: _Token) -> WorkflowInvalid:
        """Show the line with a caret below the token."""
        before = self._text[: token.start]
        line, column = before.count("\n"), token.start - (before.rfind("\n") + 1)
        place = f"line {line + 1}, column {column + 1}" if line else f"column {column + 1}"
        shown = excerpt(self._text.split("\n")[line], column)
        return WorkflowInvalid([f"{place}: {message}{shown}"], origin="workflow expression")
