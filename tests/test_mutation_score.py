"""Vectors see every change of every machine, but for those of which the record itself says why nothing can."""

from __future__ import annotations

import pytest

import sparq_sim as sq
from mutation_score import score


@pytest.mark.parametrize("name", sq.datapaths())
def test_changing_any_field_of_a_machine_changes_a_bit(name: str) -> None:
    found = score(name)
    assert found.survivors == []
    assert found.seen >= 2
    assert sum("operands" not in text for text in found.explained) <= 8
