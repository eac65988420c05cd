"""Leading dimensions of a product: how they become one call of the core."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparq_sim.arrays import Array


@dataclass(frozen=True)
class Batches:
    """Dimensions that both sides have are the core's groups, and those of one side alone are rows of it: nothing is
    repeated in memory, and every dot product is that of its two lines.

    The core sees a [groups, own, M, K] and b [groups, own, N, K], and makes d [own of a, M, groups, own of b, N].
    """

    shape: tuple[int, ...]
    """Of the result, [..., M, N]."""
    groups: int
    left_rows: Array | None
    """Rows of a in the core's order; None: as they are."""
    right_rows: Array | None
    order: tuple[int, ...]
    """Axis i of the core's d is axis order[i] of the result."""

    @classmethod
    def of(cls, a: tuple[int, ...], b: tuple[int, ...], rule: str) -> Batches:
        """Of operands [..., M, K] and [..., N, K].

        Raises:
            ValueError: leading dimensions that do not broadcast; `rule` says what is needed.
        """
        count = max(len(a), len(b)) - 2
        left, right = ((1,) * (count + 2 - len(shape)) + shape[:-2] for shape in (a, b))
        if any(x != y and 1 not in (x, y) for x, y in zip(left, right, strict=True)):
            raise ValueError(f"leading dimensions do not broadcast: a is {a}, b is {b}; {rule}")
        batch = tuple(y if x == 1 else x for x, y in zip(left, right, strict=True))
        shared = [i for i in range(count) if left[i] == right[i]]
        own_left = [i for i in range(count) if left[i] != right[i] and right[i] == 1]
        own_right = [i for i in range(count) if left[i] != right[i] and left[i] == 1]
        return cls(
            shape=(*batch, a[-2], b[-2]),
            groups=math.prod(batch[i] for i in shared),
            left_rows=_rows(left, a[-2], [*shared, *own_left, *own_right]),
            right_rows=_rows(right, b[-2], [*shared, *own_right, *own_left]),
            order=(*own_left, count, *shared, *own_right, count + 1),
        )

    def to_core(self, c: Array | None) -> Array | None:
        """[..., M, N] as the core takes it, [own of a * M, the rest]."""
        if c is None:
            return None
        return np.ascontiguousarray(c.transpose(self.order)).reshape(self.core_shape)

    @property
    def core_shape(self) -> tuple[int, int]:
        """Of what the core makes."""
        rows = math.prod(self.shape[i] for i in self.order[: self.order.index(len(self.shape) - 2) + 1])
        return rows, math.prod(self.shape) // max(1, rows)

    def from_core(self, d: Array) -> Array:
        """What the core made, as [..., M, N]."""
        made = d.reshape([self.shape[i] for i in self.order]).transpose(np.argsort(self.order))
        return np.ascontiguousarray(made)


def _rows(batch: tuple[int, ...], lines: int, order: list[int]) -> Array | None:
    """Rows of matrices that lie one after the other, with the leading dimensions in another order."""
    moved = [i for i in order if batch[i] != 1]
    if sorted(moved) == moved:
        return None
    rows = np.arange(math.prod(batch) * lines).reshape(*batch, lines)
    return rows.transpose(*order, len(batch)).reshape(-1)
