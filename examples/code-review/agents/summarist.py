from typing import Any, Literal

from pydantic import BaseModel

from worker.agent import BaseAgent, Context

SYSTEM = "Summarize these reviews for whoever wrote the change: what to mend first, and what is good. Five sentences at most."


class Reviews(BaseModel):
    """The changed files, and for each what the reviewers have come to."""

    files: list[dict[str, Any]]
    reviews: list[dict[str, Any]]


class Verdict(BaseModel):
    verdict: Literal["merge", "mend"]
    text: str


class Summarist(BaseAgent):
    """Lead the review: say what becomes of the whole change, and why."""

    def execute(self, data: Reviews, ctx: Context) -> Verdict:
        pairs = list(zip([each["path"] for each in data.files], data.reviews, strict=True))
        verdict = "mend" if any(review["answer"] == "mend" for _, review in pairs) else "merge"
        text = "\n\n".join(section(path, review) for path, review in pairs)
        if ctx.model != "offline":
            text = f"{ctx.llm(text, system=SYSTEM)}\n\n{text}"
        return Verdict(verdict=verdict, text=f"# {verdict.capitalize()}\n\n{text}")


def section(path: str, review: dict[str, Any]) -> str:
    rounds = "at once" if review["rounds"] == 1 else f"after {review['rounds']} rounds"
    agreed = f"agreed {rounds}" if review["agreed"] else "by the most votes"
    lines = [
        f"- line {finding['line']}: {finding['message']} ({opinion['member']})"
        for opinion in review["opinions"]
        for finding in opinion.get("findings", [])
    ]
    return "\n".join([f"## {path}: {review['answer']}, {agreed}", "", *(lines or ["- nothing to mend"])])
