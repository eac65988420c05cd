"""What `probe` asks of boxes in whose sums of products nothing is lost: integers, and products of few sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from sparq_sim.arrays import Array
from sparq_sim.probe_asker import ROUNDINGS, Asker
from sparq_sim.probed import Probe
from sparq_sim.summation import START


def beside_start(asker: Asker, found: Probe) -> Probe:
    """Which products join c together: two that are lost alone, and not lost if they are added first."""
    small = 2.0**asker.lowest
    bits = next((n for n in range(1, 40) if asker.of({0: small, START: small * 2.0**n})[0] == small * 2.0**n), None)
    if bits is None:
        return found.unknown("which products join c together: none is lost beside it")
    large = small * 2.0**bits  # half a step of it is one product
    pairs = list(combinations(range(found.k), 2))
    made = asker.of(*[{i: small, j: small, START: large} for i, j in pairs])
    together = [pair for pair, value in zip(pairs, made, strict=True) if value == large + 2 * small]
    groups: list[list[int]] = []
    for place in range(found.k):
        own = next((group for group in groups if (group[0], place) in set(together)), None)
        if own is None:
            groups.append([place])
        else:
            own.append(place)
    said = {pair for group in groups for pair in combinations(group, 2)}
    if said != set(together):
        return found.unknown("which products join c together: pairs that do form no groups")
    found = replace(found, exact_groups=tuple(map(tuple, groups)), output_fraction=bits - 1)
    other = groups[0][1] if len(groups[0]) > 1 else None
    cases = [
        {0: sign * small, START: sign * large, **({other: sign * 2 * small} if units == 1.5 and other else {})}
        for sign in (1.0, -1.0)
        for units in (0.5, 1.5)
    ]
    steps = (asker.of(*cases) - large * np.array([1, 1, -1, -1])) / (2 * small)
    return replace(found, output_rounding=ROUNDINGS.get(tuple(steps.tolist())))


def integer_overflow(asker: Asker, found: Probe) -> Probe:
    """Where sums of integers leave their range, and what happens then."""
    tops = [float(side.values[-1]) for side in asker.box.sides]
    unit, large = 2.0**asker.lowest, tops[0] * tops[1]
    counts = range(1, found.k + 1)

    def sums(signs: Array) -> Array:
        """Of rows of the largest products, each with a sign or left out."""
        starts = np.zeros(len(signs)) if asker.box.takes_c else None
        return asker.box.results(signs * tops[0], np.abs(signs) * tops[1], starts)

    made = sums(np.tril(np.ones((found.k, found.k))))
    wrong = [count for count, value in zip(counts, made, strict=True) if value != count * large]
    if not wrong:
        return found.unknown(f"overflow: {found.k} of the largest products still fit")
    first = wrong[0]
    value = made[first - 1] / unit
    missing = first * large / unit - value
    if value == made[min(first, found.k - 1)] / unit and np.log2(value + 1) % 1 == 0:
        found = replace(found, integer_bits=int(np.log2(value + 1)) + 1, integer_overflow="saturate")
        if 2 * first > found.k:
            return found.unknown("where saturation is tested: K is too short")
        there_and_back = np.repeat([[1.0, -1.0, 0.0]], [first, first, found.k - 2 * first], axis=1)
        return replace(found, integer_tree=0 if sums(there_and_back)[0] == 0 else 1)
    if missing > 0 and np.log2(missing) % 1 == 0:
        return replace(found, integer_bits=int(np.log2(missing)), integer_overflow="wrap")
    return found.unknown("overflow: neither wrap nor saturation")
