"""The rules of members who are to agree: what counts as an answer, when they agree, and what they are told. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from orchestrator.contracts.composite import AtLeast, Rule
from orchestrator.planning.hints import did_you_mean, kind_of
from worker.teams.bounded import within_bytes

#: What is told of earlier rounds to whoever decides, as JSON.
HISTORY_BYTES = 256_000
#: What a share of votes is compared with: 0.7 of 10 is 7, however a float writes it.
_SLACK = 1e-9

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a member in a round: an answer with all that it said, an abstention, a `problem` with it, or an error."""

    member: str
    said: Mapping[str, Any] = field(default_factory=dict[str, Any])
    answer: Any = None
    #: What is wrong with what it gave; it may be asked again.
    problem: str | None = None
    #: Why it gave nothing.
    error: str | None = None

    @property
    def answered(self) -> bool:
        """Whether its answer counts."""
        return self.problem is None and self.error is None and self.answer is not None

    @property
    def told(self) -> Told:
        """What the others are told of it."""
        if (why := self.error or self.problem) is not None:
            return {"member": self.member, "error": why}
        return {**self.said, "member": self.member, "answer": self.answer}


@dataclass(frozen=True, slots=True)
class Tally:
    """The votes of a round, the most frequent answer (of equally frequent ones the first member's), and whether it is agreed."""

    agreed: bool
    answer: Any
    votes: Mapping[str, Any]


def member_turn(
    task: Any, member: str, number: int, max_rounds: int, opinions: Sequence[Told], problem: str | None = None
) -> Told:
    """Give what a member is asked with in a round."""
    turn: Told = {
        "task": task,
        "round": number,
        "rounds_left": max_rounds - number,
        "member": member,
        "opinions": list(opinions),
    }
    return turn if problem is None else {**turn, "problem": problem}


def heard(member: str, given: Any, path: str) -> Heard:
    """Give what a member's output says; null, or an answer that is null, is an abstention."""
    if given is None:
        return Heard(member)
    if not isinstance(given, dict):
        return Heard(member, problem=f"an object with a field {path!r} is wanted, and this was {kind_of(given)}")
    said = cast("dict[str, Any]", given)
    answer: Any = said
    place = ""
    for name in path.split("."):
        if not isinstance(answer, dict) or name not in answer:
            fields: list[str] = list(cast("dict[str, Any]", answer)) if isinstance(answer, dict) else []
            has = f"{did_you_mean(name, fields) or ','} it has {', '.join(fields) or 'no fields'}"
            return Heard(
                member,
                problem=f"the answer is to be in the field {path!r}: {place or 'what was given'} has no {name!r}{has}",
            )
        answer = cast("dict[str, Any]", answer)[name]
        place = f"{place}.{name}".strip(".")
    return Heard(member, said, answer)


def canonical(answer: Any) -> str:
    """Give a text that is equal for equal answers: the order of keys means nothing, and 1.0 is 1."""
    return json.dumps(_plain(answer), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def tally(rule: Rule, round_: Sequence[Heard]) -> Tally:
    """Count the answers of a round, given in the order of the members."""
    votes = {each.member: each.answer for each in round_ if each.answered}
    counts: dict[str, int] = {}
    for answer in votes.values():
        text = canonical(answer)
        counts[text] = counts.get(text, 0) + 1
    if not counts:
        return Tally(agreed=False, answer=None, votes=votes)
    # Of equally frequent ones `max` gives the one that was put in first.
    text = max(counts, key=lambda each: counts[each])
    answer = next(each for each in votes.values() if canonical(each) == text)
    is_alone = list(counts.values()).count(counts[text]) == 1
    return Tally(is_alone and _suffices(rule, counts[text], len(votes)), answer, votes)


def too_few(round_: Sequence[Heard], quorum: int | None) -> str | None:
    """Say why a round does not count, None if it does: fewer than the quorum have answered."""
    needed = len(round_) if quorum is None else quorum
    answered = sum(each.answered for each in round_)
    if answered >= needed:
        return None
    reasons = "; ".join(f"{each.member}: {_why(each)}" for each in round_ if not each.answered)
    asked = (
        f"{needed} of {len(round_)} have to"
        if quorum is not None
        else f"all {len(round_)} have to, as there is no quorum"
    )
    return f"{answered} answered, and {asked} ({reasons})"


def outcome(tallied: Tally, rounds: int, opinions: Sequence[Told]) -> Told:
    """Give the output of the team."""
    return {
        "agreed": tallied.agreed,
        "answer": tallied.answer,
        "votes": dict(tallied.votes),
        "rounds": rounds,
        "opinions": list(opinions),
    }


def to_decide(task: Any, rounds: Sequence[Sequence[Told]]) -> Told:
    """Give what a step that decides is asked with: the last round, and as many of the earlier ones as fit."""
    *earlier, last = rounds
    events = [{"round": number, "opinions": list(said)} for number, said in enumerate(earlier, 1)]
    history = within_bytes(events, HISTORY_BYTES, ("opinions",))
    return {"task": task, "rounds": len(rounds), "opinions": list(last), "history": history}


def decision(given: Any, path: str) -> Any:
    """Give the answer that a step has decided on: where members have theirs, else all that it gave."""
    found = heard("", given, path)
    return given if found.problem is not None else found.answer


def votes_shown(tallied: Tally) -> str:
    """Give votes for people: `a: "yes", b: "no"`."""
    return ", ".join(f"{member}: {canonical(answer)[:80]}" for member, answer in tallied.votes.items())


def _suffices(rule: Rule, count: int, answered: int) -> bool:
    match rule:
        case "majority":
            return 2 * count > answered
        case "unanimous":
            return count == answered
        case "plurality":
            return True
        case AtLeast(at_least=share) if share < 1:
            return count + _SLACK >= share * answered
        case AtLeast(at_least=number):
            return count >= number


def _why(each: Heard) -> str:
    return each.error or each.problem or "abstained"


def _plain(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _plain(each) for key, each in cast("dict[str, Any]", value).items()}
        case list():
            return [_plain(each) for each in cast("list[Any]", value)]
        case _:
            return value
