"""Inputs that tell specs apart, found by a small search and made as short as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.formats import Spec
from sparq_sim.identify.candidates import block_of
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


def _alike(one: Spec, other: Spec) -> bool:
    """Whether two specs have the same blocks on the same axis, so that a block tells them apart if anything does."""
    return block_of(one.format) == block_of(other.format) and one.axis == other.axis


def _width(made: Spec) -> int:
    """Elements that a line needs for levels to show."""
    return max(16, *(level.along for level in made.format.levels), 0)


def _single_blocks(specs: Sequence[Spec], made: Spec, ndim: int) -> list[Array]:
    """Blocks of one line for the elements of all specs with the blocks of one."""
    width = min(32, _width(made))
    place = made.axis % ndim
    shape = tuple(width if i == place else 1 for i in range(ndim))
    elements = dict.fromkeys(one.format.element for one in specs if _alike(one, made))
    with np.errstate(all="ignore"):
        return [row.astype(np.float32).reshape(shape) for element in elements for row in _blocks(element, width)]


def _many_blocks(one: Spec, other: Spec, ndim: int) -> list[Array]:
    """Tensors of a few lines, longer than the blocks of both."""
    width = max(_width(one), _width(other)) + 1
    lines = max(block_of(one.format)[1], block_of(other.format)[1], 1) + 1 if one.axis == other.axis else width
    shape = (width,) if ndim == 1 else (2,) * (ndim - 2) + (lines, width)
    rng = np.random.default_rng(2)
    spreads = (2, 6, 10, 6, 6, 6)
    made = (rng.standard_normal(shape) * np.exp2(rng.integers(-spread, spread, shape)) for spread in spreads)
    return [values.astype(np.float32) for values in made]


def _outcomes(made: Spec, probes: Sequence[Array]) -> list[bytes]:
    """`outcome` of each of several inputs of one shape, in one run where they do not see each other."""
    if all(level.across == 1 for level in made.format.levels):
        ndim = probes[0].ndim
        together = outcome(replace(made, axis=made.axis % ndim - ndim), np.stack(probes))
        if together != _REFUSED:
            size = len(together) // len(probes)
            return [together[i : i + size] for i in range(0, len(together), size)]
    return [outcome(made, x) for x in probes]


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

    pools: dict[object, list[Array]] = {}
    probed: dict[tuple[int, object], list[bytes]] = {}

    def probe(i: int, j: int) -> Array | None:
        one, other = specs[i], specs[j]
        alike = _alike(one, other)
        key: object = (block_of(one.format), one.axis) if alike else (i, j)
        if key not in pools:
            pools[key] = _single_blocks(specs, one, ndim) if alike else _many_blocks(one, other, ndim)
        for n in (i, j):
            if (n, key) not in probed:
                probed[n, key] = _outcomes(specs[n], pools[key])
        results = zip(probed[i, key], probed[j, key], pools[key], strict=True)
        return next((x for first, second, x in results if first != second), None)

    found = []
    for i, one in enumerate(specs):
        for j in range(i + 1, len(specs)):
            other = specs[j]
            at = next((k for k in range(len(inputs)) if made(i, k) != made(j, k)), None)
            if at is None and (x := probe(i, j)) is not None:
                inputs.append(_shrunk(one, other, x))
                at = len(inputs) - 1
            found.append(_pair(labels[i], labels[j], None if at is None else inputs[at], one, other))
    return found


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
