"""Answers that are shared: who asks, who waits, who gets what, and who takes over from whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from plans import plan_text
from spending import TENANT, Purse, call_of
from sqlalchemy import select, update
from steps import DONE, FAILED, WORKER, Steps, ago, change, plan_of, race, task

from orchestrator.clock import ids
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.retention import Keeper
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database, Session, times
from orchestrator.store.model_answers import Answer, Asking, Found, InFlight, ModelAnswers, Taken
from orchestrator.store.store import Store
from orchestrator.store.tables import journal, model_answer, worker

KEY = "4f" * 32
LEASE, SILENCE, DAY = 240.0, 600.0, 86_400.0
HERS, HIS = b'p{"text":"hers"}', b'p{"text":"his"}'


class Desk:
    """Calls of agent runs on one store that ask one question, and what its row says."""

    def __init__(self, store: Store) -> None:
        self.purse = Purse(Steps(store, plan_of(task("a"))))
        self.steps = self.purse.steps
        self.answers = ModelAnswers(store.database)
        self.database = store.database
        store.fleet.join(WORKER, name="host", pid=1, slots=9, cards=[])

    def claim(self) -> Claim:
        return self.purse.claim()

    def claim_again(self, claim: Claim) -> Claim:
        """Let an agent run be taken over."""
        assert self.steps.requeue(claim, failed=False)
        return self.steps.claim(claim.run_id, "a")

    def look(self, asking: Asking) -> Answer:
        return self.answers.look(asking, lease_seconds=LEASE, silence_seconds=SILENCE)

    def takes(self, claim: Claim, **given: Any) -> Asking:
        """Be the one who asks."""
        asking = ask(claim, **given)
        assert self.look(asking) == Taken()
        return asking

    def answers_with(self, claim: Claim, body: bytes = HERS, **given: Any) -> Asking:
        asking = self.takes(claim, **given)
        assert self.answers.keep(asking, body, DAY)
        return asking

    def row(self) -> dict[str, Any]:
        with self.database.connect() as connection:
            found = connection.execute(select(model_answer)).mappings().one()
        return {name: times(value) if name.endswith("_at") else value for name, value in found.items()}

    def put_back(self, **seconds: float) -> None:
        """Put times of all rows back."""
        values = {name: ago(self.database, each) for name, each in seconds.items()}
        with self.database.connect() as connection:
            connection.execute(update(model_answer).values(**values))

    def record(self, claim: Claim, *, void: bool = False) -> None:
        """Record, a second ago, in the place of the question the answer of before; perhaps it was found wanting."""
        entry = Entry(Slot("", 0), "model", "0" * 32, EntryState.DONE, outcome={"text": "hers"})
        self.steps.store.journal.record(claim, entry)
        if void:
            self.steps.store.journal.void(claim, [entry.slot])
        self.put_back(answered_at=2)
        with self.database.connect() as connection:
            connection.execute(update(journal).values(recorded_at=ago(self.database, 1)))


def ask(claim: Claim, number: int = 0, key: str = KEY, **given: Any) -> Asking:
    return Asking(key, call_of(claim, number), **given)


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


@pytest.fixture
def on_postgres(migrated: Database) -> Desk:
    return Desk(Store(migrated))


# One question, once ---------------------------------------------------------------------------------------------------


def test_one_asks_the_others_wait_and_get_its_answer(desk: Desk) -> None:
    first, second = ask(desk.claim()), ask(desk.claim())
    assert desk.look(first) == Taken()
    waiting = desk.look(second)
    assert isinstance(waiting, InFlight)
    assert 0 <= waiting.seconds < 60
    assert desk.answers.keep(first, HERS, DAY)
    assert desk.look(second) == Found(HERS, own=False)


def test_of_all_who_ask_at_once_one_asks(on_postgres: Desk) -> None:
    for number in range(10):
        askings = [ask(on_postgres.claim(), key=f"{number:064d}") for _ in range(8)]
        found = race(*(partial(on_postgres.look, each) for each in askings))
        assert sum(isinstance(each, Taken) for each in found) == 1
        assert sum(isinstance(each, InFlight) for each in found) == 7


def test_how_long_somebody_asks_is_told_and_grows_while_it_asks_again(desk: Desk) -> None:
    first, second = desk.takes(desk.claim()), ask(desk.claim())
    desk.put_back(asked_at=100)
    assert desk.look(first) == Taken()
    waiting = desk.look(second)
    assert isinstance(waiting, InFlight)
    assert 99 < waiting.seconds < 160


def test_another_question_and_another_tenant_are_strangers(desk: Desk) -> None:
    desk.answers_with(desk.claim())
    assert desk.look(ask(desk.claim(), key="5e" * 32)) == Taken()
    elsewhere = ask(desk.claim())
    assert desk.look(replace(elsewhere, call=replace(elsewhere.call, tenant_id=ids.new()))) == Taken()


def test_an_answer_that_is_given_is_a_line_of_the_ledger_that_costs_nothing(desk: Desk) -> None:
    desk.purse.set(TENANT, 1000)
    desk.answers_with(desk.claim())
    call = desk.claim()
    asking = ask(call, provenance="flight")
    assert [desk.look(asking) for _ in range(2)] == [Found(HERS, own=False)] * 2
    line = desk.purse.line(asking.call)
    assert (line["state"], line["cost_nanousd"], line["provenance"]) == ("settled", 0, "flight")
    assert (line["model"], line["agent"], line["input_tokens"]) == ("openai:small", "a", 0)
    assert str(line["project_id"]) == str(desk.steps.run_row(call.run_id)["project_id"])
    assert desk.purse.amounts(TENANT) == (0, 0, 0)
    assert len(desk.purse.lines()) == 1, "who asks is told to the ledger by its call"


def test_an_answer_is_given_until_its_time_is_over(desk: Desk) -> None:
    desk.answers_with(desk.claim())
    desk.put_back(expires_at=1)
    assert desk.look(ask(desk.claim())) == Taken()
    assert desk.row()["body"] is None


# Who asks comes again -------------------------------------------------------------------------------------------------


def test_whoever_asks_goes_on_asking_after_a_wait_or_under_a_later_claim(desk: Desk) -> None:
    claim = desk.claim()
    asking = desk.takes(claim)
    assert desk.look(asking) == Taken()
    again = ask(desk.claim_again(claim))
    assert desk.look(again) == Taken()
    assert not desk.answers.leave(asking), "a claim that is lost lets nobody in"
    assert isinstance(desk.look(ask(desk.claim())), InFlight)
    assert desk.answers.leave(again)


def test_an_answer_that_was_lost_before_it_was_recorded_is_given_back_to_who_has_paid_for_it(desk: Desk) -> None:
    claim = desk.claim()
    desk.answers_with(claim)
    assert desk.look(ask(desk.claim_again(claim))) == Found(HERS, own=True)
    assert desk.purse.lines() == {}, "it is in the ledger with its cost"


def test_an_agent_run_is_not_given_its_own_answer_in_another_place(desk: Desk) -> None:
    claim = desk.claim()
    desk.answers_with(claim)
    assert desk.look(ask(claim, 1)) == Taken()


def test_an_answer_that_an_agent_found_wanting_is_replaced_for_all_by_the_next_one(desk: Desk) -> None:
    desk.answers_with(desk.claim())
    first, second, third = (desk.claim() for _ in range(3))
    assert [desk.look(ask(claim)) for claim in (first, second)] == [Found(HERS, own=False)] * 2
    desk.record(first, void=True)
    desk.record(second, void=True)
    desk.answers_with(desk.claim_again(first), HIS)
    assert desk.look(ask(desk.claim_again(second))) == Found(HIS, own=False), "it has not seen this one"
    assert desk.look(ask(third)) == Found(HIS, own=False)


def test_its_own_answer_that_an_agent_found_wanting_is_asked_for_anew(desk: Desk) -> None:
    claim = desk.claim()
    desk.answers_with(claim)
    desk.record(claim, void=True)
    assert desk.look(ask(desk.claim_again(claim))) == Taken()


def test_an_answer_that_was_recorded_and_stays_is_not_in_the_way_of_others(desk: Desk) -> None:
    claim = desk.claim()
    desk.answers_with(claim)
    desk.record(claim)
    assert desk.look(ask(desk.claim())) == Found(HERS, own=False)


# Taking over ----------------------------------------------------------------------------------------------------------


def fails(desk: Desk, asking: Asking, claim: Claim) -> None:
    del claim
    assert desk.answers.leave(asking)


def has_had_its_time(desk: Desk, asking: Asking, claim: Claim) -> None:
    del asking, claim
    desk.put_back(expires_at=1)


def worker_dies(desk: Desk, asking: Asking, claim: Claim) -> None:
    del asking, claim
    change(desk.database, worker, WORKER, beat_at=ago(desk.database, SILENCE + 1))


def ends(desk: Desk, asking: Asking, claim: Claim) -> None:
    del asking
    assert desk.steps.finish(claim, DONE)


def fails_for_good(desk: Desk, asking: Asking, claim: Claim) -> None:
    del asking
    assert desk.steps.finish(claim, FAILED)


def is_cancelled(desk: Desk, asking: Asking, claim: Claim) -> None:
    del asking
    desk.steps.store.runs.cancel(claim.run_id)


def is_deleted(desk: Desk, asking: Asking, claim: Claim) -> None:
    is_cancelled(desk, asking, claim)
    assert desk.steps.store.deletions.delete_ended([claim.run_id]) == 1


ENDS = [fails, has_had_its_time, worker_dies, ends, fails_for_good, is_cancelled, is_deleted]


@pytest.mark.parametrize("end", ENDS)
def test_one_of_those_who_wait_takes_over_from_who_asks_no_more(
    desk: Desk, end: Callable[[Desk, Asking, Claim], None]
) -> None:
    claim = desk.claim()
    asking, waiting = desk.takes(claim), [ask(desk.claim()) for _ in range(3)]
    assert all(isinstance(desk.look(each), InFlight) for each in waiting)
    end(desk, asking, claim)
    found = [desk.look(waiting[0])]
    desk.steps.store.fleet.beat(WORKER, slots=9, idle=False, draining=False)
    found += [desk.look(each) for each in waiting[1:]]
    assert [type(each) for each in found] == [Taken, InFlight, InFlight]
    assert not desk.answers.keep(asking, HERS, DAY), "an answer that comes late is nobody's but who has paid for it"
    assert desk.answers.keep(waiting[0], HIS, DAY)
    assert desk.look(waiting[1]) == Found(HIS, own=False)


def test_who_says_that_it_still_asks_is_waited_for_however_long_that_takes(desk: Desk) -> None:
    claim = desk.claim()
    asking = desk.takes(claim)
    for _ in range(3):
        desk.put_back(expires_at=1)
        assert desk.answers.renew([asking, ask(claim, 1, key="0" * 64)], LEASE) == 1
        assert isinstance(desk.look(ask(desk.claim())), InFlight)
    assert desk.answers.keep(asking, HERS, DAY)
    assert desk.answers.renew([asking], LEASE) == 0, "an answer is kept for its own time"


def test_a_question_that_another_one_has_taken_is_not_renewed_by_who_had_it_before(desk: Desk) -> None:
    claim, other = desk.claim(), desk.claim()
    asking = desk.takes(claim)
    again = desk.claim_again(claim)
    assert desk.look(ask(again)) == Taken()
    assert desk.answers.renew([asking], LEASE) == 0
    desk.put_back(expires_at=1)
    taken = desk.takes(other)
    assert desk.answers.renew([asking, ask(again)], LEASE) == 0
    assert desk.answers.renew([taken], LEASE) == 1


def test_one_takes_over_when_all_look_at_once(on_postgres: Desk) -> None:
    for number in range(10):
        key = f"{number:064d}"
        assert on_postgres.answers.leave(on_postgres.takes(on_postgres.claim(), key=key))
        on_postgres.takes(on_postgres.claim(), key=key)
        on_postgres.put_back(expires_at=1)
        found = race(*(partial(on_postgres.look, ask(on_postgres.claim(), key=key)) for _ in range(8)))
        assert sum(isinstance(each, Taken) for each in found) == 1


@pytest.mark.parametrize("state", ["queued", "suspended"])
def test_who_waits_for_limits_or_for_a_new_worker_is_waited_for(desk: Desk, state: str) -> None:
    claim = desk.claim()
    desk.takes(claim)
    running = desk.look(ask(desk.claim()))
    desk.steps.change(claim.run_id, "a", state=state, worker_id=None)
    waiting = desk.look(ask(desk.claim()))
    assert isinstance(running, InFlight)
    assert isinstance(waiting, InFlight)
    assert (running.waits, waiting.waits) == (False, True), "it may need the slot of who waits for it"


def test_an_agent_run_that_is_gone_asks_nothing(desk: Desk) -> None:
    claim = desk.claim()
    is_deleted(desk, ask(claim), claim)
    assert isinstance(desk.look(ask(claim)), InFlight)


def test_a_call_costs_two_statements_and_an_answer_that_is_there_one(
    on_postgres: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[str]()
    execute = Session._execute  # pyright: ignore[reportPrivateUsage]

    def counting(self: Session, statement: str, parameters: dict[str, Any]) -> Any:
        sent.append(statement)
        return execute(self, statement, parameters)

    first, second = ask(on_postgres.claim()), ask(on_postgres.claim())
    monkeypatch.setattr(Session, "_execute", counting)
    on_postgres.look(first)
    on_postgres.answers.keep(first, HERS, DAY)
    assert len(sent) == 2
    on_postgres.look(second)
    assert len(sent) == 3


def test_a_question_is_found_by_its_key_on_tables_that_were_never_analysed(on_postgres: Desk) -> None:
    plan = plan_text(on_postgres.database, "look_for_answer", without=("seqscan",))
    assert "pk_model_answer" in plan
    assert not re.search(r"Seq Scan on (model_answer|journal|agent_run|worker|run)\b", plan), plan
    assert "pk_model_answer" in plan_text(on_postgres.database, "renew_questions", without=("seqscan",))
    assert "ix_model_answer_expires" in plan_text(on_postgres.database, "delete_stale_answers", without=("seqscan",))


# The end --------------------------------------------------------------------------------------------------------------


def test_an_answer_goes_with_the_run_that_has_paid_for_it(desk: Desk) -> None:
    claim = desk.claim()
    desk.answers_with(claim)
    desk.steps.finish(claim)
    assert desk.steps.store.deletions.delete_ended([claim.run_id]) == 1
    assert desk.look(ask(desk.claim())) == Taken()


def test_what_is_over_is_deleted_so_many_at_a_time_and_nothing_else_is(desk: Desk) -> None:
    claim = desk.claim()
    for number in range(5):
        desk.answers_with(claim, number=number, key=f"{number:064d}")
    desk.put_back(expires_at=1)
    desk.answers_with(desk.claim())
    delete = desk.steps.store.deletions.delete_stale_answers
    assert [delete(most=3) for _ in range(3)] == [3, 2, 0]
    assert desk.row()["key"] == KEY


def test_workers_delete_what_is_over(desk: Desk) -> None:
    desk.answers_with(desk.claim())
    desk.put_back(expires_at=1)
    keeper = Keeper(desk.steps.store.deletions, Settings())
    for _ in range(20):
        keeper.tick()
    assert keeper.counts["answers"] == 1
