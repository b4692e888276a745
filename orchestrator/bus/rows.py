"""Messages as they are stored: on Postgres in one statement for a group, on SQLite one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.clock import uuid_of
from orchestrator.contracts.dispatch import Dispatch
from orchestrator.contracts.effect import EntryState
from orchestrator.contracts.mail import Letter, MailState, Posted, Refusal
from orchestrator.contracts.run import AgentRunState
from orchestrator.journal.database import Answer, Write, append, array, parameters_of, write_one
from orchestrator.store.agent_runs import Claim
from orchestrator.store.arrivals import wakes
from orchestrator.store.database import Row, Session

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


class _Recipient(NamedTuple):
    """Who is to get a letter, and what its row says that it waits for."""

    state: AgentRunState
    listening: str | None


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
    held = _held_all(session, posting.letters)
    first = {letter.recipient_id: letter for letter in reversed(posting.letters)}
    refusals = [
        found
        for key, each in first.items()
        if (found := _refusal(session, each, held[key], most, room[key])) is not None
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
    return Result(answer, _send_all(session, posting.letters, held, {**owner, **origin}))


def refusal_of(session: Session, letter: Letter, most: int) -> Refusal | None:
    """Say why a letter cannot be sent; its recipient is held from here on."""
    return _refusal(session, letter, _held(session, letter.recipient_id), most, 1)


def _refusal(session: Session, letter: Letter, recipient: _Recipient | None, most: int, room: int) -> Refusal | None:
    """Say why so many letters like this one cannot be sent to who is held."""
    if recipient is None:
        return Refusal(letter.recipient, "unknown")
    if letter.answers is not None:
        return None  # whoever was asked has done nothing wrong when the asker is gone, and is awaited when it is not
    if recipient.state.final:
        return Refusal(letter.recipient, "ended", recipient.state)
    depth = session.row("mail_depth", id=letter.recipient_id)
    return (
        Refusal(letter.recipient, "full", recipient.state)
        if depth is not None and depth[0] + min(room, most) > most
        else None
    )


def _send_all(
    session: Session, letters: Sequence[Letter], held: Mapping[str, _Recipient | None], origin: Mapping[str, Any]
) -> Posted:
    """Send letters on SQLite to who is held, in their order, as a step of a transaction."""
    bodies = bytearray()
    rows: list[dict[str, Any]] = []
    sent: dict[str, Letter] = {}
    for letter in letters:
        recipient = held[letter.recipient_id]
        if recipient is not None:
            columns = _letter_columns(letter, _too_late(session, letter, recipient))
            rows.append({**columns, **append(bodies, letter.body)})
            sent[letter.id] = letter
    if not rows:
        return Posted()
    stored = session.rows("mail_insert", letters=json.dumps(rows), bodies=bytes(bodies), **origin)
    alive = {row["id"] for row in rows if row["reason"] is None}
    reached = [
        _reach(session, recipient, letter, origin["sender"])
        for (identity,) in stored
        if identity in alive and (letter := sent[identity]) and (recipient := held[letter.recipient_id])
    ]
    running = dict.fromkeys(identity for each in reached for identity in each.running)
    return Posted((), tuple(running), tuple(woken for each in reached for woken in each.woken))


def _send_one(session: Session, letter: Letter, origin: Mapping[str, Any]) -> Posted:
    """Send one letter on Postgres, as a step of a transaction that holds its recipient."""
    recipient = _held(session, letter.recipient_id)
    if recipient is None:
        return Posted()
    why = _too_late(session, letter, recipient)
    stored = session.run("mail_send", body=letter.body, **_letter_columns(letter, why), **origin)
    return Posted() if stored != 1 or why is not None else _reach(session, recipient, letter, origin["sender"])


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


def _held_all(session: Session, letters: Sequence[Letter]) -> dict[str, _Recipient | None]:
    """Give the recipients of letters by id, as far as they are there, held from here on."""
    return {key: _held(session, key) for key in sorted({letter.recipient_id for letter in letters})}


def _held(session: Session, agent_run_id: str) -> _Recipient | None:
    """Give an agent run that is there, held from here on."""
    row = session.row("mail_recipient", id=agent_run_id)
    return None if row is None else _Recipient(AgentRunState(row[0]), row[1])


def _reach(session: Session, recipient: _Recipient, letter: Letter, sender: str) -> Posted:
    """Queue the recipient of a letter if it is suspended and waits for it, or name it if it is running."""
    state, listening = recipient
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


def _too_late(session: Session, letter: Letter, recipient: _Recipient) -> str | None:
    """Say why nobody will receive a reply, None if its recipient waits for it."""
    if recipient.state.final:
        return "its recipient has ended"
    if letter.answers is not None and session.row("mail_awaited", id=letter.answers) is None:
        return "the request that it answers has timed out"
    return None


def letter_id(run_id: str, key: str) -> str:
    """Give the id of a letter from outside: the same one for the same key, so that it is sent once."""
    return uuid_of("letter", run_id, key)


def send_from(session: Session, dialect: str, run_id: str, sender: str, letter: Letter) -> Posted:
    """Send one letter that no agent sends, as a step of a transaction that holds its recipient."""
    [(tenant_id,)] = session.rows("mail_tenant", run_id=run_id)
    origin: dict[str, Any] = {"run_id": run_id, "tenant_id": tenant_id, "sender": sender}
    if dialect == "postgresql":
        return _send_one(session, letter, origin)
    nobody = dict.fromkeys(("sender_id", "scope", "entry"))
    return _send_all(session, [letter], _held_all(session, [letter]), {**origin, **nobody})
