"""What x and y say before anything is run: their bits, their lines, and which places are worth looking at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sparq_sim._core import Sparsity
from sparq_sim.arrays import Array, Source, normal_axis
from sparq_sim.formats import conversions
from sparq_sim.identify.trial import Trial, floats, one_nan, unsigned

#: Elements of a line that are looked at together: every power of two up to it divides it.
SEGMENT = 128
#: Elements that are looked at for choosing places; more are left to the exact runs.
_LOOKED_AT = 1 << 21
#: Blocks whose values are counted.
_COUNTED = 24


@dataclass(frozen=True)
class Pair:
    """x before and y after, as bits in the user's order of axes."""

    x: Array
    """float32, or float64 if it was that."""
    y: Array
    """Bits, NaN as the canonical one."""
    x_type: str
    """Of `x`."""
    y_type: str
    given_type: str
    """Of the x that was given."""

    @classmethod
    def of(cls, x: Source, y: Source) -> Pair:
        """Checks and widens.

        Raises:
            ValueError: shapes that differ, nothing in them, or y equal to x.
        """
        if x.shape != y.shape:
            raise ValueError(f"y: shape {y.shape}; needed the shape of x, {x.shape}")
        if x.data.size == 0:
            raise ValueError(f"x: shape {x.shape} has no elements, so nothing can be told")
        before = np.ascontiguousarray(x.to_user(x.data)).reshape(x.shape or (1,))
        after = np.ascontiguousarray(y.to_user(y.data)).reshape(y.shape or (1,))
        wide = floats(unsigned(before), x.dtype)
        pair = cls(wide, one_nan(unsigned(after), y.dtype), wide.dtype.name, y.dtype, x.dtype)
        if pair.same.all():
            raise ValueError("y equals x everywhere: the identity, or any format that holds these numbers")
        return pair

    @cached_property
    def values(self) -> Array:
        """y as numbers."""
        return floats(self.y, self.y_type)

    @cached_property
    def same(self) -> Array:
        """Where y is x: NaN is NaN, zeros have their signs."""
        before, after = self.x, self.values
        with np.errstate(invalid="ignore"):
            equal = (before == after) & (np.signbit(before) == np.signbit(after))
            same: Array = equal | (np.isnan(before) & np.isnan(after))
        return same


def significant_bits(values: Array) -> Array:
    """Bits from the first to the last one of each number; 0 for zeros, NaN and Inf."""
    with np.errstate(invalid="ignore"):
        fraction, _ = np.frexp(np.where(np.isfinite(values), values, 0).astype(np.float64))
        steps = np.abs(np.ldexp(fraction, 53)).astype(np.int64)
        last = np.frexp((steps & -steps).astype(np.float64))[1]
    bits: Array = np.where(steps == 0, 0, 54 - last)
    return bits


@dataclass(eq=False)
class Frame:
    """A tensor with one of its axes as the reduction axis: [stack, neighbouring lines, length]."""

    axis: int
    x: Array
    y: Array
    pair: Pair
    threads: int | None
    order: tuple[int, ...] = ()
    """Axis i before reshaping is axis order[i] of the user's array."""
    #: (line, segment) that samples are made of: ordinary ones, and those where something may show.
    ordinary: list[tuple[int, int]] = field(default_factory=list)
    chosen: list[tuple[int, int]] = field(default_factory=list)
    #: Changes with `chosen`.
    version: int = 0
    _samples: dict[tuple[object, ...], Trial] = field(default_factory=dict)
    _counts: dict[tuple[int, int], list[Array]] = field(default_factory=dict)
    """Of some blocks, how often each value of y is there, the most frequent first."""

    @classmethod
    def along(cls, pair: Pair, axis: int, threads: int | None) -> Frame:
        """The pair with `axis` last and its neighbour before (docs/numerics.md section 6)."""
        ndim = pair.x.ndim
        last = normal_axis(axis, ndim)
        near = [] if ndim < 2 else [last - 1 if last > 0 else 1]
        order = [i for i in range(ndim) if i not in (*near, last)] + near + [last]
        shape = (-1, pair.x.shape[near[0]] if near else 1, pair.x.shape[last])
        x, y = (np.ascontiguousarray(a.transpose(order)).reshape(shape) for a in (pair.x, pair.y))
        frame = cls(axis, x, y, pair, threads, tuple(order))
        frame._choose(significant_bits(floats(y, pair.y_type)))
        return frame

    def index(self, flat: int) -> tuple[int, ...]:
        """A flat place as the user's index."""
        shape = [self.pair.x.shape[i] for i in self.order]
        found = dict(zip(self.order, np.unravel_index(flat, shape), strict=True))
        return tuple(int(found[i]) for i in range(len(shape)))

    @property
    def length(self) -> int:
        return int(self.x.shape[2])

    @property
    def near(self) -> int:
        return int(self.x.shape[1])

    @property
    def lines(self) -> int:
        return int(self.x.shape[0] * self.x.shape[1])

    @property
    def width(self) -> int:
        """Elements of a segment."""
        return min(SEGMENT, self.length)

    @cached_property
    def whole(self) -> Trial:
        """All of it."""
        return Trial(self.x, self.pair.x_type, self.y, self.pair.y_type, None, self.threads)

    @cached_property
    def _flat(self) -> tuple[Array, Array]:
        return self.x.reshape(self.lines, self.length), self.y.reshape(self.lines, self.length)

    def _choose(self, bits_of_y: Array) -> None:
        """Places for the samples."""
        x, y = self._flat
        take = max(1, _LOOKED_AT // max(1, self.length))
        rows = np.arange(self.lines) if self.lines <= take else np.linspace(0, self.lines - 1, take).astype(int)
        count = -(-self.length // self.width)
        before = self._segments(x[rows], count)
        after = self._segments(floats(y[rows], self.pair.y_type), count)
        bits = self._segments(bits_of_y.reshape(self.lines, self.length)[rows], count)
        with np.errstate(all="ignore"):
            scores = _scores(before, after, bits)
            sizes = np.abs(before)
            top = sizes.max(axis=-1)
            plain = np.isfinite(before).all(-1) & np.isfinite(after).all(-1) & (top > 2.0**-100) & (top < 2.0**100)
        rng = np.random.default_rng(0)
        picked: dict[int, None] = {}
        for score, most in scores:
            flat = score.reshape(-1)
            best = np.argsort(-flat, kind="stable")[:most]
            picked |= dict.fromkeys(int(i) for i in best if flat[i] > -np.inf)
        usual = rng.permutation(np.flatnonzero(plain))[:64]
        total = len(rows) * count
        if not usual.size:
            usual = rng.permutation(total)[:64]
        self.ordinary = [(int(rows[i // count]), int(i % count)) for i in usual[: max(8, 3072 // self.width)]]
        picked |= dict.fromkeys(int(i) for i in usual)
        self.chosen = [(int(rows[i // count]), i % count) for i in picked]

    def _segments(self, lines: Array, count: int) -> Array:
        room = np.zeros((len(lines), count * self.width), lines.dtype)
        room[:, : self.length] = lines
        return room.reshape(len(lines), count, self.width)

    def add(self, places: Array, most: int = 8) -> None:
        """Has the samples look at more flat places of the whole."""
        known = set(self.chosen)
        spread = places[np.unique(np.linspace(0, len(places) - 1, 4 * most).astype(int))] if len(places) else places
        fresh = [(int(i) // self.length, int(i) % self.length // self.width) for i in spread]
        fresh = [one for one in dict.fromkeys(fresh) if one not in known][:most]
        if fresh:
            self.chosen += fresh
            self.version += 1
            self._samples.clear()

    def sample(self, block: tuple[int, int], *, ordinary: bool) -> Trial:
        """Some of the blocks of a format, with what a scale of the row or the tensor has to see besides."""
        along, across = block
        shape: tuple[object, ...] = ("segments",)
        if across > 1:
            shape = ("tiles", across, along)
        elif along == 0 and across == 1 and self.length > self.width:
            shape = ("rows",)
        elif along > 0 and self.width % along and self.length > self.width:
            shape = ("segments", min(self.length, along * max(1, self.width // along)))
        key = (*shape, ordinary)
        if key not in self._samples:
            x, y, kept = self._tiles(across, along, ordinary) if across > 1 else self._lines(shape, ordinary)
            self._samples[key] = Trial(x, self.pair.x_type, y, self.pair.y_type, kept, self.threads)
        return self._samples[key]

    def held(self, block: tuple[int, int], values: int) -> float:
        """The share of y that as many values in each block can make, at most: what the most frequent ones of some
        blocks are of them."""
        along, across = block
        if along == 0 and across == 0 and self.y.size > _LOOKED_AT:
            return 1.0
        if block not in self._counts:
            self._counts[block] = [
                np.sort(np.unique(part, return_counts=True)[1])[::-1] for part in self._some_blocks(along, across)
            ]
        counts = self._counts[block]
        return sum(int(one[:values].sum()) for one in counts) / max(1, sum(int(one.sum()) for one in counts))

    def _some_blocks(self, along: int, across: int) -> list[Array]:
        """Elements of y of some blocks, spread over the tensor."""
        if across == 0:
            return [self.y]
        high, wide = min(across, self.near), min(along or self.length, self.length)
        rows, columns = -(-self.near // high), -(-self.length // wide)
        total = len(self.y) * rows * columns
        made = []
        for i in np.unique(np.linspace(0, total - 1, _COUNTED).astype(int)):
            stack, down, right = np.unravel_index(int(i), (len(self.y), rows, columns))
            made.append(self.y[stack, down * high : (down + 1) * high, right * wide : (right + 1) * wide])
        return made

    def _beyond(self, values: Array) -> Array:
        """What a scale of each line sees: the first largest finite number, the largest of the other sign (a zero
        point lies between the two), and a NaN or Inf if there is one. [lines, 3]"""
        every = np.arange(len(values))
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(values)
            numbers = np.where(finite, values, 0)
            largest = numbers[every, np.abs(numbers).argmax(axis=-1)]
            opposite = np.where(largest > 0, numbers.min(axis=-1), numbers.max(axis=-1))
            worst = np.where(finite, 0, np.where(np.isnan(values), np.inf, 1)).argmax(axis=-1)
            other = np.where(finite.all(axis=-1), values.dtype.type(0), values[every, worst])
        return np.stack([largest, opposite, other], axis=-1)

    @cached_property
    def _of_the_tensor(self) -> Array:
        seen: Array = self._beyond(self._beyond(self._flat[0]).reshape(1, -1))[0]
        return seen

    def _lines(self, shape: tuple[object, ...], ordinary: bool) -> tuple[Array, Array, Array]:
        x, y = self._flat
        width = int(shape[1]) if len(shape) > 1 else self.width  # type: ignore[call-overload]
        places = dict.fromkeys(
            (line, at * self.width // width) for line, at in (self.ordinary if ordinary else self.chosen)
        )
        count = len(places)
        extra = 64 if shape[0] == "rows" else 0
        made = np.zeros((count + 2, width + extra), x.dtype)
        wanted, kept = np.zeros(made.shape, y.dtype), np.zeros(made.shape, bool)
        for i, (line, at) in enumerate(places):
            part = slice(at * width, min((at + 1) * width, self.length))
            size = part.stop - part.start
            made[i, :size], wanted[i, :size], kept[i, :size] = x[line, part], y[line, part], True
        if extra:
            seen = self._beyond(x[[line for line, _ in places]])
            made[:count, width : width + 2] = seen[:, :2]
            if not ordinary:
                made[:count, width + extra // 2] = seen[:, 2]
        self._above(made, ordinary)
        return made, wanted, kept

    def _above(self, made: Array, ordinary: bool) -> None:
        """The last two blocks hold what a scale of the tensor sees."""
        largest, opposite, other = self._of_the_tensor
        made[-2].flat[0] = largest
        made[-2].flat[made[-2].size - 1] = largest if made[-2].size == 1 else opposite
        if not ordinary or not np.isfinite(floats(self.y, self.pair.y_type)).any():
            made[-1].flat[0] = other

    def _tiles(self, across: int, along: int, ordinary: bool) -> tuple[Array, Array, Array]:
        high, wide = min(across, self.near), min(along or self.length, self.length)
        places: dict[tuple[int, int, int], None] = {}
        for line, at in self.ordinary if ordinary else self.chosen:
            places[line // self.near, line % self.near // high, at * self.width // wide] = None
        most = max(3, (8192 if ordinary else 65536) // (high * wide))
        tiles = list(places)[:most]
        made = np.zeros((len(tiles) + 2, high, wide), self.x.dtype)
        wanted, kept = np.zeros(made.shape, self.y.dtype), np.zeros(made.shape, bool)
        for i, (stack, down, right) in enumerate(tiles):
            box = (stack, slice(down * high, (down + 1) * high), slice(right * wide, (right + 1) * wide))
            part = self.x[box]
            room = (i, slice(0, part.shape[0]), slice(0, part.shape[1]))
            made[room], wanted[room], kept[room] = part, self.y[box], True
        self._above(made, ordinary)
        return made, wanted, kept

    @cached_property
    def sparsity(self) -> list[Sparsity]:
        """N:M patterns that the zeros of y show: the smallest M whose groups never hold more than N < M."""
        before, after = self._flat[0] != 0, floats(self._flat[1], self.pair.y_type) != 0
        for group in (2, 4, 8, 16, 32):
            starts = np.arange(0, self.length, group)
            live = np.add.reduceat(after, starts, axis=1, dtype=np.int64)
            able = np.add.reduceat(before, starts, axis=1, dtype=np.int64)
            kept = int(live.max())
            if 0 < kept < group and int((able > kept).sum()) > 3 and float((live == kept).mean()) > 0.5:
                return [Sparsity(kept=kept, group=group, ties=ties) for ties in conversions()["ties"]]
        return []


def _scores(x: Array, y: Array, bits_of_y: Array) -> list[tuple[Array, int]]:
    """How much each segment has of what tells specs apart (-Inf: nothing), and how many of the best are taken."""
    sizes, results = np.abs(x), np.abs(y)
    finite = np.isfinite(x)
    top = np.where(finite, sizes, 0).max(axis=-1)
    never = -np.inf
    bits = significant_bits(x)
    most = np.percentile(bits_of_y[bits_of_y > 0], 99) if (bits_of_y > 0).any() else 0
    ties = ((bits > 0) & (bits <= most + 1) & (x != y)).sum(axis=-1)
    fraction = np.frexp(top)[0] * 2  # of the largest one, in [1, 2)
    ratio = np.where(results.max(-1) > 0, top / results.max(-1), never)
    some = top > 0

    def where(mask: Any, score: Any) -> Array:
        return np.where(mask, score, never)

    def near(value: float) -> list[tuple[Array, int]]:
        above = where(some & (fraction >= value), -(fraction - value))
        return [(above, 2), (where(some & (fraction < value), fraction - value), 2)]

    return [
        ((~finite).sum(-1) - np.where(finite.all(-1), np.inf, 0), 8),
        (where(finite.all(-1), (~np.isfinite(y)).sum(-1) - np.where(np.isfinite(y).all(-1), np.inf, 0)), 4),
        (where((x == 0).any(-1), (x == 0).sum(-1)), 3),
        (where(((x == 0) & np.signbit(x)).any(-1), ((x == 0) & np.signbit(x)).sum(-1)), 3),
        (where(((y == 0) & (x < 0)).any(-1), ((y == 0) & (x < 0)).sum(-1)), 4),
        (where(((sizes > 0) & (sizes < 2.0**-126)).any(-1), -top), 4),
        (where(some, -top), 8),
        (where(some, top), 4),
        (where(ties > 0, ties), 12),
        (where(np.isfinite(ratio), ratio), 6),
        (where(np.isfinite(ratio), -ratio), 4),
        *(part for value in (1.0, 2.0, 1.5, 1.75, 1.125, 1.875) for part in near(value)),
        (where(~(x != 0).any(-1), -top), 1),
        (bits_of_y.max(-1), 2),
    ]
