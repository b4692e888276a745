from typing import Any

from pydantic import BaseModel

from worker.agent import BaseAgent, Context, offline
from worker.teams import Assignment, Assignments, LeaderTurn, Result

HOW = """\
You lead research in documents. Have `finder` look for passages, one assignment for each thing that is to be found out; where
nothing was found, try once more in other words. Then have `notes` read what was found, and `writer` write the report: each comes
after those whose results it needs. The result is what the writer gave. Assign nothing that was done already."""


class Order(BaseModel):
    """What a follower is given."""

    question: str


class Lead(BaseAgent):
    """Lead the research: what is to be found out, who does it, and whether it is enough."""

    def execute(self, data: LeaderTurn, ctx: Context) -> Assignments:
        if ctx.model == "offline":
            return by_rules(data)
        return ctx.llm(data.model_dump_json(), system=HOW, output=data.answer(input=Order))


def by_rules(data: LeaderTurn) -> Assignments:
    """Find something for each part of the question, once more in fewer words where nothing is found, then have it written up."""
    question = data.task["question"]
    done = {each.id: each for each in (*data.history, *data.results)}
    if "report" in done:
        return Assignments(result=report(done["report"]))
    wanted = [search(f"find-{number}", part) for number, part in enumerate(parts(question), 1)]
    missing = [each for each in wanted if not found(done.get(each.id))]
    again = [
        search(f"{each.id}-again", " ".join(offline.key_terms(each.input["question"], 3)))
        for each in missing
        if each.id in done
    ]
    searches = [each for each in (*missing, *again) if each.id not in done]
    if searches:
        return Assignments(assignments=searches)
    sources = [key for key, each in done.items() if found(each)]
    if not sources:
        return Assignments(result={"text": "The documents do not answer this.", "sources": []})
    asked = {"question": question}
    return Assignments(
        assignments=[
            Assignment(id="notes", to="notes", input=asked, after=sources),
            Assignment(id="report", to="writer", input=asked, after=["notes"]),
        ]
    )


def search(name: str, question: str) -> Assignment:
    return Assignment(id=name, to="finder", input={"question": question})


def parts(question: str) -> list[str]:
    return [each.strip() for each in question.rstrip("?").replace(" and ", "? ").split("? ") if each.strip()]


def found(result: Result | None) -> bool:
    return result is not None and result.succeeded and bool(result.output["passages"])


def report(result: Result) -> Any:
    return result.output if result.succeeded else {"text": f"Nobody could write it up: {result.error}", "sources": []}
