"""probe: what a black box that multiplies matrices does inside, from its outputs alone (after FPRev, ATC 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np

from sparq_sim._core import Datapath
from sparq_sim.arrays import Array
from sparq_sim.black_box import BlackBox, Function
from sparq_sim.operands import CODE_FORMATS
from sparq_sim.probe_asker import CUTS, ROUNDINGS, Asker
from sparq_sim.probe_exact import beside_start, integer_overflow
from sparq_sim.probe_places import Survey
from sparq_sim.probed import Probe
from sparq_sim.probed_record import adds_one_by_one, may_be_float32, records_of
from sparq_sim.summation import START, Node, exact_groups, nodes_of, tree_of
from sparq_sim.verified import verify

_BATCH = 4096
_WIDE_SPAN = 50
#: Nodes of a tree, at least, that all places are asked about.
_CONFIRMING = 16


def _swamped(asker: Asker) -> Array:
    """survivors[i, j]: units that are left of all others when term i is the largest power and j takes it away, or the
    other way round: sums that are rounded toward zero lose units beside a large term of their own sign alone."""
    count = asker.terms
    unit, big = 2.0**asker.low, 2.0**asker.high
    survivors = np.zeros((count, count), np.int64)
    pairs = list(combinations(range(count), 2))
    for sign in (1, -1):
        unclear = []
        for first in range(0, len(pairs), _BATCH):
            part = np.array(pairs[first : first + _BATCH])
            rows = np.full((len(part), count), unit)
            rows[np.arange(len(part)), part[:, 0]] = sign * big
            rows[np.arange(len(part)), part[:, 1]] = -sign * big
            made = asker.sums(rows) / unit
            whole = (made == np.rint(made)) & (made >= 0) & (made <= count - 2)
            unclear += part[~whole].tolist()
            made = np.where(whole, made, -1).astype(np.int64)
            survivors[part[:, 0], part[:, 1]] = survivors[part[:, 1], part[:, 0]] = made
        pairs = unclear
    return survivors


def _products(node: Node) -> tuple[int, ...]:
    return tuple(sorted(leaf for leaf in node.leaves if leaf != START))


def _last_group(found: Probe) -> tuple[int, ...]:
    """The products of the last group that has enough: what comes after a sum may cut it again."""
    if found.tree is not None:
        sized = [_products(node) for node in nodes_of(found.tree)]
    else:
        sized = list(found.exact_groups or (tuple(range(found.k)),))
    enough = min(3, max(len(group) for group in sized))
    return max((group for group in sized if len(group) >= enough), key=max)


def _large(leaves: tuple[int, ...], copies: int, size: float) -> dict[int, float] | None:
    """Terms of some of these leaves whose sum is size * 2^copies, each of them below 2 * size; None if they are too
    few."""
    if copies == 2 and len(leaves) >= 3:
        return {leaves[0]: 1.5 * size, leaves[1]: 1.5 * size, leaves[2]: size}
    return dict.fromkeys(leaves[: 2**copies], size) if len(leaves) >= 2**copies else None


def _alignment(asker: Asker, group: tuple[int, ...], found: Probe) -> Probe:
    """Bits that terms of a group keep below the largest, and how the rest is cut."""
    i, j, k = group[:3]
    big = 2.0**asker.high
    bits = asker.kept_bits(lambda v: {i: big, j: -big, k: v}, lambda v: v)
    if bits is None:
        return found.unknown(f"alignment: {asker.high - asker.lowest} bits below the largest product are still kept")
    found = replace(found, fraction_bits=bits)
    # Halves of what is kept survive together if they have a sum, and a largest exponent, of their own.
    half = 2.0 ** (asker.high - bits - 1)
    for lanes in (2, 4):
        if len(group) > lanes + 1 and asker.high - bits - 1 >= asker.lowest:
            case = {group[0]: big, group[lanes]: -big, group[1]: half, group[lanes + 1]: half}
            if found.lanes == 1 and asker.of(case)[0] == 2 * half:
                found = replace(found, lanes=lanes)
    cut = _cut(asker, lambda v: {i: big, j: -big, k: v}, asker.high - bits)
    return replace(found, align_rounding=cut) if cut else found.unknown("how alignment cuts")


def _cut(asker: Asker, case: Callable[[float], dict[int, float]], unit: int) -> str | None:
    if unit - 2 < asker.lowest:  # 0.75 units are 3 quarters
        return None
    quantum = 2.0**unit
    made = asker.of(*[case(x * quantum) for x in (0.75, -0.75, 1.5, -1.5)]) / quantum
    return CUTS.get(tuple(made.tolist()))


def _room(asker: Asker) -> int:
    """How many doublings of the largest power the result holds."""
    return {"float16": 1, "int32": 1}.get(asker.box.dtype, 6)


def _output(asker: Asker, group: tuple[int, ...], found: Probe) -> Probe:
    """Fraction bits of what is written, and its rounding."""
    big = 2.0**asker.high
    large, last = group[:-1], group[-1]
    bits = asker.kept_bits(lambda v: {large[0]: big, last: v}, lambda v: big + v)
    limit = found.fraction_bits
    copies = 0
    while bits is not None and bits == (limit or -1) + copies and copies < _room(asker):
        # Carries lift the sum above its terms, so that more of its bits come to light.
        many = _large(large, copies + 1, big)
        if many is None:
            break
        copies += 1
        small = 2.0 ** (asker.high - (limit or 0))
        if asker.of({**many, last: small})[0] == 2**copies * big + small:
            bits += 1
        else:
            break
    if bits is None or bits == (limit or -1) + copies:
        return found.unknown("fraction bits of the result: all that reach it are kept")
    found = replace(found, output_fraction=bits)
    rounding = _rounding(asker, large, last, bits, limit)
    return replace(found, output_rounding=rounding) if rounding else found.unknown("how the result is rounded")


def _rounding(
    asker: Asker, large: tuple[int, ...], last: int, bits: int, limit: int | None, against: tuple[int, ...] = ()
) -> str | None:
    """How sums are rounded at that many bits; `against` takes the large terms away afterwards."""
    copies = 0 if limit is None else max(0, bits + 1 - limit)
    unit = asker.high + copies - bits
    many = _large(large, copies, 2.0**asker.high)
    away = _large(against, copies, -(2.0**asker.high)) if against else {}
    if many is None or away is None or copies > _room(asker) or unit - 1 < asker.lowest:
        return None
    total = 2.0 ** (asker.high + copies)
    terms = {**many, **away}

    def case(sign: float, units: float) -> dict[int, float]:
        return {**{leaf: sign * value for leaf, value in terms.items()}, last: sign * units * 2.0**unit}

    made = asker.of(*[case(sign, units) for sign in (1.0, -1.0) for units in (0.5, 1.5)])
    if not against:
        made -= total * np.array([1, 1, -1, -1])
    return ROUNDINGS.get(tuple((made / 2.0**unit).tolist()))


def _carried(asker: Asker, found: Probe) -> Probe:
    """Bits that the accumulator keeps between steps, where that is more than is written."""
    groups = found.steps
    if len(groups) < 2 or found.output_fraction is None:
        return found
    first, second = groups[-2], groups[-1]
    if not first or not second or len(first) < 2:
        return found
    big = 2.0**asker.high
    bits = asker.kept_bits(lambda v: {first[0]: big, first[-1]: v, second[0]: -big}, lambda v: v)
    if bits is None or bits <= found.output_fraction:
        return found
    found = replace(found, accumulator_fraction=bits)
    if found.fraction_bits is not None and bits >= found.fraction_bits:
        return found.unknown("bits of the accumulator beyond those of the alignment")
    rounding = _rounding(asker, first[:-1], first[-1], bits, found.fraction_bits, second)
    return replace(found, accumulator_rounding=rounding) if rounding else found.unknown("the accumulator's rounding")


def _start(asker: Asker, found: Probe) -> Probe:
    """What is kept of c, where it is one more term of a group."""
    if found.tree is None:
        return found
    node = next(node for node in nodes_of(found.tree) if START in node.leaves)
    products = _products(node)
    if len(products) < 2 or found.fraction_bits is None:
        return found
    i, j = products[:2]
    big = 2.0**asker.high
    bits = asker.kept_bits(lambda v: {i: big, j: -big, START: v}, lambda v: v)
    if bits is None:
        return found.unknown("bits of c that are kept")
    cut = _cut(asker, lambda v: {i: big, j: -big, START: v}, asker.high - bits)
    found = replace(found, start_fraction=bits, start_rounding=cut)
    if cut == "down":
        span = range(bits + 1, asker.high + 60)
        made = asker.of(*[{i: big, j: -big, START: -(2.0 ** (asker.high - n))} for n in span])
        zero = [n for n, value in zip(span, made, strict=True) if value == 0]
        found = replace(found, start_reach=zero[0] - 1 if zero else 0)
    return found


def probe(
    function: Function,
    k: int,
    *,
    a_format: str = "fp16",
    b_format: str | None = None,
    operands: str = "numpy",
    c_dtype: str | None = None,
    tile: int = 16,
    dots: int = 1024,
    at: tuple[int, int] | None = None,
) -> Probe:
    """What a function that multiplies matrices does inside, from its outputs alone: which products are added in one go
    and in what order, how many bits alignment and accumulator keep, how they round, and where c enters.

    A large product and its negative erase what meets one of them alone; how many small products survive, for every
    pair of places, is the tree of the sum (FPRev). Chosen products then show widths and roundings. At last random
    operands compare the record that follows with the function. Of accumulators the ranges of float32 and fp16 are
    tried, which ordinary numbers do not always tell from others; sums that are rounded to odd, and ranges shorter than
    fp16's, hide the order.

    Args:
        function: ``function(a, b)`` with a [tile, k] and b [tile, k], both K-last, to [tile, tile] of float32, float16,
            bfloat16 or int32; with `c_dtype` ``function(a, b, c)``.
        k: length of the sums; take at least twice what may be added at once, and more than may be promoted at once.
        a_format, b_format: what the operands are: an element of `elements()` that is no scale; b as a by default.
        operands: how they are given: ``"numpy"`` (float16, float32, int8, and what ml_dtypes has), ``"torch"``
            tensors, or ``"codes"``, unsigned integers.
        c_dtype: of c, [tile, tile], ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int32"``, if there is one.
        tile: rows of both operands. Kernels may add in another order where shapes differ, and at places beyond it.
        dots: random outputs to compare at the end.
        at: (row, column) of the one output to look into, each below `tile`. A call then answers one question, not
            `tile` of them, and compares one output: `tile` times the calls for the order, and `dots` at the end.

    Returns:
        A `Probe`, which prints as a table and a tree; `.datapath()` is the record, which `matmul` accepts, if it makes
        all random outputs; `.unknowns` says what was not found out, and why.

    Raises:
        ValueError: a k or tile that is too small, a place outside the tile, a format or form of operands that is
            unknown, outputs of another shape, a function that makes 0 of a product, or another result of the same
            operands when it is called again.
        TypeError: outputs of another dtype.

    >>> import sparq_sim as sq
    >>> def box(a, b):
    ...     return sq.matmul(a, b, datapath="ampere_16")
    >>> found = sq.probe(box, 32)
    >>> print(found)
    K = 32, fp16 x fp16 -> float32
    adds       in groups of 8, each with the sum before it
    alignment  24 fraction bits below the largest exponent, cut toward_zero
    result     23 fraction bits, toward_zero
    ((((0..7), 8..15), 16..23), 24..31)
    random     all 1024 equal to the record; so do turing_16, ampere_16, ada_16
    >>> found.datapath().group
    8
    """
    box = _box(function, k, a_format, b_format or a_format, operands, c_dtype, tile, at)
    box.narrow()
    low, high = box.reach()
    lowest = box.reach(normal=False)[0]
    # Subnormal units, which a machine may flush, only where normal ones are not small enough.
    asker = Asker(box, low if high - low >= _WIDE_SPAN else lowest, lowest, high)
    survey = Survey(asker, at)
    found = _surveyed(asker, survey, Probe(k, a_format, b_format or a_format, box.dtype, box.takes_c, at=at))
    found = _dropped(asker, found)
    if found.exact_span is not None:
        if box.sides[0].element.exponent_bits == 0:
            found = integer_overflow(asker, found)
        if box.takes_c and box.dtype != "int32":
            found = beside_start(asker, found)
    elif box.dtype != "int32":
        found = _inside(asker, found)
    records: list[Datapath] = []
    try:
        found.require_one_way()
        records = records_of(found)
    except ValueError as error:
        found = replace(found, no_record=str(error))
    return replace(verify(box, found, records, survey.mask(), dots), calls=box.calls)


def _surveyed(asker: Asker, survey: Survey, found: Probe) -> Probe:
    """The order of summation of places that agree, which are fewer if its own nodes tell them apart."""
    while True:
        asker.box.watch(survey.mask())
        _require_products(asker)
        before = asker.box.calls
        made = _ordered(asker, found)
        spent = asker.box.calls - before
        exact = made.exact_span is not None or made.exact_groups is not None
        if exact or survey.confirms(made.tree, max(_CONFIRMING, spent // 4)):
            return replace(made, ways=survey.ways())


def _require_products(asker: Asker) -> None:
    """ValueError for a function that makes nothing of a product."""
    made = asker.of(*({place: 1.0} for place in range(asker.box.k)))
    if not made.all():
        place = int(np.argmin(made != 0))
        raise ValueError(
            f"function: gives 0 where the only product is 1, at place {place} of K: it adds up no products"
        )


def _dropped(asker: Asker, found: Probe) -> Probe:
    """Low bits of float32 operands that are not read."""
    if "fp32" not in (found.a_format, found.b_format):
        return found
    a, b = np.zeros((23, found.k)), np.zeros((23, found.k))
    fine = 1 + np.exp2(-np.arange(1.0, 24.0))
    a[:, 0], b[:, 0] = (fine, 1) if found.a_format == "fp32" else (1, fine)
    starts = np.zeros(23) if found.takes_c else None
    made = asker.box.results(a, b, starts)
    return replace(found, dropped_bits=int((made == 1).sum()))


def _inside(asker: Asker, found: Probe) -> Probe:
    """Widths and roundings."""
    group = _last_group(found)
    if found.fused and len(group) >= 3:
        found = _alignment(asker, group, found)
    if len(group) < 2 and found.steps:
        group = (*found.steps[0], *found.steps[1])[:2]
    found = _carried(asker, _output(asker, group, found))
    if found.takes_c:
        found = _start(asker, found)
    found = _beside(asker, found)
    return replace(found, outer_fraction=_outer(asker, found))


def _beside(asker: Asker, found: Probe) -> Probe:
    """Where products are added one by one and float32 arithmetic it is not: how far below a sum a product still breaks
    a tie, or is seen by a rounding toward zero."""
    bits = found.output_fraction
    if bits is None or not adds_one_by_one(found) or may_be_float32(found):
        return found
    nearest = found.output_rounding in ("nearest_even", "nearest_away")
    if asker.box.c_dtype != "float32" or (nearest and bits > 22):
        return found.unknown("how far below a sum a product still counts in its rounding")
    big = 2.0**asker.high
    # A tie goes down to the even one, or up and away.
    start, sign = (
        big + big * 2.0 ** -(bits + 1) if nearest else big,
        1 if found.output_rounding == "nearest_even" else -1,
    )
    place = next(leaf for leaf in found.steps[0] if leaf != START)
    span = range(bits + 2, asker.high - asker.lowest + 1)
    made = asker.of({START: start}, *({START: start, place: sign * 2.0 ** (asker.high - n)} for n in span))
    lost = [n for n, value in zip(span, made[1:], strict=True) if value == made[0]]
    if lost:
        return replace(found, fraction_bits=lost[0] - 1, align_rounding="toward_zero")
    return replace(found, align_rounding="to_odd")


def _outer(asker: Asker, found: Probe) -> int | None:
    """Bits that the sum of two instructions or chunks keeps."""
    parts = found.instructions
    if len(parts) < 2:
        return None
    big = 2.0**asker.high
    return asker.kept_bits(lambda v: {parts[0][0]: big, parts[-1][-1]: v}, lambda v: big + v)


def _ordered(asker: Asker, found: Probe) -> Probe:
    """The order of summation."""
    survivors = _swamped(asker)
    count = asker.terms
    off = ~np.eye(count, dtype=np.bool_)
    span = asker.high - asker.low
    if (survivors[off] < 0).any():
        return found.unknown("the order: sums of units beside large products are no whole units")
    if (survivors[off] == count - 2).all():
        return replace(found, exact_span=span).unknown(
            f"the order of products: none is lost beside others 2^{span} times as large"
        )
    tree = tree_of(count - survivors, asker.leaves)
    if tree is not None:
        return replace(found, tree=tree)
    groups = exact_groups(np.where(off, count - 2 - survivors, 0), asker.leaves)
    if groups is not None:
        return replace(found, exact_groups=groups)
    alone = "" if found.at else "; at=(row, column) asks one place alone"
    return found.unknown(f"the order: what survives fits no tree{alone}")


def _box(
    function: Function,
    k: int,
    a_format: str,
    b_format: str,
    operands: str,
    c_dtype: str | None,
    tile: int,
    at: tuple[int, int] | None,
) -> BlackBox:
    if not callable(function):
        raise TypeError(f"function: needed a callable, got {type(function).__name__}")
    for value, name, least in ((k, "k", 3), (tile, "tile", 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}: needed an integer, at least {least}")
    whole = isinstance(at, tuple) and all(isinstance(x, (int, np.integer)) and not isinstance(x, bool) for x in at)
    inside = at is not None and whole and len(at) == 2 and all(0 <= x < tile for x in at)
    if at is not None and not inside:
        raise ValueError(f"at={at!r}: needed a row and a column, each from 0 to {tile - 1}")
    if operands not in ("numpy", "torch", "codes"):
        raise ValueError(f"operands={operands!r}; known: numpy, torch, codes")
    if c_dtype not in (None, "float32", "float16", "bfloat16", "int32"):
        raise ValueError(f"c_dtype={c_dtype!r}; known: float32, float16, bfloat16, int32")
    for format, what in ((a_format, "a"), (b_format, "b")):
        if format not in CODE_FORMATS:
            raise ValueError(f"{what}_format={format!r}; known: {', '.join(CODE_FORMATS)}")
    return BlackBox(function, k, a_format, b_format, operands, c_dtype, tile)
