"""Counts of what an encoder or a multiplier array did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.batches import Batches

#: What is counted of dot products, in the order of the core's fields.
DOT_COUNTS = ("truncated", "cancelled", "overflowed", "wrapped")


@dataclass
class Events:
    """Counts of what happened, added up over the calls that were given this object (docs/numerics.md section 13).

    >>> import numpy as np, sparq_sim as sq
    >>> events = sq.Events()
    >>> _ = sq.emulate(np.float32([7.5, 0.1, 0, 0]), "mxfp4", events=events)
    >>> events.saturated, events.underflowed
    (1, 1)
    """

    saturated: int = 0
    underflowed: int = 0
    nonfinite: int = 0
    zero_blocks: int = 0
    ties: int = 0

    def add(self, counts: dict[str, int]) -> None:
        """Adds the counts of one call."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + counts[name])


@dataclass
class MatmulEvents:
    """Counts of what happened in the dot products of the calls of `matmul` that were given this object: those of their
    `dot_trace`, added up (docs/numerics.md section 10). What happens to results afterwards (float scales at the end,
    epilogue, output format) is not counted.

    Args:
        per_output: counts of each output, int64 arrays of the result's shape, which takes 32 bytes for each; all
            calls have that shape then. By default totals.

    >>> import numpy as np, sparq_sim as sq
    >>> x = np.float16([[1024, 2**-6, 2**-6]])
    >>> events = sq.MatmulEvents()
    >>> _ = sq.matmul(x, x, datapath="hopper_16", events=events)
    >>> events
    MatmulEvents(per_output=False, truncated=2, cancelled=0, overflowed=0, wrapped=0)
    """

    per_output: bool = False
    truncated: int | Array = 0
    """Terms that lost something when they were cut (or rounded to a leaf of a tree)."""
    cancelled: int | Array = 0
    """Steps whose sum is below half of their largest term."""
    overflowed: int | Array = 0
    """Finite numbers that a rounding made Inf, or the largest number where a machine saturates."""
    wrapped: int | Array = 0
    """Integer sums that left their range, whether they wrap or saturate."""

    def room(self, batches: Batches) -> Array:
        """What the core adds to in one call.

        Raises:
            ValueError: another shape than the calls before.
        """
        before = np.shape(self.truncated)
        if self.per_output and before not in ((), batches.shape):
            raise ValueError(f"events: counts of outputs {before}; this product has {batches.shape}")
        return np.zeros((*batches.core_shape, len(DOT_COUNTS)) if self.per_output else len(DOT_COUNTS), np.int64)

    def add(self, counts: Array, batches: Batches) -> None:
        """Adds the counts of one call."""
        for index, name in enumerate(DOT_COUNTS):
            own = counts[..., index]
            setattr(self, name, getattr(self, name) + (batches.from_core(own) if self.per_output else int(own)))
