"""Each clerk alone: what they answer, and to whom they hand over."""

from pathlib import Path

import pytest
from worker.testing import run_agent


def asked(agent: str, text: str, message=None):
    others = {name: "" for name in ("orders", "refunds", "repairs") if name != agent}
    return run_agent(agent, {"task": {"text": text}, "message": message, "agents": others})


def test_orders_knows_where_a_parcel_is():
    assert asked("orders", "Where is order 1003?").result.text == (
        "Your order 1003 (tea pot, 25.00 euros) is on its way."
    )


def test_orders_asks_for_the_number_of_an_order_that_nobody_knows():
    assert "Its number" in asked("orders", "Where is my order 9999?").result.text


def test_who_wants_money_back_is_sent_to_refunds_with_the_order():
    turn = asked("orders", "I want my money back for order 1001.")
    assert turn.handoff == "refunds"
    assert '"euros": 39.0' in turn.message


def test_small_sums_are_paid_back_without_asking():
    turn = asked("refunds", "...", '{"order": "1001", "item": "kettle", "euros": 39.0}')
    assert turn.result.text == "You get back 39.00 euros for the kettle."
    assert Path("refunds.txt").read_text() == "1001 39.00\n"


@pytest.mark.parametrize(("said", "told"), [("yes", "You get back 480.00 euros"), ("no", "We cannot take back")])
def test_a_person_decides_about_large_sums(said, told):
    question = "Refund 480.00 euros for order 1002 (espresso machine)?"
    order = '{"order": "1002", "item": "espresso machine", "euros": 480.0}'
    data = {"task": {"text": "..."}, "message": order}
    assert told in run_agent("refunds", data, answers={question: said}).result.text
    assert Path("refunds.txt").exists() == (said == "yes")


def test_repairs_knows_the_manuals():
    assert "vinegar" in asked("repairs", "My kettle does not switch off.").result.text
    assert "technician" in asked("repairs", "xyzzy").result.text
