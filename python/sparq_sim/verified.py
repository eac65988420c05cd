"""Random operands that compare a black box with the record that `probe` made of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparq_sim.arrays import Array, to_numpy
from sparq_sim.black_box import BlackBox
from sparq_sim.candidates import WRITTEN, Candidate, canonical
from sparq_sim.formats import datapaths
from sparq_sim.matmul import RESULTS, offered_results
from sparq_sim.operands import Operand
from sparq_sim.probed import Probe
from sparq_sim.telling import drawn_line, drawn_start


def verify(box: BlackBox, found: Probe, dots: int) -> Probe:
    """How many of some random outputs the record makes, and which machines of the catalog make all of them."""
    rng = np.random.default_rng(11)
    elements = [side.element for side in box.sides]
    machines = [Candidate(name, m.record, *w) for name, m in datapaths().items() for w in WRITTEN[box.dtype]]
    records = [] if found.record is None else [found.record]
    own = [Candidate("record", record, *w) for record in records for w in WRITTEN[box.dtype]]
    equal, total, alive = np.zeros(len(own), np.int64), 0, None
    for number in range(max(1, -(-dots // box.tile**2))):
        spread = (4, 8, 1)[number % 3]
        a, b = (drawn_line(rng, element, (box.tile, box.k), spread) for element in elements)
        # c as values that the result's dtype holds, and of them what comes out.
        result = {"float16": "fp16", "int32": "int32"}.get(str(box.c_dtype), "fp32")
        start = drawn_start(rng, (box.tile, box.tile), result, spread) if box.takes_c else None
        given = to_numpy(box.ask(a, b, start), "d")
        wanted = canonical(np.ascontiguousarray(given).view(f"u{given.itemsize}"), box.dtype)
        left, right = Operand(a, elements[0]), Operand(b, elements[1])
        if alive is None:
            alive = [one for one in machines if _takes(one, left, right, start)]
        alive = [one for one in alive if _makes(one, left, right, start, box.dtype, wanted) == wanted.size]
        made = [_makes(one, left, right, start, box.dtype, wanted) for one in own]
        equal += np.array(made, np.int64)
        total += wanted.size
    names = tuple(dict.fromkeys(one.base for one in alive or ()))
    return replace(found, equal=int(equal.max(initial=0)), total=total, names=names)


def _takes(one: Candidate, a: Operand, b: Operand, start: Array | None) -> bool:
    if one.result not in offered_results(one.record):
        return False
    own = None if start is None else start[:1, :1]
    return one.refusal(a, b, own) is None


def _makes(one: Candidate, a: Operand, b: Operand, start: Array | None, dtype: str, wanted: Array) -> int:
    """Outputs that are equal."""
    if one.result not in offered_results(one.record) or (start is not None and start.dtype != RESULTS[one.result]):
        return 0
    return int((canonical(one.outputs(a, b, start), dtype) == wanted).sum())
