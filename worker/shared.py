"""What an agent sees of what its run shares: `ctx.state`, for sync and async agents. Each question is an effect of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ValidationError

from orchestrator.contracts.jsonvalue import JsonValue, dump
from orchestrator.contracts.shared import (
    GLOBAL,
    MOST_VALUES,
    Change,
    Look,
    SharedValue,
    checked_key,
    checked_prefix,
)
from orchestrator.errors import InputInvalid, OutputInvalid
from worker.effects import steps
from worker.effects.base import Flow
from worker.effects.declared import adapter_of
from worker.effects.shared import ChangeValue, LookUp, UpdateValue, Watch, seconds_of, shared_flow

T = TypeVar("T")


class Driver(Protocol):
    """Who drives the flows of effects."""

    def run(self, flow: Flow[T]) -> T: ...

    async def run_async(self, flow: Flow[T]) -> T: ...


class _Part:
    """One namespace, and how its effects are made: the same for sync and async agents."""

    __slots__ = ("_driver", "_namespace", "_task")

    def __init__(self, driver: Driver, namespace: str, task: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self._task = task

    def _get(self, key: str, default: Any, kind: Any) -> Flow[Any]:
        found = yield from self._read(key, kind)
        return default if found is None or found.deleted else found.value

    def _read(self, key: str, kind: Any) -> Flow[SharedValue | None]:
        found = yield from shared_flow(LookUp(self._look("get", checked_key(key))))
        return None if found is None else _shared(found, kind)

    def _keys(self, prefix: str) -> Flow[list[str]]:
        return (yield from shared_flow(LookUp(self._look("keys", checked_prefix(prefix)))))

    def _values(self, prefix: str, kind: Any) -> Flow[dict[str, Any]]:
        found = yield from shared_flow(LookUp(self._look("values", checked_prefix(prefix))))
        return {each["key"]: _typed(each["value"], kind, each["key"]) for each in found}

    def _history(self, key: str, after: int, limit: int, kind: Any) -> Flow[list[SharedValue]]:
        if not 1 <= limit <= MOST_VALUES:
            raise InputInvalid(
                f"ctx.state.history: limit={limit} is outside 1..{MOST_VALUES}; go on behind the last version"
            )
        look = self._look("history", checked_key(key), since=after, limit=limit)
        return [_shared(each, kind) for each in (yield from shared_flow(LookUp(look)))]

    def _watch(
        self, key: str, since: int | None, timeout: float | timedelta | None, kind: Any
    ) -> Flow[SharedValue | None]:
        watch = Watch(self._namespace, checked_key(key), False, since, seconds_of(timeout))  # noqa: FBT003
        found = yield from shared_flow(watch)
        return None if found is None else _shared(found, kind)

    def _watch_prefix(
        self, prefix: str, since: int | None, timeout: float | timedelta | None
    ) -> Flow[list[SharedValue]]:
        watch = Watch(self._namespace, checked_prefix(prefix), True, since, seconds_of(timeout))  # noqa: FBT003
        return [_shared(each, None) for each in (yield from shared_flow(watch)) or ()]

    def _set(self, key: str, value: Any, expect: int | None) -> Flow[int]:
        change = Change(
            namespace=self._namespace, key=checked_key(key), value=plain_of(value, key), expect=_version(expect)
        )
        return (yield from shared_flow(ChangeValue(change)))["version"]

    def _delete(self, key: str, expect: int | None) -> Flow[bool]:
        change = Change(namespace=self._namespace, key=checked_key(key), deletes=True, expect=_version(expect))
        return (yield from shared_flow(ChangeValue(change)))["number"] is not None

    def _update(self, key: str, function: Callable[[Any], Any], default: Any, kind: Any) -> Flow[Any]:
        if steps.is_coroutine_step(function):
            raise InputInvalid(
                "ctx.state.update: the function is a coroutine function: give a plain one, it may be called again"
            )

        def made(value: JsonValue) -> JsonValue:
            return plain_of(function(default if value is None else _typed(value, kind, key)), key)

        found = yield from shared_flow(UpdateValue(self._namespace, checked_key(key), made))
        return _typed(found["value"], kind, key)

    def _look(self, op: Any, key: str, **more: Any) -> Look:
        return Look(op=op, namespace=self._namespace, key=key, **more)


class SharedReader(_Part):
    """One part of what a run shares, to be read: that of another task. Values are JSON; `type` makes its type of them.

    Raises `OutputInvalid` for a value that is not of its `type`, and `InputInvalid` for a task that the run does not have.
    """

    __slots__ = ()

    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """Give the value at a key, `default` where there is none."""
        return self._driver.run(self._get(key, default, type))

    def read(self, key: str, *, type: Any = None) -> SharedValue | None:
        """Give what stands at a key with its version, also that it was `deleted`; None for one that nobody has written."""
        return self._driver.run(self._read(key, type))

    def keys(self, prefix: str = "") -> list[str]:
        """Give the keys that have a value, sorted."""
        return self._driver.run(self._keys(prefix))

    def values(self, prefix: str = "", *, type: Any = None) -> dict[str, Any]:
        """Give all values by their keys, as they were at one moment, sorted; raises `ValueTooLarge` for too many at once."""
        return self._driver.run(self._values(prefix, type))

    def history(self, key: str, *, after: int = 0, limit: int = 100, type: Any = None) -> list[SharedValue]:
        """Give the versions of a key behind `after`, the oldest first, up to `limit` (at most 1,000) and some megabytes."""
        return self._driver.run(self._history(key, after, limit, type))

    def watch(
        self, key: str, *, since: int | None = None, timeout: float | timedelta | None = None, type: Any = None
    ) -> SharedValue | None:
        """Wait without a slot until a key has a version behind `since`; gives what stands there then, None after `timeout`.

        Without `since` the wait begins where the key stands now; the version of what was read misses nothing in between.
        Raises `NoMessageCanCome` when everybody who could change it has ended, or waits in turn.
        """
        return self._driver.run(self._watch(key, since, timeout, type))

    def watch_prefix(
        self, prefix: str = "", *, since: int | None = None, timeout: float | timedelta | None = None
    ) -> list[SharedValue]:
        """Wait until any key that begins so changes; gives those that have, as they are now, none after `timeout`.

        `since` is a `number`: that of the last value goes on behind it, 0 begins with all that is there.
        """
        return self._driver.run(self._watch_prefix(prefix, since, timeout))


class SharedSpace(SharedReader):
    """One part of what a run shares, to be read and changed. Each change is made once, however often the agent is repeated.

    Values are JSON, or pydantic models. Raises `ValueTooLarge` that names the bound for what does not fit.
    """

    __slots__ = ()

    def set(self, key: str, value: Any, *, expect: int | None = None) -> int:
        """Set a key; gives its new version. With `expect` only if it has that version (0: no value), else `StateConflict`."""
        return self._driver.run(self._set(key, value, expect))

    def update(self, key: str, function: Callable[[Any], Any], *, default: Any = None, type: Any = None) -> Any:
        """Set a key to what `function` makes of its value (`default` where there is none); gives that.

        The function is called again if another agent is quicker, so it only computes: it uses no context and changes nothing.
        """
        return self._driver.run(self._update(key, function, default, type))

    def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Take away a value; false when there is none. Its versions go on counting. `expect` as for `set`."""
        return self._driver.run(self._delete(key, expect))


class SharedContext(SharedSpace):
    """What the agents of a run share: values by key, with versions. Every agent of the run reads and changes them."""

    __slots__ = ()

    @property
    def own(self) -> SharedSpace:
        """The part of this task: it alone changes it, the others read it."""
        return SharedSpace(self._driver, self._task, self._task)

    def of(self, task: str) -> SharedReader:
        """Give the part of another task."""
        return SharedReader(self._driver, _named(task), self._task)


class AsyncSharedReader(_Part):
    """`SharedReader` for an agent whose `execute` is `async`: the same methods, awaited."""

    __slots__ = ()

    async def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """Give the value at a key; see `SharedReader.get`."""
        return await self._driver.run_async(self._get(key, default, type))

    async def read(self, key: str, *, type: Any = None) -> SharedValue | None:
        """Give what stands at a key with its version; see `SharedReader.read`."""
        return await self._driver.run_async(self._read(key, type))

    async def keys(self, prefix: str = "") -> list[str]:
        """Give the keys that have a value, sorted."""
        return await self._driver.run_async(self._keys(prefix))

    async def values(self, prefix: str = "", *, type: Any = None) -> dict[str, Any]:
        """Give all values by their keys; see `SharedReader.values`."""
        return await self._driver.run_async(self._values(prefix, type))

    async def history(self, key: str, *, after: int = 0, limit: int = 100, type: Any = None) -> list[SharedValue]:
        """Give the versions of a key behind `after`; see `SharedReader.history`."""
        return await self._driver.run_async(self._history(key, after, limit, type))

    async def watch(
        self,
        key: str,
        *,
        since: int | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - how long to wait without a slot
        type: Any = None,
    ) -> SharedValue | None:
        """Wait without a slot until a key changes; see `SharedReader.watch`."""
        return await self._driver.run_async(self._watch(key, since, timeout, type))

    async def watch_prefix(
        self,
        prefix: str = "",
        *,
        since: int | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109
    ) -> list[SharedValue]:
        """Wait until any key that begins so changes; see `SharedReader.watch_prefix`."""
        return await self._driver.run_async(self._watch_prefix(prefix, since, timeout))


class AsyncSharedSpace(AsyncSharedReader):
    """`SharedSpace` for an agent whose `execute` is `async`: the same methods, awaited."""

    __slots__ = ()

    async def set(self, key: str, value: Any, *, expect: int | None = None) -> int:
        """Set a key; gives its new version. See `SharedSpace.set`."""
        return await self._driver.run_async(self._set(key, value, expect))

    async def update(self, key: str, function: Callable[[Any], Any], *, default: Any = None, type: Any = None) -> Any:
        """Set a key to what a plain `function` makes of its value, in a thread; see `SharedSpace.update`."""
        return await self._driver.run_async(self._update(key, function, default, type))

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Take away a value; false when there is none. See `SharedSpace.delete`."""
        return await self._driver.run_async(self._delete(key, expect))


class AsyncSharedContext(AsyncSharedSpace):
    """`SharedContext` for an agent whose `execute` is `async`: the same methods, awaited."""

    __slots__ = ()

    @property
    def own(self) -> AsyncSharedSpace:
        """The part of this task; see `SharedContext.own`."""
        return AsyncSharedSpace(self._driver, self._task, self._task)

    def of(self, task: str) -> AsyncSharedReader:
        """Give the part of another task."""
        return AsyncSharedReader(self._driver, _named(task), self._task)


def plain_of(value: Any, key: str) -> JsonValue:
    """Give a value, or models in lists and objects, as JSON; raises `InputInvalid` that names the place of what is none."""
    return json.loads(
        dump(_unmodelled(value), what=f"the value of {key!r}", limit_bytes=sys.maxsize, error=InputInvalid)
    )


def _unmodelled(value: Any) -> Any:
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case Mapping():
            return {key: _unmodelled(item) for key, item in cast("Mapping[Any, Any]", value).items()}
        case list() | tuple():
            return [_unmodelled(item) for item in cast("list[Any]", value)]
        case _:
            return value


def _shared(found: Mapping[str, Any], kind: Any) -> SharedValue:
    value = SharedValue.model_validate(found)
    if kind is None or value.deleted:
        return value
    return value.model_copy(update={"value": _typed(value.value, kind, value.key)})


def _typed(value: JsonValue, kind: Any, key: str) -> Any:
    if kind is None:
        return value
    try:
        # Of text rather than of values: strict models take a date or a tuple from JSON text, and from no list.
        return adapter_of(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        name = getattr(kind, "__name__", kind)
        raise OutputInvalid(f"ctx.state: what stands at {key!r} is no {name}: {error}") from None


def _version(expect: Any) -> int | None:
    if expect is not None and (isinstance(expect, bool) or not isinstance(expect, int) or expect < 0):
        raise InputInvalid(
            f"ctx.state: expect={expect!r} is no version: that of `read`, or 0 for a key without a value"
        )
    return expect


def _named(task: Any) -> str:
    if not isinstance(task, str) or task == GLOBAL:
        raise InputInvalid(f"ctx.state.of({task!r}): name a task of the workflow; what all share is ctx.state itself")
    return task
