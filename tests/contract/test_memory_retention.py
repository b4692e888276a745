"""The retention pass forgets what agents remember, as the settings say, on every database."""

from __future__ import annotations

import pytest
from remembering import Shelf, in_database
from sqlalchemy import update
from steps import ago

from orchestrator.clock import ids
from orchestrator.contracts.memory import Forgetting, SessionRef, StoredMessage
from orchestrator.errors import MemoryUnavailable
from orchestrator.retention import Keeper
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.tables import memory_session, sweep

DAY = 86_400.0
EAST = (1.0, 0.0, 0.0)


@pytest.fixture
def shelf(database: Database) -> Shelf:
    return in_database(database)


def keep(database: Database, memories: object = None, **settings: int) -> Keeper:
    """Let the keeper have its turn, until nothing is left to do."""
    store = Store(database)
    with database.connect() as connection:
        connection.execute(update(sweep).where(sweep.c.id == 2).values(ran_at=ago(database, 3600)))
    keeper = Keeper(
        store.deletions,
        Settings().model_copy(update=settings),
        memories=memories or store.memories,  # pyright: ignore[reportArgumentType]
        sessions=store.sessions,
    )
    for _ in range(20):
        keeper.tick()
    return keeper


def test_memories_go_by_age_and_by_count_and_documents_stay(shelf: Shelf, database: Database) -> None:
    for number in range(6):
        shelf.put(f"mine {number}", EAST, seconds_ago=(10 - number) * DAY)
    shelf.put("ours", EAST, scope=shelf.shared, seconds_ago=9 * DAY)
    shelf.document("a.md", "one", "two", digest="1", seconds_ago=90 * DAY)
    keeper = keep(database, retention_memory_days=8, retention_memories=3)
    assert [item.text for item in shelf.store.list(shelf.mine)] == ["mine 5", "mine 4", "mine 3"]
    assert shelf.store.list(shelf.shared) == []
    assert len(shelf.store.list(shelf.corpus)) == 2
    assert keeper.counts["memories"] == 4


def test_more_than_one_statement_forgets_go_too(shelf: Shelf, database: Database) -> None:
    for number in range(1203):
        shelf.put(str(number), EAST)
    assert keep(database, retention_memories=1).counts["memories"] == 1202


def test_without_limits_nothing_is_forgotten(shelf: Shelf, database: Database) -> None:
    shelf.put("old", EAST, seconds_ago=5000 * DAY)
    assert keep(database, retention_memories=0).counts["memories"] == 0
    assert len(shelf.store.list(shelf.mine)) == 1


def test_conversations_go_that_nobody_has_used_for_some_days(database: Database) -> None:
    in_database(database)
    sessions = Store(database).sessions
    for name in ("old", "new"):
        ref = SessionRef(*in_database_scope(), "agent", name)
        sessions.append(ref, [StoredMessage(ids.new(), "{}")], keep=9)
    with database.connect() as connection:
        connection.execute(
            update(memory_session).where(memory_session.c.name == "old").values(used_at=ago(database, 3 * DAY))
        )
    assert keep(database).counts["sessions"] == 0
    assert keep(database, retention_session_days=2).counts["sessions"] == 1
    assert [each.session for each in sessions.list(*in_database_scope())] == ["new"]


def in_database_scope() -> tuple[str, str]:
    scope = Shelf.mine
    return scope.tenant_id, scope.project_id


class Away:
    """A store that cannot be reached."""

    def forget(self, rule: Forgetting, *, most: int) -> int:
        raise MemoryUnavailable("away")


def test_a_store_that_is_away_keeps_nobody_from_the_rest(database: Database) -> None:
    in_database(database)
    sessions = Store(database).sessions
    sessions.append(SessionRef(*in_database_scope(), "agent", "old"), [StoredMessage(ids.new(), "{}")], keep=9)
    with database.connect() as connection:
        connection.execute(update(memory_session).values(used_at=ago(database, 3 * DAY)))
    assert keep(database, Away(), retention_session_days=2).counts["sessions"] == 1
