"""Messages without a database: whom an address means, who waits for nobody, and how people read what was said."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.bus.addresses import Recipient, resolve
from orchestrator.bus.matching import check, meant
from orchestrator.bus.sequence import as_mermaid, as_text
from orchestrator.bus.stuck import Member, begins_after, stuck
from orchestrator.contracts.mail import OUTSIDE, RUNTIME, AgentMessage, Filter, MailRecord, MailState, no_room
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import InputInvalid, MailboxFull, UnknownRecipient

KNOWN = [
    Recipient("draft", "1", "writer", ("write",)),
    Recipient("first_check", "2", "critic", ("review", "facts")),
    Recipient("second_check", "3", "critic", ("review",)),
    Recipient("publish", "4", "publisher"),
]


@pytest.mark.parametrize(
    ("to", "task"),
    [
        ("draft", "draft"),
        ("writer", "draft"),
        ("publisher", "publish"),
        ("capability:facts", "first_check"),
        ("second_check", "second_check"),
    ],
)
def test_an_address_is_a_task_or_the_only_one_of_an_agent_or_with_a_capability(to: str, task: str) -> None:
    assert [each.task for each in resolve(to, KNOWN)] == [task]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("critic", "means several: first_check, second_check"),
        ("capability:review", "means several: first_check, second_check"),
        ("drafft", "did you mean 'draft'?"),
        ("capability:fact", "did you mean 'facts'?"),
        ("nobody", "its tasks are draft, first_check, second_check, publish"),
    ],
)
def test_an_address_that_means_nobody_or_several_says_so(to: str, said: str) -> None:
    with pytest.raises(UnknownRecipient) as raised:
        resolve(to, KNOWN)
    assert said in raised.value.message


def test_a_broadcast_goes_to_all_but_its_sender() -> None:
    assert [each.task for each in resolve(None, KNOWN, sender="draft")] == ["first_check", "second_check", "publish"]


def test_an_agent_may_write_to_itself_by_its_task_and_not_by_what_it_can() -> None:
    assert [each.task for each in resolve("draft", KNOWN, sender="draft")] == ["draft"]
    with pytest.raises(UnknownRecipient, match="no other agent"):
        resolve("capability:write", KNOWN, sender="draft")


def message(body: Any = None, **fields: Any) -> AgentMessage:
    sent_at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    given: dict[str, Any] = {"id": "m", "sender": "a", "recipient": "b", "type": "note", "sent_at": sent_at}
    return AgentMessage.model_validate({**given, "body": body, **fields})


@pytest.mark.parametrize(
    ("where", "body", "passes"),
    [
        ("body.score > 0.5", {"score": 0.7}, True),
        ("body.score > 0.5", {"score": 0.2}, False),
        ("body.score > 0.5", "no object", False),
        ("sender == 'a' && type == 'note' && priority == 4", None, True),
        ("'x' in body", ["x"], True),
    ],
)
def test_a_condition_looks_at_what_a_message_says(where: str, body: Any, passes: bool) -> None:
    assert meant(Filter(where=where), message(body)) is passes


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Filter(where="body.score >"), "the condition for messages"),
        (Filter(where="score > 1"), "names score"),
        (Filter(sender="Not A Task"), "is neither"),
        (Filter(any_of=(Filter(where="(("),)), "the condition for messages"),
    ],
)
def test_a_filter_that_cannot_be_asked_is_refused(wanted: Filter, said: str) -> None:
    with pytest.raises(InputInvalid) as raised:
        check(wanted)
    assert said in raised.value.message


def test_a_filter_of_several_is_interested_in_each_and_in_nothing_else() -> None:
    inner = Filter(any_of=(Filter("b"), Filter(type="re*")))
    wanted = Filter(type="note", any_of=(Filter(OUTSIDE), inner, Filter("c", where="body > 0")))
    assert [dict(each.data) for each in wanted.interests(7)] == [
        {"seen": 7, "from": OUTSIDE, "type": "note"},
        {"seen": 7, "from": "b", "type": "note"},
        {"seen": 7},
        {"seen": 7, "from": "c", "type": "note"},
    ]


def waiting(task: str, *of: str | None, **fields: Any) -> Member:
    interests = [{"seen": 0} if each is None else {"seen": 0, "from": each} for each in of]
    return Member(task, task, AgentRunState.SUSPENDED, 1, listening={"mail": interests}, **fields)


def member(task: str, state: AgentRunState, **fields: Any) -> Member:
    return Member(task, task, state, 1, **fields)


@pytest.mark.parametrize(
    ("members", "lost"),
    [
        ([waiting("a", "b"), waiting("b", "a")], {"a", "b"}),
        ([waiting("a", None), waiting("b", None)], {"a", "b"}),
        ([waiting("a", "b"), waiting("b", "c"), waiting("c", "a")], {"a", "b", "c"}),
        ([waiting("a", "b"), waiting("b", "a"), member("c", AgentRunState.RUNNING)], {"a", "b"}),
        ([waiting("a", "b"), waiting("b", None), member("c", AgentRunState.RUNNING)], set[str]()),
        ([waiting("a", "b"), waiting("b", "a", timed=True)], set[str]()),
        ([waiting("a", OUTSIDE)], set[str]()),
        ([waiting("a", "b", OUTSIDE), waiting("b", "a")], set[str]()),
        ([waiting("a", "b"), member("b", AgentRunState.SUCCEEDED)], {"a"}),
        ([waiting("a", "b"), member("b", AgentRunState.QUEUED)], set[str]()),
        ([waiting("a", "b"), member("b", AgentRunState.SUSPENDED)], set[str]()),
        ([waiting("a", "b"), member("b", AgentRunState.BLOCKED, predecessors=frozenset({"a"}))], {"a"}),
        (
            [
                waiting("a", "b"),
                member("b", AgentRunState.BLOCKED, predecessors=frozenset({"c"})),
                member("c", AgentRunState.RUNNING),
            ],
            set[str](),
        ),
    ],
)
def test_who_waits_for_nobody_who_could_send_is_found(members: list[Member], lost: set[str]) -> None:
    assert set(stuck(members)) == lost


def calling(task: str, *subwork: str, **fields: Any) -> Member:
    return Member(
        task, task, AgentRunState.SUSPENDED, 1, listening={"calls": [{"subwork": each} for each in subwork]}, **fields
    )


def sending(task: str, *to: str, **fields: Any) -> Member:
    """Give one whose sends wait for room."""
    rooms = [{"of": each, "fits": 0, "slot": "1"} for each in to]
    return Member(task, task, SUSPENDED, 1, listening={"room": rooms}, **fields)


def behind(*before: str) -> dict[str, Any]:
    return {"predecessors": frozenset(before)}


BLOCKED, RUNNING, SUSPENDED = AgentRunState.BLOCKED, AgentRunState.RUNNING, AgentRunState.SUSPENDED
DONE = AgentRunState.SUCCEEDED


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([sending("a", "b"), sending("b", "a")], {"a", "b"}),
        ([sending("a", "b"), sending("b", "c"), sending("c", "a"), member("d", RUNNING)], {"a", "b", "c"}),
        ([sending("a", "a"), member("d", RUNNING)], {"a"}),
        ([sending("a", "b"), member("b", BLOCKED, **behind("a"))], {"a"}),
        ([sending("a", "c"), member("b", BLOCKED, **behind("a")), member("c", BLOCKED, **behind("b"))], {"a"}),
        # Of those who hold up each other it is the sender, since the other one may get what it waits for then.
        ([sending("a", "b"), waiting("b", "a")], {"a"}),
        ([sending("a", "b"), waiting("b", None), waiting("c", None)], {"a"}),
        ([sending("a", "b"), waiting("b", "c"), member("c", DONE)], {"b"}),
        # One that was called, and sends to what waits for its caller.
        ([calling("a", "s"), sending("a-1", "b", subwork="s"), member("b", BLOCKED, **behind("a"))], {"a-1"}),
        ([calling("a", "s"), sending("a-1", "a", subwork="s")], {"a-1"}),
        # Room may be made yet.
        ([sending("a", "b"), member("b", RUNNING)], set[str]()),
        ([sending("a", "b"), member("b", AgentRunState.QUEUED)], set[str]()),
        ([sending("a", "b"), member("b", SUSPENDED)], set[str]()),
        ([sending("a", "b"), waiting("b", "a", timed=True)], set[str]()),
        ([sending("a", "b"), waiting("b", "a", OUTSIDE)], set[str]()),
        ([sending("a", "b"), member("b", BLOCKED, **behind("c")), member("c", RUNNING)], set[str]()),
        ([sending("a", "b"), calling("b", "s"), member("b-1", RUNNING, subwork="s")], set[str]()),
        ([sending("a", "b", timed=True), sending("b", "a")], set[str]()),
        # The next look shows that nobody is there any more.
        ([sending("a", "b"), member("b", DONE)], set[str]()),
        # A broadcast waits for one after the other.
        ([sending("a", "b", "c"), waiting("b", "a"), member("c", RUNNING)], set[str]()),
        ([sending("a", "b", "c"), waiting("b", "a"), waiting("c", "a")], {"a"}),
    ],
)
def test_who_waits_for_room_that_nobody_will_make_is_found(members: list[Member], told: set[str]) -> None:
    assert set(stuck(members)) == told


def test_one_that_waits_for_a_person_beside_room_may_go_on() -> None:
    both = Member("a", "a", SUSPENDED, 1, listening={**sending("a", "b").listening, "people": [{}]})
    assert stuck([both, sending("b", "a")]) == {}


def test_the_error_names_whose_mailbox_is_full_and_what_to_do() -> None:
    found = stuck([sending("a", "b"), sending("b", "a")])
    assert isinstance(found["a"], MailboxFull)
    assert "the mailbox of b is full" in found["a"].message
    assert "a waits for room in the mailbox of b; b waits for room in the mailbox of a" in found["a"].message
    assert "NIGHTFLEET_MAILBOX_SIZE" in found["a"].message
    assert found["a"].details == {"waits": {"a": ["b"], "b": ["a"]}}


@pytest.mark.parametrize(
    ("other", "fields", "after"),
    [
        (BLOCKED, behind("a"), True),
        (BLOCKED, behind("b"), True),
        (RUNNING, behind("a"), False),
        (BLOCKED, behind("d"), False),
        (BLOCKED, {"compensates": True}, True),
    ],
)
def test_who_begins_after_another_one_follows_it_however_far(
    other: AgentRunState, fields: dict[str, Any], after: bool
) -> None:
    others = [member("a", RUNNING), member("b", BLOCKED, **behind("a")), member("d", BLOCKED, **behind("e"))]
    assert begins_after([*others, member("c", other, **fields)], "c", "a") is after


def test_what_is_said_to_one_send_is_heard_by_that_send_of_that_claim_alone() -> None:
    said = no_room("3.1", 2)
    assert Filter(sender=RUNTIME, type=said).lets_pass(RUNTIME, said, None)
    others = [Filter(), Filter(sender=RUNTIME), Filter(answers="m"), Filter(type="*"), Filter(sender="b")]
    others += [Filter(sender=RUNTIME, type=no_room("3", 2)), Filter(sender=RUNTIME, type=no_room("3.1", 3))]
    assert not any(each.lets_pass(RUNTIME, said, None) for each in others)
    assert not Filter(sender=RUNTIME, type=said).lets_pass(RUNTIME, "error", None)


def test_one_that_waits_for_a_person_too_may_go_on() -> None:
    both = Member("a", "a", AgentRunState.SUSPENDED, 1, listening={"mail": [{"seen": 0, "from": "b"}], "people": [{}]})
    assert stuck([both, waiting("b", "a")]) == {}


def test_the_error_names_the_cycle() -> None:
    found = stuck([waiting("a", "b"), waiting("b", "c"), waiting("c", "a")])
    assert "a waits for b; b waits for c; c waits for a" in found["a"].message
    assert found["b"].details == {"waits": {"a": ["b"], "b": ["c"], "c": ["a"]}}


def watching(task: str, namespace: str = "", **fields: Any) -> Member:
    keys = [{"namespace": namespace, "key": "plan", "since": 0}]
    return Member(task, task, AgentRunState.SUSPENDED, 1, listening={"keys": keys}, **fields)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        # Of a call, the one that was called is told: its caller hears of its end.
        ([calling("a", "s"), waiting("a-1", "a", subwork="s")], {"a-1"}),
        ([calling("a", "s"), waiting("a-1", None, subwork="s")], {"a-1"}),
        ([calling("a", "s"), waiting("a-1", "b", subwork="s"), waiting("b", "a")], {"a-1", "b"}),
        ([calling("a", "s"), calling("a-1", "t", subwork="s"), waiting("a-1-1", "a", subwork="t")], {"a-1-1"}),
        ([calling("a", "s"), member("a-1", RUNNING, subwork="s"), waiting("b", "a")], set[str]()),
        ([calling("a", "s"), waiting("a-1", "a", timed=True, subwork="s")], set[str]()),
        ([calling("a", "s"), waiting("a-1", "a", subwork="s"), member("a-2", RUNNING, subwork="s")], set[str]()),
        ([calling("a", "s"), member("a-1", SUSPENDED, subwork="s")], set[str]()),
        ([calling("a", "s")], set[str]()),
        # The end of the one lets the next one of a bounded map begin.
        ([calling("a", "s"), waiting("a-1", "a", subwork="s"), member("a-2", BLOCKED, subwork="s")], {"a-1"}),
        ([calling("a", "s"), member("a-1", RUNNING, subwork="s"), member("a-2", BLOCKED, subwork="s")], set[str]()),
        # Who waits for a caller may hear of it yet.
        ([calling("a", "s"), waiting("a-1", "a", subwork="s"), waiting("b", "a")], {"a-1"}),
        # Changes are made by all, of a part by its task alone.
        ([watching("a"), waiting("b", "a")], {"a", "b"}),
        ([watching("a"), watching("b")], {"a", "b"}),
        ([watching("a"), member("b", DONE)], {"a"}),
        ([watching("a"), member("b", RUNNING)], set[str]()),
        ([watching("a", "b"), member("b", DONE), member("c", RUNNING)], {"a"}),
        ([watching("a", "b"), waiting("b", "a"), member("c", RUNNING)], {"a", "b"}),
        ([watching("a", "b"), waiting("b", OUTSIDE)], set[str]()),
        ([calling("a", "s"), watching("a-1", subwork="s")], {"a-1"}),
        # Who may be called yet may send yet.
        ([waiting("b", "a-2"), member("a", RUNNING)], set[str]()),
        ([waiting("b", "a-2"), member("a", SUSPENDED)], set[str]()),
        ([waiting("b", "a-2"), member("a", DONE)], {"b"}),
        # What undoes a run does so when all others have ended.
        ([waiting("a", None), member("undo", BLOCKED, compensates=True)], {"a"}),
        # Of a line of those who wait the last one is told.
        ([waiting("a", "b"), waiting("b", "c"), member("c", DONE)], {"b"}),
        ([waiting("a", "b"), waiting("b", "c"), waiting("c", "b")], {"b", "c"}),
    ],
)
def test_who_waits_for_calls_and_changes_is_looked_through(members: list[Member], told: set[str]) -> None:
    assert set(stuck(members)) == told


def test_one_that_has_called_another_and_waits_for_a_change_hears_of_the_call() -> None:
    both = Member("a", "a", SUSPENDED, 1, listening={**calling("a", "s").listening, **watching("a").listening})
    assert set(stuck([both, waiting("a-1", "a", subwork="s")])) == {"a-1"}


def test_the_error_names_calls_and_changes() -> None:
    found = stuck([calling("a", "s"), watching("a-1", "b", subwork="s"), waiting("b", "a")])
    assert (
        "no change can come any more: a-1 waits for a change of 'plan' by b; b waits for a; a waits for a-1, which it has called"
    ) in found["a-1"].message
    assert "no message can come any more: b waits for a; a waits for a-1, which it has called" in found["b"].message
    assert found["b"].details == {"waits": {"a-1": ["b"], "b": ["a"], "a": ["a-1"]}}


def test_thousands_who_wait_for_anybody_are_told_at_once() -> None:
    assert len(stuck([waiting(f"agent_{number}", None) for number in range(2_000)])) == 2_000


def test_the_error_names_who_has_ended() -> None:
    [error] = stuck([waiting("a", "b"), member("b", AgentRunState.FAILED)]).values()
    assert "a waits for b, which has failed" in error.message


def records(*said: tuple[str, str, dict[str, Any]]) -> Iterable[MailRecord]:
    for number, (sender, recipient, fields) in enumerate(said):
        made = message("hello", sender=sender, recipient=recipient).model_dump()
        yield MailRecord.model_validate({**made, "number": number, "state": MailState.TAKEN, **fields})


def test_a_diagram_of_characters_has_a_column_for_each_participant() -> None:
    text = as_text(
        records(
            ("a", "bob", {}),
            ("bob", "a", {"answers": "m"}),
            ("a", "bob", {"state": MailState.DEAD, "reason": "too late"}),
            ("a", "a", {"state": MailState.WAITING}),
        )
    )
    assert text.splitlines() == [
        "              a        bob",
        '03:04:05.678  │───────▶│  note "hello"',
        '03:04:05.678  │◀╌╌╌╌╌╌╌│  note "hello"',
        '03:04:05.678  │───────✗│  note "hello" (dead: too late)',
        '03:04:05.678  │        │  note "hello" (waiting)',
    ]


def test_with_many_participants_each_line_names_its_two() -> None:
    text = as_text(records(*[(f"agent_{number}", "judge", {}) for number in range(9)]))
    assert text.splitlines()[0] == '03:04:05.678  agent_0 → judge  note "hello"'


def test_a_diagram_of_mermaid_names_who_and_what() -> None:
    said = as_mermaid(records(("a", OUTSIDE, {"body": "x; #y"}), (OUTSIDE, "a", {"answers": "m"})))
    assert said.splitlines() == [
        "sequenceDiagram",
        "    participant p0 as a",
        "    participant p1 as @outside",
        '    p0->>p1: note "x#59; #35;y"',
        '    p1-->>p0: note "hello"',
    ]
