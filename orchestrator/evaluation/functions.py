"""Graders that are functions of the user's own."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.contracts.evaluation import Case, Function, Grade
from orchestrator.errors import UsageError
from orchestrator.evaluation.graders import looked_at
from orchestrator.planning.hints import did_you_mean


def load(grader: Function) -> Callable[..., Any]:
    """Give the function of a grader; raises `UsageError` saying what is missing.

    Modules are looked for where Python looks, and last in the working folder.
    """
    path = grader.function
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a module of the user's raises
        raise UsageError(f"the grader {path}: importing {module_name} fails: {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"the grader {path}: {module_name} has no function {name!r}{did_you_mean(name, dir(module))}")
    return found


def asked(grader: Function, function: Callable[..., Any], output: Any, case: Case) -> Grade:
    """Give what a function says of an output; what it raises is a grade that is missing."""
    try:
        return _as_grade(function(looked_at(grader, output, case.expected), case.expected, case.input))
    except Exception as error:  # noqa: BLE001 - a function of the user's own may raise anything
        return Grade.failed(f"{grader.function} failed: {type(error).__name__}: {error}")


def _as_grade(said: Any) -> Grade:
    match said:
        case Grade():
            return said
        case bool():
            return Grade(score=float(said), passed=said)
        case int() | float() if 0 <= said <= 1 and not math.isnan(said):
            return Grade(score=said, passed=said >= 0.5)
        case _:
            raise ValueError(
                f"a grader gives True or False, a score from 0 to 1, or a Grade, and this gave {said!r:.100}"
            )
