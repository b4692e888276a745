"""Nightfleet's control plane: what a producer imports.

Nothing here connects, reads settings or imports a broker's client before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.agents import AgentPool as AgentPool
    from orchestrator.agents import AgentRegistry as AgentRegistry
    from orchestrator.aio import AsyncOrchestrator as AsyncOrchestrator
    from orchestrator.aio import AsyncRunHandle as AsyncRunHandle
    from orchestrator.client import Orchestrator as Orchestrator
    from orchestrator.contracts.batch import BatchFailure as BatchFailure
    from orchestrator.contracts.batch import BatchOptions as BatchOptions
    from orchestrator.contracts.batch import BatchProgress as BatchProgress
    from orchestrator.contracts.batch import BatchResult as BatchResult
    from orchestrator.contracts.budget import Budget as Budget
    from orchestrator.contracts.budget import BudgetSummary as BudgetSummary
    from orchestrator.contracts.cost import CostFilter as CostFilter
    from orchestrator.contracts.cost import CostLine as CostLine
    from orchestrator.contracts.dead import DeadAgentRun as DeadAgentRun
    from orchestrator.contracts.evaluation import Case as Case
    from orchestrator.contracts.evaluation import Comparison as Comparison
    from orchestrator.contracts.evaluation import Contains as Contains
    from orchestrator.contracts.evaluation import Evaluation as Evaluation
    from orchestrator.contracts.evaluation import EvaluationReport as EvaluationReport
    from orchestrator.contracts.evaluation import EvaluationSummary as EvaluationSummary
    from orchestrator.contracts.evaluation import Exact as Exact
    from orchestrator.contracts.evaluation import Function as Function
    from orchestrator.contracts.evaluation import Grade as Grade
    from orchestrator.contracts.evaluation import Judge as Judge
    from orchestrator.contracts.evaluation import Normalized as Normalized
    from orchestrator.contracts.evaluation import Number as Number
    from orchestrator.contracts.evaluation import Schema as Schema
    from orchestrator.contracts.event import RunEvent as RunEvent
    from orchestrator.contracts.experiment import Experiment as Experiment
    from orchestrator.contracts.experiment import ExperimentReport as ExperimentReport
    from orchestrator.contracts.fleet import AgentState as AgentState
    from orchestrator.contracts.fleet import LiveAgent as LiveAgent
    from orchestrator.contracts.fleet import PoolSummary as PoolSummary
    from orchestrator.contracts.fleet import WorkerState as WorkerState
    from orchestrator.contracts.fleet import WorkerSummary as WorkerSummary
    from orchestrator.contracts.policy import Limits as Limits
    from orchestrator.contracts.policy import Retention as Retention
    from orchestrator.contracts.policy import RetryPolicy as RetryPolicy
    from orchestrator.contracts.policy import Timeouts as Timeouts
    from orchestrator.contracts.project import ProjectSummary as ProjectSummary
    from orchestrator.contracts.question import Answered as Answered
    from orchestrator.contracts.question import Question as Question
    from orchestrator.contracts.run import AgentRunResult as AgentRunResult
    from orchestrator.contracts.run import AgentRunState as AgentRunState
    from orchestrator.contracts.run import RunFilter as RunFilter
    from orchestrator.contracts.run import RunResult as RunResult
    from orchestrator.contracts.run import RunState as RunState
    from orchestrator.contracts.run import RunSummary as RunSummary
    from orchestrator.contracts.shared import SharedValue as SharedValue
    from orchestrator.contracts.shared import SharedValues as SharedValues
    from orchestrator.contracts.usage import Usage as Usage
    from orchestrator.contracts.variant import Changes as Changes
    from orchestrator.contracts.variant import Variant as Variant
    from orchestrator.contracts.workflow import Branch as Branch
    from orchestrator.contracts.workflow import CeleryTask as CeleryTask
    from orchestrator.contracts.workflow import Compensation as Compensation
    from orchestrator.contracts.workflow import Fallback as Fallback
    from orchestrator.contracts.workflow import TaskDefinition as TaskDefinition
    from orchestrator.contracts.workflow import ToolUse as ToolUse
    from orchestrator.contracts.workflow import WorkflowDefinition as WorkflowDefinition
    from orchestrator.errors import AnswerRefused as AnswerRefused
    from orchestrator.errors import BudgetExceeded as BudgetExceeded
    from orchestrator.errors import BudgetUnpriced as BudgetUnpriced
    from orchestrator.errors import IdempotencyConflict as IdempotencyConflict
    from orchestrator.errors import ImportConflictError as ImportConflictError
    from orchestrator.errors import InputInvalid as InputInvalid
    from orchestrator.errors import NightfleetError as NightfleetError
    from orchestrator.errors import QuestionNotFound as QuestionNotFound
    from orchestrator.errors import RunCancelled as RunCancelled
    from orchestrator.errors import RunFailed as RunFailed
    from orchestrator.errors import RunNotFound as RunNotFound
    from orchestrator.errors import RunStateConflict as RunStateConflict
    from orchestrator.errors import ServiceUnavailable as ServiceUnavailable
    from orchestrator.errors import UnknownAgent as UnknownAgent
    from orchestrator.errors import UnknownCapability as UnknownCapability
    from orchestrator.errors import UsageError as UsageError
    from orchestrator.errors import ValueTooLarge as ValueTooLarge
    from orchestrator.errors import WorkflowInvalid as WorkflowInvalid
    from orchestrator.handle import RunHandle as RunHandle
    from orchestrator.planning.builders import adaptive as adaptive
    from orchestrator.planning.builders import any_agent as any_agent
    from orchestrator.planning.builders import parallel as parallel
    from orchestrator.planning.builders import sequential as sequential
    from orchestrator.planning.composites import consensus as consensus
    from orchestrator.planning.composites import handoff as handoff
    from orchestrator.planning.composites import leader_follower as leader_follower
    from orchestrator.planning.composites import loop as loop
    from orchestrator.planning.composites import map_over as map_over
    from orchestrator.planning.composites import nested as nested
    from orchestrator.planning.composites import router as router
    from orchestrator.settings import Settings as Settings

__version__ = "0.1.0"

#: Where each exported name lives; imported when it is first asked for, so that `import orchestrator` costs little.
_EXPORTS = {
    "orchestrator.agents": ("AgentPool", "AgentRegistry"),
    "orchestrator.aio": ("AsyncOrchestrator", "AsyncRunHandle"),
    "orchestrator.client": ("Orchestrator",),
    "orchestrator.contracts.batch": ("BatchFailure", "BatchOptions", "BatchProgress", "BatchResult"),
    "orchestrator.contracts.budget": ("Budget", "BudgetSummary"),
    "orchestrator.contracts.cost": ("CostFilter", "CostLine"),
    "orchestrator.contracts.dead": ("DeadAgentRun",),
    "orchestrator.contracts.evaluation": (
        "Case",
        "Comparison",
        "Contains",
        "Evaluation",
        "EvaluationReport",
        "EvaluationSummary",
        "Exact",
        "Function",
        "Grade",
        "Judge",
        "Normalized",
        "Number",
        "Schema",
    ),
    "orchestrator.contracts.event": ("RunEvent",),
    "orchestrator.contracts.experiment": (
        "Experiment",
        "ExperimentReport",
    ),
    "orchestrator.contracts.fleet": ("AgentState", "LiveAgent", "PoolSummary", "WorkerState", "WorkerSummary"),
    "orchestrator.contracts.policy": ("Limits", "Retention", "RetryPolicy", "Timeouts"),
    "orchestrator.contracts.project": ("ProjectSummary",),
    "orchestrator.contracts.question": ("Answered", "Question"),
    "orchestrator.contracts.run": (
        "AgentRunResult",
        "AgentRunState",
        "RunFilter",
        "RunResult",
        "RunState",
        "RunSummary",
    ),
    "orchestrator.contracts.shared": ("SharedValue", "SharedValues"),
    "orchestrator.contracts.usage": ("Usage",),
    "orchestrator.contracts.variant": (
        "Changes",
        "Variant",
    ),
    "orchestrator.contracts.workflow": (
        "Branch",
        "CeleryTask",
        "Compensation",
        "Fallback",
        "TaskDefinition",
        "ToolUse",
        "WorkflowDefinition",
    ),
    "orchestrator.errors": (
        "AnswerRefused",
        "BudgetExceeded",
        "BudgetUnpriced",
        "IdempotencyConflict",
        "ImportConflictError",
        "InputInvalid",
        "NightfleetError",
        "QuestionNotFound",
        "RunCancelled",
        "RunFailed",
        "RunNotFound",
        "RunStateConflict",
        "ServiceUnavailable",
        "UnknownAgent",
        "UnknownCapability",
        "UsageError",
        "ValueTooLarge",
        "WorkflowInvalid",
    ),
    "orchestrator.handle": ("RunHandle",),
    "orchestrator.planning.builders": ("adaptive", "any_agent", "parallel", "sequential"),
    "orchestrator.planning.composites": (
        "consensus",
        "handoff",
        "leader_follower",
        "loop",
        "map_over",
        "nested",
        "router",
    ),
    "orchestrator.settings": ("Settings",),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
