"""The whole team: in this process, on a model that leads, and in processes that are killed."""

from pathlib import Path

from orchestrator import Orchestrator
from orchestrator.testing import run_workflow

QUESTION = {
    "question": "How long is a forecast of a storm surge good for and what is the cheapest protection of small towns?"
}


def test_it_answers_with_sentences_of_the_documents():
    with Orchestrator.embedded() as nf:
        run = nf.submit("research.yaml", QUESTION)
        report = run.result(timeout=120)
    assert "about twelve hours" in report["text"]
    assert {"warning.md", "wetlands.md"} <= set(report["sources"])
    for line in report["text"].splitlines()[2:]:
        sentence, _, source = line.removeprefix("- ").rpartition(" [")
        document = Path("documents", source.removesuffix("]")).read_text()
        assert " ".join(sentence.split()) in " ".join(document.split())


def test_what_is_in_no_document_is_not_answered():
    with Orchestrator.embedded() as nf:
        report = nf.submit("research.yaml", {"question": "xylophones and zithers"}).result(timeout=120)
    assert report == {"text": "The documents do not answer this.", "sources": []}


def test_a_team_that_is_killed_goes_on_where_it_was():
    report = run_workflow("research.yaml", QUESTION, kill_at="after_call:3", timeout=240)
    assert report.result.state == "succeeded"
    assert not report.repeated_though_recorded
