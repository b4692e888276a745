"""An agent without code: what a file says of it. Frozen values, no I/O."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import Limits, Timeouts, Value
from orchestrator.contracts.workflow import ModelName, Name

#: What a field holds: a word such as `str` or `int?`, choices such as `good | bad`, a list `[str]`, or fields again.
Fields = dict[str, str | list[Any] | dict[str, Any]]
JsonSchema = dict[str, Any]
Named = str | dict[str, dict[str, Any] | None]


class _Late(Value):
    """A value whose validator is made when it is first needed: most workers have no agent without code."""

    model_config = ConfigDict(defer_build=True)


def _as_several(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


class MemoryUse(_Late):
    """What an agent without code remembers, and what of it goes into a question.

    `session` is the id of a conversation, with `{fields}` of the input: its last `messages` go before the question, and
    question and answer become part of it. The `recall` memories that are nearest to a question go into it, those that agents
    share too if `shared`. With `remember` the model has a tool to remember something by.
    """

    session: str | None = Field(default=None, min_length=1, max_length=1000)
    messages: int = Field(default=20, ge=0, le=1000)
    recall: int = Field(default=0, ge=0, le=100)
    shared: bool = False
    remember: bool = False

    @model_validator(mode="after")
    def _remembers_something(self) -> Self:
        if self.session is None and not self.recall and not self.remember:
            raise ValueError("nothing is remembered: give session, recall or remember")
        return self


class AgentDefinition(_Late):
    """An agent without code. A key means what it means as an attribute of `BaseAgent`, or as an option of `ctx.llm`.

    `prompt` is what the model is asked, with `{fields}` of the input; where it names none, the input follows it as JSON. `input`
    and `output` say their fields, `input_schema` and `output_schema` do so as JSON Schema. Without either an agent takes any
    object, and gives `text` and `model`.
    """

    schema_version: Literal[1] = 1
    #: That of the file if not given.
    name: Name | None = None
    description: str = ""
    capabilities: tuple[str, ...] = ()
    model: ModelName | None = None
    #: Models that are asked in turn when the agent's cannot answer; they are permitted by that.
    fallback: Annotated[
        tuple[ModelName, ...], BeforeValidator(_as_several, json_schema_input_type=str | list[str])
    ] = ()
    system: str | None = None
    prompt: str | None = None
    input: Fields | None = Field(default=None, min_length=1)
    input_schema: JsonSchema | None = None
    output: Fields | None = Field(default=None, min_length=1)
    output_schema: JsonSchema | None = None
    #: Names of tools and kits, those with options as `{files: {root: ./notes}}`.
    tools: tuple[Named, ...] = ()
    #: Names of guards that ship, those with options as `{length: {most: 20000}}`.
    guards: tuple[Named, ...] = ()
    permissions: Permissions = Permissions()
    memory: MemoryUse | None = None
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    isolation: Literal["thread", "process"] = "thread"
    on_change: Literal["fail", "restart"] = "fail"
    max_iterations: int | None = Field(default=None, ge=1, le=1000)
    repairs: int | None = Field(default=None, ge=0, le=100)
    overflow: Literal["fail", "truncate", "summarize"] | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    cache: bool | None = None
    stream: bool | None = None

    @model_validator(mode="after")
    def _says_each_shape_once(self) -> Self:
        for side in ("input", "output"):
            if getattr(self, side) is not None and getattr(self, f"{side}_schema") is not None:
                raise ValueError(f"it has {side} and {side}_schema: keep one of them")
        return self
