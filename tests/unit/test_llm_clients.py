"""Clients of an SDK: how many there are, and which one a call gets."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from itertools import count

import pytest

from worker.llm.clients import CALLS_OF_A_CLIENT, Clients


@pytest.fixture
def clients() -> Clients:
    """Give clients that are numbered in the order in which they are made."""
    numbers = count(1)
    return Clients(lambda: next(numbers))


def test_calls_that_follow_each_other_are_made_by_one_client(clients: Clients) -> None:
    for _ in range(3 * CALLS_OF_A_CLIENT):
        with clients.one() as client:
            assert client == 1


def test_a_client_has_so_many_calls_in_flight_and_no_more(clients: Clients) -> None:
    with ExitStack() as in_flight:
        taken = [in_flight.enter_context(clients.one()) for _ in range(2 * CALLS_OF_A_CLIENT + 1)]

    assert [taken.count(number) for number in (1, 2, 3)] == [CALLS_OF_A_CLIENT, CALLS_OF_A_CLIENT, 1]


def test_the_first_client_that_has_room_again_gets_the_next_call(clients: Clients) -> None:
    with ExitStack() as in_flight, ExitStack() as others:
        in_flight.enter_context(clients.one())
        for _ in range(CALLS_OF_A_CLIENT):
            others.enter_context(clients.one())
        in_flight.close()

        with clients.one() as client:
            assert client == 1


def test_a_call_that_fails_leaves_its_client_too(clients: Clients) -> None:
    for _ in range(CALLS_OF_A_CLIENT + 1):
        with suppress(ValueError), clients.one() as client:
            assert client == 1
            raise ValueError("no answer")


def test_who_calls_after_all_were_drained_gets_a_new_client(clients: Clients) -> None:
    with clients.one():
        assert clients.drain() == [1]

    with clients.one() as client:
        assert client == 2
    assert clients.drain() == [2]
    assert clients.drain() == []
