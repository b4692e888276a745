"""What the people of a test answer to the agents of a run under faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import AnswerRefused, UsageError

if TYPE_CHECKING:
    from orchestrator.client import Orchestrator
    from orchestrator.contracts.question import Question


def answer_open(nf: Orchestrator, run_id: str, answers: Mapping[str, Any]) -> None:
    """Answer what a run asks now, by the text of each question; what has no answer expires if it can.

    Raises `UsageError` where it cannot: the run would wait for ever. Raises `AnswerRefused` for an answer that the question
    does not take.
    """
    for question in nf.questions(run_id):
        if question.text in answers:
            _answer(nf, question, answers[question.text])
        elif question.expires_at is None:
            raise UsageError(
                f"task {question.task!r} asks {question.text!r}, and the test has no answer: add it, as "
                f"answers={{{question.text!r}: ...}}"
            )


def _answer(nf: Orchestrator, question: Question, value: Any) -> None:
    try:
        nf.answer(question.id, value, digest=question.digest)
    except AnswerRefused:
        # Expired, or cancelled with its run, since it was looked up: nobody waits for the answer any more.
        if any(each.id == question.id for each in nf.questions(question.run_id)):
            raise
