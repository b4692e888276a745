"""What an agent may say of a call of `ctx.llm`, and the request that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from pydantic import BaseModel

from worker.guards.base import Guard, Stage
from worker.guards.ruling import looks_at
from worker.llm.base import LLMRequest
from worker.llm.message import Message, message_of
from worker.tools.tool import Tool
from worker.tools.toolkit import RemoteToolkit, Toolkit

Prompt = str | Sequence[Message | Mapping[str, Any]]
Tools = Sequence[Tool | Toolkit | RemoteToolkit | Callable[..., Any] | str | Mapping[str, Any]]
Overflow = Literal["fail", "truncate", "summarize"]

_ITERATIONS = 10
_REPAIRS = 2


class CallOptions(TypedDict, total=False):
    """What may be said of a model call, and holds for that call alone.

    `system` goes before everything. The model may call `tools`: functions, tools, toolkits, or names of registered ones
    that the agent declares; by default it has those of the agent, and with `()` none. It is asked `max_iterations` times at
    most (10), the last time to answer without them. An answer that does not fit its `output` is sent back with what is
    wrong `repairs` times (2). `max_output_tokens` is 4,096 if not given. `overflow` says what is done when a conversation
    outgrows the model's window: it is left to the provider to refuse (`fail`), its oldest turns are left out (`truncate`)
    or replaced by a summary (`summarize`). `fallback` names models, `provider:model`, that are asked in turn when the
    agent's cannot answer. Without `cache` the model is asked even where the same question has an answer; what one agent
    asks twice are two questions in any case. With `stream` whoever watches the run sees the answer come.
    `guards` look at what is said, after those of the agent; an answer that any looks at is neither shown as it comes nor kept
    for others.
    """

    system: str | None
    tools: Tools
    max_iterations: int
    repairs: int
    overflow: Overflow
    max_output_tokens: int
    fallback: str | Sequence[str]
    cache: bool
    stream: bool
    guards: Sequence[Guard]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and within which bounds an answer is sought."""

    request: LLMRequest
    output: type[BaseModel] | None = None
    tools: Tools = ()
    max_iterations: int = _ITERATIONS
    repairs: int = _REPAIRS
    overflow: Overflow = "fail"
    guards: tuple[Guard, ...] = ()


def make_question(model: str, prompt: Prompt, output: type[BaseModel] | None, options: CallOptions) -> Question:
    """Make the question of an `llm` call: text is one user message, `system` goes before everything."""
    said: dict[str, Any] = dict(options)
    if unknown := said.keys() - CallOptions.__annotations__.keys():
        raise TypeError(
            f"llm() takes no {', '.join(sorted(unknown))}: it takes {', '.join(CallOptions.__annotations__)}"
        )
    shape: Any = output
    if shape is not None and not (isinstance(shape, type) and issubclass(shape, BaseModel)):
        raise TypeError(f"llm(): output is a class derived from pydantic's BaseModel, not {shape!r}")
    system, fallback = said.pop("system", None), said.pop("fallback", ())
    bounds = {name: said.pop(name) for name in ("tools", "max_iterations", "repairs", "overflow") if name in said}
    guards = tuple(said.pop("guards", ()))
    if looks_at(guards, Stage.OUTPUT, Stage.ARGUMENTS):
        # What nobody has looked at is shown to nobody, and is not stored for others.
        said |= {"cache": False, "stream": False}
    given = [Message(role="user", content=prompt)] if isinstance(prompt, str) else [message_of(item) for item in prompt]
    first = [] if system is None else [Message(role="system", content=system)]
    request = LLMRequest(
        model=model,
        messages=(*first, *given),
        output_schema=None if output is None else output.model_json_schema(),
        fallbacks=(fallback,) if isinstance(fallback, str) else tuple(fallback),
        **said,
    )
    if bounds.get("max_iterations", 1) < 1 or bounds.get("repairs", 0) < 0:
        raise ValueError("llm(): max_iterations is at least 1, and repairs at least 0")
    return Question(request, output, guards=guards, **bounds)
