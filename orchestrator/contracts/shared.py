"""The shared context of a run: values by key, and what is asked of them. Frozen values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.policy import Value
from orchestrator.errors import InputInvalid

#: The namespace of the whole run; every other one is that of the task that it is named after.
GLOBAL = ""
#: The most that one look gives, whatever it asks for.
MOST_VALUES = 1000
_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class SharedValue(Value):
    """What stands at a key since one of its changes: a value, or None if that `deleted` it.

    `version` counts the changes of the key, from 1; `number` counts those of the whole run, in the order in which they
    happened. `task` has made the change. `namespace` is the task whose part the key is in, empty for the run's own.
    """

    model_config = ConfigDict(defer_build=True)

    namespace: str
    key: str
    value: Any = None
    version: int
    number: int
    deleted: bool = False
    task: str
    at: datetime


class SharedValues(Value):
    """What the agents of a run share: the values that there are now, by namespace and key, or the history of one key."""

    model_config = ConfigDict(defer_build=True)

    schema_version: Literal[1] = 1
    run_id: str
    values: tuple[SharedValue, ...]


class Look(Value):
    """A question to the shared context of one run.

    `get` is about the value at `key`; `history` about its versions behind `since`, oldest first; `keys` and `values` about all
    that begin with `key` and are there; `changes` about those that have changed behind the number `since`, as they are now;
    `position` about the number of the last change. Without a namespace, `changes` are those of all.
    """

    model_config = ConfigDict(defer_build=True)

    op: Literal["get", "history", "keys", "values", "changes", "position"]
    namespace: str | None = GLOBAL
    key: str = ""
    since: int = 0
    limit: int = Field(default=MOST_VALUES, ge=1, le=MOST_VALUES)
    #: Whoever asks stays in its process until there is an answer: who changes something in another one is to tell it.
    stays: bool = False


class Change(Value):
    """A wish to set a key to a `value`, or to delete it.

    With `expect` only if the key has that version; 0 stands for a key that has no value.
    """

    model_config = ConfigDict(defer_build=True)

    namespace: str
    key: str
    value: Any = None
    deletes: bool = False
    expect: int | None = None


class Changed(NamedTuple):
    """What came of a change: the outcome that is recorded, and whether it has queued who waited for it, to be published.

    `watched`: somebody waits for a change of what this run shares in a process, perhaps in another one.
    """

    outcome: JsonValue
    woken: bool = False
    watched: bool = False


def checked_key(key: Any) -> str:
    """Give a key; raises `InputInvalid` for what is none."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not _encodes(key):
        raise InputInvalid(
            f"{str(key)[:50]!r} is no key of the shared context: 1 to 200 characters, none of them a control"
        )
    return key


def checked_prefix(prefix: Any) -> str:
    """Give what keys begin with; raises `InputInvalid`."""
    return prefix if prefix == "" else checked_key(prefix)


def concerns(interest: Mapping[str, Any], namespace: str, key: str) -> bool:
    """Tell whether a change of a key is one that somebody listens for; see `watch_of`."""
    if interest.get("namespace") != namespace:
        return False
    return key == interest["key"] if "key" in interest else key.startswith(interest.get("prefix", ""))


def watch_of(namespace: str, key: str, *, prefix: bool, since: int) -> dict[str, JsonValue]:
    """Give what a watch listens for: changes of a key behind a version, or of a prefix behind a number."""
    return {"namespace": namespace, "prefix" if prefix else "key": key, "since": since}


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
