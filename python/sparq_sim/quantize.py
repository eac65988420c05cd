"""emulate and encode: what a tensor becomes, and in which bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import (
    Array,
    Source,
    bfloat16_values,
    bits_view,
    dtype_name,
    extents,
    float_name,
    is_torch,
    like,
    normal_axis,
    source,
    thread_argument,
    to_numpy,
)
from sparq_sim.events import Events
from sparq_sim.formats import Format, Spec, block_text, checked_order, spec
from sparq_sim.random import Philox, ShiftRegister
from sparq_sim.scales import given_scales, level_dtype, line_rows, lines_together, scale_shape, spans_lines
from sparq_sim.tensor import BlockTensor, inexact_policy, raise_inexact, stored_scales

T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    """What every encoding starts with: the input in memory order, checked, with its mask and given scales."""

    x: Source
    spec: Spec
    axis: int
    mask: Array | None
    scales: list[Array | None]  # given ones, a level each
    random: Array | Philox | None

    @property
    def format(self) -> Format:
        return self.spec.format

    @property
    def gives_scales(self) -> bool:
        return any(plane is not None for plane in self.scales)

    def empty_scales(self) -> list[Array]:
        """Scales of every level in memory order: given ones, or ones to be written."""
        shape = self.x.shape or (1,)
        planes = []
        for level, given in zip(self.format.levels, self.scales, strict=True):
            extents_ = scale_shape(level, shape, normal_axis(self.spec.axis, len(shape)))
            ordered = tuple(extents_[i] for i in self.x.order)
            planes.append(np.ones(ordered, level_dtype(level)) if given is None else given.copy())
        return planes

    def run(self, *, count: bool, threads: int | None, **outputs: Any) -> dict[str, int]:
        """Calls the core. `outputs`: values, values_type, codes, scales, mask_out."""
        wanted: dict[str, Any] = {
            "values": None,
            "values_type": "float32",
            "codes": None,
            "scales": self.scales,
            "mask_out": None,
        }
        wanted |= outputs
        shape = self.x.data.shape
        counts = _core.encode(
            x=self.x.data,
            x_type=self.x.dtype,
            shape=extents(shape, self.axis),
            rows=line_rows(self.format, shape),
            format=self.format.block_format,
            conversion=self.spec.conversion,
            sparsity=self.spec.sparsity,
            order=self.spec.order,
            scales_given=[plane is not None for plane in self.scales],
            mask_in=self.mask,
            count=count,
            random=self.random if isinstance(self.random, np.ndarray) else None,
            philox=(
                (self.random.seed, self.random.stream, self.random.offset) if isinstance(self.random, Philox) else None
            ),
            threads=thread_argument(threads),
            **wanted,
        )
        if counts["refused"]:
            self._refuse()
        return counts

    def _refuse(self) -> None:
        main = self.format.main
        if self.spec.conversion.nonfinite == "error":
            raise ValueError("x has NaN or Inf, and nonfinite='error' was asked for")
        beyond = " (float64 numbers beyond float32 become Inf)" if self.format.scale_kind == "float" else ""
        if self.format.has_zero_points and self.scales[0] is None:
            raise ValueError(
                f"{self.format.name}: the distance from the least element to the largest, or that over the steps "
                "between codes, is beyond float32"
            )
        if self.gives_scales:
            raise ValueError(
                f"x has NaN or Inf{beyond} where scales= gives a scale that is a number; given scales are never changed"
            )
        if main is not None and self.format.scale_kind == "float" and main.format.has_nan:
            raise ValueError(f"{self.format.name}: amax divided by the largest element value is beyond float32")
        raise ValueError(
            f"x has NaN or Inf, and {self.format.name} has no code for it: "
            "neither its elements nor its scales have a NaN"
        )


def _events_argument(events: object) -> bool:
    """Whether to count."""
    if events is not None and not isinstance(events, Events):
        raise TypeError(f"events: needed an Events object, got {type(events).__name__}")
    return events is not None


def _prepare(
    x: object,
    format: str | Format | Spec,
    *,
    axis: int | None,
    sparsity: Any,
    order: str | None,
    mask: object,
    scales: object,
    tensor_scale: object,
    random: object,
    choices: dict[str, Any],
) -> _Job:
    made = spec(format, axis=axis, sparsity=sparsity, order=None if mask is not None else order, **choices)
    if mask is not None and order is not None:
        made = replace(made, order=checked_order(order))
    stochastic = made.conversion.rounding == "stochastic"
    data = source(x, "x", in_order=stochastic)  # elements take random bits by their place
    if spans_lines(made.format):
        data = lines_together(data, made.axis)
    place = data.axis(made.axis)
    if mask is not None and made.sparsity is not None:
        raise ValueError("mask= replaces the choice of an N:M pattern: give one of mask= and sparsity=")
    mask_bytes = None if mask is None else data.from_user(_mask_array(mask, data.shape))
    if tensor_scale is not None:
        if not made.format.levels or made.format.levels[0].across != 0:
            raise ValueError(
                f"tensor_scale=: {made.format.name} has no scale of the tensor (block={block_text(made.format.block)})"
            )
        if scales is not None:
            raise ValueError("scales= and tensor_scale= name the same scale: give one")
        if isinstance(tensor_scale, int):
            tensor_scale = float(tensor_scale)
        scales = [np.full((1,) * max(1, len(data.shape)), tensor_scale)]
    given: list[Array | None] = [None] * len(made.format.levels)
    if scales is not None:
        given = given_scales(scales, made.format, data, normal_axis(made.axis, max(1, len(data.shape))))
    bits = _random_argument(random, made, data)
    return _Job(data, made, place, mask_bytes, given, bits)


def _random_argument(random: object, made: Spec, data: Source) -> Array | Philox | None:
    if made.conversion.rounding != "stochastic":
        if random is not None:
            raise ValueError(f"random= needs rounding='stochastic', not {made.conversion.rounding!r}")
        return None
    if random is None:
        raise ValueError("rounding='stochastic' needs random=: a Philox, a ShiftRegister, or integers shaped like x")
    if isinstance(random, ShiftRegister):
        words = random.words(data.data.size) & np.uint32((1 << made.conversion.random_bits) - 1)
        return data.from_user(words.reshape(data.shape))
    if isinstance(random, Philox):
        random.require(data.data.size)
        if data.order == tuple(range(data.data.ndim)):
            return random
        # The core counts in memory order.
        words = random.words(data.data.size) >> np.uint32(32 - made.conversion.random_bits)
        return data.from_user(words.reshape(data.shape))
    array = to_numpy(random, "random")
    top = (1 << made.conversion.random_bits) - 1
    if array.dtype.kind not in "ui":
        raise TypeError(f"random: dtype {array.dtype}; needed integers from 0 to {top}, or a Philox")
    if array.shape != data.shape:
        raise ValueError(f"random: shape {array.shape}; needed the shape of x, {data.shape}")
    if array.size and (int(array.min()) < 0 or int(array.max()) > top):
        raise ValueError(f"random: holds {int(array.min())} to {int(array.max())}; needed 0 to {top}")
    return data.from_user(array.astype(np.uint32))


def _mask_array(mask: object, shape: tuple[int, ...]) -> Array:
    array = to_numpy(mask, "mask")
    if array.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"mask: dtype {array.dtype}; needed bool, or uint8 of 0 and 1")
    if array.shape != shape:
        raise ValueError(f"mask: shape {array.shape}; needed the shape of x, {shape}")
    bytes_ = array.view(np.uint8)
    if array.dtype == np.uint8 and array.size and int(array.max()) > 1:
        raise ValueError(f"mask: holds {int(array.max())}; needed 0 and 1")
    return bytes_


def _may_fail(job: _Job, result: str, policy: str) -> bool:
    """Whether a run that writes over its own input could end in an error. Computed scales keep float32 and float64
    results exact unless a magnitude comes near the top of its type, or the format has no numbers of ordinary size."""
    element, kind = job.format.element, job.format.scale_kind
    # With these, refusing has to be asked for.
    if policy == "error" and (job.gives_scales or kind == "float" or result in ("float16", "bfloat16")):
        return True
    scale = None if job.format.main is None else job.format.main.format
    divisor = job.spec.conversion.divisor
    if job.spec.conversion.least_scale != "exact" or job.spec.conversion.scale_compute != "fp32":
        return True
    if job.gives_scales and kind == "float" and len(job.format.levels) > 1:
        return True  # amax over a given scale can overflow
    if divisor or (kind == "float" and element.emax < 0):
        return True  # amax divided by a number below 1 can overflow
    if policy == "error":
        # Rounding may lift anything to the smallest number, and saturation lower it to a last bit of the largest.
        smallest, last = element.emin - element.mantissa_bits, element.emax - element.mantissa_bits
        if scale is not None:
            smallest += scale.emin + job.spec.conversion.scale_minimum
            last += scale.emax
            for level in job.format.levels[job.format.block_format.main_level + 1 :]:
                last -= level.format.max_code + abs(level.format.emin)
        if smallest > 100 or last < -149:
            return True
    speaks_nan = scale.has_nan if scale is not None else element.has_nan
    if job.spec.conversion.nonfinite == "error":
        speaks_nan = False
    # The least and the largest element may lie farther apart than float32 reaches.
    ranged = job.format.has_zero_points
    if job.x.data.size == 0 or (speaks_nan and policy == "round" and not job.gives_scales and not ranged):
        return False
    values = job.x.data
    if job.x.dtype == "float16":
        values = values.view(np.float16)
    elif job.x.dtype == "bfloat16":
        values = bfloat16_values(values)
    # Under a float scale, numbers become float32 first.
    limit = 2.0**120 if result == "float32" or kind == "float" else 2.0**1016
    with np.errstate(invalid="ignore"):
        return not (-limit < float(values.min()) and float(values.max()) < limit)


def emulate(
    x: T,
    format: str | Format | Spec,
    *,
    axis: int | None = None,
    sparsity: str | None = None,
    order: str | None = None,
    mask: object = None,
    scales: object = None,
    tensor_scale: float | None = None,
    random: object = None,
    inexact: str | None = None,
    dtype: object = None,
    out: T | None = None,
    events: Events | None = None,
    threads: int | None = None,
    **choices: Any,
) -> T:
    """The values that `x` has after encoding and decoding: what the hardware sees.

    Args:
        x: NumPy array or torch tensor (any device; others than the CPU are copied) of float16, bfloat16, float32 or
            float64, of any shape and strides.
        format: a name of `formats()`, a `Format`, or a `Spec`.
        axis: reduction axis, along which blocks and N:M groups run; default -1.
        sparsity: ``"N:M"``: keeps the N largest magnitudes of every M.
        order: ``"sparsify_first"`` (default) or ``"quantize_first"``.
        mask: bool (or uint8) array shaped like x; True is kept. Replaces the choice of `sparsity`.
        scales: given scales, codes (integers) or values (floats), shaped like x with the axis replaced by the number
            of blocks; a list holds one per level, outermost first, None for those to be computed. Zero points are
            signed integers (or unsigned codes, as `BlockTensor.scales` has them).
        tensor_scale: the given scale of the tensor, for formats whose outermost level is one.
        random: bits of ``rounding="stochastic"``: a `Philox`, a `ShiftRegister`, or integers below 2^random_bits shaped
            like x.
        inexact: ``"error"`` or ``"round"``, when the result dtype does not hold a decoded value (docs/numerics.md
            section 7).
        dtype: dtype of the result; default that of x.
        out: array or tensor to write to, like the result; may be x itself. If an error is raised, x is unchanged and
            the contents of a separate `out` are unspecified.
        events: an `Events` to add counts to.
        threads: threads to use; default by size. Results never depend on it.
        choices: see `spec`; ``like`` is one of them.

    Returns:
        An array or tensor of the kind, device and shape of x.

    Raises:
        ValueError: unknown names, shapes that do not fit, non-finite input that the format cannot express, results
            that are not exact under ``inexact="error"``.
        TypeError: dtypes that are not floats, unknown choices.

    Source of the rules: docs/numerics.md; OCP MX v1.0, 6.3.

    >>> import numpy as np, sparq_sim as sq
    >>> sq.emulate(np.float32([7.5, 1, -0.25, 0]), "mxfp4")
    array([ 6.,  1., -0.,  0.], dtype=float32)
    """
    counted = _events_argument(events)
    job = _prepare(
        x, format, axis=axis, sparsity=sparsity, order=order, mask=mask, scales=scales, tensor_scale=tensor_scale,
        random=random, choices=choices,
    )  # fmt: skip
    if out is not None:
        to_numpy(out, "out")  # only for its error
        dtype = out.dtype if dtype is None else dtype  # type: ignore[attr-defined]
    result = job.x.dtype if dtype is None else float_name(dtype, "dtype")
    policy = inexact_policy(inexact, job.format, result)
    target = _out_array(out, x, result, job.x) if out is not None else None
    direct = target is not None and target.flags.c_contiguous and target.flags.aligned
    if direct and target is not None and np.may_share_memory(target, to_numpy(x, "x")):
        same = target.ctypes.data == job.x.data.ctypes.data and target.dtype == job.x.data.dtype
        direct = same and not _may_fail(job, result, policy)
    if direct and target is not None:
        values = target
    else:
        bits = result in ("float16", "bfloat16")
        values = np.empty(job.x.data.shape, dtype=np.uint16 if bits else np.dtype(result))
    counts = job.run(values=values, values_type=result, count=counted, threads=threads)
    if policy == "error" and counts["inexact"]:
        raise_inexact(job.format, result, counts["inexact"])
    if events is not None:
        events.add(counts)
    if out is not None:
        if not direct and target is not None:
            target[...] = values
        _copy_to_device(out, target)
        return out
    made: T = like(job.x.to_user(values), result, x)
    return made


def _out_array(out: object, x: object, result: str, data: Source) -> Array:
    """`out` in the memory order of the input, as bits."""
    array = to_numpy(out, "out")
    if is_torch(out) != is_torch(x):
        raise TypeError(f"out: {type(out).__name__}; needed the kind of x, {type(x).__name__}")
    if not array.dtype.isnative:
        raise TypeError(f"out: dtype {array.dtype.str}; needed the machine's byte order")
    if array.shape != data.shape:
        raise ValueError(f"out: shape {array.shape}; needed {data.shape}")
    if dtype_name(out.dtype) != result:  # type: ignore[attr-defined]
        raise TypeError(f"out: dtype {dtype_name(out.dtype)}; needed {result}")  # type: ignore[attr-defined]
    if not array.flags.writeable:
        raise ValueError("out: the array is read-only")
    bits = bits_view(array) if array.ndim else bits_view(array.reshape(1))
    return bits.transpose(data.order)


def _copy_to_device(out: object, target: Array | None) -> None:
    """Results for a tensor that is not on the CPU were written to a copy of it."""
    if is_torch(out) and out.device.type != "cpu" and target is not None:  # type: ignore[attr-defined]
        from sparq_sim.torch import bridge

        out.copy_(bridge.from_numpy(target, dtype_name(out.dtype), out))  # type: ignore[attr-defined, arg-type]


def encode(
    x: object,
    format: str | Format | Spec,
    *,
    axis: int | None = None,
    sparsity: str | None = None,
    order: str | None = None,
    mask: object = None,
    scales: object = None,
    tensor_scale: float | None = None,
    random: object = None,
    events: Events | None = None,
    threads: int | None = None,
    **choices: Any,
) -> BlockTensor:
    """The codes and scales of `x`: what the hardware stores.

    Arguments and errors are those of `emulate`; ``encode(x, f).decode()`` equals ``emulate(x, f)`` bit for bit.

    Returns:
        A `BlockTensor`: one code per element, one scale per block, and the kept positions of a sparse tensor.

    >>> import numpy as np, sparq_sim as sq
    >>> t = sq.encode(np.float32([7.5, 1, -0.25, 0]), "mxfp4")
    >>> t.codes, t.scales
    (array([7, 2, 8, 0], dtype=uint8), array([127], dtype=uint8))
    """
    counted = _events_argument(events)
    job = _prepare(
        x, format, axis=axis, sparsity=sparsity, order=order, mask=mask, scales=scales, tensor_scale=tensor_scale,
        random=random, choices=choices,
    )  # fmt: skip
    element = job.format.element
    codes = np.empty(job.x.data.shape, dtype=f"uint{8 * element.code_bytes}")
    made_scales = job.empty_scales()
    made_mask = None if job.mask is None else job.mask.copy()
    if job.spec.sparsity is not None:
        made_mask = np.empty(job.x.data.shape, dtype=np.uint8)
    counts = job.run(
        codes=codes,
        scales=made_scales,
        mask_out=made_mask if job.spec.sparsity is not None else None,
        count=counted,
        threads=threads,
    )
    if events is not None:
        events.add(counts)
    keep = None if made_mask is None else job.x.to_user_copy(made_mask).view(np.bool_)
    return BlockTensor(
        codes=job.x.to_user_copy(codes),
        scales=stored_scales([job.x.to_user_copy(plane) for plane in made_scales]),
        mask=keep,
        spec=job.spec,
        dtype=job.x.dtype,
        library="torch" if is_torch(x) else "numpy",
    )
