"""Who is told to look, of this process and of others, when something has come for an agent that waits in its process."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, cast

import pytest

from orchestrator.broker.hints import ALL
from orchestrator.clock import agent_run_id, ids, system_clock
from orchestrator.contracts.interest import Interest, InterestKind
from orchestrator.contracts.mail import Letter, Posted
from orchestrator.store.agent_runs import Claim
from worker.effects.base import Account
from worker.effects.motion import Motion
from worker.effects.parking import Parking, Wait
from worker.effects.scopes import Scopes, Suspended
from worker.post import Post

RUN = ids.new()[:-5] + "00000"


class Ear:
    """One that waits, and what it was told."""

    def __init__(self) -> None:
        self.told: list[InterestKind | None] = []

    def poke(self, kind: InterestKind | None = None) -> None:
        self.told.append(kind)


class Air:
    """Hints that go nowhere."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.runs: list[str] = []

    def listen(self, run_id: str) -> None:
        self.runs.append(run_id)

    def ignore(self, run_id: str) -> None:
        self.runs.remove(run_id)

    def publish(self, run_id: str, tasks: Iterable[str]) -> None:
        self.sent.append((run_id, list(tasks)))


def identity(position: int, run_id: str = RUN) -> str:
    return agent_run_id(run_id, position)


def claim(position: int, run_id: str = RUN, task: str | None = None) -> Claim:
    """Give the claim of the task at a place of a run: its name is a letter, "a" of the first."""
    name = task or "abc"[position]
    return Claim(identity(position, run_id), name, position, "agent", 1, 0, 0, ids.new(), ids.new(), "null", None)


@pytest.fixture
def air() -> Air:
    return Air()


@pytest.fixture
def post(air: Air) -> Post:
    nobody = cast("Any", None)
    return Post(nobody, nobody, nobody, 1000, cast("Any", air))


def test_a_caller_of_this_process_looks_and_one_of_another_process_gets_a_hint(post: Post, air: Air) -> None:
    here = Ear()
    post.listen(claim(0), here)
    post.tell_callers(RUN, {identity(0): "a"})
    assert (here.told, air.sent) == (["calls"], [])
    post.tell_callers(RUN, {identity(1): "b"})
    post.tell_callers(RUN, {identity(1): "b", identity(2): "c"})
    assert (here.told, air.sent) == (["calls"], [(RUN, ["b"]), (RUN, [ALL])])


def test_a_change_is_told_to_all_of_its_run_and_elsewhere_only_where_somebody_waits(post: Post, air: Air) -> None:
    one, two, other = Ear(), Ear(), Ear()
    other_run = ids.new()[:-5] + "00000"
    for place, ear in ((claim(0), one), (claim(1), two), (claim(0, other_run), other)):
        post.listen(place, ear)
    post.tell_changed(RUN, elsewhere=False)
    assert (one.told, two.told, other.told, air.sent) == (["keys"], ["keys"], [], [])
    post.tell_changed(RUN, elsewhere=True)
    assert air.sent == [(RUN, [ALL])]


def test_a_hint_is_for_whatever_is_waited_for(post: Post) -> None:
    ear = Ear()
    post.listen(claim(0), ear)
    post.heard(RUN, "a")
    post.heard(RUN, ALL)
    post.missed()
    assert ear.told == [None, None, None]


def test_a_hint_is_for_its_task_alone_since_who_sends_one_hears_it_too(post: Post) -> None:
    asker, answerer, subwork = Ear(), Ear(), Ear()
    for place, ear in ((claim(0), asker), (claim(1), answerer), (claim(2, task="b-1"), subwork)):
        post.listen(place, ear)
    post.heard(RUN, "b")
    assert (asker.told, answerer.told, subwork.told) == ([], [None], [])


def test_one_that_has_left_hears_nothing_and_nobody_listens_for_it(post: Post, air: Air) -> None:
    ear = Ear()
    with post.told(identity(0)):
        post.listen(claim(0), ear)
        post.listen(claim(0), ear)
        assert air.runs == [RUN]
    post.heard(RUN, "a")
    post.tell(RUN, [Letter(ids.new(), "a", identity(0), "note", b"")], Posted(running=(identity(0),)))
    assert (ear.told, air.runs, air.sent) == ([], [], [(RUN, ["a"])])


@pytest.mark.parametrize(("told", "looks"), [("mail", False), ("keys", False), ("calls", True), (None, True)])
def test_a_wait_looks_when_something_of_its_kind_may_have_come(told: InterestKind | None, looks: bool) -> None:
    parking = Parking(Motion(Account("m")), cast("Any", None), moment_seconds=60)
    wait = Wait("", "waits", None, interests=(Interest("calls", {}),), hints=parking.hints("calls"))
    parking.poke(told)
    scopes = cast("Any", type("Scopes", (), {"running": 1, "tasks": ()})())
    assert (parking.left(wait, scopes) == 0) is looks


ROOM = (Interest("room", {"of": "b", "fits": 0, "slot": "1"}),)
MAIL = (Interest("mail", {"seen": 0, "from": "b"}), Interest("mail", {"seen": 0, "from": "c"}))


def suspended(*waits: Wait, moment_seconds: float = 1) -> Suspended:
    """Give what ends an execution that does nothing but these waits."""
    parking = Parking(Motion(Account("m")), cast("Any", None), moment_seconds)
    with ExitStack() as stack:
        for wait in waits:
            stack.enter_context(parking.parked(wait))
        with pytest.raises(Suspended) as raised:
            parking.left(waits[0], Scopes("m"))
    return raised.value


def later(seconds: float) -> float:
    return system_clock.monotonic() + seconds


def test_a_wait_for_one_of_several_suspends_with_all_that_wake_it() -> None:
    assert suspended(Wait("", "listens", None, interests=MAIL)).interests == MAIL


def test_one_that_waits_for_room_does_not_stay_for_its_next_look_however_long_a_moment_is() -> None:
    room = Wait("", "waits", later(2), interests=ROOM, stays=False)
    found = suspended(room, moment_seconds=600)
    assert (found.interests, found.until) == (ROOM, room.until)


def test_one_that_waits_for_room_and_a_message_says_both() -> None:
    room = Wait("1", "sends", later(2), interests=ROOM, stays=False)
    assert suspended(room, Wait("2", "receives", None, interests=MAIL)).interests == (*ROOM, *MAIL)


def test_one_that_waits_for_room_and_a_time_goes_on_by_itself_and_does_not_say_so() -> None:
    room = Wait("1", "sends", later(2), interests=ROOM, stays=False)
    assert suspended(room, Wait("2", "sleeps", later(60))).interests == ()
    assert suspended(room, Wait("2", "receives", later(60), interests=MAIL)).interests == MAIL


def test_one_that_waits_for_room_and_a_person_says_both() -> None:
    room = Wait("1", "sends", later(2), interests=ROOM, stays=False)
    assert suspended(room, Wait("2", "asks", None)).interests == (*ROOM, Interest("people", {}))
