"""BlockTensor: an encoded tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import (
    Array,
    Source,
    extents,
    float_name,
    is_torch,
    normal_axis,
    numpy_dtype,
    positive_finite_or_nan,
    thread_argument,
    to_numpy,
)
from sparq_sim.dtypes import DTYPE_ELEMENTS, DTYPE_SCALES, as_codes, in_dtype
from sparq_sim.formats import Format, Spec, parse_sparsity, pattern_text, spec
from sparq_sim.positions import compress, group_count, group_units
from sparq_sim.scales import (
    exact_float,
    level_dtype,
    line_rows,
    lines_together,
    scale_shape,
    scale_values,
    spans_lines,
)

if TYPE_CHECKING:
    from sparq_sim.layouts import Layout
    from sparq_sim.packing import Packed
    from sparq_sim.storage import Storage


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
        if self.mask is not None and self.mask.size and int(self.mask.view(np.uint8).max()) > 1:
            raise ValueError("mask: bools whose bytes are not 0 or 1")
        bits = format_.element.code_bits
        if bits < 8 * self.codes.dtype.itemsize and self.codes.size and int(self.codes.max()) >> bits:
            raise ValueError(f"codes: {int(self.codes.max()):#x} has more than the {bits} bits of {format_.name}")
        check_scales(format_, planes)

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

    @property
    def positions(self) -> Array | None:
        """Where in its group each stored unit of an N:M tensor lies, ascending: uint8, shaped like the tensor with the
        axis replaced by N / unit for every group, a ragged last one too. None if the tensor is dense.

        >>> import numpy as np, sparq_sim as sq
        >>> sq.encode(np.float32([1, -3, 2, 2, 0, 0, 0, 5]), "mxfp4", sparsity="2:4").positions
        array([1, 2, 0, 3], dtype=uint8)
        """
        return None if self.spec.sparsity is None else self.compressed()[1]

    def compressed(self, fill: str = "lowest", *, threads: int | None = None) -> tuple[Array, Array]:
        """The codes that an N:M tensor stores, and their `positions`, both shaped like the tensor with a shorter axis.

        Args:
            fill: which positions a group stores that keeps fewer than N: ``lowest`` or ``highest`` of the free ones, or
                what ``cutlass2`` (torch) or ``cutlass3`` writes for 2:4 (docs/numerics.md section 15).
            threads: threads to use; default by size.

        Raises:
            ValueError: a dense tensor, or a mask that is not N:M.
        """
        pattern = self.spec.sparsity
        if pattern is None or self.mask is None:
            raise ValueError("the tensor is dense: .structured('2:4') gives one with a mask its pattern")
        axis, shape = self.axis, self.shape or (1,)
        moved = [shape[i] for i in range(len(shape)) if i != axis]
        lines = [
            np.ascontiguousarray(np.moveaxis(array.reshape(shape), axis, -1)).reshape(math.prod(moved), shape[axis])
            for array in (self.codes, self.mask.view(np.uint8))
        ]
        stored, places = compress(lines[0], lines[1], pattern, fill, threads)
        groups = group_count(pattern, shape[axis])
        return tuple(
            np.ascontiguousarray(np.moveaxis(made.reshape(*moved, groups * each), -1, axis))
            for made, each in ((stored, pattern.kept), (places, group_units(pattern)[0]))
        )  # type: ignore[return-value]

    def structured(self, sparsity: str, *, ties: str | None = None) -> BlockTensor:
        """The tensor with its mask (all of it where there is none) as the N:M pattern of its spec.

        Raises:
            ValueError: a mask that is not N:M.

        >>> import numpy as np, sparq_sim as sq
        >>> x = np.float32([0, 0, 2, 3, 0, 1, 0, 0])
        >>> sq.encode(x, "mxfp4", mask=x != 0).structured("2:4").positions
        array([2, 3, 0, 1], dtype=uint8)
        """
        pattern = parse_sparsity(sparsity, ties)
        mask = np.ones(self.shape, np.bool_) if self.mask is None else self.mask
        made = replace(self, mask=mask, spec=replace(self.spec, sparsity=pattern))
        try:
            made.compressed()
        except ValueError as error:
            name = "None" if pattern is None else pattern_text(pattern)
            raise ValueError(f"structured({name!r}): {error}") from None
        return made

    def dense(self) -> BlockTensor:
        """The tensor without its mask and pattern: pruned elements are elements of zero. It decodes alike."""
        return replace(self, mask=None, spec=self.spec.dense())

    def pack(
        self,
        layout: str | Layout = "row_major",
        *,
        encoding: str | None = None,
        fill: str | None = None,
        threads: int | None = None,
    ) -> Packed:
        """The bytes that memory holds (docs/numerics.md section 15); `unpack` reads them.

        Args:
            layout: a name of `layouts()`, or a `Layout`.
            encoding: of positions, if not that of the layout: ``index``, ``relative``, ``halves``, ``bitmask`` or
                ``rank``.
            fill: what groups that keep fewer than N store, if not as the layout says; see `compressed`.
            threads: threads to use; default by size.

        Raises:
            ValueError: a layout that does not hold such tensors, or a mask that is not N:M.

        >>> import numpy as np, sparq_sim as sq
        >>> sq.encode(np.float32([[1, -3, 2, 2]]), "mxfp4").pack().planes["elements"].tolist()
        [[244, 102]]
        """
        from sparq_sim.packing import pack

        return pack(self, layout, encoding=encoding, fill=fill, threads=threads)

    def codes_as(self, dtype: Any) -> Any:
        """The codes as an array or tensor of a dtype whose items they are, over the same memory: torch's and ml_dtypes'
        float8, ml_dtypes' float6 and float4 (one to a byte), float16, bfloat16, int8. Not to be written to, which torch
        does not know of its tensors.

        Raises:
            TypeError: a dtype of other codes.

        >>> import ml_dtypes, numpy as np, sparq_sim as sq
        >>> sq.encode(np.float32([7.5, 1, -0.25, 0]), "mxfp4").codes_as(ml_dtypes.float4_e2m1fn).astype(np.float32)
        array([ 6.,  1., -0.,  0.], dtype=float32)
        """
        return in_dtype(self.codes, self.format.element, dtype, DTYPE_ELEMENTS, "codes")

    def scales_as(self, dtype: Any, *, level: int | None = None) -> Any:
        """The scales of a level (default that of the blocks) likewise: E8M0 as float8_e8m0fnu, UE4M3 as float8_e4m3fn.

        Raises:
            TypeError: a dtype of other codes.
            ValueError: no such level.
        """
        at = self.format.block_format.main_level if level is None else level
        if not 0 <= at < len(self.scale_planes):
            raise ValueError(f"level={at}: {self.format.name} has {len(self.scale_planes)}")
        return in_dtype(self.scale_planes[at], self.format.levels[at].format, dtype, DTYPE_SCALES, "scales")

    @classmethod
    def from_codes(
        cls,
        codes: object,
        scales: object = None,
        *,
        format: str | Format | Spec,
        mask: object = None,
        dtype: str = "float32",
        **choices: Any,
    ) -> BlockTensor:
        """A tensor of codes and scales that are there already, over their own memory where that is contiguous: arrays
        or torch tensors of dtypes that `codes_as` and `scales_as` take, or of unsigned integers. Others come in by
        ``numpy.from_dlpack``. torch's float4_e2m1fn_x2 is taken apart, and bytes in the other order are turned: both
        are copies. Nobody may write to what is shared.

        Args:
            codes: shaped like the tensor.
            scales: of the blocks; a list of all levels, outermost first, where there are several.
            format, choices: as in `spec`.
            mask: bool, True where an element was kept; codes elsewhere are zeros. A spec with a pattern needs one.
            dtype: what `decode` gives by default.

        Raises:
            TypeError: dtypes that are other codes.
            ValueError: shapes that do not fit; a mask that is not N:M, or under which elements are no zeros.

        >>> import torch, sparq_sim as sq
        >>> x = torch.tensor([[1.0, -3.0]]).to(torch.float8_e4m3fn)
        >>> sq.BlockTensor.from_codes(x, torch.ones(1, 1).to(torch.float8_e8m0fnu), format="mxfp8").decode()
        tensor([[ 1., -3.]])
        """
        made = spec(format, **choices)
        record = made.format
        own = as_codes(codes, record.element, DTYPE_ELEMENTS, "codes")
        levels = list(scales) if isinstance(scales, (list, tuple)) else [] if scales is None else [scales]
        if len(levels) != len(record.levels):
            raise ValueError(f"scales: {len(levels)} levels; {record.name} has {len(record.levels)}")
        planes = [
            np.ascontiguousarray(as_codes(one, level.format, DTYPE_SCALES, "scales"))
            for one, level in zip(levels, record.levels, strict=True)
        ]
        kept = None if mask is None else np.ascontiguousarray(to_numpy(mask, "mask")).view()
        library = "torch" if is_torch(codes) else "numpy"
        own = np.ascontiguousarray(own)
        own = own.view(f"u{own.itemsize}")  # float32 elements are codes too
        tensor = cls(own, stored_scales(planes), kept, made, float_name(dtype, "dtype"), library)
        tensor._check_pruned()
        return tensor

    def _check_pruned(self) -> None:
        """ValueError for a pattern without mask, a mask that is none of its, or pruned elements that are no zeros."""
        if self.mask is None:
            if self.spec.sparsity is not None:
                raise ValueError(f"{self.spec}: needed mask=, which elements were kept")
            return
        if self.spec.sparsity is not None:
            self.compressed()  # for its error
        if self.format.has_zero_points:
            zeros = np.asarray(self.decode("float64", inexact="round"))
            wrong = (zeros != 0) & ~np.isnan(zeros)  # NaN: of a scale
        else:
            element = self.format.element
            sign = 1 << (element.code_bits - 1)
            wrong = self.codes != 0
            if element.value(sign) == 0:  # -0
                wrong &= self.codes != sign
        wrong &= ~self.mask
        if wrong.any():
            place = [int(i) for i in np.argwhere(wrong)[0]]
            raise ValueError(f"codes: {int(self.codes[tuple(place)]):#x} at {place}, where the mask says pruned")

    def storage(
        self, layout: str | Layout = "row_major", *, encoding: str | None = None, fill: str | None = None
    ) -> Storage:
        """The bits that the tensor takes in a layout, by what they are for; see `storage`."""
        from sparq_sim.storage import storage

        return storage(self.spec, self.shape, layout=layout, encoding=encoding, fill=fill)

    def save(self, path: str | Path, *, layout: str | Layout | None = None, name: str = "tensor") -> None:
        """Writes the tensor to a safetensors or GGUF file, which appears as a whole or not at all; `load` reads it.

        Args:
            path: of the file, ``*.safetensors`` or ``*.gguf``.
            layout: as in `pack`; default as in `save`.
            name: of the tensor in the file.

        Raises:
            ValueError: a layout or a kind of file that does not hold the tensor, or a directory that cannot be written.
        """
        from sparq_sim.store import save

        save(path, {name: self}, layout=layout)

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
        codes, planes, order = self.codes, self.scale_planes, tuple(range(self.codes.ndim))
        if spans_lines(self.format) and codes.ndim > 1:
            together = lines_together(Source(codes, "codes", self.shape, order), self.axis)
            codes, order = together.data, together.order
            planes = tuple(np.ascontiguousarray(plane.transpose(order)) for plane in planes)
        values = empty_values(codes.shape, result)
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
        return decoded_values(values, counts, self.format, result, policy, self.library)


def check_scales(format: Format, planes: Sequence[Array]) -> None:
    """ValueError for scales of all levels that no tensor of the format has."""
    for at, (plane, level) in enumerate(zip(planes, format.levels, strict=True)):
        offset = level.combine == "subtract"
        width = format.element.code_bits if offset else level.format.code_bits
        if plane.dtype.kind == "u" and width < 8 * plane.itemsize and plane.size and int(plane.max()) >> width:
            what = "a zero point" if offset else "a code"
            raise ValueError(f"scales: {what} of {int(plane.max()):#x} has more than {width} bits")
        if plane.dtype != np.float32:
            continue
        # One that encoders multiply by may overflow (outer_overflow="infinity").
        endless = at == 0 and format.outer_combine not in (None, "multiply")
        if not positive_finite_or_nan(plane[plane != np.inf] if endless else plane):
            raise ValueError("scales: needed positive finite numbers, or NaN")


def empty_values(shape: tuple[int, ...], dtype: str) -> Array:
    """What the core writes values of a float dtype to: 16-bit ones as their bits."""
    return np.empty(shape, dtype=np.uint16 if dtype in ("float16", "bfloat16") else np.dtype(dtype))


def decoded_values(
    values: Array, counts: Mapping[str, int], format: Format, dtype: str, policy: str, library: str
) -> Any:
    """Values as `decode` returns them; ValueError if the dtype does not hold some and the policy is ``"error"``."""
    if policy == "error" and counts["inexact"]:
        raise_inexact(format, dtype, counts["inexact"])
    if library == "torch":
        import torch

        from sparq_sim.torch import bridge

        return bridge.from_numpy(values, dtype, torch.empty(0))
    return values.view(numpy_dtype(dtype)) if values.dtype == np.uint16 else values


def stored_scales(planes: list[Array]) -> Array | tuple[Array, ...] | None:
    """The scales of all levels as `BlockTensor.scales` has them."""
    return None if not planes else planes[0] if len(planes) == 1 else tuple(planes)


def _same_bits(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
