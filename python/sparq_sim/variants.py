"""Machines near a machine: its record with one knob turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparq_sim import _core
from sparq_sim._core import Datapath

#: Fields that say what goes in and comes out, not how it is added.
_OUTSIDE = ("block_scales", "nan_bits", "operands", "output", "scale")
_STEPS = (-1, 1, -2, 2, -5, 5)
_GROUPS = (1, 2, 4, 8, 16, 32, 64)


def arithmetic(record: Datapath) -> dict[str, Any]:
    """The fields that decide which number a sum becomes."""
    return {name: value for name, value in record.to_dict().items() if name not in _OUTSIDE}


def with_fields(record: Datapath, changes: Mapping[str, Any]) -> Datapath | None:
    """The record with other fields; None if such a machine means nothing."""
    fields = {**record.to_dict(), **changes}
    fields = {name: value for name, value in fields.items() if name not in ("scale", "operands")}
    try:
        made = Datapath(**fields, scale=record.scale).with_operands(record.operands)
        _core.check_datapath(made)
    except (ValueError, TypeError, OverflowError):
        return None
    return made


def changed(record: Datapath, base: Datapath) -> dict[str, Any]:
    """The arithmetic fields of `record` that differ from those of `base`."""
    before = arithmetic(base)
    return {name: value for name, value in arithmetic(record).items() if value != before[name]}


def variants(record: Datapath, k: int) -> Iterator[Datapath]:
    """Machines that differ from `record` in one knob: bits kept, groups, roundings, where c enters, overflow; k is the
    length of the products at hand, which decides where a chunk can end."""
    for change in _changes(record, k):
        made = with_fields(record, change)
        if made is not None and made != record:
            yield made


def _changes(record: Datapath, k: int) -> Iterator[dict[str, Any]]:
    yield from ({"accumulator_fraction": record.accumulator_fraction + step} for step in _STEPS)
    yield from ({"accumulator_fraction": bits} for bits in (7, 10, 13, 23))
    yield from ({"accumulator_exponent_bits": 5, "accumulator_fraction": bits} for bits in (10, 13))
    yield from ({"overflow": word} for word in ("infinity", "saturate"))
    yield from (
        {"accumulator_rounding": word} for word in ("toward_zero", "nearest_even", "nearest_away", "down", "to_odd")
    )
    if record.reduce == "align":
        yield from _aligning(record, k)
    elif record.reduce in ("blocks", "tree", "integer"):
        yield from ({"group": group} for group in (0, *_GROUPS))
    if record.reduce == "tree":
        # Rounded products that are added one by one.
        yield from ({"group": 1, "accumulator_fraction": bits} for bits in (7, 10))
        yield {"group": 1, "accumulator_exponent_bits": 5, "accumulator_fraction": 10}
        yield from ({name: not getattr(record, name)} for name in ("flush_inputs", "flush_results"))
    if record.reduce == "integer":
        yield from ({"integer_bits": record.integer_bits + step} for step in _STEPS)
        yield from (
            {"integer_overflow": word, "integer_tree": tree} for word in ("wrap", "saturate") for tree in (0, 1)
        )


def _aligning(record: Datapath, k: int) -> Iterator[dict[str, Any]]:
    yield from ({"fraction_bits": record.fraction_bits + step} for step in _STEPS)
    yield from ({"align_rounding": word} for word in ("toward_zero", "down", "nearest_even", "to_odd"))
    yield from ({"zero_products": word} for word in ("absent", "lowest"))
    yield from ({"normalize": not record.normalize}, {"product_overflow": not record.product_overflow})
    steps = max(1, record.instruction // record.group) if record.instruction else 0
    length = record.instruction or record.group
    for group in _GROUPS:
        yield {"group": group, "instruction": group * steps, "chunk": 0 if record.chunk % group else record.chunk}
    # Where c enters: with the products of each step, after an instruction, after all of K.
    yield {"start": "aligned"}
    yield from ({"start": "after_instruction", "instruction": record.group * n, "run": 0} for n in (1, 2, 4))
    whole = -(-k // length) * length
    yield from ({"chunk": chunk} for chunk in dict.fromkeys((0, 32, 64, 128, 256, 512, whole)))
    if record.instruction:
        yield from ({"run": run} for run in (0, 1, 2, 4, 8))
    if record.start == "late_floor":
        yield from ({"lanes": lanes} for lanes in (1, 2, 4))
        for name in ("sum_fraction", "start_fraction", "start_reach"):
            yield from ({name: getattr(record, name) + step} for step in (-1, 1))
