"""Messages in the database: one statement on Postgres for each that is sent or received, shared by all of the same moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.bus.reading import first_meant, member_of, message_of, record_of, room_of, unpacked
from orchestrator.bus.rows import (
    Key,
    Posting,
    Result,
    parameters_of_postings,
    post_one,
    refusal_of,
    results_of,
    send_from,
)
from orchestrator.bus.stuck import begins_after
from orchestrator.contracts.effect import Entry
from orchestrator.contracts.mail import (
    OUTSIDE,
    RUNTIME,
    AgentMessage,
    Filter,
    Letter,
    Look,
    MailRecord,
    Posted,
    Refusal,
)
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import IdempotencyConflict, RunStateConflict
from orchestrator.group_commit import GroupCommit
from orchestrator.journal.database import Answer, DatabaseJournal, Write, each_once
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database, Row, Session

_HISTORY_PAGE = 500


class DatabaseMail:
    """The messages of runs, on Postgres and on SQLite; thread-safe."""

    def __init__(self, database: Database, journal: DatabaseJournal, *, mailbox_size: int) -> None:
        self._database = database
        self._journal = journal
        self._most = mailbox_size
        self._post_all = self._post_at_once if database.dialect == "postgresql" else self._post_each
        self.forked()

    def forked(self) -> None:
        """Forget the threads of the parent; call it in the child after a fork."""
        self._group: GroupCommit[Posting, Result] = GroupCommit(self._write_group, lambda posting: posting.size)

    # Effects ----------------------------------------------------------------------------------------------------------

    def post(self, claim: Claim, entry: Entry, letters: Sequence[Letter]) -> Posted:
        posted = self._store(claim, entry, letters=tuple(letters)).posted
        return self._weighed(claim, letters, posted) if any(each.why == "full" for each in posted.refusals) else posted

    def take(self, claim: Claim, entry: Entry, numbers: Sequence[int]) -> bool:
        return self._store(claim, entry, takes=tuple(numbers)).answer != "refused"

    def look(self, claim: Claim, wanted: Filter, most: int) -> Look:
        look = self._database.execute(lambda session: first_meant(session, claim.id, wanted, most))
        if look.found or wanted.sender == RUNTIME:
            return look
        return replace(look, company=self._has_company(claim))

    def close(self, claim: Claim, entry: Entry, request_id: str) -> bool:
        write = self._journal.prepared(claim, entry)
        posting = Posting(write.claim, write.packed, write.outcome, write.contents)

        def work(session: Session) -> Answer:
            # Whoever replies holds this row too: the reply is there by now, or finds that it comes too late.
            session.row("lock_agent_run", id=claim.id)
            if first_meant(session, claim.id, Filter(answers=request_id)).found:
                return "refused"
            answer = self._in_session(session, [posting])[posting.key].answer
            if answer == "written":
                session.run("mail_close", id=request_id, no=False)
            return answer

        return self._journal.store(write, lambda _: self._database.transact(work))

    def reject(self, claim: Claim, number: int, reason: str) -> None:
        """Let a message be dead that its recipient cannot read; one that was received meanwhile stays as it is."""
        owner = {"run_id": claim.run_id, "id": claim.id}
        self._database.execute(lambda session: session.run("mail_reject", number=number, reason=reason, **owner))

    def _weighed(self, claim: Claim, letters: Sequence[Letter], posted: Posted) -> Posted:
        """Say of each recipient that is full when there is room, and whether there will be none before its sender ends."""
        identities = {letter.recipient: letter.recipient_id for letter in letters}
        asked = Counter(letter.recipient for letter in letters)
        full = [each for each in posted.refusals if each.why == "full"]
        # Nearly always it runs, and is somebody else: then there is nothing to ask.
        near = {
            identity
            for each in full
            if (identity := identities[each.recipient]) == claim.id or each.state == AgentRunState.BLOCKED
        }
        hopeless = self._database.execute(lambda session: _behind(session, claim, near)) if near else set[str]()

        def weighed(refusal: Refusal) -> Refusal:
            fits = self._most - min(asked[refusal.recipient], self._most)
            return replace(refusal, fits=fits, hopeless=identities[refusal.recipient] in hopeless)

        return Posted(tuple(weighed(each) if each in full else each for each in posted.refusals))

    def _has_company(self, claim: Claim) -> bool:
        owner = {"run_id": claim.run_id, "id": claim.id}
        return self._database.execute(lambda session: session.row("mail_company", **owner)) is not None

    def _store(self, claim: Claim, entry: Entry, **what: Any) -> Result:
        write = self._journal.prepared(claim, entry)
        results: list[Result] = []

        def how(write: Write) -> Answer:
            posting = Posting(write.claim, write.packed, write.outcome, write.contents, **what)
            results.append(self._group(posting))
            return results[-1].answer

        self._journal.store(write, how)
        return results[-1]

    # From outside -----------------------------------------------------------------------------------------------------

    def deliver(self, run_id: str, letter: Letter, *, sender: str = OUTSIDE) -> Posted:
        """Send a letter to an agent run from outside of it, once for each id of a letter.

        Raises `RunStateConflict` for a run that has ended, and `IdempotencyConflict` where another letter has this id.
        """

        def work(session: Session) -> Posted:
            row = session.row("lock_active_run", run_id=run_id)
            known = session.row("mail_known", id=letter.id)
            if known is not None:
                # Also when the run or its recipient has ended since: it was sent.
                return _same(known, letter)
            if row is None:
                raise RunStateConflict(f"run {run_id} has ended: nobody in it receives messages any more")
            refusal = refusal_of(session, letter, self._most)
            if refusal is not None:
                return Posted((refusal,))
            return send_from(session, self._database.dialect, run_id, sender, letter)

        return self._database.transact(work)

    def told(self, run_id: str, after: int, *, ended: bool) -> Iterator[tuple[int, AgentMessage]]:
        """Give the messages of a run behind a number, for those who watch it; of one that goes on those of a second ago."""
        place = {"run_id": run_id, "after": after, "ended": ended, "most": _HISTORY_PAGE}
        for row in self._database.execute(lambda session: session.rows("mail_told", **place)):
            yield row[0], message_of(row)

    def members(self, run_id: str) -> list[tuple[str, str, str]]:
        """Give id, task and agent of the agent runs of a run."""
        rows = self._database.execute(lambda session: session.rows("mail_members", run_id=run_id))
        return [(row[0], row[1], row[2]) for row in rows]

    def history(self, run_id: str) -> Iterator[MailRecord]:
        """Give all messages of a run, in the order in which they were sent."""
        after = -1
        while True:
            place = {"run_id": run_id, "after": after, "most": _HISTORY_PAGE}
            rows = self._database.execute(lambda session, place=place: session.rows("mail_history", **place))
            yield from map(record_of, rows)
            if len(rows) < _HISTORY_PAGE:
                return
            after = rows[-1][0]

    # Writing ----------------------------------------------------------------------------------------------------------

    def _write_group(self, group: Sequence[Posting]) -> list[Result]:
        results: dict[Key, Result] = {}

        def write_all(writes: Sequence[Write]) -> Mapping[Key, Answer]:
            results.update(self._post_all([write for write in writes if isinstance(write, Posting)]))
            return {key: result.answer for key, result in results.items()}

        answers = each_once(group, write_all)
        nothing = Posted()
        return [
            Result(answer, results[posting.key].posted if posting.key in results and answer != "taken" else nothing)
            for posting, answer in zip(group, answers, strict=True)
        ]

    def _post_at_once(self, postings: Sequence[Posting]) -> dict[Key, Result]:
        return self._database.execute(lambda session: self._in_session(session, postings))

    def _post_each(self, postings: Sequence[Posting]) -> dict[Key, Result]:
        return self._database.transact(lambda session: self._in_session(session, postings))

    def _in_session(self, session: Session, postings: Sequence[Posting]) -> dict[Key, Result]:
        if self._database.dialect == "postgresql":
            return results_of(postings, session.rows("mail_record", **parameters_of_postings(postings, self._most)))
        return {posting.key: post_one(session, posting, self._most) for posting in postings}


def _same(known: Row, letter: Letter) -> Posted:
    """Give what came of sending a letter that was sent before; raises `IdempotencyConflict` for another one."""
    recipient_id, kind, body = known
    if (recipient_id, kind) != (letter.recipient_id, letter.type) or unpacked(body) != unpacked(letter.body):
        raise IdempotencyConflict(
            f"another message was sent to this run with this idempotency key, as {letter.id}: each message needs its own",
            details={"message_id": letter.id},
        )
    return Posted()


def _behind(session: Session, claim: Claim, full: Collection[str]) -> set[str]:
    """Give those of full recipients that receive nothing before an agent run ends: itself, and who begins only then."""
    others = set(full) - {claim.id}
    rows = session.rows("mail_waiters", run_ids=[claim.run_id]) if others else ()
    members = [member_of(row) for row in rows]
    behind = {each for each in full if each == claim.id or begins_after(members, each, claim.id)}
    # What has a time to live makes room by itself.
    return {each for each in behind if not room_of(session, each)[1]}
