"""BlockTensor: an encoded tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import (
    Array,
    Source,
    extents,
    float_name,
    normal_axis,
    numpy_dtype,
    positive_finite_or_nan,
    thread_argument,
)
from sparq_sim.formats import Format, Spec
from sparq_sim.scales import (
    exact_float,
    level_dtype,
    line_rows,
    lines_together,
    scale_shape,
    scale_values,
    spans_lines,
)


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
    scales: Array | tuple[Array, ...] | None
    """Scale codes (uint8, uint16) or float32 values, shaped like the tensor with the axis replaced by the number of
    blocks (all ones for a scale of the tensor); None without scales. A format of several levels has a tuple of such
    arrays, outermost first; zero points come last, as codes of two's complement."""
    mask: Array | None
    """bool, shaped like the tensor: True where an element was kept; None if the tensor is dense."""
    spec: Spec
    dtype: str
    """Of the tensor that was encoded, and of `decode` by default."""
    library: str
    """``"numpy"`` or ``"torch"``: what `decode` returns."""

    def __post_init__(self) -> None:
        self._check()
        for array in (self.codes, *self.scale_planes, self.mask):
            if array is not None:
                array.flags.writeable = False

    def _check(self) -> None:
        """ValueError unless the arrays are what the spec says."""
        format_, shape = self.spec.format, self.codes.shape
        needed: list[tuple[str, Array | None, object, tuple[int, ...]]] = []
        needed.append(("codes", self.codes, np.dtype(f"uint{8 * format_.element.code_bytes}"), shape))
        planes = self.scale_planes
        if len(planes) != len(format_.levels):
            wanted = f"{len(format_.levels)} levels" if format_.levels else "none"
            raise ValueError(f"scales: {len(planes)} levels; {format_.name} has {wanted}")
        for plane, level in zip(planes, format_.levels, strict=True):
            needed.append(("scales", plane, level_dtype(level), scale_shape(level, shape, self.axis)))
        if self.mask is not None:
            needed.append(("mask", self.mask, np.dtype(np.bool_), shape))
        for name, array, dtype, extent in needed:
            if array is None or array.dtype != dtype or array.shape != extent or not array.flags.c_contiguous:
                given = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"{name}: {given}; needed C-contiguous {dtype} {extent}")
        bits = format_.element.code_bits
        if bits < 8 * self.codes.dtype.itemsize and self.codes.size and int(self.codes.max()) >> bits:
            raise ValueError(f"codes: {int(self.codes.max()):#x} has more than the {bits} bits of {format_.name}")
        for plane, level in zip(planes, format_.levels, strict=True):
            if level.combine == "subtract" and plane.size and int(plane.max()) >> bits:
                raise ValueError(f"scales: a zero point of {int(plane.max()):#x} has more than {bits} bits")
            if plane.dtype == np.float32 and not positive_finite_or_nan(plane):
                raise ValueError("scales: needed positive finite numbers, or NaN")

    @property
    def scale_planes(self) -> tuple[Array, ...]:
        """The scales of each level, outermost first; empty without scales."""
        if self.scales is None:
            return ()
        return self.scales if isinstance(self.scales, tuple) else (self.scales,)

    @property
    def tensor_scale(self) -> float | None:
        """The scale of the whole tensor, where the format's outermost level is one of floats."""
        levels = self.format.levels
        if not levels or levels[0].across != 0 or levels[0].format.is_power_of_two_scale:
            return None
        return exact_float(scale_values(levels[0], self.scale_planes[0]))

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
        if self.spec != other.spec:
            return False
        scales = zip(self.scale_planes, other.scale_planes, strict=True)
        return all(_same_bits(a, b) for a, b in ((self.codes, other.codes), (self.mask, other.mask), *scales))

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
        codes, planes, order = self.codes, self.scale_planes, tuple(range(self.codes.ndim))
        if spans_lines(self.format) and codes.ndim > 1:
            together = lines_together(Source(codes, "codes", self.shape, order), self.axis)
            codes, order = together.data, together.order
            planes = tuple(np.ascontiguousarray(plane.transpose(order)) for plane in planes)
        values = np.empty(codes.shape, dtype=np.uint16 if bits else np.dtype(result))
        counts = _core.decode(
            codes=codes,
            scales=list(planes),
            shape=extents(codes.shape or (1,), order.index(self.axis) if order else 0),
            rows=line_rows(self.format, codes.shape),
            format=self.format.block_format,
            values=values,
            values_type=result,
            threads=thread_argument(threads),
        )
        if order != tuple(range(values.ndim)):
            values = np.ascontiguousarray(values.transpose(np.argsort(order)))
        if policy == "error" and counts["inexact"]:
            raise_inexact(self.format, result, counts["inexact"])
        if self.library == "torch":
            import torch

            from sparq_sim.torch import bridge

            return bridge.from_numpy(values, result, torch.empty(0))
        return values.view(numpy_dtype(result)) if bits else values


def stored_scales(planes: list[Array]) -> Array | tuple[Array, ...] | None:
    """The scales of all levels as `BlockTensor.scales` has them."""
    return None if not planes else planes[0] if len(planes) == 1 else tuple(planes)


def _same_bits(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
