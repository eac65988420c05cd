"""NumPy arrays (and, through ``sparq_sim.torch``, torch tensors) in and out: dtypes, shapes, memory order, messages."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Dtypes that can be quantized, by name. bfloat16 is NumPy's through the package ml_dtypes, or torch's.
FLOATS = ("float16", "bfloat16", "float32", "float64")


def is_torch(x: object) -> bool:
    """Whether `x` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def dtype_name(dtype: object) -> str:
    """Name of a NumPy or torch dtype, or of a string: ``torch.bfloat16`` is ``"bfloat16"``."""
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, np.dtype):
        return _name_in_numpy(dtype)
    text = str(dtype)
    if text.startswith("torch."):
        return text.removeprefix("torch.")
    return np.dtype(dtype).name  # type: ignore[call-overload,no-any-return]


@lru_cache(maxsize=64)
def _name_in_numpy(dtype: np.dtype[Any]) -> str:
    """`dtype.name`, which NumPy puts together anew each time."""
    return dtype.name


def float_name(dtype: object, what: str) -> str:
    """`dtype_name`, refusing what is not one of `FLOATS`."""
    try:
        name = dtype_name(dtype)
    except TypeError:
        name = repr(dtype)
    if name not in FLOATS:
        raise TypeError(f"{what}: dtype {name}; needed: {', '.join(FLOATS)}")
    return name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a name; those that NumPy itself lacks (bfloat16, float8_e4m3fn, ...) need ml_dtypes."""
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise TypeError(f"dtype {name} in NumPy needs the package ml_dtypes") from None
    made: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return made


def bits_view(x: Array) -> Array:
    """The array as the core reads it: 16-bit floats as their bits."""
    return x.view(np.uint16) if x.dtype.itemsize == 2 and x.dtype != np.uint16 else x


def sizes_of(shape: object) -> tuple[int, ...]:
    """A shape, or the size of one axis.

    Raises:
        TypeError: what is no integer.
        ValueError: a size below zero.
    """
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise TypeError(f"shape: needed integers, got {shape!r}")
        if size < 0:
            raise ValueError(f"shape {tuple(sizes)}: a size is below zero")
    return tuple(int(size) for size in sizes)


def to_numpy(x: object, what: str) -> Array:
    """A NumPy view (bfloat16 torch tensors as ``uint16`` bits) of an array or tensor.

    Raises:
        TypeError: `x` is neither.
    """
    if is_torch(x):
        from sparq_sim.torch import bridge

        return bridge.to_numpy(x)  # type: ignore[arg-type]
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{what}: a masked array; give its data, and mask= where elements are to be pruned")
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, np.generic):
        return np.asarray(x)
    raise TypeError(f"{what}: needed a NumPy array or a torch tensor, got {type(x).__name__}")


def native(array: Array) -> Array:
    """The array in this machine's order of bytes: itself, or a copy."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


@dataclass(frozen=True)
class Source:
    """A float array in an order of axes in which it is contiguous."""

    data: Array
    """C-contiguous, at least one axis, 16-bit floats as bits."""
    dtype: str
    shape: tuple[int, ...]
    """As the user sees it."""
    order: tuple[int, ...]
    """Axis i of `data` is axis order[i] of the user's array."""

    def axis(self, axis: int, what: str = "axis") -> int:
        """The user's axis as an axis of `data`."""
        return self.order.index(normal_axis(axis, max(1, len(self.shape)), what))

    def to_user(self, data: Array) -> Array:
        """An array laid out like `data` (any extents) as the user sees it."""
        back = np.argsort(self.order)
        return data.transpose(back).reshape(self.shape) if self.shape == () else data.transpose(back)

    def to_user_copy(self, data: Array) -> Array:
        """`to_user`, C-contiguous and not shared with `data` unless it already is that."""
        user = self.to_user(data)
        return user if user.flags.c_contiguous else np.ascontiguousarray(user)

    def from_user(self, array: Array) -> Array:
        """The user's array in the order of `data`, C-contiguous, copied if need be."""
        array = array.reshape(1) if array.ndim == 0 else array
        return np.ascontiguousarray(array.transpose(self.order))


def normal_axis(axis: int, ndim: int, what: str = "axis") -> int:
    """A non-negative axis; ValueError if there is no such axis."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise TypeError(f"{what}: needed an integer, got {axis!r}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"{what}={axis}: the array has {ndim} axes")
    return int(axis) % ndim


def source(x: object, what: str, *, in_order: bool = False) -> Source:
    """Any float array or tensor as a `Source`: no copy when its axes can be put in an order in which it is contiguous
    (transposed views), else one copy. `in_order` keeps the user's order of axes. A `Source` stays what it is."""
    if isinstance(x, Source):
        return x
    name = float_name(x.dtype, what) if hasattr(x, "dtype") else ""
    array = to_numpy(x, what)
    shape = array.shape
    data = bits_view(native(array))
    if data.ndim == 0:
        data = data.reshape(1)
    order = tuple(range(data.ndim))
    if not data.flags.c_contiguous:
        by_stride = tuple(sorted(order, key=lambda i: -data.strides[i]))
        if not in_order and data.transpose(by_stride).flags.c_contiguous:
            data, order = data.transpose(by_stride), by_stride
        else:
            data = np.ascontiguousarray(data)
    data = np.require(data, requirements=["A"])
    return Source(data, name, shape, order)


def extents(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """(outer, length, inner) of a C-contiguous shape around `axis`."""
    return math.prod(map(int, shape[:axis])), int(shape[axis]), math.prod(map(int, shape[axis + 1 :]))


def bfloat16_values(bits: Array) -> Array:
    """The float32 numbers that bits of bfloat16 are."""
    words: Array = bits.view(np.uint16).astype(np.uint32) << np.uint32(16)
    return words.view(np.float32)


def widened(values: Array) -> Array:
    """Floats as float64, exact whatever the float state does to subnormals of float32."""
    wide: Array = values.astype(np.float64)
    if values.dtype == np.float32:
        bits = values.view(np.uint32)
        small = (bits & 0x7FFFFF).astype(np.float64) * 2.0**-149
        wide = np.where((bits & 0x7F800000) == 0, np.where(bits >> 31, -small, small), wide)
    return wide


def as_float32_exactly(values: Array) -> Array | None:
    """Floats as contiguous float32, by integers for the same reason; None if float32 does not hold them all."""
    if values.dtype == np.float32:
        return np.ascontiguousarray(values)
    with np.errstate(all="ignore"):  # signalling NaNs; numbers that float64 does not hold are looked at below
        wide = widened(values)
        if values.dtype.itemsize > 8 and bool(np.any(wide.astype(values.dtype) != values)):
            return None
        return _narrowed(wide)


def _narrowed(wide: Array) -> Array | None:
    """`as_float32_exactly` of float64."""
    finite = np.isfinite(wide)
    numbers = np.where(finite, wide, 0.0)
    exponent = np.frexp(numbers)[1].astype(np.int64)
    quantum = np.maximum(exponent - 24, -149)
    steps = np.ldexp(np.abs(numbers), -quantum)
    if bool(np.any((steps != np.floor(steps)) | (exponent > 128))):
        return None
    # Counting quanta from zero up is what the bits of a float do.
    bits = np.where(steps == 0, 0, steps.astype(np.int64) + ((quantum + 149) << 23))
    bits = bits.astype(np.uint32) | np.signbit(numbers).astype(np.uint32) << np.uint32(31)
    special = np.where(finite, 0.0, wide).astype(np.float32)
    return np.ascontiguousarray(np.where(finite, bits, special.view(np.uint32))).view(np.float32)


def positive_finite_or_nan(values: Array) -> bool:
    """Whether all float32 values are positive and finite, or NaN: by bits, since comparing may flush subnormals."""
    bits = values.view(np.uint32)
    infinity = 0x7F800000
    good = ((bits > 0) & (bits < infinity)) | ((bits & 0x7FFFFFFF) > infinity)
    return bool(good.all())


def thread_argument(threads: int | None) -> int:
    """0 (let the core decide) for None, else a positive count."""
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or threads < 1:
        raise ValueError(f"threads={threads!r}: needed a positive integer or None")
    return int(threads)


def like(values: Array, result: str, x: Any) -> Any:
    """Results as what `x` is: an array, or a tensor on its device."""
    if is_torch(x):
        from sparq_sim.torch import bridge

        return bridge.from_numpy(values, result, x)
    return values.view(numpy_dtype(result)) if values.dtype == np.uint16 else values
