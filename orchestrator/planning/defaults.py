"""What tasks of a file have where they say nothing else: retries, timeouts, and what follows an error.

They are put into the tasks when a file is read, so that a definition says what holds, wherever it is shown or compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.kinds import KINDS
from orchestrator.contracts.policy import RetryPolicy, Timeouts, Value
from orchestrator.contracts.workflow import OnError

#: The key of a file.
DEFAULTS = "defaults"

#: What is said of these is put together field by field.
_BY_FIELD = frozenset({"retry", "timeouts"})


class TaskDefaults(Value):
    """The `retry`, `timeouts` and `on_error` of tasks that say none of their own."""

    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    on_error: OnError = "fail"


def merged(defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a task with the defaults that mean something to it; what it says itself goes before."""
    lacks = frozenset[str]().union(*(kind.lacks for name, kind in KINDS.items() if fields.get(name) is not None))
    result = dict(fields)
    for name, value in defaults.items():
        if name in lacks or value is None:
            continue
        own = fields.get(name)
        if own is None:
            result[name] = value
        elif name in _BY_FIELD and isinstance(own, Mapping) and isinstance(value, Mapping):
            result[name] = {**value, **own}
    return result
