import re

from pydantic import BaseModel

from worker.agent import BaseAgent, Context, Search, ToolError

_PLACE = re.compile(r"^(?P<source>\S+):\d+$")


class Order(BaseModel):
    question: str


class Passage(BaseModel):
    source: str
    text: str


class Found(BaseModel):
    question: str
    passages: list[Passage]


class Finder(BaseAgent):
    """Find passages about something in the folder `documents`."""

    tools = (Search("documents"),)

    def execute(self, data: Order, ctx: Context) -> Found:
        try:
            told = ctx.tool("search", query=data.question, limit=4)
        except ToolError:  # nothing is found
            return Found(question=data.question, passages=[])
        return Found(question=data.question, passages=list(passages(told)))


def passages(told: str):
    """Give the passages that a search tells: each is a line `source:line`, and its text up to the next one."""
    source, lines = "", []
    for line in [*told.splitlines(), "end:0"]:
        place = _PLACE.match(line)
        if place is None:
            lines.append(line)
            continue
        if source:
            yield Passage(source=source, text="\n".join(lines).strip())
        source, lines = place["source"], []
