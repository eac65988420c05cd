"""Vectors that see every change of a machine; what no vector can see is listed."""

from __future__ import annotations

import pytest

from mutation_score import score

# A run as long as the only step, a floor below every exponent, and bits of words that no operand has say nothing; and
# products of these elements reach neither 2^128 nor, as far as fp8 goes, -126.
SAME = {"run: 0 -> 1", "exponent_floor: -1000 -> -999", "dropped_bits: 0 -> 1"}
FP8 = {"zero_products: absent -> lowest", "product_overflow: True -> False", "overflow: infinity -> saturate"}


@pytest.mark.parametrize(
    ("name", "unseen"),
    [("cdna2_16", set()), ("mxdotp", set()), ("hbfp8_saturate", set()), ("cdna3_16", SAME), ("cdna3_fp8", SAME | FP8)],
)
def test_changing_any_field_of_a_machine_changes_a_bit(name: str, unseen: set[str]) -> None:
    found = score(name)
    assert set(found.survivors) <= unseen
    assert found.seen >= 5
