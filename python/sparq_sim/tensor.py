"""BlockTensor: an encoded tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import (
    Array,
    extents,
    float_name,
    normal_axis,
    numpy_dtype,
    positive_finite_or_nan,
    thread_argument,
)
from sparq_sim.formats import Format, Spec


def inexact_policy(inexact: str | None, format: Format, result: str) -> str:
    """``"error"`` or ``"round"`` (docs/numerics.md section 7); ValueError for any other word."""
    if inexact is None:
        return "round" if format.scale_kind == "float" or result in ("float16", "bfloat16") else "error"
    if inexact not in ("error", "round"):
        raise ValueError(f"inexact={inexact!r}: choose one of error, round")
    return inexact


def raise_inexact(format: Format, result: str, count: int) -> None:
    """The error of results that are not exact."""
    raise ValueError(
        f"{count} value(s) of {format.name} are not representable in {result}; "
        f"ask for dtype='float64', or for inexact='round' (to nearest even)"
    )


@dataclass(frozen=True, eq=False)
class BlockTensor:
    """Codes, scales and kept positions of a tensor, and the spec that made them.

    Made by `encode`. The arrays are C-contiguous and not to be changed.
    """

    codes: Array
    """uint8, uint16 or uint32, shaped like the tensor: one code per element in the low bits."""
    scales: Array | None
    """Scale codes (uint8, uint16) or float32 values, shaped like the tensor with the axis replaced by the number of
    blocks (all ones for a scale of the tensor); None without scales."""
    mask: Array | None
    """bool, shaped like the tensor: True where an element was kept; None if the tensor is dense."""
    spec: Spec
    dtype: str
    """Of the tensor that was encoded, and of `decode` by default."""
    library: str
    """``"numpy"`` or ``"torch"``: what `decode` returns."""

    def __post_init__(self) -> None:
        self._check()
        for array in (self.codes, self.scales, self.mask):
            if array is not None:
                array.flags.writeable = False

    def _check(self) -> None:
        """ValueError unless the arrays are what the spec says."""
        format_, shape = self.spec.format, self.codes.shape
        needed: list[tuple[str, Array | None, object, tuple[int, ...]]] = []
        needed.append(("codes", self.codes, np.dtype(f"uint{8 * format_.element.code_bytes}"), shape))
        if format_.levels:
            needed.append(("scales", self.scales, format_.scale_dtype, self._scale_shape()))
        elif self.scales is not None:
            raise ValueError(f"scales: {format_.name} has none")
        if self.mask is not None:
            needed.append(("mask", self.mask, np.dtype(np.bool_), shape))
        for name, array, dtype, extent in needed:
            if array is None or array.dtype != dtype or array.shape != extent or not array.flags.c_contiguous:
                given = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"{name}: {given}; needed C-contiguous {dtype} {extent}")
        bits = format_.element.code_bits
        if bits < 8 * self.codes.dtype.itemsize and self.codes.size and int(self.codes.max()) >> bits:
            raise ValueError(f"codes: {int(self.codes.max()):#x} has more than the {bits} bits of {format_.name}")
        numbers = self.scales is not None and not format_.has_scale_codes
        if numbers and not positive_finite_or_nan(self.scales):  # type: ignore[arg-type]
            raise ValueError("scales: needed positive finite numbers, or NaN")

    def _scale_shape(self) -> tuple[int, ...]:
        shape = self.codes.shape
        if not shape:
            return ()
        if self.spec.format.block == "tensor":
            return (1,) * len(shape)
        length = shape[self.axis]
        blocks = self.spec.format.block_format.blocks_per_line(length) if length else 0
        return (*shape[: self.axis], blocks, *shape[self.axis + 1 :])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.codes.shape

    @property
    def axis(self) -> int:
        """The reduction axis, not negative."""
        return normal_axis(self.spec.axis, max(1, self.codes.ndim))

    @property
    def format(self) -> Format:
        """The block format."""
        return self.spec.format

    def __repr__(self) -> str:
        return f"BlockTensor(shape={self.shape}, {self.spec})"

    def __eq__(self, other: object) -> bool:
        """Same spec, shape and bits."""
        if not isinstance(other, BlockTensor):
            return NotImplemented
        pairs = ((self.codes, other.codes), (self.scales, other.scales), (self.mask, other.mask))
        return self.spec == other.spec and all(_same_bits(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def decode(self, dtype: object = None, *, inexact: str | None = None, threads: int | None = None) -> Any:
        """The values, as `emulate` gives them.

        Args:
            dtype: of the result; default that of the encoded tensor.
            inexact: ``"error"`` or ``"round"`` (docs/numerics.md section 7).
            threads: threads to use; default by size.

        Returns:
            A NumPy array, or a CPU torch tensor if a tensor was encoded.

        Raises:
            ValueError: a value that the dtype does not hold, under ``inexact="error"``.

        >>> import numpy as np, sparq_sim as sq
        >>> sq.encode(np.float32([1.3, -6]), "mxfp4").decode()
        array([ 1.5, -6. ], dtype=float32)
        """
        result = self.dtype if dtype is None else float_name(dtype, "dtype")
        policy = inexact_policy(inexact, self.format, result)
        bits = result in ("float16", "bfloat16")
        values = np.empty(self.shape, dtype=np.uint16 if bits else np.dtype(result))
        counts = _core.decode(
            codes=self.codes,
            scales=self.scales,
            shape=extents(self.shape or (1,), self.axis),
            format=self.format.block_format,
            values=values,
            values_type=result,
            threads=thread_argument(threads),
        )
        if policy == "error" and counts["inexact"]:
            raise_inexact(self.format, result, counts["inexact"])
        if self.library == "torch":
            import torch

            from sparq_sim.torch import bridge

            return bridge.from_numpy(values, result, torch.empty(0))
        return values.view(numpy_dtype(result)) if bits else values


def _same_bits(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
