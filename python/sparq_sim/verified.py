"""Random operands that compare a black box with the record that `probe` made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.black_box import BlackBox
from sparq_sim.candidates import WRITTEN, Candidate, canonical
from sparq_sim.formats import datapaths
from sparq_sim.matmul import RESULTS, offered_results
from sparq_sim.operands import Operand
from sparq_sim.probed import Probe
from sparq_sim.telling import Telling, drawn_line

#: Operands, and c where it is taken.
_Asked = tuple[Operand, Operand, Array | None]


def verify(box: BlackBox, found: Probe, records: Sequence[Datapath], mask: Array, dots: int) -> Probe:
    """The findings with the first of these records that makes all of some random outputs at places of the mask, [tile,
    tile]; else with one that the nearest of them does not make. Which machines of the catalog make all of them."""
    rng = np.random.default_rng(11)
    elements = [side.element for side in box.sides]
    machines = [Candidate(name, m.record, *w) for name, m in datapaths().items() for w in WRITTEN[box.dtype]]
    own = [Candidate("record", record, *w) for record in records for w in WRITTEN[box.dtype]]
    equal = np.zeros(0, np.int64)
    misfits: dict[int, Telling] = {}
    refused = ""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = mask[np.ix_(rows, columns)]
    rounds = max(1, -(-dots // int(mask.sum())))
    for number in range(rounds):
        spread = (4, 8, 1)[number % 3]
        a, b = (_drawn(rng, element, (box.tile, box.k), spread, number) for element in elements)
        start = _start(box, rng, spread, own)
        wanted = box.bits(a, b, start)[np.ix_(rows, columns)]
        c = None if start is None else start[np.ix_(rows, columns)]
        asked = Operand(a[rows], elements[0]), Operand(b[columns], elements[1]), c
        if number == 0:
            refused = "; ".join(filter(None, (_refusal(one, asked) for one in own)))
            own = [one for one in own if _refusal(one, asked) is None]
            equal = np.zeros(len(own), np.int64)
        machines = [one for one in machines if _refusal(one, asked) is None]
        machines = [one for one in machines if (_outputs(one, asked, box.dtype) == wanted)[inside].all()]
        for at, one in enumerate(own):
            made = _outputs(one, asked, box.dtype)
            same = made == wanted
            equal[at] += int(same[inside].sum())
            if at not in misfits and not same[inside].all():
                i, j = np.argwhere(~same & inside)[0]
                value = None if c is None else c[i, j].item()
                misfits[at] = Telling.of(
                    "function", "record", a[rows[i]], b[columns[j]], value, wanted[i, j], made[i, j]
                )
        if not machines and not own:
            break
    names = tuple(dict.fromkeys(one.base for one in machines))
    total = rounds * int(mask.sum()) if own else 0
    best = int(np.argmax(equal)) if own else 0
    found = replace(found, equal=int(equal.max(initial=0)), total=total, names=names)
    if not records:
        return found
    if not own:
        return replace(found, nearest=records[0], no_record=f"the one that follows could not be compared: {refused}")
    if best in misfits:
        said = f"{found.equal} of {total} random outputs are equal to the one that follows; {misfits[best]}"
        return replace(found, nearest=own[best].record, misfit=misfits[best], no_record=said)
    return replace(found, record=own[best].record)


def _start(box: BlackBox, rng: np.random.Generator, spread: int, own: list[Candidate]) -> Array | None:
    """c, of a size that the accumulators of the candidates hold."""
    shape = (box.tile, box.tile)
    drawn = box.drawn_start(rng, shape, spread)
    if drawn is None or all(_converted(one, drawn) is not None for one in own):
        return drawn
    return box.drawn_start(rng, shape, 1)


def _drawn(rng: np.random.Generator, element: ElementFormat, shape: tuple[int, int], spread: int, number: int) -> Array:
    """Random codes; of integers in every other round the largest, with runs of one sign, whose sums reach furthest."""
    if element.exponent_bits or number % 2:
        return drawn_line(rng, element, shape, spread)
    length = int(rng.integers(1, shape[1] + 1))
    signs = np.repeat(rng.choice([1, -1], (shape[0], -(-shape[1] // length))), length, axis=1)[:, : shape[1]]
    largest = element.max_code
    negative = (
        (1 << element.code_bits) - largest
        if element.signedness == "twos_complement"
        else largest | (1 << (element.code_bits - 1))
    )
    made: Array = np.where(signs > 0, largest, negative).astype(np.dtype(f"u{element.code_bytes}"))
    return made


def _refusal(one: Candidate, asked: _Asked) -> str | None:
    """Why it does not write such results of such operands and c, if it does not."""
    a, b, start = asked
    if one.result not in offered_results(one.record):
        return f"it writes {' or '.join(offered_results(one.record))}"
    own = _converted(one, start)
    if start is not None and own is None:
        return f"c is {start.dtype}, and its accumulator {one.result}"
    return one.refusal(a, b, own)


def _converted(one: Candidate, start: Array | None) -> Array | None:
    """c in the machine's own type, where that holds it."""
    if start is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        made: Array = start.astype(RESULTS[one.result])
    return made if np.array_equal(made, start) else None


def _outputs(one: Candidate, asked: _Asked, dtype: str) -> Array:
    """Canonical bits."""
    a, b, start = asked
    own = _converted(one, start)
    assert start is None or own is not None
    return canonical(one.outputs(a, b, own), dtype)
