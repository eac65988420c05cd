"""Operands of a product as the core takes them, from whatever the caller gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparq_sim import _core
from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import (
    Array,
    as_float32_exactly,
    is_torch,
    positive_finite_or_nan,
    thread_argument,
    to_numpy,
)
from sparq_sim.dtypes import DTYPE_ELEMENTS, DTYPE_PAIRS, named_items
from sparq_sim.formats import elements, find_element
from sparq_sim.scales import LineScales, exact_float, line_scales
from sparq_sim.tensor import BlockTensor

#: Names that ``a_format=`` and ``b_format=`` take: every element; the other codes of the catalog are scales.
CODE_FORMATS = tuple(name for name, element in elements().items() if element.record.signedness != "unsigned")

SHAPES = "a is [..., M, K] and b is [..., N, K], both with K last (b like the weight of a linear layer, [out, in])"


@dataclass(frozen=True)
class Operand:
    """One side of a product: rows of K codes with their scales, as the core takes them."""

    codes: Array
    """[rows, K], C-contiguous."""
    element: ElementFormat
    scale: ElementFormat | None = None
    block_scales: Array | None = None
    """[rows, len(segment_end)] codes of `scale`."""
    segment_end: tuple[int, ...] = ()
    """Where the scales' segments end along K, ascending, the last is K; empty without such scales."""
    float_scales: Array | None = None
    """[rows, len(segment_end)] float32."""
    tensor_scale: float | None = None
    lead: tuple[int, ...] = ()
    """Extents whose product the rows are, the rows of a matrix last; empty: one matrix."""

    @property
    def rows(self) -> int:
        """Of all matrices."""
        return int(self.codes.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., rows of a matrix, K]."""
        return (*(self.lead or (self.rows,)), self.k)

    @property
    def k(self) -> int:
        return int(self.codes.shape[1])

    def rows_at(self, rows: Array | None) -> Operand:
        """The same with rows in another order, or repeated; all as they are for None."""
        if rows is None:
            return self
        planes = (self.codes, self.block_scales, self.float_scales)
        codes, block_scales, float_scales = (None if plane is None else plane[rows] for plane in planes)
        assert codes is not None
        return replace(self, codes=codes, block_scales=block_scales, float_scales=float_scales, lead=())

    def columns(self, begin: int, end: int) -> Operand:
        """That run of K alone; segments that it cuts are shorter."""
        codes = np.ascontiguousarray(self.codes[:, begin:end])
        own, ends = segment_run(self.segment_end, begin, end)
        block_scales, float_scales = (
            scales_of_segments(plane, own) for plane in (self.block_scales, self.float_scales)
        )
        made = replace(self, codes=codes, segment_end=ends, lead=())
        return replace(made, block_scales=block_scales, float_scales=float_scales)

    def side(self) -> _core.Side:
        """As the extension takes it."""
        return _core.Side(
            self.codes,
            self.element,
            scale=self.scale,
            block_scales=self.block_scales,
            segment_end=list(self.segment_end),
            float_scales=self.float_scales,
            tensor_scale=self.tensor_scale,
        )


def segment_run(ends: tuple[int, ...], begin: int, end: int) -> tuple[list[int], tuple[int, ...]]:
    """The segments that lie in a run of K, and where they end in it."""
    starts = (0, *ends)
    own = [i for i, stop in enumerate(ends) if begin < stop and starts[i] < end]
    return own, tuple(min(ends[i], end) - begin for i in own)


def scales_of_segments(plane: Array | None, own: list[int]) -> Array | None:
    """Scales of some segments; an operand without rows has none."""
    return plane if plane is None or len(plane) == 0 else np.ascontiguousarray(plane[:, own])


def block_ends(length: int, block: int, lines: int = 1) -> tuple[int, ...]:
    """Ends of the blocks of `lines` lines of `length` elements that follow one another along K; blocks start anew at
    each line."""
    return tuple(
        line * length + min(start + block, length) for line in range(lines) for start in range(0, length, block)
    )


def operand_from_tensor(tensor: BlockTensor, path: Datapath, what: str) -> Operand:
    """A BlockTensor with its blocks along the last axis."""
    shape = _matrices(tensor.shape, what)
    if tensor.axis != len(shape) - 1:
        raise ValueError(f"{what}: blocks run along axis {tensor.axis}, and K is axis {len(shape) - 1}; {SHAPES}")
    codes = tensor.codes.reshape(math.prod(shape[:-1]), shape[-1])
    made = scaled_operand(codes, tensor.format.element, line_scales_of(tensor, path), 1)
    return replace(made, lead=shape[:-1])


def _matrices(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    """The shape, if it is one of matrices."""
    if len(shape) < 2:
        raise ValueError(f"{what}: shape {shape}; {SHAPES}")
    return shape


def line_scales_of(tensor: BlockTensor, path: Datapath) -> LineScales | None:
    """Scales of a tensor whose blocks run along its last axis, short floats as codes where a machine reads them."""
    return line_scales(tensor.format, tensor.scale_planes, tensor.shape, short_codes=path.presum > 1)


def scaled_operand(codes: Array, element: ElementFormat, scales: LineScales | None, lines: int) -> Operand:
    """[rows, K] codes and the scales of their lines; a row is `lines` lines of blocks one after the other."""
    if scales is None:
        return Operand(codes, element)
    if scales.codes is None and scales.factors is None:
        return Operand(codes, element, tensor_scale=scales.tensor_scale)

    def by_row(plane: Array | None) -> Array | None:
        rows = codes.shape[0]  # zero rows have zero segments
        return None if plane is None else np.ascontiguousarray(plane.reshape(rows, plane.size // max(1, rows)))

    return Operand(
        codes,
        element,
        scale=scales.record,
        block_scales=by_row(scales.codes),
        segment_end=block_ends(codes.shape[1] // lines, scales.block, lines),
        float_scales=by_row(scales.factors),
        tensor_scale=scales.tensor_scale,
    )


def operand_of(
    x: object,
    format: str | ElementFormat | None,
    scales: object,
    tensor_scale: float | None,
    path: Datapath,
    what: str,
) -> Operand:
    """One side of a product from what the caller gave."""
    if isinstance(x, BlockTensor):
        if format is not None or scales is not None or tensor_scale is not None:
            raise ValueError(f"{what} is a BlockTensor, which brings its own format and scales")
        return operand_from_tensor(x, path, what)
    if not (is_torch(x) or isinstance(x, np.ndarray)):
        raise TypeError(f"{what}: needed a BlockTensor, a NumPy array or a torch tensor, got {type(x).__name__}")
    name, array = named_items(x, what)
    array = np.require(array, requirements=["A"])
    shape = _matrices(array.shape, what)
    if format is not None:
        if isinstance(format, str) and format not in CODE_FORMATS:
            raise ValueError(f"{what}_format={format!r}; known: {', '.join(CODE_FORMATS)}")
        # A machine that drops bits reads float32 words, and so tf32 comes as such.
        word = format == "tf32" and path.dropped_bits > 0
        element = find_element("fp32" if word else format) if isinstance(format, str) else format
        codes = _raw_codes(array, name, element, what)
    elif name in DTYPE_ELEMENTS:
        element = find_element(DTYPE_ELEMENTS[name])
        codes = np.ascontiguousarray(array).view(np.dtype(f"uint{8 * element.code_bytes}"))
    else:
        raise TypeError(
            f"{what}: dtype {name}; needed a BlockTensor, a dtype among {', '.join([*DTYPE_ELEMENTS, *DTYPE_PAIRS])}, "
            f"or unsigned integer codes with {what}_format="
        )
    operand = Operand(
        codes.reshape(math.prod(shape[:-1]), shape[-1]),
        element,
        tensor_scale=None if tensor_scale is None else _scale_value(tensor_scale, what),
        lead=shape[:-1],
    )
    return operand if scales is None else _with_scales(operand, scales, path, what)


def _raw_codes(array: Array, name: str, element: ElementFormat, what: str) -> Array:
    if array.dtype.kind != "u" or name not in ("uint8", "uint16", "uint32"):
        raise TypeError(f"{what}: dtype {name}; raw codes are unsigned integers, one per element")
    if array.size and int(array.max()) >> element.code_bits:
        raise ValueError(f"{what}: code {int(array.max()):#x} has more than {element.code_bits} bits")
    return np.ascontiguousarray(array, dtype=np.dtype(f"uint{8 * element.code_bytes}"))


def _scale_value(value: float, what: str) -> float:
    given = np.asarray(value).reshape(-1)
    scale = as_float32_exactly(given) if given.dtype.kind in "iuf" and given.size == 1 else None
    rounded = isinstance(value, int) and scale is not None and int(scale[0]) != value
    if rounded or scale is None or not positive_finite_or_nan(scale) or bool(np.isnan(scale[0])):
        raise ValueError(f"{what}_tensor_scale={value!r}: needed a positive finite number that float32 holds exactly")
    return exact_float(scale)


def _with_scales(operand: Operand, scales: object, path: Datapath, what: str) -> Operand:
    """Raw scales: float32 [..., rows] or [..., rows, 1], or the machine's codes (uint8) [..., rows, K / block]."""
    array = to_numpy(scales, f"{what}_scales")
    lead, k = operand.shape[:-1], operand.k
    if array.dtype.kind == "f":
        if array.shape not in (lead, (*lead, 1)):
            raise ValueError(f"{what}_scales: shape {array.shape}; float scales are one per row, {_text(lead)}")
        values = as_float32_exactly(array.reshape(operand.rows, 1))
        if values is None:
            raise ValueError(f"{what}_scales: values that float32 does not hold")
        if not positive_finite_or_nan(values):
            raise ValueError(f"{what}_scales: needed positive finite numbers (or NaN, which poisons its row)")
        return replace(operand, segment_end=(k,), float_scales=values)
    if array.dtype != np.uint8:
        raise TypeError(f"{what}_scales: dtype {array.dtype}; needed uint8 (codes per block) or float32 (per row)")
    if path.scale.code_bytes != 1:
        raise ValueError(f"{what}_scales: this machine's scales are no bytes; give a BlockTensor")
    if operand.tensor_scale is not None and path.presum == 1:
        raise ValueError(f"{what}: block scales beside a tensor scale are not supported")
    blocks = array.shape[-1] if array.ndim == len(lead) + 1 else 0
    if array.shape[:-1] != lead or blocks < 1 or k % blocks:
        needed = _text((*lead, "K / block"))
        raise ValueError(f"{what}_scales: shape {array.shape}; needed {needed} where the block divides K = {k}")
    codes = np.ascontiguousarray(array).reshape(operand.rows, blocks)
    return replace(operand, scale=path.scale, block_scales=codes, segment_end=block_ends(k, k // blocks))


def _text(shape: Sequence[object]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def multiply(
    a: Operand,
    b: Operand,
    path: Datapath,
    c: Array | None = None,
    bias: Array | None = None,
    groups: int = 1,
    threads: int | None = None,
    counts: Array | None = None,
) -> Array:
    """[M, groups * N] float32 of two checked operands with equal K: `groups` products, one after the other in the rows
    of a (groups * M) and b (groups * N). `bias` [groups * N] is one float32 addition at the end. With `counts`, int64
    [4] or [M, groups * N, 4], the reference multiplies, and adds to it what happened."""
    m, n = a.rows // groups, b.rows // groups
    d = np.empty((m, groups * n), dtype=np.float32)
    _core.multiply(
        path=path,
        a=a.side(),
        b=b.side(),
        groups=groups,
        mnk=(m, n, a.k),
        c=c,
        bias=bias,
        d=d,
        counts=counts,
        threads=thread_argument(threads),
    )
    return d


@dataclass(frozen=True)
class Pair:
    """Two operands of `multiply`, and everything else that it takes."""

    left: Operand
    right: Operand
    path: Datapath
    groups: int = 1
    threads: int | None = None
    counts: Array | None = None

    @property
    def k(self) -> int:
        return self.left.k

    def part(self, begin: int, end: int) -> Pair:
        """That run of K alone."""
        return replace(self, left=self.left.columns(begin, end), right=self.right.columns(begin, end))

    def product(self, c: Array | None) -> Array:
        """float32 [M, groups * N]."""
        return multiply(
            self.left, self.right, self.path, c, groups=self.groups, threads=self.threads, counts=self.counts
        )
