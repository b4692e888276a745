"""One call of a tool, from the model's wish to what the model is told of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.contracts.jsonvalue import storable
from orchestrator.errors import ToolError
from worker.effects.base import RunStep, step_flow
from worker.effects.tools import CallLimited, CallTool, Passed
from worker.effects.waits import NO_DEFAULT, ask_flow, make_ask
from worker.guards.base import Finding, Guard
from worker.llm.message import Message, ToolCall, ToolSpec
from worker.loop.guarding import allowed, guarded_result, passed_result, result_flow, result_review
from worker.loop.steps import Call, Perform, Steps
from worker.tools.bounded import bounded
from worker.tools.tool import Tool, as_text, failed, said, tool

_APPROVE, _REFUSE = "approve", "refuse"
_MOST_CHARACTERS = 20_000
#: That of a tool; a model may write anything.
_LONGEST_NAME = 64


@tool(name="read_result", pure=True)
def READ_RESULT(call: str, offset: int = 0) -> str:  # noqa: N802 - what is left of it is a tool
    """Read on in a result that was too long to be told as a whole.

    Args:
        call: The id of the call that gave the result.
        offset: Where to go on, in characters.
    """
    raise NotImplementedError  # each conversation has its own results


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one conversation by name, and the results that were too long to be told as a whole."""

    tools: Mapping[str, Tool]
    guards: Sequence[Guard] = ()
    long: dict[str, str] = field(default_factory=dict[str, str])
    most_characters: int = _MOST_CHARACTERS
    #: Those of calls that are under way together: which of them has ended first must make no difference to the others.
    _fresh: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as a model knows them."""
        return tuple(each.spec for each in (*self.tools.values(), *((READ_RESULT,) if self.long else ())))

    def find(self, name: str) -> Tool:
        """Give a tool; raises `ToolError`, to be told to the model, where there is none of this name."""
        if name in self.tools:
            return self.tools[name]
        if self.long and name == READ_RESULT.name:
            return replace(READ_RESULT, function=self.read, shortened=False)
        name = name[:_LONGEST_NAME]
        near = difflib.get_close_matches(name, self.tools, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(self.tools) or 'none'}"
        raise ToolError(f"there is no tool {name}; {meant}")

    def guards_of(self, name: str) -> Sequence[Guard]:
        """Give the guards of a tool's calls: what is read on in was looked at as a whole."""
        return () if name == READ_RESULT.name else self.guards

    def shorten(self, call: ToolCall, text: str) -> str:
        """Give a result as it is told; what does not fit is kept, to be read on."""
        if len(text) <= self.most_characters:
            return text
        # Some servers number the calls of each answer from the beginning.
        identity = call.id if call.id not in self.long else f"{call.id}-{len(self.long)}"
        self._fresh[identity] = text
        begin = text[: self.most_characters]
        return f"{begin}\n[{len(text):,} characters; read on with read_result(call={identity!r}, offset={self.most_characters})]"

    def put_away(self) -> None:
        """Let the long results of calls that were made together be read from now on."""
        self.long.update(sorted(self._fresh.items()))
        self._fresh.clear()

    def read(self, call: str, offset: int = 0) -> str:
        """Give the next part of a result that was too long."""
        text = self.long.get(call)
        if text is None:
            raise ToolError(f"no long result has the id {call!r}; there are: {', '.join(self.long) or 'none'}")
        part = text[max(0, offset) : max(0, offset) + self.most_characters]
        end = max(0, offset) + len(part)
        return f"{part}\n[characters {offset:,} to {end:,} of {len(text):,}]"


def called(call: ToolCall, box: Toolbox, findings: Sequence[Finding] = ()) -> Steps[Message]:
    """Call a tool; gives what the model is told. Raises whatever is the agent's fault, and not the model's.

    `findings` are what guards have found in its arguments.
    """
    try:
        yield from allowed(call, findings)
    except ToolError as error:
        return failed(call, error)
    guards = box.guards_of(call.name)
    tells: tuple[type[Exception], ...] = (ToolError,)
    try:
        asked = box.find(call.name)
        tells = (ToolError, *asked.tells)
        result = yield from performed(asked, call, result_review(guards, call))
    except tells as error:
        return (yield from guarded_result(guards, call, failed(call, error)))
    if isinstance(result, Passed):
        message = yield from passed_result(call, result.message, result.findings)
    elif _is_recorded(asked):
        message = said(call, result)
    else:
        message = yield from guarded_result(guards, call, said(call, result))
    if isinstance(message.content, str) and asked.shortened and not message.failed:
        return message.model_copy(update={"content": box.shorten(call, message.content)})
    return message


def performed(asked: Tool, call: ToolCall, review: Callable[[Any], Passed | None] | None = None) -> Steps[Any]:
    """Check the arguments of a call, ask a person where the tool wants that, and call it; gives its result, as it is.

    Raises `ToolError` for arguments that do not fit and for a refusal, and what the tool raises.
    """
    arguments = asked.arguments_of(call)
    if asked.wants_approval(arguments):
        yield from _approved(asked, call, arguments)
    return (yield from _result(asked, arguments, review))


def _is_recorded(tool: Tool) -> bool:
    """Tell whether a call is an effect of its own: also that of a pure tool whose outcome is not its function's alone."""
    if tool.takes_context:
        return False
    return not tool.pure or tool.limit is not None or tool.timeout_seconds is not None or tool.is_async


def _result(tool: Tool, arguments: Mapping[str, Any], review: Callable[[Any], Passed | None] | None) -> Steps[Any]:
    if _is_recorded(tool):
        return (yield Perform(result_flow(effect_of(tool, arguments, review))))
    if not tool.takes_context:
        return tool.function(**arguments)
    if tool.limit is not None:
        yield Perform(step_flow(CallLimited(_nothing, (), {}, tool=tool.name, limit=tool.limit)))
    return (yield Call(tool, arguments))


def effect_of(
    tool: Tool, arguments: Mapping[str, Any], review: Callable[[Any], Passed | None] | None = None
) -> RunStep:
    """Make the effect of a call."""
    function, once = bounded(tool), tool.at_most_once
    if tool.limit is None:
        return CallTool(function, (), arguments, once, tool.name, review)
    return CallLimited(function, (), arguments, once, tool.name, review, tool.limit)


def _nothing() -> None:
    """Stand for the effects that a tool has by itself: what is recorded is that it had its turn."""


def _approved(tool: Tool, call: ToolCall, arguments: Mapping[str, Any]) -> Steps[None]:
    """Ask a person; raises `ToolError` when they refuse. The answer is bound to these very arguments."""
    about = storable({"tool": tool.name, "arguments": call.parsed()})
    given = ", ".join(f"{name}={as_text(value)}" for name, value in arguments.items())
    question = make_ask(
        f"May {tool.name}({given}) be called?",
        choices=(_APPROVE, _REFUSE),
        answer=None,
        expires=None,
        default=NO_DEFAULT,
        about=about,
    )
    if (yield Perform(ask_flow(question))) == _REFUSE:
        raise ToolError(f"a person has refused this call of {tool.name}; do not ask for it again")
