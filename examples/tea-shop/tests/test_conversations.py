"""The agents on what a model has answered once: `pytest --nightfleet-record` asks it again."""


def test_a_quote(run_agent, recorded_llm, recorder):
    quote = run_agent(
        "quoter", {"text": "I am customer 4711. What do twelve tins of Earl Grey cost?"}, model=recorded_llm
    )
    assert (quote.tins, quote.euros) == (12, "54.00")
    recorder.assert_tools_in_order("look_up_price", "calculate")


def test_a_letter(run_agent, recorded_llm):
    letter = run_agent("correspondent", {"tea": "earl grey", "tins": 12, "euros": "54.00"}, model=recorded_llm)
    assert "54.00" in letter.text
