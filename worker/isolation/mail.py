"""The mail of an agent in a child process: what it asks the worker for, and the worker's answers."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

from orchestrator.contracts.effect import Entry
from orchestrator.contracts.mail import AgentMessage, Filter, Found, Letter, Look, Posted, Refusal
from orchestrator.store.agent_runs import Claim
from worker.effects.ports import Mail
from worker.isolation import wire
from worker.isolation.link import Link


class RemoteMail:
    """The worker's mail of this execution; claims are known there."""

    def __init__(self, link: Link, receives: Any) -> None:
        self._link = link
        self.receives = receives

    def listen(self, claim: Claim) -> None:
        del claim
        self._ask("listen")

    def recipients(self, claim: Claim, to: str | None) -> Sequence[tuple[str, str]]:
        del claim
        return [(task, identity) for task, identity in self._ask("recipients", to=to)]

    def body(self, recipient: str, text: str, *, reply: bool = False) -> bytes:
        return b64decode(self._ask("body", recipient=recipient, text=text, reply=reply))

    def post(self, claim: Claim, entry: Entry, letters: Sequence[Letter]) -> Posted:
        del claim
        refusals = self._ask("post", entry=wire.entry_out(entry), letters=[_letter_out(each) for each in letters])
        return Posted(tuple(Refusal(*each) for each in refusals))

    def look(self, claim: Claim, wanted: Filter, most: int) -> Look:
        del claim
        return _look_in(self._ask("look", wanted=asdict(wanted), most=most))

    def take(self, claim: Claim, entry: Entry, numbers: Sequence[int]) -> bool:
        del claim
        return bool(self._ask("take", entry=wire.entry_out(entry), messages=list(numbers)))

    def close(self, claim: Claim, entry: Entry, request_id: str) -> bool:
        del claim
        return bool(self._ask("close", entry=wire.entry_out(entry), request=request_id))

    def reject(self, claim: Claim, number: int, reason: str) -> None:
        del claim
        self._ask("reject", message=number, reason=reason)

    def _ask(self, what: str, **values: Any) -> Any:
        return self._link.ask("mail", mail=what, **values)


def answer_mail(mail: Mail, claim: Claim, message: Mapping[str, Any]) -> Any:
    """Give the worker's answer to a child: under the claim that the worker holds, whatever the child says."""
    match message:
        case {"mail": "listen"}:
            return mail.listen(claim)
        case {"mail": "recipients", "to": to}:
            return [list(each) for each in mail.recipients(claim, to)]
        case {"mail": "body", "recipient": recipient, "text": text, "reply": reply}:
            return b64encode(mail.body(recipient, text, reply=reply)).decode()
        case {"mail": "look", "wanted": wanted, "most": most}:
            return _look_out(mail.look(claim, _filter_in(wanted), most))
        case {"mail": "reject", "message": number, "reason": reason}:
            return mail.reject(claim, number, reason)
        case _:
            return _recorded(mail, claim, wire.entry_in(message["entry"]), message)


def _recorded(mail: Mail, claim: Claim, entry: Entry, message: Mapping[str, Any]) -> Any:
    match message:
        case {"mail": "post", "letters": letters}:
            posted = mail.post(claim, entry, [_letter_in(each) for each in letters])
            return [list(astuple(refusal)) for refusal in posted.refusals]
        case {"mail": "take", "messages": numbers}:
            return mail.take(claim, entry, numbers)
        case {"mail": "close", "request": request}:
            return mail.close(claim, entry, request)
        case _:
            raise ValueError(f"an agent's process asks for {message['mail']} in a way that nobody understands")


def _filter_in(data: dict[str, Any]) -> Filter:
    """Give a filter that came as its fields."""
    fields: dict[str, Any] = {**data, "any_of": tuple(_filter_in(each) for each in data["any_of"])}
    return Filter(**fields)


def _letter_out(letter: Letter) -> dict[str, Any]:
    """Give a letter as JSON values."""
    return {**asdict(letter), "body": b64encode(letter.body).decode()}


def _letter_in(data: dict[str, Any]) -> Letter:
    """Give the letter that `_letter_out` described."""
    fields: dict[str, Any] = {**data, "body": b64decode(data["body"])}
    return Letter(**fields)


def _look_out(look: Look) -> dict[str, Any]:
    """Give what a receiver finds as JSON values."""
    found = [[each.number, each.message.model_dump(mode="json")] for each in look.found]
    return {"found": found, "seen": look.seen, "company": look.company, "along": list(look.along)}


def _look_in(data: dict[str, Any]) -> Look:
    """Give what `_look_out` described."""
    found = tuple(Found(number, AgentMessage.model_validate(message)) for number, message in data["found"])
    return Look(found, data["seen"], data["company"], tuple(data["along"]))
