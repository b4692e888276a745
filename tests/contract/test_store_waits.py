"""Waiting without a slot: what suspends, what wakes it once, and what becomes of questions to people."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import insert, update
from steps import OTHER_WORKER, WORKER, Steps, ago, plan_of, race, spread, task, wait_for_lock

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.question import Inquiry, Question, QuestionState
from orchestrator.contracts.run import RunState
from orchestrator.errors import AnswerRefused, ClaimLost, NightfleetError, QuestionNotFound
from orchestrator.store.agent_runs import Claim
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.store import Store
from orchestrator.store.tables import journal, question
from orchestrator.store.waits import Answering

FIRST = Slot("", 0)
INQUIRY = Inquiry("Send it?", choices=("yes", "no"))


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a")))


def sleeping(steps: Steps, seconds: float | None = 100.0, waiting_for: str = "sleeps") -> Claim:
    """Make a run whose one task is suspended; gives the claim that has suspended it."""
    claim = steps.claim(steps.start()[0], "a")
    assert steps.store.waits.suspend(claim, left_seconds=seconds, waiting_for=waiting_for) is None
    return claim


def overdue(steps: Steps, count: int = 1) -> list[str]:
    """Make runs whose one task should have been woken a while ago."""
    runs = steps.start(count)
    for run_id in runs:
        values = {"state": "suspended", "wake_at": ago(steps.store.database, 5), "published_at": None}
        steps.change(run_id, "a", **values, epoch=1, dispatch=1)
    return runs


def asked(steps: Steps, claim: Claim, inquiry: Inquiry = INQUIRY, slot: Slot = FIRST) -> Question:
    """Ask as a worker does: the question, and the beginning of the effect in the journal."""
    steps.store.waits.ask(claim, slot, inquiry)
    begin(steps.store.database, claim, slot)
    [found] = [each for each in steps.store.waits.open_questions(run_id=claim.run_id) if each.text == inquiry.text]
    return found


def begin(database: Database, claim: Claim, slot: Slot = FIRST) -> None:
    row = {"agent_run_id": claim.id, "scope": slot.scope, "number": slot.number, "tenant_id": DEFAULT_TENANT_ID}
    row |= {"kind": "ask", "fingerprint": "0" * 32, "state": "begun", "epoch": claim.epoch}
    with database.connect() as connection:
        connection.execute(insert(journal).values(**row, recorded_at=ago(database, 0)))


def void(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(update(journal).values(state="void"))


def expire(database: Database, seconds_ago: float = 1) -> None:
    with database.connect() as connection:
        connection.execute(update(question).values(expires_at=ago(database, seconds_ago)))


def refusal(steps: Steps, question_id: str, **answering: str) -> str:
    with pytest.raises(AnswerRefused) as refused:
        steps.store.waits.answer(Answering(question_id, '"yes"', **answering))
    return refused.value.message


def tried(work: Callable[[], object]) -> Callable[[], object]:
    """Give work that gives what it raises."""

    def go() -> object:
        try:
            return work()
        except NightfleetError as error:
            return error

    return go


# Suspending and waking ------------------------------------------------------------------------------------------------


def test_a_suspended_agent_run_is_held_by_nobody_and_says_what_it_waits_for(steps: Steps) -> None:
    before = datetime.now(UTC)
    claim = sleeping(steps, 100.0, "sleeps until tomorrow")
    row = steps.row(claim.run_id, "a")
    assert (row["state"], row["worker_id"], row["waiting_for"]) == ("suspended", None, "sleeps until tomorrow")
    assert before + timedelta(seconds=99.9) < row["wake_at"] < datetime.now(UTC) + timedelta(seconds=100.1)
    assert steps.store.repairs.orphans_of(WORKER) == []
    assert steps.state(claim.run_id) is RunState.RUNNING


def test_who_has_lost_the_claim_suspends_nothing(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    steps.requeue(claim)
    newer = steps.claim(claim.run_id, "a", OTHER_WORKER)
    with pytest.raises(ClaimLost):
        steps.store.waits.suspend(claim, left_seconds=5, waiting_for="sleeps")
    steps.store.runs.cancel(claim.run_id)
    with pytest.raises(ClaimLost):
        steps.store.waits.suspend(newer, left_seconds=5, waiting_for="sleeps")
    assert steps.states(claim.run_id) == {"a": "cancelled"}


def test_a_suspended_agent_run_is_not_claimed_finished_or_suspended_again(steps: Steps) -> None:
    claim = sleeping(steps)
    assert steps.try_claim(claim.run_id, "a") is None
    assert steps.finish(claim) is None
    with pytest.raises(ClaimLost):
        steps.store.waits.suspend(claim, left_seconds=5, waiting_for="sleeps")


def test_what_sleeps_is_woken_at_its_time_and_not_before(steps: Steps) -> None:
    claim = sleeping(steps)
    assert steps.store.waits.wake_due() == []
    steps.change(claim.run_id, "a", wake_at=ago(steps.store.database, 1))
    assert steps.store.waits.wake_due() == [Dispatch(claim.id, 2, "a", Priority.LATER)]
    row = steps.row(claim.run_id, "a")
    assert (row["state"], row["wake_at"], row["waiting_for"]) == ("queued", None, None)
    assert row["published_at"] is not None
    assert steps.store.waits.wake_due() == []
    assert steps.claim(claim.run_id, "a").epoch == 2


def test_what_waits_for_an_event_alone_is_woken_by_no_timer(steps: Steps) -> None:
    sleeping(steps, None)
    assert steps.store.repairs.seconds_to_next_due() is None
    assert steps.store.waits.wake_due() == []


def test_whether_a_time_has_come_is_asked_only_where_the_last_answer_does_not_show_it(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, asked, minute = steps.store.waits, list[datetime](), timedelta(minutes=1)
    seconds = system_clock.monotonic()
    monkeypatch.setattr("orchestrator.store.waits.system_clock", SimpleNamespace(monotonic=lambda: seconds))
    now, ask = waits.now(), waits.now
    monkeypatch.setattr(waits, "now", lambda: asked.append(ask()) or asked[-1])
    assert waits.has_come(now - minute)
    assert waits.has_come(now)
    assert asked == []
    assert not waits.has_come(now + minute)
    assert len(asked) == 1
    # The database's clock may have been set since.
    seconds += 5
    assert waits.has_come(now)
    assert len(asked) == 2


def test_the_next_sweep_is_due_when_the_first_sleeper_is(steps: Steps) -> None:
    sleeping(steps, 1000)
    sleeping(steps, 500)
    due = steps.store.repairs.seconds_to_next_due()
    assert due is not None
    assert 440 < due <= 500.1


def test_a_suspension_costs_neither_failures_nor_crashes_and_frees_from_suspicion(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    steps.change(claim.run_id, "a", suspect=True)
    steps.store.waits.suspend(claim, left_seconds=5, waiting_for="sleeps")
    row = steps.row(claim.run_id, "a")
    assert (row["failures"], row["crashes"], row["suspect"]) == (0, 0, False)


def test_at_most_500_are_woken_at_a_time_the_longest_due_first(steps: Steps) -> None:
    runs = overdue(steps, 501)
    steps.change(runs[500], "a", wake_at=ago(steps.store.database, 900))
    woken = steps.store.waits.wake_due()
    assert len(woken) == 500
    assert steps.id(runs[500], "a") in {dispatch.id for dispatch in woken}
    assert len(steps.store.waits.wake_due()) == 1


def test_of_many_who_wake_at_the_same_moment_each_sleeper_is_woken_by_one(steps: Steps) -> None:
    runs = overdue(steps, 300)

    def wake() -> list[Dispatch]:
        found: list[Dispatch] = []
        while some := steps.store.waits.wake_due():
            found += some
        return found

    woken = [dispatch.run_id for each in race(*[wake] * 6) for dispatch in each]
    assert sorted(woken) == sorted(runs)


def test_an_embedded_process_wakes_its_own_runs_alone(steps: Steps) -> None:
    mine, other = overdue(steps, 2)
    assert [dispatch.run_id for dispatch in steps.store.waits.wake_due([mine])] == [mine]
    assert steps.states(other) == {"a": "suspended"}


def test_a_cancelled_sleeper_is_not_woken(steps: Steps) -> None:
    [run_id] = overdue(steps)
    assert steps.store.runs.cancel(run_id)
    assert steps.store.waits.wake_due() == []
    assert steps.states(run_id) == {"a": "cancelled"}


def test_a_wake_up_and_a_cancellation_at_once_leave_nothing_queued_in_a_cancelled_run(steps: Steps) -> None:
    for run_id in overdue(steps, 40):
        race(lambda run_id=run_id: steps.store.runs.cancel(run_id), steps.store.waits.wake_due)
        assert (steps.state(run_id), steps.states(run_id)) == (RunState.CANCELLED, {"a": "cancelled"})


# Asking ---------------------------------------------------------------------------------------------------------------


def test_an_open_question_says_who_asks_what(steps: Steps) -> None:
    [run_id] = steps.create(NewRun(ids.new(), "{}"), project="press")
    claim = steps.claim(run_id, "a")
    inquiry = Inquiry("Pay?", ("yes", "no"), None, {"usd": 5}, expires_seconds=60)
    found = asked(steps, claim, inquiry)
    assert (found.run_id, found.project, found.task, found.agent) == (run_id, "press", "a", "a")
    assert (found.text, found.choices, found.about, found.answer_schema) == ("Pay?", ("yes", "no"), {"usd": 5}, None)
    assert found.digest == inquiry.digest
    assert found.expires_at is not None
    assert 55 < (found.expires_at - found.asked_at).total_seconds() < 65
    assert steps.store.waits.question(found.id) == found
    assert steps.store.waits.reply(claim.id, FIRST).state is QuestionState.OPEN


def test_a_question_is_open_only_while_its_effect_is_under_way(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    steps.store.waits.ask(claim, FIRST, INQUIRY)
    assert steps.store.waits.open_questions() == []
    begin(steps.store.database, claim)
    [found] = steps.store.waits.open_questions()
    void(steps.store.database)
    assert steps.store.waits.open_questions() == []
    assert "started anew" in refusal(steps, found.id)


def test_who_has_lost_the_claim_asks_nothing(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    steps.requeue(claim)
    steps.claim(claim.run_id, "a")
    with pytest.raises(ClaimLost):
        steps.store.waits.ask(claim, FIRST, INQUIRY)


def test_a_question_asked_anew_replaces_the_one_before_with_its_answer(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    first = asked(steps, claim)
    steps.store.waits.answer(Answering(first.id, '"yes"'))
    steps.store.waits.ask(claim, FIRST, Inquiry("Really?"))
    with pytest.raises(QuestionNotFound, match="asked anew"):
        steps.store.waits.answer(Answering(first.id, '"yes"'))
    [second] = steps.store.waits.open_questions()
    assert (second.text, steps.store.waits.reply(claim.id, FIRST).answer) == ("Really?", None)


def test_open_questions_are_listed_oldest_first_and_by_run_and_project(steps: Steps) -> None:
    runs = [*steps.start(2), *steps.create(NewRun(ids.new(), "{}"), project="press")]
    found = [asked(steps, steps.claim(run_id, "a")) for run_id in runs]
    waits = steps.store.waits
    assert waits.open_questions() == found
    assert waits.open_questions(limit=2) == found[:2]
    assert waits.open_questions(run_id=runs[1]) == found[1:2]
    assert waits.open_questions(project="press") == found[2:]
    assert waits.open_questions(run_id="no id") == []


# Answering ------------------------------------------------------------------------------------------------------------


def test_an_answer_wakes_who_waits_for_it_and_reaches_it(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    found = asked(steps, claim)
    steps.store.waits.suspend(claim, left_seconds=None, waiting_for="an answer")
    assert steps.store.waits.answer(Answering(found.id, '"yes"', by="ada", digest=found.digest)) == claim.run_id
    row = steps.row(claim.run_id, "a")
    assert (row["state"], row["published_at"], row["waiting_for"]) == ("queued", None, None)
    assert steps.store.repairs.take_due([claim.run_id]) == [Dispatch(claim.id, 2, "a", Priority.LATER)]
    reply = steps.store.waits.reply(claim.id, FIRST)
    assert (reply.state, reply.answer) == (QuestionState.ANSWERED, '"yes"')
    assert steps.store.waits.open_questions() == []


def test_an_answer_that_comes_before_the_suspension_is_not_slept_over(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    found = asked(steps, claim)
    steps.store.waits.answer(Answering(found.id, '"yes"'))
    assert steps.states(claim.run_id) == {"a": "running"}
    again = steps.store.waits.suspend(claim, left_seconds=None, waiting_for="an answer")
    assert again == Dispatch(claim.id, 2, "a", Priority.LATER)
    assert steps.row(claim.run_id, "a")["waiting_for"] is None
    newer = steps.claim(claim.run_id, "a")
    assert steps.store.waits.suspend(newer, left_seconds=50, waiting_for="sleeps") is None


def test_an_answer_that_was_taken_up_before_the_suspension_wakes_nobody(steps: Steps) -> None:
    waits = steps.store.waits
    claim = steps.claim(steps.start()[0], "a")
    taken, missed = asked(steps, claim), asked(steps, claim, Inquiry("Who?"), Slot("", 1))
    waits.answer(Answering(taken.id, '"yes"'))
    with steps.store.database.connect() as connection:
        connection.execute(update(journal).where(journal.c.number == 0).values(state="done"))
    assert waits.suspend(claim, left_seconds=None, waiting_for="an answer", heard=True) is None
    waits.answer(Answering(missed.id, '"Ada"'))
    claim = steps.claim(claim.run_id, "a")
    waits.answer(Answering(asked(steps, claim, Inquiry("When?"), Slot("", 2)).id, '"now"'))
    assert waits.suspend(claim, left_seconds=None, waiting_for="an answer", heard=True) is not None


@pytest.mark.parametrize("heard", [False, True])
def test_no_wake_up_is_lost_between_an_answer_and_a_suspension(postgres: Database, heard: bool) -> None:
    steps = Steps(Store(postgres), plan_of(task("a")))
    claims = [steps.claim(run_id, "a") for run_id in steps.start(500)]
    questions = [asked(steps, claim) for claim in claims]

    def meet(number: int) -> str:
        claim, found = claims[number], questions[number]
        race(
            lambda: steps.store.waits.answer(Answering(found.id, '"yes"')),
            lambda: steps.store.waits.suspend(claim, left_seconds=None, waiting_for="an answer", heard=heard),
        )
        return steps.states(claim.run_id)["a"]

    assert spread(meet, range(500), 6) == ["queued"] * 500


def test_of_several_answers_one_counts(steps: Steps) -> None:
    for run_id in steps.start(20):
        claim = steps.claim(run_id, "a")
        found = asked(steps, claim)
        answers = [Answering(found.id, f'"{number}"') for number in range(3)]
        told = race(*[tried(lambda answer=answer: steps.store.waits.answer(answer)) for answer in answers])
        [winner] = [number for number, each in enumerate(told) if each == run_id]
        assert steps.store.waits.reply(claim.id, FIRST).answer == f'"{winner}"'
        assert "answered already" in refusal(steps, found.id)


def test_an_expired_question_takes_no_answer_and_tells_its_asker(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    found = asked(steps, claim, Inquiry("Send it?", expires_seconds=6000))
    left = steps.store.waits.reply(claim.id, FIRST).left_seconds
    assert left is not None
    assert 5000 < left <= 6000.1
    expire(steps.store.database)
    assert steps.store.waits.open_questions() == []
    assert "expired" in refusal(steps, found.id)
    assert steps.store.waits.reply(claim.id, FIRST).state is QuestionState.EXPIRED
    assert "expired" in refusal(steps, found.id)


def test_an_answer_and_an_expiry_at_once_agree_on_what_came_first(steps: Steps) -> None:
    for run_id in steps.start(20):
        claim = steps.claim(run_id, "a")
        found = asked(steps, claim, Inquiry("Send it?", expires_seconds=60))
        expire(steps.store.database, -0.004)
        answer = tried(lambda found=found: steps.store.waits.answer(Answering(found.id, '"yes"')))
        told, _ = race(answer, lambda claim=claim: steps.store.waits.reply(claim.id, FIRST))
        expire(steps.store.database)
        end = steps.store.waits.reply(claim.id, FIRST).state
        assert end is (QuestionState.ANSWERED if told == run_id else QuestionState.EXPIRED)


def test_an_answer_to_something_else_than_what_was_seen_is_refused(steps: Steps) -> None:
    found = asked(steps, steps.claim(steps.start()[0], "a"))
    assert "another digest" in refusal(steps, found.id, digest=Inquiry("Something else?").digest)
    assert steps.store.waits.open_questions() == [found]


def test_a_digest_is_that_of_text_choices_shape_and_what_is_approved() -> None:
    inquiries = [
        Inquiry("Pay?"),
        Inquiry("Pay"),
        Inquiry("Pay?", ("yes",)),
        Inquiry("Pay?", schema={"type": "integer"}),
        Inquiry("Pay?", about={"usd": 5}),
    ]
    assert len({inquiry.digest for inquiry in inquiries}) == len(inquiries)
    assert Inquiry("Pay?", about={"a": 1, "b": 2}).digest == Inquiry("Pay?", about={"b": 2, "a": 1}).digest


def test_the_questions_of_a_run_that_has_ended_are_closed_until_it_is_retried(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    found = asked(steps, claim)
    steps.store.waits.suspend(claim, left_seconds=None, waiting_for="an answer")
    steps.store.runs.cancel(claim.run_id)
    assert steps.store.waits.open_questions() == []
    assert "its run has ended" in refusal(steps, found.id)
    steps.store.runs.reopen(claim.run_id)
    assert steps.store.waits.open_questions() == [found]


def test_an_answer_and_a_cancellation_at_once_leave_nothing_queued_in_a_cancelled_run(steps: Steps) -> None:
    for _ in range(30):
        claim = steps.claim(steps.start()[0], "a")
        found = asked(steps, claim)
        steps.store.waits.suspend(claim, left_seconds=None, waiting_for="an answer")
        answer = tried(lambda found=found: steps.store.waits.answer(Answering(found.id, '"yes"')))
        race(answer, lambda claim=claim: steps.store.runs.cancel(claim.run_id))
        assert steps.states(claim.run_id) == {"a": "cancelled"}


@pytest.mark.parametrize("identity", ["no id", "0199c0de-0000-7000-8000-00000000dead"])
def test_a_question_that_is_not_there_is_not_answered(steps: Steps, identity: str) -> None:
    assert steps.store.waits.question(identity) is None
    with pytest.raises(QuestionNotFound, match="no question"):
        steps.store.waits.answer(Answering(identity, '"yes"'))


def test_a_question_waits_for_a_change_of_its_run_before_it_holds_anything(postgres: Database) -> None:
    """Else the two would wait for each other, until the database breaks one of them off."""
    steps = Steps(Store(postgres), plan_of(task("a")))
    claim = steps.claim(steps.start()[0], "a")
    told: list[object] = []
    asking = threading.Thread(target=lambda: told.append(tried(lambda: asked(steps, claim))()))
    with postgres.transaction() as session:
        session.row("lock_run", run_id=claim.run_id)
        asking.start()
        wait_for_lock(postgres)
        session.command("SET LOCAL lock_timeout = '100ms'")
        assert session.run("cancel_open", run_id=claim.run_id) == 1
    asking.join(60)
    assert [type(each) for each in told] == [ClaimLost]


def test_the_questions_of_one_run_are_those_of_a_project_too(steps: Steps) -> None:
    first, second = (steps.claim(run_id, "a") for run_id in steps.start(2))
    found = [asked(steps, first), asked(steps, second)]
    waits = steps.store.waits
    assert waits.open_questions(run_id=first.run_id) == found[:1]
    assert waits.open_questions(run_id=first.run_id, project="default") == found[:1]
    assert waits.open_questions(run_id=first.run_id, project="other") == []
    assert waits.open_questions(project="default") == found


def test_the_shortest_expiry_is_one(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    steps.store.waits.ask(claim, FIRST, Inquiry("Send it?", expires_seconds=1e-5))
    assert steps.store.waits.reply(claim.id, FIRST).state is QuestionState.EXPIRED


def test_a_wake_up_of_an_earlier_claim_is_none_of_the_next_one(steps: Steps) -> None:
    claim = steps.claim(steps.start()[0], "a")
    found = asked(steps, claim)
    steps.store.waits.answer(Answering(found.id, '"yes"'))
    steps.requeue(claim, failed=False)
    again = steps.claim(claim.run_id, "a")
    assert steps.store.waits.suspend(again, left_seconds=100, waiting_for="sleeps") is None


def test_a_retry_forgets_what_was_waited_for(steps: Steps) -> None:
    claim = sleeping(steps)
    steps.store.runs.cancel(claim.run_id)
    steps.store.runs.reopen(claim.run_id)
    row = steps.row(claim.run_id, "a")
    assert (row["wake_at"], row["waiting_for"]) == (None, None)
