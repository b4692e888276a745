"""A task that goes one of several ways."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import shorten
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.composite import Router
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.inputs import mapped
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import called, executor, input_of
from worker.plugin import LoadedAgent


def router_agent(task: TaskDefinition, card: AgentCard, describe: Callable[[TaskDefinition], str]) -> LoadedAgent:
    """Give a router as an agent that can run: its output is that of the route that was chosen."""
    del describe
    router = task.router
    assert router is not None, "validated with the definition"
    routes = {member.name: member.do for member in router.routes}

    class RouterTask(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            known = {"input": data}
            answer = data
            if router.by is not None:
                asked = input_of(router.by, "`by`", known, data)
                answer = known["by"] = await ctx.call(called(router.by, "by"), asked)
            missing = ("by",) if known.get("by") is None else ()
            name = _chosen(router, answer)
            if name in routes:
                route = routes[name]
            elif router.otherwise is not None:
                name, route = "otherwise", router.otherwise
            else:
                raise _no_route(name, list(routes))
            return await ctx.call(called(route, name), input_of(route, f"the route {name!r}", known, data, missing))

    return executor(task, card, RouterTask)


def _chosen(router: Router, answer: Any) -> str | None:
    """Give the name that was chosen; None where `by` was done without, or says nothing."""
    if answer is None:
        return None
    asked = "input" if router.by is None else "by"
    found = mapped(f"${{{asked}.{router.choice}}}", "`choice`", {asked: answer})
    if found is None or isinstance(found, str):
        return found and found.strip()  # as models write it
    shown = shorten(repr(found), 60)
    raise InputInvalid(f"`choice: {router.choice}` is {shown}, and the name of a route is text")


def _no_route(name: str | None, routes: list[str]) -> InputInvalid:
    if name is None:
        return InputInvalid("no route was chosen: give the router an `otherwise`")
    hint = did_you_mean(name, routes) or ","
    return InputInvalid(
        f"there is no route {shorten(name, 60)!r}{hint} there are {', '.join(routes)}: correct the choice, or give the router "
        "an `otherwise`"
    )
