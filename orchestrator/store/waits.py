"""Waiting without a slot: agent runs that are suspended, what wakes them, and the questions that they ask people."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.clock import ids, system_clock
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.interest import Interest, listening
from orchestrator.contracts.question import Inquiry, Question, QuestionState, Reply
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import AnswerRefused, ClaimLost, QuestionNotFound
from orchestrator.store.agent_runs import Claim
from orchestrator.store.arrivals import ARRIVALS, HOLDS
from orchestrator.store.database import Database, Session, moment, times

#: How long a reading of the database's clock tells what has passed since: that clock may be set.
_FRESH_SECONDS = 1.0
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Answering:
    """An answer on its way: `value` is JSON text; `digest`, if given, is that of what the answerer has seen."""

    question_id: str
    value: str
    by: str | None = None
    digest: str | None = None


class Waits:
    """Every method is one transaction; any number of processes may call them at once. Times are the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: What the database's clock has shown last, and when that was known here.
        self._read: tuple[datetime, float] | None = None

    # Suspending and waking --------------------------------------------------------------------------------------------

    def suspend(
        self,
        claim: Claim,
        *,
        left_seconds: float | None,
        waiting_for: str,
        heard: bool = False,
        interests: Sequence[Interest] = (),
    ) -> Dispatch | None:
        """Let an agent run wait, with nobody holding it, until it is woken or `left_seconds` have passed.

        An event that came since the claim is not lost: the agent run is queued again at once, and given to be published.
        It is not for events that the claim has taken up itself, if it says that it has `heard` of some. Whoever brings what
        one of the `interests` names finds them in the row. Raises `ClaimLost`.
        """
        left = _readable(left_seconds)
        wanted = listening(interests)
        row_of = {"id": claim.id, "epoch": claim.epoch}

        def work(session: Session) -> Any:
            for kind in sorted(HOLDS.keys() & wanted.keys()):
                HOLDS[kind](session, claim)
            if heard or wanted:
                # Held from here on, so that no event comes between the look at them and the suspension.
                session.row("lock_agent_run", id=claim.id)
            if heard:
                session.run("drop_wake", **row_of)
            if any(ARRIVALS[kind](session, claim, listed) for kind, listed in wanted.items()):
                session.run("note_wake", id=claim.id)
            stored = json.dumps(wanted) if wanted else None
            return session.row("suspend", left=left, waiting_for=waiting_for, listening=stored, **row_of)

        row = self._database.transact(work) if heard or wanted else self._database.execute(work)
        if row is None:
            raise ClaimLost("cancelled, or taken over by another worker")
        state, agent, number, priority = row
        return None if state == AgentRunState.SUSPENDED else Dispatch(claim.id, number, agent, priority)

    def wake_due(self, runs: Collection[str] | None = None) -> list[Dispatch]:
        """Queue up to 500 agent runs whose time has come, and give them, to be published; of `runs` only, if given."""

        def work(session: Session) -> list[Any]:
            return session.rows("wake_due") if runs is None else session.rows("wake_due_of", runs=sorted(runs))

        return [Dispatch(row[0], row[4], row[2], row[5]) for row in self._database.execute(work)]

    def now(self) -> datetime:
        """Give the database's time, by which timers go."""
        row = self._database.execute(lambda session: session.row("database_now"))
        now = moment(row[0] if row else None)
        self._read = now, system_clock.monotonic()
        return now

    def has_come(self, moment: datetime) -> bool:
        """Tell whether a time has come by the database's clock, which is asked if its last answer does not show that.

        The time since an answer adds to it only as much as has certainly passed.
        """
        if self._read is not None:
            then, at = self._read
            passed = system_clock.monotonic() - at
            if passed < _FRESH_SECONDS and then + timedelta(seconds=passed) >= moment:
                return True
        return self.now() >= moment

    # Questions, for who asks ------------------------------------------------------------------------------------------

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        """Put a question, and give its id; one that was asked at the same place before is given up. Raises `ClaimLost`."""
        identity = ids.new()
        count = self._database.execute(
            lambda session: session.run(
                "ask",
                id=identity,
                run_id=claim.run_id,
                agent_run_id=claim.id,
                epoch=claim.epoch,
                scope=slot.scope,
                number=slot.number,
                text=inquiry.text,
                request=inquiry.request(),
                digest=inquiry.digest,
                expires=_readable(inquiry.expires_seconds),
            )
        )
        if count != 1:
            raise ClaimLost("cancelled, or taken over by another worker")
        return identity

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        """Give what has become of a question; one whose time is over is expired by this, and takes no answer any more.

        Raises `QuestionNotFound`.
        """
        while True:
            place = {"agent_run_id": agent_run_id, "scope": slot.scope, "number": slot.number}
            row = self._database.execute(lambda session, place=place: session.row("question_at", **place))
            if row is None:
                raise QuestionNotFound(f"agent run {agent_run_id} has asked nothing at {slot}")
            identity, state, answer, expires_at, now = row
            left = None if expires_at is None else _left(expires_at, now)
            if state != QuestionState.OPEN or left is None or left > 0:
                return Reply(QuestionState(state), answer, left)
            # Somebody may be answering at this moment: whoever changes the row first has it.
            self._database.execute(lambda session, identity=identity: session.run("expire_question", id=identity))

    # Questions, for who answers ---------------------------------------------------------------------------------------

    def answer(self, answering: Answering) -> str:
        """Record an answer and wake who waits for it, in one transaction; gives the id of the run.

        What it has queued is left unpublished. Raises `QuestionNotFound`, and `AnswerRefused` for a question that is
        answered or expired, whose run has ended, or that is not the one the answerer has seen.
        """
        if not _ID.fullmatch(answering.question_id):
            raise _no_question(answering.question_id)
        return self._database.transact(lambda session: _answer(session, answering))

    def question(self, question_id: str) -> Question | None:
        """Give a question, open or not; None if there is none."""
        if not _ID.fullmatch(question_id):
            return None
        row = self._database.execute(lambda session: session.row("question", id=question_id))
        return None if row is None else _question(row)

    def open_questions(
        self, *, run_id: str | None = None, project: str | None = None, limit: int = 1000
    ) -> list[Question]:
        """Give the questions that an answer is awaited for, oldest first."""
        if run_id is not None and not _ID.fullmatch(run_id):
            return []

        def work(session: Session) -> list[Any]:
            meant = {"project": project, "most": limit}
            if run_id is None:
                return session.rows("open_questions", **meant)
            return session.rows("open_questions_of", run_id=run_id, **meant)

        return [_question(row) for row in self._database.execute(work)]


def _answer(session: Session, answering: Answering) -> str:
    found = session.row("find_question", id=answering.question_id)
    if found is None:
        raise _no_question(answering.question_id)
    run_id, agent_run_id = found
    # In the order in which everybody locks: run, agent run, what belongs to it.
    open_run = session.row("lock_active_run", run_id=run_id) is not None
    held = session.row("lock_agent_run", id=agent_run_id)
    row = session.row("question_to_answer", id=answering.question_id)
    if row is None:
        # Asked anew between the first look and the lock.
        raise _no_question(answering.question_id)
    state = None if held is None or not open_run else AgentRunState(held[0])
    if (reason := _refusal(row, state, answering)) is not None:
        raise AnswerRefused(f"question {answering.question_id}: {reason}")
    session.run("answer_question", id=answering.question_id, answer=answering.value, by=answering.by)
    session.run("wake" if state is AgentRunState.SUSPENDED else "note_wake", id=agent_run_id)
    return str(run_id)


def _refusal(row: tuple[Any, ...], asker: AgentRunState | None, answering: Answering) -> str | None:
    """Say why a question takes no answer, None if it does."""
    state, digest, expires_at, now, effect = row
    if state == QuestionState.ANSWERED:
        return "it has been answered already; an answer counts once"
    if asker is None or asker.final:
        return "its run has ended, nobody waits for the answer"
    if state == QuestionState.EXPIRED or (expires_at is not None and _left(expires_at, now) <= 0):
        return "it has expired, the agent goes on without an answer"
    if effect != "begun":
        return "its agent has been started anew and asks again if it needs to: `nightfleet runs questions` lists what is open"
    if answering.digest is not None and answering.digest != digest:
        return (
            "what is asked is not what was answered (another digest): look at it again with `nightfleet runs questions`"
        )
    return None


def _question(row: tuple[Any, ...]) -> Question:
    request = json.loads(row[7])
    return Question(
        id=row[0],
        run_id=row[1],
        project=row[2],
        workflow=row[3],
        task=row[4],
        agent=row[5],
        text=row[6],
        choices=tuple(request["choices"]),
        about=request["about"],
        answer_schema=request["schema"],
        digest=row[8],
        asked_at=moment(row[9]),
        expires_at=times(row[10]),
    )


def _no_question(question_id: str) -> QuestionNotFound:
    return QuestionNotFound(
        f"there is no question {question_id!r}, or it has been asked anew under another id; `nightfleet runs questions` "
        "lists the open ones"
    )


def _readable(seconds: float | None) -> float | None:
    """Give a length of time to the millisecond: SQLite reads no exponents."""
    return None if seconds is None else round(max(0.0, seconds), 3)


def _left(until: Any, now: Any) -> float:
    return (moment(until) - moment(now)).total_seconds()
