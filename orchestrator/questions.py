"""What agents ask people: the open questions, and their answers."""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.jsonvalue import dump, storable
from orchestrator.contracts.question import Answered, Question
from orchestrator.contracts.shape import faults_of
from orchestrator.errors import AnswerRefused, QuestionNotFound
from orchestrator.failpoints import failpoint
from orchestrator.kernel import Kernel
from orchestrator.store.waits import Answering


class Questions:
    """The questions of one installation; thread-safe."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waits = kernel.store.waits

    def open(self, run_id: str | None = None, *, project: str | None = None, limit: int = 1000) -> list[Question]:
        """Give the questions that an answer is awaited for, oldest first, at most `limit`."""
        return self._waits.open_questions(run_id=run_id, project=project, limit=limit)

    def find(self, identity: str) -> Question:
        """Give a question by its own id, or by that of a run that asks just one; raises `QuestionNotFound`."""
        question = self._waits.question(identity)
        if question is not None:
            return question
        found = self.open(identity)
        if len(found) == 1:
            return found[0]
        if not found:
            raise QuestionNotFound(
                f"{identity!r} is no question, and no run that asks one now: `nightfleet runs questions` lists the open ones"
            )
        listed = "".join(f"\n  {each.id}  {each.task}: {each.text}" for each in found)
        raise QuestionNotFound(f"run {identity} asks {len(found)} questions, say which one is answered:{listed}")

    def answer(self, identity: str, value: Any, *, by: str | None = None, digest: str | None = None) -> Answered:
        """Answer a question, once and for all; whoever waits for it goes on.

        Raises `QuestionNotFound`, and `AnswerRefused` for a value that the question does not take, and for a question
        that is answered or expired, whose run has ended, or whose `digest` is another one.
        """
        question = self.find(identity)
        text = self._encoded(question, value)
        by = by and storable(by)
        run_id = self._waits.answer(Answering(question.id, text, by, digest))
        failpoint("after_answer")
        self._publish(run_id)
        return Answered(id=question.id, run_id=run_id, task=question.task, answer=value, answered_by=by)

    def _encoded(self, question: Question, value: Any) -> str:
        limit = self._kernel.settings.max_value_bytes
        text = dump(value, what="the answer", limit_bytes=limit, error=AnswerRefused)
        faults = faults_of(value, shape_of(question))
        if faults:
            raise AnswerRefused(f"question {question.id}: {'; '.join(faults)}")
        return text

    def _publish(self, run_id: str) -> None:
        """Publish what an answer has queued; what cannot be published now is left to the sweep."""
        own = self._kernel.own_runs
        if own is None or run_id in own.ids:
            self._kernel.advancer.republish(self._kernel.store.repairs.take_due([run_id]))


def shape_of(question: Question) -> dict[str, Any]:
    """Give the JSON Schema of what a question takes for an answer."""
    if question.choices:
        return {"enum": list(question.choices)}
    return {"type": "string"} if question.answer_schema is None else question.answer_schema
