from statistics import median
from typing import Annotated

from pydantic import Field

from worker.agent import BaseAgent, Context, offline
from worker.teams import MemberTurn, Opinion

HOW = """\
You grade essays from 1 (poor) to 5 (excellent), by {what} alone. From the second round on you see what the others say: change
your grade where their reasons convince you."""

Grade = Opinion[Annotated[int, Field(ge=1, le=5)]]


class _Grader(BaseAgent):
    what = ""

    def execute(self, data: MemberTurn, ctx: Context) -> Grade:
        if ctx.model != "offline":
            return ctx.llm(data.model_dump_json(), system=HOW.format(what=self.what), output=Grade)
        own, reason = self.grade(data.task["text"])
        before = next((each.answer for each in data.opinions if each.member == data.member), None)
        if before is None:
            return Grade(answer=own, reason=reason)
        others = round(median(each.answer for each in data.opinions if each.answer is not None))
        step = (others > before) - (others < before)
        return Grade(answer=before + step, reason=f"{reason}; the others say {others}" if step else reason)

    def grade(self, text: str) -> tuple[int, str]:
        raise NotImplementedError


class Language(_Grader):
    """Grade how easily an essay is read."""

    what = "how easily it is read"

    def grade(self, text: str) -> tuple[int, str]:
        counted = offline.statistics(text)
        return scaled(counted.reading_ease, (0, 30, 50, 65)), f"its reading ease is {counted.reading_ease:g} of 100"


class Substance(_Grader):
    """Grade how much an essay has to say."""

    what = "how much it has to say"

    def grade(self, text: str) -> tuple[int, str]:
        terms = len(offline.key_terms(text, 50))
        return scaled(terms, (3, 8, 14, 20)), f"it speaks of {terms} things"


class Structure(_Grader):
    """Grade how an essay is built."""

    what = "how it is built"

    def grade(self, text: str) -> tuple[int, str]:
        counted = offline.statistics(text)
        repeated = counted.sentences - len(set(offline.sentences(text)))
        own = scaled(counted.sentences, (1, 2, 4, 6)) - repeated - (counted.longest_sentence_words > 40)
        return max(1, own), f"{counted.sentences} sentences, {repeated} of them twice"


class ChiefGrader(BaseAgent):
    """Decide where the graders do not agree: the grade in their middle."""

    def execute(self, data: dict, ctx: Context) -> Grade:
        grades = [each["answer"] for each in data["opinions"] if each.get("answer") is not None]
        return Grade(answer=round(median(grades)), reason=f"the middle of {', '.join(map(str, sorted(grades)))}")


def scaled(value: float, steps: tuple[float, ...]) -> int:
    """Give 1 to 5, one more for each step that is reached."""
    return 1 + sum(value > step for step in steps)
