"""The rules of members who are to agree: what counts as an answer, and when they have one."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

import pytest

from orchestrator.contracts.composite import AtLeast, Rule
from worker.teams import MemberTurn
from worker.teams.agreeing import Heard, canonical, decision, heard, member_turn, outcome, tally, to_decide, too_few


def round_of(*answers: Any) -> list[Heard]:
    return [heard(f"m{number}", {"answer": answer}, "answer") for number, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("rule", "answers", "agreed"),
    [
        ("majority", "aab", True),
        ("majority", "aabb", False),
        ("majority", "aabbc", False),
        ("majority", "a", True),
        ("unanimous", "aaa", True),
        ("unanimous", "aab", False),
        ("plurality", "aabc", True),
        ("plurality", "aabb", False),
        (AtLeast(at_least=2), "aabc", True),
        (AtLeast(at_least=2), "aabbc", False),
        (AtLeast(at_least=3), "aab", False),
        (AtLeast(at_least=0.6), "aaabb", True),
        (AtLeast(at_least=0.7), "aaaaaaabbb", True),
        (AtLeast(at_least=0.7), "aaaaaabbbb", False),
    ],
)
def test_members_agree_by_their_rule(rule: Rule, answers: str, agreed: bool) -> None:
    found = tally(rule, round_of(*answers))
    assert (found.agreed, found.answer) == (agreed, "a")


def test_answers_are_equal_if_they_are_as_json() -> None:
    assert canonical({"a": 1, "b": [2.0, {"c": None}]}) == canonical({"b": [2, {"c": None}], "a": 1.0})
    assert canonical(True) != canonical(1)
    assert canonical("1") != canonical(1)
    assert tally("unanimous", round_of({"x": 1, "y": 2}, {"y": 2.0, "x": 1})).agreed


def test_those_who_gave_no_answer_count_toward_no_share() -> None:
    voices = [*round_of("a", "a", "b"), Heard("gone", error="no"), heard("quiet", {"answer": None}, "answer")]
    found = tally("majority", voices)
    assert found.agreed
    assert set(found.votes) == {"m0", "m1", "m2"}
    assert too_few(voices, 3) is None
    assert too_few(voices, 4) == "3 answered, and 4 of 5 have to (gone: no; quiet: abstained)"
    assert too_few(voices, None) == "3 answered, and all 5 have to, as there is no quorum (gone: no; quiet: abstained)"


def test_nobody_agrees_where_nobody_answers() -> None:
    assert tally("plurality", [Heard("a"), Heard("b", error="no")]).agreed is False


@pytest.mark.parametrize(
    ("given", "path", "problem"),
    [
        ("yes", "answer", "an object with a field 'answer' is wanted, and this was 'yes'"),
        ([1], "answer", "this was a list"),
        ({"anwser": 1}, "answer", "what was given has no 'answer', did you mean 'anwser'? it has anwser"),
        ({"result": {}}, "result.choice", "result has no 'choice', it has no fields"),
        ({"result": 5}, "result.choice", "result has no 'choice'"),
    ],
)
def test_what_is_no_answer_is_never_counted_and_is_told(given: Any, path: str, problem: str) -> None:
    voice = heard("m", given, path)
    assert not voice.answered
    assert problem in (voice.problem or "")
    turn = member_turn("t", "m", 1, 3, [], voice.problem)
    assert MemberTurn.model_validate(turn).problem == voice.problem


def test_the_others_are_told_all_that_a_member_said_with_its_answer() -> None:
    given = {"result": {"choice": "yes"}, "reason": "because", "member": "somebody else"}
    voice = heard("m", given, "result.choice")
    assert voice.told == {"result": {"choice": "yes"}, "reason": "because", "member": "m", "answer": "yes"}
    assert Heard("n", error="no").told == {"member": "n", "error": "no"}
    told = MemberTurn.model_validate(member_turn("t", "m", 2, 3, [voice.told, Heard("n", error="no").told]))
    assert (told.opinions[0].answer, told.opinions[1].error, told.rounds_left) == ("yes", "no", 1)


@pytest.mark.parametrize("seed", range(100))
def test_no_order_of_members_changes_whether_they_agree_nor_on_what(seed: int) -> None:
    chance = Random(seed)
    answers = [chance.choice(["a", "b", {"c": 1}]) for _ in range(chance.randint(1, 5))]
    rules: list[Rule] = ["majority", "unanimous", "plurality", AtLeast(at_least=2), AtLeast(at_least=0.5)]
    for rule in rules:
        found = {
            (made.agreed, canonical(made.answer) if made.agreed else None)
            for each in permutations(answers)
            for made in [tally(rule, round_of(*each))]
        }
        assert len(found) == 1
    votes = answers.count("a")
    assert tally("majority", round_of(*answers)).agreed == any(2 * answers.count(a) > len(answers) for a in answers)
    assert votes < len(answers) or tally("unanimous", round_of(*answers)).agreed


def test_whoever_decides_is_told_all_that_fits_and_decides_with_an_answer_or_with_anything() -> None:
    rounds = [
        [{"member": "a", "answer": "x" * 200_000}],
        [{"member": "a", "answer": "y" * 200_000}],
        [{"member": "a", "answer": 1}],
    ]
    turn = to_decide("t", rounds)
    assert (turn["rounds"], turn["opinions"]) == (3, rounds[-1])
    assert turn["history"][0] == {"round": 1, "left_out": True}
    assert turn["history"][1] == {"round": 2, "opinions": rounds[1]}
    assert decision({"answer": "yes", "reason": "so"}, "answer") == "yes"
    assert decision("yes", "answer") == "yes"
    assert decision(None, "answer") is None


def test_the_output_says_who_voted_for_what() -> None:
    voices = round_of("a", "b", "a")
    assert outcome(tally("majority", voices), 2, [voice.told for voice in voices]) == {
        "agreed": True,
        "answer": "a",
        "votes": {"m0": "a", "m1": "b", "m2": "a"},
        "rounds": 2,
        "opinions": [{"answer": "a", "member": "m0"}, {"answer": "b", "member": "m1"}, {"answer": "a", "member": "m2"}],
    }
