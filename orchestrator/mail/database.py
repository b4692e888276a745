"""Messages in the database: one statement on Postgres for each that is sent or received, shared by all of the same moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.clock import ids, uuid_of
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.effect import Entry, EntryState
from orchestrator.contracts.mail import (
    HIGHEST,
    OUTSIDE,
    RUNTIME,
    AgentMessage,
    Filter,
    Found,
    Letter,
    Look,
    MailRecord,
    MailState,
    Posted,
    Refusal,
)
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import NoMessageCanCome, RunStateConflict
from orchestrator.group_commit import GroupCommit
from orchestrator.journal.database import (
    Answer,
    DatabaseJournal,
    Write,
    append,
    array,
    each_once,
    parameters_of,
    write_one,
)
from orchestrator.journal.encoding import compress, expand
from orchestrator.mail.matching import meant
from orchestrator.mail.stuck import Member, stuck
from orchestrator.store.agent_runs import Claim
from orchestrator.store.arrivals import wakes
from orchestrator.store.database import Database, Row, Session, moment, times

_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_STUCK_PAGE = 500
#: Messages that are looked at in one reading.
_PAGE = 50
_HISTORY_PAGE = 500

_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Posting(Write):
    """An entry with the letters that it sends, or the number of the message that it receives."""

    letters: tuple[Letter, ...] = ()
    takes: int | None = None

    @property
    def size(self) -> int:
        # Not `super()`: a dataclass with slots is another class than the one that the compiler has seen.
        return Write.size.fget(self) + sum(len(letter.body) for letter in self.letters)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of a posting, and of whom its group has reached."""

    answer: Answer
    posted: Posted


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
        self._group: GroupCommit[Posting, _Result] = GroupCommit(self._write_group, lambda posting: posting.size)

    # Effects ----------------------------------------------------------------------------------------------------------

    def post(self, claim: Claim, entry: Entry, letters: Sequence[Letter]) -> Posted:
        return self._store(claim, entry, letters=tuple(letters)).posted

    def take(self, claim: Claim, entry: Entry, number: int) -> bool:
        return self._store(claim, entry, takes=number).answer != "refused"

    def look(self, claim: Claim, wanted: Filter) -> Look:
        found, seen = self._database.execute(lambda session: _first(session, claim.id, wanted))
        company = found is None and self._has_company(claim)
        return Look(found, seen, company)

    def close(self, claim: Claim, entry: Entry, request_id: str) -> bool:
        write = self._journal.prepared(claim, entry)
        posting = Posting(write.claim, write.packed, write.outcome, write.contents)

        def work(session: Session) -> Answer:
            # Whoever replies holds this row too: the reply is there by now, or finds that it comes too late.
            session.row("lock_agent_run", id=claim.id)
            if _first(session, claim.id, Filter(answers=request_id))[0] is not None:
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

    def _has_company(self, claim: Claim) -> bool:
        owner = {"run_id": claim.run_id, "id": claim.id}
        return self._database.execute(lambda session: session.row("mail_company", **owner)) is not None

    def _store(self, claim: Claim, entry: Entry, **what: Any) -> _Result:
        write = self._journal.prepared(claim, entry)
        results: list[_Result] = []

        def how(write: Write) -> Answer:
            posting = Posting(write.claim, write.packed, write.outcome, write.contents, **what)
            results.append(self._group(posting))
            return results[-1].answer

        self._journal.store(write, how)
        return results[-1]

    # From outside -----------------------------------------------------------------------------------------------------

    def deliver(self, run_id: str, letter: Letter, *, sender: str = OUTSIDE) -> Posted:
        """Send a letter to an agent run from outside of it, once for each id of a letter.

        Raises `RunStateConflict` for a run that has ended.
        """

        def work(session: Session) -> Posted:
            row = session.row("lock_active_run", run_id=run_id)
            if row is None:
                raise RunStateConflict(f"run {run_id} has ended: nobody in it receives messages any more")
            refusal = _refusal(session, letter, self._most)
            if refusal is not None:
                return Posted((refusal,))
            return self._send_from(session, run_id, sender, letter)

        return self._database.transact(work)

    def _send_from(self, session: Session, run_id: str, sender: str, letter: Letter) -> Posted:
        """Send one letter that no agent sends, as a step of a transaction that holds its recipient."""
        [(tenant_id,)] = session.rows("mail_tenant", run_id=run_id)
        origin: dict[str, Any] = {"run_id": run_id, "tenant_id": tenant_id, "sender": sender}
        if self._database.dialect == "postgresql":
            return _send(session, letter, origin, "mail_send")
        return _send(session, letter, {**origin, **dict.fromkeys(("sender_id", "scope", "entry"))})

    def members(self, run_id: str) -> list[tuple[str, str, str]]:
        """Give id, task and agent of the agent runs of a run."""
        rows = self._database.execute(lambda session: session.rows("mail_members", run_id=run_id))
        return [(row[0], row[1], row[7]) for row in rows]

    def history(self, run_id: str) -> Iterator[MailRecord]:
        """Give all messages of a run, in the order in which they were sent."""
        after = -1
        while True:
            place = {"run_id": run_id, "after": after, "most": _HISTORY_PAGE}
            rows = self._database.execute(lambda session, place=place: session.rows("mail_history", **place))
            yield from map(_record, rows)
            if len(rows) < _HISTORY_PAGE:
                return
            after = rows[-1][0]

    # Repairs ----------------------------------------------------------------------------------------------------------

    def clear(self) -> int:
        """Let messages be dead whose time is over, and replies that nobody waits for any more; gives how many."""
        return sum(
            self._database.execute(lambda session, name=name: session.run(name))
            for name in ("mail_expire", "mail_late")
        )

    def release_stuck(self, runs: Collection[str] | None = None) -> list[Dispatch]:
        """Tell agent runs that no message can come any more for which they wait; of `runs` only, if given.

        Gives them, to be published.
        """
        look = "mail_perhaps_stuck" if self._database.dialect == "postgresql" else "mail_perhaps_stuck_here"
        woken: list[Dispatch] = []
        after = _FIRST_ID
        while True:
            place = {"after": after, "most": _STUCK_PAGE}
            rows = self._database.execute(lambda session, place=place: session.rows(look, **place))
            for (run_id,) in rows:
                if runs is None or run_id in runs:
                    woken += self._release_stuck_of(run_id)
            if len(rows) < _STUCK_PAGE:
                return woken
            after = rows[-1][0]

    def _release_stuck_of(self, run_id: str) -> list[Dispatch]:
        rows = self._database.execute(lambda session: session.rows("mail_members", run_id=run_id))
        members = {row[0]: _member(row) for row in rows}
        woken: list[Dispatch] = []
        for identity, error in stuck(list(members.values())).items():
            tell = partial(self._tell_stuck, run_id=run_id, member=members[identity], error=error)
            woken += self._database.transact(tell)
        return woken

    def _tell_stuck(self, session: Session, *, run_id: str, member: Member, error: NoMessageCanCome) -> list[Dispatch]:
        if session.row("lock_active_run", run_id=run_id) is None:
            return []
        if session.row("mail_waiting_still", id=member.id, epoch=member.epoch) is None:
            return []
        body = packed(json.dumps(error.to_data()))
        letter = Letter(ids.new(), member.task, member.id, "error", body, priority=HIGHEST)
        return list(self._send_from(session, run_id, RUNTIME, letter).woken)

    # Writing ----------------------------------------------------------------------------------------------------------

    def _write_group(self, group: Sequence[Posting]) -> list[_Result]:
        results: dict[_Key, _Result] = {}

        def write_all(writes: Sequence[Write]) -> Mapping[_Key, Answer]:
            results.update(self._post_all([write for write in writes if isinstance(write, Posting)]))
            return {key: result.answer for key, result in results.items()}

        answers = each_once(group, write_all)
        nothing = Posted()
        return [
            _Result(answer, results[posting.key].posted if posting.key in results and answer != "taken" else nothing)
            for posting, answer in zip(group, answers, strict=True)
        ]

    def _post_at_once(self, postings: Sequence[Posting]) -> dict[_Key, _Result]:
        return self._database.execute(lambda session: self._in_session(session, postings))

    def _post_each(self, postings: Sequence[Posting]) -> dict[_Key, _Result]:
        return self._database.transact(lambda session: self._in_session(session, postings))

    def _in_session(self, session: Session, postings: Sequence[Posting]) -> dict[_Key, _Result]:
        if self._database.dialect == "postgresql":
            return _results(postings, session.rows("mail_record", **_parameters(postings, self._most)))
        return {posting.key: _post_one(session, posting, self._most) for posting in postings}


# Statements -----------------------------------------------------------------------------------------------------------


def _parameters(postings: Sequence[Posting], most: int) -> dict[str, Any]:
    """Give the parameters of `mail_record`."""
    bodies = bytearray()
    parameters = parameters_of(postings, bodies)
    places: dict[int, dict[str, int]] = {}
    letters: list[dict[str, Any]] = []
    takes: list[dict[str, Any]] = []
    for posting in postings:
        claim, (identity, scope, entry) = posting.claim, posting.key
        place = {"agent_run_id": identity, "scope": scope, "entry": entry, "run_id": claim.run_id}
        for letter in posting.letters:
            # A broadcast has one body.
            body = places.get(id(letter.body)) or places.setdefault(id(letter.body), append(bodies, letter.body))
            columns = {**place, **_columns(claim, letter), **body, "place": len(letters)}
            letters.append({name: value for name, value in columns.items() if value is not None})
        if posting.takes is not None:
            takes.append({**place, "number": posting.takes})
    recipients = {letter.recipient_id for posting in postings for letter in posting.letters}
    holders = {posting.claim.id for posting in postings}
    runs = {posting.claim.run_id for posting in postings if posting.letters or posting.contents}
    return parameters | {
        "letters": json.dumps(letters),
        "takes": json.dumps(takes),
        "bodies": bytes(bodies),
        "recipients": array(sorted(recipients)),
        "locked": array(sorted(recipients | holders)),
        "run_ids": array(sorted({*runs, *parameters["run_ids"].strip("{}").split(",")} - {""})),
        "most": most,
    }


def _columns(claim: Claim, letter: Letter) -> dict[str, Any]:
    return {
        "tenant_id": claim.tenant_id,
        "id": letter.id,
        "sender": claim.task,
        "recipient": letter.recipient,
        "recipient_id": letter.recipient_id,
        "type": letter.type,
        "priority": letter.priority,
        "wants_reply": letter.wants_reply,
        "answers": letter.answers,
        "ttl": letter.ttl_seconds,
    }


def _results(postings: Sequence[Posting], rows: Sequence[Row]) -> dict[_Key, _Result]:
    """Give what became of each posting, from the rows of `mail_record`."""
    held = {row[1] for row in rows if row[0] == "held"}
    written = {(row[1], row[2], row[3]) for row in rows if row[0] == "written"}
    there = {(row[1], row[2], row[3]) for row in rows if row[0] == "there"}
    running = {row[1] for row in rows if row[0] == "running"}
    woken = {row[1]: Dispatch(row[1], row[3], row[2], int(row[5])) for row in rows if row[0] == "woken"}
    refusals: dict[_Key, list[Refusal]] = {}
    for what, identity, scope, number, recipient, state in rows:
        if what == "refused":
            refusals.setdefault((identity, scope, number), []).append(_refused(recipient, state))
    found: dict[_Key, _Result] = {}
    for posting in postings:
        key, reached = posting.key, {letter.recipient_id for letter in posting.letters}
        if posting.claim.id not in held:
            found[key] = _Result("lost", Posted())
        elif key in written:
            # Each is published once, whoever of the group has woken it.
            dispatches = tuple(woken.pop(identity) for identity in sorted(reached & woken.keys()))
            found[key] = _Result("written", Posted((), tuple(sorted(reached & running)), dispatches))
        elif key in refusals:
            found[key] = _Result("refused", Posted(tuple(refusals[key])))
        else:
            # The place has an entry already, or the message is gone.
            found[key] = _Result("taken" if posting.takes is None or key in there else "refused", Posted())
    return found


def _refused(recipient: str, state: str) -> Refusal:
    if not state:
        return Refusal(recipient, "unknown")
    return Refusal(recipient, "ended", state) if AgentRunState(state).final else Refusal(recipient, "full")


def _post_one(session: Session, posting: Posting, most: int) -> _Result:
    """Do what `mail_record` does, on SQLite."""
    claim = posting.claim
    refusals = [found for letter in posting.letters if (found := _refusal(session, letter, most)) is not None]
    if refusals:
        return _Result("refused", Posted(tuple(refusals)))
    if posting.takes is not None:
        if session.row("journal_hold", id=claim.id, epoch=claim.epoch) is None:
            return _Result("lost", Posted())
        _, scope, entry = posting.key
        there = session.row("journal_row", id=claim.id, scope=scope, number=entry)
        if there is not None and there[4] in {EntryState.DONE, EntryState.FAILED}:
            return _Result("taken", Posted())
        place = {"run_id": claim.run_id, "id": claim.id, "scope": scope, "entry": entry}
        if session.run("mail_take", number=posting.takes, **place) != 1:
            return _Result("refused", Posted())
    answer = write_one(session, posting)
    if answer != "written":
        return _Result(answer, Posted())
    _, scope, entry = posting.key
    owner = {"run_id": claim.run_id, "tenant_id": claim.tenant_id, "sender": claim.task}
    origin = {"sender_id": claim.id, "scope": scope, "entry": entry}
    reached = [_send(session, letter, {**owner, **origin}) for letter in posting.letters]
    running = dict.fromkeys(identity for each in reached for identity in each.running)
    return _Result(answer, Posted((), tuple(running), tuple(woken for each in reached for woken in each.woken)))


def _refusal(session: Session, letter: Letter, most: int) -> Refusal | None:
    """Say why a letter cannot be sent; its recipient is held from here on."""
    row = session.row("mail_recipient", id=letter.recipient_id)
    if row is None:
        return Refusal(letter.recipient, "unknown")
    if letter.answers is not None:
        return None  # whoever was asked has done nothing wrong when the asker is gone, and is awaited when it is not
    if AgentRunState(row[0]).final:
        return Refusal(letter.recipient, "ended", row[0])
    depth = session.row("mail_depth", id=letter.recipient_id)
    return Refusal(letter.recipient, "full") if depth is not None and depth[0] >= most else None


def _send(session: Session, letter: Letter, origin: Mapping[str, Any], statement: str = "mail_insert") -> Posted:
    """Send one letter, as a step of a transaction that holds its recipient."""
    row = session.row("mail_recipient", id=letter.recipient_id)
    if row is None:
        return Posted()
    state, listening = AgentRunState(row[0]), row[1]
    why = _too_late(session, letter, state)
    columns: dict[str, Any] = {
        **origin,
        "id": letter.id,
        "recipient": letter.recipient,
        "recipient_id": letter.recipient_id,
        "type": letter.type,
        "priority": letter.priority,
        "body": letter.body,
        "wants_reply": letter.wants_reply,
        "answers": letter.answers,
        "state": (MailState.WAITING if why is None else MailState.DEAD).value,
        "reason": why,
        "ttl": letter.ttl_seconds,
    }
    if session.run(statement, **columns) != 1 or why is not None:
        return Posted()
    if state is AgentRunState.RUNNING:
        return Posted(running=(letter.recipient_id,))
    wanted = json.loads(listening or "{}").get("mail", ())
    if state is not AgentRunState.SUSPENDED or not any(
        wakes(each, origin["sender"], letter.type, letter.answers) for each in wanted
    ):
        return Posted()
    woken = session.row("mail_wake", id=letter.recipient_id)
    return Posted() if woken is None else Posted(woken=(Dispatch(woken[0], woken[1], woken[2], woken[3]),))


def _too_late(session: Session, letter: Letter, recipient: AgentRunState) -> str | None:
    """Say why nobody will receive a reply, None if its recipient waits for it."""
    if recipient.final:
        return "its recipient has ended"
    if letter.answers is not None and session.row("mail_awaited", id=letter.answers) is None:
        return "the request that it answers has timed out"
    return None


def _first(session: Session, agent_run_id: str, wanted: Filter) -> tuple[Found | None, int]:
    """Give the first message that a filter lets pass, and the highest number that was looked at."""
    seen, offset = 0, 0
    place = {
        "id": agent_run_id,
        "runtime": RUNTIME,
        "sender": wanted.sender,
        "type": wanted.exact_type,
        "answers": wanted.answers,
    }
    while True:
        rows = session.rows("mail_look", most=_PAGE, offset=offset, **place)
        for row in rows:
            message = _message(row)
            if meant(wanted, message):
                return Found(row[0], message), seen
            seen = max(seen, row[0])
        if len(rows) < _PAGE:
            return None, seen
        offset += _PAGE


def _member(row: Row) -> Member:
    identity, task, state, epoch, wake_at, listening, predecessors, _ = row
    before = (
        json.loads(predecessors) if isinstance(predecessors, str) and predecessors.startswith("[") else predecessors
    )
    return Member(
        identity,
        task,
        AgentRunState(state),
        epoch,
        timed=wake_at is not None,
        listening=json.loads(listening or "{}") if state == AgentRunState.SUSPENDED else {},
        predecessors=frozenset(map(str, before)),
    )


def _message(row: Row) -> AgentMessage:
    _, identity, sender, recipient, kind, priority, body, wants_reply, answers, created_at = row[:10]
    return AgentMessage(
        id=identity,
        sender=sender,
        recipient=recipient,
        type=kind,
        priority=priority,
        body=unpacked(body),
        wants_reply=bool(wants_reply),
        answers=answers,
        sent_at=moment(created_at),
    )


def _record(row: Row) -> MailRecord:
    state, reason, expires_at, ended_at = row[10:]
    message = _message(row).model_dump()
    found = {"state": state, "reason": reason, "expires_at": times(expires_at), "ended_at": times(ended_at)}
    return MailRecord.model_validate({**message, **found, "number": row[0]})


def packed(text: str) -> bytes:
    """Give a body as it is stored, from JSON text."""
    return compress(text.encode("utf-8", "surrogatepass"))


def unpacked(body: Any) -> Any:
    """Give a body as JSON, from what is stored."""
    return json.loads(expand(bytes(body)).decode("utf-8", "surrogatepass"))


def letter_id(run_id: str, key: str) -> str:
    """Give the id of a letter from outside: the same one for the same key, so that it is sent once."""
    return uuid_of("letter", run_id, key)
