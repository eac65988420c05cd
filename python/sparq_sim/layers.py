"""Linear and convolution layers on a simulated machine, on NumPy arrays (docs/numerics.md sections 9 and 10)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparq_sim._core import Datapath, Sparsity
from sparq_sim.accelerator import Accelerator
from sparq_sim.arrays import Array, float_name, is_torch, to_numpy
from sparq_sim.compressed import StoredOperand, stored_line, stored_rows
from sparq_sim.end_scales import times_end_scales, without_end_scales
from sparq_sim.epilogue import Epilogue
from sparq_sim.formats import Spec, block_text, pattern_text
from sparq_sim.operands import Operand, line_scales_of, multiply, scaled_operand
from sparq_sim.positions import group_count
from sparq_sim.products import Product
from sparq_sim.quantize import emulate, encode
from sparq_sim.scales import LineScales, spans_lines
from sparq_sim.sparsify import sparsify
from sparq_sim.split import SplitK
from sparq_sim.tensor import BlockTensor

# Gathered window elements that are worked on at once.
_GATHER_LIMIT = 1 << 26


@dataclass(frozen=True)
class Window:
    """Geometry of a 2-D convolution; pairs are (height, width)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, bottom, left, right."""
    groups: int = 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output."""
        top, bottom, left, right = self.padding
        tall = height + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1
        wide = width + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1
        if tall < 0 or wide < 0:
            raise ValueError(
                f"a {height}x{width} input is smaller than the kernel {self.kernel} with its padding and dilation"
            )
        return tall // self.stride[0] + 1, wide // self.stride[1] + 1

    def gather(self, x: Array, fill: float) -> Array:
        """[N, H, W, G, C] to contiguous windows [G, N, Ho, Wo, kh, kw, C], padding filled."""
        top, bottom, left, right = self.padding
        if any(self.padding):
            x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0), (0, 0)), constant_values=fill)
        rows, columns = self.output_size(x.shape[1] - top - bottom, x.shape[2] - left - right)
        n, _, _, groups, channels = x.shape
        s = x.strides
        shape = (groups, n, rows, columns, *self.kernel, channels)
        places = (s[1] * self.stride[0], s[2] * self.stride[1])
        taps = (s[1] * self.dilation[0], s[2] * self.dilation[1])
        strides = (s[3], s[0], *places, *taps, s[4])
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False))


def _dense_if_narrow(spec: Spec, channels: int) -> Spec:
    """Without its N:M pattern where a line is shorter than a group."""
    if spec.sparsity is None or channels >= spec.sparsity.group:
        return spec
    return replace(spec, sparsity=None, order="sparsify_first")


def _encode_rows(x: Array, spec: Spec, taps: int) -> BlockTensor:
    """[rows, taps * C] under one scale per row; N:M groups still never cross a tap."""
    if spec.sparsity is None:
        return encode(x, spec, axis=-1)
    dense = replace(spec, sparsity=None, order="sparsify_first")
    ranked = x if spec.order == "sparsify_first" else emulate(x, dense, dtype="float64")
    lines = ranked.reshape(x.shape[0], taps, x.shape[1] // taps)
    pattern = pattern_text(spec.sparsity)
    _, mask = sparsify(lines, pattern, axis=-1, ties=spec.sparsity.ties)
    return encode(x, dense, axis=-1, mask=mask.reshape(x.shape), order=spec.order)


def _each(scales: LineScales | None, change: Callable[[Array, Any], Array]) -> LineScales | None:
    """Scales whose arrays went through `change`, which gets a scale for padding too: its codes are zero, so any number
    will do."""
    if scales is None:
        return None
    return replace(
        scales,
        codes=None if scales.codes is None else change(scales.codes, 0),
        factors=None if scales.factors is None else change(scales.factors, 1.0),
    )


def _mask_of(tensor: BlockTensor) -> Array:
    assert tensor.mask is not None
    return tensor.mask


def _stored_lines(tensor: BlockTensor, pattern: Sparsity, length: int) -> tuple[Array, Array]:
    """StoredOperand codes and places of a tensor's lines along its last axis, or along parts of it of `length`."""
    shape = (tensor.codes.size // length, length)
    codes, places = stored_line(tensor.codes.reshape(shape), _mask_of(tensor).reshape(shape), pattern)
    shape = (*tensor.codes.shape[:-1], tensor.codes.shape[-1] // length * codes.shape[1])
    return codes.reshape(shape), places.reshape(shape)


@dataclass(frozen=True)
class _Way:
    """How a layer's products are made, of an operand of activations and a weight."""

    path: Datapath
    weight: Operand
    stored: StoredOperand | None
    """What the machine takes of the weight instead."""
    split: SplitK | None
    epilogue: Epilogue | None
    bias: Array | None
    groups: int
    threads: int | None

    def product(self, left: Operand, stored: StoredOperand | None) -> Array:
        """float32 [M, groups * N]; `stored` is what the machine takes of the activations instead."""
        path, right, after = self.path, self.weight, self.epilogue
        integers = path.output == "int32"
        if self.stored is None and stored is None and self.split is None and after is None and not integers:
            return multiply(left, right, path, bias=self.bias, groups=self.groups, threads=self.threads)
        ends: tuple[Array | None, Array | None] = (None, None)
        if integers:  # scales multiply what the integers become as float32
            (left, x), (right, y) = (without_end_scales(side, path) for side in (left, right))
            ends = (x, y)
        held, flipped = (self.stored, True) if stored is None else (stored, False)
        sums = Product(left, right, path, self.groups, self.split, held, flipped).run(threads=self.threads)
        if integers:
            sums = times_end_scales(sums.view(np.int32).astype(np.float32), *ends, path, self.groups, self.threads)
        if self.bias is not None or after is not None:
            after = replace(Epilogue() if after is None else after, bias=self.bias)
            sums = after.apply(sums, path.nan_bits, self.threads)
        return sums


class MachineLayer:
    """A linear layer (weight [out, in]) or a 2-D convolution (weight [out, in / groups, kh, kw]) on an accelerator.

    The weight is encoded once; every call encodes its activations.
    """

    def __init__(self, weight: Array, accelerator: Accelerator, window: Window | None = None) -> None:
        self.accelerator = accelerator
        self.window = window
        self.weight_shape = weight.shape
        for spec in (accelerator.weight_spec, accelerator.activation_spec):
            if window is not None and spans_lines(spec.format):
                raise ValueError(
                    f"{spec.format.name}: blocks of {block_text(spec.format.block)} span lines, and those of a "
                    "convolution lie along the channels of a tap: use it for linear layers"
                )
        lines = (
            weight[:, None, :]
            if window is None
            else weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, weight.shape[1])
        )
        self.taps, self.channels = int(lines.shape[1]), int(lines.shape[2])
        self.windowed = window is not None and accelerator.conv_blocks == "window"
        if self.windowed and accelerator.conv_k_order == "chw":
            lines = weight.reshape(len(weight), 1, -1)
        elif self.windowed:
            lines = lines.reshape(len(weight), 1, -1)
        #: Channels that an N:M group or a block can span.
        self.line_length = int(lines.shape[2])
        self.weight_spec = _dense_if_narrow(accelerator.weight_spec, self.line_length)
        self.activation_spec = _dense_if_narrow(accelerator.activation_spec, self.line_length)
        self.kept_dense = (
            self.weight_spec != accelerator.weight_spec or self.activation_spec != accelerator.activation_spec
        )
        self._weight_lines = int(lines.shape[1])
        rows = np.ascontiguousarray(lines if window is not None else weight)
        self._row_scaled = self.weight_spec.format.block == "row"
        if self._row_scaled:
            # A scale per output channel spans all taps.
            self.weight = _encode_rows(rows.reshape(len(weight), self.k), self.weight_spec, self._weight_lines)
        else:
            self.weight = encode(rows, self.weight_spec, axis=-1)
        if accelerator.split is not None:
            accelerator.split.ends(self.machine_k, accelerator.path)  # for its error
        self._check_machine()

    def _check_machine(self) -> None:
        """ValueError for operands that the machine does not take: a product of zeros and one row of each group."""
        window, groups = self.window, 1 if self.window is None else self.window.groups
        if 0 in self.weight_shape:
            return
        run = self._way(None, None, None)
        rows = np.arange(groups) * (self.weight_shape[0] // groups)
        held = None if run.stored is None else run.stored.rows_at(rows)
        run = replace(run, weight=run.weight.rows_at(rows), stored=held)
        if window is None:
            lines = np.zeros((1, self.k), np.float32)
        elif self.windowed:
            lines = np.zeros((groups, 1, self.k), np.float32)
        else:
            spans = [d * (n - 1) + 1 for n, d in zip(window.kernel, window.dilation, strict=True)]
            lines = np.zeros((1, *spans, groups, self.channels), np.float32)
        tensor = encode(lines, self.activation_spec, axis=-1)
        scales = line_scales_of(tensor, run.path)
        if window is None:
            left = scaled_operand(tensor.codes, tensor.format.element, scales, 1)
        else:
            left = self._window_operand(tensor, scales, slice(0, 1), 1, replace(window, padding=(0, 0, 0, 0)))
        run.product(left, None)

    @property
    def k(self) -> int:
        """Products per output."""
        return self.taps * self.channels

    @property
    def machine_k(self) -> int:
        """The same as the machine counts them: of a compressed operand, stored ones."""
        pattern = self._stored_pattern
        if pattern is None:
            return self.k
        return self.k // max(1, self.line_length) * group_count(pattern, self.line_length) * pattern.kept

    @property
    def _stored_pattern(self) -> Sparsity | None:
        """Of the operand that the machine takes as it is stored."""
        spec = {"weights": self.weight_spec, "activations": self.activation_spec}.get(self.accelerator.compressed or "")
        return None if spec is None else spec.sparsity

    @cached_property
    def _stored_weight(self) -> StoredOperand:
        """What memory holds of the weight, [out, stored K]."""
        codes, places = _stored_lines(self.weight, *self._stored_groups)
        pattern, length = self._stored_groups
        shape = (self.weight_shape[0], self._weight_lines, group_count(pattern, length) * pattern.kept)
        return stored_rows(codes.reshape(shape), places.reshape(shape), pattern, length)

    @property
    def _stored_groups(self) -> tuple[Sparsity, int]:
        """The pattern of what is stored, and the length of the lines along which its groups run."""
        pattern = self._stored_pattern
        assert pattern is not None
        return pattern, self.line_length

    @cached_property
    def _weight_operand(self) -> Operand:
        return self._weight_on(self.accelerator.path)

    def _weight_on(self, path: Datapath) -> Operand:
        """[out, K] as a machine takes it; the rows of a group are neighbours."""
        weight, lines = self.weight, 1 if self._row_scaled else self._weight_lines
        shape = (self.weight_shape[0], self.k)
        return scaled_operand(weight.codes.reshape(shape), weight.format.element, line_scales_of(weight, path), lines)

    def _lines(self, x: Array) -> Array:
        """Activations as lines along the reduction axis: [T, K], or pixels [N, H, W, G, C]."""
        if self.window is None:
            return np.ascontiguousarray(x.reshape(math.prod(x.shape[:-1]), self.weight_shape[1]))
        n, channels, height, width = x.shape
        groups = self.window.groups
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(n, height, width, groups, channels // groups)

    def _windows(self, x: Array) -> Array:
        """Activations gathered first, for blocks along whole windows: [G, M, K]."""
        assert self.window is not None
        gathered = self.window.gather(self._lines(x), 0.0)
        if self.accelerator.conv_k_order == "chw":
            gathered = gathered.transpose(0, 1, 2, 3, 6, 4, 5)
        return np.ascontiguousarray(gathered.reshape(gathered.shape[0], -1, self.k))

    def encode_activations(self, x: Array) -> BlockTensor:
        """The activations in codes: [T, K] of a linear layer, [N, H, W, G, C] of a convolution, or [G, M, K].

        Raises:
            ValueError: an input of another shape than the weight needs.
        """
        self._check_shape(x.shape)
        return encode(self._windows(x) if self.windowed else self._lines(x), self.activation_spec, axis=-1)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self.window is None:
            fits, needed = bool(shape) and shape[-1] == self.weight_shape[1], f"[..., {self.weight_shape[1]}]"
        else:
            channels = self.weight_shape[1] * self.window.groups
            fits, needed = len(shape) == 4 and shape[1] == channels, f"[N, {channels}, H, W]"
        if not fits:
            raise ValueError(f"input: shape {tuple(shape)}; a weight of {tuple(self.weight_shape)} needs {needed}")

    def decoded_weight(self) -> Array:
        """float32, shaped like the weight (or [out, K] where blocks run along windows)."""
        values: Array = self.weight.decode("float32", inexact="round")
        if self.window is None:
            return values.reshape(self.weight_shape)
        if self.windowed:
            return values.reshape(len(values), -1)
        out, channels, kh, kw = self.weight_shape
        return np.ascontiguousarray(values.reshape(out, kh, kw, channels).transpose(0, 3, 1, 2))

    def decoded_activations(self, tensor: BlockTensor, shape: tuple[int, ...]) -> Array:
        """Encoded activations of an input of `shape` as float32, of that shape (or [G, M, K] where blocks run along
        windows)."""
        values: Array = tensor.decode("float32", inexact="round")
        if self.window is None:
            return values.reshape(shape)
        if self.windowed:
            return values
        n, channels, height, width = shape
        return np.ascontiguousarray(values.reshape(n, height, width, channels).transpose(0, 3, 1, 2))

    def run(
        self,
        tensor: BlockTensor,
        shape: tuple[int, ...],
        bias: Array | None = None,
        *,
        path: Datapath | None = None,
        threads: int | None = None,
    ) -> Array:
        """The layer's float32 output as the machine computes it.

        Args:
            tensor: the activations, from `encode_activations`.
            shape: of the input, [..., in] or [N, in, H, W].
            bias: float32 [out] or None.
            path: another machine to add on, dense lines in one run, times alpha, plus the bias, each in float32;
                default the accelerator's.
            threads: threads to use; default by size.
        """
        run = self._way(path, bias, threads)
        scales = line_scales_of(tensor, run.path)
        compressed = path is None and self.accelerator.compressed == "activations" and tensor.mask is not None
        if self.window is None:
            left = scaled_operand(tensor.codes, tensor.format.element, scales, 1)
            stored = None
            if compressed:
                codes, places = _stored_lines(tensor, *self._stored_groups)
                stored = stored_rows(codes[:, None], places[:, None], *self._stored_groups)
            out = run.product(left, stored)
            return self._round(out.reshape(*shape[:-1], out.shape[1]))
        rows, columns = self.window.output_size(shape[2], shape[3])
        result = np.empty((shape[0], rows, columns, self.weight_shape[0]), dtype=np.float32)
        # Places of stored elements take several bytes each.
        limit = _GATHER_LIMIT // 8 if compressed else _GATHER_LIMIT
        step = max(1, limit // max(1, rows * columns * self.k * self.window.groups))
        for first in range(0, shape[0], step):
            part = slice(first, min(first + step, shape[0]))
            left = self._window_operand(tensor, scales, part, rows * columns, self.window)
            out = run.product(left, self._stored_windows(tensor, part, rows * columns) if compressed else None)
            result[part] = out.reshape(result[part].shape)
        return self._round(np.ascontiguousarray(result.transpose(0, 3, 1, 2)))

    def _way(self, path: Datapath | None, bias: Array | None, threads: int | None) -> _Way:
        """How products are made: on the accelerator, or on another machine."""
        groups = 1 if self.window is None else self.window.groups
        how = self.accelerator.epilogue
        if path is not None:
            after = None if how is None or how.alpha == 1 else Epilogue(alpha=how.alpha, fused=False)
            return _Way(path, self._weight_on(path), None, None, after, bias, groups, threads)
        whole = self.accelerator.compressed == "weights" and self.weight_spec.sparsity is not None
        stored = self._stored_weight if whole else None
        return _Way(
            self.accelerator.path, self._weight_operand, stored, self.accelerator.split, how, bias, groups, threads
        )

    def _window_operand(
        self, tensor: BlockTensor, scales: LineScales | None, part: slice, positions: int, window: Window
    ) -> Operand:
        """The windows of some images, [G * M, K]."""
        span = slice(part.start * positions, part.stop * positions)
        if self.windowed:
            codes, gathered = np.ascontiguousarray(tensor.codes[:, span]), _each(scales, lambda s, _: s[:, span])
        else:
            codes = window.gather(tensor.codes[part], 0)
            gathered = _each(scales, lambda plane, padding: window.gather(plane[part], padding))
        rows = window.groups * (part.stop - part.start) * positions
        lines = 1 if self.windowed else self.taps
        return scaled_operand(codes.reshape(rows, self.k), tensor.format.element, gathered, lines)

    def _stored_windows(self, tensor: BlockTensor, part: slice, positions: int) -> StoredOperand:
        """What memory holds of the windows of some images, [G * M, stored K]."""
        assert self.window is not None
        pattern, length = self._stored_groups
        lines = 1 if self.windowed else self.taps
        if self.windowed:
            span = slice(part.start * positions, part.stop * positions)
            codes, places = (made[:, span] for made in _stored_lines(tensor, pattern, length))
        else:
            images = replace(tensor, codes=tensor.codes[part], mask=_mask_of(tensor)[part])
            held, at = _stored_lines(images, pattern, length)
            codes, places = self.window.gather(held, 0), self.window.gather(at, -1)
            # Pixels of padding are lines of zeros, and are stored as such.
            zeros = np.zeros((1, length), np.float32)
            mask = sparsify(zeros, pattern_text(pattern), ties=pattern.ties)[1]
            places = np.where(places < 0, stored_line(np.zeros((1, length), held.dtype), mask, pattern)[1], places)
        rows = self.window.groups * (part.stop - part.start) * positions
        shape = (rows, lines, codes.shape[-1])
        return stored_rows(codes.reshape(shape), places.reshape(shape), pattern, length)

    def _round(self, out: Array) -> Array:
        spec = self.accelerator.output_spec
        return out if spec is None else emulate(out, spec, inexact="round")

    def segments(self) -> int:
        """Segments of K between rounding steps of a block datapath, at most."""

        def per_line(spec: Spec) -> int:
            return spec.format.levels[-1].blocks_per_line(self.line_length) if spec.format.levels else 1

        lines = 1 if self.windowed else self.taps
        return lines * (per_line(self.weight_spec) + per_line(self.activation_spec))


def linear(x: Any, weight: Any, bias: Any = None, *, accelerator: Accelerator, threads: int | None = None) -> Any:
    """``x @ weight.T + bias`` as the accelerator computes it.

    Args:
        x: [..., in] float array or tensor.
        weight: [out, in].
        bias: [out] float32 or None; added after the datapath, one float32 addition.
        accelerator: the machine.
        threads: threads to use; default by size.

    Returns:
        float32 [..., out] of the kind of x.

    Raises:
        ValueError: shapes that do not fit; operands that the datapath does not take.

    >>> import numpy as np, sparq_sim as sq
    >>> machine = sq.Accelerator("mxfp4", "mxfp8", datapath="block_fp32")
    >>> sq.linear(np.float32([[1, 2, 3, 4]]), np.float32([[1, 1, 1, 1]]), accelerator=machine)
    array([[10.]], dtype=float32)
    """
    rows, matrix = _float_array(x, "x"), _float_array(weight, "weight")
    if matrix.ndim != 2 or rows.ndim < 1 or rows.shape[-1] != matrix.shape[1]:
        raise ValueError(f"x is {rows.shape} and weight is {matrix.shape}; needed [..., in] and [out, in]")
    offset = None
    if bias is not None:
        offset = np.ascontiguousarray(_float_array(bias, "bias"), dtype=np.float32)
        if offset.shape != (matrix.shape[0],):
            raise ValueError(f"bias: shape {offset.shape}; needed ({matrix.shape[0]},)")
    layer = MachineLayer(matrix, accelerator)
    out = layer.run(layer.encode_activations(rows), rows.shape, offset, threads=threads)
    if is_torch(x):
        from sparq_sim.torch import bridge

        return bridge.from_numpy(out, "float32", x)
    return out


def _float_array(x: Any, what: str) -> Array:
    """A float array; 16-bit torch floats widened, which is exact."""
    float_name(getattr(x, "dtype", type(x).__name__), what)
    if is_torch(x) and x.element_size() == 2:
        x = x.float()
    return to_numpy(x, what)
