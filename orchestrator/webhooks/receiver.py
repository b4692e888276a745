"""Receives messages from outside: proves who sends, does what is asked for once, and answers in JSON.

A message that comes again gets the reply that it got. What is done is safe to be done twice by itself (a run and a message to
an agent have the message's id for a key, a question takes one answer), so that a kill between the act and its memory repeats
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.contracts.budget import Charge
from orchestrator.errors import (
    AnswerRefused,
    IdempotencyConflict,
    MailboxFull,
    NightfleetError,
    QuestionNotFound,
    RecipientEnded,
    RunNotFound,
    RunStateConflict,
    ServiceUnavailable,
    SettingsInvalid,
    UnknownRecipient,
    UsageError,
    ValueTooLarge,
)
from orchestrator.failpoints import failpoint
from orchestrator.planning.decide import decide
from orchestrator.planning.files import resolve_workflow
from orchestrator.service import Service
from orchestrator.store.receipts import Known, Received
from orchestrator.webhooks.signing import (
    NotAuthentic,
    SecretInvalid,
    Signed,
    key_of,
    verify_github,
    verify_standard,
    verify_stripe,
)
from orchestrator.webhooks.sources import AnswerRule, Rule, SendRule, Source, SubmitRule
from orchestrator.webhooks.template import filled

log = logging.getLogger("nightfleet.webhooks")

#: How long one process may be at a message before another one may begin anew.
_LEASE_SECONDS = 60.0
_BUSY_SECONDS = 5
_AWAY_SECONDS = 10
_IGNORED = "ignored"
_VERIFY = {"standard": verify_standard, "github": verify_github, "stripe": verify_stripe}
_STATUS: tuple[tuple[type[NightfleetError], int], ...] = (
    (QuestionNotFound, 404),
    (RunNotFound, 404),
    (UnknownRecipient, 404),
    (AnswerRefused, 409),
    (RunStateConflict, 409),
    (RecipientEnded, 409),
    (ValueTooLarge, 413),
    (UsageError, 422),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a sender is told: a status, JSON, and headers beside the usual ones."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose sender is proved."""

    received: Received
    body: Any
    headers: Mapping[str, str]

    @property
    def roots(self) -> dict[str, Any]:
        """What templates refer to."""
        identity = self.received.message_id
        return {"body": self.body, "headers": dict(self.headers), "id": identity, "source": self.received.source}

    @property
    def key(self) -> str:
        """What it is known by, to all that may be done only once."""
        return f"webhook/{self.received.source}/{self.received.message_id}"

    @property
    def by(self) -> str:
        """Who it is from, for those who look later."""
        return f"webhook:{self.received.source}"


class Receiver:
    """Handles messages of the sources that it is made with; thread-safe.

    Its making raises `SettingsInvalid` for a secret that is missing or none, and what a workflow raises that cannot be run.
    """

    def __init__(
        self,
        service: Service,
        sources: Mapping[str, Source],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._service = service
        self._sources = sources
        self._receipts = service.kernel.store.receipts
        self._keys = {name: _keys(name, source, environment) for name, source in sources.items()}
        rules = [rule for source in sources.values() for rule in source.rules]
        self._workflows = {
            rule.submit.workflow: resolve_workflow(rule.submit.workflow) for rule in rules if rule.submit is not None
        }

    def most_bytes(self, source: str) -> int | None:
        """Give how large a message of a source may be, None where there is no such source."""
        found = self._sources.get(source)
        return None if found is None else found.max_bytes

    def handle(self, name: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Do what a message asks for, or say why not; never raises. Names of headers are in small letters."""
        try:
            return self._handle(name, headers, body)
        except ServiceUnavailable as error:
            log.warning("a message from %s cannot be taken now: %s", name, error.message)
            return _refused(503, error.code, "a service that this needs is away: send it again", _AWAY_SECONDS)
        except Exception:
            log.exception("a message from %s has failed", name)
            return _refused(500, "error", "this should not happen: the log of the receiver says more")

    def _handle(self, name: str, headers: Mapping[str, str], body: bytes) -> Reply:
        source = self._sources.get(name)
        if source is None:
            return _refused(404, "unknown_source", "there is no such source")
        try:
            signed = _VERIFY[source.scheme](headers, body, self._keys[name])
            self._check_time(source, signed)
        except NotAuthentic as error:
            log.warning("a message for %s was refused: %s", name, error)
            return _refused(401, "not_authentic", str(error))
        try:
            data = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return _refused(400, "no_json", "the body is no JSON")
        digest = hashlib.sha256(body).hexdigest()
        received = Received(name, _identity(source, signed, data, digest), digest)
        found = self._receipts.begin(received, lease_seconds=_LEASE_SECONDS)
        if isinstance(found, Known):
            return _known(found)
        return self._first_time(source, Message(received, data, headers), found.target)

    def _check_time(self, source: Source, signed: Signed) -> None:
        """Raise `NotAuthentic` for what was sent too long ago, or will be: a copy of it may be somebody else's.

        By the database's clock: that of a host may be wrong.
        """
        if signed.timestamp is None:
            return
        off = signed.timestamp - self._service.kernel.store.waits.now().timestamp()
        if abs(off) > source.tolerance.total_seconds():
            raise NotAuthentic(
                f"it was sent {abs(off):.0f} s {'from now' if off > 0 else 'ago'}, at most "
                f"{source.tolerance.total_seconds():g} s are allowed: is the sender's clock right?"
            )

    def _first_time(self, source: Source, message: Message, target: str | None) -> Reply:
        try:
            outcome = self._act(source, message, target)
        except MailboxFull as error:
            self._receipts.forget(message.received)
            return _refused(503, error.code, error.message, _AWAY_SECONDS)
        except (UsageError, RecipientEnded) as error:
            # Whoever sends it again may have more luck: a question may be asked by then, a workflow or the body corrected.
            self._receipts.forget(message.received)
            log.warning("a message from %s cannot be done: %s", message.received.source, error.message)
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            return _refused(status, error.code, error.message)
        except BaseException:
            with contextlib.suppress(ServiceUnavailable):  # its lease ends by itself
                self._receipts.let_go(message.received)
            raise
        failpoint("after_webhook_act", message.key)
        if outcome["status"] == _IGNORED:
            self._receipts.forget(message.received)  # the rules may be corrected before it comes again
        else:
            self._receipts.finish(message.received, outcome)
        log.info("a message from %s: %s", message.received.source, outcome["status"], extra=dict(outcome))
        return Reply(200, outcome)

    # What is done -----------------------------------------------------------------------------------------------------

    def _act(self, source: Source, message: Message, target: str | None) -> dict[str, Any]:
        rule = next((rule for rule in source.rules if _applies(rule, message)), None)
        match rule:
            case None:
                return {"status": _IGNORED}
            case Rule(answer=AnswerRule() as answer):
                return self._answer(answer, message, target)
            case Rule(submit=SubmitRule() as submit):
                return self._submit(submit, message)
            case Rule(send=SendRule() as send):
                return self._send(send, message)
            case _:
                raise AssertionError("a rule says what is done")

    def _answer(self, rule: AnswerRule, message: Message, target: str | None) -> dict[str, Any]:
        given = filled(rule.model_dump(), message.roots)
        value, by = given["value"], given["by"] or message.by
        if target is not None and (run_id := self._answered_before(target, value, by)) is not None:
            return {"status": "answered", "question_id": target, "run_id": run_id}
        questions = self._service.questions
        question = questions.find(_text(given["question"], "question"))
        self._receipts.aim(message.received, question.id)
        answered = questions.answer(question.id, value, by=_text(by, "by"), digest=given["digest"])
        return {"status": "answered", "question_id": answered.id, "run_id": answered.run_id}

    def _answered_before(self, question_id: str, value: Any, by: str) -> str | None:
        """Give the run of a question that an earlier try of this very message has answered."""
        found = self._receipts.answer_of(question_id)
        if found is None or found.answer is None or found.answered_by != by:
            return None
        return found.run_id if json.loads(found.answer) == value else None

    def _submit(self, rule: SubmitRule, message: Message) -> dict[str, Any]:
        given = filled({"input": rule.input, "project": rule.project, "user": rule.user}, message.roots)
        project = _text(given["project"], "project")
        user = None if given["user"] is None else _text(given["user"], "user")
        try:
            [run_id] = self._service.submit(
                self._workflows[rule.workflow],
                [given["input"]],
                project=project,
                keys=[message.key],
                charge=Charge.to(user, None),
            )
        except IdempotencyConflict as error:
            # Nobody else has this key: an earlier try of this very message has, before the file of sources was changed.
            run_id = str(error.details["run_id"])
        return {"status": "submitted", "run_id": run_id}

    def _send(self, rule: SendRule, message: Message) -> dict[str, Any]:
        given = filled(rule.model_dump(), message.roots)
        run_id, to, kind = (_text(given[name], name) for name in ("run", "to", "type"))
        try:
            sent = self._service.messages.send(run_id, to, given["body"], type=kind, idempotency_key=message.key).id
        except IdempotencyConflict as error:
            # As for a submit.
            sent = str(error.details["message_id"])
        return {"status": "sent", "message_id": sent, "run_id": run_id}


def _keys(name: str, source: Source, environment: Mapping[str, str]) -> list[bytes]:
    keys: list[bytes] = []
    for variable in source.secrets:
        text = environment.get(variable, "").strip()
        if not text:
            raise SettingsInvalid(f"webhooks: source {name} needs the environment variable {variable}, with its secret")
        try:
            # Others take their secrets as the text that they are.
            keys.append(key_of(text) if source.scheme == "standard" else text.encode())
        except SecretInvalid as error:
            raise SettingsInvalid(f"webhooks: the secret in {variable}, of source {name}: {error}") from None
    return keys


def _identity(source: Source, signed: Signed, data: Any, digest: str) -> str:
    """Give what a message is known by: an id that is signed, or a hash of what is.

    An id that is in a header beside the signature is anybody's to change, and a copy would be taken for something new.
    """
    if signed.message_id is not None:
        return signed.message_id
    if source.scheme == "stripe" and isinstance(data, dict):
        identity: Any = data.get("id")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if isinstance(identity, str) and 0 < len(identity) <= 256 and identity.isascii() and identity.isprintable():
            return identity
    return f"sha256:{digest}"


def _applies(rule: Rule, message: Message) -> bool:
    return rule.when is None or decide(rule.when, None, {"body": message.body, "headers": dict(message.headers)})


def _text(value: Any, what: str) -> str:
    # Postgres keeps no zeros in text.
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{what} is to be text, and in this message it is {json.dumps(value)[:60]}")
    return value


def _known(found: Known) -> Reply:
    if not found.same:
        return _refused(409, "id_used", "another message had this id: each one needs its own")
    if found.reply is None:
        return _refused(409, "in_progress", "this message is being dealt with: ask again in a moment", _BUSY_SECONDS)
    return Reply(200, found.reply, {"webhook-duplicate": "true"})


def _refused(status: int, code: str, message: str, retry_after: int | None = None) -> Reply:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Reply(status, {"error": {"code": code, "message": message}}, headers)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
