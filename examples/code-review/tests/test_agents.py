"""Each agent alone."""

from worker.testing import MockLLM, run_agent

FILE = {"path": "shop/orders.py", "added": [{"number": 7, "text": 'password = "letmein"'}], "diff": "..."}


def review(agent: str, **turn):
    return run_agent(agent, {"task": FILE, "member": agent, **turn})


def test_each_reviewer_looks_for_its_own_things():
    assert review("security").model_dump() == {
        "answer": "mend",
        "reason": "a secret stands in the source",
        "findings": [{"line": 7, "message": "a secret stands in the source"}],
    }
    assert review("readability").answer == "merge"


def test_a_reviewer_that_has_found_nothing_is_convinced_by_what_another_has_found():
    opinions = [{"member": "security", "answer": "mend", "findings": []}, {"member": "correctness", "error": "gone"}]
    convinced = review("readability", round=2, opinions=opinions)
    assert (convinced.answer, convinced.reason) == ("mend", "security is right")


def test_a_model_answers_with_one_of_two_words():
    model = MockLLM('{"answer": "maybe"}', '{"answer": "mend", "reason": "a password", "findings": []}')
    assert run_agent("security", {"task": FILE, "member": "security"}, model=model).answer == "mend"
    assert "'merge' or 'mend'" in model.calls[1].prompt
