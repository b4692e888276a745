"""Whether a message is meant: by its sender, its type, and what a condition in CEL says of it."""

from __future__ import annotations

import re
from typing import Any

from orchestrator.contracts.mail import OUTSIDE, RUNTIME, AgentMessage, Filter
from orchestrator.contracts.workflow import NAME_PATTERN
from orchestrator.errors import InputInvalid
from orchestrator.planning import condition
from orchestrator.planning.decide import decide

#: What a condition may speak of.
NAMES = ("body", "priority", "sender", "type")


def check(wanted: Filter) -> None:
    """Raise `InputInvalid` for a filter that no message could pass, or whose condition cannot be asked."""
    for each in wanted.any_of:
        check(each)
    if wanted.sender is not None and wanted.sender != OUTSIDE and not re.fullmatch(NAME_PATTERN, wanted.sender):
        raise InputInvalid(
            f"a message has the id of a task as its sender, or {OUTSIDE!r}; {wanted.sender!r} is neither"
        )
    if wanted.where is None:
        return
    try:
        condition.compiled(wanted.where)
    except ValueError as error:
        raise InputInvalid(f"the condition for messages `{wanted.where}`: {error}") from None
    if odd := sorted(condition.names(wanted.where) - {*NAMES, *condition.TYPE_NAMES}):
        raise InputInvalid(f"the condition for messages names {', '.join(odd)}; it may speak of {', '.join(NAMES)}")


def meant(wanted: Filter, message: AgentMessage) -> bool:
    """Tell whether a filter lets a message pass; a condition that this message gives no answer to is not met."""
    if not wanted.lets_pass(message.sender, message.type, message.answers):
        return False
    if wanted.any_of:
        return any(meant(each, message) for each in wanted.any_of)
    if wanted.where is None or message.sender == RUNTIME:
        return True
    fields: dict[str, Any] = {name: getattr(message, name) for name in NAMES}
    try:
        return decide(wanted.where, None, fields)
    except InputInvalid:
        return False
