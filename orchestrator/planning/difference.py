"""How two workflows differ: by tasks and fields, as they would be written. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.contracts.stored import Difference
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.planning.steps import ONE, SEVERAL
from orchestrator.planning.writing import as_data

_TASKS = "tasks"
_ONE = "|".join(rf"{kind}\.{name}" for kind, names in ONE.items() for name in names)
_SEVERAL = "|".join(rf"{kind}\.{name}" for kind, names in SEVERAL.items() for name in names)
#: Where keys are in an order: the first branch whose expression holds is taken, and steps are asked in theirs.
_ORDERED = re.compile(
    rf"tasks\.\w+(\.workflow\.tasks\.\w+|\.({_ONE})|\.({_SEVERAL})\.\w+)*\.(condition|workflow\.tasks|{_SEVERAL})"
)


def differences(before: WorkflowDefinition, after: WorkflowDefinition) -> tuple[Difference, ...]:
    """Give what two workflows do not have in common, in the order of the later one; empty where they are equal."""
    old, new = as_data(before), as_data(after)
    old_tasks, new_tasks = old.pop(_TASKS), new.pop(_TASKS)
    found = [*_between("", old, new), *_between(_TASKS, old_tasks, new_tasks)]
    common = [task for task in old_tasks if task in new_tasks]
    if common != [task for task in new_tasks if task in old_tasks]:
        found.append(Difference(place=_TASKS, change="order", before=common, after=[*new_tasks]))
    return tuple(found)


def _between(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    """Compare objects key by key; what only one of them has is told whole."""
    for key in dict.fromkeys((*after, *before)):
        here = f"{place}.{key}" if place else key
        if key not in before:
            yield Difference(place=here, change="added", after=after[key])
        elif key not in after:
            yield Difference(place=here, change="removed", before=before[key])
        else:
            yield from _of_values(here, before[key], after[key])


def _text(value: Any) -> str:
    # To Python 1 is True.
    return json.dumps(value, sort_keys=True)


def _of_values(place: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        old: dict[str, Any] = before
        new: dict[str, Any] = after
        yield from _between(place, old, new)
        common = [key for key in old if key in new]
        if common != [key for key in new if key in old] and _ORDERED.fullmatch(place):
            yield Difference(place=place, change="order", before=common, after=[*new])
    elif _text(before) != _text(after):
        yield Difference(place=place, change="changed", before=before, after=after)
