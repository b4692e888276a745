"""What an agent has done in a test, and assertions about it that say what happened instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import EventLine
from orchestrator.contracts.usage import Usage
from worker.effects.base import Report
from worker.guards.base import Finding
from worker.llm.base import LLMResponse
from worker.llm.catalogue import Catalogue
from worker.llm.prices import priced
from worker.testing.mail import Sent
from worker.testing.standin import ModelCall

_SHOWN_CHARACTERS = 100


class LogLine(NamedTuple):
    """One `ctx.log` of an agent."""

    event: str
    fields: Mapping[str, Any]


class ToolUse(NamedTuple):
    """A call of a tool that a model asked for: what it was told of it, None where the agent has ended before.

    `arguments` are JSON values, or text where the model wrote no JSON. `failed` says that the result is an error.
    """

    name: str
    arguments: Any
    result: str | None = None
    failed: bool = False

    def __str__(self) -> str:
        given = self.arguments
        inside = (
            ", ".join(f"{name}={each!r}" for name, each in given.items()) if isinstance(given, dict) else repr(given)
        )
        result = "no result" if self.result is None else repr(_short(self.result))
        return f"{self.name}({inside}) -> {'error: ' * self.failed}{result}"


class GuardVerdict(NamedTuple):
    """What a guard has made of a text that did not pass as it was, and at which stage: `rewrite`, `refuse` or `ask`."""

    guard: str
    stage: str
    action: str
    because: str = ""

    def __str__(self) -> str:
        return f"{self.guard} at {self.stage}: {self.action}{f' ({self.because})' if self.because else ''}"


class AgentCall(NamedTuple):
    """One agent that was called, with what: of a `ctx.map` there is one for each item."""

    agent: str
    input: Any


@dataclass(slots=True)
class Exchange:
    """A call of a model, and its answer; None where it has failed. `declared` is the model that the agent names."""

    call: ModelCall
    declared: str | None = None
    answer: LLMResponse | None = None


@dataclass(slots=True)
class Recorder:
    """What agents have told and done while they ran, in order; given to several runs, it holds them one after the other.

    `progress` and `logs` are what `ctx.progress` and `ctx.log` told, `exchanges` the calls of models with their answers,
    `verdicts` those of guards, `sent` the messages to other agents, `called` the agents that were called. Assertions raise
    `AssertionError` with what has happened.
    """

    progress: list[Report] = field(default_factory=list[Report])
    logs: list[LogLine] = field(default_factory=list[LogLine])
    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    verdicts: list[GuardVerdict] = field(default_factory=list[GuardVerdict])
    sent: list[Sent] = field(default_factory=list[Sent])
    called: list[AgentCall] = field(default_factory=list[AgentCall])

    @property
    def tools(self) -> list[ToolUse]:
        """The calls of tools that models have asked for, in the order in which they did; also those that were refused."""
        told = {
            message.call_id: message
            for exchange in self.exchanges
            for message in exchange.call.messages
            if message.role == "tool"
        }
        used: list[ToolUse] = []
        for wish in (each for exchange in self.exchanges if exchange.answer for each in exchange.answer.tool_calls):
            try:
                arguments = wish.parsed()
            except ValueError:
                arguments = wish.arguments
            result = told.get(wish.id)
            used.append(
                ToolUse(wish.name, arguments, result.text if result else None, failed=bool(result and result.failed))
            )
        return used

    @property
    def usage(self) -> Usage:
        """What the calls have used; a scripted model counts tokens as one for each three bytes."""
        return reduce(add, (each.answer.usage for each in self.exchanges if each.answer), Usage())

    def cost_usd(self, model: str | None = None) -> Decimal:
        """Give what the calls would cost now, in dollars: of `model`, else of the one that answered, else the agent's own.

        Raises `AssertionError` for a model that nobody knows the price of.
        """
        catalogue, now, nanousd = Catalogue.load(), system_clock.now(), 0
        for exchange in self.exchanges:
            if exchange.answer is None:
                continue
            names = [model] if model else [exchange.answer.model, exchange.declared]
            price = next(filter(None, (catalogue.price_of(name, now) for name in names if name)), None)
            if price is None:
                raise AssertionError(
                    f"nobody knows what {' or '.join(filter(None, names))} costs: name a model that has a price"
                )
            nanousd += priced(exchange.answer.usage, price).cost_nanousd
        return Decimal(nanousd) / 10**9

    # Assertions -------------------------------------------------------------------------------------------------------

    def assert_model_calls(self, count: int | None = None, *, at_most: int | None = None) -> None:
        """Assert how often models were asked: exactly `count` times, or `at_most` so often."""
        made = len(self.exchanges)
        if count is not None and made != count:
            raise AssertionError(f"expected {count} model calls, there were {made}{self._prompts()}")
        if at_most is not None and made > at_most:
            raise AssertionError(f"expected at most {at_most} model calls, there were {made}{self._prompts()}")

    def assert_prompted(self, text: str) -> None:
        """Assert that a model was asked with this in what the user said last, or in what the system says."""
        if not any(text in each.call.prompt or text in each.call.system for each in self.exchanges):
            raise AssertionError(f"no model was asked anything with {text!r}; there were{self._prompts()}")

    def assert_tool_called(self, name: str, /, **arguments: Any) -> None:
        """Assert that a tool was called, with these arguments among its others."""
        if not self._calls_of(name, arguments):
            raise AssertionError(f"expected a call of {_wanted(name, arguments)}, there were{self._used()}")

    def assert_tool_called_once(self, name: str, /, **arguments: Any) -> None:
        """Assert that a tool was called exactly once with these arguments among its others."""
        self.assert_tool_called_times(1, name, **arguments)

    def assert_tool_called_times(self, times: int, name: str, /, **arguments: Any) -> None:
        """Assert how often a tool was called with these arguments among its others."""
        found = len(self._calls_of(name, arguments))
        if found != times:
            raise AssertionError(
                f"expected {times} calls of {_wanted(name, arguments)} and not {found}, there were{self._used()}"
            )

    def assert_tool_not_called(self, name: str, /, **arguments: Any) -> None:
        """Assert that a tool was never called with these arguments."""
        self.assert_tool_called_times(0, name, **arguments)

    def assert_tools_called(self, *names: str) -> None:
        """Assert that exactly these tools were called, in this order."""
        if [each.name for each in self.tools] != list(names):
            raise AssertionError(f"expected calls of {_joined(names)} and no others, there were{self._used()}")

    def assert_tools_in_order(self, *names: str) -> None:
        """Assert that these tools were called one after the other, whatever was called between them."""
        called = iter(self.tools)
        for number, name in enumerate(names):
            if not any(each.name == name for each in called):
                after = f" after {_joined(names[:number])}" if number else ""
                raise AssertionError(f"expected a call of {name}{after}, there were{self._used()}")

    def assert_tool_failed(self, name: str, /, told: str = "") -> None:
        """Assert that the model was told of a failure of a tool, with this text in it."""
        if not any(each.name == name and each.failed and told in (each.result or "") for each in self.tools):
            raise AssertionError(f"expected a failure of {name} that says {told!r}, there were{self._used()}")

    def assert_no_tool_failed(self) -> None:
        """Assert that no model was told of a failure: of a tool, of arguments that do not fit, of a tool that there is not."""
        if any(each.failed for each in self.tools):
            raise AssertionError(f"expected no failure of a tool, there were{self._used()}")

    def assert_tokens(self, *, at_most: int) -> None:
        """Assert how many tokens were used, of input and output together."""
        used = self.usage
        if used.input_tokens + used.output_tokens > at_most:
            raise AssertionError(
                f"expected at most {at_most:,} tokens, there were {used.input_tokens:,} of input and "
                f"{used.output_tokens:,} of output{self._prompts()}"
            )

    def assert_cost(self, *, at_most: Decimal | str | float, model: str | None = None) -> None:
        """Assert what the calls would cost at most, in dollars; see `cost_usd`."""
        cost = self.cost_usd(model)
        if cost > Decimal(str(at_most)):
            raise AssertionError(f"expected a cost of at most ${at_most}, it is ${cost:f}{self._prompts()}")

    def assert_refused_by(self, guard: str, *, stage: str | None = None) -> None:
        """Assert that a guard has refused a text, at this stage."""
        self._assert_verdict("refuse", guard, stage)

    def assert_rewritten_by(self, guard: str, *, stage: str | None = None) -> None:
        """Assert that a guard has written a text anew, at this stage."""
        self._assert_verdict("rewrite", guard, stage)

    def assert_no_refusal(self) -> None:
        """Assert that no guard has refused anything."""
        if any(each.action == "refuse" for each in self.verdicts):
            raise AssertionError(f"expected no refusal, there were{_lines(self.verdicts, 'verdicts')}")

    # What has happened ------------------------------------------------------------------------------------------------

    def _assert_verdict(self, action: str, guard: str, stage: str | None) -> None:
        found = any(
            (each.guard, each.action) == (guard, action) and stage in (None, each.stage) for each in self.verdicts
        )
        if not found:
            at = "" if stage is None else f" at {stage}"
            raise AssertionError(
                f"expected guard {guard} to {action}{at}, there were{_lines(self.verdicts, 'verdicts')}"
            )

    def _calls_of(self, name: str, arguments: Mapping[str, Any]) -> list[ToolUse]:
        return [each for each in self.tools if each.name == name and _has(each.arguments, arguments)]

    def _used(self) -> str:
        return _lines(self.tools, "calls of tools")

    def _prompts(self) -> str:
        told: Callable[[Exchange], str] = lambda each: f"{each.call.agent}: {_short(each.call.prompt)!r}"  # noqa: E731
        return _lines([told(each) for each in self.exchanges], "prompts")


def verdicts_of(events: Iterable[EventLine]) -> list[GuardVerdict]:
    """Give what guards have made of texts, from what watchers of a run are told."""
    told = [each.data["guards"] for each in events if isinstance(each.data, dict) and "guards" in each.data]
    findings = [Finding.model_validate(finding) for several in told for finding in several]
    return [GuardVerdict(each.guard, str(each.place.stage), each.action, each.because) for each in findings]


def _has(given: Any, wanted: Mapping[str, Any]) -> bool:
    return not wanted or (
        isinstance(given, dict) and all(name in given and given[name] == each for name, each in wanted.items())
    )


def _wanted(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{each}={value!r}' for each, value in arguments.items())})" if arguments else name


def _lines(all_told: Sequence[object], what: str) -> str:
    """Give what there was, one to a line, to follow `there were`."""
    return "".join(f"\n  {number}. {each}" for number, each in enumerate(all_told, 1)) or f" no {what}"


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) or "no tool"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
