"""`functools.cached_property` without its lock."""

from __future__ import annotations

import functools
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class cached_property(functools.cached_property[T], Generic[T]):  # noqa: N801 - as the one that it stands for
    """An attribute that is computed at its first use and the same for every thread from then on; nobody waits for anybody.

    In Python 3.11 the one of the standard library holds a lock of the whole class meanwhile: every object waits for each
    other's, and a child that is forked in that moment waits for ever. Later ones have none, and may give two threads two
    objects. Here the first one to be ready is everybody's; the other one is dropped, so computing must have no effects.
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> cached_property[T]: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> cached_property[T] | T:
        if instance is None:
            return self
        computed: dict[Any, T] = vars(instance)
        return computed.setdefault(self.attrname, self.func(instance))
