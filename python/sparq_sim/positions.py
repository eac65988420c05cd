"""Which elements an N:M tensor stores, and how their places in the groups are coded (docs/numerics.md section 15)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparq_sim import _core
from sparq_sim._core import Sparsity
from sparq_sim.arrays import Array, thread_argument

if TYPE_CHECKING:
    from sparq_sim.formats import Format

#: How the positions of a group are coded.
ENCODINGS = ("index", "relative", "halves", "bitmask", "rank")
#: What a group that keeps fewer than N is stored with.
FILLS = _core.words["fill"]


def group_units(pattern: Sparsity) -> tuple[int, int]:
    """Units that a group stores and has."""
    return pattern.kept // pattern.unit, pattern.group // pattern.unit


def group_count(pattern: Sparsity, length: int) -> int:
    """Groups of a line, a ragged one too."""
    return -(-length // pattern.group)


@dataclass(frozen=True)
class Items:
    """Integers of a few bits each, so many for a group of a line."""

    bits: int
    per_group: int


def encoded_items(pattern: Sparsity, encoding: str) -> Items:
    """What an encoding writes for each group.

    Raises:
        ValueError: no such encoding.
    """
    stored, units = group_units(pattern)
    if encoding == "index":
        return Items((units - 1).bit_length(), stored)
    if encoding == "relative":
        return Items((units - stored).bit_length(), stored)
    if encoding == "halves":
        return Items((2 * units - 1).bit_length(), 2 * stored)
    if encoding == "bitmask":
        return Items(1, units)
    if encoding == "rank":
        return Items((math.comb(units, stored) - 1).bit_length(), 1)
    raise ValueError(f"encoding={encoding!r}: choose one of {', '.join(ENCODINGS)}")


def position_bits(pattern: Sparsity, encoding: str) -> float:
    """Bits of positions per dense element.

    >>> from sparq_sim.formats import parse_sparsity
    >>> position_bits(parse_sparsity("2:4"), "index"), position_bits(parse_sparsity("2:4"), "rank")
    (1.0, 0.75)
    """
    items = encoded_items(pattern, encoding)
    return items.bits * items.per_group / pattern.group


def compress(
    codes: Array, mask: Array, pattern: Sparsity, fill: str, threads: int | None = None
) -> tuple[Array, Array]:
    """Lines of codes under a mask as stored codes, [lines, N * groups], and the places of their units in the groups,
    ascending, uint8 [lines, stored units].

    Raises:
        ValueError: a mask that is not N:M, or a fill rule that says nothing of the pattern.
    """
    _core.check_fill(pattern, fill)
    lines, length = codes.shape
    groups = group_count(pattern, length)
    stored = np.empty((lines, groups * pattern.kept), codes.dtype)
    positions = np.empty((lines, groups * group_units(pattern)[0]), np.uint8)
    _core.compress(
        sparsity=pattern, fill=fill, codes=codes, mask=mask, stored=stored, positions=positions,
        threads=thread_argument(threads),
    )  # fmt: skip
    return stored, positions


def expand(
    stored: Array, positions: Array, pattern: Sparsity, length: int, fill: str, threads: int | None = None
) -> tuple[Array, Array]:
    """Codes and mask of lines of `length`, as `compress` stored them: what it filled up counts as kept.

    Raises:
        ValueError: positions that are none, or codes beyond the end of a line.
    """
    lines = stored.shape[0]
    codes = np.empty((lines, length), stored.dtype)
    mask = np.empty((lines, length), np.uint8)
    _core.expand(
        sparsity=pattern, repeats=fill == "cutlass3", stored=stored, positions=positions, codes=codes, mask=mask,
        threads=thread_argument(threads),
    )  # fmt: skip
    return codes, mask


def encode_positions(positions: Array, pattern: Sparsity, encoding: str) -> Array:
    """The items of `encoded_items`, [lines, items], of the places that `compress` gives."""
    stored, units = group_units(pattern)
    if encoding == "index":
        return positions
    groups = _groups(positions, stored)
    if encoding == "relative":
        return _lines(groups - np.arange(stored, dtype=np.uint8))
    if encoding == "halves":
        return _lines((2 * groups[..., None] + np.arange(2, dtype=np.uint8)).astype(np.uint8))
    if encoding == "bitmask":
        mask = np.zeros((*groups.shape[:-1], units), np.uint8)
        np.put_along_axis(mask, groups.astype(np.intp), np.uint8(1), axis=-1)
        if stored > 1 and groups.size and not bool((mask.sum(axis=-1) == stored).all()):
            raise ValueError("positions: a place that is stored twice is nothing that a bitmask can say")
        return _lines(mask)
    if stored > 1 and bool((np.diff(groups.astype(np.int16), axis=-1) <= 0).any()):
        raise ValueError("positions: a place that is stored twice is nothing that a rank can say")
    table = _binomials(units, stored)
    return _lines(table[groups, np.arange(1, stored + 1)].sum(axis=-1, dtype=np.uint32)[..., None])


def decode_positions(items: Array, pattern: Sparsity, encoding: str) -> Array:
    """The way back. Places may be none, which `expand` refuses.

    Raises:
        ValueError: items that no positions have.
    """
    stored, units = group_units(pattern)
    if encoding == "index":
        return items
    per_group = encoded_items(pattern, encoding).per_group
    groups = _groups(items, per_group)
    if encoding == "relative":
        return _lines((groups + np.arange(stored, dtype=np.uint8)).astype(np.uint8))
    if encoding == "halves":
        pairs = groups.reshape(*groups.shape[:-1], stored, 2)
        if not bool(((pairs[..., 0] % 2 == 0) & (pairs[..., 1] == pairs[..., 0] + 1)).all()):
            raise ValueError("positions: needed both halves of an element, one after the other")
        return _lines(np.ascontiguousarray(pairs[..., 0] // 2))
    if encoding == "bitmask":
        counts = groups.sum(axis=-1)
        if not bool((counts == stored).all()):
            raise ValueError(
                f"positions: a bitmask of a group that keeps {stored} of {units} has another number of ones"
            )
        return (
            (np.flatnonzero(groups.reshape(-1)) % units)
            .astype(np.uint8)
            .reshape(*items.shape[:-1], groups.shape[-2] * stored)
        )
    table = _binomials(units, stored)
    rest = groups[..., 0].astype(np.int64)
    if rest.size and int(rest.max()) >= math.comb(units, stored):
        raise ValueError(f"positions: ranks must be below {math.comb(units, stored)}")
    made = np.empty((*rest.shape, stored), np.uint8)
    for i in range(stored, 0, -1):
        place = np.searchsorted(table[:, i], rest, side="right") - 1
        made[..., i - 1] = place
        rest = rest - table[place, i]
    return _lines(made)


def _groups(lines: Array, size: int) -> Array:
    return lines.reshape(*lines.shape[:-1], lines.shape[-1] // size, size)


def _lines(groups: Array) -> Array:
    return np.ascontiguousarray(groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1]))


def _binomials(units: int, stored: int) -> Array:
    """C(place, i) by place and i."""
    return np.array([[math.comb(p, i) for i in range(stored + 1)] for p in range(units)], np.int64)


def require_dense_or_sparse(format: Format, pattern: Sparsity | None, mask: Array | None) -> None:
    """ValueError for a foreign mask without a pattern, of which no memory knows how to hold it."""
    if pattern is None and mask is not None:
        raise ValueError(
            f"{format.name}: the tensor has a mask and no N:M pattern; .structured('2:4') gives it one, .dense() "
            "stores what was pruned"
        )
