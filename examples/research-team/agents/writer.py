from typing import Any

from pydantic import BaseModel

from worker.agent import BaseAgent, Context

SYSTEM = "Write a report of one paragraph from these notes and from nothing else. Name the source behind each sentence."


class Report(BaseModel):
    text: str
    sources: list[str]


class Writer(BaseAgent):
    """Write a report from notes, with the source of each sentence."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Report:
        notes = [each for part in data["after"].values() for each in part if each["sentences"]]
        sources = [each["source"] for each in notes]
        lines = [f"- {sentence} [{each['source']}]" for each in notes for sentence in each["sentences"]]
        question = data["input"]["question"]
        if ctx.model == "offline":
            return Report(text="\n".join([f"# {question}", "", *lines]), sources=sources)
        return Report(text=ctx.llm("\n".join([question, *lines]), system=SYSTEM), sources=sources)
