"""Every error that Nightfleet raises, grouped by what the caller can do about it.

::

    NightfleetError
    ├── UsageError                  change what you asked for                      (exit 2)
    │   ├── WorkflowInvalid         every problem of a workflow at once
    │   ├── UnknownAgent            no worker has announced it, no plugin defines it
    │   ├── InputInvalid            a value that is no JSON, or not what the agent declares
    │   ├── ValueTooLarge           an input or output over the limit
    │   ├── IdempotencyConflict     the same key with another input
    │   ├── RunNotFound
    │   ├── RunStateConflict        what you ask for is not possible in the run's state
    │   ├── SettingsInvalid
    │   ├── SchemaOutOfDate         `nightfleet db upgrade` is due
    │   ├── PluginInvalid           an agent that cannot be used, with its origin
    │   └── ImportConflictError     a foreign module of the same name is in the way
    ├── ServiceUnavailable          start the service, or correct its address      (exit 3)
    │   ├── BrokerUnavailable
    │   └── DatabaseUnavailable
    ├── AgentError                  what happened inside an agent run              (exit 1)
    │   ├── AgentFailed             the agent's own exception, as data
    │   ├── AgentTimeout            a soft or hard limit was reached
    │   ├── OutputInvalid           the output is no JSON, or not what the agent declares
    │   ├── AgentCrashed            its worker died while it ran, too often
    │   ├── RetryableError          for authors: "try me again"
    │   └── ModelError
    │       ├── ModelUnavailable    retryable: overload, network, 5xx
    │       ├── ModelRateLimited    retryable, carries `retry_after`
    │       ├── ModelRefused        bad request, authentication, quota: not retryable
    │       └── ModelCapabilityError  the model cannot do this at all
    ├── RunFailed                   raised by `run.result()`                       (exit 1)
    ├── RunCancelled                raised by `run.result()`                       (exit 1)
    ├── ResultsUnwritable           the result file of a batch cannot be written   (exit 1)
    └── ClaimLost                   control flow: another claim has taken over; stop, write nothing

Errors cross processes as data (`to_data`, `from_data`), never as pickles. `retryable` and `retry_after` belong to the
error and are set by who raises it; the retry policy obeys them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self


class NightfleetError(Exception):
    """Base of all errors: a stable `code`, a message that says what to do, and whether a retry can help.

    `retry_after` is in seconds and is a lower bound for the next try. `details` holds JSON values only.
    """

    code: ClassVar[str] = "error"
    retryable: bool = False
    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if retryable is not None:
            self.retryable = retryable
        self.retry_after = retry_after
        self.details: dict[str, Any] = dict(details or {})

    def to_data(self) -> dict[str, Any]:
        """Give the error as JSON values; `from_data` gives an equal error back."""
        data: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.retry_after is not None:
            data["retry_after"] = self.retry_after
        if self.details:
            data["details"] = self.details
        return data

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> NightfleetError:
        """Rebuild the error that `to_data` described; an unknown code becomes `AgentFailed`."""
        return _class_of(str(data.get("code", ""))).rebuild(data)

    @classmethod
    def rebuild(cls, data: Mapping[str, Any]) -> Self:
        """Make one of this class from data, without running a subclass's own constructor."""
        error = cls.__new__(cls)
        NightfleetError.__init__(
            error,
            str(data.get("message", "")),
            retryable=bool(data.get("retryable", cls.retryable)),
            retry_after=data.get("retry_after"),
            details=data.get("details"),
        )
        return error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NightfleetError) and self.to_data() == other.to_data()

    __hash__ = Exception.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return NightfleetError.from_data, (self.to_data(),)


class UsageError(NightfleetError):
    """What was asked for cannot be done as it stands; asking again changes nothing."""

    code = "usage"


class WorkflowInvalid(UsageError):
    """The workflow has problems; `problems` lists all of them, each with its place."""

    code = "workflow_invalid"

    def __init__(self, problems: list[str], *, origin: str = "workflow") -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{origin}: {count}\n{lines}", details={"problems": problems})

    @property
    def problems(self) -> list[str]:
        return list(self.details.get("problems", []))


class UnknownAgent(UsageError):
    """No live or past worker has announced the agent, and no local plugin defines it."""

    code = "unknown_agent"


class InputInvalid(UsageError):
    """A value given to a workflow or an agent has not the declared type, or is no JSON."""

    code = "input_invalid"


class ValueTooLarge(UsageError):
    """An input or output is over the size limit (`NIGHTFLEET_MAX_VALUE_BYTES`)."""

    code = "value_too_large"


class IdempotencyConflict(UsageError):
    """The idempotency key was used before with another workflow or input."""

    code = "idempotency_conflict"


class RunNotFound(UsageError):
    """There is no run of this id in this database."""

    code = "run_not_found"


class RunStateConflict(UsageError):
    """The run is not in a state in which this is possible."""

    code = "run_state_conflict"


class SettingsInvalid(UsageError):
    """A setting is missing, unknown or contradicts another one."""

    code = "settings_invalid"


class SchemaOutOfDate(UsageError):
    """The database schema is not the one this version needs."""

    code = "schema_out_of_date"


class PluginInvalid(UsageError):
    """An agent plugin cannot be used; the message names its origin."""

    code = "plugin_invalid"


class ImportConflictError(UsageError):
    """A module that is not ours is imported under one of our names."""

    code = "import_conflict"


class ServiceUnavailable(NightfleetError):
    """A service that is needed cannot be reached; addresses in the message are masked."""

    code = "service_unavailable"
    retryable = True


class BrokerUnavailable(ServiceUnavailable):
    """The message broker cannot be reached."""

    code = "broker_unavailable"


class DatabaseUnavailable(ServiceUnavailable):
    """The database cannot be reached."""

    code = "database_unavailable"


class AgentError(NightfleetError):
    """Something went wrong inside an agent run."""

    code = "agent_error"


class AgentFailed(AgentError):
    """The agent raised an exception of its own; `details["type"]` names its class."""

    code = "agent_failed"


class AgentTimeout(AgentError):
    """The agent run reached its time limit."""

    code = "agent_timeout"
    retryable = True


class OutputInvalid(AgentError):
    """The agent's output is no JSON or not of the declared type."""

    code = "output_invalid"


class AgentCrashed(AgentError):
    """The worker died while it ran this agent, as often as the limit allows."""

    code = "agent_crashed"


class RetryableError(AgentError):
    """For agents to raise: the same call may succeed later (after `retry_after` seconds, if given)."""

    code = "retryable"
    retryable = True


class ModelError(AgentError):
    """A model call failed."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """The provider is overloaded, unreachable or failed inside; the same request may succeed later."""

    code = "model_unavailable"
    retryable = True


class ModelRateLimited(ModelError):
    """The provider asks us to slow down; `retry_after` says for how long if it said so."""

    code = "model_rate_limited"
    retryable = True


class ModelRefused(ModelError):
    """The provider will not answer this request however often it is sent: bad request, key, quota, unknown model."""

    code = "model_refused"


class ModelCapabilityError(ModelError):
    """The chosen model cannot do what was asked of it at all."""

    code = "model_capability"


class RunFailed(NightfleetError):
    """The run ended as failed; the message is that of the task that failed it."""

    code = "run_failed"


class RunCancelled(NightfleetError):
    """The run was cancelled before it ended."""

    code = "run_cancelled"


class ResultsUnwritable(NightfleetError):
    """The result file of a batch cannot be written; what it lacks is in the database."""

    code = "results_unwritable"


class ClaimLost(NightfleetError):
    """Another claim has taken over this agent run, or it was cancelled: its executor stops and writes nothing."""

    code = "claim_lost"


def from_exception(error: BaseException) -> NightfleetError:
    """Describe any exception as one of ours; foreign ones are retryable only if they say so or the network failed."""
    if isinstance(error, NightfleetError):
        return error
    name = type(error).__qualname__
    retryable = bool(getattr(error, "retryable", isinstance(error, ConnectionError | TimeoutError)))
    retry_after = getattr(error, "retry_after", None)
    return AgentFailed(
        f"{name}: {error}" if str(error) else name,
        retryable=retryable,
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        details={"type": f"{type(error).__module__}.{name}"},
    )


def _class_of(code: str) -> type[NightfleetError]:
    found: dict[str, type[NightfleetError]] = {}
    todo: list[type[NightfleetError]] = [NightfleetError]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo.extend(cls.__subclasses__())
    return found.get(code, AgentFailed)
