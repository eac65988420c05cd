"""The record of a machine that `probe` looked at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from sparq_sim._core import Datapath
from sparq_sim.formats import find_element
from sparq_sim.machines import datapath_from_dict
from sparq_sim.probed import Probe
from sparq_sim.summation import START, Node, chain_of

_CUTS = ("toward_zero", "nearest_even", "down")
_OVERFLOWS = ("infinity", "saturate")
#: Exponent bits of accumulators to try, by the dtype of the result; others are 8 or 5.
_RANGES = {"float16": (5,), "bfloat16": (8,)}
_ROUNDINGS = ("toward_zero", "nearest_even", "nearest_away", "down")
#: Bits of CDNA3's sum before it is rounded, which no probe reaches.
_SUM_FRACTION = 31


def records_of(found: Probe) -> list[Datapath]:
    """The machines that the findings leave, the likelier ones first; ValueError if no record has this order."""
    output = {"float16": "fp32_or_fp16", "int32": "int32"}.get(found.dtype, "fp32")
    if found.exact_span is not None:
        return [_exact(found)]
    if found.exact_groups is not None:
        return _adding(found, [{"reduce": "blocks", "group": _group(found)}])
    if found.tree is None:
        raise ValueError("the order of summation was not found")
    if any(START in group for group in (chain_of(found.tree) or ())[1:]):
        raise ValueError("c joins a sum of products: no record has that, but for instructions, which a longer k shows")
    if not found.fused:
        return _chains(found) if adds_one_by_one(found) else _adding(found, [_tree(found)])
    return [datapath_from_dict({**_aligned(found), "output": output, "block_scales": False})]


def _exact(found: Probe) -> Datapath:
    """Nothing is lost among products: exact sums, or integers that wrap or saturate."""
    if found.output_rounding not in (None, "nearest_even"):
        raise ValueError(f"exact sums that are rounded {found.output_rounding}: the alignment was not found")
    group = _group(found) if found.exact_groups is not None else 0
    if found.integer_bits is None and found.dtype != "int32":
        return Datapath(reduce="exact") if group in (0, found.k) else Datapath(reduce="blocks", group=group)
    fields: dict[str, Any] = {"reduce": "integer", "integer_bits": found.integer_bits or 32, "block_scales": False}
    if found.dtype == "int32":
        fields["output"] = "int32"
    elif group != found.k:
        fields["group"] = group
    if found.integer_overflow is not None:
        fields |= {"integer_overflow": found.integer_overflow, "integer_tree": found.integer_tree or 0}
    return datapath_from_dict(fields)


def _group(found: Probe) -> int:
    sizes = {len(step) for step in found.steps[:-1]} or {len(found.steps[0])}
    if len(sizes) != 1 or not _in_order(found.steps):
        raise ValueError("groups of several sizes, or out of order")
    return sizes.pop()


def _in_order(steps: tuple[tuple[int, ...], ...]) -> bool:
    return [place for step in steps for place in step] == list(range(sum(map(len, steps))))


def _tree(found: Probe) -> dict[str, Any]:
    steps = found.steps
    whole = found.tree
    if whole is not None and START in whole.leaves and len(whole.nodes) == 1:
        whole = whole.nodes[0]
    if whole is not None and _balanced(whole, list(range(found.k))):
        return {"reduce": "tree", "block_scales": False}
    parts = found.parts
    sizes = {part.size for part in parts[:-1]} or {parts[0].size} if parts else set()
    if steps and all(len(step) == 2 for step in steps[1:]):
        raise ValueError("pairs whose own sums join a sum: not told from a chain")
    if len(sizes) == 1 and all(_balanced(part, list(part.members)) for part in parts):
        return {"reduce": "tree", "group": sizes.pop(), "block_scales": False}
    raise ValueError("sums of pairs in an order that no record has")


def adds_one_by_one(found: Probe) -> bool:
    """Whether each product is a step of its own, in order."""
    steps = found.steps
    return bool(steps) and _in_order(steps) and all(len(step) == 1 for step in steps[1:])


def may_be_float32(found: Probe) -> bool:
    """Whether sums of single products may be rounded as float32 arithmetic does, and to another type at last."""
    wide = found.output_fraction is None or found.output_fraction >= 23
    return found.dtype != "float32" or (wide and found.output_rounding in (None, "nearest_even"))


def _adding(found: Probe, ways: Sequence[dict[str, Any]]) -> list[Datapath]:
    """Machines that add in these ways, into float32 or into the accumulator that was found. Which range that has, and
    what lies beyond it, is for random outputs to say."""
    made = [datapath_from_dict(way) for way in ways] if may_be_float32(found) else []
    bits = _accumulator_bits(found)
    if bits is None or (made and found.dtype == "float32"):
        return made
    rounding = _word(found.output_rounding, _ROUNDINGS, "the accumulator")
    for way, (exponent_bits, overflow) in product(ways, product(_RANGES.get(found.dtype, (8, 5)), _OVERFLOWS)):
        own = {
            "accumulator_exponent_bits": exponent_bits, "accumulator_fraction": bits,
            "accumulator_rounding": rounding, "overflow": overflow,
        }  # fmt: skip
        made.append(datapath_from_dict({**way, **own}))
    return made


def _accumulator_bits(found: Probe) -> int | None:
    """Fraction bits of an accumulator that may be another than float32's."""
    return {"float16": 10, "bfloat16": 7}.get(found.dtype, found.output_fraction)


def _chains(found: Probe) -> list[Datapath]:
    """One rounded sum per product, fused or of rounded products."""
    ways: list[dict[str, Any]] = [{"reduce": "fma"}, {"reduce": "tree", "group": 1}]
    made = _adding(found, ways) if found.fraction_bits is None else []
    bits = _accumulator_bits(found)
    if bits is None or (found.dtype == "float32" and may_be_float32(found)):
        return made
    # c has the 23 bits of float32.
    enough = 23 + sum(find_element(format).mantissa_bits for format in (found.a_format, found.b_format)) + 3
    aligned = {
        "reduce": "align", "group": 1, "fraction_bits": found.fraction_bits or min(44, enough),
        "align_rounding": found.align_rounding or "to_odd", "accumulator_fraction": bits,
        "accumulator_rounding": _word(found.output_rounding, _ROUNDINGS, "the accumulator"), "block_scales": False,
    }  # fmt: skip
    return [*made, datapath_from_dict(aligned)]


def _balanced(node: Node, members: list[int]) -> bool:
    """Whether it is the tree that splits n terms into the first n/2 and the rest."""
    if len(members) == 1:
        return node.leaves == tuple(members)
    half = len(members) // 2
    children = [*node.nodes, *(Node((leaf,)) for leaf in node.leaves)]
    children.sort(key=lambda child: child.members)
    if len(children) != 2 or list(children[0].members) != members[:half]:
        return False
    return _balanced(children[0], members[:half]) and _balanced(children[1], members[half:])


def _aligned(found: Probe) -> dict[str, Any]:
    fields: dict[str, Any] = {"reduce": "align"}
    if found.steps:
        fields["group"] = _group(found)
    else:
        fields |= _instructions(found)
    if found.fraction_bits is None:
        raise ValueError("the bits that alignment keeps were not found")
    fields["fraction_bits"] = found.fraction_bits
    fields["align_rounding"] = _word(found.align_rounding, _CUTS, "alignment")
    bits = found.accumulator_fraction or found.output_fraction
    rounding = found.accumulator_rounding or found.output_rounding
    fields["accumulator_fraction"] = 23 if bits is None else bits
    fields["accumulator_rounding"] = _word(rounding, _ROUNDINGS, "the accumulator")
    if found.start_rounding == "down" and found.align_rounding != "down":
        fields |= {
            "start": "late_floor", "start_fraction": found.start_fraction, "sum_fraction": _SUM_FRACTION,
            "start_reach": found.start_reach or 0, "product_overflow": True, "lanes": found.lanes,
        }  # fmt: skip
    if found.dropped_bits:
        fields["dropped_bits"] = found.dropped_bits
    if found.dtype == "float16":
        # With such a result the accumulator is fp16; the record says what it is otherwise.
        fields |= {"accumulator_fraction": 23, "accumulator_rounding": "toward_zero"}
    return fields


def _word(word: str | None, known: tuple[str, ...], what: str) -> str:
    if word is not None and word not in known:
        raise ValueError(f"{what} is rounded {word}, which no record has")
    return word or "toward_zero"


def _instructions(found: Probe) -> dict[str, Any]:
    """Groups inside sums that join the accumulator afterwards."""
    parts = found.parts
    inner = [chain_of(part) for part in parts]
    if not parts or any(groups is None for groups in inner):
        raise ValueError("sums within sums, deeper than any record")
    first = inner[0] or ()
    length = parts[0].size
    group = len(first[0])
    run = 1
    while run < group and first[0][run] == first[0][0] + run:
        run += 1
    for number, groups in enumerate(inner):
        for way, places in enumerate(groups or ()):
            wanted = [
                place
                for place in range(number * length, min((number + 1) * length, found.k))
                if (place - number * length) // run % (length // group) == way
            ]
            if list(places) != wanted:
                raise ValueError("groups whose places are neither neighbours nor in turn")
    fields: dict[str, Any] = {"group": group}
    inside = found.output_fraction
    outer = found.outer_fraction
    if inside is not None and (outer is None or outer > inside):
        fields["chunk"] = length
        return fields
    fields |= {"instruction": length, "start": "after_instruction"}
    return fields if run == group else {**fields, "run": run}
