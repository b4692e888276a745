"""The `offline` provider: a small deterministic text processor, and no language model.

It selects, counts and compares; it makes up nothing, and understands nothing. English and German are what its stop
words and readability know; other languages get by on frequency. Every function takes Markdown or plain text of any
size, empty text too, and takes time in proportion to it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Literal, Self

from orchestrator.contracts.policy import Value
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelCapabilityError
from worker.llm import stopwords
from worker.llm.base import BaseLLMProvider, EmbeddingRequest, EmbeddingResponse, LLMRequest, LLMResponse
from worker.llm.features import vector_of
from worker.llm.markdown import paragraphs

_SUMMARY_SENTENCES = 3
_LONGEST_QUOTE = 400
_WORDS_PER_MINUTE = 220
_SHORTEST_SENTENCE_WORDS = 4
#: By how much the first sentence of a text counts more than the last: what matters tends to come early.
_LEAD = 0.3

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_SYLLABLE = re.compile(r"[aeiouyäöüáéíóúàèâêîôû]+")
# Each alternative begins where a run of marks begins, and no quantifier gives back: a megabyte of dots is read once.
_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]++["'»«”“’)\]]*+\s++|[。！？]++[」』”]*+\s*+""")  # noqa: RUF001
_COMPLETE = re.compile(r"""[.!?…。！？]["'»«”“’)\]」』”]*$""")  # noqa: RUF001
#: Those that hardly ever end a sentence. Before a word in lower case no full stop does.
_ABBREVIATED = "abs approx art bd bzw ca dr evtl fig ggf hrsg jr mr mrs ms nr prof sog sr st str tel vgl vol vs"
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())


class Statistics(Value):
    """Counts of a text, and its `reading_ease` from 0 (hard) to 100 (easy), after Flesch, for German after Amstad."""

    words: int
    sentences: int
    paragraphs: int
    reading_seconds: int
    mean_sentence_words: float
    longest_sentence: str
    longest_sentence_words: int
    reading_ease: float
    language: Literal["en", "de"]


class Comparison(Value):
    """What two texts have in common: `similarity` of their vocabulary from 0 to 1, and the key terms of both or one."""

    similarity: float
    shared: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def sentences(text: str) -> tuple[str, ...]:
    """Give the sentences of the text's prose in order; a heading or list item is one, whatever its punctuation."""
    return tuple(sentence for paragraph in paragraphs(text) for sentence in _split(paragraph))


def words(text: str) -> tuple[str, ...]:
    """Give the words and numbers of plain text, as written."""
    return tuple(_WORD.findall(text))


def key_terms(text: str, n: int = 8) -> tuple[str, ...]:
    """Give up to `n` terms of one or two words, the most telling first, as the text most often writes them."""
    written: dict[str, Counter[str]] = {}
    singles: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    phrases = list(_phrases(sentences(text)))
    known = {word.lower() for phrase in phrases for word in phrase}
    for phrase in phrases:
        terms = [_singular(word.lower(), known) for word in phrase]
        singles.update(terms)
        pairs.update(pairwise(terms))
        for term, word in zip(terms, phrase, strict=True):
            written.setdefault(term, Counter())[word] += 1
    chosen = _choose(singles, pairs, n)
    return tuple(" ".join(written[term].most_common(1)[0][0] for term in terms) for terms in chosen)


def summary(text: str, n_sentences: int = _SUMMARY_SENTENCES) -> str:
    """Give the `n_sentences` that use the text's most frequent words, in their order; overlong ones are cut off."""
    found = sentences(text)
    full = [sentence for sentence in found if _is_full(sentence)]
    candidates = list(dict.fromkeys(full or found))
    weights = Counter(word for sentence in candidates for word in _content(sentence))
    scores = [
        _score(sentence, weights) * (1 + _LEAD * (1 - index / len(candidates)))
        for index, sentence in enumerate(candidates)
    ]
    best = sorted(range(len(candidates)), key=lambda index: (-scores[index], index))[: max(n_sentences, 0)]
    return " ".join(shorten(candidates[index], _LONGEST_QUOTE) for index in sorted(best))


def compare(first: str, second: str, n_terms: int = 8) -> Comparison:
    """Compare the vocabulary of two texts; the order of the texts only names the sides."""
    one, other = (Counter(_telling(text)) for text in (first, second))
    terms_of_one, terms_of_other = (key_terms(text, 2 * n_terms) for text in (first, second))
    return Comparison(
        similarity=round(_cosine(one, other), 3),
        shared=tuple(term for term in terms_of_one if _is_in(term, other))[:n_terms],
        only_first=tuple(term for term in terms_of_one if not _is_in(term, other))[:n_terms],
        only_second=tuple(term for term in terms_of_other if not _is_in(term, one))[:n_terms],
    )


def statistics(text: str) -> Statistics:
    """Count words and sentences, and estimate how long the text takes to read and how easily."""
    blocks = [block for block in paragraphs(text) if block]
    found = [sentence for block in blocks for sentence in _split(block)]
    lengths = [len(words(sentence)) for sentence in found]
    every = [word.lower() for sentence in found for word in words(sentence)]
    spoken = language(every)
    longest = max(range(len(found)), key=lambda index: lengths[index], default=None)
    return Statistics(
        words=len(every),
        sentences=len(found),
        paragraphs=len(blocks),
        reading_seconds=math.ceil(len(every) * 60 / _WORDS_PER_MINUTE),
        mean_sentence_words=round(len(every) / len(found), 1) if found else 0.0,
        longest_sentence=shorten(found[longest], _LONGEST_QUOTE) if longest is not None else "",
        longest_sentence_words=lengths[longest] if longest is not None else 0,
        reading_ease=_reading_ease(every, len(found), spoken),
        language=spoken,
    )


def language(lowered: Iterable[str]) -> Literal["en", "de"]:
    """Guess which of two languages words in lower case are of, by their stop words; English if nothing tells."""
    counted = Counter(lowered)
    english = sum(counted[word] for word in stopwords.ENGLISH - stopwords.GERMAN)
    german = sum(counted[word] for word in stopwords.GERMAN - stopwords.ENGLISH)
    return "de" if german > english else "en"


def shorten(text: str, limit: int) -> str:
    """Give `text` of at most `limit` characters, cut between words where it has any, with an ellipsis if it was cut."""
    if len(text) <= limit:
        return text
    cut = text[: max(limit - 1, 0)]
    head, _, _ = cut.rpartition(" ")
    return f"{(head or cut).rstrip(' ,;:')}…"


class OfflineProvider(BaseLLMProvider):
    """Answers `offline` with an extractive summary of the last user message: no model, no network, no cost."""

    name = "offline"
    metered = False

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:  # noqa: ARG003 - it needs nothing
        """Make one; nothing is needed for it."""
        return cls()

    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Give the summary; raises `ModelCapabilityError` when asked for structured output."""
        if request.output_schema is not None:
            raise ModelCapabilityError(
                "`offline` is a text processor and gives no structured output: set OPENAI_API_KEY or ANTHROPIC_API_KEY "
                "(or name a model whose key is set: NIGHTFLEET_MODEL, or `model` of the agent)"
            )
        asked = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
        return LLMResponse(text=summary(asked), model=self.name, usage=Usage(), stop_reason="end_turn")

    def embed(self, request: EmbeddingRequest) -> EmbeddingResponse:
        """Give vectors by which texts that share words, or parts of words, are near each other."""
        vectors = tuple(vector_of(message.text) for message in request.messages)
        return EmbeddingResponse(vectors=vectors, model=self.name, usage=Usage())

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def _split(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        if not _ends_sentence(paragraph, start, end):
            continue
        yield paragraph[start : end.end()].strip()
        start = end.end()
    if rest := paragraph[start:].strip():
        yield rest


def _ends_sentence(paragraph: str, start: int, end: re.Match[str]) -> bool:
    """Tell a full stop from that of an abbreviation, an initial or a German ordinal number."""
    if paragraph[end.end() : end.end() + 1].islower():
        return False
    if paragraph[end.start()] != "." or paragraph[end.start() : end.start() + 2] == "..":
        return True
    last = re.split(r"[\s.(]", paragraph[max(start, end.start() - 20) : end.start()])[-1]
    is_ordinal = last.isdecimal() and len(last) <= 2
    return not (is_ordinal or (len(last) == 1 and last.isalpha()) or last.lower() in _ABBREVIATIONS)


def _is_full(sentence: str) -> bool:
    """Tell a sentence from a heading, an item of a list and an exclamation."""
    return _COMPLETE.search(sentence) is not None and len(words(sentence)) >= _SHORTEST_SENTENCE_WORDS


def _is_content(word: str) -> bool:
    return len(word) > 1 and word.lower() not in stopwords.ALL and not word.isdecimal()


def _content(sentence: str) -> list[str]:
    return [word.lower() for word in words(sentence) if _is_content(word)]


def _telling(text: str) -> Iterator[str]:
    return (word for sentence in sentences(text) for word in _content(sentence))


def _phrases(found: Iterable[str]) -> Iterator[list[str]]:
    """Give runs of telling words: stop words and punctuation end one."""
    for sentence in found:
        phrase: list[str] = []
        end = 0
        for match in _WORD.finditer(sentence):
            word = match[0]
            if phrase and (sentence[end : match.start()] != " " or not _is_content(word)):
                yield phrase
                phrase = []
            if _is_content(word):
                phrase.append(word)
            end = match.end()
        if phrase:
            yield phrase


def _choose(singles: Counter[str], pairs: Counter[tuple[str, str]], n: int) -> list[tuple[str, ...]]:
    """Rank pairs that occur again before their words, which then count only where they occur without the pair."""
    repeated = {pair: count for pair, count in pairs.items() if count > 1 and pair[0] != pair[1]}
    alone = Counter(singles)
    for pair, count in repeated.items():
        for term in pair:
            alone[term] -= count
    scores: dict[tuple[str, ...], float] = {pair: 1.5 * count for pair, count in repeated.items()}
    scores |= {(term,): float(alone[term]) for term in singles if alone[term] > 0}
    # Sorting is stable: of equal scores the term that the text has first comes first.
    return sorted(scores, key=lambda terms: -scores[terms])[: max(n, 0)]


def _singular(term: str, known: AbstractSet[str]) -> str:
    """Count `agents` as `agent` where the text has both."""
    return term[:-1] if term.endswith("s") and term[:-1] in known else term


def _score(sentence: str, weights: Mapping[str, int]) -> float:
    """Give the mean weight of a sentence's telling words, each counted once, and less for very short sentences."""
    content = _content(sentence)
    return sum(weights[word] for word in set(content)) / (len(content) + 3)


def _cosine(first: Counter[str], second: Counter[str]) -> float:
    dot = sum(count * second[word] for word, count in first.items())
    norm = math.sqrt(sum(count**2 for count in first.values()) * sum(count**2 for count in second.values()))
    return dot / norm if norm else 0.0


def _is_in(term: str, vocabulary: Counter[str]) -> bool:
    return all(word.lower() in vocabulary for word in term.split())


def _reading_ease(lowered: list[str], n_sentences: int, spoken: Literal["en", "de"]) -> float:
    if not lowered or not n_sentences:
        return 0.0
    syllables = sum(max(1, len(_SYLLABLE.findall(word))) for word in lowered)
    sentence_length, word_length = len(lowered) / n_sentences, syllables / len(lowered)
    flesch = 206.835 - 1.015 * sentence_length - 84.6 * word_length
    amstad = 180.0 - sentence_length - 58.5 * word_length
    return round(min(100.0, max(0.0, amstad if spoken == "de" else flesch)), 1)
