"""Messages between agents: each is received once, in its order, whoever dies; and whoever waits for one is woken by it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from sqlalchemy import update
from steps import DONE, FAILED, WORKER, Steps, ago, plan_of, race, spread, task

from orchestrator.bus.database import DatabaseMail
from orchestrator.bus.reading import packed
from orchestrator.bus.rows import Posting, Result, letter_id, parameters_of_postings, post_one, results_of
from orchestrator.bus.stranded import Stranded
from orchestrator.bus.stuck import Member
from orchestrator.clock import ids
from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.mail import OUTSIDE, RUNTIME, Filter, Found, Letter, MailState, Posted, Refusal, no_room
from orchestrator.contracts.shared import watch_of
from orchestrator.contracts.subwork import Order
from orchestrator.errors import ClaimLost, IdempotencyConflict, JournalConflict, RunStateConflict
from orchestrator.journal.encoding import pack
from orchestrator.journal.rows import columns_of
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Session
from orchestrator.store.dead import redrive
from orchestrator.store.readings import Readings
from orchestrator.store.store import Store
from orchestrator.store.tables import agent_message
from orchestrator.stream import events_of

ANY = Filter()
PLAN = plan_of(task("a"), task("b"), task("c"))
_numbers = count()


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, PLAN)


class Talk:
    """A run of three agents, claimed, and what they do."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.mail = steps.store.mail
        [self.run_id] = steps.start()
        self.claims = {name: steps.claim(self.run_id, name) for name in ("a", "b", "c")}

    def letter(self, to: str, body: Any = None, **fields: Any) -> Letter:
        return letter(self.steps, self.run_id, to, body, **fields)

    def send(self, sender: str, to: str, body: Any = None, **fields: Any) -> Posted:
        return self.mail.post(self.claims[sender], entry("send"), [self.letter(to, body, **fields)])

    def found(self, name: str, wanted: Filter = ANY) -> Found:
        [found] = self.mail.look(self.claims[name], wanted, 1).found
        return found

    def receive(self, name: str, wanted: Filter = ANY) -> Any:
        found = self.found(name, wanted)
        assert self.mail.take(self.claims[name], entry("receive", found.message.id), [found.number])
        return found.message.body

    def bodies(self, name: str, wanted: Filter = ANY) -> list[Any]:
        got: list[Any] = []
        while self.mail.look(self.claims[name], wanted, 1).found:
            got.append(self.receive(name, wanted))
        return got

    def suspend(self, name: str, *wanted: Filter) -> Any:
        claim = self.claims[name]
        looks = [(each, self.mail.look(claim, each, 1).seen) for each in wanted or (ANY,)]
        interests = [interest for each, seen in looks for interest in each.interests(seen)]
        return self.steps.store.waits.suspend(claim, left_seconds=None, waiting_for="mail", interests=interests)

    def state(self, name: str) -> str:
        return self.steps.states(self.run_id)[name]

    def history(self) -> list[tuple[str, str, Any, str]]:
        return [(each.sender, each.recipient, each.body, each.state.value) for each in self.mail.history(self.run_id)]


@pytest.fixture
def talk(steps: Steps) -> Talk:
    return Talk(steps)


def called(steps: Steps, claim: Claim) -> Claim:
    """Give the claim of an agent run that a claim has called."""
    begun = Entry(Slot("", 900), "call", fingerprint("call", None), EntryState.BEGUN)
    columns = columns_of(claim, pack(begun, limit_bytes=1000).entry)
    [ready] = steps.store.subwork.begin(claim, steps.plan, Order("helper", ("1",)), columns, most=10).ready
    found = steps.store.agent_runs.claim(ready.id, WORKER)
    assert found is not None
    return found


def letter(steps: Steps, run_id: str, to: str, body: Any = None, **fields: Any) -> Letter:
    fields = {"type": "message", **fields}
    return Letter(ids.new(), to, steps.id(run_id, to), body=packed(json.dumps(body)), **fields)


def entry(kind: str, about: Any = None, slot: Slot | None = None) -> Entry:
    slot = slot or Slot("", next(_numbers))
    return Entry(slot, kind, fingerprint(kind, about), EntryState.DONE, outcome=about)


def test_a_message_is_received_once_and_by_its_recipient_alone(talk: Talk) -> None:
    talk.send("a", "b", {"n": 1})
    assert talk.bodies("c") == []
    assert talk.bodies("b") == [{"n": 1}]
    assert talk.bodies("b") == []
    assert talk.history() == [("a", "b", {"n": 1}, "taken")]


def test_the_highest_priority_is_first_and_then_what_was_sent_first(talk: Talk) -> None:
    for body, priority in (("first", 4), ("second", 4), ("urgent", 9), ("idle", 0), ("third", 4)):
        talk.send("a", "b", body, priority=priority)
    assert talk.bodies("b") == ["urgent", "first", "second", "third", "idle"]


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        (Filter(sender="c"), ["from c"]),
        (Filter(type="review.*"), ["one", "two"]),
        (Filter(type="review.done"), ["two"]),
        (Filter(where="body == 'one' && priority >= 4"), ["one"]),
        (Filter(where="body.field > 1"), []),
        (Filter(any_of=(Filter(sender="c"), Filter(type="review.done"))), ["two", "from c"]),
        (Filter(sender=OUTSIDE), []),
    ],
)
def test_what_is_not_meant_is_left_where_it_is(talk: Talk, wanted: Filter, got: list[str]) -> None:
    talk.send("a", "b", "one", type="review.begun")
    talk.send("a", "b", "two", type="review.done")
    talk.send("c", "b", "from c")
    assert talk.bodies("b", wanted) == got
    assert sorted([*got, *talk.bodies("b")]) == ["from c", "one", "two"]


def test_a_message_behind_many_others_is_found(talk: Talk) -> None:
    letters = [talk.letter("b", number) for number in range(160)]
    talk.mail.post(talk.claims["a"], entry("send"), letters)
    assert talk.bodies("b", Filter(where="body >= 158")) == [158, 159]


def test_the_same_entry_again_sends_nothing_again(talk: Talk) -> None:
    sent, letters = entry("send", "x"), [talk.letter("b", "x")]
    talk.mail.post(talk.claims["a"], sent, letters)
    talk.mail.post(talk.claims["a"], sent, letters)
    assert talk.bodies("b") == ["x"]


def test_receiving_with_the_same_entry_again_is_the_same_receiving(talk: Talk) -> None:
    talk.send("a", "b", 1)
    talk.send("a", "b", 2)
    first = talk.found("b")
    received = entry("receive", 1)
    assert talk.mail.take(talk.claims["b"], received, [first.number])
    assert talk.mail.take(talk.claims["b"], received, [first.number]), "an earlier try got no answer"
    with pytest.raises(JournalConflict):
        talk.mail.take(talk.claims["b"], entry("receive", 2, received.slot), [talk.found("b").number])
    assert talk.bodies("b") == [2], "and the other one is there still"


def test_many_are_sent_and_received_in_their_order_each_as_one_record(talk: Talk) -> None:
    letters = [talk.letter("b", number) for number in range(10)]
    talk.mail.post(talk.claims["a"], entry("send"), letters)
    found = talk.mail.look(talk.claims["b"], ANY, 6).found
    assert [each.message.body for each in found] == [0, 1, 2, 3, 4, 5]
    assert talk.mail.take(talk.claims["b"], entry("receive"), [each.number for each in found])
    assert talk.bodies("b") == [6, 7, 8, 9]


def test_of_several_that_are_to_be_received_none_is_when_one_is_gone(talk: Talk) -> None:
    talk.mail.post(talk.claims["a"], entry("send"), [talk.letter("b", number) for number in range(3)])
    numbers = [each.number for each in talk.mail.look(talk.claims["b"], ANY, 3).found]
    assert talk.mail.take(talk.claims["b"], entry("receive", 1), numbers[1:2])
    assert not talk.mail.take(talk.claims["b"], entry("receive", 2), numbers)
    assert talk.bodies("b") == [0, 2]


def test_as_many_are_received_at_once_as_fit_into_a_record(talk: Talk) -> None:
    for number in range(3):
        talk.send("a", "b", f"{number}".ljust(600_000))
    assert [each.message.body.strip() for each in talk.mail.look(talk.claims["b"], ANY, 3).found] == ["0"]


def test_of_many_that_receive_one_message_one_has_it(talk: Talk) -> None:
    talk.send("a", "b", 1)
    number = talk.found("b").number
    taken = race(*[lambda: talk.mail.take(talk.claims["b"], entry("receive"), [number]) for _ in range(8)])
    assert taken.count(True) == 1


def test_of_branches_that_find_the_same_messages_at_the_same_moment_one_has_them(talk: Talk) -> None:
    for body in (1, 2):
        talk.send("a", "b", body)
    one, two = talk.mail.look(talk.claims["b"], ANY, 2).found
    all_found = threading.Barrier(2)

    def take(slot: Slot, *numbers: int) -> bool:
        all_found.wait(60)
        return talk.mail.take(talk.claims["b"], entry("receive", list(numbers), slot), numbers)

    for _ in range(20):
        slots = Slot("", next(_numbers)), Slot("", next(_numbers))
        with ThreadPoolExecutor(2) as pool:
            narrow, wide = pool.submit(take, slots[0], one.number), pool.submit(take, slots[1], one.number, two.number)
            assert sorted([narrow.result(), wide.result()]) == [False, True]
        talk.steps.store.journal.void(talk.claims["b"], list(slots))


def test_of_one_group_that_receives_the_same_messages_one_has_them(talk: Talk) -> None:
    for body in (1, 2):
        talk.send("a", "b", body)
    one, two = talk.mail.look(talk.claims["b"], ANY, 2).found
    postings: list[Posting] = []
    for takes in ((one.number,), (one.number, two.number), (two.number,)):
        write = talk.steps.store.journal.prepared(talk.claims["b"], entry("receive", list(takes)))
        postings.append(Posting(write.claim, write.packed, write.outcome, write.contents, takes=takes))

    def work(session: Session) -> dict[Any, Result]:
        if session.dialect == "postgresql":
            return results_of(postings, session.rows("mail_record", **parameters_of_postings(postings, 10)))
        return {posting.key: post_one(session, posting, 10) for posting in postings}

    results = talk.steps.store.database.transact(work)
    given = [results[posting.key].answer for posting in postings]
    received = [
        number
        for posting, answer in zip(postings, given, strict=True)
        if answer == "written"
        for number in posting.takes
    ]
    assert given[0] == "written"
    assert sorted(set(received)) == sorted(received), "no message stands in two records"


def test_who_has_lost_its_claim_sends_and_receives_nothing(talk: Talk) -> None:
    talk.send("b", "a", "for whoever follows")
    old = talk.claims["a"]
    talk.steps.requeue(old, delay_seconds=0)
    talk.claims["a"] = talk.steps.claim(talk.run_id, "a")
    with pytest.raises(ClaimLost):
        talk.mail.post(old, entry("send"), [talk.letter("b", "late")])
    with pytest.raises(ClaimLost):
        talk.mail.take(old, entry("receive"), [talk.found("a").number])
    assert talk.bodies("b") == []
    assert talk.bodies("a") == ["for whoever follows"]


def test_many_wait_for_room_for_all_of_them_or_for_an_empty_mailbox(steps: Steps) -> None:
    mail = DatabaseMail(steps.store.database, steps.store.journal, mailbox_size=3)
    [run_id] = steps.start()
    sender, recipient = steps.claim(run_id, "a"), steps.claim(run_id, "b")

    def send(count: int) -> list[str]:
        letters = [letter(steps, run_id, "b", number) for number in range(count)]
        return [refusal.why for refusal in mail.post(sender, entry("send"), letters).refusals]

    def receive() -> None:
        [found] = mail.look(recipient, ANY, 1).found
        assert mail.take(recipient, entry("receive"), [found.number])

    assert send(1) == []
    assert send(3) == ["full"]
    assert send(2) == []
    for _ in range(3):
        receive()
    assert send(5) == [], "more than it holds: they wait for each other for ever otherwise"


def test_a_full_mailbox_takes_nothing_until_something_was_received(steps: Steps) -> None:
    talk = Talk(steps)
    talk.mail = DatabaseMail(steps.store.database, steps.store.journal, mailbox_size=2)
    talk.send("a", "b", 1)
    talk.send("a", "b", 2)
    refused = talk.send("a", "b", 3)
    assert [(each.recipient, each.why) for each in refused.refusals] == [("b", "full")]
    assert [each.state for each in steps.store.journal.entries(talk.claims["a"].id)] == [EntryState.DONE] * 2
    talk.receive("b")
    assert talk.send("a", "b", 3).refusals == ()
    assert talk.bodies("b") == [2, 3]


def test_who_has_ended_takes_nothing(talk: Talk) -> None:
    talk.steps.finish(talk.claims["b"], DONE)
    assert [(each.why, each.state) for each in talk.send("a", "b").refusals] == [("ended", "succeeded")]
    assert talk.history() == []


def test_a_part_of_what_is_sent_together_is_not_sent_alone(talk: Talk) -> None:
    talk.steps.finish(talk.claims["c"], DONE)
    letters = [talk.letter("b", 1), talk.letter("c", 1)]
    assert [each.recipient for each in talk.mail.post(talk.claims["a"], entry("send"), letters).refusals] == ["c"]
    assert talk.bodies("b") == []


@pytest.mark.parametrize(
    ("wanted", "fields", "woken"),
    [
        (ANY, {}, True),
        (Filter(sender="a"), {}, True),
        (Filter(sender="c"), {}, False),
        (Filter(type="review"), {}, False),
        (Filter(type="review"), {"type": "review"}, True),
        (Filter(type="re*"), {"type": "other"}, True),
        (Filter(answers="01a20375-d983-7634-a5ab-958e4cc00000"), {}, False),
    ],
)
def test_who_waits_is_woken_by_what_may_be_meant(
    talk: Talk, wanted: Filter, fields: dict[str, Any], woken: bool
) -> None:
    assert talk.suspend("b", wanted) is None
    posted = talk.send("a", "b", 1, **fields)
    assert [dispatch.id for dispatch in posted.woken] == [talk.claims["b"].id] * woken
    assert talk.state("b") == ("queued" if woken else "suspended")


EITHER = Filter(any_of=(Filter(sender=OUTSIDE, type="close"), Filter(sender="c", where="body > 0")))


def test_who_listens_to_several_is_woken_by_what_may_be_meant_for_one_of_them_alone(talk: Talk) -> None:
    talk.suspend("b", EITHER)
    assert talk.send("a", "b", 1, type="close").woken == ()
    assert talk.state("b") == "suspended"
    assert [each.id for each in talk.send("c", "b", 1).woken] == [talk.claims["b"].id]


def test_who_listens_to_the_outside_alone_is_woken_by_it_and_never_told_that_no_message_can_come(talk: Talk) -> None:
    talk.suspend("b", Filter(any_of=(Filter(sender=OUTSIDE, type="close"), Filter(sender=OUTSIDE, type="order"))))
    for name in "ac":
        talk.steps.finish(talk.claims[name], DONE)
    assert Stranded(talk.steps.store.database).release_stuck() == []
    posted = talk.mail.deliver(talk.run_id, talk.letter("b", 1, type="order"))
    assert [each.id for each in posted.woken] == [talk.claims["b"].id]


def test_who_listens_to_several_looks_again_at_once_when_one_of_them_has_sent_meanwhile(talk: Talk) -> None:
    look = talk.mail.look(talk.claims["b"], EITHER, 1)
    talk.send("c", "b", 1)
    again = talk.steps.store.waits.suspend(
        talk.claims["b"], left_seconds=None, waiting_for="mail", interests=EITHER.interests(look.seen)
    )
    assert again is not None


def test_who_listens_to_several_who_have_ended_is_told(talk: Talk) -> None:
    talk.suspend("b", Filter(any_of=(Filter(sender="a"), Filter(sender="c"))))
    talk.steps.finish(talk.claims["a"], DONE)
    assert Stranded(talk.steps.store.database).release_stuck() == [], "c runs"
    talk.steps.finish(talk.claims["c"], DONE)
    assert [each.id for each in Stranded(talk.steps.store.database).release_stuck()] == [talk.claims["b"].id]


def test_who_runs_is_named_so_that_it_can_be_told(talk: Talk) -> None:
    assert talk.send("a", "b", 1).running == (talk.claims["b"].id,)


def test_who_suspends_after_something_has_come_is_queued_again_at_once(talk: Talk) -> None:
    look = talk.mail.look(talk.claims["b"], ANY, 1)
    talk.send("a", "b", 1)
    again = talk.steps.store.waits.suspend(
        talk.claims["b"], left_seconds=None, waiting_for="mail", interests=ANY.interests(look.seen)
    )
    assert again is not None
    assert talk.state("b") == "queued"


def test_who_has_looked_at_what_is_there_and_does_not_want_it_suspends(talk: Talk) -> None:
    talk.send("a", "b", 1)
    assert talk.suspend("b", Filter(where="body == 2")) is None


def test_no_wake_up_is_lost_between_senders_and_those_that_suspend(steps: Steps) -> None:
    talks = [Talk(steps) for _ in range(60)]

    def meet(talk: Talk) -> bool:
        seen = talk.mail.look(talk.claims["b"], ANY, 1).seen
        interests = ANY.interests(seen)
        met: list[Any] = race(
            lambda: steps.store.waits.suspend(
                talk.claims["b"], left_seconds=None, waiting_for="mail", interests=interests
            ),
            lambda: talk.send("a", "b", 1),
        )
        again, posted = met
        return bool(again) != bool(posted.woken) and talk.state("b") == "queued"

    assert all(spread(meet, talks, 4))


def test_agents_that_write_to_each_other_do_not_wait_for_each_other_for_ever(steps: Steps) -> None:
    talk = Talk(steps)
    pairs = [(one, other) for one in "abc" for other in "abc" if one != other]

    def write(number: int) -> None:
        sender, to = pairs[number % len(pairs)]
        others = [talk.letter(name, number) for name in "abc" if name != sender]
        talk.mail.post(talk.claims[sender], entry("send"), others if number % 2 else [talk.letter(to, number)])

    spread(write, list(range(120)), 8)
    got = {name: talk.bodies(name) for name in "abc"}
    assert sum(map(len, got.values())) == 60 + 2 * 60


def test_numbers_follow_the_order_of_a_sender_whatever_others_send(steps: Steps) -> None:
    talk = Talk(steps)

    def write(sender: str) -> None:
        for number in range(40):
            talk.send(sender, "c", [sender, number])

    race(lambda: write("a"), lambda: write("b"))
    got: list[Sequence[Any]] = talk.bodies("c")
    assert [number for name, number in got if name == "a"] == list(range(40))
    assert [number for name, number in got if name == "b"] == list(range(40))


def test_a_reply_is_received_by_who_waits_for_that_reply_alone(talk: Talk) -> None:
    question = talk.letter("b", "?", wants_reply=True)
    talk.mail.post(talk.claims["a"], entry("send"), [question])
    talk.receive("b")
    talk.send("b", "a", "!", answers=question.id)
    assert talk.mail.look(talk.claims["a"], ANY, 1).found == ()
    assert talk.receive("a", Filter(answers=question.id)) == "!"


def test_a_reply_after_its_time_is_dead_and_says_why(talk: Talk) -> None:
    question = talk.letter("b", "?", wants_reply=True)
    talk.mail.post(talk.claims["a"], entry("send"), [question])
    talk.receive("b")
    assert talk.mail.close(talk.claims["a"], entry("receive", "timed out"), question.id)
    talk.send("b", "a", "!", answers=question.id)
    *_, reply = talk.mail.history(talk.run_id)
    assert (reply.state, reply.reason) == (MailState.DEAD, "the request that it answers has timed out")
    assert talk.bodies("a", Filter(answers=question.id)) == []


def test_a_request_that_timed_out_before_it_was_received_is_not_received(talk: Talk) -> None:
    question = talk.letter("b", "?", wants_reply=True)
    talk.mail.post(talk.claims["a"], entry("send"), [question])
    assert talk.mail.close(talk.claims["a"], entry("receive", "timed out"), question.id)
    assert talk.bodies("b") == []


def test_a_reply_to_who_has_ended_is_dead_and_no_error_of_who_replies(talk: Talk) -> None:
    question = talk.letter("b", "?", wants_reply=True)
    talk.mail.post(talk.claims["a"], entry("send"), [question])
    talk.steps.finish(talk.claims["a"], DONE)
    assert talk.send("b", "a", "!", answers=question.id).refusals == ()
    *_, reply = talk.mail.history(talk.run_id)
    assert (reply.state, reply.reason) == (MailState.DEAD, "its recipient has ended")


def test_of_a_reply_and_a_timeout_at_the_same_moment_one_counts(steps: Steps) -> None:
    for talk in [Talk(steps) for _ in range(30)]:
        question = talk.letter("b", "?", wants_reply=True)
        talk.mail.post(talk.claims["a"], entry("send"), [question])
        talk.receive("b")
        closed, _ = race(
            lambda talk=talk, question=question: talk.mail.close(
                talk.claims["a"], entry("receive", "timed out"), question.id
            ),
            lambda talk=talk, question=question: talk.send("b", "a", "!", answers=question.id),
        )
        Stranded(talk.steps.store.database).clear()
        *_, reply = talk.mail.history(talk.run_id)
        assert reply.state is (MailState.DEAD if closed else MailState.WAITING)


def test_what_a_void_entry_has_sent_is_taken_back_and_what_it_has_received_waits_again(talk: Talk) -> None:
    talk.send("b", "a", "kept")
    talk.send("b", "a", "received again")
    first, second, sent = (Slot("x", number) for number in range(3))
    claim = talk.claims["a"]
    assert talk.mail.take(claim, entry("receive", 1, first), [talk.found("a").number])
    assert talk.mail.take(claim, entry("receive", 2, second), [talk.found("a").number])
    talk.mail.post(claim, entry("send", 3, sent), [talk.letter("c", "not meant")])
    talk.steps.store.journal.void(claim, [second, sent])
    assert talk.bodies("c") == []
    assert talk.bodies("a") == ["received again"]
    reasons = {each.body: each.reason for each in talk.mail.history(talk.run_id)}
    assert reasons == {"kept": None, "received again": None, "not meant": "its sender was set back to before it"}


def test_what_was_received_in_time_is_received_again_after_its_time(talk: Talk) -> None:
    talk.send("b", "a", "in time", ttl_seconds=1000)
    first = Slot("x", 0)
    assert talk.mail.take(talk.claims["a"], entry("receive", 1, first), [talk.found("a").number])
    database = talk.steps.store.database
    with database.engine.begin() as connection:
        connection.execute(update(agent_message).values(expires_at=ago(database, 1)))
    talk.steps.store.journal.void(talk.claims["a"], [first])
    assert Stranded(database).clear() == 0
    assert talk.bodies("a") == ["in time"]


def test_one_that_is_redriven_with_another_input_receives_again_and_sends_anew(talk: Talk) -> None:
    talk.send("b", "a", "received again")
    talk.receive("a")
    talk.send("a", "c", "taken back")
    talk.steps.finish(talk.claims["c"], DONE)
    talk.steps.finish(talk.claims["b"], DONE)
    assert talk.steps.store.runs.fail(talk.claims["a"], FAILED)
    redrive(talk.steps.store.runs, talk.claims["a"].id, "{}")
    talk.claims["a"] = talk.steps.claim(talk.run_id, "a")
    assert talk.bodies("a") == ["received again"]
    assert ("a", "c", "taken back", "dead") in talk.history()


def test_what_was_said_of_a_run_that_failed_is_not_heard_when_it_is_opened_again(talk: Talk) -> None:
    talk.steps.finish(talk.claims["c"], DONE)
    talk.suspend("a", Filter(sender="b"))
    talk.suspend("b", Filter(sender="a"))
    assert len(Stranded(talk.steps.store.database).release_stuck()) == 2
    assert talk.steps.store.runs.fail(talk.steps.claim(talk.run_id, "a"), FAILED)
    talk.steps.store.runs.reopen(talk.run_id)
    talk.claims = {name: talk.steps.claim(talk.run_id, name) for name in "ab"}
    talk.send("a", "b", "hello")
    assert talk.bodies("b") == ["hello"]
    assert talk.bodies("a") == []


def test_what_waits_for_one_that_has_ended_is_told_as_dead(talk: Talk) -> None:
    talk.send("a", "b", "too late")
    talk.steps.finish(talk.claims["b"], DONE)
    [record] = talk.mail.history(talk.run_id)
    assert (record.state, record.reason) == (MailState.DEAD, "its recipient has ended")
    assert record.ended_at is not None


def test_what_was_received_already_is_not_taken_back(talk: Talk) -> None:
    sent = Slot("x", 0)
    talk.mail.post(talk.claims["a"], entry("send", 1, sent), [talk.letter("b", 1)])
    talk.receive("b")
    talk.steps.store.journal.void(talk.claims["a"], None)
    assert talk.history() == [("a", "b", 1, "taken")]


def test_a_message_is_not_received_after_its_time(talk: Talk) -> None:
    talk.send("a", "b", "old", ttl_seconds=1000)
    database = talk.steps.store.database
    with database.engine.begin() as connection:
        connection.execute(update(agent_message).values(expires_at=ago(database, 1)))
    assert talk.bodies("b") == []
    assert Stranded(talk.steps.store.database).clear() == 1
    [record] = talk.mail.history(talk.run_id)
    assert (record.state, record.reason) == (MailState.DEAD, "nobody has received it in time")


def test_a_message_from_outside_comes_once_for_each_key(talk: Talk) -> None:
    for key in ("one", "one", "two"):
        made = talk.letter("b", key)
        sent = Letter(letter_id(talk.run_id, key), made.recipient, made.recipient_id, made.type, made.body)
        talk.mail.deliver(talk.run_id, sent)
    assert talk.bodies("b", Filter(sender=OUTSIDE)) == ["one", "two"]


def test_a_key_stands_for_one_message_also_when_the_run_has_ended(talk: Talk) -> None:
    def keyed(body: Any, to: str = "b", **fields: Any) -> Letter:
        made = talk.letter(to, body, **fields)
        return Letter(letter_id(talk.run_id, "key"), made.recipient, made.recipient_id, made.type, made.body)

    talk.mail.deliver(talk.run_id, keyed("said"))
    for other in (keyed("another"), keyed("said", "c"), keyed("said", type="note")):
        with pytest.raises(IdempotencyConflict, match="each message needs its own") as raised:
            talk.mail.deliver(talk.run_id, other)
        assert raised.value.details == {"message_id": other.id}
    talk.steps.store.runs.cancel(talk.run_id)
    assert talk.mail.deliver(talk.run_id, keyed("said")) == Posted()
    with pytest.raises(RunStateConflict):
        talk.mail.deliver(talk.run_id, talk.letter("b", "said"))


def test_who_is_suspended_is_woken_from_outside(talk: Talk) -> None:
    talk.suspend("b", Filter(sender=OUTSIDE))
    assert [each.id for each in talk.mail.deliver(talk.run_id, talk.letter("b", 1)).woken] == [talk.claims["b"].id]


def test_a_run_that_has_ended_takes_no_message(talk: Talk) -> None:
    talk.steps.store.runs.cancel(talk.run_id)
    with pytest.raises(RunStateConflict, match="has ended"):
        talk.mail.deliver(talk.run_id, talk.letter("b", 1))


def test_a_message_that_was_rejected_says_why(talk: Talk) -> None:
    talk.send("a", "b", 1)
    talk.mail.reject(talk.claims["b"], talk.found("b").number, "no review")
    [record] = talk.mail.history(talk.run_id)
    assert (record.state, record.reason) == (MailState.DEAD, "no review")


def test_who_waits_for_each_other_is_told_and_woken(talk: Talk) -> None:
    talk.steps.finish(talk.claims["c"], DONE)
    talk.suspend("a", Filter(sender="b"))
    talk.suspend("b", Filter(sender="a"))
    assert sorted(each.id for each in Stranded(talk.steps.store.database).release_stuck()) == sorted(
        talk.claims[name].id for name in "ab"
    )
    assert Stranded(talk.steps.store.database).release_stuck() == []
    talk.claims["a"] = talk.steps.claim(talk.run_id, "a")
    told = talk.found("a", Filter(sender="b")).message
    assert (told.sender, told.body["code"], told.body["details"]["waits"]) == (
        RUNTIME,
        "no_message_can_come",
        {"a": ["b"], "b": ["a"]},
    )


def test_who_may_get_a_message_still_is_left_alone(talk: Talk) -> None:
    talk.suspend("a", Filter(sender="b"))
    talk.suspend("b", Filter(sender="c"))
    assert Stranded(talk.steps.store.database).release_stuck() == [], "c runs"
    talk.steps.finish(talk.claims["c"], DONE)
    told = Stranded(talk.steps.store.database).release_stuck()
    assert [each.id for each in told] == [talk.claims["b"].id], "a may get one when b does without"
    talk.claims["b"] = talk.steps.claim(talk.run_id, "b")
    assert Stranded(talk.steps.store.database).release_stuck() == [], "b runs"
    talk.steps.finish(talk.claims["b"], DONE)
    assert [each.id for each in Stranded(talk.steps.store.database).release_stuck()] == [talk.claims["a"].id]


class Tight(Talk):
    """One whose mailboxes hold two messages, with a task behind the first one, and a task behind that."""

    def __init__(self, store: Store) -> None:
        super().__init__(Steps(store, plan_of(task("a"), task("b"), task("c"), task("d", "a"), task("e", "d"))))
        self.mail = DatabaseMail(store.database, store.journal, mailbox_size=2)

    def fill(self, sender: str, to: str, **fields: Any) -> Refusal:
        """Send until the mailbox is full; gives what is said to the next one."""
        for _ in range(2):
            assert self.send(sender, to, **fields).refusals == ()
        [refusal] = self.send(sender, to).refusals
        return refusal

    def wait_for_room(self, name: str, *full: Refusal) -> None:
        interests = [Interest("room", {"of": each.recipient, "fits": each.fits, "slot": "3"}) for each in full]
        waits = self.steps.store.waits
        assert waits.suspend(self.claims[name], left_seconds=30, waiting_for="room", interests=interests) is None

    def told(self) -> list[str]:
        """Let the sweep look once; gives who is told."""
        names = {claim.id: name for name, claim in self.claims.items()}
        return sorted(names[each.id] for each in Stranded(self.steps.store.database).release_stuck())


@pytest.fixture
def tight(store: Store) -> Tight:
    return Tight(store)


def test_two_who_wait_for_room_in_the_mailbox_of_each_other_are_told_at_that_send(tight: Tight) -> None:
    in_b, in_a = tight.fill("a", "b"), tight.fill("b", "a")
    tight.wait_for_room("a", in_b)
    assert tight.told() == [], "b runs"
    tight.wait_for_room("b", in_a)
    assert tight.told() == ["a", "b"], "whoever else of the run goes on"
    assert tight.told() == []
    claim = tight.claims["a"] = tight.steps.claim(tight.run_id, "a")
    assert [each.message.sender for each in tight.mail.look(claim, ANY, 9).found] == ["b", "b"]
    [said] = tight.mail.look(claim, Filter(sender=RUNTIME, type=no_room("3", claim.epoch)), 1).found
    assert (said.message.body["code"], said.message.body["details"]["waits"]) == (
        "mailbox_full",
        {"a": ["b"], "b": ["a"]},
    )


def test_who_waits_for_room_that_is_there_by_now_is_left_alone(tight: Tight) -> None:
    in_b = tight.fill("a", "b")
    tight.wait_for_room("a", in_b)
    tight.receive("b")
    tight.suspend("b", Filter(sender="a", type="more"))
    assert tight.told() == [], "at its next look it goes on"


def test_who_waits_for_more_room_than_there_is_is_told_and_not_who_waits_for_its_message(tight: Tight) -> None:
    tight.fill("a", "b")
    two = [tight.letter("b", number) for number in range(2)]
    tight.receive("b")
    [refusal] = tight.mail.post(tight.claims["a"], entry("send"), two).refusals
    tight.wait_for_room("a", refusal)
    tight.suspend("b", Filter(sender="a", type="more"))
    assert tight.told() == ["a"]
    assert tight.state("b") == "suspended"


def test_who_waits_for_room_that_time_will_make_is_left_alone(tight: Tight) -> None:
    tight.send("a", "b", ttl_seconds=3600)
    tight.send("a", "b")
    [refusal] = tight.send("a", "b").refusals
    tight.wait_for_room("a", refusal)
    tight.suspend("b", Filter(sender="a", type="more"))
    assert tight.told() == []


def test_who_waits_for_room_of_one_that_may_receive_yet_is_left_alone(tight: Tight) -> None:
    in_b, in_c = tight.fill("a", "b"), tight.fill("b", "c")
    tight.wait_for_room("a", in_b)
    tight.wait_for_room("b", in_c)
    waits = tight.steps.store.waits
    waits.suspend(tight.claims["c"], left_seconds=3600, waiting_for="a time")
    assert tight.told() == [], "c goes on after a time"
    assert {tight.state(name) for name in "abc"} == {"suspended"}


def test_who_waits_for_room_of_one_that_waits_for_the_outside_is_left_alone(tight: Tight) -> None:
    tight.wait_for_room("a", tight.fill("a", "b"))
    tight.suspend("b", Filter(any_of=(Filter(sender=OUTSIDE), Filter(sender="a", type="more"))))
    tight.steps.finish(tight.claims["c"], DONE)
    assert tight.told() == []


def test_who_waits_for_room_of_one_that_has_ended_is_left_alone(tight: Tight) -> None:
    tight.wait_for_room("a", tight.fill("a", "b"))
    tight.steps.finish(tight.claims["b"], DONE)
    tight.steps.finish(tight.claims["c"], DONE)
    assert tight.told() == [], "its next look says so"


@pytest.mark.parametrize(
    ("sender", "to", "hopeless"),
    [("a", "b", False), ("a", "d", True), ("a", "e", True), ("b", "d", False), ("b", "e", False), ("a", "a", True)],
)
def test_a_full_mailbox_of_one_that_begins_after_its_sender_or_is_its_sender_is_hopeless(
    tight: Tight, sender: str, to: str, hopeless: bool
) -> None:
    refusal = tight.fill(sender, to)
    assert (refusal.why, refusal.fits, refusal.hopeless) == ("full", 1, hopeless)


def test_a_full_mailbox_is_not_hopeless_while_what_is_in_it_has_a_time_to_live(tight: Tight) -> None:
    assert not tight.fill("a", "d", ttl_seconds=3600).hopeless
    assert not tight.fill("a", "a", ttl_seconds=3600).hopeless


class LateStranded(Stranded):
    """Looks at a run, and is overtaken by what wakes one of its agents."""

    def _members(self, run_ids: Sequence[str]) -> dict[str, list[Member]]:
        found = super()._members(run_ids)
        [waiting] = [member.id for members in found.values() for member in members if member.task == "b"]
        self._database.execute(lambda session: session.row("mail_wake", id=waiting))
        return found


def test_nobody_is_told_when_one_of_those_who_hold_him_up_goes_on_meanwhile(talk: Talk) -> None:
    talk.steps.finish(talk.claims["c"], DONE)
    talk.suspend("a", Filter(sender="b"))
    talk.suspend("b", Filter(sender="a"))
    assert LateStranded(talk.steps.store.database).release_stuck() == []
    assert talk.state("a") == "suspended"


@pytest.mark.parametrize("other_goes_on", [False, True])
def test_a_call_whose_agent_waits_for_its_caller_is_told_to_that_agent(talk: Talk, other_goes_on: bool) -> None:
    if not other_goes_on:
        talk.steps.finish(talk.claims["c"], DONE)
    child = called(talk.steps, talk.claims["a"])
    look = talk.mail.look(child, Filter(sender="a"), 1)
    talk.steps.store.waits.suspend(
        child, left_seconds=None, waiting_for="mail", interests=Filter(sender="a").interests(look.seen)
    )
    talk.suspend("b", Filter(sender="a"))
    calling = Interest("calls", {"subwork": str(child.subwork_id)})
    talk.steps.store.waits.suspend(talk.claims["a"], left_seconds=None, waiting_for="calls", interests=[calling])
    told = Stranded(talk.steps.store.database).release_stuck()
    assert [each.id for each in told] == [child.id], "a goes on when that has ended, and may send to b"
    [found] = talk.mail.look(child, Filter(sender="a"), 1).found
    assert "a-1 waits for a; a waits for a-1, which it has called" in found.message.body["message"]
    assert found.message.body["details"] == {"waits": {"a-1": ["a"], "a": ["a-1"]}}


def test_a_wait_for_a_change_that_nobody_can_make_is_woken_with_the_reason(talk: Talk) -> None:
    talk.steps.finish(talk.claims["c"], DONE)
    talk.suspend("b", Filter(sender="a"))
    watching = Interest("keys", watch_of("", "plan", prefix=False, since=0))
    talk.steps.store.waits.suspend(talk.claims["a"], left_seconds=None, waiting_for="keys", interests=[watching])
    told = Stranded(talk.steps.store.database).release_stuck()
    assert {each.id for each in told} == {talk.claims["a"].id, talk.claims["b"].id}
    talk.claims["a"] = talk.steps.claim(talk.run_id, "a")
    message = talk.found("a", Filter(sender=RUNTIME)).message
    assert (
        "no change can come any more: a waits for a change of 'plan' by b, c, which has succeeded"
        in message.body["message"]
    )


def told_in_vain(talk: Talk) -> None:
    """Let b run again, which was told that no message can come."""
    talk.steps.finish(talk.claims["c"], DONE)
    talk.suspend("a", Filter(sender="b"))
    talk.suspend("b", Filter(sender="a", type="answer"))
    assert len(Stranded(talk.steps.store.database).release_stuck()) == 2
    for name in "ab":
        talk.claims[name] = talk.steps.claim(talk.run_id, name)


@pytest.mark.parametrize("most", [1, 10])
def test_a_message_that_has_come_all_the_same_is_received_and_what_was_told_goes_with_it(talk: Talk, most: int) -> None:
    talk.send("a", "b", "urgent, and not meant", priority=9, type="other")
    talk.send("a", "b", "urgent", priority=9)
    told_in_vain(talk)
    for number in range(60):
        talk.send("a", "b", number)
    look = talk.mail.look(talk.claims["b"], Filter(type="message"), most)
    assert [each.message.body for each in look.found] == ["urgent", *range(most - 1)]
    assert talk.mail.take(talk.claims["b"], entry("receive"), look.numbers)
    assert [state for sender, to, _, state in talk.history() if (sender, to) == (RUNTIME, "b")] == ["taken"]
    assert talk.receive("b", Filter(type="message")) == most - 1, "the next wait is told nothing of this one"


def test_a_message_far_behind_others_goes_before_what_was_told(talk: Talk) -> None:
    told_in_vain(talk)
    for number in range(60):
        talk.send("a", "b", number, type="other")
    talk.send("a", "b", "meant")
    assert talk.receive("b", Filter(type="message")) == "meant"


def test_a_request_is_told_that_no_reply_can_come_and_gets_one_that_has_come(talk: Talk) -> None:
    request = talk.letter("a", "what now?", wants_reply=True)
    talk.mail.post(talk.claims["b"], entry("send"), [request])
    talk.receive("a")
    told_in_vain(talk)
    wanted = Filter(answers=request.id)
    assert talk.found("b", wanted).message.sender == RUNTIME
    talk.send("a", "b", "this", answers=request.id)
    look = talk.mail.look(talk.claims["b"], wanted, 1)
    assert [each.message.body for each in look.found] == ["this"]
    assert len(look.numbers) == 2


def test_of_a_message_and_what_was_told_both_are_received_or_none(talk: Talk) -> None:
    told_in_vain(talk)
    talk.send("a", "b", "meant")
    look = talk.mail.look(talk.claims["b"], ANY, 1)
    [told] = talk.mail.look(talk.claims["b"], Filter(sender=RUNTIME), 1).found
    assert talk.mail.take(talk.claims["b"], entry("watch"), [told.number]), "another branch has waited too"
    assert not talk.mail.take(talk.claims["b"], entry("receive"), look.numbers)
    assert talk.bodies("b") == ["meant"]


def test_a_suspension_for_mail_belongs_to_its_claim(talk: Talk) -> None:
    old: Claim = talk.claims["b"]
    talk.steps.requeue(old, delay_seconds=0)
    talk.steps.claim(talk.run_id, "b")
    with pytest.raises(ClaimLost):
        talk.steps.store.waits.suspend(old, left_seconds=None, waiting_for="mail", interests=ANY.interests(0))


def test_the_depth_of_mailboxes_is_known_by_agent(talk: Talk) -> None:
    readings = Readings(talk.steps.store.database)
    talk.send("a", "b", 1)
    talk.send("a", "b", 2)
    talk.send("b", "c", 3)
    talk.receive("b")
    agents = {name: talk.steps.plan.tasks[talk.steps.plan.position[name]].agent for name in "abc"}
    expected: Counter[str] = Counter([agents["b"], agents["c"]])
    assert readings.fleet(lease_ttl_seconds=60).mail == expected
    talk.steps.finish(talk.claims["c"], DONE)
    assert readings.fleet(lease_ttl_seconds=60).mail == expected - Counter([agents["c"]])


def test_watchers_are_told_of_each_message_once_and_go_on_behind_a_cursor(talk: Talk) -> None:
    database = talk.steps.store.database
    for number in range(3):
        talk.send("a", "b", number, type="count")
    with database.engine.begin() as connection:
        connection.execute(update(agent_message).values(created_at=ago(database, 5)))
    talk.send("a", "b", 3)
    told = [event for event in events_of(talk.steps.store, talk.run_id) if event.kind == "message"]
    assert [(event.task, event.data["to"], event.data["body"]) for event in told] == [("a", "b", n) for n in range(3)]
    behind = [event for event in events_of(talk.steps.store, talk.run_id, told[1].cursor) if event.kind == "message"]
    assert [event.data["body"] for event in behind] == [2], "what is younger than a second may have one before it"
    talk.steps.store.runs.cancel(talk.run_id)
    rest = [event for event in events_of(talk.steps.store, talk.run_id, behind[0].cursor) if event.kind == "message"]
    assert [event.data["body"] for event in rest] == [3]
