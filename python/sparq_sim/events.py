"""Counts of what an encoder did."""

from __future__ import annotations

from dataclasses import dataclass


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
