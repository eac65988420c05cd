"""pack and unpack: an encoded tensor as the bytes that memory holds, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim._core import BlockFormat, Sparsity
from sparq_sim.arrays import (
    Array,
    dtype_name,
    float_name,
    normal_axis,
    positive_finite_or_nan,
    sizes_of,
    thread_argument,
    to_numpy,
    widened,
)
from sparq_sim.dtypes import DTYPE_ELEMENTS, DTYPE_PAIRS, in_dtype
from sparq_sim.formats import Format, Spec, find_format, levels_with_outer, pattern_text, scale_bits
from sparq_sim.formats import spec as spec_of
from sparq_sim.layouts import Digit, Layout, Plane, find_layout, layouts, parse_order
from sparq_sim.positions import (
    ENCODINGS,
    compress,
    decode_positions,
    encode_positions,
    encoded_items,
    expand,
    group_count,
    group_units,
    require_dense_or_sparse,
)
from sparq_sim.scales import level_dtype, neighbour_axis, scale_shape
from sparq_sim.tensor import BlockTensor, check_scales, decoded_values, empty_values, inexact_policy, stored_scales


@dataclass(frozen=True, eq=False)
class Packed:
    """The bytes of an encoded tensor in a layout, and what reading them needs. Made by `BlockTensor.pack`, read by
    `unpack`."""

    planes: Mapping[str, Array]
    """uint8, by what they hold: ``elements``, ``positions``, ``scales`` (or ``scales0``, ``scales1``, … of several
    levels, outermost first); ``elements`` alone holds everything where a layout puts scales beside them. Where lines
    stay apart, the last axis is a line's bytes and the others are the tensor's; else one row per matrix."""
    layout: Layout
    spec: Spec
    shape: tuple[int, ...]
    """Of the dense tensor."""
    dtype: str
    library: str

    def elements_as(self, dtype: Any) -> Any:
        """The elements as an array or tensor of a dtype whose items they are, over the same memory: ``torch``'s
        float4_e2m1fn_x2 of pairs of E2M1, the first in the low bits; else codes that fill their bytes, as in
        `BlockTensor.codes_as`.

        Raises:
            TypeError: a dtype of other bytes.
        """
        plane, record = self.layout.elements, self.spec.format.element
        plain = replace(plane, container_bits=0) == Plane() and not self.layout.chunk
        bits = plane.container_bits or record.code_bits
        name = dtype_name(dtype)
        if name in DTYPE_PAIRS and plain and bits == 4:
            return in_dtype(self.planes["elements"], record, dtype, DTYPE_PAIRS, "elements")
        if not plain or bits != 8 * record.code_bytes:
            raise TypeError(f"elements: dtype {name}; layout {self.layout.name} has no plain codes of {bits} bits")
        codes = self.planes["elements"].view(np.dtype(f"uint{bits}"))
        return in_dtype(codes, record, dtype, DTYPE_ELEMENTS, "elements")

    def decode(self, dtype: object = None, *, inexact: str | None = None, threads: int | None = None) -> Any:
        """The values: those of ``unpack(packed).decode(...)``. Where lines lie apart and share no scales, a few lines
        at a time go from bytes to values, and neither codes nor mask of the tensor are made.

        Args:
            dtype, inexact, threads: as in `BlockTensor.decode`.

        Returns:
            A NumPy array, or a CPU torch tensor if a tensor was encoded.

        Raises:
            ValueError: as `unpack` and `BlockTensor.decode`.

        >>> import numpy as np, sparq_sim as sq
        >>> sq.encode(np.float32([1, -3, 2, 2]), "mxfp4", sparsity="2:4").pack().decode()
        array([ 0., -3.,  2.,  0.], dtype=float32)
        """
        made = plan(self.spec, self.shape, self.layout)
        if not made.by_lines:
            return unpack(self, threads=threads).decode(dtype, inexact=inexact, threads=threads)
        result = self.dtype if dtype is None else float_name(dtype, "dtype")
        policy = inexact_policy(inexact, self.spec.format, result)
        data = _data_of(made, self.planes)
        values = empty_values(self.shape, result)
        positions = made.positions
        counts = _core.decode_packed(
            elements=made.elements.in_lines(data["elements"]),
            element_packing=made.elements.packing(),
            positions=None if positions is None else positions.in_lines(data["positions"]),
            position_packing=None if positions is None else positions.packing(),
            sparsity=made.pattern,
            repeats=self.layout.fill == "cutlass3",
            scales=_scales_of(made, data, threads),
            shape=(made.lines, made.length, 1),
            format=self.spec.format.block_format,
            values=values,
            values_type=result,
            threads=thread_argument(threads),
        )
        return decoded_values(values, counts, self.spec.format, result, policy, self.library)

    @property
    def nbytes(self) -> int:
        """All bytes, padding included."""
        return sum(plane.nbytes for plane in self.planes.values())

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {plane.nbytes}" for name, plane in self.planes.items())
        return f"Packed({self.layout.name}: {sizes} bytes; shape={self.shape}, {self.spec})"


@dataclass(frozen=True)
class _Space:
    """How the axes of a tensor become matrices of lines along the reduction axis."""

    shape: tuple[int, ...]
    axis: int
    order: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int) -> _Space:
        """Lines are the axis next to the reduction axis, matrices all others."""
        ndim = len(shape)
        if ndim == 0:
            return cls((1,), 0, (0,))
        last = normal_axis(axis, ndim)
        neighbour = neighbour_axis(last, ndim)
        pair = [last] if neighbour is None else [neighbour, last]
        return cls(shape, last, (*(i for i in range(ndim) if i not in pair), *pair))

    def moved(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Extents in this order."""
        shape = shape or (1,)
        return tuple(shape[i] for i in self.order)

    def matrices(self, array: Array) -> Array:
        """[matrices, lines, length], contiguous."""
        array = array.reshape(1) if array.ndim == 0 else array
        moved = np.ascontiguousarray(array.transpose(self.order))
        return moved.reshape(_extents(moved.shape))

    def tensor(self, matrices: Array, shape: tuple[int, ...]) -> Array:
        """The way back to an array of `shape`."""
        moved = matrices.reshape(self.moved(shape))
        return np.ascontiguousarray(moved.transpose(np.argsort(self.order))).reshape(shape)


def _extents(moved: tuple[int, ...]) -> tuple[int, int, int]:
    lines = moved[-2] if len(moved) > 1 else 1
    return math.prod(moved[:-2]), lines, moved[-1]


@dataclass(frozen=True)
class _Items:
    """Integers that a plane holds: [matrices, lines, length], of `bits` bits."""

    kind: str
    plane: Plane
    extents: tuple[int, int, int]
    bits: int
    dtype: np.dtype[np.unsignedinteger]  # of the items
    lead: tuple[int, ...]  # axes of the tensor that stay where lines do

    def _axes(self, digits: tuple[Digit, ...]) -> tuple[list[int], list[int], tuple[int, int]]:
        """Extents of the digits of both axes, the slowest first, how to turn them, and the padded extents."""
        sizes: list[int] = []
        padded: list[int] = []
        places: dict[Digit, int] = {}
        for axis, extent in zip("lk", self._ordered_extents(digits), strict=True):
            own = sorted((d for d in digits if d.axis == axis), key=lambda d: -d.divide)
            unit = own[0].divide
            count = -(-extent // unit)
            padded.append(count * unit)
            for digit in own:
                places[digit] = len(sizes)
                sizes.append(digit.count or count)
        return sizes, [places[digit] for digit in digits], (padded[0], padded[1])

    def _ordered_extents(self, digits: tuple[Digit, ...]) -> tuple[int, int]:
        is_words = bool(self.plane.words) and digits == parse_order(self.plane.words)
        return (self.extents[1], self._line_words()) if is_words else self.extents[1:]

    def _container(self) -> int:
        return self.plane.container_bits or self.bits

    def _shift(self) -> int:
        return self._container() - self.bits - self.plane.shift if self.plane.align == "high" else self.plane.shift

    def _packed_extents(self) -> tuple[int, int]:
        """Lines and items of each as they are packed: all of a matrix is one line where items are put in order."""
        if not self.plane.order:
            return self.extents[0] * self.extents[1], self.extents[2]
        padded = self._axes(parse_order(self.plane.order))[2]
        return self.extents[0], padded[0] * padded[1]

    def _parts(self) -> list[tuple[int, int]]:
        return list(self.plane.slices) or [(0, self.bits)]

    def _run(self, bits: int) -> tuple[int, int]:
        """Items and bytes of a run."""
        container = self._container() if not self.plane.slices else bits
        length = self._packed_extents()[1]
        run = self.plane.run or max(1, length)
        return run, self.plane.run_bytes or (run * container + 7) // 8

    def _line_bytes(self) -> int:
        length = self._packed_extents()[1]
        total = 0
        for _, bits in self._parts():
            run, run_bytes = self._run(bits)
            total += -(-length // run) * run_bytes
        return total

    def _line_words(self) -> int:
        return -(-self._line_bytes() // self.plane.word_bytes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the bytes."""
        if self.bits == 0:
            return (*self.lead, 0)
        if self.plane.words:
            lines, words = self._axes(parse_order(self.plane.words))[2]
            return (self.extents[0], lines * words * self.plane.word_bytes)
        if self.plane.order:
            return (self.extents[0], self._line_bytes())
        return (*self.lead, self._line_bytes())

    def _word_dtype(self) -> np.dtype[Any]:
        return np.dtype((np.void, self.plane.word_bytes))

    def _put_in_order(self, array: Array, order: str) -> Array:
        """[matrices, all items or words of one]; what is missing is zero."""
        sizes, turn, padded = self._axes(parse_order(order))
        batch, lines, length = array.shape
        if (lines, length) != padded:
            grown = np.zeros((batch, *padded), array.dtype)
            grown[:, :lines, :length] = array
            array = grown
        parts = array.reshape(batch, *sizes)
        return np.ascontiguousarray(parts.transpose(0, *(1 + place for place in turn))).reshape(batch, -1)

    def _from_order(self, array: Array, order: str) -> Array:
        """The way back, to the padded extents cut to `extents`.

        Raises:
            ValueError: padding that is not zero.
        """
        digits = parse_order(order)
        sizes, turn, padded = self._axes(digits)
        lines, length = self._ordered_extents(digits)
        batch = self.extents[0]
        parts = array.reshape(batch, *(sizes[place] for place in turn))
        whole = parts.transpose(0, *(1 + int(place) for place in np.argsort(turn))).reshape(batch, *padded)
        kept = np.ascontiguousarray(whole[:, :lines, :length])
        if kept.size != whole.size and np.count_nonzero(whole) != np.count_nonzero(kept):
            raise ValueError(f"{self.kind}: padding that is not zero")
        return kept

    def to_bytes(self, items: Array, threads: int | None) -> Array:
        """Items [matrices, lines, length] as bytes of `shape`."""
        if self.bits == 0 or 0 in self.extents:
            return np.zeros(self.shape, np.uint8)
        if self.plane.offset:
            items = ((items.astype(np.int64) + self.plane.offset) & ((1 << self.bits) - 1)).astype(items.dtype)
        lines, length = self._packed_extents()
        ordered = self._put_in_order(items, self.plane.order) if self.plane.order else items
        ordered = np.ascontiguousarray(ordered).reshape(lines, length)
        parts = []
        for low, bits in self._parts():
            part = ordered if not self.plane.slices else (ordered >> low) & ((1 << bits) - 1)
            run, run_bytes = self._run(bits)
            made = np.empty((lines, -(-length // run) * run_bytes), np.uint8)
            self._core_call(_core.pack, np.ascontiguousarray(part), made, bits, threads)
            parts.append(made.reshape(lines, -1, run_bytes))
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        joined = joined.reshape(lines, -1)
        if not self.plane.words:
            return joined.reshape(self.shape)
        missing = self._line_words() * self.plane.word_bytes - joined.shape[1]
        padded = np.pad(joined, ((0, 0), (0, missing))) if missing else joined
        words = padded.view(self._word_dtype()).reshape(*self.extents[:2], self._line_words())
        return self._put_in_order(words, self.plane.words).view(np.uint8).reshape(self.shape)

    def from_bytes(self, data: Array, threads: int | None) -> Array:
        """The way back.

        Raises:
            ValueError: padding that is not zero.
        """
        if self.bits == 0 or 0 in self.extents:
            return np.zeros(self.extents, self.dtype)
        lines, length = self._packed_extents()
        data = self.in_lines(data)
        run_sizes = [self._run(bits)[1] for _, bits in self._parts()]
        runs = data.reshape(lines, -1, sum(run_sizes))
        items, start = np.zeros((lines, length) if self.plane.slices else 0, self.dtype), 0
        for (low, bits), size in zip(self._parts(), run_sizes, strict=True):
            part_bytes = np.ascontiguousarray(runs[:, :, start : start + size]).reshape(lines, -1)
            part = np.empty((lines, length), self.dtype)
            self._core_call(_core.unpack, part, part_bytes, bits, threads)
            items = part if not self.plane.slices else items | part << np.asarray(low, self.dtype)
            start += size
        if self.plane.order:
            items = self._from_order(items, self.plane.order)
        items = items.reshape(self.extents)
        if self.plane.offset:
            items = ((items.astype(np.int64) - self.plane.offset) & ((1 << self.bits) - 1)).astype(self.dtype)
        return items

    def in_lines(self, data: Array) -> Array:
        """Bytes line by line, [lines, bytes of a line]: the words of the plane put back in order.

        Raises:
            ValueError: padding that is not zero.
        """
        lines = self._packed_extents()[0]
        if not self.plane.words:
            return np.ascontiguousarray(data).reshape(lines, self._line_bytes())
        words = self._from_order(data.view(self._word_dtype()), self.plane.words)
        flat = words.reshape(lines, -1).view(np.uint8)
        kept = np.ascontiguousarray(flat[:, : self._line_bytes()])
        if flat.shape[1] != kept.shape[1] and bool(flat[:, kept.shape[1] :].any()):
            raise ValueError(f"{self.kind}: padding that is not zero")
        return kept

    @property
    def is_plain(self) -> bool:
        """Whether the items of a line follow each other in its bytes, whole."""
        return bool(self.bits) and not (self.plane.order or self.plane.slices or self.plane.offset)

    def packing(self, bits: int | None = None) -> tuple[int, int, int, bool, int, int]:
        """How the core packs items, or parts of them of so many bits: item_bits, container_bits, shift, from_top, run,
        run_bytes."""
        bits = self.bits if bits is None else bits
        container, shift = (bits, 0) if self.plane.slices else (self._container(), self._shift())
        return bits, container, shift, self.plane.first == "high", *self._run(bits)

    def _core_call(self, call: object, items: Array, data: Array, bits: int, threads: int | None) -> None:
        names = ("item_bits", "container_bits", "shift", "from_top", "run", "run_bytes")
        packing = dict(zip(names, self.packing(bits), strict=True))
        call(items=items, bytes=data, **packing, threads=thread_argument(threads))  # type: ignore[operator]


@dataclass(frozen=True)
class _Plan:
    """What a tensor of a spec and shape is in a layout."""

    layout: Layout
    spec: Spec
    shape: tuple[int, ...]
    space: _Space
    elements: _Items
    scales: tuple[_Items, ...]
    positions: _Items | None

    @property
    def pattern(self) -> Sparsity | None:
        return self.spec.sparsity

    @property
    def lines(self) -> int:
        return self.elements.extents[0] * self.elements.extents[1]

    @property
    def length(self) -> int:
        """Of a dense line."""
        return self.space.moved(self.shape)[-1]

    @property
    def by_lines(self) -> bool:
        """Whether lines can be decoded one by one, straight from their bytes."""
        format_, positions = self.spec.format, self.positions
        if not self.shape or 0 in self.shape or self.layout.chunk or self.space.order != tuple(range(len(self.shape))):
            return False
        if any(level.across > 1 for level in format_.levels) or not self.elements.is_plain:
            return False
        plain = positions is not None and positions.is_plain and self.layout.encoding == "index"
        return self.pattern is None or (plain and not format_.has_zero_points)

    def scale_name(self, level: int) -> str:
        return "scales" if len(self.scales) == 1 else f"scales{level}"

    @property
    def chunks(self) -> int:
        """Of a matrix: stretches of elements with their scales."""
        lines, length = self.elements._packed_extents()
        return lines * length // self.layout.chunk // max(1, self.elements.extents[0])

    def inline(self) -> list[_Items]:
        """Planes that share chunks, in their order."""
        parts: list[_Items] = []
        for kind in self.layout.sequence:
            parts += [self.elements] if kind == "elements" else list(self.scales)
        return parts

    def plane_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the bytes of each plane."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.layout.chunk:
            total = sum(math.prod(part.shape) for part in self.inline())
            shapes["elements"] = (self.elements.extents[0], total // max(1, self.elements.extents[0]))
        else:
            shapes["elements"] = self.elements.shape
            for level, items in enumerate(self.scales):
                shapes[self.scale_name(level)] = items.shape
        if self.positions is not None:
            shapes["positions"] = self.positions.shape
        return shapes


def plan(spec: Spec, shape: tuple[int, ...], layout: Layout) -> _Plan:
    """How `layout` holds a tensor.

    Raises:
        ValueError: a layout that does not hold such tensors, with the reason.
    """
    _require_fit(spec, layout)
    format_, pattern = spec.format, spec.sparsity
    space = _Space.of(shape, spec.axis)
    moved = space.moved(shape)
    batch, lines, length = _extents(moved)
    for extent, unit, what in (
        (lines, layout.multiple[0], "lines"),
        (length, layout.multiple[1], "elements of a line"),
    ):
        if extent % unit:
            raise ValueError(f"layout {layout.name}: {extent} {what}; needed a multiple of {unit}")
    element = format_.element
    stored = length if pattern is None else group_count(pattern, length) * pattern.kept
    lead = moved[:-1]
    codes = _Items(
        "elements", layout.elements, (batch, lines, stored), element.code_bits,
        np.dtype(f"uint{8 * element.code_bytes}"), lead,
    )  # fmt: skip
    scales = []
    for level in format_.levels:
        extents_ = space.moved(scale_shape(level, shape or (1,), space.axis))
        width = level.format.code_bytes
        scales.append(
            _Items(
                "scales", layout.scales if level.across != 0 else Plane(), _extents(extents_), scale_bits(level),
                np.dtype(f"uint{8 * width}"), extents_[:-1],
            )
        )  # fmt: skip
    positions = None
    if pattern is not None and layout.positions is not None:
        own = encoded_items(pattern, layout.encoding)
        count = group_count(pattern, length) * own.per_group
        positions = _Items(
            "positions", layout.positions, (batch, lines, count), own.bits,
            np.dtype(np.uint32 if layout.encoding == "rank" else np.uint8), lead,
        )  # fmt: skip
    for items in (codes, *scales, *([] if positions is None else [positions])):
        _require_width(items, layout)
    made = _Plan(layout, spec, shape, space, codes, tuple(scales), positions)
    if layout.chunk:
        _require_chunks(made)
    return made


def _require_width(items: _Items, layout: Layout) -> None:
    plane, it = items.plane, f"layout {layout.name}: {items.kind}"
    container = plane.container_bits
    width = (container or items.bits) if not plane.slices else max(bits for _, bits in plane.slices)
    if plane.run_bytes and plane.run_bytes < (plane.run * width + 7) // 8:
        raise ValueError(f"{it}: a run of {plane.run} of {width} bits does not fit {plane.run_bytes} bytes")
    if container and items.bits + plane.shift > container:
        raise ValueError(f"{it}: {items.bits} bits do not fit {container}")
    if plane.first == "high" and not plane.slices and items.bits and 8 % (container or items.bits):
        raise ValueError(f"{it}: {items.bits} bits do not divide a byte, on top of which the first is to lie")
    held = sum(bits for _, bits in plane.slices)
    if plane.slices and held != items.bits:
        raise ValueError(f"{it}: slices hold {held} bits, not {items.bits}")


def _require_chunks(made: _Plan) -> None:
    if 0 in made.shape:
        return
    for part in made.inline():
        size = math.prod(part.shape)
        chunks = made.chunks * made.elements.extents[0]
        if chunks == 0 or size % chunks:
            raise ValueError(
                f"layout {made.layout.name}: {part.kind} of a tensor of shape {made.shape} do not come in chunks of "
                f"{made.layout.chunk} elements"
            )


def _require_fit(spec: Spec, layout: Layout) -> None:
    format_, pattern = spec.format, spec.sparsity
    if layout.formats:
        known = {find_format(name).block_format for name in layout.formats}
        own = format_.block_format
        # The scale may be the stored one already, but for one of another size.
        if layout.reciprocal_outer and format_.outer_combine not in (None, "divide_top"):
            own = BlockFormat(format_.element, levels_with_outer(format_.levels, "multiply"))
        if own not in known:
            combine = format_.outer_combine
            said = "" if combine in (None, "multiply") else f" with outer_combine={combine!r}"
            held = ", ".join(layout.formats)
            raise ValueError(f"layout {layout.name} holds {held}; {format_.name}{said} is none of them")
    if layout.code_bits and format_.element.code_bits not in layout.code_bits:
        widths = ", ".join(map(str, layout.code_bits))
        raise ValueError(f"layout {layout.name} holds codes of {widths} bits, not of {format_.element.code_bits}")
    if pattern is None:
        if layout.patterns:
            raise ValueError(f"layout {layout.name} holds sparse tensors of {', '.join(layout.patterns)}")
        return
    if layout.positions is None:
        raise ValueError(f"layout {layout.name} has no place for positions; .dense() stores what was pruned")
    units = "{}:{}".format(*group_units(pattern))
    if layout.patterns and units not in layout.patterns:
        raise ValueError(f"layout {layout.name} holds {', '.join(layout.patterns)}, not {pattern_text(pattern)}")
    if layout.chunk:
        raise ValueError(f"layout {layout.name} holds dense tensors")
    if layout.encoding not in ENCODINGS:
        encoded_items(pattern, layout.encoding)  # says so
    _core.check_fill(pattern, layout.fill)


def layout_for(layout: str, spec: Spec, encoding: str | None = None) -> Layout:
    """A layout by its name, or the one of a family (how names begin: ``compressed-tensors``, ``gguf``, ``quark``) that
    holds tensors of a spec; of one with a pattern also a layout that stores its pruned elements as zeros.

    Raises:
        ValueError: an unknown name, a family none of whose layouts holds them, or several.
    """
    known = layouts()
    family = layout.replace("-", "_")
    if layout in known or not any(name.startswith(family + "_") for name in known):
        return chosen_layout(layout, encoding, None)
    for wanted in (spec, spec.dense()):
        found, reasons = [], []
        for name, one in known.items():
            if not name.startswith(family + "_"):
                continue
            try:
                _require_fit(wanted, one)
            except ValueError as error:
                reasons.append(str(error))
            else:
                found.append(name)
        if len(found) > 1:
            raise ValueError(f"layout {layout!r} could be {' or '.join(found)}")
        if found:
            return chosen_layout(found[0], encoding, None)
    raise ValueError("; ".join(reasons))


def chosen_layout(layout: str | Layout, encoding: str | None, fill: str | None) -> Layout:
    """A layout with another encoding of positions, or another fill.

    Raises:
        ValueError: an unknown name, or a layout without positions.
    """
    made = find_layout(layout)
    if (encoding is not None or fill is not None) and made.positions is None:
        raise ValueError(f"layout {made.name} has no positions: encoding= and fill= mean nothing")
    if encoding is not None:
        made = replace(made, encoding=encoding)
    return made if fill is None else replace(made, fill=fill)


def pack(
    tensor: BlockTensor,
    layout: str | Layout = "row_major",
    *,
    encoding: str | None = None,
    fill: str | None = None,
    threads: int | None = None,
) -> Packed:
    """What memory holds of a tensor; see `BlockTensor.pack`."""
    require_dense_or_sparse(tensor.format, tensor.spec.sparsity, tensor.mask)
    made = plan(tensor.spec, tensor.shape, chosen_layout(layout, encoding, fill))
    pattern, space = tensor.spec.sparsity, made.space
    codes = space.matrices(tensor.codes)
    planes: dict[str, Array] = {}
    if pattern is not None:
        if tensor.mask is None:
            raise ValueError("the spec is sparse, and the tensor has no mask")
        mask = space.matrices(tensor.mask.view(np.uint8))
        flat = codes.reshape(made.lines, made.length)
        stored, places = compress(flat, mask.reshape(flat.shape), pattern, made.layout.fill, threads)
        codes = stored.reshape(made.elements.extents)
        if made.positions is not None:
            items = encode_positions(places, pattern, made.layout.encoding)
            planes["positions"] = made.positions.to_bytes(items.reshape(made.positions.extents), threads)
    elements = made.elements.to_bytes(codes, threads)
    scales = []
    for level, (own, plane) in enumerate(zip(made.scales, tensor.scale_planes, strict=True)):
        if made.layout.reciprocal_outer and level == 0 and tensor.format.outer_combine == "multiply":
            plane = _reciprocal(plane)
        bits = plane.view(own.dtype) if plane.dtype != own.dtype else plane
        scales.append(own.to_bytes(space.matrices(bits), threads))
    if made.layout.chunk and 0 in made.shape:
        planes = {name: np.zeros(shape, np.uint8) for name, shape in made.plane_shapes().items()}
    elif made.layout.chunk:
        parts: list[Array] = []
        for kind in made.layout.sequence:
            parts += [elements] if kind == "elements" else scales
        batch = made.elements.extents[0]
        chunked = [part.reshape(batch, made.chunks, -1) for part in parts]
        planes = {"elements": np.concatenate(chunked, axis=2).reshape(batch, -1), **planes}
    else:
        named = {made.scale_name(level): plane for level, plane in enumerate(scales)}
        planes = {"elements": elements, **named, **planes}
    for plane in planes.values():
        plane.flags.writeable = False
    return Packed(planes, made.layout, tensor.spec, tensor.shape, tensor.dtype, tensor.library)


def _reciprocal(scale: Array) -> Array:
    """One over float32 scales, which has to lead back.

    Raises:
        ValueError: it does not.
    """
    with np.errstate(all="ignore"):
        there = _rounded(1.0 / widened(scale))
        back = _rounded(1.0 / widened(there))
    if back.tobytes() != scale.tobytes() or not positive_finite_or_nan(there):
        raise ValueError(
            "the layout stores one over the tensor's scale, and that of this one does not lead back to it; give "
            "tensor_scale= as the float32 reciprocal of a float32 number, or outer_combine='divide', whose scale is "
            "that one"
        )
    return there


def _rounded(wide: Array) -> Array:
    return wide.astype(np.float32)


def unpack(
    packed: Packed | Mapping[str, Any],
    *,
    spec: str | Format | Spec | None = None,
    shape: tuple[int, ...] | None = None,
    layout: str | Layout | None = None,
    encoding: str | None = None,
    fill: str | None = None,
    dtype: str = "float32",
    threads: int | None = None,
) -> BlockTensor:
    """The tensor that bytes hold.

    Args:
        packed: what `BlockTensor.pack` made; or arrays of bytes by name (``elements``, ``scales``, …, as in
            `Packed.planes`; arrays of uint8, or torch tensors of dtypes of one byte) of any shape, and then `spec`, the
            dense `shape` and `layout` say how to read them.
        encoding, fill: as in `BlockTensor.pack`.
        dtype: what `BlockTensor.decode` gives by default.
        threads: threads to use; default by size.

    Returns:
        A `BlockTensor`. Elements that filled up a group count as kept.

    Raises:
        ValueError: bytes of another size, padding that is not zero, positions that are none, codes that the format
            does not have.

    >>> import numpy as np, sparq_sim as sq
    >>> t = sq.encode(np.float32([1, -3, 2, 2, 0, 0, 1, 0]), "mxfp4", sparsity="2:4")
    >>> p = t.pack()
    >>> {name: plane.tolist() for name, plane in p.planes.items()}
    {'elements': [111, 64], 'scales': [126], 'positions': [137]}
    >>> sq.unpack(p) == t
    True
    """
    if isinstance(packed, Packed):
        if spec is not None or shape is not None or layout is not None or encoding is not None or fill is not None:
            raise ValueError("what was packed says its own spec, shape and layout")
        planes, spec, shape, layout = packed.planes, packed.spec, packed.shape, packed.layout
        dtype, library = packed.dtype, packed.library
    else:
        if spec is None or shape is None or layout is None:
            raise ValueError("bytes alone do not say what they are: needed spec=, shape= and layout=")
        planes, library = packed, "numpy"
        if not isinstance(spec, Spec):
            spec = spec_of(spec)
    made = plan(spec, sizes_of(shape), chosen_layout(layout, encoding, fill))
    data = _data_of(made, planes)
    space = made.space
    codes = made.elements.from_bytes(data["elements"], threads)
    mask: Array | None = None
    if spec.sparsity is not None and made.positions is not None:
        items = made.positions.from_bytes(data["positions"], threads).reshape(made.lines, made.positions.extents[2])
        places = decode_positions(items, spec.sparsity, made.layout.encoding)
        flat = np.ascontiguousarray(codes).reshape(made.lines, made.elements.extents[2])
        codes, kept = expand(flat, places, spec.sparsity, made.length, made.layout.fill, threads)
        mask = space.tensor(kept, shape).view(np.bool_)
    scales = _scales_of(made, data, threads)
    codes = space.tensor(codes, shape)
    if mask is not None and spec.format.has_zero_points:
        codes = _with_pruned_zeros(codes, mask, spec.format, scales[-1], space)
    return BlockTensor(codes, stored_scales(scales), mask, spec, dtype, library)


def _data_of(made: _Plan, planes: Mapping[str, Array]) -> dict[str, Array]:
    """The bytes of every plane, with those of chunks taken apart.

    Raises:
        ValueError: planes of other names or sizes.
    """
    data = {name: _plane_bytes(planes, name, extent) for name, extent in made.plane_shapes().items()}
    extra = [name for name in planes if name not in data]
    if extra:
        raise ValueError(f"planes {', '.join(extra)}: layout {made.layout.name} has none of that name here")
    return data | _apart(made, data["elements"]) if made.layout.chunk else data


def _scales_of(made: _Plan, data: Mapping[str, Array], threads: int | None) -> list[Array]:
    """The scales of every level, as a `BlockTensor` has them."""
    scales, shape, format_ = [], made.shape, made.spec.format
    for level, (items, own) in enumerate(zip(made.scales, format_.levels, strict=True)):
        plane = items.from_bytes(data[made.scale_name(level)], threads)
        plane = made.space.tensor(plane, scale_shape(own, shape, made.space.axis) if shape else ())
        plane = plane.view(level_dtype(own)) if plane.dtype != level_dtype(own) else plane
        if made.layout.reciprocal_outer and level == 0 and format_.outer_combine == "multiply":
            plane = _reciprocal(plane)
        scales.append(plane)
    check_scales(format_, scales)
    return scales


def _plane_bytes(planes: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    if name not in planes:
        raise ValueError(f"no plane {name!r}; there are: {', '.join(planes) or 'none'}")
    plane = to_numpy(planes[name], name)
    if plane.dtype != np.uint8:
        raise TypeError(f"{name}: {dtype_name(planes[name].dtype)}; needed uint8, or a torch dtype of one byte")
    if plane.size != math.prod(shape):
        raise ValueError(f"{name}: {plane.size} bytes; needed {math.prod(shape)}")
    return np.ascontiguousarray(plane).reshape(shape)


def _apart(made: _Plan, joined: Array) -> dict[str, Array]:
    """Planes that lay in chunks."""
    if 0 in made.shape:
        planes = [(made.scale_name(level), part) for level, part in enumerate(made.scales)]
        return {name: np.zeros(part.shape, np.uint8) for name, part in [("elements", made.elements), *planes]}
    batch = made.elements.extents[0]
    chunks = joined.reshape(batch, made.chunks, -1)
    found, start, level = {}, 0, 0
    for part in made.inline():
        size = math.prod(part.shape) // (batch * made.chunks)
        name = "elements"
        if part.kind == "scales":
            name = made.scale_name(level)
            level += 1
        found[name] = np.ascontiguousarray(chunks[:, :, start : start + size]).reshape(part.shape)
        start += size
    return found


def _with_pruned_zeros(codes: Array, mask: Array, format_: Format, zeros: Array, space: _Space) -> Array:
    """Pruned elements above zero points are codes of zero: the zero point of their block."""
    level = format_.levels[-1]
    spread = zeros
    if level.across != 0:
        if level.along != 0:
            spread = np.repeat(spread, level.along, axis=space.axis).take(range(codes.shape[space.axis]), space.axis)
        neighbour = neighbour_axis(space.axis, codes.ndim)
        if level.across > 1 and neighbour is not None:
            spread = np.repeat(spread, level.across, axis=neighbour).take(range(codes.shape[neighbour]), neighbour)
    return np.where(mask, codes, spread.astype(codes.dtype))
