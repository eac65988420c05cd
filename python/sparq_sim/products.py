"""Products of operands as the core takes them: of all of K or in parts, of dense lines or of what memory holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparq_sim._core import Datapath
from sparq_sim.arrays import Array
from sparq_sim.compressed import Selection, StoredOperand
from sparq_sim.end_scales import times_end_scales, without_end_scales
from sparq_sim.operands import Operand, Pair
from sparq_sim.split import SplitK, sum_of_parts


@dataclass(frozen=True)
class Product:
    """Operands whose rows are in the core's order, and how a machine runs through their K."""

    left: Operand
    right: Operand
    path: Datapath
    groups: int = 1
    split: SplitK | None = None
    stored: StoredOperand | None = None
    """What the machine takes of one of them instead."""
    flipped: bool = False
    """Whether that is of b."""

    def whole(self, threads: int | None = None, counts: Array | None = None) -> Pair | Selection:
        """All of K in one run.

        Raises:
            ValueError: scales of blocks that hold no whole groups of what is stored.
        """
        if self.stored is None:
            return Pair(self.left, self.right, self.path, self.groups, threads, counts)
        return Selection.of(self.left, self.right, self.path, self.stored, self.flipped, self.groups, threads, counts)

    def run(self, c: Array | None = None, threads: int | None = None, counts: Array | None = None) -> Array:
        """float32 [M, groups * N], or the bits of int32; `counts` as `multiply` takes them.

        Raises:
            ValueError: as `whole`, and c beside scales that multiply what parts become.
        """
        if self.split is None:
            return self.whole(threads, counts).product(c)
        (left, x), (right, y) = (without_end_scales(side, self.path) for side in (self.left, self.right))
        if c is not None and not (x is None and y is None):
            raise ValueError("c needs operands whose scales are applied before it")
        bare = replace(self, left=left, right=right).whole(threads, counts)
        sums = sum_of_parts(bare, self.split, self.path, c, threads, counts)
        return times_end_scales(sums, x, y, self.path, self.groups, threads)
