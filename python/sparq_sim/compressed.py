"""Products of machines that take one operand compressed: its steps count stored elements, whose positions select those
of the other operand (docs/numerics.md section 10).

The definition gathers those for each row. Where zeros change nothing, a dense machine with longer steps does the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from sparq_sim import _core
from sparq_sim._core import Datapath, ElementFormat, Sparsity
from sparq_sim.arrays import Array
from sparq_sim.operands import Operand, Pair, multiply, scales_of_segments, segment_run
from sparq_sim.positions import compress, group_units
from sparq_sim.tensor import BlockTensor

# Bytes of selected elements that are worked on at once.
_SELECTED = 1 << 22


@dataclass(frozen=True)
class StoredOperand:
    """What memory holds of an operand of N:M."""

    codes: Array
    """[rows, stored K]."""
    places: Array
    """Of each in its row; K where its line has ended."""
    pattern: Sparsity
    lines: int = 1
    """Of the same length, one after the other in a row: groups start anew at each."""

    def rows_at(self, rows: Array | None) -> StoredOperand:
        """The same with rows in another order, or repeated; all as they are for None."""
        return self if rows is None else replace(self, codes=self.codes[rows], places=self.places[rows])


def stored_of(tensor: object, what: str) -> StoredOperand:
    """The stored elements of an operand.

    Raises:
        ValueError: an operand without a pattern, or a mask that is not N:M.
    """
    pattern = tensor.spec.sparsity if isinstance(tensor, BlockTensor) else None
    if not isinstance(tensor, BlockTensor) or pattern is None or tensor.mask is None:
        raise ValueError(
            f"compressed={what!r}: {what} has no N:M pattern; encode(..., sparsity='2:4') makes one, and "
            ".structured('2:4') gives it to a tensor with a mask"
        )
    shape = (math.prod(tensor.shape[:-1]), tensor.shape[-1])
    codes, places = stored_line(tensor.codes.reshape(shape), tensor.mask.reshape(shape), pattern)
    return StoredOperand(codes, places, pattern)


def stored_line(codes: Array, mask: Array, pattern: Sparsity) -> tuple[Array, Array]:
    """Of lines [lines, K] the stored codes, and the place of each in its line, int32: K where that has ended.

    Raises:
        ValueError: a mask that is not N:M.
    """
    stored, units = compress(codes, np.ascontiguousarray(mask).view(np.uint8), pattern, "lowest")
    lines, k = codes.shape
    # Places of units in their groups, as places of elements in the line.
    inside = np.arange(pattern.unit, dtype=np.int32)
    within = units.reshape(lines, stored.shape[1] // pattern.unit, 1).astype(np.int32) * pattern.unit + inside
    first = np.arange(stored.shape[1] // pattern.kept, dtype=np.int32) * pattern.group
    groups = np.repeat(first, group_units(pattern)[0])
    return stored, np.minimum((within + groups[:, None]).reshape(lines, stored.shape[1]), k)


def stored_rows(codes: Array, places: Array, pattern: Sparsity, length: int) -> StoredOperand:
    """Rows of several lines of `length`, from [rows, lines, stored] of what `stored_line` gives."""
    rows, lines, each = codes.shape
    first = np.arange(lines, dtype=np.int32)[:, None] * length
    moved = np.where(places < length, places + first, np.int32(lines * length))
    return StoredOperand(codes.reshape(rows, lines * each), moved.reshape(rows, lines * each), pattern, lines)


def stored_ends(ends: tuple[int, ...], k: int, stored: StoredOperand, what: str) -> tuple[int, ...]:
    """Where segments of K elements end, in stored elements.

    Raises:
        ValueError: one that ends within a group.
    """
    pattern, made = stored.pattern, []
    length, each = max(1, k // stored.lines), stored.codes.shape[1] // stored.lines
    for end in ends:
        line, within = divmod(end, length)
        if within % pattern.group:
            raise ValueError(
                f"{what}: a scale ends at element {end}, within a group of {pattern.group}: blocks of a product with a "
                "compressed operand hold whole groups"
            )
        made.append(line * each + within // pattern.group * pattern.kept)
    return tuple(made)


def stretched(path: Datapath, pattern: Sparsity) -> Datapath | None:
    """The machine whose steps of dense elements hold what those of `path` hold of stored ones, if it gives the same:
    zero products take no part, and which elements meet follows from the groups of N:M alone. None if it does not."""
    if path.reduce == "exact" or (path.reduce == "blocks" and path.group == 0):
        return path
    # Under a presum exponents are those of scales, whatever the elements are.
    absent = path.zero_products == "absent" or path.presum > 1
    if path.reduce not in ("align", "blocks") or path.lanes > 1 or not absent:
        return None
    lengths = ("group", "instruction", "run", "chunk", *(("presum",) if path.presum > 1 else ()))
    fields = path.to_dict()
    if any(fields[name] % pattern.kept for name in lengths):
        return None
    fields |= {name: fields[name] // pattern.kept * pattern.group for name in lengths}
    fields["scale"] = path.scale
    made = Datapath(**fields).with_operands(list(path.operands))
    try:
        _core.check_datapath(made)
    except ValueError:  # sums that would be too wide
        return None
    return made


@lru_cache(maxsize=32)
def _special_codes(element: ElementFormat) -> Array:
    """By code of at most 16 bits, whether it is NaN or Inf."""
    magnitude = (1 << element.code_bits) - 1 if element.signedness == "unsigned" else (1 << element.code_bits - 1) - 1
    infinite = element.infinity_code
    codes = range(1 << element.code_bits)
    return np.array([element.is_nan(code) or (infinite is not None and code & magnitude == infinite) for code in codes])


def all_finite(operand: Operand) -> bool:
    """Whether no element is NaN or Inf."""
    element = operand.element
    if element.code_bits <= 16:
        return not bool(_special_codes(element)[operand.codes].any())
    return not bool(((operand.codes & np.uint32(0x7F800000)) == 0x7F800000).any())


@dataclass(frozen=True)
class Selection:
    """StoredOperand rows against the elements that their positions select, each row its own."""

    stored: Operand
    """[groups * rows, stored K]."""
    places: Array
    other: Operand
    """[groups * lines, K]; the last column is one more, of zeros, and segments end in stored elements."""
    path: Datapath
    flipped: bool
    """Whether b is the compressed one."""
    pattern: Sparsity
    groups: int = 1
    threads: int | None = None
    dense: Pair | None = None
    """What gives the same without gathering."""
    counts: Array | None = None
    """As `multiply` takes them."""

    @classmethod
    def of(
        cls, left: Operand, right: Operand, path: Datapath, stored: StoredOperand, flipped: bool, groups: int = 1,
        threads: int | None = None, counts: Array | None = None,
    ) -> Selection:  # fmt: skip
        """Of operands whose rows, and those of what is stored, are in the core's order; b is that one if `flipped`."""
        own, other = (right, left) if flipped else (left, right)
        k, count = own.k, stored.codes.shape[1]
        names = "ba" if flipped else "ab"
        ends = [stored_ends(x.segment_end, k, stored, n) for x, n in zip((own, other), names, strict=True)]
        padded = np.zeros((other.rows, k + 1), other.codes.dtype)
        padded[:, :k] = other.codes
        wide = stretched(path, stored.pattern)
        dense = None
        if stored.lines > 1 and k // stored.lines % stored.pattern.group:
            wide = None  # groups do not follow one another at the same distance
        if any(end % path.presum and end != count for end in (*ends[0], *ends[1])):
            wide = None  # an error, in terms of stored elements
        if wide is not None and all_finite(own) and all_finite(other):
            dense = Pair(left, right, wide, groups, threads, counts)
        return cls(
            replace(own, codes=stored.codes, segment_end=ends[0]), stored.places,
            replace(other, codes=padded, segment_end=ends[1]),
            path, flipped, stored.pattern, groups, threads, dense, counts,
        )  # fmt: skip

    @property
    def k(self) -> int:
        return self.stored.k

    def part(self, begin: int, end: int) -> Selection:
        """That run of stored K alone."""
        own, ends = segment_run(self.other.segment_end, begin, end)
        planes = (self.other.block_scales, self.other.float_scales)
        block_scales, float_scales = (scales_of_segments(plane, own) for plane in planes)
        other = replace(self.other, segment_end=ends, block_scales=block_scales, float_scales=float_scales)
        places = np.ascontiguousarray(self.places[:, begin:end])
        kept, group = self.pattern.kept, self.pattern.group
        dense = None
        if self.dense is not None and begin % kept == 0 and end % kept == 0:
            dense = self.dense.part(begin // kept * group, min(end // kept * group, self.dense.k))
        return replace(self, stored=self.stored.columns(begin, end), places=places, other=other, dense=dense)

    def product(self, c: Array | None) -> Array:
        """float32 [M, groups * N]."""
        return self.gathered(c) if self.dense is None else self.dense.product(c)

    def gathered(self, c: Array | None) -> Array:
        """The same by the definition, row by row."""
        rows, lines = self.stored.rows // max(1, self.groups), self.other.rows // max(1, self.groups)
        m, n = (lines, rows) if self.flipped else (rows, lines)
        out = np.empty((m, self.groups * n), np.float32)
        for group in range(self.groups):
            columns = slice(group * n, (group + 1) * n)
            start = None if c is None else c[:, columns]
            start = start.T if self.flipped and start is not None else start
            counts = self.counts
            if counts is not None and counts.ndim > 1:
                counts = counts[:, columns].swapaxes(0, 1) if self.flipped else counts[:, columns]
            made = self._group(group, rows, lines, start, counts)
            out[:, columns] = made.T if self.flipped else made
        return out

    def _group(self, group: int, rows: int, lines: int, c: Array | None, counts: Array | None) -> Array:
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
            own = None if counts is None else np.zeros((1, count * lines, 4) if counts.ndim > 1 else 4, np.int64)
            made = multiply(left, right, self.path, start, groups=count, threads=self.threads, counts=own)
            out[first : first + count] = made.reshape(count, lines)
            if counts is not None and own is not None:
                part = counts[first : first + count] if counts.ndim > 1 else counts
                part += own.reshape(part.shape)
        return out


def _repeated(plane: Array | None, count: int) -> Array | None:
    return None if plane is None else np.tile(plane, (count, 1))
