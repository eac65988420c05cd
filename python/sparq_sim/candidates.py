"""A described machine with what it writes, asked for the bits of a product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim._core import Datapath
from sparq_sim.arrays import Array
from sparq_sim.identify.trial import INF_NAN
from sparq_sim.matmul import RESULTS, as_result, core_start, machine_for, rounds_afterwards
from sparq_sim.operands import Operand
from sparq_sim.products import Product
from sparq_sim.quantize import encode
from sparq_sim.split import SplitK
from sparq_sim.steps import rounded_to
from sparq_sim.variants import arithmetic

#: What an output of a dtype can have been: the machine's result, and the format that a float32 result was rounded to.
WRITTEN: dict[str, tuple[tuple[str, str | None], ...]] = {
    "float32": (("fp32", None),),
    "float16": (("fp16", None), ("fp32", "fp16")),
    "bfloat16": (("fp32", "bf16"),),
    "int32": (("int32", None),),
}


@dataclass(frozen=True)
class Candidate:
    """A machine that may have made an output."""

    base: str
    """The named machine that it is, or is a variant of."""
    record: Datapath = field(repr=False)
    result: str
    rounded: str | None
    """The format that a float32 result is rounded to, nearest even; None: it is written as it is."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ from those of the named machine."""
    split: SplitK | None = None

    @property
    def label(self) -> str:
        """The named machine and what differs."""
        turned = ", ".join(f"{name} {value}" for name, value in self.changes.items())
        written = f", float32 rounded to {self.rounded}" if self.rounded else ""
        parts = f" in {self.split}" if self.split is not None else ""
        return self.base + (f" with {turned}" if turned else "") + parts + written

    @property
    def path(self) -> Datapath:
        """The machine as it works when it gives that result."""
        return machine_for(self.record, self.result)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for machines that compute the same."""
        scale = tuple(self.record.scale.to_dict().values())
        return (self.result, self.rounded, self.split, scale, *arithmetic(self.path).values())

    def refusal(self, a: Operand, b: Operand, start: Array | None) -> str | None:
        """Why it does not take these operands, if it does not."""
        floats = any(x.float_scales is not None or x.tensor_scale is not None for x in (a, b))
        if start is not None and start.dtype != RESULTS[self.result]:
            return f"c is {start.dtype}, and its accumulator {self.result}"
        if floats and self.result != "fp32":
            return "float scales multiply a float32 result"
        try:
            _core.check_operands(self.path, a.element, b.element, bool(a.segment_end or b.segment_end))
            first = np.array([0])
            self.outputs(a.rows_at(first), b.rows_at(first), None if start is None else start[:1, :1])
        except (ValueError, TypeError) as error:
            return str(error)
        return None

    def outputs(self, a: Operand, b: Operand, start: Array | None, threads: int | None = None) -> Array:
        """[M, N] bits of what it writes; `start` is of its result's dtype."""
        path = self.path
        work = Product(a, b, path, split=self.split)
        values = work.run(None if start is None else core_start(start), threads)
        if rounds_afterwards(self.result, self.split, None):
            values = rounded_to(values, self.result)
        if self.rounded:
            return encode(values, self.rounded, overflow="special", threads=threads).codes
        made = as_result(values, path, self.result)
        return made.view(f"u{made.itemsize}")


def canonical(bits: Array, dtype: str) -> Array:
    """Bits of outputs with one NaN for all."""
    if dtype not in INF_NAN:
        return bits
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    infinity = bits.dtype.type(INF_NAN[dtype][0])
    return np.where((bits & ~sign) > infinity, infinity + bits.dtype.type(1), bits)


def steps_apart(x: Array, y: Array, dtype: str) -> Array:
    """Distance of canonical bits in steps of the dtype."""
    sides = []
    for bits in (x, y):
        wide = bits.astype(np.int64)
        top = 1 << (8 * bits.itemsize - 1)
        if dtype == "int32":
            sides.append(np.where(wide >= top, wide - 2 * top, wide))
        else:
            sides.append(np.where(wide >= top, top - wide, wide))
    distance: Array = np.abs(sides[0] - sides[1])
    return distance
