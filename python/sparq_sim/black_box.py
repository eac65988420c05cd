"""A function that multiplies matrices, asked for dot products of chosen products."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array, bfloat16_values, dtype_name, numpy_dtype, to_numpy
from sparq_sim.candidates import canonical
from sparq_sim.dtypes import DTYPE_ELEMENTS
from sparq_sim.formats import find_element
from sparq_sim.telling import drawn_start

Function = Callable[..., Any]

#: Exponents that products of probes keep to, so that sums are numbers of the result, by its dtype.
_REACH = {"float32": (-40, 40), "bfloat16": (-40, 40), "float16": (-24, 14), "int32": (0, 28)}


def element_values(element: ElementFormat) -> tuple[Array, Array]:
    """Finite non-negative numbers of an element in ascending order, and their codes; of float32 words the powers of
    two, alone and times 1.5."""
    if element.code_bits > 16:
        exponents = np.arange(-100, 101)
        values = np.sort(np.concatenate([[0.0], np.exp2(exponents), 1.5 * np.exp2(exponents)]))
        bits = values.astype(np.float32).view(np.uint32)
        return values, bits if element.code_bits == 32 else bits >> np.uint32(32 - element.code_bits)
    codes = np.arange(1 << (element.code_bits - 1), dtype=np.uint32)
    values = np.array([element.value(int(code)) for code in codes])
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order]) & (values[order] >= 0)]
    return values[order], codes[order]


@dataclass
class _Side:
    element: ElementFormat
    values: Array
    codes: Array

    def powers(self, normal: bool) -> list[int]:
        """Exponents of the powers of two that it holds."""
        low = self.element.emin if normal and self.element.exponent_bits else -1000
        mantissas, exponents = np.frexp(self.values)
        return [int(e) - 1 for m, e in zip(mantissas, exponents, strict=True) if m == 0.5 and e - 1 >= low]

    def encoded(self, numbers: Array) -> Array:
        """Codes of numbers that it holds."""
        if self.element.code_bits == 32:
            return np.ascontiguousarray(numbers, np.float32).view(np.uint32)
        places = np.searchsorted(self.values, np.abs(numbers))
        places = np.minimum(places, len(self.values) - 1)
        if not np.array_equal(self.values[places], np.abs(numbers)):
            raise ValueError("a probe needs numbers that the element does not hold")
        codes = self.codes[places].astype(np.int64)
        bits = self.element.code_bits
        if self.element.signedness == "twos_complement":
            codes = np.where(numbers < 0, (1 << bits) - codes, codes) % (1 << bits)
        else:
            codes = np.where(numbers < 0, codes | 1 << (bits - 1), codes)
        made: Array = codes.astype(np.dtype(f"u{self.element.code_bytes}"))
        return made


@dataclass
class BlackBox:
    """`function(a, b)`, or with `c_dtype` `function(a, b, c)`; shapes stay [tile, k], [tile, k] and [tile, tile]."""

    function: Function
    k: int
    a_format: str
    b_format: str
    operands: str
    c_dtype: str | None
    tile: int
    calls: int = 0
    dtype: str = ""
    held: tuple[int, int] = (-1000, 1000)
    """Exponents that products must keep to besides, since sums do not hold others."""
    sides: tuple[_Side, _Side] = field(init=False)
    splits: dict[int, tuple[int, int]] = field(init=False)
    places: list[tuple[Array, Array]] = field(init=False)
    """Rows and columns of outputs that answer a call's questions; calls take turns, so that all of them are asked."""

    def __post_init__(self) -> None:
        made = [_Side(element, *element_values(element)) for element in map(find_element, self.formats)]
        self.sides = (made[0], made[1])
        self.splits = {}
        normal = [set(side.powers(True)) for side in made]
        halves = {e for e in made[0].powers(False) if 1.5 * 2.0**e in made[0].values}

        def rank(ea: int, eb: int) -> tuple[bool, bool, int]:
            """Normal numbers, then such that 1.5 times as much is held too, then of about one size."""
            return ea in normal[0] and eb in normal[1], ea in halves, -abs(ea - eb)

        for ea, eb in itertools.product(made[0].powers(False), made[1].powers(False)):
            if ea + eb not in self.splits or rank(ea, eb) > rank(*self.splits[ea + eb]):
                self.splits[ea + eb] = (ea, eb)
        self.watch(np.ones((self.tile, self.tile), np.bool_))
        zeros = np.zeros((self.tile, self.k))
        self._call(zeros, zeros, np.zeros(self.tile))

    @property
    def takes_c(self) -> bool:
        """Whether the function takes c."""
        return self.c_dtype is not None

    @property
    def formats(self) -> tuple[str, str]:
        """Names of the elements of a and b."""
        return self.a_format, self.b_format

    def reach(self, normal: bool = True) -> tuple[int, int]:
        """The smallest and the largest power of two that a product can be, and that c and sums of the result hold."""
        held = [self.held, *(_REACH[dtype] for dtype in (self.dtype, self.c_dtype) if dtype)]
        low, high = max(low for low, _ in held), min(high for _, high in held)
        lists = [side.powers(normal) for side in self.sides]
        highest = max(lists[0]) + max(lists[1])
        # Room for 1.5 times as much, where the element is short.
        return max(min(lists[0]) + min(lists[1]), low), min(highest, high)

    def narrow(self) -> None:
        """Keeps to what a float16 holds, where sums do not hold the largest product or the smallest."""
        low, high = self.reach()
        ends = np.zeros((2, self.k))
        ends[:, 0] = 2.0**low, 2.0**high
        if not np.array_equal(self.dots(ends, np.zeros(2) if self.takes_c else None), ends[:, 0]):
            self.held = _REACH["float16"]

    def watch(self, mask: Array) -> None:
        """Ask only these places, [tile, tile]: those of a diagonal at once, which share no row and no column."""
        rows = np.arange(self.tile)
        diagonals = ((rows, (rows + shift) % self.tile) for shift in range(self.tile))
        chosen = ((i[mask[i, j]], j[mask[i, j]]) for i, j in diagonals)
        self.places = [(i, j) for i, j in chosen if len(i)]

    def dots(self, products: Array, starts: Array | None = None) -> Array:
        """The results, as float64, of rows of products that are 1 or 1.5 times powers of two, or zero."""
        return self.results(*self.factors(products), starts)

    def factors(self, products: Array) -> tuple[Array, Array]:
        """Numbers of a and of b that make such products."""
        mantissa, exponent = np.frexp(np.abs(products))
        power = exponent - 1
        pairs = {p: self.splits[p] for p in np.unique(power[products != 0]).tolist()}
        a, b = np.zeros_like(products), np.zeros_like(products)
        for p, (ea, eb) in pairs.items():
            here = (power == p) & (products != 0)
            a[here] = np.sign(products[here]) * np.ldexp(2 * mantissa[here], ea)
            b[here] = 2.0**eb
        return a, b

    def results(self, a: Array, b: Array, starts: Array | None) -> Array:
        """One dot product per row."""
        out = np.empty(len(a))
        done = 0
        while done < len(a):
            rows, columns = self.places[self.calls % len(self.places)]
            part = slice(done, done + len(rows))
            rows, columns = rows[: len(a[part])], columns[: len(a[part])]
            left, right = np.zeros((self.tile, self.k)), np.zeros((self.tile, self.k))
            left[rows], right[columns] = a[part], b[part]
            c = np.zeros(self.tile)
            if starts is not None:
                c[rows] = starts[part]
            out[part] = self._call(left, right, c)[rows, columns]
            done += len(rows)
        return out

    def encoded(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Codes of numbers."""
        return self.sides[0].encoded(a), self.sides[1].encoded(b)

    def _call(self, a: Array, b: Array, c: Array) -> Array:
        start = np.repeat(c[:, None], self.tile, axis=1) if self.takes_c else None
        made = to_numpy(self.ask(*self.encoded(a, b), start), "d")
        return (bfloat16_values(made) if self.dtype == "bfloat16" else made).astype(np.float64)

    def bits(self, a: Array, b: Array, start: Array | None) -> Array:
        """Canonical bits of the outputs of codes and values of c."""
        made = np.ascontiguousarray(to_numpy(self.ask(a, b, start), "d"))
        return canonical(made.view(f"u{made.itemsize}"), self.dtype)

    def drawn_start(self, rng: np.random.Generator, shape: tuple[int, int], spread: int) -> Array | None:
        """Random values of c that its dtype holds, where it is taken; those of bfloat16 are float32."""
        if not self.takes_c:
            return None
        made = drawn_start(rng, shape, {"float16": "fp16", "int32": "int32"}.get(str(self.c_dtype), "fp32"), spread)
        return made.astype(numpy_dtype("bfloat16")).astype(np.float32) if self.c_dtype == "bfloat16" else made

    def ask(self, a: Array, b: Array, start: Array | None) -> Any:
        """What the function makes of codes and values of c, in the form in which it takes them."""
        given = [self._given(x, name) for x, name in zip((a, b), self.formats, strict=True)]
        if start is not None:
            given.append(self._start(start))
        self.calls += 1
        d = self.function(*given)
        name = dtype_name(getattr(d, "dtype", type(d).__name__))
        if name not in _REACH:
            raise TypeError(f"function: gave {name}; needed {', '.join(_REACH)}")
        shape = tuple(getattr(d, "shape", ()))
        if shape != (len(a), len(b)):
            raise ValueError(f"function: gave shape {shape}; needed [M, N] = ({len(a)}, {len(b)})")
        self.dtype = name
        return d

    def _given(self, codes: Array, name: str) -> Any:
        if self.operands == "codes":
            return codes
        dtype = next((d for d, element in DTYPE_ELEMENTS.items() if element == name), None)
        dtype = "float32" if name in ("tf32", "fp32") else dtype
        if dtype is None:
            raise ValueError(f"{name} has no dtype; give operands='codes'")
        if self.operands == "torch":
            import torch

            signed = torch.from_numpy(codes.view(f"i{codes.itemsize}"))
            return signed.view(getattr(torch, dtype))
        return codes.view(numpy_dtype(dtype))

    def _start(self, start: Array) -> Any:
        """c in its dtype."""
        name = str(self.c_dtype)
        if self.operands == "torch":
            import torch

            return torch.from_numpy(np.ascontiguousarray(start)).to(getattr(torch, name))
        return start.astype(numpy_dtype(name))
