"""Which outputs of a black box add in the same way: those that give the same results of the same terms."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.black_box import BlackBox
from sparq_sim.probe_asker import Asker
from sparq_sim.summation import Node, nodes_of, places_text
from sparq_sim.telling import Telling, drawn_line

#: Sums that every place is asked for.
_SUMS = 16
_AGAIN = (1, 2, 3)
_SPREADS = (4, 8, 16, 1)
_SHOWN = 4
_PIECES = 6

#: Codes of one row of a and one of b, and c, [1, 1].
_Terms = tuple[Array, Array, Array | None]


@dataclass(frozen=True)
class Ways:
    """Places of the output that make different results of the same terms."""

    numbers: tuple[tuple[int, ...], ...]
    """The way of each place, [tile, tile]; 0 is the one that was looked into."""
    examples: tuple[Telling, ...]
    """For each way but the first: terms that a place of the first and one of that way add to different results."""

    def lines(self) -> list[tuple[str, str]]:
        """Rows of a table."""
        numbers = np.array(self.numbers)
        count = len(self.examples) + 1
        rows = [("places", f"{self}; way 0 is described here")]
        for way in range(min(count, _SHOWN)):
            text = f"{_region_text(numbers == way)} ({int((numbers == way).sum())} places)"
            if way:
                told = self.examples[way - 1]
                text += f": {told.second_bits} at {told.second}, of terms that make {told.first_bits} at {told.first}"
            rows.append((f"way {way}", text))
        return rows + ([("ways", f"and {count - _SHOWN} more")] if count > _SHOWN else [])

    def __str__(self) -> str:
        return f"outputs of the same terms differ by place, in {len(self.examples) + 1} ways"


class Survey:
    """Sums that all places were asked for, one call each; places that made the same of all of them are one way."""

    def __init__(self, asker: Asker, at: tuple[int, int] | None) -> None:
        """ValueError if the function makes something else when it is called again."""
        self.asker, self.at = asker, at
        self.asked: list[_Terms] = []
        self.made: list[Array] = []
        self._ask(_terms(asker))
        # Some once more, and the sum of the most results: whoever draws lots shows it there.
        most = int(np.argmax([len(np.unique(bits)) for bits in self.made]))
        for again in dict.fromkeys((most, *_AGAIN)):
            changed = np.argwhere(_everywhere(asker.box, self.asked[again]) != self.made[again])
            if len(changed):
                i, j = changed[0].tolist()
                raise ValueError(f"function: called again with the same operands, gives another result at ({i}, {j})")

    def mask(self) -> Array:
        """The places to look into, [tile, tile]: the one that was asked for, or the most that are one way."""
        mask: Array = self._numbers()[0] == 0
        if self.at is not None:
            mask = np.zeros_like(mask)
            mask[self.at] = True
        return mask

    def confirms(self, tree: Node | None, calls: int) -> bool:
        """Whether the places of the mask stay the same when all are asked about nodes of the tree, at most so many: two
        terms that meet there cancel. Without a tree, neighbours."""
        before = self.mask()
        leaves = self.asker.leaves
        pairs = list(itertools.pairwise(leaves)) if tree is None else [_parted(node) for node in nodes_of(tree)]
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(calls, len(pairs))).astype(int))
        self._ask(_erasing(self.asker, *pairs[at]) for at in chosen)
        return np.array_equal(before, self.mask())

    def ways(self) -> Ways | None:
        """None if there is one."""
        numbers, firsts = self._numbers()
        if len(firsts) == 1:
            return None
        examples = tuple(self._example(self.at or firsts[0], other) for other in firsts[1:])
        return Ways(tuple(map(tuple, numbers.tolist())), examples)

    def _ask(self, terms: Iterable[_Terms]) -> None:
        for one in terms:
            self.asked.append(one)
            self.made.append(_everywhere(self.asker.box, one))

    def _numbers(self) -> tuple[Array, list[tuple[int, int]]]:
        """The way of each place, [tile, tile], and the first place of each: that of `at`, then the most places."""
        shape = self.made[0].shape
        results = np.array(self.made).reshape(len(self.made), -1)
        _, firsts, ways = np.unique(results, axis=1, return_index=True, return_inverse=True)
        ways = ways.reshape(shape)
        own = -1 if self.at is None else int(ways[self.at])
        sizes = np.bincount(ways.ravel())
        order = sorted(range(len(firsts)), key=lambda way: (way != own, -sizes[way], firsts[way]))
        return np.argsort(order)[ways], [divmod(int(firsts[way]), shape[1]) for way in order]

    def _example(self, first: tuple[int, int], second: tuple[int, int]) -> Telling:
        number = next(n for n, bits in enumerate(self.made) if bits[first] != bits[second])
        (a, b, start), bits = self.asked[number], self.made[number]
        c = None if start is None else start[0, 0].item()
        return Telling.of(str(first), str(second), a[0], b[0], c, bits[first], bits[second])


def _terms(asker: Asker) -> Iterator[_Terms]:
    """Sums that show an order: by turns all but zero, of which roundings are left, and such as `probe` asks."""
    rng = np.random.default_rng(5)
    for number in range(_SUMS):
        if number % 2:
            i, j = (asker.leaves[at] for at in rng.permutation(asker.terms)[:2])
            yield _erasing(asker, i, j)
        else:
            yield _cancelled(asker.box, rng, _SPREADS[number // 2 % len(_SPREADS)])


def _cancelled(box: BlackBox, rng: np.random.Generator, spread: int) -> _Terms:
    """Random products, every one with its negative at another place."""
    elements = [side.element for side in box.sides]
    a, b = (drawn_line(rng, element, (1, box.k), spread) for element in elements)
    places = rng.permutation(box.k)
    here, there = places[: box.k // 2], places[box.k // 2 : box.k // 2 * 2]
    a[:, there], b[:, there] = _negative(a[:, here], elements[0]), b[:, here]
    return a, b, box.drawn_start(rng, (1, 1), spread)


def _negative(codes: Array, element: ElementFormat) -> Array:
    if element.signedness == "sign_magnitude":
        other = codes ^ codes.dtype.type(1 << (element.code_bits - 1))
    else:
        other = (~codes + codes.dtype.type(1)) & codes.dtype.type((1 << element.code_bits) - 1)
    return np.where(codes == 0, codes, other).astype(codes.dtype)


def _erasing(asker: Asker, i: int, j: int) -> _Terms:
    """Units, and two large terms that cancel; of leaves."""
    row = np.full((1, asker.terms), 2.0**asker.low)
    row[0, asker.column(i)], row[0, asker.column(j)] = 2.0**asker.high, -(2.0**asker.high)
    k = asker.box.k
    return *asker.box.encoded(*asker.box.factors(row[:, :k])), row[:, k:] if asker.box.takes_c else None


def _parted(node: Node) -> tuple[int, int]:
    """Two leaves that first meet in this node."""
    children = [*((leaf,) for leaf in node.leaves), *(below.members for below in node.nodes)]
    return children[0][0], children[-1][0]


def _everywhere(box: BlackBox, terms: _Terms) -> Array:
    """Bits of one sum at all places, [tile, tile]."""
    a, b, start = terms
    rows, columns = (np.repeat(x, box.tile, axis=0) for x in (a, b))
    return box.bits(rows, columns, None if start is None else np.tile(start, (box.tile, box.tile)))


def _region_text(mask: Array) -> str:
    """rows 0..7 x columns 0, 2; rows 8..15 x columns 1"""
    by_columns: dict[tuple[int, ...], list[int]] = {}
    for row, line in enumerate(mask):
        if line.any():
            by_columns.setdefault(tuple(np.flatnonzero(line).tolist()), []).append(row)
    parts = [f"rows {_some(rows)} x columns {_some(columns)}" for columns, rows in by_columns.items()]
    return "; ".join(parts[:_SHOWN]) + ("; ..." if len(parts) > _SHOWN else "")


def _some(numbers: list[int] | tuple[int, ...]) -> str:
    pieces = places_text(numbers).split(", ")
    return ", ".join(pieces if len(pieces) <= _PIECES else [*pieces[: _PIECES - 1], "...", pieces[-1]])
