from pathlib import Path

from pydantic import BaseModel
from worker.agent import BaseAgent, Context


class Quote(BaseModel):
    tea: str
    tins: int
    euros: str


class Letter(BaseModel):
    text: str


class Correspondent(BaseAgent):
    """Write a letter about a quote, and post it."""

    model = "openai:gpt-5-mini"

    def execute(self, data: Quote, ctx: Context) -> Letter:
        text = ctx.llm(f"Write a letter of two sentences: {data.tins} tins of {data.tea} cost {data.euros} euros.")
        ctx.step(post, text)
        return Letter(text=text)


def post(letter: str) -> None:
    """Post a letter: here into a file."""
    with Path("outbox.txt").open("a") as outbox:
        outbox.write(f"{letter}\n")
