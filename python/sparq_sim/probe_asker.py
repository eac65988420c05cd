"""Sums of chosen terms, asked of a black box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.black_box import BlackBox
from sparq_sim.summation import START

#: What a rounding makes of 0.75, -0.75, 1.5 and -1.5 units.
CUTS = {
    (0, 0, 1, -1): "toward_zero", (0, -1, 1, -2): "down", (1, -1, 2, -2): "nearest_even", (1, 0, 2, -1): "up",
}  # fmt: skip
#: And of a unit halved, 1.5 units, and both below zero, beside a large even number.
ROUNDINGS = {
    (0, 1, 0, -1): "toward_zero", (0, 1, -1, -2): "down", (0, 2, 0, -2): "nearest_even", (1, 2, 0, -1): "up",
    (1, 2, -1, -2): "nearest_away",
}  # fmt: skip


@dataclass
class Asker:
    """Sums of chosen terms: columns are places of K, and the last one c where the box takes it."""

    box: BlackBox
    low: int
    lowest: int
    high: int

    @property
    def terms(self) -> int:
        return self.box.k + int(self.box.takes_c)

    @property
    def leaves(self) -> list[int]:
        """What its columns are."""
        return [*range(self.box.k), *([START] if self.box.takes_c else [])]

    def column(self, leaf: int) -> int:
        return self.box.k if leaf == START else leaf

    def sums(self, rows: Array) -> Array:
        return self.box.dots(rows[:, : self.box.k], rows[:, self.box.k] if self.box.takes_c else None)

    def of(self, *cases: dict[int, float]) -> Array:
        """One sum per case: the terms of some leaves, and zeros."""
        rows = np.zeros((len(cases), self.terms))
        for row, case in zip(rows, cases, strict=True):
            for leaf, value in case.items():
                row[self.column(leaf)] = value
        return self.sums(rows)

    def kept_bits(self, case: Callable[[float], dict[int, float]], expected: Callable[[float], float]) -> int | None:
        """The largest n for which a term 2^n below the large one is in the sum, as are all larger ones; None if the
        smallest product still is."""
        span = range(1, self.high - self.lowest + 1)
        small = [2.0 ** (self.high - n) for n in span]
        made = self.of(*[case(value) for value in small])
        lost = [n for n, value, sum_ in zip(span, small, made, strict=True) if sum_ != expected(value)]
        return lost[0] - 1 if lost else None
