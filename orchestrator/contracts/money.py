"""Money: whole nanodollars inside and in tables, decimal dollars at the surface. Nothing here is a float.

A nanodollar is small enough for any price of one token, and a 64-bit integer of them holds nine billion dollars.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

NANOUSD = 1_000_000_000
_CENT = Decimal("0.01")


def to_nanousd(usd: Decimal | int, *, up: bool = False) -> int:
    """Give dollars as nanodollars, rounded half to even, or `up`; raises `ValueError` for what is no finite amount."""
    amount = Decimal(usd) * NANOUSD
    if not amount.is_finite():
        raise ValueError(f"{usd} is no amount of money")
    return int(amount.to_integral_value(ROUND_CEILING if up else ROUND_HALF_EVEN))


def to_usd(nanousd: int) -> Decimal:
    """Give nanodollars as dollars, exactly and without trailing zeros."""
    return Decimal(plain_usd(nanousd))


def plain_usd(nanousd: int) -> str:
    """Give nanodollars as dollars in plain digits, exactly: what JSON documents hold, such as `0.000125`."""
    text = f"{Decimal(nanousd).scaleb(-9):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_usd(nanousd: int) -> str:
    """Give an amount as people read it: cents at least, two digits that count below a cent, such as `$0.00013`."""
    amount = Decimal(nanousd).scaleb(-9)
    step = _CENT if not amount or abs(amount) >= _CENT else Decimal(1).scaleb(amount.adjusted() - 1)
    rounded = amount.quantize(step, rounding=ROUND_HALF_EVEN)
    digits = f"{abs(rounded):,f}"
    return f"{'-' if rounded < 0 else ''}${digits}"
