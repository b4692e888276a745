"""Workflows in files, YAML or JSON, and whatever else names a workflow.

::

    name: press-review
    tasks:
      reader:   {agent: reader}                          # the agent is the task's id where it is not given
      critic:   {agent: critic, after: [reader], on_error: continue, retry: {retries: 5}}
      judge:    {capability: review, after: [reader]}    # any agent that can: the least busy when a run is submitted
      clean:    {function: "myproject.text:clean"}       # a Python function in place of an agent
      charge:   {agent: charge, after: [reader], compensate: refund}          # undone when the run fails later
      resize:   {celery: {task: images.resize, queue: images, timeout: 60}}   # a task of your own Celery app
      praise:   {agent: writer, after: [critic], when: "critic.score > 7"}
      rewrite:  {agent: writer, after: [critic], when: else}   # no other condition after the same tasks holds

`tasks` may also be a list of tasks with their `id`. `defaults` are the retry, timeouts and on_error of tasks that say none.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import UnknownAgent, UsageError, WorkflowInvalid
from orchestrator.planning.expression import parse_expression
from orchestrator.planning.graph import MAX_PROBLEMS
from orchestrator.planning.notes import Data
from orchestrator.planning.reading import Reader
from orchestrator.planning.source import Source
from orchestrator.planning.validate import ToolFaults, validate

MAX_BYTES = 32 * 1024 * 1024

_SUFFIXES = (".yaml", ".yml", ".json")


def resolve_workflow(source: str | WorkflowDefinition | TaskDefinition | FilePath) -> WorkflowDefinition:
    """Give the workflow that is meant: a definition, a path to a file, or an expression.

    Text is a path if it ends with .yaml, .yml or .json, has a slash, or names an existing file.
    """
    match source:
        case WorkflowDefinition():
            return source
        case TaskDefinition():
            return WorkflowDefinition(tasks=(source,))
        case str() if not names_file(source):
            return parse_expression(source)
        case _:
            return load_workflow(source)


@dataclass(frozen=True, slots=True)
class Known:
    """What a workflow may name where it is checked: agents, and tools by what is wrong with a use of one."""

    #: None where nobody can tell.
    agents: Collection[str] | None = None
    tool_faults: ToolFaults | None = None
    #: What agents can do, None where nobody can tell.
    capabilities: Collection[str] | None = None
    #: How deep agents may call agents.
    max_depth: int | None = None


def load_workflow(path: str | FilePath, known: Known | None = None) -> WorkflowDefinition:
    """Give the workflow of a YAML or JSON file; raise WorkflowInvalid with every problem at its line and column.

    Whether its agents and tools are there is checked where it is said what is `known`; raise UnknownAgent where unknown agents
    are all that is wrong. Raise UsageError where there is no such file. Other files that it names are parts of it.
    """
    return _checked(Reader(_open(FilePath(path), str(path)), _open), str(path), known)


def workflow_from_data(data: Any, origin: str) -> WorkflowDefinition:
    """Give the workflow of data shaped like a workflow file; raise WorkflowInvalid with every problem at its place."""
    return _checked(Reader(Data(data, lambda _path, problem: problem), _open), origin, None)


def names_file(text: str) -> bool:
    """Tell whether text that names a workflow is taken for a path."""
    try:
        return text.endswith(_SUFFIXES) or "/" in text or FilePath(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _open(path: FilePath, origin: str | None = None) -> Data:
    """Read a file; raises what is wrong with it as a whole."""
    origin = str(path) if origin is None else origin
    source = Source(_read(path, origin), origin, is_json=origin.endswith(".json"))
    return Data(source.data, source.problem, tuple(source.problems), path)


def _checked(reader: Reader, origin: str, known: Known | None) -> WorkflowDefinition:
    """Give what was read, if nothing is wrong with it: neither with its parts nor with their graph."""
    workflow, problems = reader.workflow, reader.notes.problems
    if workflow is not None and not problems:
        known = Known() if known is None else known
        try:
            validate(workflow, known.agents, known.capabilities, known.tool_faults, known.max_depth)
        except UnknownAgent as error:
            lines = [reader.notes.shown(problem) for problem in error.message.split("\n")]
            raise UnknownAgent("\n".join(lines), details=error.details) from None
        except WorkflowInvalid as error:
            problems = [reader.notes.shown(problem) for problem in error.problems]
    if workflow is None or problems:
        more = ["and more: correct these first"] if len(problems) > MAX_PROBLEMS else []
        raise WorkflowInvalid(problems[:MAX_PROBLEMS] + more, origin=origin)
    return workflow


def _read(path: FilePath, origin: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        advice = {
            errno.ENOENT: f"there is no such file in {FilePath.cwd()}: correct the path, or give it from the root on",
            errno.EISDIR: "it is a folder: name the file in it",
        }
        raise UsageError(f"workflow {origin!r}: {advice.get(error.errno or 0, error.strerror)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"workflow {origin!r}: it is not UTF-8 (byte {error.start:,}): save it as UTF-8") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"workflow {origin!r}: it has more than {MAX_BYTES:,} bytes, which no workflow needs")
    return text
