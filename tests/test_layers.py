"""Linear and convolution layers against a slow construction from docs/numerics.md section 9, pixel by pixel and tap by
tap, with the oracle for every sum."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import oracle
import sparq_sim as sq
from conftest import ISAS, Array, assert_same_bits, bits_of, forced_isa
from oracle import BLOCK_FORMATS, ELEMENTS, FP32, Operand
from sparq_sim.torch.simulate import untouched

Accelerator = sq.Accelerator


# A layer, slowly


@dataclass(frozen=True)
class Line:
    """One line of blocks: the codes and scales of a tap's channels, or of a whole row."""

    codes: list[int]
    scales: list[int] | None
    block: int | None
    """Elements under a scale; None for one scale of the whole line, or none."""
    kind: oracle.Element
    """Of the scales."""
    tensor_scale: int | None
    element: oracle.Element

    def operand(self) -> Operand:
        """As the oracle takes it."""
        return Operand(self.element, self.codes, self.scales, self.block, self.kind, self.tensor_scale)

    def zeros(self) -> Line:
        """Padding: zero codes under scales that do not matter."""
        one = {oracle.E8M0: 127, FP32: 0x3F800000, ELEMENTS["ue4m3"]: 0x38}[self.kind]
        scales = None if self.scales is None else [one] * len(self.scales)
        return replace(self, codes=[0] * len(self.codes), scales=scales)


ELEMENT_OF = {
    "mxfp8_e4m3": "e4m3",
    "mxfp8_e5m2": "e5m2",
    "mxfp6_e2m3": "e2m3",
    "mxfp4": "e2m1",
    "mxint8": "mxint8_element",
    "hbfp8": "hbfp8_element",
    "int8": "int8",
    "fp8_e4m3": "e4m3",
    "fp8_e5m2": "e5m2",
    "bf16": "bf16",
    "fp16": "fp16",
    "nvfp4_one_level": "e2m1",
}


def encode_line(x: Array, spec: sq.Spec, whole: Array, pattern: bool = True) -> Line:
    """The codes of one line; `whole` is what a scale of the tensor looks at."""
    element = ELEMENTS[ELEMENT_OF[spec.format.name]]
    sparsity = spec.sparsity if pattern else None
    words = None if sparsity is None else f"{sparsity.kept}:{sparsity.group}"
    choices: dict[str, Any] = {"sparsity": words, "order": spec.order if words else None, "axis": -1}
    spec = replace(spec, sparsity=None, order="sparsify_first")
    if spec.format.block == "tensor":
        assert words is None
        scale = sq.encode(whole, spec).scales
        assert scale is not None
        made = sq.encode(x[None], spec, tensor_scale=float(scale.reshape(())))
        return Line(made.codes[0].tolist(), None, None, FP32, int(scale.view(np.uint32).reshape(())), element)
    made = sq.encode(x[None], spec, **choices)
    codes = made.codes[0].tolist()
    if made.scales is None:
        return Line(codes, None, None, oracle.E8M0, None, element)
    block = spec.format.block if isinstance(spec.format.block, int) else None
    if not spec.format.has_scale_codes:
        return Line(codes, made.scales.view(np.uint32)[0].tolist(), block, FP32, None, element)
    kind = ELEMENTS["ue4m3"] if spec.format.scale_kind == "float" else oracle.E8M0
    return Line(codes, made.scales[0].tolist(), block, kind, None, element)


def chained(datapath: str, pairs: Sequence[tuple[Line, Line]]) -> int:
    """A dot over several lines of blocks: all of K on one machine, line boundaries being block boundaries."""
    scaled_lines = any(line.scales is not None for pair in pairs for line in pair)
    if datapath == "exact":
        # One scale per element says the same as the blocks, and the sum is exact whatever the segments.
        return oracle.dot(datapath, *(per_element([pair[i] for pair in pairs]) for i in range(2)))
    if datapath == "hopper_fp8" or not scaled_lines:
        return oracle.dot(datapath, *(joined([pair[i] for pair in pairs]) for i in range(2)))
    # The accumulator goes on from line to line; a scale of the tensor multiplies at the very end.
    acc = None
    for a, b in pairs:
        x, y = a.operand(), b.operand()
        if datapath == "block_fp32":
            x, y = replace(x, tensor_scale=None), replace(y, tensor_scale=None)
            acc = oracle.dot(datapath, x, y, acc)
            continue
        acc = oracle.dot(datapath, as_float32(x), as_float32(y), acc)
    assert acc is not None
    ends = [pairs[0][i].tensor_scale for i in range(2)]
    if datapath == "block_fp32" and ends != [None, None]:
        factors = [oracle.ONE if end is None else oracle.decode(FP32, end) for end in ends]
        scale = oracle.rn32(oracle.multiply(*factors))
        return oracle.round_to_float(oracle.multiply(oracle.decode(FP32, acc), scale))
    return acc


def as_float32(operand: Operand) -> Operand:
    """Decoded values, as `fma32` takes them."""
    return Operand(FP32, [oracle.round_to_float(value) for value in operand.decoded()])


def joined(lines: Sequence[Line]) -> Operand:
    """Lines without block scales in one."""
    assert all(line.scales is None or len(lines) == 1 for line in lines)
    return replace(lines[0].operand(), codes=[code for line in lines for code in line.codes])


def per_element(lines: Sequence[Line]) -> Operand:
    """Lines in one, the scale of each element written beside it."""
    first, codes = lines[0].operand(), [code for line in lines for code in line.codes]
    if lines[0].scales is None:
        return replace(first, codes=codes)
    scales = []
    for line in lines:
        assert line.scales is not None
        extent = line.block or len(line.codes)
        scales += [line.scales[i // extent] for i in range(len(line.codes))]
    return replace(first, codes=codes, scales=scales, block=1)


def finish(bits: int, bias: float | None, output: str | None) -> int:
    """y = RN32(d + bias), then the output format, as float32 bits."""
    value = oracle.decode(FP32, bits)
    if bias is not None:
        value = oracle.rn32(oracle.add(value, oracle.decode(FP32, int(np.float32(bias).view(np.uint32)))))
    if output is not None:
        fmt = BLOCK_FORMATS[output]
        value = oracle.decode(fmt.element, oracle.round_to_code(fmt.element, value, overflow=fmt.overflow))
    return oracle.round_to_float(value)


def datapath_of(accelerator: Accelerator) -> str:
    assert isinstance(accelerator.datapath, str)
    return accelerator.datapath


def output_of(accelerator: Accelerator) -> str | None:
    assert accelerator.output is None or isinstance(accelerator.output, str)
    return accelerator.output


def slow_linear(x: Array, weight: Array, bias: Array | None, accelerator: Accelerator) -> Array:
    """[T, out] float32 bits."""
    datapath = datapath_of(accelerator)
    ws, xs = accelerator.weight_spec, accelerator.activation_spec
    k = x.shape[1]
    w_sparse = ws.sparsity is None or k >= ws.sparsity.group
    x_sparse = xs.sparsity is None or k >= xs.sparsity.group
    rows = [encode_line(row, xs, x, x_sparse) for row in x]
    columns = [encode_line(row, ws, weight, w_sparse) for row in weight]
    got = [
        [
            finish(
                chained(datapath, [(a, b)]),
                None if bias is None else float(bias[j]),
                output_of(accelerator),
            )
            for j, b in enumerate(columns)
        ]
        for a in rows
    ]
    return np.array(got, dtype=np.uint32)


def sides_of(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Padding above, below, left, right, as torch defines it."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        extra = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return (extra[0] // 2, extra[0] - extra[0] // 2, extra[1] // 2, extra[1] - extra[1] // 2)
    tall, wide = conv.padding
    return (int(tall), int(tall), int(wide), int(wide))


def source_row(at: int, length: int, mode: str) -> int | None:
    """The row that a position outside the image reads; None for padding with zeros."""
    if 0 <= at < length:
        return at
    if mode == "zeros":
        return None
    if mode == "circular":
        return at % length
    if mode == "replicate":
        return min(max(at, 0), length - 1)
    assert mode == "reflect"
    return -at if at < 0 else 2 * (length - 1) - at


def slow_conv(x: Array, conv: nn.Conv2d, accelerator: Accelerator) -> Array:
    """[N, out, Ho, Wo] float32 bits: activations quantized per pixel along a group's channels, K as (kh, kw, c)."""
    datapath = datapath_of(accelerator)
    weight = conv.weight.detach().numpy()
    out, channels, kh, kw = weight.shape
    groups = conv.groups
    (n, _, height, width), (top, bottom, left, right) = x.shape, sides_of(conv)
    ws, xs = accelerator.weight_spec, accelerator.activation_spec
    w_sparse = ws.sparsity is None or channels >= ws.sparsity.group
    x_sparse = xs.sparsity is None or channels >= xs.sparsity.group
    row_scaled = ws.format.block == "row"

    pixels: dict[tuple[int, int, int, int], Line] = {}
    for at in itertools.product(range(n), range(groups), range(height), range(width)):
        image, g, row, column = at
        line = np.ascontiguousarray(x[image, g * channels : (g + 1) * channels, row, column])
        pixels[at] = encode_line(line, xs, x, x_sparse)

    def weight_lines(o: int) -> list[Line]:
        """The taps of one output channel."""
        taps = [np.ascontiguousarray(weight[o, :, i, j]) for i in range(kh) for j in range(kw)]
        if not row_scaled:
            return [encode_line(tap, ws, weight, w_sparse) for tap in taps]
        # One scale per output channel: that of all its taps.
        assert ws.sparsity is None
        whole = encode_line(np.concatenate(taps), ws, weight)
        return [replace(whole, codes=whole.codes[t * channels : (t + 1) * channels]) for t in range(len(taps))]

    columns = [weight_lines(o) for o in range(out)]
    rows_out = (height + top + bottom - conv.dilation[0] * (kh - 1) - 1) // conv.stride[0] + 1
    columns_out = (width + left + right - conv.dilation[1] * (kw - 1) - 1) // conv.stride[1] + 1
    result = np.empty((n, out, rows_out, columns_out), dtype=np.uint32)
    for image, o, i, j in np.ndindex(*result.shape):
        g = o // (out // groups)
        pairs = []
        for t, (di, dj) in enumerate(itertools.product(range(kh), range(kw))):
            row = source_row(i * conv.stride[0] - top + di * conv.dilation[0], height, conv.padding_mode)
            column = source_row(j * conv.stride[1] - left + dj * conv.dilation[1], width, conv.padding_mode)
            outside = row is None or column is None
            tap = pixels[image, g, 0, 0].zeros() if outside else pixels[image, g, row or 0, column or 0]
            pairs.append((tap, columns[o][t]))
        if row_scaled and all(a.scales is None for a, _ in pairs):
            # Neither operand has a block boundary inside K.
            whole = replace(pairs[0][1], codes=[code for _, b in pairs for code in b.codes])
            tap = replace(pairs[0][0], codes=[code for a, _ in pairs for code in a.codes])
            pairs = [(tap, whole)]
        bias = None if conv.bias is None else float(conv.bias[o])
        result[image, o, i, j] = finish(chained(datapath, pairs), bias, output_of(accelerator))
    return result


def slow_window_conv(x: Array, conv: nn.Conv2d, accelerator: Accelerator) -> Array:
    """Blocks along the flattened window: each window is one line, padding included."""
    weight = conv.weight.detach().numpy()
    out, channels = weight.shape[:2]
    groups = conv.groups
    kernel = [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    top, bottom, left, right = sides_of(conv)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows_out = (padded.shape[2] - conv.dilation[0] * (weight.shape[2] - 1) - 1) // conv.stride[0] + 1
    columns_out = (padded.shape[3] - conv.dilation[1] * (weight.shape[3] - 1) - 1) // conv.stride[1] + 1
    order = [(c, t) for t in range(len(kernel)) for c in range(channels)]
    if accelerator.conv_k_order == "chw":
        order = [(c, t) for c in range(channels) for t in range(len(kernel))]
    result = np.empty((len(x), out, rows_out, columns_out), dtype=np.uint32)
    for g in range(groups):
        members = range(g * (out // groups), (g + 1) * (out // groups))
        matrix = np.float32([[weight[o, c, kernel[t][0], kernel[t][1]] for c, t in order] for o in members])
        positions = list(itertools.product(range(len(x)), range(rows_out), range(columns_out)))
        windows = np.float32(
            [
                [
                    padded[
                        image,
                        g * channels + c,
                        i * conv.stride[0] + kernel[t][0] * conv.dilation[0],
                        j * conv.stride[1] + kernel[t][1] * conv.dilation[1],
                    ]
                    for c, t in order
                ]
                for image, i, j in positions
            ]
        )
        bias = None if conv.bias is None else conv.bias.detach().numpy()[list(members)]
        made = slow_linear(windows, matrix, bias, accelerator)
        for row, (image, i, j) in enumerate(positions):
            result[image, list(members), i, j] = made[row]
    return result


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers of several binades, with a few zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-4, 5, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.1, torch.zeros(()), x)


def filled(layer: Any, seed: int = 7) -> Any:
    """A layer with weights of several binades."""
    with torch.no_grad():
        for n, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + n))
    return layer.requires_grad_(False)


MACHINES = {
    "exact": Accelerator("mxfp4", "mxfp8_e4m3"),
    "blocks of 8": Accelerator("mxfp4", "mxfp8_e5m2", datapath="block_fp32", rules={"block": 8}),
    "mxint8": Accelerator("mxint8", "mxint8", datapath="block_fp32", rules={"scale_rule": "rceil"}),
    "hbfp8 2:4": Accelerator("hbfp8", "mxfp8", weight_sparsity="2:4", datapath="block_fp32", rules={"block": 12}),
    "int8": Accelerator("int8", "int8", datapath="block_fp32"),
    "int8 rows and bf16": Accelerator("int8", "bf16", datapath="block_fp32"),
    "int8 rows and fp8": Accelerator("int8", "fp8_e4m3", datapath="block_fp32"),
    "mxfp4 and fp8": Accelerator("mxfp4", "fp8_e4m3", datapath="block_fp32"),
    "mxfp4 and int8": Accelerator("mxfp4", "int8", datapath="block_fp32"),
    "nvfp4": Accelerator("nvfp4_one_level", "nvfp4_one_level", datapath="block_fp32", rules={"block": 6}),
    "nvfp4 and mxfp8": Accelerator("nvfp4_one_level", "mxfp8", datapath="block_fp32"),
    "int8 exact": Accelerator("int8", "int8", datapath="exact"),
    "fma32": Accelerator("mxfp6", "mxfp8", datapath="fma32"),
    "bf16 to bf16": Accelerator("bf16", "bf16", datapath="fma32", output="bf16"),
    "int8 on fma32": Accelerator("int8", "int8", datapath="fma32"),
    "hopper": Accelerator("fp8_e4m3", "fp8_e5m2", datapath="hopper_fp8"),
    "hopper to fp16": Accelerator("fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8", output="fp16"),
    "sparse activations": Accelerator(
        "mxfp4", "mxfp8", activation_sparsity="2:4", datapath="block_fp32", rules={"ties": "highest_index"}
    ),
}


# Linear layers


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_construction_of_the_rules(machine: str, bias: bool) -> None:
    accelerator = MACHINES[machine]
    layer = filled(nn.Linear(37, 5, bias=bias))
    x = normal(4, 37)
    wanted = slow_linear(x.numpy(), layer.weight.numpy(), layer.bias.numpy() if bias else None, accelerator)
    for name in ISAS:
        with forced_isa(name):
            simulated = sq.simulate(layer, accelerator)
            assert_same_bits(bits_of(simulated(x)), wanted, name)
            got = sq.linear(
                x.numpy(), layer.weight.numpy(), layer.bias.numpy() if bias else None, accelerator=accelerator
            )
            assert_same_bits(bits_of(got), wanted, name)


def test_a_linear_layer_takes_any_number_of_leading_axes(isa: str) -> None:
    accelerator = MACHINES["mxint8"]
    layer = filled(nn.Linear(40, 6))
    x = normal(2, 3, 4, 40)
    simulated = sq.simulate(layer, accelerator)
    whole = simulated(x)
    assert whole.shape == (2, 3, 4, 6)
    assert_same_bits(whole.reshape(-1, 6), simulated(x.reshape(-1, 40)))
    assert_same_bits(simulated(x[0, 0, 0]), whole[0, 0, 0])
    assert simulated(x[:0]).shape == (0, 3, 4, 6)
    assert_same_bits(sq.linear(x, layer.weight, layer.bias, accelerator=accelerator), whole)


def test_linear_returns_the_kind_that_it_was_given(isa: str) -> None:
    accelerator = MACHINES["exact"]
    x, weight = normal(2, 40), normal(3, 40, seed=1)
    got = sq.linear(x, weight, accelerator=accelerator)
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float32
    as_numpy = sq.linear(x.numpy(), weight.numpy(), accelerator=accelerator)
    assert isinstance(as_numpy, np.ndarray) and as_numpy.dtype == np.float32
    assert_same_bits(got, as_numpy)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = x.to(dtype)
        result = sq.linear(narrow, weight, accelerator=accelerator)
        assert result.dtype == torch.float32
        assert_same_bits(result, sq.linear(narrow.float(), weight, accelerator=accelerator))


def test_float64_activations_are_rounded_once() -> None:
    # Just above a tie of E4M3 (between 1 and 1.125): float32 would round it to the tie, and that to 1.
    accelerator = Accelerator("mxfp8", "mxfp8", rules={"block": 1})
    x = np.float64([[1.0625 + 2.0**-40]])
    assert sq.linear(x, np.float32([[1]]), accelerator=accelerator) == 1.125
    layer = filled(nn.Linear(1, 1, bias=False).double())
    layer.weight.fill_(1)
    assert sq.simulate(layer, accelerator)(torch.from_numpy(x)) == 1.125


def test_float64_weights_are_rounded_once() -> None:
    accelerator = Accelerator("mxfp8", "mxfp8", rules={"block": 1})
    value = 1.0625 + 2.0**-40
    one = np.float32([[1]])
    assert sq.linear(one, np.float64([[value]]), accelerator=accelerator) == 1.125
    layer = nn.Linear(1, 1, bias=False).double().requires_grad_(False)
    layer.weight.fill_(value)
    assert sq.simulate(layer, accelerator)(torch.ones(1, 1, dtype=torch.float64)) == 1.125


@pytest.mark.parametrize(
    ("words", "x", "weight", "bias"),
    [
        ("needed", (2, 5), (3, 4), None),
        ("needed", (2, 4), (4,), None),
        ("needed", (), (3, 4), None),
        ("bias: shape", (2, 4), (3, 4), (4,)),
        ("bias: shape", (2, 4), (3, 4), (3, 1)),
    ],
)
def test_linear_refuses_shapes_that_do_not_fit(
    words: str, x: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None
) -> None:
    offset = None if bias is None else np.zeros(bias, np.float32)
    with pytest.raises(ValueError, match=words):
        sq.linear(np.zeros(x, np.float32), np.zeros(weight, np.float32), offset, accelerator=Accelerator())


# Convolutions

CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "3x3": lambda: nn.Conv2d(10, 3, 3),
    "padding and stride": lambda: nn.Conv2d(10, 3, 3, stride=2, padding=1),
    "uneven everything": lambda: nn.Conv2d(6, 2, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
    "same, even kernel": lambda: nn.Conv2d(5, 3, (2, 4), padding="same", dilation=(1, 2)),
    "valid": lambda: nn.Conv2d(5, 3, 2, padding="valid", bias=False),
    "groups": lambda: nn.Conv2d(12, 4, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3),
    "reflect": lambda: nn.Conv2d(5, 3, 3, stride=2, padding=2, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(5, 3, 3, padding=(1, 0), padding_mode="circular", stride=2),
    "replicate": lambda: nn.Conv2d(5, 3, 3, padding="same", padding_mode="replicate"),
    "pointwise": lambda: nn.Conv2d(37, 3, 1),
}


@pytest.mark.parametrize("shape", CONVOLUTIONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_convolution_is_the_construction_of_the_rules(machine: str, shape: str) -> None:
    conv = filled(CONVOLUTIONS[shape]())
    x = normal(1, conv.in_channels, 3, 3)
    wanted = slow_conv(x.numpy(), conv, MACHINES[machine])
    assert wanted.shape == tuple(conv(x).shape)
    for name in ISAS:
        with forced_isa(name):
            got = sq.simulate(conv, MACHINES[machine])(x)
        assert_same_bits(bits_of(got), wanted, name)


@pytest.mark.parametrize("order", ["khwc", "chw"])
@pytest.mark.parametrize(
    "machine",
    [
        Accelerator("mxfp4", "mxfp8_e5m2", datapath="block_fp32", rules={"block": 8}),
        Accelerator("mxfp4", "mxfp8", weight_sparsity="2:4", datapath="block_fp32"),
        Accelerator("int8", "int8", datapath="block_fp32"),
        Accelerator("mxfp8", "mxfp8", datapath="fma32", output="bf16"),
        Accelerator("bf16", "int8", datapath="block_fp32"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", ["padding and stride", "uneven everything", "groups", "depthwise"])
def test_blocks_along_a_window_flatten_its_taps(machine: Accelerator, order: str, shape: str) -> None:
    machine = replace(machine, rules={**machine.rules, "conv_blocks": "window", "conv_k_order": order})
    conv = filled(CONVOLUTIONS[shape]())
    x = normal(2, conv.in_channels, 4, 3)
    wanted = slow_window_conv(x.numpy(), conv, machine)
    for name in ISAS:
        with forced_isa(name):
            got = sq.simulate(conv, machine)(x)
        assert_same_bits(bits_of(got), wanted, name)


@pytest.mark.parametrize("order", ["khwc", "chw"])
def test_blocks_along_a_window_with_a_scale_of_the_tensor_see_every_pixel_that_a_window_reads(order: str) -> None:
    machine = Accelerator(
        "fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8", rules={"conv_blocks": "window", "conv_k_order": order}
    )
    conv = filled(CONVOLUTIONS["padding and stride"]())
    x = normal(2, conv.in_channels, 5, 5)
    assert_same_bits(bits_of(sq.simulate(conv, machine)(x)), slow_window_conv(x.numpy(), conv, machine))


def test_the_order_of_k_matters_only_for_windows() -> None:
    conv, x = filled(nn.Conv2d(10, 3, 3)), normal(1, 10, 5, 5)
    rules = [{"conv_blocks": "window", "conv_k_order": order, "block": 8} for order in ("khwc", "chw")]
    got = [sq.simulate(conv, Accelerator("mxfp4", "mxfp4", rules=rule))(x) for rule in rules]
    assert not torch.equal(*got)


def test_int8_weights_have_one_scale_per_output_channel_over_all_taps(isa: str) -> None:
    # The largest weight of a channel sits in another tap; per tap the small one would be exact.
    conv = nn.Conv2d(1, 2, (1, 2), bias=False).requires_grad_(False)
    conv.weight.copy_(torch.tensor([[127.0, 0.4], [1.27, 0.004]]).reshape(2, 1, 1, 2))
    machine = Accelerator("int8", "bf16", datapath="block_fp32")
    got = sq.simulate(conv, machine)(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    scales = np.float32([127, 1.27]) / np.float32(127)
    assert got.reshape(-1).tolist() == [0.0, 0.0]
    got = sq.simulate(conv, machine)(torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2))
    assert_same_bits(got.reshape(-1), np.float32(127) * scales)


def test_int8_weights_with_a_pattern_prune_within_each_tap(isa: str) -> None:
    conv = nn.Conv2d(4, 1, (1, 2), bias=False).requires_grad_(False)
    conv.weight.copy_(torch.tensor([[1.0, 2, 3, 4], [50, 60, 70, 127]]).T.reshape(1, 4, 1, 2))
    machine = Accelerator("int8", "bf16", weight_sparsity="2:4", datapath="block_fp32")
    simulated = sq.simulate(conv, machine)
    for tap, kept in ((0, [0, 0, 3, 4]), (1, [0, 0, 70, 127])):
        for channel in range(4):
            x = torch.zeros(1, 4, 1, 2)
            x[0, channel, 0, tap] = 1
            assert simulated(x).item() == kept[channel]


def test_groups_of_a_pattern_and_blocks_never_cross_a_tap(isa: str) -> None:
    # 6 channels: 2:4 groups are 4 and 2 wide in each tap, so a tap keeps channels 2, 3 and the last two.
    conv = nn.Conv2d(6, 1, (1, 2), bias=False).requires_grad_(False)
    conv.weight.copy_(torch.tensor([[1.0, 2, 3, 4, 0.5, 0.5], [1, 2, 3, 4, 0.5, 0.5]]).T.reshape(1, 6, 1, 2))
    machine = Accelerator("bf16", "bf16", weight_sparsity="2:4")
    simulated = sq.simulate(conv, machine)
    for tap in range(2):
        found = []
        for channel in range(6):
            x = torch.zeros(1, 6, 1, 2)
            x[0, channel, 0, tap] = 1
            found.append(simulated(x).item())
        assert found == [0, 0, 3, 4, 0.5, 0.5]


def test_a_layer_with_fewer_channels_than_a_group_stays_dense_and_is_reported(isa: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4, 3)
    )
    filled(model)
    x = normal(2, 3, 5, 5)
    sparse = Accelerator("mxfp8", "mxfp8", weight_sparsity="2:4")
    report = sq.check(model, x, sparse)
    assert [layer.kept_dense for layer in report.layers] == [True, True, False, False]
    assert "kept dense" in str(report)
    dense = sq.simulate(model, Accelerator("mxfp8", "mxfp8"))
    simulated = sq.simulate(model, sparse)
    y = simulated[1](simulated[0](x))
    assert_same_bits(y, dense[1](dense[0](x)))
    assert not torch.equal(simulated[2](y), dense[2](y))
    pruned = copy.deepcopy(model[2])
    pruned.weight.copy_(sq.sparsify(model[2].weight, "2:4", axis=1)[0])
    assert_same_bits(simulated[2](y), sq.simulate(pruned, Accelerator("mxfp8", "mxfp8"))(y))


def test_padding_with_zero_codes_meets_an_infinite_weight_as_nan(isa: str) -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
    conv.weight.fill_(1)
    conv.weight[0, 0, 0, 0] = torch.inf
    got = sq.simulate(conv, Accelerator("bf16", "bf16"))(torch.ones(1, 1, 3, 3))
    assert got.isnan().tolist() == conv(torch.ones(1, 1, 3, 3)).isnan().tolist()
    assert got[0, 0, 2, 2] == torch.inf


def test_padding_beside_a_poisoned_pixel_stays_a_number(isa: str) -> None:
    x = torch.ones(1, 2, 3, 3)
    x[0, 1, 0, 0] = torch.nan
    conv = filled(nn.Conv2d(2, 3, 2, padding=1))
    for machine in (MACHINES["mxint8"], MACHINES["int8"], MACHINES["fma32"]):
        got = sq.simulate(conv, machine)(x)
        poisoned = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
        poisoned[:, :, :2, :2] = True
        assert torch.equal(got.isnan(), poisoned)
        assert set(bits_of(got)[poisoned.numpy()].tolist()) == {0x7FC00000}


def test_an_output_format_rounds_after_the_bias(isa: str) -> None:
    layer = nn.Linear(1, 1).requires_grad_(False)
    layer.weight.fill_(1)
    layer.bias.fill_(2.0**-8)
    got = sq.simulate(layer, Accelerator("bf16", "bf16", output="bf16"))(torch.tensor([[1.0 + 2**-7]]))
    assert got.dtype == torch.float32
    # 1 + 2^-7 + 2^-8 is a tie of bfloat16 that goes to the even neighbour above.
    assert got.item() == 1 + 2**-6
    layer.bias.fill_(65504.0)
    got = sq.simulate(layer, Accelerator("bf16", "bf16", output="fp16"))(torch.tensor([[16.0]]))
    assert got.item() == torch.inf


def test_the_bias_is_one_float32_addition_after_the_datapath(isa: str) -> None:
    layer = nn.Linear(2, 1).requires_grad_(False)
    layer.weight.copy_(torch.tensor([[1.0, 2.0**-24]]))
    layer.bias.fill_(2.0**-24)
    # The sum rounds to 1 first; in one rounding with the bias it would be 1 + 2^-23.
    got = sq.simulate(layer, Accelerator("bf16", "bf16", datapath="exact"))(torch.ones(1, 2))
    assert got.item() == 1.0
    layer.weight.copy_(torch.tensor([[0.0, 0.0]]))
    layer.bias.fill_(-0.0)
    got = sq.simulate(layer, Accelerator("bf16", "bf16", datapath="exact"))(torch.ones(1, 2))
    assert bits_of(got).tolist() == [[0]]


# What goes in and out


@pytest.mark.parametrize("machine", ["blocks of 8", "int8", "hopper", "bf16 to bf16"])
def test_an_image_without_a_batch_is_a_batch_of_one(isa: str, machine: str) -> None:
    for mode in ("zeros", "reflect"):
        conv = filled(nn.Conv2d(6, 4, 3, padding=1, padding_mode=mode))
        x = normal(6, 5, 5)
        simulated = sq.simulate(conv, MACHINES[machine])
        got = simulated(x)
        assert got.shape == (4, 5, 5)
        assert_same_bits(got, simulated(x[None])[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype_computes_in_float32_and_casts(isa: str, dtype: torch.dtype) -> None:
    accelerator = MACHINES["blocks of 8"]
    for layer, x in ((nn.Linear(20, 4), normal(3, 20)), (nn.Conv2d(6, 4, 3, padding=1), normal(2, 6, 4, 4))):
        narrow, given = filled(layer).to(dtype), x.to(dtype)
        got = sq.simulate(narrow, accelerator)(given)
        wide = sq.simulate(copy.deepcopy(narrow).float(), accelerator)(given.float())
        assert got.dtype == dtype
        assert torch.equal(got, wide.to(dtype))


def test_channels_last_and_transposed_inputs_are_read_as_they_are(isa: str) -> None:
    conv, x = filled(nn.Conv2d(6, 4, 3, padding=1)), normal(2, 6, 5, 4)
    simulated = sq.simulate(conv, MACHINES["int8"])
    wanted = simulated(x)
    assert_same_bits(simulated(x.to(memory_format=torch.channels_last)), wanted)
    assert_same_bits(simulated(x.transpose(2, 3).contiguous().transpose(2, 3)), wanted)
    assert_same_bits(sq.simulate(conv.to(memory_format=torch.channels_last), MACHINES["int8"])(x), wanted)


@pytest.mark.parametrize("machine", MACHINES)
def test_results_are_equal_for_every_implementation_and_thread_count_and_run(machine: str) -> None:
    model = nn.Sequential(nn.Conv2d(12, 20, 3, padding=1), nn.ReLU(), nn.Flatten(1), nn.Linear(20 * 9, 9))
    filled(model)
    x = normal(1, 12, 3, 3)
    results = []
    for name, threads in itertools.product(ISAS, (None, 1, 2, 3)):
        if name == "reference" and threads not in (None, 1):
            continue
        with forced_isa(name):
            simulated = sq.simulate(model, MACHINES[machine], threads=threads)
            results += [simulated(x), simulated(x)] if threads == 1 else [simulated(x)]
    for got in results[1:]:
        assert_same_bits(got, results[0])


def test_a_batch_is_its_images_where_no_scale_spans_the_tensor(isa: str) -> None:
    conv, x = filled(nn.Conv2d(6, 4, 3, padding=1)), normal(4, 6, 5, 4)
    for machine in ("mxint8", "int8", "fma32", "sparse activations"):
        simulated = sq.simulate(conv, MACHINES[machine])
        assert_same_bits(simulated(x), torch.cat([simulated(image[None]) for image in x]))


def test_flushing_subnormals_changes_no_layer(isa: str) -> None:
    conv, x = filled(nn.Conv2d(6, 4, 3, padding=1)), normal(2, 6, 5, 4) * 2.0**-130
    for machine in ("exact", "mxint8", "int8", "int8 rows and fp8", "hopper", "fma32"):
        wanted = sq.simulate(conv, MACHINES[machine])(x)
        assert torch.set_flush_denormal(True)
        try:
            got = sq.simulate(conv, MACHINES[machine])(x)
        finally:
            torch.set_flush_denormal(False)
        assert_same_bits(got, wanted, machine)


# Models


class Tied(nn.Module):
    """A layer used twice, one that is shared under two names, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(8, 8)
        self.inner = nn.ModuleDict({"a": nn.Linear(8, 4), "never": nn.Linear(2, 2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner["a"](self.twice(self.twice(x).relu()))
        return y


def test_simulate_leaves_the_model_as_it_was() -> None:
    model = filled(Tied())
    before = copy.deepcopy(model.state_dict())
    modules = [type(m) for m in model.modules()]
    x = normal(3, 8)
    wanted = model(x)
    simulated = sq.simulate(model, MACHINES["exact"])
    simulated(x)
    sq.check(model, x, MACHINES["exact"])
    assert [type(m) for m in model.modules()] == modules
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(x), wanted)
    assert not torch.equal(simulated(x), wanted)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_simulate_replaces_the_named_layers_only() -> None:
    model = filled(Tied())
    simulated = sq.simulate(model, MACHINES["exact"], layers=["inner.a"])
    assert type(simulated.twice) is nn.Linear
    assert type(simulated.inner["a"]) is not nn.Linear
    assert type(simulated) is Tied
    assert_same_bits(sq.simulate(model, MACHINES["exact"], layers=[])(normal(2, 8)), model(normal(2, 8)))


def test_results_have_no_gradient() -> None:
    layer = nn.Linear(8, 2)
    assert not sq.simulate(layer, MACHINES["exact"])(torch.zeros(1, 8, requires_grad=True)).requires_grad


@pytest.mark.parametrize("name", ["nothing", "inner", "twice.weight", ""])
def test_an_unknown_layer_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"twice.*inner\.a"):
        sq.simulate(Tied(), MACHINES["exact"], layers=[name])


def test_what_multiplies_and_is_neither_linear_nor_conv2d_is_listed_as_untouched() -> None:
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "conv1d": nn.Conv1d(2, 2, 1),
            "transposed": nn.ConvTranspose2d(2, 2, 1),
            "lstm": nn.LSTM(4, 4),
            "bilinear": nn.Bilinear(2, 2, 2),
            "linear": nn.Linear(8, 8),
            "norm": nn.LayerNorm(8),
        }
    )
    listed = untouched(model)
    for name in ("attention", "conv1d", "transposed", "lstm", "bilinear"):
        assert any(entry.split(" ")[0] == name for entry in listed), name
    assert not any(entry.split(" ")[0] in ("linear", "norm") for entry in listed)
    assert any("MultiheadAttention" in entry for entry in listed)


def test_attention_runs_unchanged_and_is_reported_as_skipped() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(self.attention(x, x, x)[0])
            return y

    model = filled(Block()).eval()
    x = normal(2, 3, 8)
    simulated = sq.simulate(model, MACHINES["exact"])
    assert torch.equal(simulated.attention(x, x, x)[0], model.attention(x, x, x)[0])
    report = sq.check(model, x, MACHINES["exact"])
    assert report.ok
    assert [layer.name for layer in report.layers] == ["linear"]
    assert any("attention (MultiheadAttention)" in entry for entry in report.skipped)
    assert "attention" in str(report)


def test_a_subclass_with_its_own_forward_is_left_alone() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
    simulated = sq.simulate(model, MACHINES["exact"])
    assert type(simulated[0]) is Scaled and type(simulated[1]) is not nn.Linear
    assert any("Scaled" in entry for entry in untouched(model))


def test_a_model_that_is_itself_a_layer_is_replaced_whole() -> None:
    layer = filled(nn.Linear(40, 3))
    simulated = sq.simulate(layer, MACHINES["mxint8"])
    x = normal(2, 40)
    assert_same_bits(simulated(x), sq.linear(x, layer.weight, layer.bias, accelerator=MACHINES["mxint8"]))


@pytest.mark.parametrize("machine", [Accelerator("int8", "int8"), Accelerator("mxfp4", "mxfp8")], ids=str)
@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(0, 3, 2), (4, 0, 2), (4, 3, 0), (0, 0, 0)])
def test_layers_without_inputs_outputs_or_rows_are_what_torch_makes_of_them(
    machine: Accelerator, inputs: int, outputs: int, rows: int
) -> None:
    x, weight, bias = np.ones((rows, inputs), np.float32), np.ones((outputs, inputs), np.float32), np.ones(outputs)
    got = sq.linear(x, weight, bias.astype(np.float32), accelerator=machine)
    assert np.array_equal(got, x @ weight.T + bias)


def test_an_input_that_does_not_fit_a_simulated_layer_is_refused() -> None:
    linear = sq.simulate(nn.Linear(4, 3), Accelerator())
    conv = sq.simulate(nn.Conv2d(4, 6, 3, groups=2), Accelerator())
    for shape in ((2, 5), ()):
        with pytest.raises(ValueError, match=r"needs \[\.\.\., 4\]"):
            linear(torch.zeros(shape))
    for shape in ((2, 5, 6, 6), (6, 6)):
        with pytest.raises(ValueError, match=r"needs \[N, 4, H, W\]"):
            conv(torch.zeros(shape))


def test_a_loaded_state_dict_is_encoded() -> None:
    first, second, x = nn.Linear(8, 4), nn.Linear(8, 4), torch.randn(3, 8)
    simulated, wanted = sq.simulate(first, Accelerator()), sq.simulate(second, Accelerator())(x)
    assert not torch.equal(simulated(x), wanted)
    simulated.load_state_dict(second.state_dict())
    assert torch.equal(simulated(x), wanted)


def test_forward_hooks_of_a_layer_still_run_around_its_replacement() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    with torch.no_grad():  # of few bits, so that torch's sums are exact too
        model[0].weight.copy_(torch.randint(-8, 9, (4, 4)) / 8)
    x, machine = torch.randint(-8, 9, (3, 4)) / 4, Accelerator("fp16", "fp16")
    weight = sq.emulate(model[0].weight.detach(), "fp16")
    wanted = torch.relu(2 * sq.linear(x + 1, weight, accelerator=machine))
    assert torch.equal(sq.simulate(model, machine)(x), wanted)
    report = sq.check(model, x, machine)
    assert report.ok and report.layers[0].operands_equal is True


def test_a_weight_that_torch_computes_in_a_hook_is_taken_as_it_is() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers its newer way
        layer = nn.utils.weight_norm(nn.Linear(4, 3))
    x, machine = torch.randn(2, 4), Accelerator()
    with torch.no_grad():
        layer(x)
    plain = nn.Linear(4, 3)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    assert torch.equal(sq.simulate(layer, machine)(x), sq.simulate(plain, machine)(x))


def test_simulate_refuses_what_is_no_model_or_no_machine() -> None:
    with pytest.raises(TypeError, match="model: needed a torch module, got int"):
        sq.simulate(3, Accelerator())  # type: ignore[type-var]
    with pytest.raises(TypeError, match="accelerator: needed an Accelerator, got int"):
        sq.simulate(nn.Linear(2, 2), 3)  # type: ignore[arg-type]


def test_a_window_shorter_than_a_group_stays_dense() -> None:
    model, x = nn.Conv2d(2, 1, (1, 4)), torch.randn(1, 2, 1, 6)
    for blocks, pattern, dense in (("tap", "2:4", True), ("window", "2:4", False), ("window", "2:9", True)):
        machine = Accelerator("bf16", "bf16", weight_sparsity=pattern, rules={"conv_blocks": blocks})
        assert sq.check(model, x, machine).layers[0].kept_dense is dense
