"""Random operands that compare a black box with the record that `probe` made of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.black_box import BlackBox
from sparq_sim.candidates import WRITTEN, Candidate, canonical
from sparq_sim.formats import datapaths
from sparq_sim.matmul import RESULTS, offered_results
from sparq_sim.operands import Operand
from sparq_sim.probed import Probe
from sparq_sim.telling import drawn_line


def verify(box: BlackBox, found: Probe, mask: Array, dots: int) -> Probe:
    """How many of some random outputs at places of the mask, [tile, tile], the record makes, and which machines of the
    catalog make all of them."""
    rng = np.random.default_rng(11)
    elements = [side.element for side in box.sides]
    machines = [Candidate(name, m.record, *w) for name, m in datapaths().items() for w in WRITTEN[box.dtype]]
    records = [] if found.record is None else [found.record]
    own = [Candidate("record", record, *w) for record in records for w in WRITTEN[box.dtype]]
    equal, total, alive = np.zeros(len(own), np.int64), 0, None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = mask[np.ix_(rows, columns)]
    for number in range(max(1, -(-dots // int(mask.sum())))):
        spread = (4, 8, 1)[number % 3]
        a, b = (drawn_line(rng, element, (box.tile, box.k), spread) for element in elements)
        start = box.drawn_start(rng, (box.tile, box.tile), spread)
        wanted = box.bits(a, b, start)[np.ix_(rows, columns)]
        left, right = Operand(a[rows], elements[0]), Operand(b[columns], elements[1])
        start = None if start is None else start[np.ix_(rows, columns)]
        if alive is None:
            alive = [one for one in machines if _takes(one, left, right, start)]
        asked = (left, right, start, box.dtype, wanted, inside)
        alive = [one for one in alive if _makes(one, *asked) == inside.sum()]
        equal += np.array([_makes(one, *asked) for one in own], np.int64)
        total += int(inside.sum())
        if not alive and not own:
            break
    names = tuple(dict.fromkeys(one.base for one in alive or ()))
    return replace(found, equal=int(equal.max(initial=0)), total=total, names=names)


def _takes(one: Candidate, a: Operand, b: Operand, start: Array | None) -> bool:
    if one.result not in offered_results(one.record):
        return False
    own = None if start is None else start[:1, :1]
    return one.refusal(a, b, own) is None


def _makes(
    one: Candidate, a: Operand, b: Operand, start: Array | None, dtype: str, wanted: Array, inside: Array
) -> int:
    """Outputs of these places that are equal."""
    if one.result not in offered_results(one.record) or (start is not None and start.dtype != RESULTS[one.result]):
        return 0
    return int(((canonical(one.outputs(a, b, start), dtype) == wanted) & inside).sum())
