"""matmul: what a described multiplier array computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array, as_float32_exactly, is_torch, to_numpy
from sparq_sim.batches import Batches
from sparq_sim.compressed import stored_of
from sparq_sim.epilogue import Epilogue
from sparq_sim.events import MatmulEvents
from sparq_sim.formats import Format, Spec
from sparq_sim.machines import AnyDatapath, resolve_datapath
from sparq_sim.operands import SHAPES, operand_of
from sparq_sim.outputs import output_spec, written
from sparq_sim.products import Product
from sparq_sim.requantize import Requantization
from sparq_sim.split import SplitK, split_of
from sparq_sim.steps import rounded_to
from sparq_sim.tensor import BlockTensor

#: What a result can be read as: its dtype, and the bits of c and of the accumulator.
RESULTS: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
}


def offered_results(path: Datapath) -> tuple[str, ...]:
    """Names of the results that a machine gives, its default first."""
    return ("fp32", "fp16") if path.output == "fp32_or_fp16" else (path.output,)


def result_of(path: Datapath, result: str | None) -> str:
    """The result's name, checked against what the machine offers."""
    offered = offered_results(path)
    name = offered[0] if result is None else result
    if name not in offered:
        raise ValueError(
            f"result={result!r}: this datapath gives {' or '.join(offered)}; output= rounds to any format what it gives"
        )
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


def start_of(c: object, shape: tuple[int, ...], result: str) -> Array | None:
    """c as the core takes it: float32 numbers, or the bits of int32."""
    if c is None:
        return None
    start = to_numpy(c, "c")
    if start.dtype != RESULTS[result]:
        raise TypeError(f"c: dtype {start.dtype}; needed {RESULTS[result]}")
    if start.shape != shape:
        raise ValueError(f"c: shape {start.shape}; needed [..., M, N] = {shape}")
    return core_start(start)


def core_start(start: Array) -> Array:
    """c of a result's dtype as the core takes it."""
    start = np.ascontiguousarray(start)
    if start.dtype.kind == "i":
        return start.view(np.float32)
    exact = as_float32_exactly(start)
    assert exact is not None
    return exact.reshape(start.shape)


def rounds_afterwards(result: str, split: SplitK | None, epilogue: Epilogue | Requantization | None) -> bool:
    """Whether a result of fp16 is rounded after the machine, whose own is float32 where more is added to it."""
    return result == "fp16" and not (epilogue is None and split is None)


def matmul(
    a: object,
    b: object,
    *,
    datapath: AnyDatapath = "exact",
    c: object = None,
    a_format: str | ElementFormat | None = None,
    b_format: str | ElementFormat | None = None,
    a_scales: object = None,
    b_scales: object = None,
    a_tensor_scale: float | None = None,
    b_tensor_scale: float | None = None,
    result: str | None = None,
    compressed: str | None = None,
    split_k: SplitK | int | None = None,
    epilogue: Epilogue | Requantization | None = None,
    output: str | Format | Spec | None = None,
    events: MatmulEvents | None = None,
    threads: int | None = None,
) -> Any:
    """``a @ b.T (+ c)`` as a described machine computes it. a is [..., M, K] and b is **[..., N, K]**: both have
    K last, b like the weight of a linear layer. Leading dimensions broadcast as in torch.matmul.

    Args:
        a, b: a `BlockTensor` with blocks along the last axis; or an array or tensor whose dtype is the format (torch or
            ml_dtypes float8, float6, float4; float16, bfloat16, float32; int8); or raw codes: unsigned integers, one
            per element, with ``a_format=``.
        datapath: a name of `datapaths()`, a `Datapath`, or the path of a JSON file of one (``"machine.json"``).
        c: [..., M, N] of the result's dtype, what the accumulator starts with.
        a_format, b_format: element of raw codes: a name of `elements()` that is no scale, or an `ElementFormat`.
            tf32 is its 19 bits, but on machines that read float32 words (``dropped_bits``) such a word.
        a_scales, b_scales: raw scales: codes (uint8) of the machine's ``scale``, E8M0 unless it says otherwise,
            [..., rows, K / block] of equal blocks (a shorter last one needs a `BlockTensor`), or float32 [..., rows].
        a_tensor_scale, b_tensor_scale: a float32 scale of the whole operand.
        result: ``"fp32"``, ``"fp16"`` or ``"int32"``, where the machine offers it; default its first.
        compressed: ``"a"`` or ``"b"``, a `BlockTensor` with an N:M pattern: the machine takes that operand as it is
            stored, and its K (steps, instructions, chunks, parts) counts stored elements, whose positions select those
            of the other. By default K counts the elements of dense lines, and pruned ones are zeros.
        split_k: a `SplitK`, or the number of parts of K that are added up by themselves and meet in float32 (or in
            the integers of a machine that writes int32).
        epilogue: an `Epilogue` (alpha, beta and bias) of a float result, or a `Requantization` of an int32 one.
        output: what a float result is rounded to afterwards: a name of `formats()` or `elements()`, a `Format` or a
            `Spec`. ``result="fp16"`` adds in fp16, ``output="fp16"`` rounds what float32 sums became.
        events: a `MatmulEvents` to add counts to: what was cut, cancelled, overflowed and wrapped. The reference
            multiplies then, which takes a hundred to some thousand times as long.
        threads: threads to use; default by size. Results never depend on it.

    Returns:
        [..., M, N] float32 (or of ``result``): a torch tensor if a is one, else a NumPy array. NaN is the machine's
        canonical one. With ``output=`` of a format with scales (or an N:M pattern) a `BlockTensor`, blocks along the
        last axis, as the next product reads it; of one without, an array of the dtype whose items are its codes
        (bfloat16, float8_e4m3fn, ...), or where the library has none, of the codes as unsigned integers.

    Raises:
        ValueError: shapes that do not fit, K that does not match, unknown names, operands that the datapath does not
            take.
        TypeError: operands of a kind that is no format.

    Source of the rules: docs/numerics.md section 10.

    >>> import numpy as np, sparq_sim as sq
    >>> a = sq.encode(np.float32([[1, 2, 3, 4]]), "mxfp8")
    >>> sq.matmul(a, a, datapath="block_fp32")
    array([[30.]], dtype=float32)
    >>> sq.matmul(a, a, output="e4m3").dtype.name
    'float8_e4m3fn'
    >>> sq.matmul(a, a, output="mxfp4")
    BlockTensor(shape=(1, 1), mxfp4 block=32 rounding=nearest_even overflow=saturate scale_rule=floor axis=-1)
    >>> heads = np.ones((2, 3, 4, 8), np.float32)
    >>> sq.matmul(heads, heads[0, 0]).shape
    (2, 3, 4, 4)
    """
    path = resolve_datapath(datapath)
    name = result_of(path, result)
    made_to = None if output is None else output_spec(output)
    if made_to is not None and name == "int32":
        raise ValueError(
            "output: this datapath gives int32, and formats are made of floats; epilogue=Requantization(...) scales it"
        )
    kind = Requantization if name == "int32" else Epilogue
    if epilogue is not None and not isinstance(epilogue, kind):
        raise TypeError(f"epilogue: needed {kind.__name__} on a result of {name}, got {type(epilogue).__name__}")
    if compressed not in (None, "a", "b"):
        raise ValueError(f"compressed={compressed!r}: needed 'a', 'b' or None")
    if events is not None and not isinstance(events, MatmulEvents):
        raise TypeError(f"events: needed a MatmulEvents object, got {type(events).__name__}")
    split = split_of(split_k)
    path = machine_for(path, name)
    left = operand_of(a, a_format, a_scales, a_tensor_scale, path, "a")
    right = operand_of(b, b_format, b_scales, b_tensor_scale, path, "b")
    stored = None if compressed is None else stored_of(a if compressed == "a" else b, compressed)
    if left.k != right.k:
        raise ValueError(f"K does not match: a is {left.shape}, b is {right.shape}; {SHAPES}")
    batches = Batches.of(left.shape, right.shape, SHAPES)
    scales = (left.float_scales, left.tensor_scale, right.float_scales, right.tensor_scale)
    if name != "fp32" and any(scale is not None for scale in scales):
        raise ValueError(f"result={name!r}: float scales multiply a float32 result")
    start = start_of(c, batches.shape, name)
    if epilogue is not None:
        epilogue.check(batches.shape)
    left, right = left.rows_at(batches.left_rows), right.rows_at(batches.right_rows)
    flipped = compressed == "b"
    if stored is not None:
        stored = stored.rows_at(batches.right_rows if flipped else batches.left_rows)
    counts = None if events is None else events.room(batches)
    work = Product(left, right, path, batches.groups, split, stored, flipped)
    sums = batches.from_core(work.run(batches.to_core(start), threads, counts))
    if events is not None and counts is not None:
        events.add(counts, batches)
    if isinstance(epilogue, Epilogue):
        sums = epilogue.apply(sums, path.nan_bits, threads)
    if rounds_afterwards(name, split, epilogue):
        sums = rounded_to(sums, name)
    made: Any = as_result(sums, path, name)
    if isinstance(epilogue, Requantization):
        made = epilogue.apply(made)
    if is_torch(a) or (isinstance(a, BlockTensor) and a.library == "torch"):
        import torch

        made = torch.from_numpy(made).to(a.device if isinstance(a, torch.Tensor) else "cpu")
    return made if made_to is None else written(made, made_to, threads)
