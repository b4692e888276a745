"""What the emulated model answers: as it was told to, else by a schema, a forced tool, or a summary of what it was asked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.contracts.policy import Value
from worker.emulator.asked import Asked
from worker.emulator.instances import instance_of
from worker.emulator.tokens import Tokenizer, Tokens, json_text
from worker.llm.offline import summary

PREFIX = "[emulator] "
REFUSAL = "I can't help with that."
#: More of a text than this is not read for its summary, which would take longer than the rest of the call.
_MOST_TO_READ = 8_000
_DEFAULT_LIMIT = 4096

Ending = Literal["end", "length", "tool", "refusal", "filter"]


class ToolCall(Value):
    """A call of a tool; without an `id` it gets one from the request. `arguments` as text are what no JSON need be."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict[str, Any])
    id: str | None = None

    @property
    def written(self) -> str:
        """The arguments as the model has written them."""
        return self.arguments if isinstance(self.arguments, str) else json_text(self.arguments)


class Answer(Value):
    """What the model shall answer. Numbers of tokens that are not given are counted.

    `thinking` comes before the text, where the API has a place for it. `stop_reason` is the API's own word, in place of
    the one that follows from the answer. `seconds` is how long it takes; without it the latency of the emulator decides.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refused: bool = False
    input_tokens: int | None = Field(default=None, ge=0)
    cached_input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    reasoning_tokens: int | None = Field(default=None, ge=0)
    stop_reason: str | None = None
    seconds: float | None = Field(default=None, ge=0)


class Reply(Value):
    """What the model said, before it is put into the words of an API."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    ending: Ending
    tokens: Tokens
    thinking: str = ""
    stop_reason: str | None = None


def compose(asked: Asked, told: Answer, prompt: Tokens, tokenizer: Tokenizer) -> Reply:
    """Give the reply to a request, cut off where the request limits it; `prompt` is what its input counts."""
    limit = asked.max_tokens or _DEFAULT_LIMIT
    calls = told.tool_calls
    whole = told.text + "".join(call.written for call in calls)
    # Thinking takes its share of the limit first.
    thought = tokenizer.count(told.thinking) if told.reasoning_tokens is None else told.reasoning_tokens
    text = tokenizer.cut(whole, max(limit - thought, 0))
    is_cut = text != whole
    given = prompt.input if told.input_tokens is None else told.input_tokens
    cached = prompt.cached if told.cached_input_tokens is None else told.cached_input_tokens
    counted = min(tokenizer.count(text) + thought, limit)
    return Reply(
        text=text if is_cut or not calls else told.text,
        # Half of a call is none: what there is of it is text.
        tool_calls=() if is_cut else calls,
        ending=_ending(told, is_cut=is_cut),
        tokens=Tokens(
            input=given,
            cached=min(cached, given),
            cache_written=min(prompt.cache_written, given - min(cached, given)),
            output=counted if told.output_tokens is None else told.output_tokens,
            reasoning=thought,
        ),
        thinking=told.thinking,
        stop_reason=told.stop_reason,
    )


def own_answer(asked: Asked) -> Answer:
    """Give what the model answers by itself."""
    if asked.forced is not None:
        return Answer(tool_calls=(ToolCall(name=asked.forced.name, arguments=_arguments(asked.forced.schema)),))
    if asked.schema is not None:
        return Answer(text=json_text(instance_of(asked.schema)))
    return Answer(text=PREFIX + summary(asked.user_text[:_MOST_TO_READ]))


def _arguments(schema: dict[str, Any]) -> dict[str, Any]:
    made: Any = instance_of(schema)
    return made if isinstance(made, dict) else {}


def _ending(told: Answer, *, is_cut: bool) -> Ending:
    if told.refused:
        return "refusal"
    if is_cut:
        return "length"
    return "tool" if told.tool_calls else "end"
