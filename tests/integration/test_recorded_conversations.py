"""A conversation with a model is recorded once, over the wires of the SDKs, and replayed without a model ever after."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ModelError, ModelRefused, UsageError
from worker.agent import AsyncContext, BaseAgent, Context, File, Image, Message, Text, tool
from worker.emulator import Answer, Emulator, Match, ToolCall
from worker.testing import CassetteError, RecordedLLM, Recorder, run_agent


@tool
def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Its name.
    """
    return f"rain in {city},\nall day"


class Forecaster(BaseAgent):
    """Tell how the weather is."""

    model = "openai:gpt-5-mini"
    tools = (weather,)

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"text": ctx.llm(data["text"], system="You are brief.\nYou are exact."), "model": ctx.model}


class Several(BaseAgent):
    """Ask several things at the same time."""

    async def execute(self, data: list[str], ctx: AsyncContext) -> list[str]:
        return await ctx.gather(*(ctx.llm(text) for text in data))


class InThreads(BaseAgent):
    """Ask several things at the same time, in threads."""

    def execute(self, data: list[str], ctx: Context) -> list[str]:
        return ctx.gather(*((lambda asked=text: ctx.llm(asked)) for text in data))


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator() as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        asks = Answer(tool_calls=(ToolCall(name="weather", arguments={"city": "Oslo"}),))
        running.reply_to(Match(text="Oslo", turn=0), [asks], repeat=True)
        running.reply_to(Match(text="Oslo", turn=1), [Answer(text="Rain.\nTake an umbrella.")], repeat=True)
        yield running


def forget(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> None:
    """Leave no way to a model."""
    for name in emulator.env:
        monkeypatch.delenv(name)
    emulator.close()


ASK = {"text": "How is it in Oslo?"}


@pytest.mark.parametrize("model", ["openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "deepseek:deepseek-chat"])
def test_a_conversation_with_tools_is_recorded_over_the_real_sdk_and_replayed_without_a_model(
    model: str, tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "any-key-of-mine")
    monkeypatch.setenv("DEEPSEEK_BASE_URL", emulator.url)
    with RecordedLLM(tmp_path / "a/weather.yaml", model=model, record=True) as real:
        said = run_agent(Forecaster, ASK, model=real)
    assert len(emulator.calls) == 2
    assert said == {"text": "Rain.\nTake an umbrella.", "model": model}
    forget(monkeypatch, emulator)
    recorder = Recorder()
    with RecordedLLM(tmp_path / "a/weather.yaml") as recorded:
        assert run_agent(Forecaster, ASK, model=recorded, recorder=recorder) == said
    recorder.assert_tools_called("weather")
    assert recorder.usage.input_tokens > 0
    assert recorder.cost_usd() > 0


def test_a_cassette_is_read_by_people_and_the_same_each_time(tmp_path: Path, emulator: Emulator) -> None:
    texts: list[str] = []
    for number in range(2):
        path = tmp_path / f"{number}.yaml"
        with RecordedLLM(path, record=True, again="pytest --nightfleet-record") as real:
            run_agent(Forecaster, ASK, model=real)
        texts.append(re.sub(r"id: call_\w+|call_id: call_\w+", "ID", path.read_text()))
    assert texts[0] == texts[1]
    assert texts[0].startswith(
        "# A recorded conversation. To record it again: pytest --nightfleet-record\nversion: 1\n"
    )
    assert "    - &message2\n      role: user\n      content: How is it in Oslo?\n" in texts[0]
    assert "      content: |-\n        You are brief.\n        You are exact.\n" in texts[0]
    assert "    text: |-\n      Rain.\n      Take an umbrella.\n" in texts[0]
    assert texts[0].count("Tell the weather.") == 1


@pytest.mark.parametrize("agent", [Several, InThreads])
def test_calls_made_at_the_same_time_are_recorded_in_the_order_of_the_code_and_answered_by_their_questions(
    agent: type[BaseAgent], tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, texts = tmp_path / "several.yaml", [f"Ships {number}." for number in range(12)]
    with RecordedLLM(path, model="openai:gpt-5-mini", record=True) as real:
        said = run_agent(agent, texts, model=real)
    asked = re.findall(r"content: (Ships \d+\.)", path.read_text())
    assert asked == texts
    forget(monkeypatch, emulator)
    with RecordedLLM(path) as recorded:
        assert run_agent(agent, texts[::-1], model=recorded) == said[::-1]


def test_equal_questions_get_their_answers_in_the_order_in_which_they_were_given(
    tmp_path: Path, emulator: Emulator
) -> None:
    emulator.script([{"text": "first"}, {"text": "second"}])
    path = tmp_path / "equal.yaml"
    for record in (True, False):
        with RecordedLLM(path, model="openai:gpt-5-mini", record=record) as model:
            assert run_agent(Several, ["Why?"], model=model) == ["first"]
            assert run_agent(Several, ["Why?"], model=model) == ["second"]


def test_an_error_of_the_model_is_recorded_and_raised_again(tmp_path: Path, emulator: Emulator) -> None:
    class Patient(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> str:
            try:
                return ctx.llm("Why?")
            except ModelError as error:
                return f"{type(error).__name__} {error.retryable} {ctx.llm('And now?')}"

    emulator.script(["rate_limit"])
    path = tmp_path / "error.yaml"
    said: list[str] = []
    for record in (True, False):
        with RecordedLLM(path, model="openai:gpt-5-mini", record=record) as model:
            said.append(run_agent(Patient, {}, model=model))
    assert said == ["ModelRateLimited True [emulator] And now?"] * 2


# What does not fit ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recorded conversation of two questions; there is no model any more."""
    with RecordedLLM(tmp_path / "two.yaml", model="openai:gpt-5-mini", record=True) as real:
        run_agent(Several, ["Are there ships?", "Are there pilots?"], model=real)
    forget(monkeypatch, emulator)
    return tmp_path / "two.yaml"


def test_another_question_is_an_error_that_shows_what_differs_and_how_to_record_again(path: Path) -> None:
    recorded = RecordedLLM(path, again="pytest --nightfleet-record tests/x.py::test_y")
    with pytest.raises(CassetteError) as caught:
        run_agent(Several, ["Are there harbours?", "Are there pilots?"], model=recorded)
    said = str(caught.value)
    assert "two.yaml has no answer for this question of several. Record it again: pytest --nightfleet-record" in said
    assert '-   "content": "Are there ships?"' in said
    assert '+   "content": "Are there harbours?"' in said


def test_a_question_too_many_is_an_error(path: Path) -> None:
    recorded = RecordedLLM(path)
    with pytest.raises(CassetteError, match=r"no answer left for this question of several.*NIGHTFLEET_TEST_RECORD=1"):
        run_agent(Several, ["Are there ships?", "Are there ships?"], model=recorded)


def test_an_answer_that_nobody_has_asked_for_is_an_error_at_the_end(path: Path) -> None:
    with (
        pytest.raises(
            CassetteError, match=r"1 answers that nobody has asked for\..*\n  several: 'Are there pilots\?'$"
        ),
        RecordedLLM(path) as recorded,
    ):
        run_agent(Several, ["Are there ships?"], model=recorded)


def test_an_agent_that_swallows_the_error_does_not_hide_it(path: Path) -> None:
    class Careless(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> str:
            try:
                return ctx.llm("Anything?")
            except BaseException:  # noqa: BLE001
                return "fine"

    with pytest.raises(CassetteError, match="no answer for this question of careless"), RecordedLLM(path) as recorded:
        run_agent(Careless, {}, model=recorded)


def test_a_test_that_fails_is_not_told_of_what_it_did_not_ask(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RecordedLLM(path):
        _ = 1 // 0


def test_a_missing_or_broken_cassette_says_how_to_record_it(tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match=r"nothing is recorded at .*no\.yaml\. Record it: again"):
        run_agent(Several, ["?"], model=RecordedLLM(tmp_path / "no.yaml", again="again"))
    for text in ("calls: 5", "version: 2", "{", "calls: [{model: m}]"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(CassetteError, match=r"(?s)bad\.yaml is no recorded conversation: .*Record it again: again"):
            run_agent(Several, ["?"], model=RecordedLLM(tmp_path / "bad.yaml", again="again"))


def test_recording_without_a_model_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model is named; say model=\.\.\., or set NIGHTFLEET_MODEL"):
        run_agent(Several, ["?"], model=RecordedLLM(tmp_path / "x.yaml", record=True))
    with pytest.raises(ModelRefused, match="OPENAI_API_KEY"):
        run_agent(Forecaster, ASK, model=RecordedLLM(tmp_path / "x.yaml", record=True))
    assert not (tmp_path / "x.yaml").exists()


def test_a_variable_records_what_is_not_run_by_pytest(
    tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTFLEET_TEST_RECORD", "1")
    with RecordedLLM(tmp_path / "x.yaml") as real:
        run_agent(Forecaster, ASK, model=real)
    assert (tmp_path / "x.yaml").exists()


# Secrets --------------------------------------------------------------------------------------------------------------

KEY = "sk-proj-" + "Ab3" * 12


def test_secrets_are_masked_in_questions_and_answers_and_the_replay_still_fits(
    tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "tiger-lily-77")
    emulator.script([{"text": f"You said tiger-lily-77, {KEY} and order 12345."}])
    path, asked = tmp_path / "secret.yaml", f"tiger-lily-77, {KEY} and order 12345"
    with RecordedLLM(path, model="openai:gpt-5-mini", record=True, scrub=[r"order \d+"]) as real:
        assert KEY in run_agent(Several, [asked], model=real)[0]
    text = path.read_text()
    assert "tiger-lily" not in text
    assert "Ab3" not in text
    assert "12345" not in text
    assert emulator.env["OPENAI_API_KEY"] not in text
    forget(monkeypatch, emulator)
    monkeypatch.setenv("SHOP_TOKEN", "another-secret")
    with RecordedLLM(path, scrub=[r"order \d+"]) as recorded:
        other = asked.replace("tiger-lily-77", "another-secret").replace("12345", "999")
        assert run_agent(Several, [other], model=recorded) == ["You said ***, sk-*** and ***."]


LOOK = {
    "a key of AWS": "AKIA" + "ABCDEFGH12345678",
    "a key of Google": "AIza" + "Sy" * 17,
    "a token of GitHub": "ghp_" + "a1" * 18,
    "a token of Slack": "xoxb-" + "1234567890-abc",
    "a JSON Web Token": "eyJ" + "hbGciOiJI." + "eyJ" + "zdWIiOiIx.c2lnbmF0dXJl",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a bearer token": "Bearer " + "abcdefghij0123456789",
    "a value that is named a secret": "api_key=" + "abcdefghij0123456789",
}


@pytest.mark.parametrize("kind", LOOK)
def test_what_still_looks_like_a_key_is_never_written_nor_read(kind: str, tmp_path: Path, emulator: Emulator) -> None:
    path = tmp_path / "refused.yaml"
    with (
        pytest.raises(
            CassetteError, match=rf"line \d+ of the cassette has what looks like {kind}, so .*`scrub`"
        ) as caught,
        RecordedLLM(path, model="openai:gpt-5-mini", record=True) as real,
    ):
        run_agent(Several, [f"Look: {LOOK[kind]} there"], model=real)
    assert LOOK[kind] not in str(caught.value)
    assert not path.exists()
    path.write_text(f"version: 1\ncalls: []\n# {LOOK[kind]}\n")
    with pytest.raises(CassetteError, match=f"line 3 of the cassette has what looks like {kind}"):
        run_agent(Several, ["?"], model=RecordedLLM(path))


def test_images_and_files_are_recorded_by_a_digest_and_told_apart(
    tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Looking(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> str:
            parts = (Text(text="What is it?"), Image.of(data["image"].encode()), File.of(b"%PDF"))
            return ctx.llm([Message(role="user", content=parts)])

    path = tmp_path / "image.yaml"
    with RecordedLLM(path, model="openai:gpt-5-mini", record=True) as real:
        said = run_agent(Looking, {"image": "ship" * 1000}, model=real)
    assert len(path.read_text()) < 2_000
    forget(monkeypatch, emulator)
    with RecordedLLM(path) as recorded:
        assert run_agent(Looking, {"image": "ship" * 1000}, model=recorded) == said
    with pytest.raises(CassetteError, match="no answer for this question of looking"):
        run_agent(Looking, {"image": "boat"}, model=RecordedLLM(path))
