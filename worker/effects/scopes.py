"""Where in an agent's code effects happen: scopes, which number effects and branches in the order in which the code makes them.

An agent begins in the root scope. Each branch (a task that it makes, an argument of `ctx.gather`) and the inside of each
effect is a scope of its own, so what one branch does never moves the numbers of another, whoever of them is faster.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.clock import chance
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.interest import Interest
from orchestrator.errors import AgentError, ClaimLost

if TYPE_CHECKING:
    from random import Random


#: An exception that came out of a slot carries its marks under this name.
_MARKS = "_nightfleet_marks"


class Suspended(BaseException):
    """Unwinds an agent that waits for longer than a moment: no `except Exception` of an author's catches it.

    `until` is when it is woken at the latest, by the monotonic clock; None waits for an event alone. `heard`: an event came
    while it was running, and it has taken that up. `interests` say what it is woken for beside answers of people.
    """

    def __init__(
        self, waiting_for: str, until: float | None, *, heard: bool = False, interests: Sequence[Interest] = ()
    ) -> None:
        super().__init__(waiting_for)
        self.waiting_for = waiting_for
        self.until = until
        self.heard = heard
        self.interests = tuple(interests)


class Scopes:
    """All scopes of one execution, by their path; those in which nothing was numbered are left out."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.root = Scope(self, "", None)
        self._lock = threading.Lock()
        #: How many tasks have not ended: some of them may wait for others, which nobody sees.
        self.tasks = 0
        #: How many tasks, the first one too, are known to wait for others: nothing goes on in these.
        self.resting = 0
        #: How many threads of branches run code, rather than wait.
        self.running = 0
        #: Tasks that the agent's own code has made; what a step makes may outlive it, such as a client's connections.
        self._own: set[asyncio.Task[Any]] = set()
        self._numbered: dict[str, Scope] = {}

    def here(self) -> Scope:
        """Give the scope of the code that is running; raises `AgentError` where effects would have no order."""
        scope = _current.get()
        if scope is None or scope.of is not self or scope.thread != threading.get_ident():
            raise AgentError(
                "the context was used in a thread or an event loop that the agent has started by itself: effects there "
                "have no order that could be repeated; give what runs at the same time to ctx.gather(...)"
            )
        return scope

    def add(self, scope: Scope) -> None:
        self._numbered[scope.path] = scope

    def count(self, *, tasks: int = 0, running: int = 0, resting: int = 0) -> None:
        """Note that so many tasks begin, threads go on, and tasks wait for others; less than none: that it is over."""
        with self._lock:
            self.tasks += tasks
            self.running += running
            self.resting += resting

    def watch(self, task: asyncio.Task[Any], scope: Scope) -> None:
        """Take note of a task that was made in a scope, until it ends."""
        if not scope.in_effect:
            self._own.add(task)
        self.count(tasks=1)
        task.add_done_callback(self._unwatch)

    def _unwatch(self, task: asyncio.Task[Any]) -> None:
        self._own.discard(task)
        self.count(tasks=-1)

    def cancel_tasks(self) -> None:
        """End what the agent has left behind on a loop that others use too; from any thread."""
        for task in list(self._own):
            with suppress(RuntimeError):  # the loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)

    def is_last(self, mark: Mark) -> bool:
        """Tell whether nothing has followed an effect in its own scope."""
        path, taken = mark.after[0]
        return self._numbered[path].taken == taken

    def since(self, mark: Mark) -> list[Slot]:
        """Give the slot of a mark, and every slot that came after its effect had ended in the scopes it lies in."""
        found = [mark.slot]
        after = dict(mark.after)
        for path, scope in list(self._numbered.items()):
            begins = after.get(path)
            if begins is None:
                begins = 0 if any(_is_below(path, outer, number) for outer, number in mark.after) else scope.taken
            found += [Slot(path, number) for number in range(begins, scope.taken)]
        return found


class Mark:
    """A moment of an execution: the slot of an effect that has ended, and how far the scopes around it had come."""

    __slots__ = ("after", "slot")

    def __init__(self, slot: Slot, scope: Scope) -> None:
        self.slot = slot
        #: Of the effect's scope and those around it: the next number.
        self.after = [(each.path, each.taken) for each in scope.outwards()]


def set_marks(error: BaseException, marks: list[Mark]) -> None:
    """Note out of which slots an error came; none of them is repeated for an empty list."""
    setattr(error, _MARKS, marks)


def own_marks(error: BaseException) -> list[Mark]:
    """Give the marks of this very error, the first one that of the effect that raised it."""
    return getattr(error, _MARKS, [])


def marks_of(error: BaseException | None) -> list[Mark] | None:
    """Give the marks of the nearest error in a chain that has some, of a group those of all its members; None without any."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        marks: list[Mark] | None = getattr(error, _MARKS, None)
        if marks is not None:
            return marks
        if isinstance(error, BaseExceptionGroup):
            found = [marks_of(each) for each in error.exceptions]
            if any(each is not None for each in found):
                return [mark for each in found for mark in each or ()]
        error = error.__cause__ or error.__context__
    return None


class Turns(Protocol):
    """Who lets so many threads of branches run at a time."""

    def given_up(self) -> AbstractContextManager[None]:
        """Give up the turn of this thread for the length of a `with` block."""
        ...


class Scope:
    """One counter; belongs to the thread that runs its code."""

    __slots__ = ("_random", "in_effect", "of", "parent", "path", "refused", "taken", "thread", "turns")

    def __init__(self, of: Scopes, path: str, parent: Scope | None) -> None:
        self.of = of
        self.path = path
        self.parent = parent
        #: How many numbers are taken.
        self.taken = 0
        self.thread = threading.get_ident()
        #: Whether this is inside of an effect, rather than the agent's own code.
        self.in_effect = parent is not None and parent.in_effect
        #: Whether an effect in here or below was refused, so that what its code gives is not what it would give.
        self.refused = False
        #: Those of the threads that this branch is one of; None where it is none.
        self.turns: Turns | None = None
        self._random: Random | None = None

    def slot(self) -> Slot:
        """Take the next number."""
        if self.taken == 0:
            self.of.add(self)
        slot = Slot(self.path, self.taken)
        self.taken += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        """Let the number that was taken last be that of what comes next: nothing has happened there."""
        assert slot == Slot(self.path, self.taken - 1)
        self.taken -= 1

    def inside(self, slot: Slot) -> Scope:
        """Give the scope of what happens inside an effect."""
        inside = Scope(self.of, slot.child, self)
        inside.in_effect = True
        return inside

    def branch(self) -> Scope:
        """Open the scope of a new branch."""
        return Scope(self.of, self.slot().child, self)

    def outwards(self) -> Generator[Scope]:
        """Give this scope and all that it lies in."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def refuse(self) -> None:
        """Note that an effect was refused here."""
        for scope in self.outwards():
            scope.refused = True

    def waiting(self) -> AbstractContextManager[None]:
        """Let another branch run for the length of a `with` block, in which this one waits."""
        turns = next((scope.turns for scope in self.outwards() if scope.turns is not None), None)
        return nullcontext() if turns is None else turns.given_up()

    @property
    def random(self) -> Random:
        """Numbers that are the same at every execution of this scope."""
        if self._random is None:
            self._random = chance(f"{self.of.seed}:{self.path}")
        return self._random

    @contextmanager
    def entered(self) -> Generator[None]:
        """Run the code of a `with` block, in this thread or task, in this scope."""
        self.thread = threading.get_ident()
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Scope | None] = ContextVar("nightfleet_scope", default=None)


def scopes_here() -> Scopes | None:
    """Give the scopes of the agent whose code is running; None outside of one."""
    scope = _current.get()
    return None if scope is None else scope.of


def leave_scope() -> None:
    """Let the code of this context belong to no scope: it is ours, not the agent's."""
    _current.set(None)


def host_agents(loop: asyncio.AbstractEventLoop) -> None:
    """Make each task of an agent on a loop a branch of its own; what unwinds one that nobody awaits is no news."""
    loop.set_task_factory(_make_task)
    loop.set_exception_handler(_tell)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Suspended | ClaimLost):
        loop.default_exception_handler(context)


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    """Make a task; one that an agent makes is a branch of its own, numbered now. All others are left alone."""
    scope = _current.get()
    if scope is None:
        return asyncio.Task(coroutine, loop=loop, **options)
    given = options.pop("context", None)
    # Two tasks may be given one context: each needs a scope of its own.
    context = copy_context() if given is None else given.copy()
    context.run(_current.set, scope.branch())
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context, **options)
    scope.of.watch(task, scope)
    return task


def _is_below(path: str, outer: str, number: int) -> bool:
    """Tell whether a scope lies in a slot of the scope `outer` with at least this number."""
    if outer:
        if not path.startswith(f"{outer}."):
            return False
        path = path[len(outer) + 1 :]
    return bool(path) and int(path.partition(".")[0]) >= number
