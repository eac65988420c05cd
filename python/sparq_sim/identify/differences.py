"""Where a candidate that does not make y differs from it, and in what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.formats import Spec
from sparq_sim.identify.candidates import with_fields
from sparq_sim.identify.facts import Frame
from sparq_sim.identify.trial import Trial, floats, unsigned

#: What a difference lies in, the first that fits.
KINDS = ("NaN/Inf blocks", "scales", "saturated maxima", "ties", "subnormals", "other roundings", "signs of zero")
_NEAREST = ("nearest_even", "nearest_away", "nearest_zero", "nearest_up")


def spread(plane: Array, shape: tuple[int, ...], along: int, across: int) -> Array:
    """Something per block as something per element of [stack, lines, length]."""
    if plane.size == 1:
        return np.broadcast_to(plane.reshape(1, 1, 1), shape)
    plane = np.repeat(plane, along or shape[2], axis=2)[:, :, : shape[2]]
    return np.repeat(plane, across, axis=1)[:, : shape[1]] if across > 1 else plane


def kinds(frame: Frame, made: Spec) -> tuple[dict[str, int], int]:
    """Elements of each of `KINDS`, and how many blocks have another scale."""
    trial = frame.whole
    encoded = trial.encode(made)
    if encoded is None:
        return {}, 0
    got, codes, planes = encoded
    values, signs = trial.different(got)
    found = dict.fromkeys(KINDS, 0)
    found["signs of zero"] = int(signs.size)
    wrong = np.zeros(trial.x.shape, bool)
    wrong.reshape(-1)[values] = True

    def take(name: str, mask: Array) -> None:
        found[name] = int((wrong & mask).sum())
        wrong[mask] = False

    main = made.format.main
    along, across = (1, 1) if main is None else (main.along, main.across)
    with np.errstate(all="ignore"):
        ours, theirs = floats(got, trial.y_type), floats(trial.wanted, trial.y_type)
        wild = ~np.isfinite(trial.x) | ~np.isfinite(ours) | ~np.isfinite(theirs)
    if main is not None:
        wild = spread(_per_block(wild, along, across), wild.shape, along, across)
    take("NaN/Inf blocks", wild)
    blocks = 0
    if main is not None and wrong.any():
        elsewhere = _other_scales(trial, made, planes, wrong, (along, across))
        blocks = int(elsewhere.sum())
        take("scales", spread(elsewhere, wrong.shape, along, across))
    element = made.format.element
    magnitudes = codes & ((1 << (element.code_bits - 1)) - 1)
    if element.signedness == "twos_complement":
        signed = np.where(codes >> (element.code_bits - 1), codes.astype(np.int64) - (1 << element.code_bits), codes)
        magnitudes = np.abs(signed)
    take("saturated maxima", magnitudes >= element.max_code)
    if wrong.any():
        take("ties", _ties(trial, made))
    if element.exponent_bits > 0 and not element.taper:
        take("subnormals", magnitudes >> element.mantissa_bits == 0)
    found["other roundings"] = int(wrong.sum())
    return {name: count for name, count in found.items() if count}, blocks


def _per_block(mask: Array, along: int, across: int) -> Array:
    """Whether any element of each block is in the mask."""
    if across == 0:
        return np.asarray(mask.any(keepdims=True))
    some = np.logical_or.reduceat(mask, np.arange(0, mask.shape[2], along or mask.shape[2]), axis=2)
    if across > 1:
        some = np.logical_or.reduceat(some, np.arange(0, mask.shape[1], across), axis=1)
    return some


def _ties(trial: Trial, made: Spec) -> Array:
    """Elements that the three nearest roundings do not agree on."""
    runs = []
    for rounding in _NEAREST:
        format = with_fields(made.format, {"rounding": rounding})
        got = None if format is None else trial.run(replace(made, format=format))
        if got is not None:
            runs.append(got)
    if len(runs) < 2:
        return np.zeros(trial.x.shape, bool)
    apart: Array = np.any([one != runs[0] for one in runs[1:]], axis=0)
    return apart


def _other_scales(trial: Trial, made: Spec, planes: list[Array], wrong: Array, block: tuple[int, int]) -> Array:
    """Blocks that are wrong and would be right under a scale nearby."""
    along, across = block
    at = made.format.block_format.main_level
    broken = _per_block(wrong, along, across)
    right = np.zeros(broken.shape, bool)
    for scales in _nearby(made, planes, at):
        again = trial.encode(made, scales)
        if again is None:
            continue
        values, _ = trial.different(again[0])
        still = np.zeros(trial.x.shape, bool)
        still.reshape(-1)[values] = True
        right |= broken & ~_per_block(still, along, across)
    return right


def _nearby(made: Spec, planes: list[Array], at: int) -> Iterator[list[Array]]:
    """Scales of the main level a code, or a step of float32, above and below."""
    main = made.format.main
    if main is None or (main.format.signedness != "unsigned" and main.format.code_bytes < 4):
        return
    own = planes[at]
    for step in (1, -1, 2, -2):
        if main.format.code_bytes == 4:
            bits = unsigned(own).astype(np.int64) + step
            moved = np.clip(bits, 1, 0x7F7FFFFF).astype(np.uint32).view(np.float32)
            moved = np.where(np.isnan(own), own, moved)
        else:
            top = main.format.max_code
            codes = np.clip(own.astype(np.int64) + step, int(main.format.zero), top)
            moved = np.where(own > top, own, codes).astype(own.dtype)
        yield [np.ascontiguousarray(moved) if i == at else plane.copy() for i, plane in enumerate(planes)]
