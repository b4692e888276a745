"""Whether a workflow can run where a command works: its agents, and on this machine its tools too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import render
from orchestrator.commands.place import looking
from orchestrator.errors import ImportConflictError, UnknownAgent
from orchestrator.imports import require_ours

if TYPE_CHECKING:
    from orchestrator.contracts.workflow import WorkflowDefinition
    from orchestrator.planning.files import Known
    from orchestrator.settings import Settings


def check(definition: WorkflowDefinition, settings: Settings) -> None:
    """Raise what a submit would; without a fleet the agents that are known are those of this machine."""
    if settings.embedded:
        check_here(definition, settings)
        return
    with looking(settings) as service:
        service.plan(definition)


def check_here(definition: WorkflowDefinition, settings: Settings) -> None:
    """Raise what is wrong for this process: an agent that others have announced, and that it cannot load, is unknown to it."""
    from orchestrator.planning.validate import validate

    known = known_here(settings)
    try:
        validate(definition, known.agents, known.capabilities, known.tool_faults, known.max_depth)
    except UnknownAgent:
        tell_problems(settings)
        raise


def known_here(settings: Settings) -> Known:
    """Give what a workflow may name on this machine."""
    from orchestrator.planning.capabilities import agents_by_capability
    from orchestrator.planning.files import Known

    loaded, faults_of = _loaded(settings), require_ours("worker.nodes.tool").faults_of
    able = agents_by_capability((card.name, card.capabilities) for card in loaded.cards)
    agents = frozenset(loaded.agents)
    return Known(agents, lambda use, given: faults_of(use, given, loaded.tools), able, settings.max_call_depth)


def known_to(settings: Settings, announced: frozenset[str]) -> Known:
    """Give what a workflow may name on a fleet whose workers have announced these agents.

    What this machine has counts too. Nothing is said of a tool that it does not have: workers may have it.
    """
    from orchestrator.planning.files import Known

    try:
        loaded, faults_of = _loaded(settings), require_ours("worker.nodes.tool").faults_of
    except ImportConflictError:
        return Known(announced, max_depth=settings.max_call_depth)
    here = frozenset(loaded.tools.names)
    return Known(
        announced.union(loaded.agents),
        lambda use, given: faults_of(use, given, loaded.tools) if use.kit in here else (),
        max_depth=settings.max_call_depth,
    )


def tell_problems(settings: Settings) -> None:
    """Say which plugins here cannot be used: an agent that is unknown may be in one of them."""
    for problem in _loaded(settings).problems:
        click.echo(render.problem_line(problem.origin, problem.message), err=True)


def _loaded(settings: Settings) -> Any:
    """Load the plugins; what is loaded already is not executed again."""
    return require_ours("worker.loader").AgentLoader(settings.agents_path, base=Path.cwd()).load()
