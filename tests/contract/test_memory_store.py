"""What every store of memories does, whatever compares the vectors: found by nearness, in its own scope, forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from remembering import OTHER_PROJECT, OTHER_TENANT, Shelf, shelves

from orchestrator.contracts.memory import Forgetting, MemoryScope, Wanted
from orchestrator.contracts.vector import pack

STORES = ("in memory", "sqlite", "sqlite-vec", "postgres", "pgvector", "qdrant")
EAST, NORTH, UP = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture(params=STORES)
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    with ExitStack() as stack:
        yield stack.enter_context(shelves(request.param, request))


def wanted(*direction: float, **given: Any) -> Wanted:
    return Wanted(given.pop("embedder", "test/3"), pack(direction), **given)


def texts(found: Any) -> list[str]:
    return [each.item.text for each in found]


# Finding --------------------------------------------------------------------------------------------------------------


def test_what_is_nearest_is_found_first_with_how_near_it_is(shelf: Shelf) -> None:
    shelf.put("east", EAST)
    shelf.put("north-east", (1.0, 1.0, 0.0))
    shelf.put("north", NORTH)
    shelf.put("up", UP)
    found = shelf.store.search([shelf.mine], wanted(1.0, 0.0, 0.0, limit=3))
    assert texts(found)[:2] == ["east", "north-east"]
    assert [each.score for each in found] == [1.0, 0.7071, 0.0]


def test_a_piece_comes_back_as_it_was_kept(shelf: Shelf) -> None:
    kept = shelf.put("It's a «test»\n\t✓", EAST, kind="episodic", about="tests", source="run/task")
    [(item, _)] = shelf.store.search([shelf.mine], wanted(*EAST))
    assert (item.id, item.text, item.kind) == (kept.id, "It's a «test»\n\t✓", "episodic")
    assert (item.about, item.source, item.embedder, item.scope) == ("tests", "run/task", "test/3", shelf.mine)
    assert item.created_at is not None
    assert item.created_at.tzinfo is not None
    [listed] = shelf.store.list(shelf.mine)
    assert listed == item


def test_kinds_and_what_it_is_about_leave_out_the_others(shelf: Shelf) -> None:
    shelf.put("a fact about tea", EAST, kind="semantic", about="tea")
    shelf.put("how to make tea", EAST, kind="procedural", about="tea")
    shelf.put("a fact about salt", EAST, kind="semantic", about="salt")
    search = shelf.store.search
    assert set(texts(search([shelf.mine], wanted(*EAST, kinds=("semantic",))))) == {
        "a fact about tea",
        "a fact about salt",
    }
    assert texts(search([shelf.mine], wanted(*EAST, kinds=("procedural", "episodic")))) == ["how to make tea"]
    assert texts(search([shelf.mine], wanted(*EAST, kinds=("semantic",), about="salt"))) == ["a fact about salt"]
    assert [item.text for item in shelf.store.list(shelf.mine, about="salt")] == ["a fact about salt"]
    assert [item.text for item in shelf.store.list(shelf.mine, kinds=("procedural",))] == ["how to make tea"]


def test_a_search_finds_no_more_than_is_wanted(shelf: Shelf) -> None:
    for number in range(5):
        shelf.put(f"text {number}", EAST)
    assert len(shelf.store.search([shelf.mine], wanted(*EAST, limit=2))) == 2
    assert len(shelf.store.list(shelf.mine, limit=3)) == 3


def test_a_store_that_holds_nothing_finds_nothing(shelf: Shelf) -> None:
    assert shelf.store.search([shelf.mine, shelf.shared], wanted(*EAST)) == []
    assert shelf.store.list(shelf.mine) == []
    assert shelf.store.summaries(*shelf.mine[:2]) == []
    assert shelf.store.documents(shelf.corpus) == {}
    assert shelf.store.other_embedder([shelf.mine], "test/3") is None


# Scopes ---------------------------------------------------------------------------------------------------------------


def test_nothing_of_another_scope_project_or_tenant_is_ever_found_or_forgotten(shelf: Shelf) -> None:
    mine = shelf.mine
    others = [
        MemoryScope.of_agent(mine.tenant_id, mine.project_id, "somebody_else"),
        MemoryScope.of_agent(mine.tenant_id, mine.project_id, ""),
        mine._replace(project_id=OTHER_PROJECT),
        mine._replace(tenant_id=OTHER_TENANT),
    ]
    kept = [shelf.put("theirs", EAST, scope=scope) for scope in others]
    own = shelf.put("mine", EAST)
    assert texts(shelf.store.search([mine], wanted(*EAST))) == ["mine"]
    assert [item.text for item in shelf.store.list(mine)] == ["mine"]
    assert shelf.store.remove(mine, [item.id for item in kept]) == 0
    assert shelf.store.remove_all(mine) == 1
    assert shelf.store.trim(mine, Forgetting(keep=0)) == 0
    for scope in others:
        assert texts(shelf.store.search([scope], wanted(*EAST))) == ["theirs"]
    assert shelf.store.summaries(OTHER_TENANT, mine.project_id)[0].items == 1
    assert {each.whose for each in shelf.store.summaries(mine.tenant_id, mine.project_id)} == {
        "agent:somebody_else",
        "project",
    }
    assert own.scope == mine


def test_an_id_of_another_scope_takes_nothing_from_there(shelf: Shelf) -> None:
    theirs = shelf.put("theirs", EAST, scope=shelf.mine._replace(tenant_id=OTHER_TENANT))
    shelf.put("mine", NORTH, identity=theirs.id)
    assert texts(shelf.store.search([theirs.scope], wanted(*EAST))) == ["theirs"]


def test_several_scopes_of_a_project_are_searched_together(shelf: Shelf) -> None:
    shelf.put("mine", EAST)
    shelf.put("ours", (1.0, 0.2, 0.0), scope=shelf.shared)
    found = shelf.store.search([shelf.mine, shelf.shared], wanted(*EAST))
    assert texts(found) == ["mine", "ours"]
    assert [each.item.scope for each in found] == [shelf.mine, shelf.shared]


# Writing again --------------------------------------------------------------------------------------------------------


def test_a_piece_that_is_written_again_is_there_once_as_it_was_written_last(shelf: Shelf) -> None:
    first = shelf.put("said first", EAST)
    [before] = shelf.store.list(shelf.mine)
    shelf.put("said last", NORTH, identity=first.id, kind="episodic")
    [after] = shelf.store.list(shelf.mine)
    assert (after.text, after.kind, after.created_at) == ("said last", "episodic", before.created_at)
    assert texts(shelf.store.search([shelf.mine], wanted(*NORTH, limit=1))) == ["said last"]


def test_a_document_takes_the_place_of_what_it_was(shelf: Shelf) -> None:
    shelf.document("a.md", "one", "two", "three", digest="1")
    shelf.document("b.md", "other", digest="1")
    shelf.document("a.md", "two", digest="2")
    listed = {item.text for item in shelf.store.list(shelf.corpus)}
    assert listed == {"two", "other"}
    assert shelf.store.documents(shelf.corpus) == {"a.md": ("2", "test/3"), "b.md": ("1", "test/3")}
    [summary] = shelf.store.summaries(*shelf.corpus[:2])
    assert (summary.whose, summary.items, summary.documents) == ("corpus:manual", 2, 2)
    shelf.store.put_document(shelf.corpus, "a.md", [])
    assert shelf.store.documents(shelf.corpus) == {"b.md": ("1", "test/3")}


# Embedders ------------------------------------------------------------------------------------------------------------


def test_vectors_of_another_embedder_are_never_compared_and_can_be_told(shelf: Shelf) -> None:
    shelf.put("of three", EAST)
    shelf.put("of two", (1.0, 0.0), embedder="other/2")
    assert texts(shelf.store.search([shelf.mine], wanted(*EAST))) == ["of three"]
    assert shelf.store.other_embedder([shelf.mine], "test/3") == (shelf.mine, "other/2")
    assert shelf.store.other_embedder([shelf.shared], "test/3") is None
    assert [item.text for item in shelf.store.of_others(shelf.mine, "test/3", limit=9)] == ["of two"]
    [summary] = shelf.store.summaries(*shelf.mine[:2])
    assert summary.embedders == ("other/2", "test/3")
    [other] = shelf.store.of_others(shelf.mine, "test/3", limit=9)
    shelf.put(other.text, (0.9, 0.1, 0.0), identity=other.id)
    assert set(texts(shelf.store.search([shelf.mine], wanted(*EAST)))) == {"of three", "of two"}
    assert shelf.store.other_embedder([shelf.mine], "test/3") is None


def test_vectors_of_many_dimensions_are_kept(shelf: Shelf) -> None:
    long = [0.0] * 1536
    long[7] = 1.0
    shelf.put("long", long, embedder="long/1536")
    assert shelf.store.search([shelf.mine], Wanted("long/1536", pack(long)))[0].score == 1.0


# Forgetting -----------------------------------------------------------------------------------------------------------


def test_pieces_are_forgotten_by_their_ids_and_by_what_they_are_about(shelf: Shelf) -> None:
    first, second = shelf.put("one", EAST, about="tea"), shelf.put("two", EAST, about="salt")
    assert shelf.store.remove(shelf.mine, [first.id]) == 1
    assert shelf.store.remove(shelf.mine, [first.id]) == 0
    assert shelf.store.remove_all(shelf.mine, "tea") == 0
    assert shelf.store.remove_all(shelf.mine, "salt") == 1
    assert second.id not in [item.id for item in shelf.store.list(shelf.mine)]


def test_the_oldest_are_forgotten_where_there_are_more_than_are_kept(shelf: Shelf) -> None:
    for number in range(5):
        shelf.put(f"mine {number}", EAST, seconds_ago=100 - number)
    shelf.put("ours", EAST, scope=shelf.shared)
    assert shelf.store.forget(Forgetting(keep=2), most=2) == 2
    assert shelf.store.forget(Forgetting(keep=2), most=2) == 1
    assert shelf.store.forget(Forgetting(keep=2), most=2) == 0
    assert [item.text for item in shelf.store.list(shelf.mine)] == ["mine 4", "mine 3"]
    assert len(shelf.store.list(shelf.shared)) == 1


def test_what_is_older_is_forgotten_everywhere_but_in_corpora(shelf: Shelf) -> None:
    shelf.put("old", EAST, seconds_ago=100)
    shelf.put("new", EAST, seconds_ago=5)
    shelf.put("old and shared", EAST, scope=shelf.shared, seconds_ago=100)
    shelf.document("a.md", "a document", digest="1", seconds_ago=100)
    assert shelf.store.forget(Forgetting(age_seconds=50), most=10) == 2
    assert shelf.store.forget(Forgetting(keep=0), most=10) == 1
    assert shelf.store.documents(shelf.corpus).keys() == {"a.md"}


def test_one_scope_is_trimmed_by_age_and_by_count_a_corpus_too(shelf: Shelf) -> None:
    for number in range(4):
        shelf.put(f"mine {number}", EAST, seconds_ago=100 - 30 * number)
    shelf.document("a.md", "a document", digest="1", seconds_ago=100)
    assert shelf.store.trim(shelf.mine, Forgetting(age_seconds=80)) == 1
    assert shelf.store.trim(shelf.mine, Forgetting(keep=2)) == 1
    assert [item.text for item in shelf.store.list(shelf.mine)] == ["mine 3", "mine 2"]
    assert shelf.store.trim(shelf.corpus, Forgetting(age_seconds=50)) == 1
