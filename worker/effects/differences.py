"""What an agent has recorded against what it asks for now, in words."""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.effect import Entry
from orchestrator.errors import NondeterminismError

_SHOWN_CHARACTERS = 300

_FIX = (
    "Code between effects must do the same at every execution: put what may differ (time, chance, files, services, what "
    "others change) into ctx.step, ctx.now or ctx.random. Where the agent was changed while this ran, "
    '`on_change = "restart"` in its class begins anew, and so does `nightfleet runs retry ID --restart`.'
)


def other_effect(recorded: Entry, asked: Entry) -> NondeterminismError:
    """Make the error for an effect that is another one than is recorded in its place."""
    return _error(f"effect {recorded.slot} of the agent is another one than is recorded there", recorded, asked)


def left_out(recorded: Entry, digest: str) -> NondeterminismError:
    """Make the error for an agent that has returned without an effect that is recorded."""
    told = f"the agent has returned without effect {recorded.slot}, which is recorded"
    return _error(told, recorded, None, digest)


def _error(told: str, recorded: Entry, asked: Entry | None, digest: str | None = None) -> NondeterminismError:
    now = digest if asked is None else asked.digest
    changed = recorded.digest != now
    lines = [
        told,
        f"  recorded:  {_shown(recorded)}, by version {_version(recorded.digest)} of the agent",
        f"  asked now: {'nothing' if asked is None else _shown(asked)}, by version {_version(now)}",
        _FIX,
    ]
    details = {
        "slot": str(recorded.slot),
        "recorded": _data(recorded, recorded.digest),
        "asked": None if asked is None else _data(asked, now),
        "changed": changed,
    }
    return NondeterminismError("\n".join(lines), details=details)


def _shown(entry: Entry) -> str:
    request = entry.request or ""
    cut = request if len(request) <= _SHOWN_CHARACTERS else f"{request[:_SHOWN_CHARACTERS]}…"
    return f"{entry.kind} {cut}".rstrip()


def _version(digest: str | None) -> str:
    return "unknown" if digest is None else digest[:12]


def _data(entry: Entry, digest: str | None) -> dict[str, Any]:
    return {"kind": entry.kind, "request": entry.request, "digest": digest}
