"""Every error that Nightfleet raises, grouped by what the caller can do about it.

::

    NightfleetError
    ├── UsageError                  change what you asked for                      (exit 2)
    │   ├── WorkflowInvalid         every problem of a workflow at once
    │   ├── UnknownAgent            no worker has announced it, no plugin defines it
    │   │   └── UnknownCapability   no agent that is known has it
    │   ├── UnknownRecipient        a message to nobody, or to several
    │   ├── InputInvalid            a value that is no JSON, or not what the agent declares
    │   ├── ValueTooLarge           an input or output over the limit
    │   ├── IdempotencyConflict     the same key with another input
    │   ├── RunNotFound
    │   ├── QuestionNotFound
    │   ├── AnswerRefused           answered before, expired, not what was asked for
    │   ├── RunStateConflict        what you ask for is not possible in the run's state
    │   ├── SettingsInvalid
    │   ├── SchemaOutOfDate         `nightfleet db upgrade` is due
    │   ├── PluginInvalid           an agent that cannot be used, with its origin
    │   ├── EmbedderChanged         memories whose vectors another embedding model has made
    │   └── ImportConflictError     a foreign module of the same name is in the way
    ├── ServiceUnavailable          start the service, or correct its address      (exit 3)
    │   ├── BrokerUnavailable
    │   ├── DatabaseUnavailable
    │   ├── LimiterUnavailable      nobody knows what the limits still allow: wait
    │   └── MemoryUnavailable       where memories are kept, if that is not the database
    ├── AgentError                  what happened inside an agent run              (exit 1)
    │   ├── AgentFailed             the agent's own exception, as data
    │   ├── AgentTimeout            a soft or hard limit was reached
    │   ├── OutputInvalid           the output is no JSON, or not what the agent declares
    │   ├── QuestionExpired         nobody has answered in time
    │   ├── MessageTimeout          no message has come in time
    │   ├── RecipientEnded          a message to an agent that has ended
    │   ├── MailboxFull             as many messages wait as may
    │   ├── NoMessageCanCome        who could send one waits too, or has ended
    │   ├── CallFailed              an agent that was called has failed for good
    │   ├── CallLimitExceeded       calls are nested too deep, or a run has too many
    │   ├── BoundReached            a loop or a team has not come to its end in time
    │   ├── AgentCrashed            it ended its process, alone in it, too often
    │   ├── AgentOutOfMemory        it wanted more than `Limits.memory_mb`
    │   ├── StateConflict           a key of the shared context has another version than was expected
    │   ├── JournalConflict         two effects claim one place in the journal
    │   ├── NondeterminismError     the agent asks for something else than it has recorded
    │   ├── EffectUncertain         an effect may have happened, and may happen at most once
    │   ├── BudgetExceeded          the next model call does not fit into a budget  (exit 4)
    │   ├── BudgetUnpriced          a model without a price under a budget that must hold  (exit 4)
    │   ├── RetryableError          for authors: "try me again"
    │   ├── ToolError               for tools: told to the model, which may do something else
    │   │   └── PermissionDenied    the agent does not declare what would allow it
    │   ├── GuardRefused            a guard let something not pass, with its reason
    │   └── ModelError
    │       ├── ModelUnavailable    retryable: overload, network, 5xx
    │       ├── ModelRateLimited    retryable, carries `retry_after`
    │       ├── ModelRefused        bad request, authentication, quota: not retryable
    │       │   └── DemandTooLarge  one call takes more than a limit ever allows
    │       └── ModelCapabilityError  the model cannot do this at all
    ├── RunDeadlineExceeded         what failed a run that has not ended in time  (exit 1)
    ├── RunFailed                   raised by `run.result()`                       (exit 1)
    ├── RunCancelled                raised by `run.result()`                       (exit 1)
    ├── ResultsUnwritable           the result file of a batch cannot be written   (exit 1)
    └── ClaimLost                   control flow: another claim has taken over; stop, write nothing

Errors cross processes as data (`to_data`, `from_data`), never as pickles. `retryable` and `retry_after` belong to the
error and are set by who raises it; the retry policy obeys them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

Pause = Literal["none", "bucket", "credential", "job"]
Billed = Literal["no", "unknown"]

#: Of an error that was raised from another one, raised from another one.
_MOST_CAUSES = 5


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
        """Give the error as JSON values, with its cause; `from_data` gives an equal error back."""
        return _data_of(self, _MOST_CAUSES)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> NightfleetError:
        """Rebuild the error that `to_data` described.

        One of an author's own class is of that class where it is loaded, else of the nearest of ours, and keeps its code.
        An unknown code becomes `AgentFailed`.
        """
        cls = _class_of(str(data.get("code", ""))) or _class_of(str(data.get("kind", ""))) or AgentFailed
        return cls.rebuild(data)

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
        if data.get("code", cls.code) != cls.code:
            vars(error)["code"] = data["code"]
        if data.get("cause"):
            error.__cause__ = NightfleetError.from_data(data["cause"])
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


class UnknownRecipient(UsageError):
    """A message was sent to an address that means no agent of the run, or several."""

    code = "unknown_recipient"


class UnknownCapability(UnknownAgent):
    """A task, a look-up or a message names a capability, and no agent that is known has it."""

    code = "unknown_capability"


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


class QuestionNotFound(UsageError):
    """There is no question of this id in this database."""

    code = "question_not_found"


class AnswerRefused(UsageError):
    """The question takes this answer not, or none any more; the message says why."""

    code = "answer_refused"


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


class EmbedderChanged(UsageError):
    """Memories were stored with vectors of another embedding model, which cannot be compared with those of this one."""

    code = "embedder_changed"


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


class LimiterUnavailable(ServiceUnavailable):
    """Where the limits of the fleet are kept cannot be reached; no call is made until it can."""

    code = "limiter_unavailable"


class MemoryUnavailable(ServiceUnavailable):
    """Where long-term memory is kept cannot be reached."""

    code = "memory_unavailable"


class AgentError(NightfleetError):
    """Something went wrong inside an agent run."""

    code = "agent_error"


class AgentFailed(AgentError):
    """The agent raised an exception of its own; `details` have its class (`type`) and the line of the agent's (`at`)."""

    code = "agent_failed"


class AgentTimeout(AgentError):
    """The agent run reached its time limit."""

    code = "agent_timeout"
    retryable = True


class OutputInvalid(AgentError):
    """The agent's output is no JSON or not of the declared type."""

    code = "output_invalid"


class QuestionExpired(AgentError):
    """Nobody has answered an agent's question in time, and it has no default."""

    code = "question_expired"


class MessageTimeout(AgentError, TimeoutError):
    """No message has come in time: catch it, or let the agent fail."""

    code = "message_timeout"


class RecipientEnded(AgentError):
    """A message went to an agent that has ended: nobody would receive it."""

    code = "recipient_ended"


class MailboxFull(AgentError):
    """An agent has as many messages as may wait for it: send when it has received some.

    To a sender that is an agent of its run, which waits for that, it is said where this cannot come: `details["waits"]`, if
    they are there, say who waits for whom.
    """

    code = "mailbox_full"


class NoMessageCanCome(AgentError):
    """Everybody who could bring what an agent waits for has ended, or waits in turn: `details["waits"]` says who for whom.

    So it is for messages, and for changes of what is shared (`ctx.state.watch`).
    """

    code = "no_message_can_come"


class CallFailed(AgentError):
    """An agent that was called has failed for good; its error is the cause. `details` have its `task` and `agent`.

    It has been retried as its own policy says, so it is not retryable: retries of callers would multiply it.
    """

    code = "call_failed"


class CallLimitExceeded(AgentError):
    """Calls of agents are nested deeper, or a run has more of them, than the settings allow."""

    code = "call_limit"


class BoundReached(AgentError):
    """A loop or a team has done as many rounds as it may, and has not come to the end that was wanted of it."""

    code = "bound_reached"


class AgentCrashed(AgentError):
    """The process of the agent, with nothing else in it, ended without an outcome, as often as the limit allows."""

    code = "agent_crashed"


class AgentOutOfMemory(AgentError):
    """The agent wanted more memory than `Limits.memory_mb` gives to its process."""

    code = "agent_out_of_memory"


class StateConflict(AgentError):
    """A key of the shared context has another version than was expected; nothing was changed."""

    code = "state_conflict"

    @property
    def version(self) -> int:
        """The version that the key has, 0 where nobody has written it yet."""
        return int(self.details.get("version", 0))


class JournalConflict(AgentError):
    """Another effect is recorded where this one would be; nothing of it is replaced."""

    code = "journal_conflict"


class RetryableError(AgentError):
    """For agents to raise: the same call may succeed later (after `retry_after` seconds, if given)."""

    code = "retryable"
    retryable = True


class ToolError(AgentError):
    """For tools to raise: a call has failed, and the model that asked for it is told so; it may do something else."""

    code = "tool_error"


class PermissionDenied(ToolError):
    """An agent has asked for something of the outside that it does not declare; the message names the declaration."""

    code = "permission_denied"


class GuardRefused(AgentError):
    """A guard has refused what goes into an agent, comes out of it, or is said on the way; the message has the reason."""

    code = "guard_refused"


class NondeterminismError(AgentError):
    """An agent that is repeated asks for another effect than it has recorded in that place; `details` has both."""

    code = "nondeterminism"

    @property
    def changed(self) -> bool:
        """Whether the agent's code is another one than that which has recorded."""
        return bool(self.details.get("changed"))


class EffectUncertain(AgentError):
    """An effect that may happen at most once has begun, and nothing tells whether it has happened."""

    code = "effect_uncertain"


class BudgetExceeded(AgentError):
    """A model call does not fit into a budget that fails what it stops; `details` has its scope and period."""

    code = "budget_exceeded"


class BudgetUnpriced(AgentError):
    """A model has no price, so nobody can keep its calls within a budget that must hold; none was made."""

    code = "budget_unpriced"


class ModelError(AgentError):
    """A model call failed; `details` says why (`reason`), what has to pause, and whether the call may have been billed."""

    code = "model_error"
    #: What the headers of the reply said of limits; of the moment, and no part of the error as data.
    announced: tuple[Any, ...] = ()
    #: Whether a call that failed so may have been billed, where nothing more exact is known.
    _billed: ClassVar[Billed] = "unknown"

    @property
    def reason(self) -> str | None:
        """What went wrong, in one word of ours that is the same for every provider: `rate`, `money`, `context`, ..."""
        return self.details.get("reason")

    @property
    def pause(self) -> Pause:
        """What has to wait: this kind of call (`bucket`), all calls with its key (`credential`), the whole `job`, or none."""
        return self.details.get("pause", "none")

    @property
    def billed(self) -> Billed:
        """Whether the provider charges for the call: `no`, or `unknown`, so that what was reserved for it is kept."""
        return self.details.get("billed", self._billed)


class ModelUnavailable(ModelError):
    """The provider is overloaded, unreachable or failed inside; the same request may succeed later."""

    code = "model_unavailable"
    retryable = True


class ModelRateLimited(ModelError):
    """The provider asks us to slow down; `retry_after` says for how long if it said so."""

    code = "model_rate_limited"
    retryable = True
    _billed = "no"


class ModelRefused(ModelError):
    """The provider will not answer this request however often it is sent: bad request, key, quota, unknown model."""

    code = "model_refused"
    _billed = "no"


class DemandTooLarge(ModelRefused):
    """One model call takes more than one of its limits allows at any time, so that no wait makes it possible."""

    code = "demand_too_large"


class ModelCapabilityError(ModelError):
    """The chosen model cannot do what was asked of it at all."""

    code = "model_capability"
    _billed = "no"


class RunDeadlineExceeded(NightfleetError):
    """The run has not ended within its deadline: it is failed, and what was open of it is cancelled."""

    code = "run_deadline"


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
    described = AgentFailed(
        f"{name}: {error}" if str(error) else name,
        retryable=retryable,
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        details={"type": f"{type(error).__module__}.{name}"},
    )
    described.__cause__ = error.__cause__
    return described


def _data_of(error: NightfleetError, causes: int) -> dict[str, Any]:
    """Give an error as JSON values, with so many of the causes behind it."""
    data: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    ours = next(cls for cls in type(error).__mro__ if cls.__module__ == __name__)
    if ours.code != error.code:
        data["kind"] = ours.code
    if error.retry_after is not None:
        data["retry_after"] = error.retry_after
    if error.details:
        data["details"] = error.details
    if error.__cause__ is not None and causes:
        data["cause"] = _data_of(from_exception(error.__cause__), causes - 1)
    return data


def _class_of(code: str) -> type[NightfleetError] | None:
    found: dict[str, type[NightfleetError]] = {}
    todo: list[type[NightfleetError]] = [NightfleetError]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo.extend(cls.__subclasses__())
    return found.get(code)
