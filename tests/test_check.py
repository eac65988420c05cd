"""`check` on trained models: green where two implementations agree, red and precise where they do not."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparq_sim as sq
from small_models import char_gpt, digits_cnn

Model = tuple[nn.Module, torch.Tensor]
MODELS: dict[str, Callable[[], Model]] = {
    "digits_cnn": lambda: (digits_cnn()[0], digits_cnn()[1][:10]),
    "char_gpt": lambda: (char_gpt()[0], char_gpt()[1][:2]),
}


def every_number(data: Any) -> list[float]:
    """Every number in parsed JSON."""
    if isinstance(data, dict):
        return [n for value in data.values() for n in every_number(value)]
    if isinstance(data, list):
        return [n for value in data for n in every_number(value)]
    return [float(data)] if isinstance(data, (int, float)) else []


def parsed(report: sq.Report) -> dict[str, Any]:
    """The report's JSON, refusing NaN and Infinity."""

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} in the JSON")

    data: dict[str, Any] = json.loads(report.to_json(), parse_constant=refuse)
    assert all(math.isfinite(number) for number in every_number(data))
    return data


# mxfp8 in torch alone: nothing of the library's is used


def mxfp8_blocks(x: torch.Tensor) -> torch.Tensor:
    """OCP MX v1.0 with E4M3, blocks of 32 along the last axis, floor scales, by frexp, ldexp and a cast."""
    length = x.shape[-1]
    padded = nn.functional.pad(x.float(), (0, -length % 32)).unflatten(-1, (-1, 32))
    _, exponent = torch.frexp(padded.abs().amax(-1, keepdim=True))
    # frexp gives [1/2, 1): floor(log2) is one less; 8 is the largest exponent of E4M3.
    shift = (exponent - 1 - 8).clamp(-127, 127)
    shift = torch.where(padded.abs().amax(-1, keepdim=True) == 0, torch.full_like(shift, -127), shift)
    elements = torch.ldexp(padded, -shift).clamp(-448, 448).to(torch.float8_e4m3fn).float()
    return torch.ldexp(elements, shift).flatten(-2)[..., :length]


class TorchLinear(nn.Module):
    """A linear layer as a user would fake-quantize it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(mxfp8_blocks(layer.weight.detach())), layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(mxfp8_blocks(x), self.weight, self.bias)


class TorchConv(nn.Module):
    """A convolution likewise: blocks per pixel along the channels of a group."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        weight = mxfp8_blocks(layer.weight.detach().movedim(1, -1)).movedim(-1, 1).contiguous()
        self.weight, self.bias = nn.Parameter(weight), layer.bias
        self.stride, self.padding, self.dilation, self.groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lines = x.movedim(1, -1).unflatten(-1, (self.groups, -1))
        values = mxfp8_blocks(lines).flatten(-2).movedim(-1, 1).contiguous()
        return nn.functional.conv2d(
            values, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def torch_only(model: nn.Module) -> nn.Module:
    """A copy of a model with every Linear and Conv2d fake-quantized by torch alone."""
    changed = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            parent, _, attribute = name.rpartition(".")
            made = TorchLinear(module) if isinstance(module, nn.Linear) else TorchConv(module)
            setattr(changed.get_submodule(parent), attribute, made)
    return changed.requires_grad_(False)


# Green


@pytest.mark.parametrize("machine", [
    sq.Accelerator(),
    sq.Accelerator("mxfp4", "mxfp8", weight_sparsity="2:4", datapath="block_fp32"),
    sq.Accelerator("mxint8", "mxint8", datapath="block_fp32"),
    sq.Accelerator("hbfp8", "hbfp8", datapath="fma32"),
    sq.Accelerator("int8", "int8", datapath="block_fp32"),
    sq.Accelerator("fp8_e4m3", "fp8_e5m2", datapath="block_fp32"),
    sq.Accelerator("bf16", "bf16", datapath="fma32", output="bf16"),
    sq.Accelerator("mxfp8", "mxfp8", datapath="block_fp32", rules={"conv_blocks": "window", "conv_k_order": "chw"}),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("model", MODELS)
def test_a_model_against_its_own_machine_is_explained_with_equal_operands(model: str, machine: sq.Accelerator) -> None:
    subject, inputs = MODELS[model]()
    report = sq.check(subject, inputs, machine)
    assert report.ok, str(report)
    assert all(layer.operands_equal is True for layer in report.layers)
    assert all(layer.ok and layer.verdict != "unexplained" and layer.unexplained == 0 for layer in report.layers)
    assert all(layer.outputs > 0 and layer.bound_ratio <= 1 for layer in report.layers)
    assert report.findings == [] and report.numerics == 2 and report.isa in sq.available_isas()
    names = [n for n, m in subject.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert [layer.name for layer in report.layers] == names
    assert parsed(report)["ok"] is True
    assert "OK: everything is explained" in str(report)


def test_the_reported_k_is_the_number_of_products_of_an_output() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    layers = {layer.name: layer.k for layer in sq.check(subject, inputs).layers}
    assert layers == {"stem": 9, "down": 216, "grouped": 90, "depthwise": 9, "pointwise": 40, "head": 256}


def test_the_verdict_is_equal_where_torch_is_exact() -> None:
    # Small integers: any order of float32 sums is exact, and so is every datapath.
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)).requires_grad_(
        False
    )
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-2, 3, parameter.shape).float())
    x = torch.randint(-2, 3, (6, 4, 4, 4)).float()
    for datapath in ("exact", "block_fp32", "fma32"):
        report = sq.check(model, x, sq.Accelerator("bf16", "bf16", datapath=datapath))
        assert [layer.verdict for layer in report.layers] == ["equal", "equal"]
        assert all(layer.different == 0 and layer.max_ulp == 0 for layer in report.layers)
        assert all(layer.drift_db == math.inf for layer in report.layers)
        assert all(layer["drift_db"] is None for layer in parsed(report)["layers"])


@pytest.mark.parametrize("datapath", ["exact", "block_fp32", "fma32"])
@pytest.mark.parametrize("model", MODELS)
def test_a_fake_quant_of_torch_alone_is_explained(model: str, datapath: str) -> None:
    subject, inputs = MODELS[model]()
    report = sq.check(subject, inputs, sq.Accelerator("mxfp8", "mxfp8", datapath=datapath), against=torch_only(subject))
    assert report.ok, str(report)
    assert all(layer.operands_equal is True for layer in report.layers)
    assert report.reference == type(subject).__name__


@pytest.mark.parametrize("datapath", ["exact", "block_fp32", "fma32", "hopper_fp8"])
def test_a_simulated_run_of_the_same_machine_is_equal(datapath: str) -> None:
    subject, inputs = MODELS["digits_cnn"]()
    machine = sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath=datapath)
    report = sq.check(subject, inputs, machine, against=sq.simulate(subject, machine))
    assert report.ok and {layer.verdict for layer in report.layers} == {"equal"}


def test_a_reference_on_another_float32_machine_is_reproduced_by_its_name() -> None:
    subject, inputs = MODELS["char_gpt"]()
    other = sq.simulate(subject, sq.Accelerator("mxfp8", "mxfp8", datapath="fma32"))
    report = sq.check(subject, inputs, sq.Accelerator("mxfp8", "mxfp8", datapath="block_fp32"), against=other)
    assert report.ok, str(report)
    assert {layer.verdict for layer in report.layers} <= {"equal", "reproduced"}
    reproduced = [layer for layer in report.layers if layer.verdict == "reproduced"]
    assert reproduced and all(layer.reproduced_by == "fma32" for layer in reproduced)
    assert "reproduced (fma32)" in str(report)


def test_a_check_is_the_same_for_every_implementation_and_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, inputs = MODELS["digits_cnn"]()
    machine = sq.Accelerator("mxfp4", "mxfp8", datapath="block_fp32")
    reports = []
    for isa, threads in (("baseline", 1), ("avx2", 2), ("avx2", None), ("reference", None)):
        if isa in sq.available_isas():
            monkeypatch.setenv("SPARQ_ISA", isa)
            report = sq.check(subject, inputs[:1], machine, threads=threads)
            assert report.isa == isa
            reports.append({**report.to_dict(), "isa": ""})
    assert all(report == reports[0] for report in reports[1:])


# Red: operands


def next_code(weight: torch.Tensor, index: tuple[int, ...]) -> float:
    """The next larger magnitude of E2M1 under the scale of the weight's block."""
    steps = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    block = weight[index[0], index[1] // 32 * 32 : index[1] // 32 * 32 + 32]
    top = block.abs().max().item()
    scale = next(2.0**x for x in range(-40, 40) if top / 2.0**x in steps and top / 2.0**x >= 4)
    value = weight[index].item()
    code = steps.index(abs(value) / scale)
    return math.copysign(steps[code + 1 if code < 7 else 6] * scale, value)


def test_one_weight_moved_by_one_code_turns_its_layer_red_and_names_the_place() -> None:
    subject, inputs = MODELS["char_gpt"]()
    machine = sq.Accelerator("mxfp4", "mxfp8", datapath="block_fp32")

    class Fake(nn.Module):
        """mxfp4 weights and mxfp8 activations of the library, multiplied by torch."""

        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.weight = nn.Parameter(sq.emulate(layer.weight.detach(), "mxfp4"))
            self.bias = layer.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(sq.emulate(x, "mxfp8"), self.weight, self.bias)

    reference = copy.deepcopy(subject)
    for name, module in subject.named_modules():
        if isinstance(module, nn.Linear):
            parent, _, attribute = name.rpartition(".")
            setattr(reference.get_submodule(parent), attribute, Fake(module))
    reference.requires_grad_(False)
    assert sq.check(subject, inputs, machine, against=reference).ok

    # Element 37 of row 5 is element 5 of block 1.
    weight = reference.get_submodule("layers.1.up").weight
    assert isinstance(weight, torch.Tensor)
    before = weight[5, 37].item()
    weight[5, 37] = next_code(weight, (5, 37))
    after = weight[5, 37].item()
    assert after != before
    report = sq.check(subject, inputs, machine, against=reference)
    assert not report.ok
    assert [layer.name for layer in report.layers if not layer.ok] == ["layers.1.up"]
    layer = next(layer for layer in report.layers if not layer.ok)
    assert layer.operands_equal is False and layer.verdict == "unexplained"
    finding = next(f for f in layer.findings if f.startswith("weight"))
    for words in ("1 of 9216 differ", "[5, 37]", "block 1", "element 5", repr(before), repr(after)):
        assert words in finding, (words, finding)
    assert any(f.startswith("layers.1.up: weight") for f in report.findings)
    assert "NOT OK" in str(report) and parsed(report)["ok"] is False


def test_one_weight_of_a_grouped_convolution_is_named_by_its_place() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    machine = sq.Accelerator("mxfp8", "mxfp8", rules={"block": 4})
    reference = sq.simulate(subject, machine)
    layer = reference.get_submodule("grouped")

    class Moved(nn.Module):
        """The layer in torch, with one weight doubled."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = sq.emulate(x.movedim(1, -1).unflatten(-1, (4, 10)).contiguous(), "mxfp8", block=4)
            weight = sq.emulate(subject.get_submodule("grouped").weight.detach(), "mxfp8", axis=1, block=4)
            weight[7, 9, 1, 2] *= 2
            return nn.functional.conv2d(
                values.flatten(-2).movedim(-1, 1).contiguous(), weight, layer.bias, padding=1, groups=4
            )

    reference.grouped = Moved()
    report = sq.check(subject, inputs, machine, against=reference)
    assert [layer.name for layer in report.layers if not layer.ok] == ["grouped"]
    finding = next(f for f in report.findings if "weight" in f)
    assert "[7, 9, 1, 2]" in finding and "block 2" in finding and "element 1" in finding


def test_a_wrong_activation_is_named_by_its_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4)).requires_grad_(False)
    machine = sq.Accelerator("mxfp8", "mxfp8")

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = sq.emulate(x, "mxfp8")
            values[2, 45] *= 2
            return nn.functional.linear(values, sq.emulate(model[0].weight, "mxfp8"), model[0].bias)

    report = sq.check(model, torch.randn(3, 64), machine, against=nn.Sequential(Wrong()))
    assert not report.ok and report.layers[0].operands_equal is False
    finding = next(f for f in report.findings if "activation" in f)
    assert "1 of 192 differ" in finding and "[2, 45]" in finding and "block 1, element 13" in finding


@pytest.mark.parametrize("change", [{"scale_rule": "rceil"}, {"rounding": "toward_zero"}, {"block": 16}])
def test_a_fake_quant_by_another_rule_is_unexplained(change: dict[str, Any]) -> None:
    subject, inputs = MODELS["char_gpt"]()
    other = sq.simulate(subject, sq.Accelerator("mxfp4", "mxfp8", rules=change))
    report = sq.check(subject, inputs, sq.Accelerator("mxfp4", "mxfp8"), against=other)
    assert not report.ok
    assert any(layer.operands_equal is False for layer in report.layers)


def test_an_unquantized_reference_is_unexplained() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    report = sq.check(subject, inputs, sq.Accelerator("mxfp4", "mxfp4"), against=copy.deepcopy(subject))
    assert not report.ok and all(not layer.ok for layer in report.layers)


def test_zeros_of_the_other_sign_are_counted_and_no_difference() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 4)).requires_grad_(False)
    x = torch.randn(3, 32)
    x[0, 3] = 0.0

    class Signed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = sq.emulate(x, "mxfp8")
            values[0, 3] = -0.0
            return nn.functional.linear(values, sq.emulate(model[0].weight, "mxfp8"), model[0].bias)

    report = sq.check(model, x, sq.Accelerator("mxfp8", "mxfp8"), against=nn.Sequential(Signed()))
    assert report.ok, str(report)
    assert report.layers[0].operands_equal is True and report.layers[0].zero_signs == 1


# Red: accumulators


def bias_limit(layer: sq.LayerReport) -> float:
    """What rounding to nearest stays within, section 12."""
    return math.sqrt(layer.k) * max(1.0, 8 / math.sqrt(layer.outputs))


@pytest.mark.parametrize("claimed", ["fma32", "exact", "block_fp32"])
@pytest.mark.parametrize("model", MODELS)
def test_a_hopper_accumulator_does_not_pass_for_float32(model: str, claimed: str) -> None:
    subject, inputs = MODELS[model]()
    hopper = sq.simulate(subject, sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8"))
    report = sq.check(subject, inputs, sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath=claimed), against=hopper)
    assert not report.ok, str(report)
    assert report.findings
    red = [layer for layer in report.layers if not layer.ok]
    assert all(layer.operands_equal is True and layer.verdict == "unexplained" and layer.findings for layer in red)
    # Long dots lose bits in nearly every output.
    assert {layer.name for layer in red} >= {layer.name for layer in report.layers if layer.k >= 40}
    assert any("hopper_fp8" in finding for finding in report.findings)
    assert any(layer.reproduced_by == "hopper_fp8" for layer in red)


def test_a_float32_reference_does_not_pass_for_hopper() -> None:
    subject, inputs = MODELS["char_gpt"]()
    machine = sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath="hopper_fp8")
    report = sq.check(subject, inputs, machine)
    # The bound of the machine is wide enough for float32: consistent, and never called equal.
    assert "equal" not in {layer.verdict for layer in report.layers}


@pytest.mark.parametrize("claimed", ["fma32", "exact", "block_fp32"])
@pytest.mark.parametrize("model", MODELS)
def test_an_unnamed_truncating_accumulator_shows_as_bias(model: str, claimed: str) -> None:
    subject, inputs = MODELS[model]()
    path = sq.Datapath(
        reduce="align",
        group=16,
        fraction_bits=14,
        accumulator_fraction=14,
        accumulator_rounding="toward_zero",
        block_scales=False,
    )
    other = sq.simulate(subject, sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath=path))
    report = sq.check(subject, inputs, sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath=claimed), against=other)
    assert not report.ok, str(report)
    assert all(layer.reproduced_by is None for layer in report.layers if not layer.ok)
    biased = [layer for layer in report.layers if any("bias" in f and "toward zero" in f for f in layer.findings)]
    assert biased, str(report)
    assert all(layer.bias < -bias_limit(layer) and layer.verdict == "unexplained" for layer in biased)


def test_a_bias_away_from_zero_is_found_too() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(64, 32, bias=False)).requires_grad_(False)

    class Away(nn.Module):
        """Every output a little too large: 256 units of rounding, which the bound of 64 products may hide."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.linear(sq.emulate(x, "mxfp8"), sq.emulate(model[0].weight, "mxfp8"))
            return y * (1 + 2.0**-16)

    report = sq.check(model, torch.randn(64, 64), sq.Accelerator("mxfp8", "mxfp8"), against=nn.Sequential(Away()))
    assert not report.ok
    assert any("away from zero" in f for f in report.findings)
    assert report.layers[0].bias > bias_limit(report.layers[0])


def test_an_output_beyond_the_bound_is_named_with_both_values() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(64, 32)).requires_grad_(False)

    class Off(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.linear(sq.emulate(x, "mxfp8"), sq.emulate(model[0].weight, "mxfp8"), model[0].bias)
            y[3, 7] += 0.01
            return y

    report = sq.check(model, torch.randn(8, 64), sq.Accelerator("mxfp8", "mxfp8"), against=nn.Sequential(Off()))
    assert not report.ok and report.layers[0].unexplained == 1 and report.layers[0].bound_ratio > 1
    assert report.layers[0].operands_equal is True
    finding = next(f for f in report.findings if "beyond the bound" in f)
    assert "1 of 256" in finding and "[3, 7]" in finding


# NaN and Inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("datapath", ["exact", "block_fp32", "fma32"])
def test_non_finite_inputs_do_not_crash_and_are_judged(datapath: str, value: float) -> None:
    subject, images = MODELS["digits_cnn"]()
    images = images[:4].clone()
    images[1, 0, 3, 3] = value
    report = sq.check(subject, images, sq.Accelerator("mxfp8", "mxfp8", datapath=datapath))
    assert report.ok, str(report)
    assert all(layer.operands_equal is True and layer.outputs > 0 for layer in report.layers)
    parsed(report)
    assert "layers" in str(report)
    everything = torch.full_like(images, value)
    report = sq.check(subject, everything, sq.Accelerator("mxfp8", "mxfp8", datapath=datapath))
    assert report.ok, str(report)
    parsed(report)


def test_a_nan_where_the_machine_has_a_number_is_unexplained() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(32, 4)).requires_grad_(False)

    class Poisoned(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.linear(sq.emulate(x, "mxfp8"), sq.emulate(model[0].weight, "mxfp8"), model[0].bias)
            y[1, 2] = self.value
            return y

    for value in (math.nan, math.inf):
        report = sq.check(model, torch.randn(3, 32), sq.Accelerator(), against=nn.Sequential(Poisoned(value)))
        assert not report.ok and report.layers[0].unexplained == 1
        assert any("[1, 2]" in finding for finding in report.findings)
        parsed(report)


def test_an_input_of_zeros_is_judged() -> None:
    subject, images = MODELS["digits_cnn"]()
    report = sq.check(subject, torch.zeros_like(images[:3]), sq.Accelerator("int8", "int8", datapath="block_fp32"))
    assert report.ok, str(report)
    parsed(report)


def test_an_empty_batch_is_no_proof_of_anything() -> None:
    model = nn.Sequential(nn.Linear(8, 2)).requires_grad_(False)
    report = sq.check(model, torch.zeros(0, 8))
    assert not report.ok
    parsed(report)
    str(report)


# What is asked for, and refusals


class Branches(nn.Module):
    """A layer that is called twice, one that is called once, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.never = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        y: torch.Tensor = self.once(self.twice(self.twice(x).relu() * scale))
        return y


def branches() -> nn.Module:
    torch.manual_seed(5)
    return Branches().requires_grad_(False)


def test_a_layer_that_is_never_called_is_a_finding() -> None:
    report = sq.check(branches(), torch.randn(4, 8))
    assert not report.ok
    never = next(layer for layer in report.layers if layer.name == "never")
    assert [layer.name for layer in report.layers if not layer.ok] == ["never"]
    assert never.verdict == "unexplained" and any("never called" in f for f in never.findings)
    assert sq.check(branches(), torch.randn(4, 8), layers=["twice", "once"]).ok


def test_a_batch_without_rows_is_nothing_to_check() -> None:
    report = sq.check(nn.Linear(8, 4), torch.zeros(0, 8), sq.Accelerator("mxfp8", "mxfp8", datapath="block_fp32"))
    assert not report.ok
    assert report.summary()[:2] == [
        "1 layer: 1 unexplained", "finding: (model): called without a row of input: nothing was checked"
    ]  # fmt: skip


def test_a_bare_layer_that_stays_dense_has_a_name() -> None:
    machine = sq.Accelerator("mxfp8", "mxfp8", "2:4", datapath="block_fp32")
    summary = sq.check(nn.Linear(3, 4), torch.ones(2, 3), machine).summary()
    assert "kept dense (lines shorter than a group): (model)" in summary


def test_every_call_of_a_layer_counts() -> None:
    report = sq.check(branches(), torch.randn(4, 8), layers=["twice"])
    assert [(layer.name, layer.outputs) for layer in report.layers] == [("twice", 64)]


def test_inputs_may_be_a_tuple_or_keywords() -> None:
    x = torch.randn(4, 8)
    reports = [
        sq.check(branches(), inputs, layers=["twice", "once"])
        for inputs in ((x, 2.0), {"x": x, "scale": 2.0}, [x, 2.0])
    ]
    assert all(report.ok and report.to_dict() == reports[0].to_dict() for report in reports)


def test_only_the_named_layers_are_checked_and_simulated() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    report = sq.check(subject, inputs, sq.Accelerator("mxfp4", "mxfp4"), layers=["head", "stem"])
    assert [layer.name for layer in report.layers] == ["head", "stem"] and report.ok


@pytest.mark.parametrize("names", [["nothing"], ["stem", "stem_relu"], ["stem.weight"]])
def test_an_unknown_layer_is_refused_with_the_known_ones(names: list[str]) -> None:
    subject, inputs = MODELS["digits_cnn"]()
    with pytest.raises(ValueError, match=r"stem.*head"):
        sq.check(subject, inputs, layers=names)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no Linear or Conv2d"):
        sq.check(nn.ReLU(), torch.zeros(2))
    with pytest.raises(ValueError):
        sq.check(branches(), torch.zeros(2, 8), layers=[])


def test_a_reference_without_a_module_of_that_name_is_refused() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    other = copy.deepcopy(subject)
    children = dict(other.named_children())
    with pytest.raises(ValueError, match="head"):
        sq.check(subject, inputs, against=nn.Sequential(*list(children.values())))


def test_a_reference_with_outputs_of_another_shape_is_a_finding() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    other = copy.deepcopy(subject)
    other.head = nn.Linear(256, 7)
    report = sq.check(subject, inputs, against=torch_only(other), layers=["head"])
    assert not report.ok
    assert any("shape" in finding for finding in report.findings)
    parsed(report)
    str(report)


def test_a_reference_whose_operands_are_out_of_sight_is_judged_by_its_outputs() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(64, 8)).requires_grad_(False)

    class Hidden(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, weight = sq.emulate(x, "mxfp8"), sq.emulate(model[0].weight, "mxfp8")
            return (values[:, None, :] * weight).sum(-1) + model[0].bias

    report = sq.check(model, torch.randn(5, 64), sq.Accelerator("mxfp8", "mxfp8"), against=nn.Sequential(Hidden()))
    assert report.ok, str(report)
    assert report.layers[0].operands_equal is None
    assert "not seen" in str(report)


def test_a_reference_that_multiplies_twice_is_not_taken_for_its_first_product() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(64, 8)).requires_grad_(False)

    class Split(nn.Module):
        """K in two halves, each a matmul."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, weight = sq.emulate(x, "mxfp8"), sq.emulate(model[0].weight, "mxfp8")
            return values[:, :32] @ weight[:, :32].T + values[:, 32:] @ weight[:, 32:].T + model[0].bias

    report = sq.check(model, torch.randn(5, 64), sq.Accelerator("mxfp8", "mxfp8"), against=nn.Sequential(Split()))
    assert report.ok, str(report)
    assert report.layers[0].operands_equal is None


def test_the_metric_is_that_of_every_run() -> None:
    model, images, labels = digits_cnn()
    machine = sq.Accelerator("mxfp4", "mxfp4", datapath="block_fp32")

    def scores(logits: torch.Tensor) -> dict[str, float]:
        right = (logits.argmax(1) == labels[:50]).float().mean().item()
        return {"right": right, "loss": nn.functional.cross_entropy(logits, labels[:50]).item()}

    report = sq.check(model, images[:50], machine, metric=scores)
    assert report.metric["float"] == scores(model(images[:50]))
    assert report.metric["machine"] == scores(sq.simulate(model, machine)(images[:50]))
    assert set(report.metric) == {"float", "reference", "machine"}
    assert "right" in str(report) and "loss" in str(report)
    single = sq.check(model, images[:50], machine, metric=lambda logits: scores(logits)["loss"])
    assert list(single.metric["float"].values()) == [report.metric["float"]["loss"]]
    assert parsed(single)["metric"]["float"] == single.metric["float"]


def test_a_metric_that_is_no_number_leaves_the_json_readable() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    report = sq.check(subject, inputs[:2], metric=lambda logits: {"nan": math.nan, "inf": math.inf})
    parsed(report)
    str(report)


def test_progress_is_told_and_does_not_change_the_report() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    lines: list[str] = []
    report = sq.check(subject, inputs, progress=lines.append)
    assert lines and all(isinstance(line, str) for line in lines)
    assert report.to_dict() == sq.check(subject, inputs).to_dict()


def test_a_check_leaves_no_trace_on_the_models() -> None:
    subject, inputs = MODELS["digits_cnn"]()
    other = torch_only(subject)
    wanted = subject(inputs)
    before = [copy.deepcopy(model.state_dict()) for model in (subject, other)]
    sq.check(subject, inputs, sq.Accelerator("mxfp8", "mxfp8"), against=other)
    for model, state in zip((subject, other), before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(subject(inputs), wanted)


def test_hooks_are_removed_when_a_model_fails() -> None:
    model = branches()
    with pytest.raises(RuntimeError):
        sq.check(model, torch.randn(4, 9))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_dtype_is_judged_and_not_crashed_on(dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype).requires_grad_(False)
    report = sq.check(model, torch.randn(8, 64).to(dtype), sq.Accelerator("mxfp8", "mxfp8", datapath="block_fp32"))
    assert all(layer.operands_equal is True for layer in report.layers)
    assert report.ok, str(report)


def test_the_table_can_show_red_layers_alone() -> None:
    report = sq.check(branches(), torch.randn(4, 8))
    assert report.table(every_layer=False).row_count == 1
    assert report.table().row_count == 3
    assert {line for line in report.summary() if line.startswith("finding")} == {
        "finding: never: never called: nothing was checked"
    }


# Without torch

BLOCKERS = {
    "absent from sys.modules": "import sys; sys.modules['torch'] = None\n",
    "not to be found": (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, Blocked())\n"
    ),
}
WITHOUT_TORCH = """
import numpy as np, sparq_sim as sq
machine = sq.Accelerator("mxfp4", "mxfp8", datapath="block_fp32")
assert sq.linear(np.float32([[1, 2, 3, 4]]), np.float32([[1, 1, 1, 1]]), accelerator=machine).tolist() == [[10.0]]
for call in (lambda: sq.check(None, None), lambda: sq.simulate(None, machine)):
    try:
        call()
    except ModuleNotFoundError as error:
        assert "sparq_sim[torch]" in str(error) and error.name == "torch", error
    else:
        raise AssertionError("no error")
"""


@pytest.mark.parametrize("blocker", BLOCKERS)
def test_without_torch_the_package_works_and_check_names_the_extra(blocker: str) -> None:
    package = str(Path(sq.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKERS[blocker] + WITHOUT_TORCH],
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("datapath", ["hbfp8_wrap", "hbfp8_saturate"])
def test_a_machine_that_wraps_is_unexplained_whoever_the_reference_is(datapath: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 8, bias=False)
    with torch.no_grad():
        model.weight.copy_(1 + torch.rand(8, 64) / 2)
    report = sq.check(model, 1 + torch.rand(4, 64) / 2, sq.Accelerator("hbfp8", "hbfp8", datapath=datapath))
    assert not report.ok and report.layers[0].unexplained == report.layers[0].outputs
