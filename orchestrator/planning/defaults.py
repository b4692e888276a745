"""What tasks of a file have where they say nothing else: retries, timeouts, and what follows an error.

They are put into the tasks when a file is read, so that a definition says what holds, wherever it is shown or compared. Retries
and time limits are those of whoever does the work: of the steps of a loop rather than of the loop. What follows an error is
said of tasks: of a step it is part of what the loop, map or team does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.kinds import KINDS
from orchestrator.contracts.policy import RetryPolicy, Timeouts, Value
from orchestrator.contracts.workflow import OnError
from orchestrator.planning.steps import MADE_OF_OTHERS

#: The key of a file.
DEFAULTS = "defaults"

#: What is said of these is put together field by field.
_BY_FIELD = frozenset({"retry", "timeouts"})


class TaskDefaults(Value):
    """The `retry`, `timeouts` and `on_error` of tasks that say none of their own."""

    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    on_error: OnError = "fail"


def merged(defaults: Mapping[str, Any], fields: Mapping[str, Any], *, is_step: bool = False) -> dict[str, Any]:
    """Give the fields of a task with the defaults that mean something to it; what it says itself goes before."""
    kinds = [kind for kind in KINDS if fields.get(kind) is not None]
    lacks = frozenset[str]().union(*(KINDS[kind].lacks for kind in kinds))
    if any(kind in MADE_OF_OTHERS for kind in kinds):
        lacks |= _BY_FIELD
    if is_step:
        lacks |= {"on_error"}
    return laid_over(fields, {name: value for name, value in defaults.items() if name not in lacks})


def laid_over(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Give fields with defaults for those that are not there."""
    result = dict(fields)
    for name, value in defaults.items():
        if value is None:
            continue
        own = fields.get(name)
        if own is None:
            result[name] = value
        elif name in _BY_FIELD and isinstance(own, Mapping) and isinstance(value, Mapping):
            result[name] = {**value, **own}
    return result
