"""What formats do to tensors, measured piece by piece: sums of errors, counts, and the exponents of the input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparq_sim.arrays import Array, Source, extents, widened
from sparq_sim.events import Events
from sparq_sim.formats import Spec, pattern_text
from sparq_sim.quantize import emulate, encode
from sparq_sim.scales import lines_together, spans_lines
from sparq_sim.sparsify import sparsify

#: Elements of a piece: what bounds the memory. Depends on nothing but the shape, so neither do sums on threads.
PIECE = 1 << 18

#: Elements that lie side by side in memory and are worth staying together when an inner axis is cut.
_RUN = 64

_LOWEST = -1074  # floor(log2) of the smallest float64

Box = tuple[slice, slice, slice]


@dataclass
class Exponents:
    """Counts of floor(log2|x|), by bits."""

    counts: Array = field(default_factory=lambda: np.zeros(1024 - _LOWEST, np.int64))
    zeros: int = 0
    nonfinite: int = 0

    def add(self, wide: Array) -> None:
        """Adds the elements of a float64 array."""
        bits = wide.reshape(-1).view(np.uint64) & np.uint64(2**63 - 1)
        fields = np.bincount((bits >> np.uint64(52)).astype(np.int64), minlength=2048)
        self.counts[52:] += fields[1:2047]
        self.nonfinite += int(fields[2047])
        if fields[0]:
            subnormal = bits[(bits >> np.uint64(52)) == 0].astype(np.float64)
            exponents = np.frexp(subnormal[subnormal != 0])[1] - 1
            self.counts[:52] += np.bincount(exponents, minlength=52)
            self.zeros += int(fields[0]) - exponents.size

    def items(self) -> list[tuple[int, int]]:
        """(exponent, count), of exponents that occur, rising."""
        return [(int(i) + _LOWEST, int(self.counts[i])) for i in np.flatnonzero(self.counts)]

    def unit(self) -> int:
        """The exponent of a unit in which squares are safe: 0 unless the largest magnitude is extreme."""
        top = int(np.flatnonzero(self.counts)[-1]) + _LOWEST if self.counts.any() else 0
        return 0 if abs(top) <= 400 else max(-1000, min(1000, top))


@dataclass
class Tally:
    """The sums of one format over the tensors so far; numbers in units of ``2**unit``."""

    spec: Spec
    refusal: str = ""
    events: Events = field(default_factory=Events)
    signal_l1: float = 0.0
    signal_l2: float = 0.0
    error_l1: float = 0.0
    error_l2: float = 0.0
    error_sum: float = 0.0
    error_max: float = 0.0
    compared: int = 0
    """Elements that are finite before and after: those that the sums are over."""
    lost: int = 0
    """Finite elements that became NaN or Inf."""
    zeros: int = 0
    """Elements that decode to zero."""

    def add(self, wide: Array, values: Array, signal: tuple[float, float]) -> None:
        """Adds a piece: the input and what became of it as float64 (`values` is overwritten), and the sums of |x| and
        x**2 of the piece if all of it is finite."""
        with np.errstate(all="ignore"):
            error = np.subtract(values, wide)
            total = float(error.sum())
            compared = error.size
            if not math.isfinite(total):
                before, after = np.isfinite(wide), np.isfinite(values)
                kept = before & after
                compared = int(np.count_nonzero(kept))
                signal = sums(np.where(kept, wide, 0.0))
                error[~kept] = 0.0
                total = float(error.sum())
        self.compared += compared
        self.signal_l1 += signal[0]
        self.signal_l2 += signal[1]
        self.error_sum += total
        l1, l2 = sums(error)
        self.error_l1 += l1
        self.error_l2 += l2
        self.error_max = max(self.error_max, float(error.max()), -float(error.min()))


def lost_between(before: Array, after: Array) -> int:
    """Finite elements that became NaN or Inf."""
    with np.errstate(all="ignore"):
        if math.isfinite(float(after.sum())):
            return 0
    return int(np.count_nonzero(np.isfinite(before) & ~np.isfinite(after)))


def sums(x: Array) -> tuple[float, float]:
    """Sums of |x| and of x**2."""
    with np.errstate(all="ignore"):
        return float(np.abs(x).sum()), float((x * x).sum())


def _wide(piece: Array) -> Array:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return widened(piece)


class Lines:
    """A tensor as lines along its reduction axis, ``[outer, length, inner]``, cut into pieces.

    Pieces hold whole blocks and whole N:M groups: across lines any cut is free, and along a line cuts lie at multiples
    of `step`, where every block and group ends. Scales of a row or tensor, which a cut would change, are computed
    first, from the largest magnitudes, and given to every piece: scale rules depend on nothing else, and an N:M pattern
    never prunes the largest of a group.
    """

    def __init__(self, tensor: Source, axis: int, specs: Sequence[Spec]) -> None:
        """`specs` either all have blocks that span lines, or none has."""
        spanned = [level.across for spec in specs for level in spec.format.levels if level.across > 1]
        if spanned:
            tensor = lines_together(tensor, tensor.order[axis])
            axis = tensor.data.ndim - 1
        self.dtype = tensor.dtype
        self.data = tensor.data.reshape(extents(tensor.data.shape, axis))
        outer, length, inner = self.data.shape
        #: Neighbouring lines that a block can span; they lie in `outer`.
        self.rows = tensor.data.shape[-2] if spanned and tensor.data.ndim > 1 else outer
        blocks = [level.along for spec in specs for level in spec.format.levels if level.along > 0]
        groups = [spec.sparsity.group for spec in specs if spec.sparsity is not None]
        step = math.lcm(1, *groups, *blocks)
        along = min(length, max(1, PIECE // max(1, min(inner, _RUN)) // step) * step)
        across = min(inner, max(1, PIECE // max(1, along)))
        line_step = math.lcm(1, *spanned)
        lines = max(1, PIECE // max(1, along * across) // line_step) * line_step
        self.steps = (lines, max(1, along), max(1, across))
        self.lines_are_cut = along < length
        # One per line only where lines are cut: then they are few.
        #: The largest finite magnitude of each, as bits, and whether there are Inf and NaN.
        places = (outer, 1, inner) if self.lines_are_cut else (1, 1, 1)
        self.magnitudes = np.zeros(places, self._unsigned())
        self.special = np.zeros((2, *places), np.bool_)

    def _unsigned(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(f"uint{8 * self.data.dtype.itemsize}")

    def boxes(self) -> Iterator[Box]:
        """Where the pieces are."""
        outer, length, inner = self.data.shape
        if self.data.size == 0:
            return
        lines, along, across = self.steps
        for start in range(0, outer, max(1, self.rows)):
            end = start + self.rows
            for o in range(start, end, lines):
                for i in range(0, inner, across):
                    for k in range(0, length, along):
                        yield slice(o, min(o + lines, end)), slice(k, k + along), slice(i, i + across)

    def piece(self, box: Box) -> Array:
        """The floats of a piece, bfloat16 as float32."""
        return self._floats(np.ascontiguousarray(self.data[box]))

    def _floats(self, bits: Array) -> Array:
        if self.dtype == "bfloat16":
            return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return bits.view(self.dtype)

    def survey(self, exponents: Exponents) -> None:
        """Counts exponents, and finds the largest magnitudes and what is no number."""
        unsigned = self._unsigned()
        infinity = self._infinity()
        mask = unsigned.type(2 ** (8 * unsigned.itemsize - 1) - 1)
        for box in self.boxes():
            exponents.add(_wide(self.piece(box)))
            bits = self.data[box].view(unsigned) & mask
            where = (box[0], slice(None), box[2]) if self.lines_are_cut else (slice(None),) * 3
            over = 1 if self.lines_are_cut else None
            if bits.max() >= infinity:
                self.special[(0, *where)] |= (bits == infinity).any(axis=over, keepdims=True)
                self.special[(1, *where)] |= (bits > infinity).any(axis=over, keepdims=True)
                bits = np.where(bits < infinity, bits, unsigned.type(0))
            place = self.magnitudes[where]
            np.maximum(place, bits.max(axis=over, keepdims=True), out=place)

    def wide_scales(self, spec: Spec) -> tuple[Array, ...] | None:
        """The outermost scales (and their zero points) where they do not fit into a piece: of the tensor, or of rows if
        lines are cut; else None."""
        if not spec.format.levels or spec.format.levels[0].along != 0:
            return None
        of_tensor = spec.format.levels[0].across == 0
        if not of_tensor and not self.lines_are_cut:
            return None
        how = spec.conversion
        looks = how.scale_rule in ("fit", "mse", "mae", "signed_max") or how.divide_by == "quotient"
        looks |= how.nan_scale == "least" or how.nonfinite == "zero_block"
        if looks and spec.format.block_format.main_level == 0:
            raise ValueError(
                f"{spec.format.name}: its scales look at all elements of a block, which is too long for that"
            )
        # The rules see what stands for a whole line: its extremes, Inf and NaN where there are any.
        if spec.format.has_zero_points:
            seen, planes = self._extremes(spec, of_tensor), 2
        else:
            largest, special = self.magnitudes, self.special
            if of_tensor:
                largest, special = largest.max(keepdims=True), special.max(axis=(1, 2, 3), keepdims=True)
            signs = [_wide(self._floats(largest)), *_standing_for(special)]
            seen, planes = np.concatenate(signs, axis=1), 1
        every = f"{seen.shape[1]}:{seen.shape[1]}"  # a pattern that prunes nothing
        return encode(seen, spec, axis=1, sparsity=every, order="sparsify_first").scale_planes[:planes]

    def _extremes(self, spec: Spec, of_tensor: bool) -> Array:
        """The least and the largest element of the tensor or of each line among those that a pattern leaves, and Inf,
        -Inf and NaN where there are any (else 0): [.., 5, ..]."""
        outer, _, inner = self.data.shape
        found = np.zeros((1, 2, 1) if of_tensor else (outer, 2, inner), np.float64)
        special = np.zeros((3, *((1, 1, 1) if of_tensor else (outer, 1, inner))), np.bool_)
        pattern = spec.sparsity if spec.order == "sparsify_first" else None
        for box in self.boxes():
            piece = _wide(self.piece(box))
            if pattern is not None:
                piece = sparsify(piece, pattern_text(pattern), axis=1, ties=pattern.ties)[0]
            where = (slice(None),) * 3 if of_tensor else (box[0], slice(None), box[2])
            over = None if of_tensor else 1
            for kind, of in enumerate((np.isposinf(piece), np.isneginf(piece), np.isnan(piece))):
                special[(kind, *where)] |= of.any(axis=over, keepdims=True)
            piece = np.where(np.isfinite(piece), piece, 0.0)
            place = found[where]
            np.minimum(place[:, :1], piece.min(axis=over, keepdims=True), out=place[:, :1])
            np.maximum(place[:, 1:], piece.max(axis=over, keepdims=True), out=place[:, 1:])
        return np.concatenate([found, *_standing_for(special)], axis=1)

    def _infinity(self) -> int:
        """The bits of Inf."""
        return {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF << 52}[self.dtype]

    def scales_of(self, scales: tuple[Array, ...] | None, box: Box) -> list[Array] | None:
        """The part of `wide_scales` for a piece."""
        if scales is None:
            return None
        return [plane if plane.size == 1 else plane[box[0], :, box[2]] for plane in scales]


def _standing_for(special: Array) -> list[Array]:
    """Inf (and -Inf) and NaN where they occur, else 0, as float64."""
    numbers = (np.inf, np.nan) if len(special) == 2 else (np.inf, -np.inf, np.nan)
    return [np.where(there, number, 0.0) for there, number in zip(special, numbers, strict=True)]


def measure(tensors: Sequence[tuple[str, Source, int]], tallies: Sequence[Tally], threads: int | None) -> Exponents:
    """Adds what every format does to every tensor to its tally.

    Args:
        tensors: name, tensor and reduction axis (of ``tensor.data``).
        tallies: empty ones; those that have a refusal are left alone, and those whose format refuses get one.
        threads: as in `emulate`.

    Returns:
        The exponents of all tensors.
    """
    exponents = Exponents()
    able = [tally for tally in tallies if not tally.refusal]
    along = [tally for tally in able if not spans_lines(tally.spec.format)]
    tiled = [tally for tally in able if spans_lines(tally.spec.format)]
    lines = [Lines(tensor, axis, [tally.spec for tally in along]) for _, tensor, axis in tensors]
    for line in lines:
        line.survey(exponents)
    shrink = 2.0 ** -exponents.unit()
    for (name, tensor, axis), line in zip(tensors, lines, strict=True):
        if not line.data.size:
            continue
        prefix = f"{name}: " if name else ""
        _measure_one(prefix, line, along, shrink, threads)
        if tiled:
            tiles = Lines(tensor, axis, [tally.spec for tally in tiled])
            tiles.survey(Exponents())
            _measure_one(prefix, tiles, tiled, shrink, threads)
    return exponents


def _measure_one(prefix: str, lines: Lines, tallies: Sequence[Tally], shrink: float, threads: int | None) -> None:
    wide_scales: dict[int, tuple[Array, ...] | None] = {}
    for i, tally in enumerate(tallies):
        try:
            wide_scales[i] = None if tally.refusal else lines.wide_scales(tally.spec)
        except ValueError as error:
            tally.refusal = f"{prefix}{error}"
    for box in lines.boxes():
        piece = lines.piece(box)
        given = _wide(piece)
        wide = given if shrink == 1 else given * shrink
        signal, values = sums(wide), np.empty(piece.shape)
        for i, tally in enumerate(tallies):
            if tally.refusal:
                continue
            scales = lines.scales_of(wide_scales[i], box)
            try:
                emulate(piece, tally.spec, axis=1, scales=scales, out=values, events=tally.events, threads=threads)
            except ValueError as error:
                tally.refusal = f"{prefix}{error}"
                continue
            tally.zeros += values.size - int(np.count_nonzero(values))
            tally.lost += lost_between(given, values)
            if shrink != 1:
                with np.errstate(all="ignore"):
                    values *= shrink
            tally.add(wide, values, signal)
