"""The rules of a leader and its followers: what of an answer can be done, in which order, and what is told of the rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

from orchestrator.planning.hints import did_you_mean, kind_of
from worker.teams.bounded import within_bytes

#: More are work for a map: a follower can be one.
MOST_ASSIGNMENTS = 100
#: What a leader is told of earlier rounds, as JSON.
HISTORY_BYTES = 64_000
_MOST_CHARACTERS = 200

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """The leader has the result."""

    value: Any


@dataclass(frozen=True, slots=True)
class Assigned:
    """One assignment as the leader wrote it, `position` in its list; with a `fault` it is not done.

    `needs` are those of its `after` that are in the same list, `known` the outputs of those of earlier rounds.
    """

    position: int
    id: str
    to: str
    input: Any
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    known: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a leader wants done. Each of `doable` stands behind those that it needs; all are in their places in `written`."""

    written: tuple[Assigned, ...] = ()
    doable: tuple[Assigned, ...] = ()
    #: What cannot be told as the end of one assignment.
    problems: tuple[str, ...] = ()


def leader_turn(
    task: Any, number: int, max_rounds: int, followers: Mapping[str, str], rounds: Sequence[Sequence[Told]], plan: Plan
) -> Told:
    """Give what the leader is asked with in a round; `plan` is what it wanted last."""
    *earlier, last = rounds or [()]
    turn: Told = {
        "task": task,
        "round": number,
        "rounds_left": max_rounds + 1 - number,
        "followers": dict(followers),
        "results": list(last),
    }
    if history := within_bytes([each for results in earlier for each in results], HISTORY_BYTES, ("input", "output")):
        turn["history"] = history
    if plan.problems:
        turn["problems"] = list(plan.problems)
    return turn


def directions(answer: Any, number: int, followers: Sequence[str], rounds: Sequence[Sequence[Told]]) -> Finished | Plan:
    """Give what a leader's answer says: the result, or a plan, as far as it can be followed."""
    if not isinstance(answer, dict):
        return _told(f"an answer is an object with `assignments` or `result`, and this was {kind_of(answer)}")
    given = cast("dict[str, Any]", answer)
    assignments: Any = given.get("assignments")
    # A model whose output has both fields leaves one of them empty.
    has_work = assignments is not None and assignments != []
    if given.get("result") is not None or ("result" in given and "assignments" not in given):
        both = "an answer has `assignments` or `result`, and this had both: nothing was done"
        return _told(both) if has_work else Finished(given["result"])
    if not has_work:
        return _told(f"an answer has `assignments` or `result`, and this had {', '.join(given) or 'nothing'}")
    if not isinstance(assignments, list):
        return _told(f"`assignments` is a list, and this was {kind_of(assignments)}")
    entries = cast("list[Any]", assignments)
    if len(entries) > MOST_ASSIGNMENTS:
        return _told(f"{len(entries):,} assignments are more than {MOST_ASSIGNMENTS} in a round: nothing was done")
    return _plan(entries, number, followers, _latest(rounds))


def input_of(assigned: Assigned, results: Mapping[str, Told]) -> Any:
    """Give what the follower is given; `results` are those of the same round, by id."""
    if not assigned.after:
        return assigned.input
    known = assigned.known
    outputs = {name: known[name] if name in known else results[name]["output"] for name in assigned.after}
    return {"input": assigned.input, "after": outputs}


def obstacle(assigned: Assigned, results: Mapping[str, Told]) -> str | None:
    """Give why an assignment cannot be begun although all that it needs has ended, None if it can."""
    failed = [name for name in assigned.needs if "error" in results[name]]
    return f"it comes after {', '.join(failed)}, which failed" if failed else None


def succeeded(assigned: Assigned, number: int, output: Any) -> Told:
    """Give the result of an assignment whose follower gave something."""
    return {**_named(assigned, number), "output": output}


def failed(assigned: Assigned, number: int, error: Mapping[str, Any]) -> Told:
    """Give the result of an assignment whose follower has failed."""
    return {**_named(assigned, number), "error": dict(error)}


def not_done(assigned: Assigned, number: int, why: str) -> Told:
    """Give the result of an assignment that was not begun."""
    return failed(assigned, number, {"code": "not_done", "message": why})


def unmet(max_rounds: int, plan: Plan) -> str:
    """Say why a team ends without a result."""
    said = f" (of its last answer: {plan.problems[0]})" if plan.problems else ""
    return f"the leader has given no result after {max_rounds:,} rounds of work{said}"


# What can be done -----------------------------------------------------------------------------------------------------


def _latest(rounds: Sequence[Sequence[Told]]) -> dict[str, Told]:
    """Give results by id: of an id in two rounds that of the later one, of one that is twice in a round the first."""
    latest: dict[str, Told] = {}
    for results in rounds:
        latest |= {each["id"]: each for each in reversed(results)}
    return latest


def _plan(entries: Sequence[Any], number: int, followers: Sequence[str], earlier: Mapping[str, Told]) -> Plan:
    read = [_read(entry, position, number, followers) for position, entry in enumerate(entries)]
    ids: dict[str, Assigned] = {}
    for each in read:
        ids.setdefault(each.id, each)
    checked = [each if each.fault else _placed(each, ids, earlier) for each in read]
    written = _ordered(checked)
    by_position = {each.position: each for each in written}
    return Plan(tuple(by_position[position] for position in range(len(read))), tuple(e for e in written if not e.fault))


def _read(entry: Any, position: int, number: int, followers: Sequence[str]) -> Assigned:
    """Give an assignment as it is written; a missing id is the round and the place in it."""
    fallback = f"{number}.{position + 1}"
    if not isinstance(entry, dict):
        return Assigned(
            position, fallback, "", entry, fault=f"an assignment is an object, and this was {kind_of(entry)}"
        )
    given = cast("dict[str, Any]", entry)
    own, to, after = _as_id(given.get("id")), given.get("to"), given.get("after")
    after = [] if after is None else [after] if isinstance(after, str) else after
    fault = None
    if given.get("id") is not None and own is None:
        fault = f"an id is a short text, and this was {kind_of(given.get('id'))}"
    elif not isinstance(to, str):
        fault = f"`to` is missing: name one of {', '.join(followers)}"
    elif to not in followers:
        fault = f"there is no follower {to[:_MOST_CHARACTERS]!r}{did_you_mean(to, followers)}; there are {', '.join(followers)}"
    elif not isinstance(after, list):
        fault = f"`after` is a list of ids, and this was {kind_of(after)}"
    waits = [_as_id(each) for each in cast("list[Any]", after)] if isinstance(after, list) else []
    if fault is None and None in waits:
        fault = "`after` is a list of ids, each a short text"
    shown = to[:_MOST_CHARACTERS] if isinstance(to, str) else ""
    names = tuple(dict.fromkeys(each for each in waits if each is not None))
    return Assigned(position, own or fallback, shown, given.get("input"), names, fault=fault)


def _as_id(given: Any) -> str | None:
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    return given if isinstance(given, str) and 0 < len(given) <= _MOST_CHARACTERS else None


def _placed(each: Assigned, ids: Mapping[str, Assigned], earlier: Mapping[str, Told]) -> Assigned:
    """Find what it comes after: in the same list first, then in earlier rounds."""
    if ids[each.id] is not each:
        return _refused(each, f"another assignment has the id {each.id!r}: it was not done, give it another one")
    known: dict[str, Any] = {}
    for before in each.after:
        if before == each.id:
            return _refused(each, "it comes after itself")
        if before in ids:
            continue
        if before not in earlier:
            return _refused(
                each, f"it comes after {before!r}, which is no assignment{did_you_mean(before, [*ids, *earlier])}"
            )
        if "error" in earlier[before]:
            return _refused(each, f"it comes after {before}, which failed")
        known[before] = earlier[before]["output"]
    needs = tuple(before for before in each.after if before in ids)
    return Assigned(each.position, each.id, each.to, each.input, each.after, needs, known)


def _ordered(checked: Sequence[Assigned]) -> list[Assigned]:
    """Give each behind those that it needs, else as written; what is in a circle, or behind what is not done, has a fault."""
    left = [each for each in checked if not each.fault]
    placed = [each for each in checked if each.fault]
    refused = {each.id for each in placed} - {each.id for each in left}
    done: set[str] = set()
    while left:
        if behind := [each for each in left if refused.intersection(each.needs)]:
            for each in behind:
                names = [name for name in each.needs if name in refused]
                placed.append(_refused(each, f"it comes after {', '.join(names)}, which could not be done"))
            refused.update(each.id for each in behind)
            left = [each for each in left if each.id not in refused]
            continue
        ready = [each for each in left if done.issuperset(each.needs)]
        if not ready:
            circle = _circle(left)
            placed += [_refused(each, f"these wait for each other: {circle}") for each in left]
            break
        placed += ready
        done.update(each.id for each in ready)
        left = [each for each in left if each.id not in done]
    return placed


def _circle(left: Sequence[Assigned]) -> str:
    try:
        TopologicalSorter({each.id: each.needs for each in left}).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    raise AssertionError("what cannot be ordered has a circle")


def _refused(each: Assigned, why: str) -> Assigned:
    return Assigned(each.position, each.id, each.to, each.input, each.after, fault=why)


def _named(assigned: Assigned, number: int) -> Told:
    return {"id": assigned.id, "to": assigned.to, "round": number, "input": assigned.input}


def _told(problem: str) -> Plan:
    return Plan(problems=(problem,))
