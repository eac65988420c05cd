"""Inputs that tell specs apart, found by a small search and made as short as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from sparq_sim._core import Conversion, ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.formats import Spec
from sparq_sim.identify.candidates import block_of, with_conversion
from sparq_sim.identify.trial import one_nan, unsigned
from sparq_sim.quantize import emulate

_REFUSED = b"refused"


@dataclass(frozen=True)
class Input:
    """A float32 tensor that is zero but for a few elements."""

    shape: tuple[int, ...]
    elements: tuple[tuple[tuple[int, ...], int], ...]
    """Index and bits of each that is not +0."""

    def tensor(self) -> Array:
        """The tensor.

        >>> from sparq_sim.identify.apart import Input
        >>> Input((4,), (((1,), 0x3F800000),)).tensor()
        array([0., 1., 0., 0.], dtype=float32)
        """
        made = np.zeros(self.shape, np.uint32)
        for index, bits in self.elements:
            made[index] = bits
        return made.view(np.float32)

    def __str__(self) -> str:
        said = ", ".join(f"[{', '.join(map(str, index))}]=0x{bits:08X}" for index, bits in self.elements[:6])
        more = f" and {len(self.elements) - 6} more" if len(self.elements) > 6 else ""
        return f"x of {'x'.join(map(str, self.shape))}, zero but for {said or 'nothing'}{more}"


@dataclass(frozen=True)
class Apart:
    """Two specs and an input of which they make something else; None if the search found none."""

    first: str
    second: str
    input: Input | None
    index: tuple[int, ...] = ()
    """Where they differ first."""
    first_bits: str = ""
    second_bits: str = ""

    def __str__(self) -> str:
        if self.input is None:
            return f"{self.first} | {self.second}: no input was found on which values differ"
        where = f"[{', '.join(map(str, self.index))}]"
        return f"{self.first} | {self.second}: {self.input}; at {where} {self.first_bits} | {self.second_bits}"


def outcome(made: Spec, x: Array) -> bytes:
    """The bits of what a spec makes, or that it refuses."""
    try:
        with np.errstate(all="ignore"):
            values = emulate(x, made, inexact="round", threads=1)
    except ValueError:
        return _REFUSED
    return one_nan(unsigned(values), "float32").tobytes()


@cache
def _values(element: ElementFormat) -> Array:
    """Some numbers of an element, rising: the smallest and the largest."""
    top = element.max_code
    codes = range(top + 1) if top < 40 else [*range(12), *range(top // 2 - 6, top // 2 + 6), *range(top - 12, top + 1)]
    return np.array([element.value(code) for code in codes])


def _edges(element: ElementFormat) -> list[float]:
    """Largest magnitudes at which scale rules part."""
    largest = element.value(element.max_code)
    bases = [2.0**element.emax * t for t in (1.0, 1.25, 1.5, 1.75, 1.875, 1.9375, 1.99, 2.0)] + [largest]
    made = []
    for base in bases:
        made += [base, base * (1 + 2.0**-22), base * (1 - 2.0**-22), base * (1 + 2.0**-6)]
    return made


def _blocks(element: ElementFormat, width: int) -> list[Array]:
    """Blocks of one line: ties under scales nearby, edges of rules, NaN, Inf, zeros, tiny and huge numbers."""
    grid = _values(element)
    ties = (grid[1:] + grid[:-1]) / 2
    made: list[Array] = []
    rng = np.random.default_rng(1)
    largest = grid[-1]
    signs = np.where(np.arange(width) % 2, -1.0, 1.0)
    for edge in _edges(element):
        for shift in (1.0, 0.5, 2.0):
            row = rng.choice(np.concatenate([ties, ties * (1 + 2.0**-9), ties * (1 - 2.0**-9)]), width) * signs * shift
            row[np.abs(row) > edge] *= 0
            row[0] = edge * (1 if shift != 2.0 else -1)
            made.append(row)
    for extra in ([np.nan], [np.inf], [-np.inf], [-0.0], [0.0, -0.0], [np.nan, np.inf]):
        row = rng.standard_normal(width)
        row[1 : 1 + len(extra)] = extra[: width - 1]
        made += [row, row * 2.0**-130, np.where(np.arange(width) == 1, row, 0.0)]
    for exponent in (-149, -145, -140, -133, -130, -127, -126, -124, -120, -100, -20, -10, -6, 20, 100, 120, 126):
        with np.errstate(all="ignore"):
            made += [rng.standard_normal(width) * 2.0**exponent, rng.choice(ties / largest, width) * 2.0**exponent]
    made += [rng.standard_normal(width) * 2.0 ** rng.integers(-4, 4) for _ in range(24)]
    made += [rng.standard_normal(width) * 2.0 ** rng.integers(-12, 3, width) for _ in range(24)]
    return made


def _probes(one: Spec, other: Spec, ndim: int) -> list[Array]:
    """Inputs that may tell two specs apart."""
    (a, across), (b, over) = block_of(one.format), block_of(other.format)
    inner = max((level.along for spec in (one, other) for level in spec.format.levels), default=0)
    width = max(a, b, inner, 16)
    if ndim == 1:
        shape: tuple[int, ...] = (width,)
    else:
        shape = (1,) * (ndim - 1) + (width,)
    if (a, across) == (b, over) and one.axis == other.axis:
        lines = one.axis in (-1, ndim - 1)
        rows = _blocks(one.format.element, min(width, 32)) + _blocks(other.format.element, min(width, 32))
        shape = (1,) * (ndim - 1) + (min(width, 32),)
        if not lines:
            place = one.axis % ndim
            shape = tuple(min(width, 32) if i == place else 1 for i in range(ndim))
        with np.errstate(all="ignore"):
            return [row.astype(np.float32).reshape(shape) for row in rows]
    high = max(across, over, 1) + 1 if one.axis == other.axis else width + 1
    shape = (width + 1,) if ndim == 1 else (2,) * (ndim - 2) + (high, width + 1)
    rng = np.random.default_rng(2)
    made = []
    for spread in (2, 6, 10, 6, 6, 6):
        values = rng.standard_normal(shape) * np.exp2(rng.integers(-spread, spread, shape))
        made.append(values.astype(np.float32))
    return made


def _shrunk(one: Spec, other: Spec, x: Array) -> Array:
    """The input with as many elements zero as it can have, the largest parts first."""
    best = x.copy()
    flat = best.reshape(-1)
    size = flat.size
    while size >= 1:
        for start in range(0, flat.size, size):
            part = slice(start, start + size)
            kept = flat[part].copy()
            if not unsigned(kept).any():
                continue
            flat[part] = 0
            if outcome(one, best) == outcome(other, best):
                flat[part] = kept
        size //= 4 if size > 4 else 2
        if size == 0:
            break
    return best


def _as_input(x: Array) -> Input:
    bits = unsigned(x)
    places = zip(*np.nonzero(bits), strict=True)
    return Input(x.shape, tuple((tuple(int(i) for i in at), int(bits[at])) for at in places))


def tell_apart(specs: Sequence[Spec], labels: Sequence[str], ndim: int) -> list[Apart]:
    """For every pair, an input of which they make something else; inputs serve as many pairs as they can."""
    inputs: list[Array] = []
    known: dict[tuple[int, int], bytes] = {}

    def made(spec: int, at: int) -> bytes:
        if (spec, at) not in known:
            known[spec, at] = outcome(specs[spec], inputs[at])
        return known[spec, at]

    probed: dict[tuple[int, int], bytes] = {}
    found = []
    for i, one in enumerate(specs):
        for j in range(i + 1, len(specs)):
            other = specs[j]
            at = next((k for k in range(len(inputs)) if made(i, k) != made(j, k)), None)
            if at is None:
                probes = _cached_probes(one, other, ndim)
                for k, x in enumerate(probes):
                    results = []
                    for n, spec in ((i, one), (j, other)):
                        key = (n, id(x))
                        if key not in probed:
                            probed[key] = outcome(spec, x)
                        results.append(probed[key])
                    if results[0] != results[1]:
                        inputs.append(_shrunk(one, other, probes[k]))
                        at = len(inputs) - 1
                        break
            found.append(_pair(labels[i], labels[j], None if at is None else inputs[at], one, other))
    return found


@cache
def _pool(one: Spec, other: Spec, ndim: int) -> list[Array]:
    return _probes(one, other, ndim)


def _cached_probes(one: Spec, other: Spec, ndim: int) -> list[Array]:
    return _pool(_bare(one), _bare(other), ndim)


def _bare(made: Spec) -> Spec:
    """A spec without what probes do not depend on."""
    usual = "amax" if made.format.scale_kind == "float" else "floor"
    format = with_conversion(made.format, Conversion(scale_rule=usual))
    return Spec(format or made.format, None, "sparsify_first", made.axis)


def _pair(first: str, second: str, x: Array | None, one: Spec, other: Spec) -> Apart:
    if x is None:
        return Apart(first, second, None)
    a, b = outcome(one, x), outcome(other, x)
    words = [np.frombuffer(raw, np.uint32) if raw != _REFUSED else None for raw in (a, b)]
    if words[0] is None or words[1] is None:
        texts = ["refused" if word is None else f"0x{int(word[0]):08X}" for word in words]
        return Apart(first, second, _as_input(x), (0,) * x.ndim, *texts)
    at = int(np.flatnonzero(words[0] != words[1])[0])
    index = tuple(int(i) for i in np.unravel_index(at, x.shape))
    return Apart(first, second, _as_input(x), index, *(f"0x{int(word[at]):08X}" for word in words if word is not None))
