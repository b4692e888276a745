from decimal import Decimal

from pydantic import BaseModel
from worker.agent import BaseAgent, Calculator, Context, Limits, ToolError, tool

PRICES = {"earl grey": "4.50", "sencha": "6.20"}


class Order(BaseModel):
    text: str


class Quote(BaseModel):
    tea: str
    tins: int
    euros: str


@tool
def look_up_price(tea: str) -> str:
    """Look up what a tin of tea costs, in euros.

    Args:
        tea: Its name.
    """
    if tea.lower() not in PRICES:
        raise ToolError(f"there is no {tea}; there are: {', '.join(PRICES)}")
    return PRICES[tea.lower()]


class Quoter(BaseAgent):
    """Say what an order costs."""

    model = "openai:gpt-5-mini"
    tools = (look_up_price, Calculator())
    limits = Limits(model_calls=6, usd=Decimal("0.05"))

    def execute(self, data: Order, ctx: Context) -> Quote:
        return ctx.llm(
            data.text,
            output=Quote,
            system="Say what this order costs. Look up the price, and calculate with your tool.",
        )
