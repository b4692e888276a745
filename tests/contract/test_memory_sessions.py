"""What every store of conversations does: in order, once, the last so many, each for its own agent, project and tenant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from remembering import OTHER_PROJECT, OTHER_TENANT, in_database
from sqlalchemy import update
from steps import ago, race

from orchestrator.clock import ids
from orchestrator.contracts.memory import Forgetting, SessionRef, StoredMessage
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from orchestrator.store.sessions import Sessions
from orchestrator.store.tables import memory_session
from worker.memory.base import SessionStore
from worker.memory.inmemory import InMemorySessions

REF = SessionRef(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, "agent", "ada")


@pytest.fixture(params=["in memory", "sqlite", "postgres"])
def sessions(request: pytest.FixtureRequest) -> Iterator[SessionStore]:
    if request.param == "in memory":
        yield InMemorySessions()
    else:
        database = request.getfixturevalue(request.param)
        in_database(database)
        yield Sessions(database)


def messages(*said: str) -> list[StoredMessage]:
    return [StoredMessage(ids.new(), each) for each in said]


def say(sessions: SessionStore, *said: str, ref: SessionRef = REF, keep: int = 1000) -> int:
    return sessions.append(ref, messages(*said), keep=keep)


def test_messages_come_back_in_the_order_in_which_they_were_said(sessions: SessionStore) -> None:
    assert say(sessions, "one", "two") == 2
    assert say(sessions, "three") == 3
    assert sessions.read(REF, limit=1000) == ["one", "two", "three"]
    assert sessions.read(REF, limit=2) == ["two", "three"]


def test_the_last_messages_are_kept(sessions: SessionStore) -> None:
    for number in range(7):
        assert say(sessions, str(number), keep=3) == min(3, number + 1)
    assert sessions.read(REF, limit=1000) == ["4", "5", "6"]
    assert say(sessions, "a", "b", "c", "d", keep=3) == 3
    assert sessions.read(REF, limit=1000) == ["b", "c", "d"]


def test_a_message_that_is_said_again_is_there_once_as_it_was_said_last(sessions: SessionStore) -> None:
    first = messages("one", "two")
    sessions.append(REF, first, keep=9)
    say(sessions, "three")
    assert sessions.append(REF, [first[0]._replace(body="ONE"), first[1]], keep=9) == 3
    assert sessions.read(REF, limit=9) == ["ONE", "two", "three"]


def test_a_conversation_that_was_cleared_begins_anew(sessions: SessionStore) -> None:
    assert sessions.clear(REF) == 0
    say(sessions, "one", "two")
    assert sessions.clear(REF) == 2
    assert sessions.read(REF, limit=9) == []
    assert say(sessions, "three", keep=1) == 1
    assert sessions.read(REF, limit=9) == ["three"]


def test_conversations_of_others_are_theirs(sessions: SessionStore) -> None:
    others = [
        REF._replace(name="bob"),
        REF._replace(agent="other"),
        REF._replace(project_id=OTHER_PROJECT),
        REF._replace(tenant_id=OTHER_TENANT),
    ]
    for other in others:
        say(sessions, "theirs", ref=other)
    say(sessions, "mine")
    assert sessions.read(REF, limit=9) == ["mine"]
    assert sessions.clear(REF) == 1
    assert [sessions.read(other, limit=9) for other in others] == [["theirs"]] * 4
    assert [each.agent for each in sessions.list(OTHER_TENANT, DEFAULT_PROJECT_ID)] == ["agent"]
    assert {each.session for each in sessions.list(*REF[:3])} == {"ada", "bob"}
    assert {each.agent for each in sessions.list(*REF[:2])} == {"agent", "other"}


def test_conversations_that_nobody_uses_are_forgotten(postgres: object, sqlite: object) -> None:
    for database in (postgres, sqlite):
        in_database(database)  # pyright: ignore[reportArgumentType]
        sessions = Sessions(database)  # pyright: ignore[reportArgumentType]
        for name in ("old", "older", "new"):
            say(sessions, "hello", ref=REF._replace(name=name))
        with database.connect() as connection:  # pyright: ignore[reportAttributeAccessIssue]
            old = memory_session.c.name != "new"
            connection.execute(update(memory_session).where(old).values(used_at=ago(database, 100)))  # pyright: ignore[reportArgumentType]
        assert sessions.forget(Forgetting(), most=9) == 0
        assert sessions.forget(Forgetting(age_seconds=50), most=1) == 1
        assert sessions.forget(Forgetting(age_seconds=50), most=9) == 1
        assert [each.session for each in sessions.list(*REF[:2])] == ["new"]


def test_appends_of_one_moment_take_turns_and_lose_nothing(sessions: SessionStore) -> None:
    race(*[lambda number=number: say(sessions, f"{number} a", f"{number} b") for number in range(8)])
    said = sessions.read(REF, limit=1000)
    assert len(said) == 16
    pairs = list(zip(said[::2], said[1::2], strict=True))
    assert sorted(pairs) == [(f"{number} a", f"{number} b") for number in range(8)]
