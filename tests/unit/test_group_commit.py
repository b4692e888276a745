"""Group commit: who is alone waits for nobody, who comes meanwhile travels together, and everybody gets its own answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.errors import DatabaseUnavailable
from orchestrator.group_commit import GroupCommit


def nothing(_: Sequence[str]) -> None:
    """Let a write succeed."""


class Service:
    """What is written to: notes who wrote what, and holds the first write until `go` is set."""

    def __init__(
        self, fail: Callable[[Sequence[str]], None] = nothing, size: Callable[[str], int] = lambda _: 0
    ) -> None:
        self.commit: GroupCommit[str, str] = GroupCommit(self.write, size)
        self.fail = fail
        self.groups: list[list[str]] = []
        #: What a write that went through had in it.
        self.written: list[str] = []
        self.writers: list[str] = []
        self.overlapped = False
        self.begun = threading.Event()
        self.go = threading.Event()
        self._busy = threading.Lock()

    def write(self, group: Sequence[str]) -> list[str]:
        if not self._busy.acquire(blocking=False):
            self.overlapped = True
            self._busy.acquire()
        try:
            self.groups.append(list(group))
            self.writers.append(threading.current_thread().name)
            self.begun.set()
            assert self.go.wait(60)
            self.fail(group)
            self.written.extend(group)
            return [f"answer to {request}" for request in group]
        finally:
            self._busy.release()

    @property
    def waiting(self) -> int:
        """How many callers wait for the one that writes."""
        return len(self.commit._waiting)  # pyright: ignore[reportPrivateUsage]

    def until_waiting(self, count: int) -> None:
        pause = threading.Event()
        for _ in range(30_000):
            if self.waiting >= count:
                return
            pause.wait(0.001)
        raise AssertionError(f"{self.waiting} of {count} callers wait")

    def together(self, first: str, *others: str) -> list[Future[str]]:
        """Let `first` write alone, the others come meanwhile, one after the other, and all of them end."""
        found: list[Future[str]] = []

        def named(request: str) -> str:
            threading.current_thread().name = request
            return self.commit(request)

        with ThreadPoolExecutor(1 + len(others)) as pool:
            try:
                found.append(pool.submit(named, first))
                assert self.begun.wait(60)
                for number, request in enumerate(others, 1):
                    found.append(pool.submit(named, request))
                    self.until_waiting(number)
            finally:
                self.go.set()
        return found


def answers(futures: Sequence[Future[str]]) -> list[str]:
    return [future.result(0) for future in futures]


def ready(fail: Callable[[Sequence[str]], None] = nothing) -> Service:
    """Make a service that holds nobody up."""
    service = Service(fail)
    service.go.set()
    return service


def refuse(error: BaseException, *requests: str) -> Callable[[Sequence[str]], None]:
    """Fail every write that has one of `requests` in it."""

    def fail(group: Sequence[str]) -> None:
        if set(requests) & set(group):
            raise error

    return fail


# Groups ---------------------------------------------------------------------------------------------------------------


def test_a_caller_that_is_alone_writes_at_once_alone_and_in_its_own_thread() -> None:
    service = ready()
    for request in ("a", "b"):
        assert service.commit(request) == f"answer to {request}"
    assert service.groups == [["a"], ["b"]]
    assert set(service.writers) == {threading.current_thread().name}


def test_callers_that_come_while_one_writes_are_written_together_in_order_by_the_first_of_them() -> None:
    service = Service()
    futures = service.together("a", "b", "c", "d")
    assert service.groups == [["a"], ["b", "c", "d"]]
    assert service.writers == ["a", "b"]
    assert answers(futures) == ["answer to a", "answer to b", "answer to c", "answer to d"]


def test_equal_requests_are_two_requests() -> None:
    service = Service()
    assert answers(service.together("a", "b", "b")) == ["answer to a", "answer to b", "answer to b"]
    assert service.groups == [["a"], ["b", "b"]]


def test_a_group_has_at_most_32_members_and_the_rest_is_the_next_one() -> None:
    service = Service()
    names = [f"r{number}" for number in range(71)]
    futures = service.together(*names)
    assert service.groups == [names[:1], names[1:33], names[33:65], names[65:]]
    assert answers(futures) == [f"answer to {name}" for name in names]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([500_000, 500_000, 1], [2, 1]),
        ([400_000, 400_000, 400_000, 400_000], [2, 2]),
        ([10, 2_000_000, 10, 10], [1, 1, 2]),
        ([5_000_000, 999_999, 2], [1, 1, 1]),
        ([999_999, 1], [2]),
    ],
    ids=["to the byte", "in turns", "a huge one in between", "a huge one goes first, alone", "exactly"],
)
def test_a_group_has_at_most_a_megabyte_unless_one_alone_has_more(sizes: list[int], groups: list[int]) -> None:
    names = [f"{number}:{size}" for number, size in enumerate(sizes)]
    service = Service(size=lambda request: int(request.partition(":")[2] or 0))
    futures = service.together("first", *names)
    assert [len(group) for group in service.groups[1:]] == groups
    assert [name for group in service.groups[1:] for name in group] == names
    assert len(answers(futures)) == 1 + len(sizes)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_when_a_group_fails_each_is_written_alone_and_only_the_faulty_ones_caller_gets_the_error() -> None:
    error = ValueError("cannot be stored")
    service = Service(refuse(error, "bad"))
    _, a, bad, c = service.together("first", "a", "bad", "c")
    assert service.groups == [["first"], ["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert answers([a, c]) == ["answer to a", "answer to c"]
    assert bad.exception(0) is error


def test_an_exit_in_a_group_is_the_error_of_the_one_that_it_comes_from() -> None:
    service = Service(refuse(SystemExit(3), "bad"))
    _, a, bad, c = service.together("first", "a", "bad", "c")
    assert answers([a, c]) == ["answer to a", "answer to c"]
    assert isinstance(bad.exception(0), SystemExit)


def test_a_leader_whose_own_request_is_faulty_still_answers_the_others_of_its_group() -> None:
    service = Service(refuse(ValueError("no"), "bad"))
    _, bad, a, c = service.together("first", "bad", "a", "c")
    assert isinstance(bad.exception(0), ValueError)
    assert answers([a, c]) == ["answer to a", "answer to c"]


def test_a_service_that_is_away_is_everybodys_error_at_once() -> None:
    error = DatabaseUnavailable("cannot reach the database")
    service = Service(refuse(error, "b"))
    first, *others = service.together("first", "a", "b", "c")
    assert service.groups == [["first"], ["a", "b", "c"]]
    assert answers([first]) == ["answer to first"]
    raised = [future.exception(0) for future in others]
    assert [type(each) for each in raised] == [DatabaseUnavailable] * 3
    assert [getattr(each, "message", None) for each in raised] == ["cannot reach the database"] * 3
    # Raised in three threads: a traceback of its own for each.
    assert len({id(each) for each in raised}) == 3


def test_a_service_that_goes_away_between_the_members_of_a_failed_group_is_the_error_of_those_alone() -> None:
    def fail(group: Sequence[str]) -> None:
        if len(group) > 1:
            raise ValueError("one of them")
        if group == ["b"]:
            raise DatabaseUnavailable("gone")

    _, a, b, c = Service(fail).together("first", "a", "b", "c")
    assert answers([a, c]) == ["answer to a", "answer to c"]
    assert isinstance(b.exception(0), DatabaseUnavailable)


@pytest.mark.parametrize("error", [ValueError("no"), DatabaseUnavailable("away"), SystemExit(3)])
def test_after_an_error_the_next_call_works(error: BaseException) -> None:
    service = ready(refuse(error, "bad"))
    with pytest.raises(type(error)):
        service.commit("bad")
    assert service.commit("good") == "answer to good"


@pytest.mark.parametrize("error", [ValueError("no"), DatabaseUnavailable("away"), SystemExit(3)])
def test_a_leader_that_fails_passes_the_lead_on_to_those_who_wait(error: BaseException) -> None:
    service = Service(refuse(error, "bad"))
    bad, *others = service.together("bad", "a", "b")
    assert isinstance(bad.exception(0), type(error))
    assert service.groups == [["bad"], ["a", "b"]]
    assert answers(others) == ["answer to a", "answer to b"]
    assert service.commit("later") == "answer to later"


# Interrupted ----------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """As a signal handler raises it, in whatever the thread does."""


def test_a_caller_that_is_interrupted_while_it_waits_is_not_waited_for() -> None:
    """Ctrl-C comes to the main thread only, so this test waits there itself."""
    service = Service()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.commit, "first")
        assert service.begun.wait(60)

        def break_in() -> str:
            service.until_waiting(1)
            os.kill(os.getpid(), signal.SIGUSR1)
            return service.commit("after")

        def handler(*_: Any) -> None:
            raise Interrupted

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            after = pool.submit(break_in)
            with pytest.raises(Interrupted):
                service.commit("given up")
        finally:
            signal.signal(signal.SIGUSR1, before)
            service.go.set()
        assert first.result(60) == "answer to first"
        assert after.result(60) == "answer to after"
    assert "given up" not in service.written


def test_a_leader_that_is_interrupted_hands_on_what_the_others_asked_for() -> None:
    def fail(group: Sequence[str]) -> None:
        if "a" in group and service.fail is not nothing:
            service.fail = nothing
            raise Interrupted

    service = Service(fail)
    first, a, b = service.together("first", "a", "b")
    assert first.result() == "answer to first"
    assert isinstance(a.exception(), Interrupted)
    assert b.result() == "answer to b"
    assert service.groups == [["first"], ["a", "b"], ["b"]]


# Many -----------------------------------------------------------------------------------------------------------------


def test_of_many_threads_each_gets_its_own_answer_once_and_one_writes_at_a_time() -> None:
    # A group that holds one of these is written again, member by member.
    service = Service(refuse(ValueError("no"), *(f"{thread}.{number}" for thread in range(16) for number in (7, 77))))
    total = 150
    found: dict[str, str] = {}

    def call(thread: int) -> None:
        for number in range(total):
            request = f"{thread}.{number}"
            try:
                found[request] = service.commit(request)
            except ValueError:
                found[request] = "refused"

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(call, thread) for thread in range(16)]
        try:
            service.until_waiting(15)
        finally:
            service.go.set()
        for future in futures:
            future.result(60)
    expected: dict[str, Any] = {
        f"{thread}.{number}": "refused" if number in (7, 77) else f"answer to {thread}.{number}"
        for thread in range(16)
        for number in range(total)
    }
    assert found == expected
    assert not service.overlapped
    assert len(service.groups[1]) >= 15
    assert sorted(service.written) == sorted(name for name, answer in expected.items() if answer != "refused")
    assert service.waiting == 0
