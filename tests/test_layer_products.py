"""Layers of machines with compressed operands, parts of K, epilogues and integer sums: each output gathered in plain
loops, added by `machines.py` and met in exact fractions (docs/numerics.md sections 9 and 10)."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import oracle
import sparq_sim as sq
from conftest import Array, assert_same_bits, bits_of
from machines import Line, machine_dot
from oracle import ELEMENTS, FP32
from sparq_sim.formats import pattern_text
from sparq_sim.layers import MachineLayer, Window
from test_compressed import slots
from test_epilogue import in_steps
from test_layers import filled, normal
from test_split import met

Accelerator = sq.Accelerator
E8M0 = ELEMENTS["e8m0"]


@dataclass
class Side:
    """Lines of one operand along K: [..., line] codes, with a mask, and scales of blocks or of everything."""

    element: str
    codes: Array
    mask: Array | None
    blocks: Array | None
    """E8M0 codes [..., blocks of a line]."""
    block: int
    factor: Array | None
    """float32 that multiplies the result, [...] or [] for all."""
    pattern: tuple[int, int, int] | None

    @classmethod
    def of(cls, tensor: sq.BlockTensor, element: str, spec: sq.Spec) -> Side:
        form, pattern = tensor.format, spec.sparsity
        kept = None if pattern is None or tensor.mask is None else (pattern.kept, pattern.group, pattern.unit)
        scales = tensor.scales
        if scales is None or form.scale_kind == "power_of_two":
            block = form.block if isinstance(form.block, int) else 0
            return cls(element, tensor.codes, tensor.mask, scales, block, None, kept)
        factor = scales.reshape(()) if form.block == "tensor" else scales[..., 0]
        return cls(element, tensor.codes, tensor.mask, None, 0, factor, kept)

    def line(self, at: tuple[int, ...] | None, lines: tuple[int, ...] = ()) -> tuple[list[int], list[bool], list[int]]:
        """Codes, mask and scales of one line; one of padding for None."""
        length = self.codes.shape[-1]
        if at is None:
            n, m = self.pattern[:2] if self.pattern else (1, 1)
            blocks = [] if self.blocks is None else [127] * self.blocks.shape[-1]
            return [0] * length, [k % m < n for k in range(length)], blocks
        mask = [True] * length if self.mask is None else self.mask[at].tolist()
        return self.codes[at].tolist(), mask, [] if self.blocks is None else self.blocks[at].tolist()

    def end(self, at: tuple[int, ...]) -> int:
        """float32 bits of what multiplies the result of a row."""
        assert self.factor is not None
        return int((self.factor if self.factor.ndim == 0 else self.factor[at]).view(np.uint32))


Lines = list[tuple[list[int], list[bool], list[int]]]


def output_bits(
    machine: sq.Accelerator, a: Side, b: Side, a_lines: Lines, b_lines: Lines, ends: list[int], bias: float | None
) -> int:
    """float32 bits of one output: `a` the activations', `b` the weight's lines."""
    fields = machine.path.to_dict()
    chosen: list[tuple[list[int], list[int], int | None, int | None]] = []
    shares = {}
    for (x, x_mask, x_blocks), (w, w_mask, w_blocks) in zip(a_lines, b_lines, strict=True):
        places, share = list(range(len(x))), (1, 1)
        own, pattern = {"weights": (w_mask, b.pattern), "activations": (x_mask, a.pattern)}.get(
            machine.compressed or "", (None, None)
        )
        if own is not None and pattern is not None:
            places, share = slots(np.array(own), *pattern), (pattern[0], pattern[1])
        for place in places:
            inside = place < len(x)
            at = min(place, len(x) - 1)
            chosen.append(
                (
                    [x[place] if inside else 0, w[place] if inside else 0],
                    [x_blocks[at // a.block] if x_blocks else -1, w_blocks[at // b.block] if w_blocks else -1],
                    None, None,
                )
            )  # fmt: skip
        shares[share] = True
    (share,) = shares
    k = len(chosen)
    unit = max(1, machine.path.instruction or machine.path.group)
    split = machine.split
    length = k
    if split is not None:
        length = split.length or -(-k // ((split.parts or 1) * unit)) * unit

    def operand(first: int, last: int, side: int, own: Side) -> Line:
        codes = [c[0][side] for c in chosen[first:last]]
        if own.blocks is None:
            return Line(ELEMENTS[own.element], codes, None, 0, None)
        every = own.block * share[0] // share[1]
        scales = [c[1][side] for c in chosen[first:last]]
        assert all(scales[i] == scales[i // every * every] for i in range(len(scales)))
        return Line(ELEMENTS[own.element], codes, scales[::every], every, E8M0)

    sums = [
        machine_dot(fields, operand(i, min(i + length, k), 0, a), operand(i, min(i + length, k), 1, b))
        for i in range(0, k, length)
    ]
    if fields["output"] == "int32":
        total = sum(sums) & 0xFFFFFFFF
        bits = int(np.float32(total - (total >> 31 << 32)).view(np.uint32))
    elif split is None:
        (bits,) = sums
    else:
        bits = met(sums, None, split.order, split.precision, fields["nan_bits"])
    if ends:
        scales = [oracle.decode(FP32, one) for one in ends]
        factor = scales[0]
        for other in scales[1:]:
            factor = oracle.rn32(oracle.multiply(factor, other))
        bits = oracle.round_to_float(oracle.multiply(oracle.decode(FP32, bits), factor))
    how = machine.epilogue or sq.Epilogue()
    if machine.epilogue is not None or bias is not None:
        added = None if bias is None else int(np.float32(bias).view(np.uint32))
        bits = in_steps(bits, int(np.float32(how.alpha).view(np.uint32)), 0, None, added, how)
    return bits


def encoded(x: Array, spec: sq.Spec) -> sq.BlockTensor:
    """Lines along the last axis."""
    return sq.encode(np.ascontiguousarray(x), spec, axis=-1)


def rows_with_a_scale(lines: Array, spec: sq.Spec) -> sq.BlockTensor:
    """[out, taps, C] under one scale per out, the pattern within each tap."""
    assert spec.sparsity is not None
    out, taps, channels = lines.shape
    mask = sq.sparsify(lines, pattern_text(spec.sparsity), ties=spec.sparsity.ties)[1]
    dense = replace(spec, sparsity=None, order="sparsify_first")
    made = sq.encode(lines.reshape(out, taps * channels), dense, mask=mask.reshape(out, -1), order="sparsify_first")
    return made


def slow_layer(x: Array, layer: Any, machine: sq.Accelerator, elements: tuple[str, str]) -> Array:
    """float32 bits of a linear layer's output, or a convolution's with blocks along the channels of a tap."""
    weight = layer.weight.detach().numpy()
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    ws, xs = machine.weight_spec, machine.activation_spec
    linear = weight.ndim == 2
    if linear:
        weight, x = weight[:, :, None, None], x[:, :, None, None]
    out, channels, kh, kw = weight.shape
    groups = 1 if linear else layer.groups
    lines = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(out, kh * kw, channels)
    if ws.format.block == "row":
        whole = rows_with_a_scale(lines, ws) if ws.sparsity else encoded(lines.reshape(out, -1), ws)
        b = Side.of(whole, elements[0], ws)
        b = replace(b, codes=b.codes.reshape(lines.shape), mask=None if b.mask is None else b.mask.reshape(lines.shape))
        b.factor = whole.scales[:, 0]
    else:
        b = Side.of(encoded(lines, ws), elements[0], ws)
    n, _, height, width = x.shape
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(n, height, width, groups, channels)
    a = Side.of(encoded(pixels, xs), elements[1], xs)
    stride, padding, dilation = ((1, 1), (0, 0), (1, 1)) if linear else (layer.stride, layer.padding, layer.dilation)
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    made = np.zeros((n, out, rows, columns), np.uint32)
    for image, o, i, j in np.ndindex(*made.shape):
        group = o // (out // groups)
        a_lines, b_lines = [], []
        for t, (di, dj) in enumerate(itertools.product(range(kh), range(kw))):
            row, column = i * stride[0] - padding[0] + di * dilation[0], j * stride[1] - padding[1] + dj * dilation[1]
            inside = 0 <= row < height and 0 <= column < width
            a_lines.append(a.line((image, row, column, group) if inside else None))
            b_lines.append(b.line((o, t)))
        ends = [] if a.factor is None else [a.end((image, i, j, group))]
        ends += [] if b.factor is None else [b.end((o,))]
        own = None if bias is None else float(bias[o])
        made[image, o, i, j] = output_bits(machine, a, b, a_lines, b_lines, ends, own)
    return made[:, :, 0, 0] if linear else made


HALVES: dict[str, Any] = {"weight_sparsity": "2:4", "compressed": "weights"}
MX8: dict[str, Any] = {"rules": {"block": 8}}
MACHINES: dict[str, tuple[sq.Accelerator, tuple[str, str]]] = {
    "fp8 2:4 on hopper": (Accelerator("fp8_e4m3", "fp8_e5m2", datapath="hopper_fp8", **HALVES), ("e4m3", "e5m2")),
    "bf16 2:4 in parts": (Accelerator("bf16", "bf16", datapath="hopper_16", split_k=2, **HALVES), ("bf16", "bf16")),
    "fp8 in parts": (
        Accelerator("fp8_e4m3", "fp8_e4m3", datapath="ada_fp8", split_k=sq.SplitK(parts=3, order="tree")),
        ("e4m3", "e4m3"),
    ),
    "fp16 in parts of bf16": (
        Accelerator("fp16", "fp16", datapath="ampere_16", split_k=sq.SplitK(length=8, precision="bf16")),
        ("fp16", "fp16"),
    ),
    "activations 1:4": (
        Accelerator("bf16", "bf16", activation_sparsity="1:4", compressed="activations", datapath="cdna3_16"),
        ("bf16", "bf16"),
    ),
    "activations 2:4 in parts, both sparse": (
        Accelerator(
            "fp8_e4m3", "fp8_e4m3", "2:4", "2:4", datapath="ada_fp8", compressed="activations", split_k=2,
            epilogue=sq.Epilogue(alpha=0.5, precision="bf16", order=("bias", "alpha", "beta")),
        ),
        ("e4m3", "e4m3"),
    ),
    "mx 2:4 in blocks of 8": (
        Accelerator("mxfp4", "mxfp8_e4m3", datapath="block_fp32", split_k=sq.SplitK(length=4), **HALVES, **MX8),
        ("e2m1", "e4m3"),
    ),
    "mx in float32 sums of mxdotp": (
        Accelerator("mxfp8_e4m3", "mxfp8_e4m3", datapath="mxdotp", epilogue=sq.Epilogue(precision="fp16"), **MX8),
        ("e4m3", "e4m3"),
    ),
    "unfused": (
        Accelerator("bf16", "bf16", datapath="ampere_16", epilogue=sq.Epilogue(alpha=3.0, fused=False)),
        ("bf16", "bf16"),
    ),
    "int8 in int32": (
        Accelerator("int8", sq.spec("int8", block="tensor"), datapath="int8_int32"), ("int8", "int8"),
    ),
    "int8 2:4 in int32 in parts": (
        Accelerator("int8", sq.spec("int8", block="tensor"), datapath="int8_int32", split_k=3, **HALVES),
        ("int8", "int8"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("machine", MACHINES)
def test_a_linear_layer_is_gathered_added_and_finished_as_stated(isa: str, machine: str, bias: bool) -> None:
    made, elements = MACHINES[machine]
    k = 48 if "mx" in machine else 45
    layer = filled(nn.Linear(k, 5, bias=bias))
    x = normal(3, k, seed=1)
    got = sq.simulate(layer, made)(x).numpy()
    assert_same_bits(bits_of(got), slow_layer(x.numpy(), layer, made, elements), machine)


SHAPES: dict[str, dict[str, Any]] = {
    "padding and stride": {"in_channels": 8, "out_channels": 3, "kernel_size": 3, "padding": 1, "stride": 2},
    "groups": {"in_channels": 16, "out_channels": 4, "kernel_size": (2, 3), "groups": 2, "dilation": 2, "padding": 2},
    "ragged groups": {"in_channels": 6, "out_channels": 2, "kernel_size": (3, 2), "padding": (1, 0)},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_convolution_is_gathered_added_and_finished_as_stated(isa: str, machine: str, shape: str) -> None:
    made, elements = MACHINES[machine]
    if "mx" in machine and shape == "ragged groups":
        made = replace(made, rules={"block": 4})
        if made.compressed is None:
            made = replace(made, rules={"block": 2})
    conv = filled(nn.Conv2d(**SHAPES[shape]))
    x = normal(2, conv.in_channels, 5, 5, seed=2)
    got = sq.simulate(conv, made)(x).numpy()
    assert_same_bits(bits_of(got), slow_layer(x.numpy(), conv, made, elements), (machine, shape))


@pytest.mark.parametrize("name", ["fp8 2:4 on hopper", "activations 2:4 in parts, both sparse"])
def test_blocks_along_a_window_are_compressed_along_it(isa: str, name: str) -> None:
    machine, elements = MACHINES[name]
    machine = replace(machine, rules={"conv_blocks": "window", "conv_k_order": "chw"})
    conv = filled(nn.Conv2d(3, 4, (3, 2), padding=1, stride=(1, 2)))
    x = normal(2, 3, 5, 5, seed=3)
    got = sq.simulate(conv, machine)(x)
    windows = nn.functional.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride)
    rows = windows.transpose(1, 2).reshape(-1, windows.shape[1])
    linear = nn.Linear(rows.shape[1], 4).requires_grad_(False)
    linear.weight.copy_(conv.weight.reshape(4, -1))
    assert linear.bias is not None and conv.bias is not None
    linear.bias.copy_(conv.bias)
    wanted = slow_layer(rows.numpy(), linear, machine, elements)
    assert_same_bits(bits_of(got.permute(0, 2, 3, 1).reshape(-1, 4).numpy()), wanted, name)


def test_a_layer_that_stays_dense_is_dense_on_a_compressing_machine() -> None:
    machine = Accelerator("fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8", **HALVES)
    dense = Accelerator("fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8")
    conv, x = filled(nn.Conv2d(4, 4, 3, groups=2)), normal(1, 4, 6, 6)
    assert_same_bits(bits_of(sq.simulate(conv, machine)(x).numpy()), bits_of(sq.simulate(conv, dense)(x).numpy()))
    made = MachineLayer(conv.weight.numpy(), machine, Window((3, 3), groups=2))
    assert made.kept_dense and made.machine_k == made.k == 18


def test_a_compressed_layer_counts_stored_elements() -> None:
    machine = Accelerator("bf16", "bf16", "2:4", datapath="hopper_16", compressed="weights")
    weight = np.ones((3, 6, 2, 2), np.float32)
    made = MachineLayer(weight, machine, Window((2, 2)))
    assert (made.k, made.machine_k) == (24, 16)  # two groups of each of four taps, the second of two channels
    assert MachineLayer(weight, replace(machine, compressed=None), Window((2, 2))).machine_k == 24


@pytest.mark.parametrize("compressed", ["weights", "activations"])
def test_nan_that_no_position_selects_is_not_read(isa: str, compressed: str) -> None:
    sparse = {"weight_sparsity": "2:4"} if compressed == "weights" else {"activation_sparsity": "2:4"}
    machine = Accelerator("bf16", "bf16", datapath="hopper_16", compressed=compressed, **sparse)
    own, other = np.float32([[1, 2, 0.5, 0.25] * 4]), np.ones((1, 16), np.float32)
    other[0, 3] = np.nan
    x, weight = (other, own) if compressed == "weights" else (own, other)
    assert float(sq.linear(x, weight, accelerator=machine)[0, 0]) == 12
    assert np.isnan(sq.linear(x, weight, accelerator=replace(machine, compressed=None))[0, 0])


def test_pixels_of_padding_are_stored_as_lines_of_zeros(isa: str) -> None:
    """Their positions are the lowest, so an infinite weight there makes NaN, and one elsewhere does not."""
    machine = Accelerator("bf16", "bf16", activation_sparsity="2:4", compressed="activations", datapath="hopper_16")
    for channel, isnan in ((1, True), (2, False)):
        conv = nn.Conv2d(4, 1, 3, padding=1, bias=False).requires_grad_(False)
        conv.weight.zero_()
        conv.weight[0, channel, 0, 0] = float("inf")
        x = torch.zeros(1, 4, 3, 3)
        assert bool(torch.isnan(sq.simulate(conv, machine)(x)[0, 0, 0, 0])) is isnan


def test_sums_of_int32_are_scaled_as_float32() -> None:
    machine = Accelerator("int8", "int8", datapath="int8_int32")
    x, w = normal(4, 64, seed=5).numpy(), normal(3, 64, seed=6).numpy()
    a, b = sq.encode(x, "int8"), sq.encode(w, "int8")
    sums = a.codes.view(np.int8).astype(np.int64) @ b.codes.view(np.int8).astype(np.int64).T
    assert a.scales is not None and b.scales is not None
    wanted = sums.astype(np.float32) * (a.scales * b.scales.T)
    assert_same_bits(bits_of(sq.linear(x, w, accelerator=machine)), bits_of(wanted))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"compressed": "both"}, ValueError, "compressed='both'; choose one of weights, activations"),
        ({"compressed": "weights"}, ValueError, "they have no N:M pattern"),
        ({"compressed": "activations", "weight_sparsity": "2:4"}, ValueError, "they have no N:M pattern"),
        (
            {"compressed": "weights", "weight_sparsity": "2:4", "weights": sq.spec("mxfp4", block=6)},
            ValueError, "mxfp4 have blocks of 6, and those of a product with a compressed operand hold whole groups",
        ),
        ({"split_k": 0}, ValueError, "parts=0: needed a positive integer"),
        ({"split_k": "two"}, TypeError, "needed a SplitK or a number of parts"),
        ({"epilogue": "bf16"}, TypeError, "needed an Epilogue, got str"),
        ({"epilogue": sq.Epilogue(bias=np.ones(3, np.float32))}, ValueError, "a layer brings its bias"),
        ({"epilogue": sq.Epilogue(beta=1.0, source=np.ones((1, 1), np.float32))}, ValueError, "has no source"),
    ],
)  # fmt: skip
def test_machines_that_mean_nothing_are_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Accelerator(**{"weights": "bf16", "activations": "bf16", "datapath": "block_fp32", **changes})


def test_an_order_of_another_number_of_parts_is_refused_when_the_layer_is_made() -> None:
    machine = Accelerator("bf16", "bf16", datapath="hopper_16", split_k=sq.SplitK(parts=3, order=(2, 0, 1)))
    with pytest.raises(ValueError, match="K = 16 has 1 parts"):
        MachineLayer(np.ones((2, 16), np.float32), machine)


def test_a_machine_says_what_it_is() -> None:
    machine = Accelerator(
        "bf16", "bf16", "2:4", datapath="hopper_16", compressed="weights", output="fp16",
        split_k=sq.SplitK(length=64, order="tree"), epilogue=sq.Epilogue(alpha=0.5, precision="bf16"),
    )  # fmt: skip
    assert str(machine) == (
        "bf16 2:4 compressed x bf16 on hopper_16 in parts of 64 of K order=tree, "
        "epilogue alpha=0.5 precision=bf16 to fp16"
    )
    assert hash(machine) == hash(replace(machine)) and not machine.is_plain


CHECKED = {
    "plain": {},
    "compressed": {"weight_sparsity": "2:4", "compressed": "weights"},
    "parts": {"split_k": 4},
    "parts of bf16": {"split_k": sq.SplitK(parts=4, precision="bf16", order="tree")},
    "epilogue": {"epilogue": sq.Epilogue(alpha=0.75)},
    "epilogue of bf16": {"epilogue": sq.Epilogue(alpha=0.75, precision="bf16", fused=False)},
    "all": {
        "weight_sparsity": "2:4", "compressed": "weights", "split_k": 3, "epilogue": sq.Epilogue(alpha=-2.0),
        "output": "bf16",
    },
}  # fmt: skip


@pytest.mark.parametrize("asked", CHECKED)
@pytest.mark.parametrize(
    ("weights", "activations", "datapath"),
    [
        ("mxfp4", "mxfp8", "block_fp32"), ("fp8_e4m3", "fp8_e4m3", "hopper_fp8"), ("bf16", "bf16", "ampere_16"),
        ("int8", sq.spec("int8", block="tensor"), "int8_int32"),
    ],
    ids=["mx", "fp8", "bf16", "int8"],
)  # fmt: skip
def test_a_check_explains_such_machines_within_bounds_that_are_not_idle(
    asked: str, weights: str, activations: Any, datapath: str
) -> None:
    changes: dict[str, Any] = dict(CHECKED[asked])
    if datapath == "int8_int32" and asked == "parts of bf16":
        with pytest.raises(ValueError, match="parts of int32 meet in integers"):
            Accelerator(weights, activations, datapath=datapath, **changes)
        return
    machine = Accelerator(weights, activations, datapath=datapath, **changes)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 36, 10)).eval()
    x = torch.randn(4, 8, 6, 6)
    report = sq.check(model, x, machine)
    assert report.ok, str(report)
    assert all(layer.operands_equal for layer in report.layers)
    assert all(layer.bound_ratio <= 1 for layer in report.layers)
    # A machine that does something else is caught.
    other = replace(machine, datapath="exact", split_k=None, compressed=None, epilogue=sq.Epilogue(alpha=0.8125))
    wrong = sq.check(model, x, machine, against=sq.simulate(model, other))
    assert not wrong.ok


def test_a_factor_of_two_doubles_every_output(isa: str) -> None:
    model, x = filled(nn.Linear(64, 8, bias=False)), normal(5, 64, seed=4)
    plain = Accelerator("bf16", "bf16", datapath="fma32")
    once = sq.simulate(model, plain)(x)
    twice = sq.simulate(model, replace(plain, epilogue=sq.Epilogue(alpha=2.0)))(x)
    assert_same_bits(bits_of(twice.numpy()), bits_of((2 * once).numpy()))


@pytest.mark.parametrize("alpha", [0.75, -3.0, 0.0])
@pytest.mark.parametrize("layer", [nn.Linear(64, 8), nn.Conv2d(4, 6, 3)], ids=["linear", "convolution"])
def test_the_reference_of_a_check_is_multiplied_and_then_gets_its_bias(alpha: float, layer: nn.Module) -> None:
    """Sums of small integers are exact in any order, so the machine with those steps gives the reference's bits."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape) / 8)
    machine = Accelerator("bf16", "bf16", datapath="fma32", epilogue=sq.Epilogue(alpha=alpha, fused=False))
    x = torch.randint(-3, 4, (5, 64) if isinstance(layer, nn.Linear) else (2, 4, 5, 5)).float()
    report = sq.check(layer, x, machine)
    assert report.ok and report.layers[0].verdict == "equal"


def test_a_reproduced_reference_is_multiplied_step_by_step() -> None:
    torch.manual_seed(3)
    layer, x = nn.Linear(48, 8), torch.randn(6, 48)
    machine = Accelerator("bf16", "bf16", datapath="hopper_16", epilogue=sq.Epilogue(alpha=0.703125))
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    exact = replace(machine, datapath="exact", epilogue=sq.Epilogue(alpha=0.703125, fused=False))
    report = sq.check(layer, x, machine, against=sq.simulate(layer, exact))
    assert report.layers[0].reproduced_by == "exact", str(report)


def test_machines_are_equal_by_what_they_say() -> None:
    made = [Accelerator("bf16", "bf16", datapath="hopper_16", epilogue=sq.Epilogue(alpha=0.5)) for _ in range(2)]
    assert made[0] == made[1] == copy.deepcopy(made[0]) and len({*made}) == 1
    assert made[0] != replace(made[0], epilogue=sq.Epilogue(alpha=0.5, fused=False))
    bias = np.ones(3, np.float32)
    assert sq.Epilogue(bias=bias) == sq.Epilogue(bias=bias) != sq.Epilogue(bias=bias.copy())


@pytest.mark.parametrize(
    ("machine", "layer", "words"),
    [
        (Accelerator("nvfp4", "nvfp4", "2:4", datapath="blackwell_nvf4", compressed="weights"), nn.Linear(64, 4), "16"),
        (Accelerator("nvfp4", "nvfp4", datapath="blackwell_nvf4"), nn.Conv2d(8, 4, 3), "blocks must be multiples"),
        (Accelerator("int8", "int8", datapath="int8_int32"), nn.Conv2d(8, 4, 3), "scales that vary along K"),
    ],
    ids=["stored blocks", "taps", "row scales"],
)
def test_what_a_machine_cannot_take_of_a_layer_is_refused_when_it_is_made(
    machine: sq.Accelerator, layer: nn.Module, words: str
) -> None:
    model = nn.Sequential(nn.ReLU(), layer)
    with pytest.raises(ValueError, match=f"^1: .*{words}"):
        sq.simulate(model, machine)
    with pytest.raises(ValueError, match=f"^1: .*{words}"):
        sq.check(model, torch.zeros(1, 64), machine)
