"""Linear and convolution layers on a simulated machine, on NumPy arrays (docs/numerics.md sections 9 and 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparq_sim.accelerator import Accelerator
from sparq_sim.arrays import Array, float_name, is_torch, to_numpy
from sparq_sim.formats import Spec
from sparq_sim.matmul import Operand, block_ends, multiply
from sparq_sim.quantize import emulate, encode, sparsify
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
            raise ValueError(f"a {height}x{width} input is smaller than the kernel {self.kernel} with its padding and dilation")
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
        strides = (
            s[3], s[0], s[1] * self.stride[0], s[2] * self.stride[1], s[1] * self.dilation[0], s[2] * self.dilation[1], s[4],
        )  # fmt: skip
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
    lines = ranked.reshape(x.shape[0], taps, -1)
    pattern = f"{spec.sparsity.kept}:{spec.sparsity.group}"
    _, mask = sparsify(lines, pattern, axis=-1, ties=spec.sparsity.ties)
    return encode(x, dense, axis=-1, mask=mask.reshape(x.shape), order=spec.order)


@dataclass(frozen=True)
class _Coded:
    """A tensor of lines [..., C] in codes, with one scale per segment of a line."""

    codes: Array
    """[..., C]."""
    scales: Array | None
    """[..., segments], or None; a float scale of the tensor is in `tensor_scale`."""
    ends: tuple[int, ...]
    """Of the segments within a line; empty without scales."""
    tensor_scale: float | None
    spec: Spec

    @classmethod
    def of(cls, tensor: BlockTensor) -> _Coded:
        format_, scales = tensor.format, tensor.scales
        if scales is None:
            return cls(tensor.codes, None, (), None, tensor.spec)
        if format_.block == "tensor":
            if format_.scale_kind == "float":
                return cls(tensor.codes, None, (), float(scales.reshape(())), tensor.spec)
            scales = np.ascontiguousarray(np.broadcast_to(scales, (*tensor.shape[:-1], 1)))
        length = tensor.shape[-1]
        ends = block_ends(length, format_.block_format.block_length(length))
        return cls(tensor.codes, scales, ends, None, tensor.spec)

    @property
    def padding_scale(self) -> float:
        """A scale for padding, whose codes are zero: any number will do."""
        return 1.0 if self.spec.format.scale_kind == "float" else 0

    def operand(self, codes: Array, scales: Array | None, lines: int) -> Operand:
        """Rows of `lines` lines each as an operand of a product."""
        element = self.spec.format.element
        if scales is None:
            return Operand(codes, element, tensor_scale=self.tensor_scale)
        length = codes.shape[1] // lines
        ends = tuple(line * length + end for line in range(lines) for end in self.ends)
        if self.spec.format.scale_kind == "float":
            return Operand(codes, element, float_scales=scales, segment_end=ends)
        return Operand(codes, element, scale=self.spec.format.levels[-1].format, block_scales=scales, segment_end=ends)


class MachineLayer:
    """A linear layer (weight [out, in]) or a 2-D convolution (weight [out, in / groups, kh, kw]) on an accelerator.

    The weight is encoded once; every call encodes its activations.
    """

    def __init__(self, weight: Array, accelerator: Accelerator, window: Window | None = None) -> None:
        self.accelerator = accelerator
        self.window = window
        self.weight_shape = weight.shape
        lines = weight[:, None, :] if window is None else weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, weight.shape[1])
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
        self.kept_dense = self.weight_spec != accelerator.weight_spec or self.activation_spec != accelerator.activation_spec
        self._weight_lines = int(lines.shape[1])
        rows = np.ascontiguousarray(lines)
        self._row_scaled = self.weight_spec.format.block == "row"
        if self._row_scaled:
            # A scale per output channel spans all taps.
            self.weight = _encode_rows(rows.reshape(len(weight), -1), self.weight_spec, self._weight_lines)
        else:
            self.weight = encode(rows, self.weight_spec, axis=-1)

    @property
    def k(self) -> int:
        """Products per output."""
        return self.taps * self.channels

    @cached_property
    def _weight_operands(self) -> list[Operand]:
        groups = 1 if self.window is None else self.window.groups
        coded = _Coded.of(self.weight)
        rows = self.weight_shape[0] // groups
        lines = 1 if self._row_scaled else self._weight_lines
        operands = []
        for group in range(groups):
            part = slice(group * rows, (group + 1) * rows)
            codes = self.weight.codes[part].reshape(rows, -1)
            scales = None if coded.scales is None else np.ascontiguousarray(coded.scales[part].reshape(rows, -1))
            operands.append(coded.operand(np.ascontiguousarray(codes), scales, lines))
        return operands

    def _lines(self, x: Array) -> Array:
        """Activations as lines along the reduction axis: [T, K], or pixels [N, H, W, G, C]."""
        if self.window is None:
            return np.ascontiguousarray(x.reshape(-1, self.weight_shape[1]))
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
        """The activations in codes: [T, K] of a linear layer, [N, H, W, G, C] of a convolution, [G, M, K] of windows."""
        return encode(self._windows(x) if self.windowed else self._lines(x), self.activation_spec, axis=-1)

    def decoded_weight(self) -> Array:
        """float32, shaped like the weight (or [out, K] where blocks run along windows)."""
        values: Array = self.weight.decode("float32", inexact="round")
        if self.window is None:
            return values.reshape(self.weight_shape)
        if self.windowed:
            return values.reshape(len(values), -1)
        out, channels, kh, kw = self.weight_shape
        return np.ascontiguousarray(values.reshape(out, kh, kw, channels).transpose(0, 3, 1, 2))

    def decoded_activations(self, x: Array) -> Array:
        """float32, shaped like x (or [G, M, K] where blocks run along windows)."""
        values: Array = self.encode_activations(x).decode("float32", inexact="round")
        if self.window is None or self.windowed:
            return values.reshape(x.shape) if self.window is None else values
        n, channels, height, width = x.shape
        return np.ascontiguousarray(values.reshape(n, height, width, channels).transpose(0, 3, 1, 2))

    def run(self, x: Array, bias: Array | None = None, threads: int | None = None) -> Array:
        """The layer's float32 output as the machine computes it.

        Args:
            x: [..., in], or [N, in, H, W] of a convolution.
            bias: float32 [out] or None.
        """
        path = self.accelerator.path
        tensor = self.encode_activations(x)
        coded = _Coded.of(tensor)
        if self.window is None:
            left = coded.operand(tensor.codes, coded.scales, 1)
            out = multiply(left, self._weight_operands[0], path, bias=bias, threads=threads)
            return self._round(out.reshape(*x.shape[:-1], out.shape[1]))
        rows, columns = self.window.output_size(x.shape[2], x.shape[3])
        out_channels = self.weight_shape[0]
        result = np.empty((x.shape[0], rows, columns, out_channels), dtype=np.float32)
        per_image = max(1, rows * columns * self.k * self.window.groups)
        step = max(1, _GATHER_LIMIT // per_image)
        for first in range(0, x.shape[0], step):
            part = slice(first, min(first + step, x.shape[0]))
            self._run_images(tensor, coded, part, bias, result[part], threads)
        return self._round(np.ascontiguousarray(result.transpose(0, 3, 1, 2)))

    def _run_images(
        self, tensor: BlockTensor, coded: _Coded, part: slice, bias: Array | None, result: Array, threads: int | None
    ) -> None:
        """Images of `part` into `result` [n, Ho, Wo, out]."""
        assert self.window is not None
        groups = self.window.groups
        if self.windowed:
            each = result.shape[1] * result.shape[2]
            span = slice(part.start * each, part.stop * each)
            codes = np.ascontiguousarray(tensor.codes[:, span])
            scales = None if coded.scales is None else np.ascontiguousarray(coded.scales[:, span])
            lines = 1
        else:
            codes = self.window.gather(tensor.codes[part], 0).reshape(groups, -1, self.k)
            scales = None
            if coded.scales is not None:
                gathered = self.window.gather(coded.scales[part], coded.padding_scale)
                scales = gathered.reshape(groups, codes.shape[1], -1)
            lines = self.taps
        width = self.weight_shape[0] // groups
        flat = result.reshape(-1, self.weight_shape[0])
        for group in range(groups):
            left = coded.operand(codes[group], None if scales is None else scales[group], lines)
            channels = slice(group * width, (group + 1) * width)
            own_bias = None if bias is None else np.ascontiguousarray(bias[channels])
            flat[:, channels] = multiply(
                left, self._weight_operands[group], self.accelerator.path, bias=own_bias, threads=threads
            )

    def _round(self, out: Array) -> Array:
        spec = self.accelerator.output_spec
        return out if spec is None else emulate(out, spec, inexact="round")

    def segments(self) -> int:
        """Segments of K between rounding steps of a block datapath, at most."""
        def per_line(spec: Spec) -> int:
            return spec.format.block_format.blocks_per_line(self.line_length) if spec.format.levels else 1

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
    out = MachineLayer(matrix, accelerator).run(rows, offset, threads)
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
