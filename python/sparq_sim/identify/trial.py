"""Running a spec on an array whose blocks lie along its last axis, and comparing bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import Array, bfloat16_values, extents, thread_argument
from sparq_sim.formats import Format, Spec
from sparq_sim.scales import level_dtype, line_rows, scale_shape

#: Bits of Inf and of the canonical NaN by dtype.
INF_NAN = {
    "float16": (0x7C00, 0x7E00),
    "bfloat16": (0x7F80, 0x7FC0),
    "float32": (0x7F800000, 0x7FC00000),
    "float64": (0x7FF0000000000000, 0x7FF8000000000000),
}


def unsigned(values: Array) -> Array:
    """The bits of floats."""
    return values.view(f"u{values.dtype.itemsize}")


def one_nan(bits: Array, dtype: str) -> Array:
    """Bits with every NaN as the canonical one; a copy only if there is one."""
    infinity, nan = INF_NAN[dtype]
    is_nan = (bits & bits.dtype.type((1 << (8 * bits.dtype.itemsize - 1)) - 1)) > bits.dtype.type(infinity)
    if not is_nan.any():
        return bits
    return np.where(is_nan, bits.dtype.type(nan), bits)


def floats(bits: Array, dtype: str) -> Array:
    """Bits as numbers that NumPy computes with: float64 from float64, else float32."""
    if dtype == "bfloat16":
        return bfloat16_values(bits)
    values = bits.view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return values if dtype in ("float32", "float64") else values.astype(np.float32)


@dataclass(frozen=True)
class Misses:
    """Elements that are not what was wanted."""

    values: int
    signs: int
    """Zeros of the other sign."""
    elements: int
    """Of how many."""

    @property
    def total(self) -> int:
        return self.values + self.signs

    @property
    def rate(self) -> float:
        """Share of the elements."""
        return self.total / max(1, self.elements)


@dataclass(frozen=True, eq=False)
class Trial:
    """An input and what is wanted of it, reduction axis last, its neighbour before."""

    x: Array
    x_type: str
    wanted: Array
    """Bits, NaN as the canonical one."""
    y_type: str
    kept: Array | None = None
    """Where elements count; None for everywhere."""
    threads: int | None = None

    def _call(
        self, made: Spec, values: Array, codes: Array | None, scales: Sequence[Array | None], given: bool
    ) -> bool:
        format_ = made.format
        try:
            counts = _core.encode(
                x=self.x,
                x_type=self.x_type,
                shape=self._extents,
                rows=line_rows(format_, self.x.shape),
                format=format_.block_format,
                conversion=made.conversion,
                sparsity=made.sparsity,
                order=made.order,
                scales_given=[given] * len(format_.levels),
                mask_in=None,
                count=False,
                random=None,
                philox=None,
                threads=thread_argument(self.threads),
                values=values,
                values_type=self.y_type,
                codes=codes,
                scales=list(scales),
                mask_out=None,
            )
        except ValueError:
            return False
        return not counts["refused"]

    @cached_property
    def size(self) -> int:
        """Elements that count."""
        return int(self.x.size if self.kept is None else self.kept.sum())

    @cached_property
    def _zeros(self) -> Array:
        """Flat places where a zero is wanted."""
        return np.flatnonzero(self.wanted << 1 == 0)

    @cached_property
    def _extents(self) -> tuple[int, int, int]:
        return extents(self.x.shape, self.x.ndim - 1)

    def run(self, made: Spec) -> Array | None:
        """The bits that a spec makes of the input; None if it refuses."""
        values = np.empty(self.x.shape, self.wanted.dtype if self.wanted.dtype.itemsize == 2 else self.y_type)
        scales = [None] * len(made.format.levels)
        return unsigned(values) if self._call(made, values, None, scales, False) else None

    def planes(self, format: Format) -> list[Array]:
        """Room for the scales of every level."""
        axis = self.x.ndim - 1
        return [np.ones(scale_shape(level, self.x.shape, axis), level_dtype(level)) for level in format.levels]

    def encode(self, made: Spec, scales: list[Array] | None = None) -> tuple[Array, Array, list[Array]] | None:
        """Bits of values, codes and scales, the scales given or computed; None if it refuses."""
        values = np.empty(self.x.shape, self.wanted.dtype if self.wanted.dtype.itemsize == 2 else self.y_type)
        codes = np.empty(self.x.shape, f"uint{8 * made.format.element.code_bytes}")
        planes = self.planes(made.format) if scales is None else scales
        if not self._call(made, values, codes, planes, scales is not None):
            return None
        return unsigned(values), codes, planes

    @cached_property
    def numbers(self) -> tuple[Array, Array, Array]:
        """Flat places that count and where y is a number other than zero; those numbers, and their bits."""
        y = floats(self.wanted, self.y_type)
        counted = np.isfinite(y) & (y != 0)
        if self.kept is not None:
            counted &= self.kept
        places = np.flatnonzero(counted)
        return places, y.reshape(-1)[places], self.wanted.reshape(-1)[places]

    def different(self, got: Array) -> tuple[Array, Array]:
        """Flat places where values differ, and where only the sign of a zero does."""
        unlike = got != self.wanted
        if self.kept is not None:
            unlike &= self.kept
        places = np.flatnonzero(unlike)
        if not places.size:
            return places, places
        kind = got.dtype.type
        magnitude = kind((1 << (8 * got.dtype.itemsize - 1)) - 1)
        ours, theirs = got.reshape(-1)[places] & magnitude, self.wanted.reshape(-1)[places] & magnitude
        zeros = (ours | theirs) == 0
        infinity = kind(INF_NAN[self.y_type][0])
        numbers = ~((ours > infinity) & (theirs > infinity))
        return places[~zeros & numbers], places[zeros]

    def misses(self, made: Spec) -> Misses | None:
        """How far a spec is from what is wanted; None if it refuses."""
        got = self.run(made)
        if got is None:
            return None
        unlike = got != self.wanted
        if self.kept is not None:
            unlike &= self.kept
        # Every NaN of ours is the canonical one, so only zeros can be alike in other bits.
        ours = got.reshape(-1)[self._zeros]
        signs = int(np.count_nonzero((ours << 1 == 0) & unlike.reshape(-1)[self._zeros]))
        return Misses(int(np.count_nonzero(unlike)) - signs, signs, self.size)
