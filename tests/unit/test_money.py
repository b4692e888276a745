"""Money is whole nanodollars inside and exact decimal dollars outside."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator.contracts.money import plain_usd, show_usd, to_nanousd, to_usd
from orchestrator.contracts.usage import Usage


@pytest.mark.parametrize(("usd", "nanousd"), [
    (Decimal("0.25"), 250_000_000),
    (3, 3_000_000_000),
    (Decimal("0.0000000005"), 0),
    (Decimal("0.0000000015"), 2),
    (Decimal("0.0000000025"), 2),
    (Decimal("-0.000000001"), -1),
])  # fmt: skip
def test_dollars_are_rounded_half_to_even_to_a_nanodollar(usd: Decimal | int, nanousd: int):
    assert to_nanousd(usd) == nanousd


def test_what_must_not_be_too_small_is_rounded_up():
    assert to_nanousd(Decimal("0.0000000001"), up=True) == 1
    assert to_nanousd(Decimal(0), up=True) == 0


@pytest.mark.parametrize("usd", [Decimal("NaN"), Decimal("Infinity")])
def test_what_is_no_amount_is_refused(usd: Decimal):
    with pytest.raises(ValueError, match="no amount of money"):
        to_nanousd(usd)


@pytest.mark.parametrize("nanousd", [0, 1, 10, 125_000, 999_999_999, 10**9, 10**11, 123_456_789_012_345_678, -5])
def test_what_goes_out_as_dollars_comes_back_the_same(nanousd: int):
    assert to_nanousd(to_usd(nanousd)) == nanousd
    assert to_nanousd(Decimal(plain_usd(nanousd))) == nanousd
    assert "E" not in plain_usd(nanousd)


@pytest.mark.parametrize(("nanousd", "plain", "shown"), [
    (0, "0", "$0.00"),
    (10**11, "100", "$100.00"),
    (1_234_567_890_000_000, "1234567.89", "$1,234,567.89"),
    (12_345_678, "0.012345678", "$0.01"),
    (125_000, "0.000125", "$0.00012"),
    (1, "0.000000001", "$0.0000000010"),
    (-2_500_000_000, "-2.5", "-$2.50"),
])  # fmt: skip
def test_documents_hold_all_digits_and_people_those_that_count(nanousd: int, plain: str, shown: str):
    assert (plain_usd(nanousd), show_usd(nanousd)) == (plain, shown)


def test_usage_adds_up_field_by_field():
    one = Usage.model_validate({name: 3**index for index, name in enumerate(Usage.model_fields)})
    assert (one + one).stored() == {name: 2 * value for name, value in one.stored().items()}
    assert one.stored().keys() == Usage.model_fields.keys()


def test_usage_as_json_says_dollars_and_is_read_back():
    usage = Usage(model_calls=1, cost_nanousd=125_000)
    assert usage.model_dump(mode="json")["usd"] == "0.000125"
    assert Usage.model_validate_json(usage.model_dump_json()) == usage


def test_what_tables_keep_of_usage_has_no_zeros_and_nothing_twice():
    assert Usage(model_calls=1, cost_nanousd=3).stored() == {"model_calls": 1, "cost_nanousd": 3}
