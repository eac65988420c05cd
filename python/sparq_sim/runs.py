"""Many small tensors at once: what a spec makes of each line, as bits, and where two specs differ."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sparq_sim._core import ScaleLevel
from sparq_sim.arrays import Array
from sparq_sim.formats import Spec
from sparq_sim.quantize import encode
from sparq_sim.tensor import BlockTensor

#: What two encodings may differ in: values or codes, values as numbers, scales.
Kind = Literal["bits", "numbers", "scales"]


@dataclass(frozen=True)
class Encoded:
    """What a spec makes of lines, each of them a tensor of its own."""

    values: Array
    """Bits of float32, [lines, width]."""
    codes: Array
    scales: tuple[Array, ...]
    """Bits of the scales of each level, outermost first, [lines, blocks]."""
    kept: Array
    """Whether a pattern keeps an element, [lines, width]."""
    refused: Array
    """Whether a line is refused, [lines]; its bits are zeros."""


@dataclass(frozen=True)
class Gaps:
    """Where two encodings of the same lines differ."""

    values: Array
    numbers: Array
    """Values that differ as numbers: zeros of either sign are equal."""
    codes: Array
    scales: Array | None
    """Of all levels side by side; None if their blocks are not the same."""

    def lines(self, kind: Kind) -> Array:
        """Lines that differ in something."""
        made: dict[Kind, tuple[Array | None, ...]] = {
            "bits": (self.values, self.codes),
            "numbers": (self.numbers,),
            "scales": (self.scales,),
        }
        found = np.zeros(len(self.values), np.bool_)
        for one in made[kind]:
            if one is not None:
                found |= one.any(axis=1)
        return found


def line_spec(made: Spec) -> Spec:
    """The spec for lines that have nothing in common: a scale of the tensor is one of the line, and so is a tile."""
    levels = [
        ScaleLevel(format=level.format, along=level.along, across=1, combine=level.combine)
        for level in made.format.levels
    ]
    return replace(made, format=replace(made.format, levels=levels), axis=-1)


def value_bits(tensor: BlockTensor) -> Array:
    """The decoded values as bits of float32."""
    values = np.asarray(tensor.decode("float32", inexact="round"))
    return values.view(np.uint32)


def plane_bits(tensor: BlockTensor) -> tuple[Array, ...]:
    """The scales of each level as integers."""
    return tuple(plane.view(np.uint32) if plane.dtype == np.float32 else plane for plane in tensor.scale_planes)


def encode_lines(x: Array, made: Spec) -> Encoded:
    """What `made`, a `line_spec`, makes of float32 lines, [lines, width].

    What is refused is NaN, Inf and magnitudes that are too large, so of lines in the order of their largest magnitudes
    the last ones are.
    """
    whole = _accepted(x, made)
    if whole is not None:
        return whole
    order = np.argsort((x.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(axis=1), kind="stable")
    good, bad = 0, len(x)  # lines of the order that are accepted, and that are not
    while bad - good > 1:
        middle = (good + bad) // 2
        accepted = _accepted(x[order[:middle]], made) is not None
        good, bad = (middle, bad) if accepted else (good, middle)
    finite = x.copy()
    finite[order[good:]] = 0
    made_of = encode_lines(finite, made)
    refused = np.zeros(len(x), np.bool_)
    refused[order[good:]] = True
    for plane in (made_of.values, made_of.codes, *made_of.scales):
        plane[refused] = 0
    return replace(made_of, refused=refused)


def _accepted(x: Array, made: Spec) -> Encoded | None:
    """Lines of which none is refused; None if one is."""
    try:
        tensor = encode(np.ascontiguousarray(x), made)
    except ValueError:
        return None
    kept = np.broadcast_to(np.True_, x.shape) if tensor.mask is None else tensor.mask
    planes = tuple(plane.copy() for plane in plane_bits(tensor))
    return Encoded(value_bits(tensor), tensor.codes.copy(), planes, kept, np.zeros(len(x), np.bool_))


def gaps(a: Encoded, b: Encoded) -> Gaps:
    """Where two encodings of the same lines differ; a line that one of them refuses differs everywhere."""
    one_refused = (a.refused != b.refused)[:, None]
    scales: Array | None = np.zeros((len(a.refused), 0), np.bool_)
    if [plane.shape for plane in a.scales] != [plane.shape for plane in b.scales]:
        scales = None
    elif a.scales:
        scales = np.concatenate([p != q for p, q in zip(a.scales, b.scales, strict=True)], axis=1) | one_refused
    values = a.values != b.values
    numbers = values & (((a.values | b.values) & np.uint32(0x7FFFFFFF)) != 0)
    return Gaps(values | one_refused, numbers | one_refused, (a.codes != b.codes) | one_refused, scales)


class Runs:
    """Encodings of lists of lines that have names, made once per spec."""

    def __init__(self) -> None:
        self._made: dict[tuple[Spec, Hashable], Encoded] = {}

    def encoded(self, name: Hashable, x: Array, made: Spec) -> Encoded:
        """`encode_lines` of the list of that name."""
        key = (made, name)
        if key not in self._made:
            self._made[key] = encode_lines(x, made)
        return self._made[key]

    def gaps(self, name: Hashable, x: Array, a: Spec, b: Spec) -> Gaps:
        """Where two specs differ on the list of that name."""
        return gaps(self.encoded(name, x, a), self.encoded(name, x, b))
