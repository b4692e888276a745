"""The emulator's parts that need no server: requests read, replies told, latencies, prices, cached prompts, setups."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest

from orchestrator.clock import chance
from worker.emulator import Answer, Call, Fault, Latency, Match, Price, RateLimit, Rule, Setup, ToolCall
from worker.emulator.answers import compose, own_answer
from worker.emulator.asked import API, Asked, read
from worker.emulator.bill import Bill
from worker.emulator.faults import KINDS, choose, to_fault
from worker.emulator.latency import to_latency
from worker.emulator.prompts import PromptCache
from worker.emulator.script import Script, to_told
from worker.emulator.setup import read_setup
from worker.emulator.streams import Pace, deliver
from worker.emulator.tokens import Tokenizer, Tokens, pieces
from worker.emulator.wire.embeddings import embed
from worker.emulator.wire.events import Event

WORDS = Tokenizer(bytes_per_token=4)


def asks(*said: str, api: API = "chat", model: str = "m", **more: Any) -> Asked:
    """Ask with the turns of user and model in turn."""
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    return read(api, {"model": model, "input" if api == "responses" else "messages": turns, **more}, key="key")


# Requests -------------------------------------------------------------------------------------------------------------


def test_a_conversation_is_the_same_by_whichever_api_it_comes() -> None:
    asked = "Is it raining?"
    chat = read("chat", {"model": "m", "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]}, key="key")  # fmt: skip
    responses = read("responses", {"model": "m", "instructions": "Be brief.", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": asked}]},
        {"type": "reasoning", "id": "2"},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "rain"},
    ]}, key="key")  # fmt: skip
    messages = read("messages", {"model": "m", "system": "Be brief.", "messages": [
        {"role": "user", "content": [{"type": "text", "text": asked}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "rain"}]},
    ]}, key="key")  # fmt: skip
    for each in (chat, responses, messages):
        assert (each.system_text, each.user_text, each.turn) == ("Be brief.", asked, 1)
        assert (each.turns[-1].who, each.turns[-1].text) == ("tool", "rain")


def test_a_key_is_shown_by_its_fingerprint_alone() -> None:
    asked = asks("hello")
    assert "'key'" not in repr(asked)
    assert asked.key_alias == "2c70e12b"


@pytest.mark.parametrize(("body", "said"), [
    ([], "no JSON object"),
    ({"messages": [{"role": "user", "content": "hi"}]}, "names no model"),
    ({"model": "m"}, "says nothing"),
])  # fmt: skip
def test_what_no_api_would_take_is_refused(body: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read("chat", body, key="key")


# Replies --------------------------------------------------------------------------------------------------------------


def test_numbers_of_tokens_that_are_told_are_the_ones_that_count() -> None:
    told = Answer(text="x", input_tokens=500, cached_input_tokens=400, output_tokens=70, reasoning_tokens=50)
    tokens = compose(asks("hello"), told, Tokens(input=3), WORDS).tokens
    assert tokens == Tokens(input=500, cached=400, output=70, reasoning=50)


def test_thinking_takes_its_share_of_the_limit() -> None:
    reply = compose(asks("hello", max_tokens=10), Answer(text="x" * 100, reasoning_tokens=6), Tokens(), WORDS)
    assert (len(reply.text), reply.tokens.output, reply.ending) == (16, 10, "length")


def test_a_call_of_a_tool_that_does_not_fit_is_none() -> None:
    told = Answer(tool_calls=(ToolCall(name="f", arguments={"text": "x" * 100}),))
    reply = compose(asks("hello", max_tokens=5), told, Tokens(), WORDS)
    assert (reply.tool_calls, reply.ending, reply.tokens.output) == ((), "length", 5)


def test_a_text_is_cut_between_characters() -> None:
    assert Tokenizer(bytes_per_token=3).cut("aö一b", 1) == "aö"
    assert Tokenizer(bytes_per_token=3).cut("a一b", 1) == "a"


def test_the_answer_to_a_long_text_takes_no_longer_to_find() -> None:
    start = own_answer(asks("Rivers are long. " * 40)).text
    assert own_answer(asks("Rivers are long. " * 40 + "Seas are deep. " * 100_000)).text.startswith(start[:20])


@pytest.mark.parametrize("text", ["", "one", " two  words\n", "一二三四五六七八九十一二三四五", "x" * 100])
def test_the_pieces_of_a_stream_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(len(piece.strip()) <= 12 for piece in pieces(text))


def test_an_embedding_has_length_one_even_if_its_words_cancel_each_other_out() -> None:
    for text in ("", "one", "one two three four", "a b"):
        assert sum(value * value for value in embed(text, 1)) == pytest.approx(1)
        assert sum(value * value for value in embed(text, 3)) == pytest.approx(1)


# Scripts and faults ---------------------------------------------------------------------------------------------------


def test_replies_come_in_order_to_the_requests_that_match() -> None:
    script = Script([
        Rule(when=Match(model="big-*"), replies=(Fault(kind="overloaded"),)),
        Rule(when=Match(text="^rain"), replies=(Answer(text="wet"), Answer(text="dry"))),
        Rule(replies=(Answer(text="any"),)),
    ])  # fmt: skip
    rain, other = asks("rain?"), asks("sun?", model="big-1")
    assert script.take(rain) == Answer(text="wet")
    assert script.take(other) == Fault(kind="overloaded")
    assert [script.take(rain) for _ in range(3)] == [Answer(text="dry"), Answer(text="any"), None]


def test_the_last_reply_repeats_if_it_is_told_to() -> None:
    script = Script([Rule(replies=(Fault(kind="stall"), Answer(text="again")), repeat=True)])
    taken = [script.take(asks("hello")) for _ in range(4)]
    assert taken == [Fault(kind="stall"), *[Answer(text="again")] * 3]


def test_the_steps_of_an_agent_are_told_apart_by_their_turn() -> None:
    script = Script([
        Rule(when=Match(turn=1, system="careful", api="chat"), replies=(Answer(text="second"),), repeat=True),
        Rule(when=Match(turn=0), replies=(Answer(text="first"),), repeat=True),
    ])  # fmt: skip
    system = {"role": "system", "content": "Be careful."}
    second = read("chat", {"model": "m", "messages": [system, *({"role": "assistant", "content": "a"},)]}, key="key")
    assert [script.take(each) for each in (second, asks("q"), asks("q", "a"), second)] == [
        Answer(text="second"),
        Answer(text="first"),
        None,
        Answer(text="second"),
    ]


@pytest.mark.parametrize("value", ["nonsense", "stall@x", {"kind": "stall", "afer": 1}, {"txt": "x"}])
def test_a_reply_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="validation error"):
        to_told(value)


def test_a_pattern_that_is_no_regular_expression_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        Match(text="(")


def test_a_fault_is_the_scripts_else_the_headers_else_the_models() -> None:
    headers = {"x-emulator-fault": "auth@2"}
    assert choose(Fault(kind="ok"), headers, "fault-quota").kind == "ok"
    assert choose(None, headers, "fault-quota") == Fault(kind="auth", after=2)
    assert choose(None, {}, "fault-quota").kind == "quota"
    assert choose(None, {}, "m").kind == "ok"
    assert [to_fault(kind).kind for kind in KINDS] == list(KINDS)


# Latency --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "latency"), [
    ("0.5", Latency(low=0.5)),
    ("uniform:0.2:0.8", Latency(shape="uniform", low=0.2, high=0.8)),
    ("lognormal:0.5:4", Latency(shape="lognormal", low=0.5, high=4)),
    ("exponential:2", Latency(shape="exponential", low=2)),
])  # fmt: skip
def test_a_latency_is_read_as_it_is_written(text: str, latency: Latency) -> None:
    assert to_latency(text) == latency


@pytest.mark.parametrize("text", ["fast", "uniform:1", "normal:1:2", "-1", "uniform:2:1", "lognormal:0:1", "nan"])
def test_a_latency_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write SECONDS, uniform|validation error"):
        to_latency(text)


def test_a_lognormal_latency_has_the_median_and_the_percentile_that_it_was_given() -> None:
    latency, numbers = to_latency("lognormal:0.5:4"), chance("seed")
    cuts = quantiles((latency.first(numbers) for _ in range(20_000)), n=100)
    assert cuts[49] == pytest.approx(0.5, rel=0.05)
    assert cuts[98] == pytest.approx(4, rel=0.15)


def test_the_same_seed_draws_the_same_latencies() -> None:
    for text in ("uniform:0.2:0.8", "lognormal:0.5:4", "exponential:2"):
        one, two = chance("seed"), chance("seed")
        drawn = [to_latency(text).first(one) for _ in range(9)]
        assert drawn == [to_latency(text).first(two) for _ in range(9)]
        assert len(set(drawn)) == 9


def test_pieces_of_a_stream_come_as_fast_as_tokens_do_and_together_if_those_take_no_time() -> None:
    events = [Event("a", {}), Event("b", {}, delta="x" * 8), Event("c", {})]
    paced = deliver(events, Fault(kind="ok"), None, Pace(Latency(tokens_per_second=20), WORDS))
    assert [step.pause_seconds for step in paced.steps] == [0, 0.1, 0]
    at_once = deliver(events, Fault(kind="ok"), None, Pace(Latency(), WORDS))
    assert [(step.pause_seconds, step.content) for step in at_once.steps] == [
        (0, b"".join(event.encode() for event in events))
    ]


# Money ----------------------------------------------------------------------------------------------------------------


def test_a_call_costs_what_its_tokens_cost_rounded_once_half_to_even() -> None:
    price = Price(input=Decimal("2.5"), output=Decimal(10), cached_input=Decimal("0.25"), cache_write=Decimal("3.125"))
    tokens = Tokens(input=1000, cached=600, cache_written=100, output=50)
    assert price.cost(tokens) == 300 * 2500 + 600 * 250 + 100 * 3125 + 50 * 10_000
    halves = Price(input=Decimal("0.0005"))
    assert [halves.cost(Tokens(input=count)) for count in (1, 2, 3, 5)] == [0, 1, 2, 2]


def test_what_the_cache_has_no_price_for_costs_as_other_input_does() -> None:
    assert Price(input=Decimal(1)).cost(Tokens(input=10, cached=4, cache_written=3)) == 10_000


def test_the_first_price_that_matches_counts_and_calls_without_one_are_told_apart() -> None:
    bill = Bill([Price(model="big-*", input=Decimal(2)), Price(model="big", input=Decimal(1))])
    for model, status in (("big-1", 200), ("big", 200), ("small", 200), ("small", 500)):
        line = Call(request_id="r", api="chat", model=model, key="k", fingerprint="f", status=status, fault="ok")
        bill.enter(line, Tokens(input=5))
    assert [call.cost_nanousd for call in bill.calls] == [10_000, 5_000, 0, 0]
    total = bill.total()
    assert (total.cost_nanousd, total.unpriced, total.failed, total.input_tokens) == (15_000, 1, 1, 20)


class FakeClock:
    seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


def test_openai_reads_a_prompt_that_it_knows_from_its_cache_in_steps_of_128_tokens() -> None:
    clock = FakeClock()
    cache = PromptCache(clock, WORDS)
    long = "x" * 4 * 1500
    assert cache.count(asks(long)) == Tokens(input=1500)
    again = cache.count(asks(long, "a", "more"))
    assert (again.cached, again.cache_written) == (1408, 0)
    assert cache.count(asks("y" + long[1:])).cached == 0
    assert cache.count(asks(long, model="other")).cached == 0
    assert cache.count(asks("short")).cached == cache.count(asks("short")).cached == 0
    clock.seconds = 301.0
    assert cache.count(asks(long)).cached == 0


def test_anthropic_caches_what_is_marked_and_counts_the_writing() -> None:
    cache = PromptCache(FakeClock(), WORDS)

    def ask(question: str, *, mark: bool = True) -> Asked:
        marked = {"cache_control": {"type": "ephemeral"}} if mark else {}
        system = [{"type": "text", "text": "x" * 8000, **marked}]
        body = {"model": "m", "system": system, "messages": [{"role": "user", "content": question}]}
        return read("messages", body, key="key")

    first, second = cache.count(ask("one?")), cache.count(ask("another?"))
    assert (first.cached, first.cache_written) == (0, 2000)
    assert (second.cached, second.cache_written, second.uncached) == (2000, 0, second.input - 2000)
    assert cache.count(ask("third?", mark=False)).cached == 0


# Setups ---------------------------------------------------------------------------------------------------------------


def test_a_setup_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "emulator.toml"
    file.write_text("""
        latency = "lognormal:0.5:4"
        [[prices]]
        model = "gpt-*"
        input = "2.5"
        output = 10
        [[limits]]
        requests = 600
        burst_seconds = 1
        [[rules]]
        when = { text = "weather", turn = 0 }
        replies = ["stall@2", { tool_calls = [{ name = "weather", arguments = { city = "Oslo" } }] }]
    """)
    assert read_setup(file) == Setup(
        latency=Latency(shape="lognormal", low=0.5, high=4),
        prices=(Price(model="gpt-*", input=Decimal("2.5"), output=Decimal(10)),),
        limits=(RateLimit(requests=600, burst_seconds=1),),
        rules=(
            Rule(
                when=Match(text="weather", turn=0),
                replies=(
                    Fault(kind="stall", after=2),
                    Answer(tool_calls=(ToolCall(name="weather", arguments={"city": "Oslo"}),)),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(("text", "said"), [
    ("[[limits]]\nrequests = 1\n[[limits]]\nrequest = 1", r"limits\[2\]\.request: Extra inputs"),
    ("[[prices]]\ninput = -1", r"prices\[1\]\.input: "),
    ("latency = 'fast'", r"latency: .*write SECONDS"),
    ("latency = ", "Invalid value"),
])  # fmt: skip
def test_a_mistake_in_a_setup_names_the_file_and_the_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "emulator.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_setup(file)
    assert str(file) in str(caught.value)


def test_a_setup_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.toml: No such file"):
        read_setup(tmp_path / "none.toml")
