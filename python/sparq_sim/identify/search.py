"""Which specs make y of x: named ones first, then what differs from them, then the product of structures and fields."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparq_sim._core import Conversion, Sparsity
from sparq_sim.arrays import Array
from sparq_sim.formats import Format, Spec
from sparq_sim.identify.candidates import (
    BLOCKS,
    FIELDS,
    TILES,
    Block,
    Numbers,
    block_of,
    by_structure,
    changed,
    describe,
    named,
    neighbours,
    other_words,
    structure,
    values_of,
    with_block,
    with_conversion,
    with_fields,
)
from sparq_sim.identify.facts import Frame, Pair, significant_bits
from sparq_sim.identify.guesses import divisors, suggested
from sparq_sim.identify.trial import Misses, Trial, floats

#: Runs of the whole tensor, at most, and elements that may be run through in all if that is more.
WHOLE_RUNS = 48
_WHOLE_ELEMENTS = 1 << 22
#: Candidates that are improved field by field.
_STARTS = 12
#: Structures in a block that are tried with every scale rule and rounding.
_CROSSED = 40
#: Structures in a block, with a scale rule, that are tried with every alignment.
_ALIGNED = 300
#: Scales of one structure in one kind of blocks that are looked at further, and all of them.
_PER_BLOCK = 4
_STARTS_ROUNDED = 256
#: Choices of a scale, and what else decides between which two neighbours an element lies.
_SCALE_FIELDS = ("scale_rule", "scale_rounding")
_STEP_FIELDS = (
    "preround",
    "divisor_apply",
    "scale_compute",
    "scale_apply",
    "divide_by",
    "outer_apply",
    "scale_order",
)
#: Elements that are this close to a neighbour count as near it while the steps of a float scale are unknown.
_CLOSE = 2.0**-7

#: Below this share of y a structure in a block with a divisor is given up.
_FAR = 0.2
#: If no structure holds more of y than this, choices are not gone through.
_HOPELESS = 0.5

#: A structure in a block that cannot hold this share of y makes none of it.
_HOLDS = 0.9
#: Once something misses this little of y, structures in blocks that miss more than so many times that, and a share
#: besides, are left alone.
_TIMES, _BESIDES = 4, 0.05

#: Scales that are off by a step in some blocks miss this share at least.
_SHIFTED = 0.25

#: With this few misses, or this share of them, no other structure is tried.
_NEAR = (1, 5e-4)


def _rate(misses: Misses | None) -> float:
    return 2.0 if misses is None else misses.rate


@dataclass
class Search:
    """One search; `run` fills `matches` and `nearest`."""

    pair: Pair
    frames: dict[int, Frame]
    numbers: Numbers = field(default_factory=Numbers.of_the_catalog)
    whole_runs: int = 0
    matches: dict[Spec, Misses] = field(default_factory=dict)
    tried: dict[Spec, Misses] = field(default_factory=dict)
    """What the whole tensor said of each."""
    held: float = 1.0
    """The largest share of y that lies near neighbours of x, of all structures; once they were looked at."""
    _memo: dict[tuple[Spec, int], Misses | None] = field(default_factory=dict)
    _least: dict[Hashable, float] = field(default_factory=dict)
    """The fewest misses of each structure in a block on an axis, as a share of what is not zero."""
    _recipes: dict[tuple[Format, float], list[Conversion]] = field(default_factory=dict)

    # Candidates on samples and on the whole.

    def sampled(self, made: Spec) -> Misses | None:
        """Misses on the sample."""
        frame = self.frames[made.axis]
        key = (made, frame.version)
        if key not in self._memo:
            self._memo[key] = frame.sample(block_of(made.format), ordinary=False).misses(made)
        return self._memo[key]

    def note(self, candidates: Iterable[Spec]) -> None:
        """Keeps how near structures in blocks come."""
        for one in candidates:
            key = _place(one)
            self._least[key] = min(self._least.get(key, 2.0), self._of_nonzero(one))

    def _of_nonzero(self, made: Spec) -> float:
        """Misses on the sample as a share of what is not zero there: zeros are easily met."""
        misses = self.sampled(made)
        if misses is None:
            return 2.0
        places = self.frames[made.axis].sample(block_of(made.format), ordinary=False).numbers[0]
        return min(2.0, misses.total / max(1, places.size))

    def contends(self, made: Spec) -> bool:
        """Whether a structure in a block can hold y, and is near enough to what comes nearest."""
        nearest = min(self._least.values(), default=2.0)
        if self._least.get(_place(made), 0.0) > _TIMES * nearest + _BESIDES or self._too_fine(made.format):
            return False
        return self.frames[made.axis].held(block_of(made.format), values_of(made.format)) >= _HOLDS

    @cached_property
    def _bits(self) -> int:
        """Significant bits of nearly all of y."""
        return _usual_bits(next(iter(self.frames.values())).sample((0, 0), ordinary=True))

    def exact(self, made: Spec) -> Misses | None:
        """Misses on the whole tensor, whose places the samples then look at; None beyond the budget."""
        if made not in self.tried:
            if self.whole_runs >= max(WHOLE_RUNS, min(512, _WHOLE_ELEMENTS // self.pair.x.size)):
                return None
            self.whole_runs += 1
            frame = self.frames[made.axis]
            got = frame.whole.run(made)
            size = frame.whole.size
            if got is None:
                self.tried[made] = Misses(size, 0, size)
            else:
                values, signs = frame.whole.different(got)
                self.tried[made] = Misses(int(values.size), int(signs.size), size)
                if values.size or signs.size:
                    frame.add(values if values.size else signs)
        return self.tried[made]

    def settle(self, candidates: Iterable[Spec]) -> None:
        """Runs the whole tensor through those that fit the sample."""
        for made in candidates:
            misses = self.sampled(made)
            if misses is None or misses.values:
                continue
            found = self.exact(made)
            if found is not None and not found.values:
                self.matches[made] = found

    @property
    def solved(self) -> bool:
        """Whether something makes y, zeros and all."""
        return any(not misses.signs for misses in self.matches.values())

    def near(self, candidates: list[Spec]) -> bool:
        """Whether something makes all of y but a few elements."""
        few, share = _NEAR
        best = self.closest(candidates)
        misses = self.exact(best) if _rate(self.sampled(best)) < 0.01 else None
        every = [*self.tried.values(), *([] if misses is None else [misses])]
        return any(one.total <= max(few, share * one.elements) for one in every)

    # Where blocks may lie.

    def patterns(self, frame: Frame) -> list[tuple[Sparsity | None, str]]:
        """Sparsity and order."""
        found: list[tuple[Sparsity | None, str]] = [(None, "sparsify_first")]
        return found + [(one, order) for order in ("sparsify_first", "quantize_first") for one in frame.sparsity]

    def blocks(self, frame: Frame, format: Format) -> list[Block]:
        """The blocks of a structure that differ on this tensor."""
        if not format.levels:
            return [(0, 0)]
        own = {block_of(one.format) for one in by_structure().get(structure(format), ())}
        alongs = {along for along, across in own if across == 1 and along} | set(BLOCKS)
        made: list[Block] = [(along, 1) for along in sorted(alongs) if along < frame.length]
        longest = [(along, 1) for along in sorted(alongs) if along >= frame.length]
        # A rule that looks at every element of a block needs a length.
        made += [one for one in longest if one in own][:1] or [*longest[:1], (0, 1)]
        made += [(0, 0)] if frame.lines > 1 else []
        if frame.near > 1:
            sides = {(n, n) for n in TILES} | {(along, across) for along, across in own if across > 1}
            made += [one for one in sorted(sides) if one[0] // 2 < max(frame.length, frame.near)]
        return made

    def placed(self, format: Format, sparse: bool = True) -> Iterator[Spec]:
        """A format on every axis with every pattern; those that are the same for all axes once."""
        first = True
        for frame in self.frames.values():
            square = all(level.across in (0, level.along) for level in format.levels)
            flat = self.pair.x.ndim <= 2 or not any(level.across for level in format.levels)
            for pattern, order in self.patterns(frame) if sparse else [(None, "sparsify_first")]:
                everywhere = pattern is None and square and flat
                if first or not everywhere:
                    yield Spec(format, pattern, order, frame.axis)
            first = False

    # Step 1: what has a name.

    def named_candidates(self) -> dict[Spec, None]:
        """Formats and presets in their own blocks, then in others."""
        made: dict[Spec, None] = {}
        others: dict[Spec, None] = {}
        seen: set[object] = set()
        for one in named():
            key = (structure(one.format), one.format.conversion)
            if (*key, block_of(one.format)) not in seen:
                seen.add((*key, block_of(one.format)))
                made |= dict.fromkeys(self.placed(one.format))
            for frame in self.frames.values():
                for block in self.blocks(frame, one.format):
                    there = (*key, block, frame.axis)
                    format = None if there in seen else with_block(one.format, block)
                    seen.add(there)
                    if format is not None and block != block_of(one.format):
                        others |= dict.fromkeys(s for s in self.placed(format) if s.axis == frame.axis)
        return made | others

    # Step 2: field by field.

    def improved(self, start: Spec, rare: bool) -> Spec:
        """The candidate after changing, as long as it helps, the one field that helps most, or else the block."""
        best, rate = start, _rate(self.sampled(start))
        numbers = suggested(self.frames[start.axis].sample(block_of(start.format), ordinary=False), start, self.numbers)
        if rare:
            numbers = numbers.with_rare_ones()
        for _ in range(10):
            for options in self.options(best, numbers):
                scored = [(_rate(self.sampled(one)), i) for i, one in enumerate(options)]
                least, at = min(scored, default=(rate, 0))
                if least < rate:
                    break
            if rate == 0 or least >= rate:
                break
            best, rate = options[at], least
        return best

    def options(self, made: Spec, numbers: Numbers) -> Iterator[list[Spec]]:
        """What a candidate may be changed to: other choices, then other blocks, then other structures."""
        yield self.other_fields(made, numbers)
        yield self.other_blocks(made)
        found = []
        for family in by_structure().values():
            format = with_block(family[0].format, block_of(made.format))
            format = format and with_conversion(format, made.conversion)
            if format is not None:
                found.append(replace(made, format=format))
        yield found

    def other_fields(self, made: Spec, numbers: Numbers) -> list[Spec]:
        """The candidate with one choice changed."""
        return [replace(made, format=one) for one in neighbours(made.format, numbers)]

    def other_blocks(self, made: Spec) -> list[Spec]:
        """The candidate in other blocks, on every axis."""
        found = []
        for frame in self.frames.values():
            for block in self.blocks(frame, made.format):
                format = with_block(made.format, block)
                if format is not None:
                    found.append(Spec(format, made.sparsity, made.order, frame.axis))
        return found

    def improve(self, candidates: Iterable[Spec], rare: bool = False, most: int = _STARTS) -> list[Spec]:
        """The best candidates improved; stops at the first that makes y."""
        ranked = self.ranked(candidates)
        families: dict[object, int] = {}
        made: list[Spec] = []
        for start in ranked:
            family = _family(start)
            families[family] = families.get(family, 0) + 1
            if families[family] > (1 if rare else 3) or self.sampled(start) is None:
                continue
            for _ in range(4):  # what the whole tensor shows besides is looked at again
                better = self.improved(start, rare)
                made.append(better)
                version = self.frames[better.axis].version
                self.settle([better])
                if self.solved or version == self.frames[better.axis].version:
                    break
                start = better
            if self.solved or len(made) >= most:
                break
        return made

    # Step 3: structures and fields.

    def shifted(self) -> dict[Spec, None]:
        """Structures whose scales are powers of two, with the divisors that y shows: another divisor moves scales by
        whole steps, so that all of y is missed without it."""
        made: dict[Spec, None] = {}
        for family in by_structure().values():
            base = family[0].format
            if base.scale_kind != "power_of_two" or self._too_fine(base):
                continue
            for frame in self.frames.values():
                for block in self.blocks(frame, base):
                    format = with_block(base, block)
                    if format is None or frame.held(block, values_of(format)) < _HOLDS:
                        continue
                    if self._least.get((structure(format), block, frame.axis), 0.0) < _SHIFTED:
                        continue
                    for divisor in divisors(frame.sample(block, ordinary=True), format):
                        other = with_fields(format, {"divisor": divisor})
                        if other is not None:
                            made |= dict.fromkeys(one for one in self.placed(other) if one.axis == frame.axis)
        return made

    def shares(self, made: Spec) -> tuple[float, float]:
        """Of the elements of ordinary blocks, how many are one of the two neighbours of x, and how many nearly."""
        trial = self.frames[made.axis].sample(block_of(made.format), ordinary=True)
        places, y, bits = trial.numbers
        if not places.size:
            return 0.0, 0.0
        results = []
        for rounding in ("down", "up"):
            format = changed(made.format, "rounding", rounding)
            got = None if format is None else trial.run(replace(made, format=format))
            if got is None:
                return 0.0, 0.0
            results.append(got.reshape(-1)[places])
        exact = float(((results[0] == bits) | (results[1] == bits)).mean())
        if exact > 0.999:
            return exact, 1.0
        with np.errstate(all="ignore"):
            room = _CLOSE * np.abs(y)
            close = np.zeros(y.shape, bool)
            for got in results:
                close |= np.abs(floats(got, trial.y_type) - y) <= room
        return exact, float(close.mean())

    def _too_fine(self, format: Format) -> bool:
        """Whether y has more significant bits than elements under powers of two can have."""
        powers = format.scale_kind != "float" and not format.element.taper
        return powers and self._bits > format.element.mantissa_bits + 1

    def recipes(self, format: Format, names: tuple[str, ...], numbers: Numbers) -> list[Format]:
        """The format with every product of the words of some fields that means something."""
        made = {format: None}
        for name in names:
            change = changed if name in ("scale_rule", "align_bits") else _only
            others = (change(one, name, word) for one in list(made) for word in other_words(one, name, numbers))
            made |= dict.fromkeys(one for one in others if one is not None)
        return list(made)

    def starts(self) -> list[Spec]:
        """Candidates whose neighbours hold y, from the product of structures, blocks, scales and steps."""
        scored: list[tuple[float, float, Spec]] = []
        for family in by_structure().values():
            bases = list({one.format.conversion: one.format for one in family}.values())
            if self._too_fine(bases[0]):
                continue
            for base in _unlike(bases):
                scored += self._survey(base)
        if not scored:
            return []
        self.held = max(max(one[:2]) for one in scored)
        good = [one for one in scored if one[0] > 0.999]
        if not good:
            good = self._with_steps(scored)
        good.sort(key=lambda one: (-round(one[0], 4), len(describe(one[2]).changes)))
        return [made for share, _, made in good if share >= good[0][0] - 0.02][:_STARTS_ROUNDED]

    def _survey(self, base: Format) -> list[tuple[float, float, Spec]]:
        """Scales of a structure in every block: the share of y that they hold."""
        found: list[tuple[float, float, Spec]] = []
        for frame in self.frames.values():
            for block in self.blocks(frame, base):
                format = with_block(base, block)
                if format is None:
                    continue
                placed = [one for one in self.placed(format) if one.axis == frame.axis and self.contends(one)]
                if not placed:
                    continue
                guessed = divisors(frame.sample(block, ordinary=True), format)
                for made in placed:
                    here: list[tuple[float, float, Spec]] = []
                    for divisor in dict.fromkeys((*self.numbers.divisor, *guessed)):
                        for recipe in self._scales(base, divisor):
                            other = with_conversion(format, recipe)
                            if other is None:
                                continue
                            one = replace(made, format=other)
                            here.append((*self.shares(one), one))
                            if max(here[-1][:2]) < _FAR:  # other rules move a scale by a step at most
                                break
                    here.sort(key=lambda one: -max(one[:2]))
                    found += here[:_PER_BLOCK]
        return found

    def _scales(self, base: Format, divisor: float) -> list[Conversion]:
        """The choices of scales of a structure with one divisor."""
        key = (base, divisor)
        if key not in self._recipes:
            every: Iterable[Format | None]
            if divisor == 0:
                every = self.recipes(base, _SCALE_FIELDS, self.numbers)
            else:
                plain = (with_conversion(base, one) for one in self._scales(base, 0))
                every = (one and with_fields(one, {"divisor": divisor}) for one in plain)
            self._recipes[key] = [one.conversion for one in every if one is not None]
        return self._recipes[key]

    def _with_steps(self, scored: list[tuple[float, float, Spec]]) -> list[tuple[float, float, Spec]]:
        """The best of a survey with every product of the steps besides."""
        scored = sorted(scored, key=lambda one: -max(one[:2]))
        best = max(scored[0][:2])
        found = list(scored)
        for exact, close, made in scored[:32]:
            if max(exact, close) < best - 0.1:
                break
            for recipe in self.recipes(made.format, _STEP_FIELDS, self.numbers):
                one = replace(made, format=recipe)
                found.append((*self.shares(one), one))
        return found

    def rounded(self, starts: Iterable[Spec]) -> dict[Spec, None]:
        """Starts with every rounding and overflow."""
        made: dict[Spec, None] = {}
        for start in starts:
            recipes = self.recipes(start.format, ("rounding", "overflow"), self.numbers)
            made |= dict.fromkeys(replace(start, format=format) for format in recipes)
        return made

    # All of it.

    def run(self) -> None:
        """Fills `matches`; `tried` has what came near."""
        candidates = self.named_candidates()
        self.settle(candidates)
        better: list[Spec] = []
        if not self.solved:
            self.note(candidates)
            crossed = self.crossed(
                candidates, ("rounding", "scale_rule", "overflow", "scale_rounding"), self.numbers, _CROSSED
            )
            self.settle(crossed)
            better += [] if self.solved else self.improve({**candidates, **crossed})
            self.note([*crossed, *better])
        if not self.matches and not self.near(better):
            shifted = self.shifted()
            self.settle(shifted)
            self.note(shifted)
        if not self.matches and not self.near(better):
            found = self.rounded(self.starts())
            self.settle(found)
            better += [] if self.solved else self.improve(found, most=_STARTS if self.held > _HOPELESS else 3)
        if not self.matches and self.held > _HOPELESS and not self.near(better):
            rare = self.numbers.with_rare_ones()
            # Without its alignment a structure may miss nearly all, so all are aligned before the best are rounded.
            aligned = self.crossed(candidates, ("align_bits",), rare, _ALIGNED, ("scale_rule", "rounding"))
            crossed = self.crossed(aligned, ("rounding",), rare, _CROSSED)
            # What is aligned has other smallest numbers, from which a divisor was guessed.
            plain = (with_fields(one.format, {"divisor": 0.0}) for one in better)
            better += [replace(one, format=f) for one, f in zip(better, plain, strict=True) if f is not None]
            crossed |= self.crossed(better, ("align_bits", "align_rounding", "rounding"), rare, _STARTS)
            self.settle(crossed)
            better += [] if self.solved else self.improve({**crossed, **dict.fromkeys(better)}, rare=True)
        if not self.matches:
            families: dict[object, list[Spec]] = {}
            for one in self.ranked({**candidates, **dict.fromkeys(better)}):
                families.setdefault((structure(one.format), block_of(one.format), one.axis), []).append(one)
            for alike in list(families.values())[:3]:
                rate = _rate(self.sampled(alike[0]))
                equal = [one for one in alike[:32] if _rate(self.sampled(one)) == rate]
                self.exact(min(equal, key=lambda one: len(describe(one).changes)))

    def ranked(self, candidates: Iterable[Spec]) -> list[Spec]:
        """The fewest misses on samples first."""
        return sorted(dict.fromkeys(candidates), key=lambda one: _rate(self.sampled(one)))

    def closest(self, candidates: Iterable[Spec]) -> Spec:
        """The first of `ranked`."""
        return self.ranked(candidates)[0]

    def crossed(
        self,
        candidates: Iterable[Spec],
        names: tuple[str, ...],
        numbers: Numbers,
        most: int,
        apart: tuple[str, ...] = (),
    ) -> dict[Spec, None]:
        """The best of each structure and block (and word of the fields `apart`), for some of them, with every product
        of the words of some fields."""
        families: dict[object, Spec] = {}
        for one in self.ranked(candidates):
            if self.contends(one):
                families.setdefault((_family(one), *(getattr(one.conversion, name) for name in apart)), one)
        made: dict[Spec, None] = {}
        for one in families.values():
            if most and len(self.recipes(one.format, names[:1], numbers)) > 1:
                most -= 1
                recipes = self.recipes(one.format, names, numbers)
                made |= dict.fromkeys(replace(one, format=format) for format in recipes)
        return made

    def undecided(self, best: Spec) -> dict[str, list[Spec]]:
        """Fields of a match of which other words make y as well."""
        found: dict[str, list[Spec]] = {}
        for name in (name for name in FIELDS if not isinstance(getattr(best.conversion, name), (int, float))):
            for word in other_words(best.format, name, self.numbers):
                format = with_fields(best.format, {name: word})
                if format is not None:
                    self._also(found, name, replace(best, format=format))
        for block in self.blocks_beyond(best):
            other = with_block(best.format, block)
            if other is not None:
                self._also(found, "block", replace(best, format=other))
        for frame in self.frames.values():
            if frame.axis != best.axis and (best.format.levels or best.sparsity):
                self._also(found, "axis", replace(best, axis=frame.axis))
        for pattern, order in self.patterns(self.frames[best.axis]) if best.sparsity else ():
            if pattern is not None and pattern != best.sparsity:
                self._also(found, "ties", replace(best, sparsity=pattern))
            if pattern == best.sparsity and order != best.order:
                self._also(found, "order", replace(best, order=order))
        return found

    def relatives(self, best: Spec) -> Iterator[Spec]:
        """The changes of a match, or all but one of them, made to every format of the catalog."""
        changes = {name: word for name, word in describe(best).changes.items() if name in Conversion.fields}
        fewer = [{name: word for name, word in changes.items() if name != left} for left in changes]
        seen: set[Format] = set()
        for one in named() if changes else ():
            base = with_block(one.format, block_of(best.format))
            for chosen in (changes, *fewer):
                format = base and with_fields(base, chosen)
                if format is not None and format not in seen:
                    seen.add(format)
                    yield replace(best, format=format)

    def blocks_beyond(self, best: Spec) -> list[Block]:
        """Other blocks of a match."""
        if not best.format.levels:
            return []
        mine = block_of(best.format)
        own = {block_of(one.format) for one in by_structure().get(structure(best.format), ())}
        every = {*own, *((along, 1) for along in BLOCKS), (0, 1), (0, 0)}
        return sorted(one for one in every if one != mine)

    def _also(self, found: dict[str, list[Spec]], name: str, made: Spec) -> None:
        misses = self.sampled(made)
        if misses is None or misses.total > self.matches_signs:
            return
        exact = self.exact(made)
        if exact is not None and exact.total <= self.matches_signs:
            found.setdefault(name, []).append(made)
            self.matches[made] = exact

    @property
    def matches_signs(self) -> int:
        """Zeros of the other sign that the best match has."""
        return min((misses.signs for misses in self.matches.values()), default=0)


def _family(made: Spec) -> tuple[object, ...]:
    """What candidates share that differ in little: structure, block, axis, and what happens before rounding."""
    how = made.conversion
    return structure(made.format), block_of(made.format), made.axis, how.preround, how.align_bits


def _place(made: Spec) -> Hashable:
    """Structure, block and axis."""
    return structure(made.format), block_of(made.format), made.axis


def _only(format: Format, name: str, word: Any) -> Format | None:
    return with_fields(format, {name: word})


def _usual_bits(trial: Trial) -> int:
    """Significant bits that no more than one in fifty numbers of y exceeds."""
    y = floats(trial.wanted, trial.y_type)
    bits: Array = significant_bits(y if trial.kept is None else y[trial.kept])
    bits = bits[bits > 0]
    return int(np.percentile(bits, 98)) if bits.size else 0


def _unlike(bases: list[Format]) -> list[Format]:
    """Formats whose conversions differ in more than what a survey tries."""
    tried = {
        *_SCALE_FIELDS,
        *_STEP_FIELDS,
        "divisor",
        "rounding",
        "signed_zero",
        "nonfinite",
        "scale_minimum",
        "zero_scale",
    }
    tried |= {"overflow", "integer_range", "input_subnormals", "cut_offset", "even_bits"}
    seen: dict[object, Format] = {}
    for base in bases:
        own = base.conversion.to_dict()
        seen.setdefault(tuple(word for name, word in own.items() if name not in tried), base)
    return list(seen.values())
