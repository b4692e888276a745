"""What all guards of a conversation make of a text: each looks at what the one before it let through."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from orchestrator.errors import PluginInvalid
from worker.guards.base import Finding, Guard, Place, Ruling, Stage, Verdict, refused

log = logging.getLogger("nightfleet.guards")


def looks_at(guards: Sequence[Guard], *stages: Stage) -> bool:
    """Tell whether any guard looks at any of these stages."""
    return any(stage in guard.stages for guard in guards for stage in stages)


def ruled(guards: Sequence[Guard], texts: Mapping[int, str], place: Place, call: str = "") -> Ruling:
    """Show texts to the guards; of one that is refused nothing is left."""
    findings: list[Finding] = []
    changed: dict[int, str] = {}
    for number, text in texts.items():
        passed, found = _passed(guards, text, place)
        findings += [each.model_copy(update={"call": call, "number": number}) for each in found]
        if passed != text:
            changed[number] = passed
    return Ruling(findings=tuple(findings), texts=changed)


def _passed(guards: Sequence[Guard], text: str, place: Place) -> tuple[str, list[Finding]]:
    findings: list[Finding] = []
    for guard in guards:
        if place.stage not in guard.stages or not text:
            continue
        verdict = _verdict(guard, text, place)
        if verdict.action == "pass" or (verdict.action == "rewrite" and verdict.text == text):
            continue
        said = verdict.model_dump(exclude={"text"})
        findings.append(Finding(guard=guard.name, place=place, **said))
        log.info("%s", findings[-1].told)
        if verdict.action == "rewrite":
            text = verdict.text or ""
        elif verdict.action == "refuse":
            return "", findings
    return text, findings


def _verdict(guard: Guard, text: str, place: Place) -> Verdict:
    """Ask one guard; what it cannot look at does not pass."""
    try:
        return guard.check(text, place)
    except PluginInvalid as error:
        return refused(error.message, ends=True)  # it has been declared wrongly: the message is about that
    except Exception as error:  # noqa: BLE001 - a guard that is broken lets nothing through
        # Not its message, which may quote the text.
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = "" if where is None else f" at {PurePath(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
        return refused(f"it failed itself, with {type(error).__name__}{at}", ends=True)
