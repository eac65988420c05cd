"""Numbers of fields that the values themselves suggest: what amax was divided by, the least scale."""

from __future__ import annotations

from functools import cache

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.formats import Format, Spec
from sparq_sim.identify.candidates import Numbers, block_of
from sparq_sim.identify.trial import Trial, floats


def as_blocks(array: Array, block: tuple[int, int]) -> Array:
    """An array of a `Trial` with one row per block."""
    along, across = block
    width = array.shape[-1]
    if across == 0:
        return array.reshape(1, -1)
    if across > 1:
        return array.reshape(len(array), -1)
    if along == 0 or along >= width:
        return array
    ragged = -width % along
    whole = array if not ragged else np.pad(array, ((0, 0), (0, ragged)))
    return whole.reshape(-1, along)


def _sizes(trial: Trial, block: tuple[int, int]) -> tuple[Array, Array]:
    """Of each block, the largest finite |x| and the smallest |y| above zero (Inf: none)."""
    x = as_blocks(trial.x, block).astype(np.float64)
    y = np.abs(floats(trial.wanted, trial.y_type).astype(np.float64))
    if trial.kept is not None:
        y = np.where(trial.kept, y, 0)
    y = as_blocks(y, block)
    with np.errstate(invalid="ignore"):
        largest = np.abs(np.where(np.isfinite(x), x, 0)).max(axis=1)
        smallest = np.where((y > 0) & np.isfinite(y), y, np.inf).min(axis=1)
    return largest, smallest


def _least_value(format: Format) -> float:
    """The smallest positive number of an element under the levels inside a block."""
    lowest = 0
    for level in format.levels[format.block_format.main_level + 1 :]:
        ends = (level.format.emin, level.format.emin + level.format.max_code)
        lowest += min(ends) if level.combine == "multiply" else -max(ends)
    return float(np.ldexp(format.element.value(1), lowest))


def _plain_numbers(low: float, high: float, most: int) -> list[float]:
    """The numbers of a range that need the fewest bits after the point."""
    for bits in range(9):
        first, last = int(np.ceil(low * 2**bits)), int(np.floor(high * 2**bits))
        if first <= last:
            return [k / 2**bits for k in range(first, min(last, first + most - 1) + 1) if k > 0]
    return []


def divisors(trial: Trial, format: Format) -> list[float]:
    """What the largest magnitudes may have been divided by: amax over the scale that the smallest y shows."""
    largest, smallest = _sizes(trial, block_of(format))
    some = (largest > 0) & np.isfinite(smallest)
    if not some.any():
        return []
    with np.errstate(all="ignore"):
        shown = largest[some] * _least_value(format) / smallest[some]
    found: list[float] = []
    # Blocks without the smallest element show too little, and scales at the end of their range too much.
    tops = [float(shown.max()), float(np.median(shown))]
    if format.element.exponent_bits and not format.element.taper:  # subnormals may be flushed
        tops += [top * 2.0**format.element.mantissa_bits for top in tops]
    for top in tops:
        if not 2.0**-20 < top < 2.0**20:
            continue
        if format.scale_kind == "power_of_two":
            # amax over the scale stays below the divisor where rules round up, below twice that where they round down.
            found += [n for most in (top, top / 2) for n in _plain_numbers(most, most * 1.06, 2)]
        elif format.has_scale_codes:
            found += [k / 4 for k in range(int(top * 3.6), int(top * 4.4) + 2) if k > 0][:12]
        else:
            found += _plain_numbers(top * (1 - 2.0**-8), top * (1 + 2.0**-8), 2)
    return list(dict.fromkeys(found))


@cache
def _scale_table(scale: ElementFormat) -> tuple[Array, Array]:
    """Codes of scales above zero, at most some thousands, and their values."""
    step = max(1, scale.max_code // 4096)
    codes = np.arange(int(scale.zero), scale.max_code + 1, step)
    return codes, np.array([scale.value(int(code)) for code in codes])


def least_scales(trial: Trial, made: Spec) -> list[int]:
    """Scale codes that blocks of the smallest numbers seem to have."""
    format, main = made.format, made.format.main
    if main is None or not format.has_scale_codes:
        return []
    encoded = trial.encode(made)
    largest, smallest = _sizes(trial, block_of(format))
    usable = np.flatnonzero((largest > 0) & np.isfinite(smallest))
    if encoded is None or not usable.size:
        return []
    outer = 1.0
    if format.block_format.main_level:
        outer = float(encoded[2][0].reshape(-1)[0])
    scale = main.format
    codes, table = _scale_table(scale)
    found: set[int] = set()
    for i in usable[np.argsort(largest[usable], kind="stable")][:8]:
        with np.errstate(all="ignore"):
            shown = smallest[i] / _least_value(format) / outer
        if np.isfinite(shown) and shown > 0:
            at = int(codes[np.abs(np.log2(table / shown)).argmin()])
            found |= {at - 1, at, at + 1}
    return sorted(code for code in found if 0 <= code <= scale.max_code)


def suggested(trial: Trial, made: Spec, numbers: Numbers) -> Numbers:
    """The numbers with those that a candidate's own sample suggests."""
    if not made.format.levels:
        return numbers
    return numbers.extended("divisor", divisors(trial, made.format)).extended(
        "scale_minimum", least_scales(trial, made)
    )
