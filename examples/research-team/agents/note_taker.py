from pydantic import BaseModel

from worker.agent import BaseAgent, Context, offline

SYSTEM = "Give the sentences of the document that answer the question, word for word. None is an answer too."


class Reading(BaseModel):
    question: str
    source: str
    passages: list[str]


class Notes(BaseModel):
    source: str
    sentences: list[str]


class Quotes(BaseModel):
    sentences: list[str]


class NoteTaker(BaseAgent):
    """Take from the passages of one document the sentences that answer a question."""

    def execute(self, data: Reading, ctx: Context) -> Notes:
        text = "\n\n".join(data.passages)
        if ctx.model == "offline":
            return Notes(source=data.source, sentences=nearest(text, data.question, 2))
        quotes = ctx.llm(f"{data.question}\n\n<document>\n{text}\n</document>", system=SYSTEM, output=Quotes)
        # A quote that is not there is none.
        return Notes(source=data.source, sentences=[each for each in quotes.sentences if each in text])


def nearest(text: str, question: str, most: int) -> list[str]:
    """Give the sentences that share most words with the question, in the order of the text."""
    wanted = stems(question)
    shared = {sentence: len(wanted & stems(sentence)) for sentence in offline.sentences(text)}
    best = sorted((each for each in shared if shared[each]), key=lambda each: -shared[each])[:most]
    return [each for each in shared if each in best]


def stems(text: str) -> set[str]:
    return {word.lower()[:5] for word in offline.words(text) if len(word) > 3}
