"""Whom an address means: a task of the run, else the only task of an agent, else whoever has a capability. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import UnknownRecipient
from orchestrator.planning.hints import did_you_mean

_CAPABILITY = "capability:"


@dataclass(frozen=True, slots=True)
class Recipient:
    """An agent run that messages may go to."""

    task: str
    id: str
    agent: str
    capabilities: tuple[str, ...] = ()


def resolve(to: str | None, known: Sequence[Recipient], *, sender: str | None = None) -> list[Recipient]:
    """Give the one that an address means, all but the sender without an address; raises `UnknownRecipient`."""
    others = [each for each in known if each.task != sender]
    if to is None:
        return others
    for each in known:
        if each.task == to:
            return [each]
    if to.startswith(_CAPABILITY):
        wanted = to.removeprefix(_CAPABILITY)
        found = [each for each in others if wanted in each.capabilities]
        words = sorted({capability for each in others for capability in each.capabilities})
        missing = f"no other agent of this run has the capability {wanted!r}{did_you_mean(wanted, words)}"
    else:
        found = [each for each in others if each.agent == to]
        words = sorted({each.task for each in known} | {each.agent for each in known})
        missing = f"{to!r} is neither a task of this run nor an agent of one{did_you_mean(to, words)}"
    if not found:
        tasks = ", ".join(each.task for each in known[:10]) + (", ..." if len(known) > 10 else "")
        raise UnknownRecipient(missing if missing.endswith("?") else f"{missing}; its tasks are {tasks}")
    if len(found) > 1:
        raise UnknownRecipient(
            f"{to!r} means several: {', '.join(each.task for each in found)}; name one of these tasks"
        )
    return found
