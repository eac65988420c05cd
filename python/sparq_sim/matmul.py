"""matmul: what a described multiplier array computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import (
    Array,
    as_float32_exactly,
    dtype_name,
    is_torch,
    positive_finite_or_nan,
    thread_argument,
    to_numpy,
)
from sparq_sim.dtypes import DTYPE_ELEMENTS
from sparq_sim.formats import Machine, elements, find_datapath, find_element
from sparq_sim.machines import load_datapath
from sparq_sim.scales import LineScales, exact_float, line_scales
from sparq_sim.tensor import BlockTensor

#: Names that ``a_format=`` and ``b_format=`` take: every element; the other codes of the catalog are scales.
CODE_FORMATS = tuple(name for name, element in elements().items() if element.record.signedness != "unsigned")

_SHAPES = "a is [M, K] and b is [N, K], both with K last (b like the weight of a linear layer, [out, in])"


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

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def k(self) -> int:
        return int(self.codes.shape[1])

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


def block_ends(length: int, block: int, lines: int = 1) -> tuple[int, ...]:
    """Ends of the blocks of `lines` lines of `length` elements that follow one another along K; blocks start anew at
    each line."""
    return tuple(
        line * length + min(start + block, length) for line in range(lines) for start in range(0, length, block)
    )


def operand_from_tensor(tensor: BlockTensor, path: Datapath, what: str) -> Operand:
    """A 2-D BlockTensor with its blocks along the last axis."""
    if len(tensor.shape) != 2:
        raise ValueError(f"{what}: shape {tensor.shape}; {_SHAPES}")
    if tensor.axis != 1:
        raise ValueError(f"{what}: blocks run along axis {tensor.axis}, and K is axis 1; {_SHAPES}")
    return scaled_operand(tensor.codes, tensor.format.element, line_scales_of(tensor, path), 1)


def line_scales_of(tensor: BlockTensor, path: Datapath) -> LineScales | None:
    """Scales of a tensor whose blocks run along its last axis, short floats as codes where a machine reads them."""
    return line_scales(tensor.format, tensor.scale_planes, tensor.shape, short_codes=path.presum > 1)


def scaled_operand(codes: Array, element: ElementFormat, scales: LineScales | None, lines: int) -> Operand:
    """[rows, K] codes and their scales [rows, segments]; a row is `lines` lines of blocks one after the other."""
    if scales is None:
        return Operand(codes, element)
    if scales.codes is None and scales.factors is None:
        return Operand(codes, element, tensor_scale=scales.tensor_scale)
    return Operand(
        codes,
        element,
        scale=scales.record,
        block_scales=scales.codes,
        segment_end=block_ends(codes.shape[1] // lines, scales.block, lines),
        float_scales=scales.factors,
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
    name = dtype_name(x.dtype)  # type: ignore[attr-defined]
    array = to_numpy(x, what)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = np.require(array, requirements=["A"])
    if array.ndim != 2:
        raise ValueError(f"{what}: shape {array.shape}; {_SHAPES}")
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
            f"{what}: dtype {name}; needed a BlockTensor, a dtype among {', '.join(DTYPE_ELEMENTS)}, "
            f"or unsigned integer codes with {what}_format="
        )
    operand = Operand(codes, element, tensor_scale=None if tensor_scale is None else _scale_value(tensor_scale, what))
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
    """Raw scales: float32 [rows] or [rows, 1], or the machine's codes (uint8) [rows, K / block]."""
    array = to_numpy(scales, f"{what}_scales")
    rows, k = operand.codes.shape
    if array.dtype.kind == "f":
        if array.shape not in ((rows,), (rows, 1)):
            raise ValueError(f"{what}_scales: shape {array.shape}; float scales are one per row, ({rows},)")
        values = as_float32_exactly(array.reshape(rows, 1))
        if values is None:
            raise ValueError(f"{what}_scales: values that float32 does not hold")
        if not positive_finite_or_nan(values):
            raise ValueError(f"{what}_scales: needed positive finite numbers (or NaN, which poisons its row)")
        return Operand(
            operand.codes,
            operand.element,
            segment_end=(k,),
            float_scales=values,
            tensor_scale=operand.tensor_scale,
        )
    if array.dtype != np.uint8:
        raise TypeError(f"{what}_scales: dtype {array.dtype}; needed uint8 (codes per block) or float32 (per row)")
    if path.scale.code_bytes != 1:
        raise ValueError(f"{what}_scales: this machine's scales are no bytes; give a BlockTensor")
    if operand.tensor_scale is not None and path.presum == 1:
        raise ValueError(f"{what}: block scales beside a tensor scale are not supported")
    blocks = array.shape[1] if array.ndim == 2 else 0
    if array.ndim != 2 or array.shape[0] != rows or blocks < 1 or k % blocks:
        raise ValueError(
            f"{what}_scales: shape {array.shape}; needed ({rows}, K / block) where the block divides K = {k}"
        )
    return Operand(
        operand.codes,
        operand.element,
        scale=path.scale,
        block_scales=np.ascontiguousarray(array),
        segment_end=block_ends(k, k // blocks),
        tensor_scale=operand.tensor_scale,
    )


def resolve_datapath(datapath: str | Machine | Datapath) -> Datapath:
    """The record of a name, of a JSON file, of a catalog entry, or of the user's; ValueError if it means nothing."""
    if isinstance(datapath, str) and datapath.endswith(".json"):
        return load_datapath(datapath)
    if isinstance(datapath, str):
        datapath = find_datapath(datapath)
    record = datapath.record if isinstance(datapath, Machine) else datapath
    if not isinstance(record, Datapath):
        raise TypeError(f"datapath: needed a name or a Datapath, got {type(record).__name__}")
    _core.check_datapath(record)
    return record


#: What a result can be read as: its dtype, and the bits of c and of the accumulator.
RESULTS: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
}


def result_of(path: Datapath, result: str | None) -> str:
    """The result's name, checked against what the machine offers."""
    offered = ("fp32", "fp16") if path.output == "fp32_or_fp16" else (path.output,)
    name = offered[0] if result is None else result
    if name not in offered:
        raise ValueError(f"result={result!r}: this datapath gives {' or '.join(offered)}")
    return name


def machine_for(path: Datapath, result: str) -> Datapath:
    """The machine as it works when it gives that result: one of 16 bits is its accumulator's type too."""
    return path.with_fp16_result() if RESULTS[result] == np.float16 else path


def as_result(values: Array, path: Datapath, result: str) -> Array:
    """float32 sums in the dtype of the result, which holds them; NaN is the machine's."""
    if RESULTS[result].itemsize == values.dtype.itemsize:
        return values.view(RESULTS[result])
    with np.errstate(invalid="ignore"):
        half = values.astype(np.float16)
    half.view(np.uint16)[np.isnan(values)] = path.nan_bits >> 16
    return half


def _start(c: object, shape: tuple[int, int], result: str) -> Array | None:
    """c as the core takes it: float32 numbers, or the bits of int32."""
    if c is None:
        return None
    start = to_numpy(c, "c")
    if start.dtype != RESULTS[result]:
        raise TypeError(f"c: dtype {start.dtype}; needed {RESULTS[result]}")
    if start.shape != shape:
        raise ValueError(f"c: shape {start.shape}; needed [M, N] = {shape}")
    return core_start(start)


def core_start(start: Array) -> Array:
    """c of a result's dtype as the core takes it."""
    start = np.ascontiguousarray(start)
    return start.view(np.float32) if start.dtype.kind == "i" else widened32(start)


def widened32(values: Array) -> Array:
    """float16 as float32, exactly whatever the float state does to subnormals; float32 as it is."""
    if values.dtype == np.float32:
        return values
    bits = values.view(np.uint16).astype(np.int64)
    field, mantissa = bits >> 10 & 31, bits & 1023
    size = np.where(field == 31, np.where(mantissa == 0, np.inf, np.nan), 0.0)
    finite = np.ldexp(np.where(field == 0, mantissa, mantissa + 1024).astype(np.float64), np.maximum(field, 1) - 25)
    size = np.where(field == 31, size, finite)
    signed: Array = np.where(bits >> 15 != 0, -size, size).astype(np.float32)
    return signed


def multiply(
    a: Operand,
    b: Operand,
    path: Datapath,
    c: Array | None = None,
    bias: Array | None = None,
    groups: int = 1,
    threads: int | None = None,
) -> Array:
    """[M, groups * N] float32 of two checked operands with equal K: `groups` products, one after the other in the rows
    of a (groups * M) and b (groups * N). `bias` [groups * N] is one float32 addition at the end."""
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
        threads=thread_argument(threads),
    )
    return d


def matmul(
    a: object,
    b: object,
    *,
    datapath: str | Machine | Datapath = "exact",
    c: object = None,
    a_format: str | ElementFormat | None = None,
    b_format: str | ElementFormat | None = None,
    a_scales: object = None,
    b_scales: object = None,
    a_tensor_scale: float | None = None,
    b_tensor_scale: float | None = None,
    result: str | None = None,
    threads: int | None = None,
) -> Any:
    """``a @ b.T (+ c)`` as a described machine computes it. a is [M, K] and b is **[N, K]**: both have K last, b like
    the weight of a linear layer.

    Args:
        a, b: a `BlockTensor` with blocks along axis 1; or an array or tensor whose dtype is the format (torch or
            ml_dtypes float8, float6, float4; float16, bfloat16, float32; int8); or raw codes: unsigned integers, one
            per element, with ``a_format=``.
        datapath: a name of `datapaths()`, a `Datapath`, or the path of a JSON file of one (``"machine.json"``).
        c: [M, N] of the result's dtype, what the accumulator starts with.
        a_format, b_format: element of raw codes: a name of `elements()` that is no scale, or an `ElementFormat`.
            tf32 is its 19 bits, but on machines that read float32 words (``dropped_bits``) such a word.
        a_scales, b_scales: raw scales: codes (uint8) of the machine's ``scale``, E8M0 unless it says otherwise,
            [rows, K / block] of equal blocks (a shorter last one needs a `BlockTensor`), or float32 [rows].
        a_tensor_scale, b_tensor_scale: a float32 scale of the whole operand.
        result: ``"fp32"``, ``"fp16"`` or ``"int32"``, where the machine offers it; default its first.
        threads: threads to use; default by size. Results never depend on it.

    Returns:
        [M, N] float32 (or of ``result``): a torch tensor if a is one, else a NumPy array. NaN is the machine's
        canonical one.

    Raises:
        ValueError: shapes that do not fit, K that does not match, unknown names, operands that the datapath does not
            take.
        TypeError: operands of a kind that is no format.

    Source of the rules: docs/numerics.md section 10.

    >>> import numpy as np, sparq_sim as sq
    >>> a = sq.encode(np.float32([[1, 2, 3, 4]]), "mxfp8")
    >>> sq.matmul(a, a, datapath="block_fp32")
    array([[30.]], dtype=float32)
    """
    path = resolve_datapath(datapath)
    name = result_of(path, result)
    path = machine_for(path, name)
    left = operand_of(a, a_format, a_scales, a_tensor_scale, path, "a")
    right = operand_of(b, b_format, b_scales, b_tensor_scale, path, "b")
    if left.k != right.k:
        raise ValueError(f"K does not match: a is [{left.rows}, {left.k}], b is [{right.rows}, {right.k}]; {_SHAPES}")
    scales = (left.float_scales, left.tensor_scale, right.float_scales, right.tensor_scale)
    if name != "fp32" and any(scale is not None for scale in scales):
        raise ValueError(f"result={name!r}: float scales multiply a float32 result")
    start = _start(c, (left.rows, right.rows), name)
    made = as_result(multiply(left, right, path, start, threads=threads), path, name)
    if is_torch(a) or (isinstance(a, BlockTensor) and a.library == "torch"):
        import torch

        return torch.from_numpy(made).to(a.device if isinstance(a, torch.Tensor) else "cpu")
    return made
