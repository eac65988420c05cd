"""Dtypes of other libraries whose items are codes of this one."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparq_sim._core import ElementFormat
from sparq_sim.arrays import Array, bits_view, dtype_name, native, to_numpy
from sparq_sim.formats import find_element

#: Low-precision dtypes (NumPy, ml_dtypes, torch) and the element that each of their codes is.
DTYPE_ELEMENTS = {
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz",
    "float8_e4m3": "e4m3_ieee",
    "float8_e3m4": "e3m4",
    "float6_e2m3fn": "e2m3",
    "float6_e3m2fn": "e3m2",
    "float4_e2m1fn": "e2m1",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "int8": "int8",
    "int4": "int4",
}

#: Dtypes of torch whose items are two codes in a byte, the first in the low bits.
DTYPE_PAIRS = {"float4_e2m1fn_x2": "e2m1"}

#: Dtypes of scales, and what their codes are.
DTYPE_SCALES = {"float8_e8m0fnu": "e8m0", "float8_e4m3fn": "ue4m3", "float16": "fp16", "float32": "fp32"}


def _named_array(x: object, what: str) -> tuple[str, Array]:
    """The name of a dtype, and the array in this machine's order of bytes."""
    array = native(to_numpy(x, what))
    return dtype_name(getattr(x, "dtype", type(x).__name__)), array


def named_items(x: object, what: str) -> tuple[str, Array]:
    """The name of the dtype of elements, and the array: pairs of FP4 along the last axis come one to a byte."""
    name, array = _named_array(x, what)
    if name not in DTYPE_PAIRS:
        return name, array
    if array.ndim == 0:
        raise ValueError(f"{what}: pairs in a tensor without axes")
    halves = np.stack((array & 15, array >> 4), axis=-1)
    return name.removesuffix("_x2"), halves.reshape(*array.shape[:-1], 2 * array.shape[-1])


def as_codes(x: object, record: ElementFormat, known: dict[str, str], what: str) -> Array:
    """The codes of an array or tensor over its own memory: of a dtype that is `record`, or unsigned integers. Bytes in
    the other order, and pairs of codes in a byte, are copied.

    Raises:
        TypeError: another dtype.
    """
    name, array = named_items(x, what) if known is DTYPE_ELEMENTS else _named_array(x, what)
    wide = array.dtype.itemsize
    if name in known and find_element(known[name]) == record:
        unsigned = array.view(np.dtype(f"uint{8 * wide}")) if array.dtype.kind not in "u" else bits_view(array)
        return unsigned if name != "float32" else array.view(np.float32)
    if array.dtype == np.dtype(f"uint{8 * record.code_bytes}") and name.startswith("uint"):
        return array.view()
    pairs = DTYPE_PAIRS if known is DTYPE_ELEMENTS else {}
    fitting = [dtype for dtype, element in {**known, **pairs}.items() if find_element(element) == record]
    wanted = ", ".join([*fitting, f"uint{8 * record.code_bytes} codes"])
    raise TypeError(f"{what}: dtype {name}; needed {wanted}")


def in_dtype(codes: Array, record: ElementFormat, dtype: Any, known: dict[str, str], what: str) -> Any:
    """Codes as an array or tensor of `dtype` over the same memory.

    Raises:
        TypeError: a dtype whose items are other codes.
    """
    name = dtype_name(dtype)
    if name not in known or find_element(known[name]) != record:
        fitting = [one for one, element in known.items() if find_element(element) == record]
        raise TypeError(f"{what}: dtype {name} is not their code; {', '.join(fitting) or 'no dtype'} is")
    if str(dtype).startswith("torch."):
        import torch.utils.dlpack

        return torch.utils.dlpack.from_dlpack(codes).view(dtype)
    return codes.view(np.dtype(dtype))
