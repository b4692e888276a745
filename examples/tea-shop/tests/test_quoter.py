"""The agents alone, on scripted replies."""

import pytest
from worker.agent import OutputInvalid
from worker.testing import AgentTestCase, call


def test_the_price_is_looked_up_before_it_is_multiplied(run_agent, mock_llm, recorder):
    mock_llm.reply(
        call("look_up_price", tea="Sencha"),
        call("calculate", expression="3 * 6.20"),
        '{"tea": "sencha", "tins": 3, "euros": "18.60"}',
    )
    assert run_agent("quoter", {"text": "Three tins of Sencha."}).euros == "18.60"
    recorder.assert_tools_called("look_up_price", "calculate")
    recorder.assert_tool_called("look_up_price", tea="Sencha")
    recorder.assert_no_tool_failed()
    recorder.assert_prompted("Look up the price")


def test_an_order_costs_less_than_a_cent(run_agent, mock_llm, recorder):
    mock_llm.when(output="Quote").always('{"tea": "sencha", "tins": 1, "euros": "6.20"}')
    run_agent("quoter", {"text": "One tin of Sencha."})
    recorder.assert_model_calls(1)
    recorder.assert_cost(at_most="0.01")


def test_the_model_is_told_of_a_tea_that_there_is_not(run_agent, mock_llm, recorder):
    mock_llm.reply(call("look_up_price", tea="coffee"), '{"tea": "none", "tins": 0, "euros": "0"}')
    run_agent("quoter", {"text": "Some coffee."})
    recorder.assert_tool_failed("look_up_price", "there are: earl grey, sencha")


def test_an_answer_that_is_no_quote_is_refused(run_agent, mock_llm):
    mock_llm.when(tool="calculate").always("Cheap!")
    with pytest.raises(OutputInvalid, match="no valid Quote"):
        run_agent("quoter", {"text": "One tin of Sencha."})


class TestCorrespondent(AgentTestCase):
    agent = "correspondent"

    def test_the_letter_names_the_price_and_is_posted(self):
        self.model.when(prompt="18.60 euros").reply("It is 18.60 euros.")
        letter = self.run_agent({"tea": "sencha", "tins": 3, "euros": "18.60"})
        self.assertIn("18.60", letter.text)
        self.recorder.assert_tool_not_called("look_up_price")
