"""Scopes number what an agent's code makes, in the order in which it makes it, and nothing else in the process."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

import pytest

from orchestrator.contracts.effect import Slot
from orchestrator.errors import AgentError, ClaimLost
from worker.effects.scopes import Mark, Scopes, Suspended, host_agents, marks_of, own_marks, set_marks

T = TypeVar("T")


def on_a_loop(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        host_agents(runner.get_loop())
        return runner.run(main)


@pytest.fixture
def scopes() -> Scopes:
    return Scopes("seed")


async def slot_of(scopes: Scopes) -> Slot:
    return scopes.here().slot()


def test_effects_and_branches_share_the_numbers_of_their_scope(scopes: Scopes) -> None:
    async def main() -> list[Slot]:
        with scopes.root.entered():
            first = await slot_of(scopes)
            branch = asyncio.create_task(slot_of(scopes))
            return [first, await slot_of(scopes), await branch]

    assert on_a_loop(main()) == [Slot("", 0), Slot("", 2), Slot("1", 0)]


def test_a_branch_is_numbered_where_it_is_made_not_where_it_begins(scopes: Scopes) -> None:
    async def main() -> list[Slot]:
        with scopes.root.entered():
            first, second = asyncio.create_task(slot_of(scopes)), asyncio.create_task(slot_of(scopes))
            return [await second, await first]

    assert on_a_loop(main()) == [Slot("1", 0), Slot("0", 0)]


def test_a_branch_of_a_branch_lies_inside_of_it(scopes: Scopes) -> None:
    async def main() -> Slot:
        async def inner() -> Slot:
            return await asyncio.create_task(slot_of(scopes))

        with scopes.root.entered():
            return await asyncio.create_task(inner())

    assert on_a_loop(main()) == Slot("0.0", 0)


def test_tasks_outside_of_an_agent_are_made_as_they_always_are(scopes: Scopes) -> None:
    async def main() -> Context:
        given = copy_context()
        task = asyncio.get_running_loop().create_task(asyncio.sleep(0), name="plain", context=given)
        await task
        assert task.get_name() == "plain"
        return given

    on_a_loop(main())
    assert scopes.root.taken == 0


def test_a_task_of_an_agent_keeps_its_name_and_sees_the_values_of_its_context(scopes: Scopes) -> None:
    async def main() -> str:
        with scopes.root.entered():
            task = asyncio.create_task(slot_of(scopes), name="branch", context=copy_context())
            await task
            return task.get_name()

    assert on_a_loop(main()) == "branch"


def test_two_agents_on_one_loop_have_scopes_of_their_own() -> None:
    async def agent(scopes: Scopes) -> list[Slot]:
        with scopes.root.entered():
            found: list[Slot] = []
            for _ in range(3):
                await asyncio.sleep(0)
                found.append(await slot_of(scopes))
            return found

    async def main() -> list[list[Slot]]:
        return list(await asyncio.gather(agent(Scopes("a")), agent(Scopes("b"))))

    assert on_a_loop(main()) == [[Slot("", 0), Slot("", 1), Slot("", 2)]] * 2


def test_the_context_of_one_agent_is_no_use_in_another(scopes: Scopes) -> None:
    with Scopes("other").root.entered(), pytest.raises(AgentError):
        scopes.here()
    with pytest.raises(AgentError):
        scopes.here()


def test_chance_follows_from_the_agent_run_and_the_scope() -> None:
    def drawn(seed: str) -> tuple[float, float, float]:
        root = Scopes(seed).root
        return root.random.random(), root.random.random(), root.branch().random.random()

    assert drawn("a") == drawn("a")
    assert len({*drawn("a"), *drawn("b")}) == 6


def test_what_came_after_an_effect_are_the_later_numbers_around_it_and_all_inside_of_those(scopes: Scopes) -> None:
    root = scopes.root
    root.slot()  # 0
    failing, sibling = root.branch(), root.branch()  # 1 and 2
    failing.slot()
    mark = Mark(failing.slot(), failing)
    sibling.slot()
    failing.slot()
    later = root.branch()  # 3
    later.slot()
    later.branch().slot()
    found = {str(slot) for slot in scopes.since(mark)}
    assert found == {"1.1", "1.2", "3", "3.0", "3.1", "3.1.0"}


def test_the_nearest_marks_of_a_chain_count_and_those_of_all_members_of_a_group(scopes: Scopes) -> None:
    marks = [Mark(scopes.root.slot(), scopes.root) for _ in range(3)]
    errors = [ValueError(str(number)) for number in range(3)]
    for error, mark in zip(errors, marks, strict=True):
        set_marks(error, [mark])
    outer = KeyError("outer")
    outer.__cause__ = errors[0]
    errors[0].__context__ = errors[1]
    assert marks_of(outer) == [marks[0]]
    assert own_marks(outer) == []
    assert marks_of(ExceptionGroup("", [errors[1], KeyError(), ExceptionGroup("", [errors[2]])])) == marks[1:]
    outer.__cause__ = None
    outer.__context__ = outer
    assert marks_of(outer) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [(Suspended("waits", None), 0), (ClaimLost("taken over"), 0), (AgentError("a fault of its author's"), 1)],
)
def test_only_an_authors_errors_are_told_of_tasks_that_nobody_awaits(
    scopes: Scopes, caplog: pytest.LogCaptureFixture, error: BaseException, told: int
) -> None:
    async def fail() -> None:
        raise error

    async def main() -> None:
        with scopes.root.entered():
            task = asyncio.create_task(fail())
            await asyncio.wait([task])
            del task
            gc.collect()

    on_a_loop(main())
    assert [record.name for record in caplog.records] == ["asyncio"] * told
