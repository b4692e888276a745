"""Cached properties: one value for all threads, and no lock that a fork could leave behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from forks import in_a_fork

from orchestrator.cached_property import cached_property
from orchestrator.contracts.policy import Value

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Slow:
    """Computes until it is told to end; a barrier has several threads do it at once."""

    def __init__(self, inside: threading.Barrier, end: threading.Event) -> None:
        self.inside = inside
        self.end = end
        self.times = 0

    @cached_property
    def value(self) -> object:
        """What is computed."""
        self.times += 1
        self.inside.wait(60)
        assert self.end.wait(60)
        return object()


def quick() -> Slow:
    end = threading.Event()
    end.set()
    return Slow(threading.Barrier(1), end)


def test_is_computed_once_for_each_object() -> None:
    one, other = quick(), quick()
    assert one.value is one.value
    assert one.value is not other.value
    assert (one.times, other.times) == (1, 1)


def test_threads_that_compute_it_at_once_all_get_the_same() -> None:
    end = threading.Event()
    slow = Slow(threading.Barrier(5), end)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(lambda: slow.value) for _ in range(4)]
        slow.inside.wait(60)
        end.set()
        assert {each.result(60) for each in found} == {slow.value}


def test_an_object_does_not_wait_for_another_ones() -> None:
    end = threading.Event()
    slow = Slow(threading.Barrier(2), end)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: slow.value)
        slow.inside.wait(60)
        second = quick().value
        end.set()
        assert first.result(60) is not second


def test_a_child_that_is_forked_while_a_thread_computes_it_computes_it_itself() -> None:
    end = threading.Event()
    slow = Slow(threading.Barrier(2), end)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: slow.value)
        slow.inside.wait(60)
        assert in_a_fork(lambda: quick().value is not None)
        end.set()
        first.result(60)


def test_what_raises_is_tried_again() -> None:
    class Once:
        fails = True

        @cached_property
        def value(self) -> int:
            if self.fails:
                self.fails = False
                raise ValueError("not yet")
            return 1

    once = Once()
    with pytest.raises(ValueError, match="not yet"):
        _ = once.value
    assert once.value == 1


def test_serves_frozen_values() -> None:
    class Model(Value):
        name: str

        @cached_property
        def loud(self) -> str:
            return self.name.upper()

    assert Model(name="a").loud == "A"
    assert isinstance(Model.loud, cached_property)
