import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from worker.agent import BaseAgent, Context, Search, ToolError
from worker.teams import HandoffTurn, Turn

#: Refunds up to this are made without asking a person.
FREELY_EUROS = 50


class Reply(BaseModel):
    """What the customer is told, and by whom."""

    by: str
    text: str


class Orders(BaseAgent):
    """Know orders: what was bought, and whether it was delivered. Whoever wants money back is sent on."""

    def execute(self, data: HandoffTurn, ctx: Context) -> Turn:
        text = data.task["text"]
        number, order = ctx.step(find_order, text)
        if order is None:
            return answer("orders", "Which order is it about? Its number has four digits.")
        about = f"order {number} ({order['item']}, {order['euros']:.2f} euros)"
        if re.search(r"\b(refund|money back|return)\b", text, re.IGNORECASE):
            return Turn(handoff="refunds", message=json.dumps({"order": number, **order}))
        if data.task.get("about") == "technical" and "repairs" in data.agents and data.message is None:
            return Turn(handoff="repairs", message=order["item"])
        state = "was delivered" if order["delivered"] else "is on its way"
        return answer("orders", f"Your {about} {state}.")


class Refunds(BaseAgent):
    """Give money back; larger sums when a person has agreed."""

    def execute(self, data: HandoffTurn, ctx: Context) -> Turn:
        if not data.message:
            return Turn(handoff="orders", message="Which order is it about?")
        order = json.loads(data.message)
        sum_ = f"{order['euros']:.2f} euros"
        if order["euros"] > FREELY_EUROS:
            question = f"Refund {sum_} for order {order['order']} ({order['item']})?"
            if ctx.ask(question, choices=("yes", "no"), about=order) == "no":
                return answer("refunds", f"We cannot take back the {order['item']}; a technician will call you.")
        ctx.step(pay, order["order"], order["euros"])
        return answer("refunds", f"You get back {sum_} for the {order['item']}.")


class Repairs(BaseAgent):
    """Know from the manuals what helps when something does not work."""

    tools = (Search("manual"),)

    def execute(self, data: HandoffTurn, ctx: Context) -> Turn:
        text = data.task["text"]
        if re.search(r"\b(refund|money back)\b", text, re.IGNORECASE) and "orders" in data.agents:
            return Turn(handoff="orders", message="wants a refund")
        try:
            told = ctx.tool("search", query=f"{data.message or ''} {text}", limit=1)
        except ToolError:
            return answer("repairs", "Our manuals do not know this: a technician will call you.")
        if ctx.model != "offline":
            return answer("repairs", ctx.llm(f"{text}\n\n{told}", system="Help, by this manual and nothing else."))
        return answer("repairs", nearest(told, text))


class Reception(BaseAgent):
    """Answer what is nobody else's."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Reply:
        return Reply(by="reception", text="Thank you for your message. A person will read it tomorrow.")


def answer(by: str, text: str) -> Turn:
    return Turn(result=Reply(by=by, text=text))


def find_order(text: str) -> tuple[str, dict[str, Any] | None]:
    orders = json.loads(Path("orders.json").read_text())
    number = next((each for each in re.findall(r"\b\d{4}\b", text) if each in orders), "")
    return number, orders.get(number)


def pay(order: str, euros: float) -> None:
    """Pay back: here a line in a file."""
    with Path("refunds.txt").open("a") as ledger:
        ledger.write(f"{order} {euros:.2f}\n")


def nearest(told: str, text: str) -> str:
    """Give the paragraph of what was found that shares most words with a text."""
    wanted = {word.lower() for word in re.findall(r"\w{4,}", text)}
    paragraphs = [" ".join(each.split()) for each in told.partition("\n")[2].split("\n\n") if not each.startswith("#")]
    return max(paragraphs, key=lambda each: len(wanted & {word.lower() for word in re.findall(r"\w{4,}", each)}))
