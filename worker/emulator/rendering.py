"""A reply in the words of the API that it was asked by."""

from __future__ import annotations

from worker.emulator.answers import Reply
from worker.emulator.asked import Asked, Body
from worker.emulator.faults import Failure
from worker.emulator.wire import chat, messages, responses
from worker.emulator.wire.events import Event, Heading


def whole(asked: Asked, reply: Reply, heading: Heading, *, fails: bool) -> Body:
    """Give the reply as one body. One that `fails` has status 200 and an error inside, which only Responses has."""
    match asked.api:
        case "responses":
            body = responses.whole(reply, heading)
            return responses.failed(body) if fails else body
        case "messages":
            return messages.whole(reply, heading)
        case _:
            return chat.whole(reply, heading)


def stream(asked: Asked, reply: Reply, heading: Heading, *, fails: bool) -> list[Event]:
    """Give the reply as the events of a stream."""
    match asked.api:
        case "responses":
            return list(responses.events(reply, heading, fails=fails))
        case "messages":
            return list(messages.events(reply, heading))
        case _:
            return list(chat.events(reply, heading))


def error_event(asked: Asked, failure: Failure, request_id: str) -> Event:
    """Give the event by which a stream says that it ends with an error."""
    body = failure.body(asked, request_id)
    if asked.api == "responses":
        # Here what is wrong lies flat in the event.
        said = {"type": "error", "code": failure.code, "message": failure.message, "param": None}
        return Event("error", {**said, "sequence_number": 0})
    return Event("error" if asked.api == "messages" else None, body)
