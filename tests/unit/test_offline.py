"""The offline text processor selects and counts; it invents nothing, and takes any text."""

from __future__ import annotations

from time import thread_time

import pytest
from counting import lines_run

from orchestrator.errors import ModelCapabilityError
from worker.llm.base import LLMRequest
from worker.llm.message import Message
from worker.llm.offline import (
    OfflineProvider,
    compare,
    key_terms,
    sentences,
    shorten,
    statistics,
    summary,
    words,
)

MARKDOWN = """# Queues

A queue holds jobs until a worker takes one. See [the manual](https://example.com/a_b) for *all* the details.

- Workers take jobs from the queue.
- A dead worker gives its jobs back.

| job | worker |
|-----|--------|
| 1   | a      |

```python
queue.put("Never quoted. Never counted.")
```

> Quoted text counts as text. It is read like any other.
"""

GERMAN = """Der Bericht wurde am 3. Oktober veröffentlicht. Er beschreibt z. B. die Lage der Werften im Norden.
Die Werften haben in den letzten Jahren viele Aufträge verloren. Dr. Weber nennt die Werften einen Sonderfall."""


def ask(text: str) -> LLMRequest:
    return LLMRequest(model="offline", messages=(Message(role="user", content=text),))


def test_sentences_end_at_full_stops_but_not_at_abbreviations_initials_and_ordinals():
    assert sentences(GERMAN) == (
        "Der Bericht wurde am 3. Oktober veröffentlicht.",
        "Er beschreibt z. B. die Lage der Werften im Norden.",
        "Die Werften haben in den letzten Jahren viele Aufträge verloren.",
        "Dr. Weber nennt die Werften einen Sonderfall.",
    )


def test_sentences_end_where_the_years_do_and_after_other_marks():
    assert sentences("It was 2020. Then what? Nothing! Well...  So be it.") == (
        "It was 2020.",
        "Then what?",
        "Nothing!",
        "Well...",
        "So be it.",
    )


def test_a_question_inside_a_sentence_does_not_end_it():
    assert sentences('"Really?" she asked. He nodded.') == ('"Really?" she asked.', "He nodded.")


def test_sentences_of_scripts_without_spaces_are_told_apart():
    assert sentences("今日は良い天気です。散歩に行きます。") == ("今日は良い天気です。", "散歩に行きます。")


def test_markdown_gives_its_prose_without_code_tables_and_targets_of_links():
    prose = " ".join(sentences(MARKDOWN))
    assert "Never" not in prose
    assert "|" not in prose
    assert "example.com" not in prose
    assert "See the manual for all the details." in sentences(MARKDOWN)
    assert "A dead worker gives its jobs back." in sentences(MARKDOWN)
    assert "It is read like any other." in sentences(MARKDOWN)


def test_names_with_underscores_and_arithmetic_survive_the_removal_of_emphasis():
    assert sentences("Call snake_case_name with 2 * 3 * 4 and __all__ of **it**.") == (
        "Call snake_case_name with 2 * 3 * 4 and all of it.",
    )


def test_words_keep_apostrophes_hyphens_and_letters_of_every_script():
    assert words("Don't re-use Straße 12, Привет!") == ("Don't", "re-use", "Straße", "12", "Привет")


def test_key_terms_leave_out_stop_words_and_put_repeated_pairs_first():
    text = "The message broker is down. A message broker keeps messages. Restart the message broker and the worker."
    assert key_terms(text, 1) == ("message broker",)
    assert not {"the", "is", "and", "a"} & {term.lower() for term in key_terms(text)}


def test_key_terms_are_written_as_in_the_text():
    assert key_terms(GERMAN, 1) == ("Werften",)


def test_a_summary_is_sentences_of_the_text_in_their_order():
    chosen = summary(MARKDOWN, 2)
    found = [sentence for sentence in sentences(MARKDOWN) if sentence in chosen]
    assert chosen == " ".join(found)
    assert len(found) == 2


def test_a_summary_of_no_sentences_or_of_no_text_is_empty():
    assert summary(MARKDOWN, 0) == summary("", 3) == summary("\n \n", 3) == ""


def test_a_summary_says_nothing_twice():
    assert summary("The sea is wide and blue. " * 5, 3) == "The sea is wide and blue."


def test_a_text_without_sentences_is_cut_off_in_its_summary():
    assert len(summary("word " * 10_000)) <= 400


def test_equal_vocabularies_are_similar_and_foreign_ones_are_not():
    same, other = compare(GERMAN, GERMAN), compare(GERMAN, MARKDOWN)
    assert same.similarity == 1.0
    assert same.only_first == same.only_second == ()
    assert other.similarity < 0.1
    assert "Werften" in other.only_first
    assert "jobs" in other.only_second


def test_comparing_with_nothing_finds_nothing():
    assert compare("", "").similarity == 0.0
    assert compare(GERMAN, "").shared == ()


def test_statistics_count_and_guess_the_language():
    of_german, of_english = statistics(GERMAN), statistics(MARKDOWN)
    assert (of_german.sentences, of_german.paragraphs, of_german.language) == (4, 1, "de")
    assert of_german.longest_sentence.startswith("Er beschreibt")
    assert of_german.longest_sentence_words == 10
    assert of_english.language == "en"
    assert of_german.reading_seconds > 0


def test_short_words_and_sentences_read_more_easily():
    hard = "Notwithstanding organisational complications, administrations universally prioritise regulation."
    assert statistics("The cat sat. The dog ran.").reading_ease > statistics(hard).reading_ease


def test_statistics_of_nothing_are_zero():
    nothing = statistics("")
    assert (nothing.words, nothing.sentences, nothing.reading_ease, nothing.longest_sentence) == (0, 0, 0.0, "")


@pytest.mark.parametrize(("text", "limit", "short"), [
    ("one two three", 13, "one two three"),
    ("one two three", 9, "one two…"),
    ("abcdefgh", 4, "abc…"),
    ("", 0, ""),
])  # fmt: skip
def test_shortening_cuts_between_words_where_it_can(text: str, limit: int, short: str):
    assert shorten(text, limit) == short


@pytest.mark.parametrize(
    "text", ["\ud800 half a pair.", "🙂 " * 50, "\x00\x01", "a\u0301 e\u0301.", "…", "'", "# ", "```"]
)
def test_odd_text_is_taken_as_it_is(text: str):
    assert statistics(text).words >= len(key_terms(text))
    assert len(summary(text)) <= len(text)
    assert compare(text, text).only_first == ()


@pytest.mark.parametrize(
    "text", [".", "a", "[", "<a ", "*a ", "`", "a_", "! ", "[a](", '."', "# ", "- ", "> ", "\n", "一二。"], ids=repr
)
def test_a_megabyte_of_anything_takes_time_in_proportion_to_its_size(text: str):
    # Time of the processor, since what may go wrong is inside of regular expressions: 20 times as much text takes 20 times
    # as long, or 400 times if it is searched again from each of its characters.
    small, large = (text * (size // len(text)) for size in (50_000, 1_000_000))
    assert seconds_for(large) < 5 + 100 * seconds_for(small)


def test_prose_is_summarized_in_steps_in_proportion_to_its_size():
    small, large = (MARKDOWN * (size // len(MARKDOWN)) for size in (10_000, 100_000))
    assert lines_run(lambda: summary(large)) < 15 * lines_run(lambda: summary(small))


def test_the_provider_answers_with_a_summary_of_the_last_user_message_and_costs_nothing():
    asked = LLMRequest(
        model="offline",
        messages=(
            Message(role="user", content="The first question is about rivers."),
            Message(role="assistant", content="Rivers flow."),
            Message(role="user", content=GERMAN),
        ),
    )
    answer = OfflineProvider().invoke(asked)
    assert answer.text == summary(GERMAN)
    assert (answer.model, answer.stop_reason, answer.usage.model_calls) == ("offline", "end_turn", 0)


def test_the_provider_refuses_structured_output_and_says_what_to_set():
    with pytest.raises(ModelCapabilityError, match="OPENAI_API_KEY or ANTHROPIC_API_KEY") as caught:
        OfflineProvider().invoke(ask("text").model_copy(update={"output_schema": {"type": "object"}}))
    assert not caught.value.retryable


def seconds_for(text: str) -> float:
    start = thread_time()
    summary(text)
    return thread_time() - start
