"""Products of machines that take one operand compressed: its steps count stored elements, whose positions select those
of the other operand (docs/numerics.md section 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparq_sim._core import Datapath, Sparsity
from sparq_sim.arrays import Array
from sparq_sim.operands import Operand, multiply, segment_run
from sparq_sim.positions import group_units
from sparq_sim.tensor import BlockTensor

# Bytes of selected elements that are worked on at once.
_SELECTED = 1 << 22


@dataclass(frozen=True)
class Stored:
    """What memory holds of an operand of N:M."""

    codes: Array
    """[rows, stored K]."""
    places: Array
    """Of each in its line; K where the line has ended."""
    pattern: Sparsity


def stored_of(tensor: object, what: str) -> Stored:
    """The stored elements of an operand.

    Raises:
        ValueError: an operand without a pattern, or a mask that is not N:M.
    """
    pattern = tensor.spec.sparsity if isinstance(tensor, BlockTensor) else None
    if not isinstance(tensor, BlockTensor) or pattern is None:
        raise ValueError(
            f"compressed={what!r}: {what} has no N:M pattern; encode(..., sparsity='2:4') makes one, and "
            ".structured('2:4') gives it to a tensor with a mask"
        )
    codes, units = tensor.compressed()
    k, stored = tensor.shape[-1], codes.shape[-1]
    rows = codes.size // max(1, stored)
    # Places of units in their groups, as places of elements in the line.
    within = units.reshape(rows, -1, 1).astype(np.intp) * pattern.unit + np.arange(pattern.unit)
    groups = np.repeat(np.arange(stored // pattern.kept) * pattern.group, group_units(pattern)[0])
    places = np.minimum((within + groups[:, None]).reshape(rows, stored), k)
    return Stored(codes.reshape(rows, stored), places, pattern)


def stored_ends(ends: tuple[int, ...], k: int, stored: int, pattern: Sparsity, what: str) -> tuple[int, ...]:
    """Where segments end, in stored elements.

    Raises:
        ValueError: one that ends within a group.
    """
    for end in ends:
        if end % pattern.group and end != k:
            raise ValueError(
                f"{what}: a scale ends at element {end}, within a group of {pattern.group}: blocks of a product with a "
                "compressed operand hold whole groups"
            )
    return tuple(stored if end == k else end // pattern.group * pattern.kept for end in ends)


@dataclass(frozen=True)
class Selection:
    """Stored rows against the elements that their positions select, each row its own."""

    stored: Operand
    """[groups * rows, stored K]."""
    places: Array
    other: Operand
    """[groups * lines, K]; the last column is one more, of zeros, and segments end in stored elements."""
    path: Datapath
    flipped: bool
    """Whether b is the compressed one."""
    groups: int = 1
    threads: int | None = None
    begin: int = 0

    @classmethod
    def of(
        cls, own: Operand, stored: Stored, rows: Array | None, other: Operand, path: Datapath, flipped: bool,
        groups: int, threads: int | None,
    ) -> Selection:  # fmt: skip
        """Of operands whose rows are in the core's order, as the stored ones are by `rows`."""
        codes, places = (stored.codes, stored.places) if rows is None else (stored.codes[rows], stored.places[rows])
        k, count = own.k, codes.shape[1]
        names = "ba" if flipped else "ab"
        ends = [
            stored_ends(x.segment_end, k, count, stored.pattern, n) for x, n in zip((own, other), names, strict=True)
        ]
        padded = np.zeros((other.rows, k + 1), other.codes.dtype)
        padded[:, :k] = other.codes
        return cls(
            replace(own, codes=codes, segment_end=ends[0]), places, replace(other, codes=padded, segment_end=ends[1]),
            path, flipped, groups, threads,
        )  # fmt: skip

    @property
    def k(self) -> int:
        return self.stored.k

    def part(self, begin: int, end: int) -> Selection:
        """That run of stored K alone."""
        own, ends = segment_run(self.other.segment_end, begin, end)
        planes = (self.other.block_scales, self.other.float_scales)
        block_scales, float_scales = (None if plane is None else plane[:, own] for plane in planes)
        other = replace(self.other, segment_end=ends, block_scales=block_scales, float_scales=float_scales)
        places = np.ascontiguousarray(self.places[:, begin:end])
        return replace(self, stored=self.stored.columns(begin, end), places=places, other=other)

    def product(self, c: Array | None) -> Array:
        """float32 [M, groups * N]."""
        rows, lines = self.stored.rows // max(1, self.groups), self.other.rows // max(1, self.groups)
        m, n = (lines, rows) if self.flipped else (rows, lines)
        out = np.empty((m, self.groups * n), np.float32)
        for group in range(self.groups):
            columns = slice(group * n, (group + 1) * n)
            start = None if c is None else c[:, columns]
            start = start.T if self.flipped and start is not None else start
            made = self._group(group, rows, lines, start)
            out[:, columns] = made.T if self.flipped else made
        return out

    def _group(self, group: int, rows: int, lines: int, c: Array | None) -> Array:
        """[rows, lines] of one group: products of one row each, side by side."""
        other = self.other.rows_at(np.arange(group * lines, (group + 1) * lines))
        out = np.empty((rows, lines), np.float32)
        step = max(1, _SELECTED // max(1, lines * self.k * other.codes.itemsize))
        for first in range(0, rows, step):
            count = min(step, rows - first)
            selected = np.empty((count, lines, self.k), other.codes.dtype)
            at = group * rows + first
            for i in range(count):
                np.take(other.codes, self.places[at + i], axis=1, out=selected[i], mode="clip")
            right = replace(
                other, codes=selected.reshape(count * lines, self.k), lead=(),
                block_scales=_repeated(other.block_scales, count), float_scales=_repeated(other.float_scales, count),
            )  # fmt: skip
            left = self.stored.rows_at(np.arange(at, at + count))
            start = None if c is None else np.ascontiguousarray(c[first : first + count]).reshape(1, count * lines)
            made = multiply(left, right, self.path, start, groups=count, threads=self.threads)
            out[first : first + count] = made.reshape(count, lines)
        return out


def _repeated(plane: Array | None, count: int) -> Array | None:
    return None if plane is None else np.tile(plane, (count, 1))
