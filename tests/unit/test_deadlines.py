"""Functions that are called at their time, and what is left of those that were cancelled."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

from worker.deadlines import Deadlines


class Execution:
    """Something that a deadline holds on to."""

    def expire(self) -> None: ...


def an_hour(deadlines: Deadlines) -> tuple[Callable[[], None], weakref.ref[Execution]]:
    execution = Execution()
    return deadlines.after(3600, execution.expire), weakref.ref(execution)


def entries(deadlines: Deadlines) -> int:
    return len(deadlines._heap)  # pyright: ignore[reportPrivateUsage]


def test_a_deadline_does_not_wait_for_later_ones_that_were_set_before() -> None:
    deadlines, called = Deadlines(), threading.Event()
    an_hour(deadlines)
    deadlines.after(0.0, called.set)
    assert called.wait(60)


def test_a_cancelled_deadline_is_never_called() -> None:
    deadlines, called, later = Deadlines(), list[str](), threading.Event()
    keep = [deadlines.after(3600, later.clear) for _ in range(4)]
    with deadlines._changed:  # pyright: ignore[reportPrivateUsage] - nothing is called meanwhile
        deadlines.after(0.0, lambda: called.append("cancelled"))()
    deadlines.after(0.02, later.set)
    assert later.wait(60)
    assert called == []
    assert len(keep) == 4


def test_a_cancelled_deadline_lets_go_of_what_it_would_have_ended() -> None:
    deadlines = Deadlines()
    held = [an_hour(deadlines) for _ in range(10)]
    for cancel, _ in held[::2]:
        cancel()
    gc.collect()
    assert [execution() is None for _, execution in held] == [True, False] * 5


def test_cancelled_deadlines_do_not_pile_up_behind_one_that_lasts() -> None:
    deadlines = Deadlines()
    deadlines.after(1800, lambda: None)
    for _ in range(1000):
        an_hour(deadlines)[0]()
    assert entries(deadlines) <= 2


def test_a_cancel_after_the_call_leaves_nothing_behind() -> None:
    deadlines, called = Deadlines(), threading.Event()
    others = [an_hour(deadlines)[0] for _ in range(4)]
    cancel = deadlines.after(0.0, called.set)
    assert called.wait(60)
    for _ in range(100):
        cancel()
    assert entries(deadlines) == 4
    for other in others:
        other()
        other()
    assert entries(deadlines) == 0
