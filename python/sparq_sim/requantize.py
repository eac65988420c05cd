"""Requantization: int32 sums to narrower integers, by the rules of others (docs/numerics.md section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim.arrays import Array, as_float32_exactly, dtype_name, is_torch, to_numpy
from sparq_sim.names import unknown_name
from sparq_sim.steps import NOTHING, fused_step

#: Integers that sums are requantized to.
OUTPUTS = ("int8", "uint8", "int16", "int32")
ROUNDINGS = ("half_up", "half_away", "half_even")

# Sums that are worked on at once.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class RequantizationRule:
    """How an int32 v becomes v · scale as an integer.

    A scale is multiplier / 2^shift, or with ``multiplier_bits=0`` a float32 number.
    """

    name: str
    multiplier_bits: int
    """Of the multiplier that a scale becomes, its highest bit set; 0: RN32(RN32(v) · scale) is rounded."""
    rounding: str = "half_up"
    """Of what is shifted out: ties up, away from zero, or to even (of float32 alone)."""
    first_bits: int = 0
    """Low bits of the product that go first, ties up (a multiplication that gives the high half); what is left of the
    shift goes then. 0: all at once."""
    double_round: bool = False
    """With shifts above 31, 2^30 of the sign of v is added before the shift."""
    bounded: bool = False
    """Whether v must lie in [-2^(shift - 1), 2^(shift - 1)), and the result in int32; else it saturates."""
    least_shift: int = 1
    largest_shift: int = 62
    source: str = "user"
    evidence: str = "user"

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding={self.rounding!r}: choose one of {', '.join(ROUNDINGS)}")
        if (self.multiplier_bits == 0) != (self.rounding == "half_even"):
            raise ValueError("multiplier_bits=0, float32, goes with rounding='half_even', and integers with the others")
        if not 0 <= self.multiplier_bits <= 31 or not 0 <= self.first_bits <= 31:
            raise ValueError("multiplier_bits and first_bits must be 0 to 31")
        if not 1 <= self.least_shift <= self.largest_shift <= 62:
            raise ValueError("shifts must be 1 to 62")
        if self.multiplier_bits == 0 and (self.first_bits or self.double_round or self.bounded):
            raise ValueError("first_bits, double_round and bounded say something of integer multipliers alone")
        if self.first_bits and self.double_round:
            raise ValueError("double_round goes with first_bits=0")


_XNNPACK = "XNNPACK, src/xnnpack/requantization.h"
_RULES = (
    RequantizationRule(
        "tosa", 31, bounded=True, least_shift=2,
        source="TOSA 1.0, apply_scale_32 with double_round false; TensorFlow Lite with single rounding",
        evidence="specification",
    ),
    RequantizationRule(
        "tosa_double_round", 31, double_round=True, bounded=True, least_shift=2,
        source="TOSA 1.0, apply_scale_32 with double_round true", evidence="specification",
    ),
    RequantizationRule(
        "gemmlowp", 31, "half_away", first_bits=31,
        source="gemmlowp, fixedpoint.h: SaturatingRoundingDoublingHighMul, RoundingDivideByPOT; TensorFlow Lite, "
        "MultiplyByQuantizedMultiplier", evidence="implementation",
    ),
    RequantizationRule(
        "xnnpack_fp32", 0, "half_even", source=f"{_XNNPACK}: fp32; FBGEMM, QNNPACK", evidence="implementation",
    ),
    RequantizationRule(
        "xnnpack_rndnu", 24, least_shift=16, largest_shift=55, source=f"{_XNNPACK}: rndnu", evidence="implementation"
    ),
    RequantizationRule(
        "xnnpack_rndna", 24, "half_away", least_shift=16, largest_shift=55, source=f"{_XNNPACK}: rndna",
        evidence="implementation",
    ),
)  # fmt: skip


def requantizations() -> dict[str, RequantizationRule]:
    """The rules that have a name.

    >>> import sparq_sim as sq
    >>> list(sq.requantizations())
    ['tosa', 'tosa_double_round', 'gemmlowp', 'xnnpack_fp32', 'xnnpack_rndnu', 'xnnpack_rndna']
    """
    return {rule.name: rule for rule in _RULES}


@dataclass(frozen=True, eq=False)
class Requantization:
    """int32 sums times a scale, rounded by a rule, plus a zero point, within the range of the output.

    Args:
        rule: a name of `requantizations()`, or a `RequantizationRule`.
        scale: a positive number, or [N], one per column: what is multiplied by. float32 numbers for rules like
            XNNPACK's (``multiplier_bits`` up to 24); others round it to a multiplier of so many bits, ties away.
        multiplier, shift: the integers instead, v · multiplier / 2^shift; numbers or [N]. (TensorFlow Lite's shift is
            31 minus this one.)
        zero_point: of the output, added last.
        output: ``"int8"``, ``"uint8"``, ``"int16"`` or ``"int32"``.
        minimum, maximum: of what comes out, zero point included; default the range of the output.

    Raises:
        ValueError, TypeError: what means nothing.

    Source of the rules: docs/numerics.md section 10.

    >>> import numpy as np, sparq_sim as sq
    >>> sq.Requantization("gemmlowp", scale=0.25, zero_point=3).apply(np.int32([[10, -10, 6000]]))
    array([[  6,   0, 127]], dtype=int8)
    """

    rule: str | RequantizationRule
    scale: Any = None
    multiplier: Any = None
    shift: Any = None
    zero_point: int = 0
    output: str = "int8"
    minimum: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, RequantizationRule):
            if self.rule not in requantizations():
                raise unknown_name("requantization", self.rule, requantizations())
            object.__setattr__(self, "rule", requantizations()[self.rule])
        if self.output not in OUTPUTS:
            raise ValueError(f"output={self.output!r}: choose one of {', '.join(OUTPUTS)}")
        info = np.iinfo(self.output)
        for name, default in (("minimum", info.min), ("maximum", info.max)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, int(default))
        for name in ("zero_point", "minimum", "maximum"):
            value = getattr(self, name)
            if not _is_whole(value) or not info.min <= value <= info.max:
                raise ValueError(f"{name}={value!r}: needed an integer that {self.output} holds")
        if self._low > self._high:
            raise ValueError(f"minimum={self.minimum} is above maximum={self.maximum}")
        if (self.scale is None) == (self.multiplier is None) or (self.multiplier is None) != (self.shift is None):
            raise ValueError("Requantization: needed scale=, or multiplier= and shift=")
        if self.multiplier is None:
            self._from_scale()
        else:
            self._check_integers()

    @property
    def _how(self) -> RequantizationRule:
        assert isinstance(self.rule, RequantizationRule)
        return self.rule

    @property
    def _low(self) -> int:
        return int(self.minimum) if self.minimum is not None else 0

    @property
    def _high(self) -> int:
        return int(self.maximum) if self.maximum is not None else 0

    def _from_scale(self) -> None:
        """Multiplier and shift of the scale, or the scale as float32 [1, N]."""
        how = self._how
        scales = np.asarray(self.scale)
        if scales.dtype.kind not in "fiu" or scales.ndim > 1 or not bool(np.all(np.isfinite(scales) & (scales > 0))):
            raise ValueError(f"scale={self.scale!r}: needed a positive finite number, or [N] of them")
        exact = as_float32_exactly(scales.astype(np.float64).reshape(1, -1))
        within = exact is not None and bool(np.all((exact >= 2.0**-32) & (exact < 256)))
        if how.multiplier_bits <= 24 and not within:
            raise ValueError(f"scale={self.scale!r}: {how.name} takes float32 numbers from 2^-32 to below 256")
        if how.multiplier_bits == 0:
            object.__setattr__(self, "scale", exact)
            return
        fraction, exponent = np.frexp(scales.astype(np.float64).reshape(1, -1))
        # float64 holds fraction * 2^bits, and adding a half to it is exact below 2^52.
        multiplier = np.floor(np.ldexp(fraction, how.multiplier_bits) + 0.5).astype(np.int64)
        carried = multiplier == 1 << how.multiplier_bits
        object.__setattr__(self, "multiplier", np.where(carried, multiplier >> 1, multiplier))
        object.__setattr__(self, "shift", how.multiplier_bits - exponent.astype(np.int64) - carried)
        self._check_integers()

    def _check_integers(self) -> None:
        how = self._how
        if how.multiplier_bits == 0:
            raise ValueError(f"multiplier and shift: {how.name} multiplies by a float32 scale")
        for name, low, high in (("multiplier", 0, 2**31 - 1), ("shift", how.least_shift, how.largest_shift)):
            value = np.asarray(getattr(self, name))
            if value.dtype.kind not in "iu" or (value.ndim > 1 and value.shape[0] != 1) or value.size == 0:
                raise TypeError(f"{name}={getattr(self, name)!r}: needed an integer, or [N] of them")
            if int(value.min()) < low or int(value.max()) > high:
                raise ValueError(f"{name}: {int(value.min())} to {int(value.max())}; {how.name} takes {low} to {high}")
            object.__setattr__(self, name, value.astype(np.int64).reshape(1, -1))

    def check(self, shape: Sequence[int]) -> None:
        """ValueError unless scales of columns fit a result of that shape."""
        for name in ("scale", "multiplier", "shift"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray) and value.size not in (1, shape[-1] if shape else 1):
                raise ValueError(f"{name}: {value.size} columns; needed 1 or N = {shape[-1] if shape else 1}")

    def apply(self, sums: Any) -> Any:
        """int32 sums [..., N], NumPy or torch, as the output's integers.

        Raises:
            TypeError: sums that are not int32.
            ValueError: a sum that the rule does not take.
        """
        array = to_numpy(sums, "sums")
        if dtype_name(array.dtype) != "int32":
            raise TypeError(f"sums: dtype {array.dtype}; needed int32")
        self.check(array.shape)
        columns = array.shape[-1] if array.ndim else 1
        flat = np.ascontiguousarray(array).reshape(array.size // max(1, columns), columns)
        out = np.empty(flat.shape, self.output)
        step = max(1, _CHUNK // max(1, columns))
        for first in range(0, len(flat), step):
            rows = slice(first, first + step)
            scaled = self._by_float(flat[rows]) if self._how.multiplier_bits == 0 else self._by_integers(flat[rows])
            out[rows] = np.clip(scaled + int(self.zero_point), self._low, self._high)
        made: Array = out.reshape(array.shape)
        if is_torch(sums):
            import torch

            return torch.from_numpy(made).to(sums.device)
        return made

    def _by_float(self, sums: Array) -> Array:
        """RN32(RN32(v) · scale), to even."""
        wide = np.ascontiguousarray(sums.astype(np.float32))
        product = fused_step(wide, self.scale, NOTHING, np.empty_like(wide), nan_bits=0x7FC00000)
        # What lies far outside int32 need not be converted.
        made: Array = np.rint(np.clip(product, -(2.0**40), 2.0**40)).astype(np.int64)
        return made

    def _by_integers(self, sums: Array) -> Array:
        how, values = self._how, sums.astype(np.int64)
        shift, half = self.shift, np.int64(1) << (self.shift - 1)
        if how.bounded and bool(np.any((values < -half) | (values >= half))):
            raise ValueError(f"sums: {how.name} takes those from -2^(shift - 1) to below 2^(shift - 1)")
        if how.first_bits:
            values = values << np.maximum(how.first_bits - shift, 0)
            if bool(np.any(values != values.astype(np.int32))):
                raise ValueError(f"sums: beyond int32 when shifted left for {how.name}'s scale")
            high = (values * self.multiplier + (1 << (how.first_bits - 1))) >> how.first_bits
            return _shifted(high, np.maximum(shift - how.first_bits, 0), how.rounding)
        product = values * self.multiplier
        if how.double_round:
            product = product + np.where(shift > 31, np.where(values >= 0, 1 << 30, -(1 << 30)), 0)
        made = _shifted(product, shift, how.rounding)
        if how.bounded and bool(np.any(made != made.astype(np.int32))):
            raise ValueError(f"sums: scaled beyond int32, which {how.name} does not take")
        return made


def _shifted(values: Array, shift: Array, rounding: str) -> Array:
    """values / 2^shift, ties up or away from zero."""
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    if rounding == "half_up":
        return (values + half) >> shift
    size: Array = (np.abs(values) + half) >> shift
    return np.where(values < 0, -size, size)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
