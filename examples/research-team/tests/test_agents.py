"""Each agent alone: what the lead wants next, what is found, and what is taken from it."""

import pytest
from worker.teams import LeaderTurn, Result
from worker.testing import MockLLM, run_agent

FOLLOWERS = {"finder": "Find passages.", "notes": "Read documents.", "writer": "Write a report."}
QUESTION = "How long is a forecast good for and what protects small towns?"


def turn(*results: Result, number: int = 1) -> dict:
    data = LeaderTurn(task={"question": QUESTION}, round=number, followers=FOLLOWERS, results=list(results))
    return data.model_dump(mode="json")


def searched(name: str, *sources: str) -> Result:
    passages = [{"source": source, "text": "..."} for source in sources]
    return Result(id=name, to="finder", round=1, output={"question": "?", "passages": passages})


def test_the_lead_has_each_part_of_the_question_looked_for():
    plan = run_agent("lead", turn())
    assert [(each.to, each.input["question"]) for each in plan.assignments] == [
        ("finder", "How long is a forecast good for"),
        ("finder", "what protects small towns"),
    ]


def test_the_lead_has_it_looked_for_again_in_fewer_words_where_nothing_was_found():
    plan = run_agent("lead", turn(searched("find-1", "a.md"), searched("find-2"), number=2))
    [again] = plan.assignments
    assert (again.id, again.to) == ("find-2-again", "finder")
    assert set(again.input["question"].split()) == {"protects", "small", "towns"}


def test_the_lead_has_written_up_what_was_found_and_gives_that():
    found = [searched("find-1", "a.md"), searched("find-2"), searched("find-2-again", "b.md")]
    plan = run_agent("lead", turn(*found, number=3))
    assert [(each.id, each.to, each.after) for each in plan.assignments] == [
        ("notes", "notes", ["find-1", "find-2-again"]),
        ("report", "writer", ["notes"]),
    ]
    written = Result(id="report", to="writer", round=3, output={"text": "It is good for twelve hours.", "sources": []})
    assert run_agent("lead", turn(*found, written, number=4)).result["text"] == "It is good for twelve hours."


def test_the_lead_says_so_where_the_documents_answer_nothing():
    nothing = [searched(name) for name in ("find-1", "find-2", "find-1-again", "find-2-again")]
    assert run_agent("lead", turn(*nothing, number=3)).result["text"] == "The documents do not answer this."


def test_a_model_that_leads_can_assign_work_to_nobody_but_its_followers():
    wrong = '{"assignments": [{"to": "searcher", "input": {"question": "How long?"}}], "result": null}'
    model = MockLLM(wrong, wrong.replace("searcher", "finder"))
    plan = run_agent("lead", turn(), model=model)
    assert [each.to for each in plan.assignments] == ["finder"]
    assert "'finder', 'notes' or 'writer'" in model.calls[1].prompt


@pytest.mark.parametrize(
    ("question", "source"),
    [("How wide is the Thames Barrier?", "barriers.md"), ("How often are dikes inspected in spring?", "dikes.md")],
)
def test_the_finder_finds_passages_in_the_documents(question, source):
    found = run_agent("finder", {"question": question})
    assert found.passages[0].source == source


def test_nothing_found_is_an_answer():
    assert run_agent("finder", {"question": "xylophones"}).passages == []


def test_the_note_taker_takes_sentences_that_are_there():
    text = "A barrier stands open. Forecasts are good for twelve hours. Grass needs care."
    given = {"question": "How long is a forecast good for?", "source": "w.md", "passages": [text]}
    assert run_agent("note_taker", given).sentences == ["Forecasts are good for twelve hours."]
    model = MockLLM('{"sentences": ["Grass needs care.", "Made up."]}')
    assert run_agent("note_taker", given, model=model).sentences == ["Grass needs care."]
