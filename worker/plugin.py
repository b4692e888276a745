"""One agent of a plugin: what its class must be, and the shapes of what it takes and gives."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import Limits, Timeouts
from orchestrator.contracts.workflow import MODEL_PATTERN, NAME_PATTERN, NODE_KINDS
from orchestrator.errors import InputInvalid, OutputInvalid, PluginInvalid
from worker.agent import AsyncContext, BaseAgent, Context, name_of
from worker.guards.base import Guard
from worker.loop.granted import Granted
from worker.tools.registry import ToolRegistry

_MODEL = re.compile(MODEL_PATTERN)
_MOST_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Shape:
    """What one side of `execute` is declared to be. Without an adapter it is free: any JSON, or any `dict`."""

    annotation: Any = Any
    adapter: TypeAdapter[Any] | None = None
    schema: dict[str, Any] | None = None

    @property
    def is_model(self) -> bool:
        """Whether it is a pydantic model."""
        return self.adapter is not None and isinstance(self.annotation, type) and issubclass(self.annotation, BaseModel)

    def allows(self, value: Any) -> bool:
        """Tell whether a free shape takes `value`."""
        return isinstance(value, dict) or _is_any(self.annotation)


@dataclass(frozen=True, slots=True)
class LoadedAgent:
    """An agent that can run: its card, its class, and what `execute` takes and gives."""

    card: AgentCard
    agent_class: type[BaseAgent]
    is_async: bool
    takes: Shape
    gives: Shape
    granted: Granted = field(default_factory=Granted)

    @property
    def usd(self) -> Decimal | None:
        """What one agent run may spend: the smaller of what limits and permissions say."""
        said = (self.agent_class.limits.usd, self.granted.permissions.usd)
        return min((each for each in said if each is not None), default=None)

    def parse_input(self, data: Any) -> Any:
        """Give JSON values as the type that `execute` takes; raises `InputInvalid` naming the agent and each fault."""
        what = f"the input of agent {self.card.name!r}"
        if self.takes.adapter is None:
            if not self.takes.allows(data):
                raise InputInvalid(f"{what} must be an object (dict), not {type(data).__name__}")
            return data
        # Validating text rather than values: strict models take a date or a tuple from JSON text, and from no list.
        text = dump(data, what=what, limit_bytes=sys.maxsize, error=InputInvalid)
        try:
            return self.takes.adapter.validate_json(text)
        except ValidationError as error:
            raise InputInvalid(f"{what} is invalid: {_listed(error, root='input')}") from None

    def validate_output(self, value: Any) -> Any:
        """Give what `execute` returned as its declared type; raises `OutputInvalid` naming the agent and each fault."""
        what = f"the output of agent {self.card.name!r}"
        if self.gives.adapter is None:
            plain = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
            if not self.gives.allows(plain):
                raise OutputInvalid(f"{what} must be an object (dict), not {type(value).__name__}")
            return plain
        try:
            return self.gives.adapter.validate_python(value)
        except ValidationError as error:
            raise OutputInvalid(f"{what} is invalid: {_listed(error, root='output')}") from None

    def dump_output(self, value: Any) -> Any:
        """Give what `execute` returned as JSON values; raises `OutputInvalid` like `validate_output`.

        A free output passes as it is: whoever stores it finds what in it is no JSON.
        """
        valid = self.validate_output(value)
        if self.gives.adapter is None:
            return valid
        try:
            return self.gives.adapter.dump_python(valid, mode="json", by_alias=True, warnings="error")
        except PydanticSerializationError as error:
            raise OutputInvalid(f"the output of agent {self.card.name!r} cannot be written as JSON: {error}") from None


def load_class(
    agent_class: type[BaseAgent], *, origin: str, digest: str, registry: ToolRegistry | None = None
) -> LoadedAgent:
    """Give a class as an agent that can run; raises `PluginInvalid` naming everything that is wrong with it.

    The tools that it names come from `registry`, by default those that ship or are installed.
    """
    _refuse(agent_class, [*_attribute_faults(agent_class), *_method_faults(agent_class)])
    data, context, output = _annotations(agent_class)
    is_async = inspect.iscoroutinefunction(agent_class.execute)
    _refuse(agent_class, _context_faults(context, is_async=is_async))
    takes = _shape(agent_class, data, "validation")
    gives = _shape(agent_class, output, "serialization")
    registry = registry or ToolRegistry()
    granted = _granted(agent_class, registry)
    card = AgentCard(
        name=name_of(agent_class),
        description=_description(agent_class),
        capabilities=agent_class.CAPABILITIES,
        digest=_with_tools(digest, agent_class, registry),
        model=agent_class.model,
        input_schema=takes.schema,
        output_schema=gives.schema,
        tools=granted.tool_names,
        guards=tuple(each.name for each in agent_class.guards),
        permissions=granted.permissions,
        limits=agent_class.limits,
        timeouts=agent_class.timeouts,
        origin=origin,
    )
    return LoadedAgent(card, agent_class, is_async=is_async, takes=takes, gives=gives, granted=granted)


def _granted(agent_class: type[BaseAgent], registry: ToolRegistry) -> Granted:
    try:
        granted = Granted.to(agent_class.permissions, agent_class.tools, agent_class.model, registry)
        return replace(granted, guards=agent_class.guards)
    except PluginInvalid as error:
        raise PluginInvalid(f"{agent_class.__name__}: {error.message}") from None


def _with_tools(digest: str, agent_class: type[BaseAgent], registry: ToolRegistry) -> str:
    """Give the version of an agent, which is another one when a file changes that a tool of it is named from."""
    tools = [found for each in agent_class.tools if (found := registry.digest_of(each)) is not None]
    return hashlib.sha256("\0".join([digest, *tools]).encode()).hexdigest()[: len(digest)] if tools else digest


def _refuse(agent_class: type[BaseAgent], faults: Iterable[str]) -> None:
    if listed := "; ".join(faults):
        raise PluginInvalid(f"{agent_class.__name__}: {listed}")


def _attribute_faults(agent_class: type[BaseAgent]) -> Iterator[str]:
    # What the annotations of BaseAgent promise is what is checked here.
    name: Any = name_of(agent_class)
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        yield f"its name {name!r} does not match {NAME_PATTERN}: set `name` to lower-case letters, digits and _"
    if name in NODE_KINDS:
        yield f"its name {name!r} stands for tasks that name a {name} in place of an agent: set `name` to another one"
    yield from _capability_faults(agent_class.CAPABILITIES)
    model: Any = agent_class.model
    if model is not None and not (isinstance(model, str) and _MODEL.fullmatch(model)):
        yield f"`model` is {model!r}: write 'provider:model', such as 'openai:gpt-5-mini', or 'offline'"
    if agent_class.on_change not in ("fail", "restart"):
        yield f"`on_change` is {agent_class.on_change!r}: write 'fail' or 'restart'"
    tools: Any = agent_class.tools
    if not isinstance(tools, tuple):
        yield f"`tools` is {_kind(tools)}, and must be a tuple: write tools = (Calculator(),)"
    yield from _guard_faults(agent_class.guards)
    yield from _type_faults("permissions", agent_class.permissions, Permissions)
    yield from _type_faults("timeouts", agent_class.timeouts, Timeouts)
    yield from _type_faults("limits", agent_class.limits, Limits)
    yield from _isolation_faults(agent_class)
    yield from _constructor_faults(agent_class)


def _isolation_faults(agent_class: type[BaseAgent]) -> Iterator[str]:
    isolation: Any = agent_class.isolation
    if isolation not in ("thread", "process"):
        yield f"`isolation` is {isolation!r}: write 'process' for a process of its own, or leave it out"
    limits: Any = agent_class.limits
    if isolation != "process" and isinstance(limits, Limits) and limits.memory_mb is not None:
        yield "Limits(memory_mb=...) can be kept in a process of its own alone: add isolation = 'process'"


def _guard_faults(guards: Any) -> Iterator[str]:
    if not isinstance(guards, tuple):
        yield f"`guards` is {_kind(guards)}, and must be a tuple: write guards = (Length(10_000),)"
    else:
        wrong: list[Any] = [each for each in guards if not isinstance(each, Guard)]  # pyright: ignore[reportUnknownVariableType]
        yield from (f"`guards` holds {_shown(each)}, which is no guard: {_cure(each)}" for each in wrong)


def _cure(given: Any) -> str:
    if isinstance(given, type) and issubclass(given, Guard):
        return f"make one, such as {given.__name__}(...)"
    if isinstance(given, str | Mapping):
        return "guards go by names in YAML alone; in Python write one of worker.agent, such as Length(10_000)"
    return "decorate a function with @guard"


def _shown(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else repr(given)


def _kind(given: Any) -> str:
    return _shown(given) if isinstance(given, type) else f"a {type(given).__name__}"


def _capability_faults(capabilities: Any) -> Iterator[str]:
    if isinstance(capabilities, str):
        yield f"CAPABILITIES is a text, and must be a tuple: write CAPABILITIES = ({capabilities!r},)"
    elif not isinstance(capabilities, tuple):
        yield f"CAPABILITIES is a {type(capabilities).__name__}, and must be a tuple of texts"
    else:
        wrong: list[Any] = [each for each in capabilities if not isinstance(each, str)]  # pyright: ignore[reportUnknownVariableType]
        yield from (f"CAPABILITIES holds {each!r}, and must be a tuple of texts" for each in wrong)


def _type_faults(attribute: str, value: Any, expected: type) -> Iterator[str]:
    if not isinstance(value, expected):
        yield f"`{attribute}` is a {type(value).__name__}, and must be {expected.__name__}(...) from worker.agent"


def _constructor_faults(agent_class: type[BaseAgent]) -> Iterator[str]:
    try:
        inspect.signature(agent_class).bind()
    except TypeError as error:
        yield f"it is made without arguments for each agent run, and its constructor does not allow that ({error})"


def _method_faults(agent_class: type[BaseAgent]) -> Iterator[str]:
    method = inspect.getattr_static(agent_class, "execute")
    if method is BaseAgent.execute:
        yield "it must define execute(self, data, ctx); begin its name with _ if it is only a base for others"
        return
    if not inspect.isfunction(method):
        yield "execute must be a plain method: def execute(self, data, ctx)"
        return
    parameters = [*inspect.signature(method).parameters.values()][1:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 2 or any(parameter.kind not in positional for parameter in parameters):
        yield "execute must take two arguments beside self: execute(self, data, ctx)"
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        yield "execute must return its output, not yield it"


def _annotations(agent_class: type[BaseAgent]) -> tuple[Any, Any, Any]:
    """Give what `execute` declares of data, context and output; Any where it says nothing."""
    owner = next(base for base in agent_class.__mro__ if "execute" in vars(base))
    method = vars(owner)["execute"]
    try:
        # With the names of the class, so that a model may be nested in its agent.
        hints = get_type_hints(method, localns=dict(vars(owner)), include_extras=True)
    except Exception as error:  # noqa: BLE001 - annotations are expressions and may raise anything
        raise PluginInvalid(
            f"{agent_class.__name__}: the annotations of execute cannot be resolved ({error}): define or import "
            "what they name at the top of the module, outside functions and outside `if TYPE_CHECKING:`"
        ) from None
    data, context = [*inspect.signature(method).parameters][1:]
    return hints.get(data, Any), hints.get(context, Any), hints.get("return", Any)


def _context_faults(context: Any, *, is_async: bool) -> Iterator[str]:
    if is_async and context is Context:
        yield "execute is async, so its context is an AsyncContext: annotate `ctx: AsyncContext`"
    if not is_async and context is AsyncContext:
        yield "execute is not async, so its context is a Context: annotate `ctx: Context`, or write `async def execute`"


def _shape(agent_class: type[BaseAgent], annotation: Any, mode: Literal["validation", "serialization"]) -> Shape:
    if _is_any(annotation) or _is_free_dict(annotation):
        return Shape(annotation)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        # A model may say its schema in its own way.
        schema = annotation.model_json_schema(mode=mode) if is_model else adapter.json_schema(mode=mode)
        return Shape(annotation, adapter, schema)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise PluginInvalid(
            f"{agent_class.__name__}: execute takes or gives {inspect.formatannotation(annotation)}, which is no "
            f"shape of JSON ({reason}): use a pydantic model, or dict"
        ) from error


def _is_any(annotation: Any) -> bool:
    # `BaseModel` itself has no fields: as a declared type it would drop everything.
    return annotation is Any or annotation is object or annotation is BaseModel


def _is_free_dict(annotation: Any) -> bool:
    return annotation is dict or (get_origin(annotation) in (dict, Mapping) and get_args(annotation) == (str, Any))


def _description(agent_class: type[BaseAgent]) -> str:
    """Give the first paragraph of the class's own docstring on one line."""
    return " ".join(inspect.cleandoc(agent_class.__doc__ or "").partition("\n\n")[0].split())


def name_if_any(agent_class: type[BaseAgent]) -> str | None:
    """Give the name that a class has or would have, None if it is no text at all."""
    name: Any = name_of(agent_class)
    return name if isinstance(name, str) else None


def _listed(error: ValidationError, *, root: str) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{'.'.join(map(str, fault['loc'])) or root}: {fault['msg']}" for fault in faults[:_MOST_FAULTS]]
    more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
    return "; ".join([*shown, *more])
