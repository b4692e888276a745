"""A tool: a function that a model may ask to be called, with the schema that its annotations and docstring say."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from orchestrator.errors import PluginInvalid, ToolError
from worker.llm.message import File, Image, Message, Text, ToolCall, ToolSpec
from worker.tools.needs import Needs, ServiceLimit

T = TypeVar("T")

#: What a tool may ask to be given, and no model sees.
_CONTEXT, _KEY = "ctx", "idempotency_key"
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_MOST_FAULTS = 5
_PLAIN = ConfigDict(extra="forbid", arbitrary_types_allowed=False)

Approve = bool | Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A function as a tool; call it as the function that it is.

    `takes` validates the arguments, `needs` is what of the outside an agent has to be permitted so that it may have the
    tool. A call that `approve` names waits for a person. `tells` are the exceptions that the model is told of and may act
    upon, beside `ToolError`: every other one fails the agent.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] = field(repr=False)
    takes: type[BaseModel] | None = field(default=None, repr=False)
    #: Raises `ToolError` for arguments that do not fit; of tools that have no `takes`.
    check: Callable[[Mapping[str, Any]], None] | None = field(default=None, repr=False)
    takes_context: bool = False
    at_most_once: bool = False
    approve: Approve = False
    timeout_seconds: float | None = None
    limit: ServiceLimit | None = None
    needs: Needs = field(default_factory=Needs)
    tells: tuple[type[Exception], ...] = ()
    #: Whether it gives the same for the same and does nothing else: then it is called again rather than recorded.
    pure: bool = False
    #: Whether of a result that is too long the beginning is told, to be read on.
    shortened: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model knows it."""
        return ToolSpec(name=self.name, description=self.description, parameters=dict(self.parameters))

    @property
    def is_async(self) -> bool:
        """Whether calling it gives something to await."""
        return inspect.iscoroutinefunction(self.function)

    def arguments_of(self, call: ToolCall) -> dict[str, Any]:
        """Give what the function is called with; raises `ToolError`, to be told to the model, for what does not fit."""
        try:
            given = call.parsed()
        except ValueError as error:
            raise ToolError(f"the arguments of {self.name} are no JSON: {error}") from None
        if not isinstance(given, dict):
            raise ToolError(f"the arguments of {self.name} are an object, not {type(given).__name__}")
        if self.takes is None:
            arguments = {str(name): value for name, value in given.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if self.check is not None:
                self.check(arguments)
            return arguments
        try:
            valid = self.takes.model_validate_json(json.dumps(given))
        except ValidationError as error:
            raise ToolError(f"the arguments do not fit {self.name}: {_faults(error)}") from None
        return {name: getattr(valid, name) for name in valid.model_fields_set}

    def wants_approval(self, arguments: Mapping[str, Any]) -> bool:
        """Tell whether a person has to approve of this call; a function is shown the defaults of what was left open too."""
        if not callable(self.approve):
            return self.approve
        fields = {} if self.takes is None else self.takes.model_fields
        left_open = {name: each for name, each in fields.items() if name not in arguments}
        defaults = {name: each.get_default(call_default_factory=True) for name, each in left_open.items()}
        return self.approve({**defaults, **arguments})


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    approve: Approve = False,
    at_most_once: bool = False,
    timeout: float | None = None,
    limit: ServiceLimit | None = None,
    tells: tuple[type[Exception], ...] = (),
    pure: bool = False,
    needs: Needs | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(  # noqa: PLR0913 - each is a property of its own
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    approve: Approve = False,
    at_most_once: bool = False,
    timeout: float | None = None,
    limit: ServiceLimit | None = None,
    tells: tuple[type[Exception], ...] = (),
    pure: bool = False,
    needs: Needs | None = None,
) -> Any:
    """Make a tool of a function: its annotations become the schema, its docstring says what it and its parameters are for.

    A first parameter `ctx` gets the agent's context, and a parameter `idempotency_key` a key that stays the same when the
    call is repeated; no model sees either. `at_most_once`: a call that a kill has interrupted is never repeated, it raises
    `EffectUncertain`. After `timeout` seconds the model is told that it took too long. A `pure` one gives the same for the same
    and does nothing else: no call of it is recorded, unless it is awaited, bounded or limited. `needs` is what an agent has to
    be permitted. Raises `PluginInvalid` for a parameter without an annotation, and for `at_most_once` or `timeout` of one that
    takes `ctx`: its effects have their own.
    """

    def made(function: Callable[..., Any]) -> Tool:
        called = name or function.__name__
        if not _NAME.match(called):
            raise PluginInvalid(f"tool {called!r}: a name is 1 to 64 letters, digits, _ and -: say tool(name=...)")
        takes_context = _CONTEXT in inspect.signature(function).parameters
        if takes_context and (at_most_once or timeout is not None):
            raise PluginInvalid(
                f"tool {called!r} works with ctx: its effects are recorded and not the call, which is made again after a kill. "
                "at_most_once belongs to ctx.step(...) in it, and a timeout to what it does there"
            )
        described, about = _docstring(function)
        takes = _model(function, called, about)
        return Tool(
            name=called,
            description=described,
            parameters=_schema(takes),
            function=function,
            takes=takes,
            takes_context=takes_context,
            at_most_once=at_most_once,
            approve=approve,
            timeout_seconds=timeout,
            limit=limit,
            tells=tells,
            pure=pure,
            needs=needs or Needs(),
        )

    return made if function is None else made(function)


def as_tool(given: Tool | Callable[..., Any]) -> Tool:
    """Give a tool of what an author has named as one: a tool, or a plain function."""
    if isinstance(given, Tool):
        return given
    if isinstance(given, type):
        raise PluginInvalid(f"the class {given.__name__} is no tool: make one of it, {given.__name__}(...)")
    if not callable(given):
        raise PluginInvalid(f"{given!r} is no tool: give a function, or what @tool has made of one")
    return tool(given)


def said(call: ToolCall, result: Any) -> Message:
    """Give a result as the model is told it: text as it is, images and files as such, everything else as JSON."""
    if isinstance(result, Image | File):
        return Message(role="tool", call_id=call.id, content=(result,))
    if isinstance(result, list | tuple) and any(isinstance(each, Image | File) for each in result):  # pyright: ignore[reportUnknownVariableType]
        parts = tuple(each if isinstance(each, Text | Image | File) else Text(text=as_text(each)) for each in result)  # pyright: ignore[reportUnknownVariableType]
        return Message(role="tool", call_id=call.id, content=parts)
    return Message(role="tool", call_id=call.id, content=as_text(result))


def failed(call: ToolCall, error: Exception) -> Message:
    """Give what went wrong with a call as the model is told it."""
    return Message(role="tool", call_id=call.id, content=getattr(error, "message", str(error)), failed=True)


def as_text(value: Any) -> str:
    """Give a value as text: JSON, unless it is text."""
    return (
        value if isinstance(value, str) else to_json(value, by_alias=True, bytes_mode="base64", fallback=str).decode()
    )


def _model(function: Callable[..., Any], called: str, about: Mapping[str, str]) -> type[BaseModel]:
    """Make the model of a function's arguments."""
    fields: dict[str, Any] = {}
    hints = _hints(function, called)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in (_CONTEXT, _KEY):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise PluginInvalid(
                f"tool {called!r}: parameter {name!r} has no name that a model could give: name each one"
            )
        if name not in hints:
            raise PluginInvalid(f"tool {called!r}: parameter {name!r} has no annotation: say what it is ({name}: str)")
        default = ... if parameter.default is parameter.empty else parameter.default
        given = default if isinstance(default, FieldInfo) else Field(default, description=about.get(name))
        fields[name] = (hints[name], given)
    try:
        return create_model(called, __config__=_PLAIN, **fields)
    except Exception as error:  # noqa: BLE001 - pydantic raises many kinds for what has no schema
        raise PluginInvalid(f"tool {called!r}: its annotations have no JSON Schema: {error}") from None


def _hints(function: Callable[..., Any], called: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001 - annotations are expressions and may raise anything
        raise PluginInvalid(f"tool {called!r}: its annotations cannot be read: {error}") from None


def _schema(takes: type[BaseModel]) -> Mapping[str, Any]:
    schema = takes.model_json_schema()
    for each in (schema, *schema.get("$defs", {}).values()):
        each.pop("title", None)
        for given in each.get("properties", {}).values():
            given.pop("title", None)
    return schema


def _docstring(function: Callable[..., Any]) -> tuple[str, Mapping[str, str]]:
    """Give what a docstring says of a function, and of each of its parameters."""
    from docstring_parser import parse

    text = inspect.getdoc(function)
    if not text:
        return "", {}
    found = parse(text)
    told = "\n\n".join(part for part in (found.short_description, found.long_description) if part)
    return told, {each.arg_name: each.description for each in found.params if each.description}


def _faults(error: ValidationError) -> str:
    faults = json.loads(error.json(include_url=False, include_input=False, include_context=False))
    listed = [f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}" for fault in faults[:_MOST_FAULTS]]
    return "; ".join([*listed, *([f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else [])])
