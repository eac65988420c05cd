"""Bit flips in what memory holds, for studies of resilience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from sparq_sim.arrays import Array, positive_finite_or_nan
from sparq_sim.positions import encoded_items, expand, group_units
from sparq_sim.random import Philox
from sparq_sim.tensor import BlockTensor, stored_scales

WHERE = ("codes", "scales", "positions")
# Places that are drawn at once.
_DRAWN = 1 << 20


def flip_bits(
    tensor: BlockTensor,
    where: str = "codes",
    *,
    count: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    bit: int | None = None,
    level: int | None = None,
) -> BlockTensor:
    """The tensor with some stored bits flipped, each at most once.

    Places are drawn by Philox from `seed`, two words for each: (first * 2^32 + second) modulo the number of bits,
    counted item by item from the lowest bit. One that was drawn before is drawn again, and so is one whose flip leaves
    no tensor: a float32 scale that is not positive and finite, positions that do not ascend or lie outside of their
    group.

    Args:
        where: ``codes`` (those that are stored: pruned ones are not), ``scales``, or ``positions`` of an N:M tensor as
            indices; what moves takes its code along. Memory stores N of every group, so afterwards all of them count as
            kept.
        count: bits to be flipped; default 1.
        rate: instead of it, the share of all bits, rounded to the nearest count.
        seed: of the places.
        bit: only this bit of each code, scale or position, 0 the lowest.
        level: of scales, 0 the outermost; default that of the blocks.

    Raises:
        ValueError: nothing of the kind in the tensor, or fewer bits than are to be flipped.
        TypeError: a count that is no integer.

    >>> import numpy as np, sparq_sim as sq
    >>> t = sq.encode(np.float32([1, 2, 3, 4]), "mxfp4")
    >>> sq.flip_bits(t, bit=3, count=4).decode()
    array([-1., -2., -3., -4.], dtype=float32)
    """
    if where not in WHERE:
        raise ValueError(f"where={where!r}: choose one of {', '.join(WHERE)}")
    if count is not None and rate is not None:
        raise ValueError("count= and rate= say the same: give one")
    if level is not None and where != "scales":
        raise ValueError(f"level={level} is one of scales, not of {where}")
    if where == "codes":
        return _flip_codes(tensor, count, rate, seed, bit)
    if where == "scales":
        return _flip_scales(tensor, count, rate, seed, bit, level)
    return _flip_positions(tensor, count, rate, seed, bit)


def _flip(
    items: int,
    width: int,
    count: int | None,
    rate: float | None,
    seed: int,
    bit: int | None,
    flip: Callable[[Array, Array], int],
) -> None:
    """Draws places until `flip` took as many as are wanted; it is given items and their bits, and says how many of
    them it took."""
    if bit is not None and not 0 <= bit < width:
        raise ValueError(f"bit={bit}: needed 0 to {width - 1}")
    bits = 1 if bit is not None else width
    total = items * bits
    if rate is not None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate}: needed 0 to 1")
        count = round(rate * total)
    wanted = 1 if count is None else count
    if isinstance(wanted, bool) or not isinstance(wanted, (int, np.integer)):
        raise TypeError(f"count={wanted!r}: needed an integer")
    if not 0 <= wanted <= total:
        raise ValueError(f"count={wanted}: there are {total} such bits")
    taken = 0
    if not wanted:
        return
    for fresh in _places(total, seed, wanted):
        while fresh.size:
            now, fresh = fresh[: wanted - taken], fresh[wanted - taken :]
            taken += flip(now // bits, now % bits if bit is None else np.full(now.shape, bit))
            if taken == wanted:
                return
    raise ValueError(f"count={wanted}: no more than {taken} flips leave a tensor")


def _places(total: int, seed: int, wanted: int) -> Iterator[Array]:
    """All numbers below `total`, int64, some at a time, in the order in which they are drawn first."""
    drawn = np.zeros((total + 7) // 8, np.uint8)
    left, offset = total, 0
    while left:
        size = min(_DRAWN, max(1024, 2 * wanted))
        words = Philox(seed, 0, offset).words(2 * size).astype(np.uint64)
        offset += 2 * size
        draws = ((words[0::2] << np.uint64(32) | words[1::2]) % np.uint64(total)).astype(np.int64)
        found, first = np.unique(draws, return_index=True)
        draws = found[np.argsort(first)]
        fresh = draws[(drawn[draws >> 3] >> (draws & 7).astype(np.uint8)) & 1 == 0]
        np.bitwise_or.at(drawn, fresh >> 3, np.uint8(1) << (fresh & 7).astype(np.uint8))
        left -= fresh.size
        yield fresh


def _one_by_one(flip: Callable[[int, int], bool]) -> Callable[[Array, Array], int]:
    """Of a flip that depends on those before it, and says whether it was one."""
    return lambda places, bits: sum(flip(place, bit) for place, bit in zip(places.tolist(), bits.tolist(), strict=True))


def _flip_codes(tensor: BlockTensor, count: int | None, rate: float | None, seed: int, bit: int | None) -> BlockTensor:
    codes = tensor.codes.flatten()
    kept = np.arange(codes.size) if tensor.mask is None else np.flatnonzero(tensor.mask)

    def flip(places: Array, bits: Array) -> int:
        np.bitwise_xor.at(codes, kept[places], np.left_shift(1, bits).astype(codes.dtype))
        return int(places.size)

    _flip(kept.size, tensor.format.element.code_bits, count, rate, seed, bit, flip)
    return replace(tensor, codes=codes.reshape(tensor.shape))


def _flip_scales(
    tensor: BlockTensor, count: int | None, rate: float | None, seed: int, bit: int | None, level: int | None
) -> BlockTensor:
    planes = [plane.copy() for plane in tensor.scale_planes]
    if not planes:
        raise ValueError(f"{tensor.format.name} has no scales")
    at = tensor.format.block_format.main_level if level is None else level
    if not 0 <= at < len(planes):
        raise ValueError(f"level={at}: needed 0 to {len(planes) - 1}")
    flat = planes[at].reshape(-1)
    bits = flat.view(np.uint32) if flat.dtype == np.float32 else flat

    def flip(place: int, one: int) -> bool:
        bits[place] ^= bits.dtype.type(1 << one)
        if flat.dtype != np.float32 or positive_finite_or_nan(flat[place : place + 1]):
            return True
        bits[place] ^= bits.dtype.type(1 << one)
        return False

    _flip(flat.size, tensor.format.levels[at].format.code_bits, count, rate, seed, bit, _one_by_one(flip))
    return replace(tensor, scales=stored_scales(planes))


def _flip_positions(
    tensor: BlockTensor, count: int | None, rate: float | None, seed: int, bit: int | None
) -> BlockTensor:
    pattern = tensor.spec.sparsity
    if pattern is None:
        raise ValueError("the tensor is dense: it has no positions")
    stored, places = tensor.compressed()
    axis, length = tensor.axis, (tensor.shape or (1,))[tensor.axis]
    slots, units = group_units(pattern)
    moved = np.moveaxis(places, axis, -1)
    groups = np.ascontiguousarray(moved).reshape(-1, slots)
    per_line = moved.shape[-1] // slots
    rest = length % pattern.group
    last = rest // pattern.unit if rest else units  # whole units of the last group

    def flip(place: int, one: int) -> bool:
        group = groups[place // slots]
        group[place % slots] ^= np.uint8(1 << one)
        room = last if place // slots % per_line == per_line - 1 else units
        if int(group[-1]) < room and bool((np.diff(group.astype(np.int16)) > 0).all()):
            return True
        group[place % slots] ^= np.uint8(1 << one)
        return False

    _flip(groups.size, encoded_items(pattern, "index").bits, count, rate, seed, bit, _one_by_one(flip))
    codes = np.ascontiguousarray(np.moveaxis(stored, axis, -1))
    lines = codes.reshape(-1, codes.shape[-1])
    made = expand(lines, groups.reshape(lines.shape[0], -1), pattern, length, "lowest")

    def shaped(array: Array) -> Array:
        whole = array.reshape(*codes.shape[:-1], length)
        return np.ascontiguousarray(np.moveaxis(whole, -1, axis)).reshape(tensor.shape)

    return replace(tensor, codes=shaped(made[0]), mask=shaped(made[1]).view(np.bool_))
