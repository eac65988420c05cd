"""Split-K: parts of K that a machine adds up by themselves, and how their sums meet (docs/numerics.md section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from sparq_sim._core import Datapath
from sparq_sim.arrays import Array
from sparq_sim.events import DOT_COUNTS
from sparq_sim.steps import ONE, checked_precision, fused_step, rounded_to

T = TypeVar("T", bound="Divisible")

ORDERS = ("ascending", "tree")


class Divisible(Protocol):
    """A product that can be cut along K."""

    @property
    def k(self) -> int:
        """Products of a dot product, as the machine counts them."""

    def part(self: T, begin: int, end: int) -> T:
        """That run of K alone."""

    def product(self, c: Array | None) -> Array:
        """float32 [m, n], from c or +0 on."""


@dataclass(frozen=True)
class SplitK:
    """Parts of K, each from +0 on and padded to the instruction by itself; c begins the total.

    Args:
        parts: how many, at most: each has K / parts products, rounded up to whole instructions (or steps) of the
            machine, and what begins beyond K is no part.
        length: products of a part, instead.
        order: ``"ascending"`` (the total takes one part after the other, as `chunk` of a `Datapath` does), ``"tree"``
            (n sums are the first n // 2 and the others, and the total takes their sum), or the numbers of the parts
            in the order in which the total takes them.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``: what the sums of the parts, c and totals are rounded to.
            Sums of a machine that writes int32 are added in its integers, which wrap or saturate as it says.

    Raises:
        ValueError, TypeError: what means nothing.

    Source of the rules: docs/numerics.md section 10.

    >>> import numpy as np, sparq_sim as sq
    >>> a = np.float32([[2**24, 1, 1, 1]])
    >>> b = np.ones((1, 4), np.float32)
    >>> float(sq.matmul(a, b, datapath="fma32")[0, 0]), float(sq.matmul(a, b, datapath="fma32", split_k=2)[0, 0])
    (16777216.0, 16777218.0)
    """

    parts: int | None = None
    length: int | None = None
    order: str | tuple[int, ...] = "ascending"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if (self.parts is None) == (self.length is None):
            raise ValueError("SplitK: needed one of parts= and length=")
        for name in ("parts", "length"):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise ValueError(f"split_k: {name}={value!r}: needed a positive integer")
        checked_precision(self.precision)
        if isinstance(self.order, (list, tuple)):
            object.__setattr__(self, "order", tuple(self.order))
            if sorted(self.order) != list(range(len(self.order))):
                raise ValueError(f"split_k: order={self.order!r}: needed every part once, from 0 on")
        elif self.order not in ORDERS:
            raise ValueError(f"split_k: order={self.order!r}: choose one of {', '.join(ORDERS)}, or numbers of parts")

    def __str__(self) -> str:
        text = f"{self.parts} parts of K" if self.length is None else f"parts of {self.length} of K"
        words = {"order": (self.order, "ascending"), "precision": (self.precision, "fp32")}
        return " ".join([text, *(f"{name}={word}" for name, (word, usual) in words.items() if word != usual)])

    def check(self, path: Datapath) -> None:
        """ValueError for a machine whose integers are in no precision."""
        if path.output == "int32" and self.precision != "fp32":
            raise ValueError(f"split_k: precision={self.precision!r}: parts of int32 meet in integers")

    def ends(self, k: int, path: Datapath) -> list[int]:
        """Where the parts end.

        Raises:
            ValueError: an order of another number of parts.
        """
        unit = max(1, path.instruction or path.group)
        length = self.length
        if length is None:
            assert self.parts is not None
            length = -(-k // (self.parts * unit)) * unit
        ends = [min(begin + length, k) for begin in range(0, k, max(1, length))]
        if isinstance(self.order, tuple) and len(self.order) != len(ends):
            raise ValueError(f"split_k: order={self.order!r}: K = {k} has {len(ends)} parts of {length}")
        return ends


def split_of(given: SplitK | int | None) -> SplitK | None:
    """What ``split_k=`` means.

    Raises:
        TypeError: no `SplitK` and no number of parts.
    """
    if given is None or isinstance(given, SplitK):
        return given
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)):
        raise TypeError(f"split_k: needed a SplitK or a number of parts, got {type(given).__name__}")
    return SplitK(parts=int(given))


def fitted(values: Array, path: Datapath) -> Array:
    """int64 sums in the range of a machine's integers, as it brings them there."""
    low = -(1 << (path.integer_bits - 1))
    if path.integer_overflow == "saturate":
        return np.clip(values, low, -low - 1)
    return (values - low) % (-2 * low) + low


def sum_of_parts(
    whole: Divisible,
    how: SplitK,
    path: Datapath,
    c: Array | None,
    threads: int | None = None,
    counts: Array | None = None,
) -> Array:
    """float32 [m, n], or the bits of int32: c, or +0, and the sums of all parts. What overflows or wraps where they
    meet is added to `counts`, as `multiply` takes them.

    Raises:
        ValueError: a precision of integers.
    """
    ends = how.ends(whole.k, path)
    integers = path.output == "int32"
    how.check(path)

    def counted(found: Array, name: str) -> None:
        if counts is not None:
            counts[..., DOT_COUNTS.index(name)] += found if counts.ndim > 1 else np.count_nonzero(found)

    def narrowed(x: Array) -> Array:
        if integers:
            return as_bits(x.view(np.int32).astype(np.int64))
        finite = np.isfinite(x) if counts is not None else x
        rounded_to(x, how.precision)
        if counts is not None:
            counted(finite & np.isinf(x), "overflowed")
        return x

    def as_bits(sums: Array) -> Array:
        kept = fitted(sums, path)
        counted(kept != sums, "wrapped")
        return kept.astype(np.int32).view(np.float32)

    def add(x: Array, total: Array) -> Array:
        if integers:
            return as_bits(x.view(np.int32).astype(np.int64) + total.view(np.int32))
        finite = np.isfinite(x) & np.isfinite(total) if counts is not None else x
        fused_step(x, ONE, total, total, nan_bits=path.nan_bits, precision=how.precision, threads=threads)
        if counts is not None:
            counted(finite & np.isinf(total), "overflowed")
        return total

    def part(number: int) -> Array:
        begin = 0 if number == 0 else ends[number - 1]
        return narrowed(whole.part(begin, ends[number]).product(None))

    def tree(numbers: Sequence[int]) -> Array:
        if len(numbers) == 1:
            return part(numbers[0])
        half = len(numbers) // 2
        return add(tree(numbers[:half]), tree(numbers[half:]))

    if not ends:
        return whole.product(c)
    total = None if c is None else narrowed(c.copy())
    numbers = how.order if isinstance(how.order, tuple) else range(len(ends))
    sums = [tree(numbers)] if how.order == "tree" else (part(number) for number in numbers)
    for own in sums:
        total = add(own, np.zeros_like(own) if total is None else total)
    assert total is not None
    return total
