"""Messages as rows: what the statements take and give, on Postgres in one statement for a group, on SQLite one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.bus.matching import meant
from orchestrator.bus.stuck import Member
from orchestrator.clock import uuid_of
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.effect import EntryState
from orchestrator.contracts.mail import (
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
from orchestrator.journal.database import Answer, Write, append, array, parameters_of, write_one
from orchestrator.journal.encoding import compress, expand
from orchestrator.store.agent_runs import Claim
from orchestrator.store.arrivals import wakes
from orchestrator.store.database import Row, Session, moment, times

#: Messages that are looked at in one reading.
_PAGE = 50
#: Of the bodies of messages that are received at once: they are one record.
_MOST_CHARACTERS = 1_000_000

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Posting(Write):
    """An entry with the letters that it sends, or the numbers of the messages that it receives: all of them or none."""

    letters: tuple[Letter, ...] = ()
    takes: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        # Not `super()`: a dataclass with slots is another class than the one that the compiler has seen.
        return Write.size.fget(self) + sum(len(letter.body) for letter in self.letters)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a posting, and of whom its group has reached."""

    answer: Answer
    posted: Posted


def parameters_of_postings(postings: Sequence[Posting], most: int) -> dict[str, Any]:
    """Give the parameters of `mail_record`."""
    bodies = bytearray()
    parameters = parameters_of(postings, bodies)
    places: dict[int, dict[str, int]] = {}
    letters: list[dict[str, Any]] = []
    takes: list[dict[str, Any]] = []
    for posting in postings:
        claim, (identity, scope, entry) = posting.claim, posting.key
        place = {"agent_run_id": identity, "scope": scope, "entry": entry, "run_id": claim.run_id}
        room = Counter(letter.recipient_id for letter in posting.letters)
        for letter in posting.letters:
            # A broadcast has one body.
            body = places.get(id(letter.body)) or places.setdefault(id(letter.body), append(bodies, letter.body))
            columns = {
                **place,
                **_columns(claim, letter),
                **body,
                "place": len(letters),
                "room": min(room[letter.recipient_id], most),
            }
            letters.append({name: value for name, value in columns.items() if value is not None})
        takes += ({**place, "number": number, "size": len(posting.takes)} for number in posting.takes)
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


def results_of(postings: Sequence[Posting], rows: Sequence[Row]) -> dict[Key, Result]:
    """Give what became of each posting, from the rows of `mail_record`."""
    held = {row[1] for row in rows if row[0] == "held"}
    written = {(row[1], row[2], row[3]) for row in rows if row[0] == "written"}
    there = {(row[1], row[2], row[3]) for row in rows if row[0] == "there"}
    running = {row[1] for row in rows if row[0] == "running"}
    woken = {row[1]: Dispatch(row[1], row[3], row[2], int(row[5])) for row in rows if row[0] == "woken"}
    refusals: dict[Key, list[Refusal]] = {}
    for what, identity, scope, number, recipient, state in rows:
        if what == "refused":
            refusals.setdefault((identity, scope, number), []).append(_refused(recipient, state))
    found: dict[Key, Result] = {}
    for posting in postings:
        key, reached = posting.key, {letter.recipient_id for letter in posting.letters}
        if posting.claim.id not in held:
            found[key] = Result("lost", Posted())
        elif key in written:
            # Each is published once, whoever of the group has woken it.
            dispatches = tuple(woken.pop(identity) for identity in sorted(reached & woken.keys()))
            found[key] = Result("written", Posted((), tuple(sorted(reached & running)), dispatches))
        elif key in refusals:
            found[key] = Result("refused", Posted(tuple(refusals[key])))
        else:
            # The place has an entry already, or the message is gone.
            found[key] = Result("taken" if not posting.takes or key in there else "refused", Posted())
    return found


def _refused(recipient: str, state: str) -> Refusal:
    if not state:
        return Refusal(recipient, "unknown")
    return Refusal(recipient, "ended" if AgentRunState(state).final else "full", state)


def post_one(session: Session, posting: Posting, most: int) -> Result:
    """Do what `mail_record` does, on SQLite."""
    claim = posting.claim
    room = Counter(letter.recipient_id for letter in posting.letters)
    first = {letter.recipient_id: letter for letter in reversed(posting.letters)}
    refusals = [
        found for key, each in first.items() if (found := refusal_of(session, each, most, room[key])) is not None
    ]
    if refusals:
        return Result("refused", Posted(tuple(refusals)))
    if posting.takes:
        if session.row("journal_hold", id=claim.id, epoch=claim.epoch) is None:
            return Result("lost", Posted())
        _, scope, entry = posting.key
        there = session.row("journal_row", id=claim.id, scope=scope, number=entry)
        if there is not None and there[4] in {EntryState.DONE, EntryState.FAILED}:
            return Result("taken", Posted())
        numbers = {"run_id": claim.run_id, "numbers": json.dumps(posting.takes)}
        if session.rows("mail_wait_still", id=claim.id, **numbers)[0][0] != len(posting.takes):
            return Result("refused", Posted())
        session.run("mail_take", scope=scope, entry=entry, **numbers)
    answer = write_one(session, posting)
    if answer != "written":
        return Result(answer, Posted())
    _, scope, entry = posting.key
    owner = {"run_id": claim.run_id, "tenant_id": claim.tenant_id, "sender": claim.task}
    origin = {"sender_id": claim.id, "scope": scope, "entry": entry}
    return Result(answer, _send_all(session, posting.letters, {**owner, **origin}))


def refusal_of(session: Session, letter: Letter, most: int, room: int = 1) -> Refusal | None:
    """Say why a letter, or so many to its recipient, cannot be sent; the recipient is held from here on."""
    row = session.row("mail_recipient", id=letter.recipient_id)
    if row is None:
        return Refusal(letter.recipient, "unknown")
    if letter.answers is not None:
        return None  # whoever was asked has done nothing wrong when the asker is gone, and is awaited when it is not
    if AgentRunState(row[0]).final:
        return Refusal(letter.recipient, "ended", row[0])
    depth = session.row("mail_depth", id=letter.recipient_id)
    return (
        Refusal(letter.recipient, "full", row[0]) if depth is not None and depth[0] + min(room, most) > most else None
    )


def _send_all(session: Session, letters: Sequence[Letter], origin: Mapping[str, Any]) -> Posted:
    """Send letters on SQLite, in their order, as a step of a transaction."""
    recipients = {letter.recipient_id for letter in letters}
    held = {key: session.row("mail_recipient", id=key) for key in sorted(recipients)}
    bodies = bytearray()
    rows: list[dict[str, Any]] = []
    sent: dict[str, Letter] = {}
    for letter in letters:
        row = held[letter.recipient_id]
        if row is not None:
            columns = _letter_columns(letter, _too_late(session, letter, AgentRunState(row[0])))
            rows.append({**columns, **append(bodies, letter.body)})
            sent[letter.id] = letter
    if not rows:
        return Posted()
    stored = session.rows("mail_insert", letters=json.dumps(rows), bodies=bytes(bodies), **origin)
    alive = {row["id"] for row in rows if row["reason"] is None}
    reached = [
        _reach(session, held[letter.recipient_id] or (), letter, origin["sender"])
        for (identity,) in stored
        if identity in alive and (letter := sent[identity])
    ]
    running = dict.fromkeys(identity for each in reached for identity in each.running)
    return Posted((), tuple(running), tuple(woken for each in reached for woken in each.woken))


def _send_one(session: Session, letter: Letter, origin: Mapping[str, Any]) -> Posted:
    """Send one letter on Postgres, as a step of a transaction that holds its recipient."""
    row = session.row("mail_recipient", id=letter.recipient_id)
    if row is None:
        return Posted()
    why = _too_late(session, letter, AgentRunState(row[0]))
    stored = session.run("mail_send", body=letter.body, **_letter_columns(letter, why), **origin)
    return Posted() if stored != 1 or why is not None else _reach(session, row, letter, origin["sender"])


def _letter_columns(letter: Letter, why_dead: str | None) -> dict[str, Any]:
    return {
        "id": letter.id,
        "recipient": letter.recipient,
        "recipient_id": letter.recipient_id,
        "type": letter.type,
        "priority": letter.priority,
        "wants_reply": letter.wants_reply,
        "answers": letter.answers,
        "state": (MailState.WAITING if why_dead is None else MailState.DEAD).value,
        "reason": why_dead,
        "ttl": letter.ttl_seconds,
    }


def _reach(session: Session, recipient: Sequence[Any], letter: Letter, sender: str) -> Posted:
    """Queue the recipient of a letter if it is suspended and waits for it, or name it if it is running."""
    state, listening = AgentRunState(recipient[0]), recipient[1]
    if state is AgentRunState.RUNNING:
        return Posted(running=(letter.recipient_id,))
    wanted = json.loads(listening or "{}").get("mail", ())
    if state is not AgentRunState.SUSPENDED or not any(
        wakes(each, sender, letter.type, letter.answers) for each in wanted
    ):
        return Posted()
    return Posted(woken=wake(session, letter.recipient_id))


def wake(session: Session, agent_run_id: str) -> tuple[Dispatch, ...]:
    """Queue an agent run that is suspended, in a transaction that holds it; gives what is to be published."""
    row = session.row("mail_wake", id=agent_run_id)
    return () if row is None else (Dispatch(row[0], row[1], row[2], row[3]),)


def _too_late(session: Session, letter: Letter, recipient: AgentRunState) -> str | None:
    """Say why nobody will receive a reply, None if its recipient waits for it."""
    if recipient.final:
        return "its recipient has ended"
    if letter.answers is not None and session.row("mail_awaited", id=letter.answers) is None:
        return "the request that it answers has timed out"
    return None


def first_meant(session: Session, agent_run_id: str, wanted: Filter, most: int = 1) -> Look:
    """Give the first messages that a filter lets pass: at most so many, as far as they fit into one record."""
    seen, offset, size = 0, 0, 0
    found: list[Found] = []
    said: list[Found] = []
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
            message = message_of(row)
            if not meant(wanted, message):
                seen = max(seen, row[0])
                continue
            if message.sender == RUNTIME:
                said.append(Found(row[0], message))  # before all others
                continue
            size += len(json.dumps(message.body)) if most > 1 else 0
            if found and size > _MOST_CHARACTERS:
                return _looked(found, said, seen)
            found.append(Found(row[0], message))
            if len(found) == most:
                return _looked(found, said, seen)
        if len(rows) < _PAGE:
            return _looked(found, said, seen)
        offset += _PAGE


def room_of(session: Session, agent_run_id: str) -> tuple[int, int]:
    """Give how many messages wait for an agent run, and how many of them have a time to live."""
    [(waiting, passing)] = session.rows("mail_room", id=agent_run_id, runtime=RUNTIME)
    return waiting, passing


def _looked(found: Sequence[Found], said: Sequence[Found], seen: int) -> Look:
    """Give what was found: of what Nightfleet has said the last, where there is nothing else."""
    shown = tuple(found or said[-1:])
    return Look(shown, seen, along=tuple(each.number for each in said if each not in shown))


def member_of(row: Row) -> Member:
    """Give an agent run as it is in a row of `mail_waiters`."""
    identity, task, state, epoch, wake_at, listening, predecessors, gated, subwork = row
    before = (
        json.loads(predecessors) if isinstance(predecessors, str) and predecessors.startswith("[") else predecessors
    )
    wanted: dict[str, Any] = json.loads(listening or "{}") if state == AgentRunState.SUSPENDED else {}
    return Member(
        identity,
        task,
        AgentRunState(state),
        epoch,
        # The time of a wait for room is that of the next look: it brings nothing by itself.
        timed=wake_at is not None and "room" not in wanted,
        listening=wanted,
        predecessors=frozenset(map(str, before)),
        subwork=subwork,
        # Nothing else is blocked, and follows nobody.
        compensates=state == AgentRunState.BLOCKED and not before and not gated and subwork is None,
    )


def message_of(row: Row) -> AgentMessage:
    """Give a message as its recipient gets it, from a row of `mail_look` or `mail_history`."""
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


def record_of(row: Row) -> MailRecord:
    """Give a message with what has become of it, from a row of `mail_history`."""
    state, reason, expires_at, ended_at = row[10:]
    message = message_of(row).model_dump()
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


def send_from(session: Session, dialect: str, run_id: str, sender: str, letter: Letter) -> Posted:
    """Send one letter that no agent sends, as a step of a transaction that holds its recipient."""
    [(tenant_id,)] = session.rows("mail_tenant", run_id=run_id)
    origin: dict[str, Any] = {"run_id": run_id, "tenant_id": tenant_id, "sender": sender}
    if dialect == "postgresql":
        return _send_one(session, letter, origin)
    return _send_all(session, [letter], {**origin, **dict.fromkeys(("sender_id", "scope", "entry"))})
