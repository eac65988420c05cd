"""identify: the recorded files of other libraries, specs drawn from the whole space, and tensors that nothing made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sparq_sim as sq
from conftest import Array, assert_same_bits
from preset_exceptions import DIFFERENCES
from sparq_sim.cli import app
from sparq_sim.formats import words_of
from sparq_sim.identify import Apart
from sparq_sim.identify.apart import outcome
from sparq_sim.identify.candidates import FIELDS
from test_presets import CLAIMS, Claim, listed_rows, recorded

ROUNDINGS = [word for word in sq.conversions()["rounding"] if word != "stochastic"]
#: Files that are looked at in every run; the others are exhaustive.
QUICK = ("mxfp4", "mxint8", "bfp16_quark", "mx6", "mx9")


def claims_by_file() -> dict[str, list[Claim]]:
    """Claims that speak of the same input and output."""
    found: dict[str, list[Claim]] = {}
    for claim in CLAIMS:
        found.setdefault("-".join([claim.file.replace("/", "-"), claim.case]).rstrip("-"), []).append(claim)
    return found


def not_made(claims: list[Claim]) -> set[int]:
    """Rows of a file that one of the presets does not make."""
    return {
        row
        for one in DIFFERENCES
        for each in claims
        if each.preset in one.presets and each.format in one.formats and each.case == one.case
        for row in listed_rows(one.rows)
    }


def is_whole(claims: list[Claim]) -> bool:
    """Whether a file has something left to name; tensors under one scale do not come apart into rows."""
    return claims[0].case in ("", "bfloat16") or not not_made(claims)


def pair_of(claims: list[Claim]) -> tuple[Any, Any]:
    """Input and output of a recorded file without the rows that one of the presets does not make."""
    claim, listed = claims[0], not_made(claims)
    file = recorded(claim.file)
    if claim.case == "bfloat16":
        bits = recorded("inputs_bf16")["x_bits"]
        tensors = (torch.from_numpy(one.reshape(bits.shape)).view(torch.bfloat16) for one in (bits, file["dq_bits"]))
        return next(tensors), next(tensors)
    if claim.case:
        return recorded("inputs_nvfp4")[claim.case], file[f"{claim.case}/dq"]
    x = recorded("inputs_block32")["x"]
    rows = [row for row in range(len(x)) if row not in listed]
    y = file["dq"][rows]
    if sq.formats()[claim.format].element.signedness == "twos_complement":
        y = np.where(y == 0, y.dtype.type(0), y)  # some libraries decode -0, for which there is no code
    return x[rows], y


def is_quick(claim: Claim) -> bool:
    if claim.case:
        return claim.case == "normal" or (claim.format == "mxfp4" and claim.preset == "quark-0.13/even")
    return claim.format in QUICK and not claim.file.startswith("torchao/")


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param(claims, id=name, marks=() if is_quick(claims[0]) else pytest.mark.exhaustive)
        for name, claims in claims_by_file().items()
        if is_whole(claims)
    ],
)
def test_a_recorded_file_names_the_presets_that_make_it(claims: list[Claim]) -> None:
    found = sq.identify(*pair_of(claims))
    names = [name for one in found.matches if one.zero_signs for name in one.names]
    assert {f"{claim.format} like={claim.preset}" for claim in claims} <= set(names), found
    assert found.matches[0].zero_signs and found.matches[0].names


def test_only_one_recorded_tensor_is_no_presets() -> None:
    assert [name for name, claims in claims_by_file().items() if not is_whole(claims)] == [
        "modelopt_cuda_host-nvfp4__fused-nan_one"
    ]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_a_recorded_cast_names_torch(name: str) -> None:
    file = recorded(f"torch_cast/{name}__to")
    values = file["codes"].view(getattr(ml_dtypes, name)).astype(np.float32)
    found = sq.identify(file["x"], values)
    assert found.best is not None and "torch-2.13" in found.best.presets


def spec_of(rng: np.random.Generator, format: Callable[[], str | sq.Format], chosen: dict[str, Any]) -> sq.Spec:
    """With as many of the choices as mean something to the format and to one another."""
    while True:
        try:
            return sq.spec(format(), **chosen)
        except ValueError:
            names = list(chosen)
            chosen.pop(names[rng.integers(len(names))])


def drawn_spec(rng: np.random.Generator) -> sq.Spec:
    """A format of the catalog with choices of any kind, or with those of a preset, and any block and axis."""
    names = list(sq.formats())
    format = sq.formats()[names[rng.integers(len(names))]]
    presets = [name for name, preset in sq.presets().items() if format.name in preset.formats]
    chosen: dict[str, Any] = {}

    def maybe(share: float, name: str, words: list[Any]) -> None:
        if rng.random() < share:
            chosen[name] = words[rng.integers(len(words))]

    if presets and rng.random() < 0.3:
        chosen["like"] = presets[rng.integers(len(presets))]
    else:
        maybe(0.5, "rounding", ROUNDINGS)
        maybe(0.6, "scale_rule", ["floor", "ceil", "rceil", "even", "nearest", "fit", "mse", "mae"])
        maybe(0.25, "nonfinite", ["ignore", "largest", "keep"])
        maybe(0.25, "signed_zero", ["drop", "underflow", "keep"])
        maybe(0.15, "subnormals", ["flush"])
        maybe(0.15, "input_subnormals", ["flush"])
        maybe(0.15, "integer_range", ["full"])
        maybe(0.15, "preround", ["bf16", "bf16_toward_zero"])
        maybe(0.2, "scale_apply", ["reciprocal"])
        maybe(0.2, "divisor_apply", ["reciprocal"])
        maybe(0.15, "divisor", [7.25, 0.75, 3.0])
        maybe(0.15, "scale_compute", ["bf16"])
        maybe(0.15, "apply_compute", ["bf16"])
        maybe(0.15, "divide_by", ["quotient"])
        maybe(0.1, "amax_exponent", ["log2"])
        maybe(0.15, "even_bits", [0, 1, 2])
        maybe(0.2, "scale_rounding", ["up"])
        maybe(0.1, "scale_minimum", [1, 8, 100])
        maybe(0.1, "overflow", ["saturate", "special"])
    maybe(0.4, "block", [8, 16, 32, 64, 128, "row", "tensor", "16x16"])
    return spec_of(rng, lambda: format, chosen)


def drawn_spec_of_any_fields(rng: np.random.Generator) -> sq.Spec:
    """A format of the catalog with one to six choices of any fields that values show."""
    numbers: dict[str, tuple[Any, ...]] = {
        "divisor": (7.25, 0.75, 3.0, 6.0), "even_bits": (0, 1, 2), "scale_minimum": (1, 8, 100),
        "align_bits": (4, 6, 8), "cut_offset": (0.5, 4.5),
    }  # fmt: skip
    chosen: dict[str, Any] = {}
    for name in map(str, rng.permutation(FIELDS)[: rng.integers(1, 7)]):
        words = numbers.get(name) or [word for word in words_of(name) or () if word != "stochastic"]
        chosen[name] = words[rng.integers(len(words))]
    blocks = (8, 16, 32, 64, 128, "row", "tensor", "16x16")
    if rng.random() < 0.4:
        chosen["block"] = blocks[rng.integers(len(blocks))]
    names = list(sq.formats())
    format = sq.formats()[names[rng.integers(len(names))]]
    return spec_of(rng, lambda: format, chosen)


def drawn_two_level_spec(rng: np.random.Generator) -> sq.Spec:
    """A format with a float32 scale above those of blocks, and choices of that scale."""
    names = [name for name, one in sq.formats().items() if one.outer_combine is not None]
    words: dict[str, tuple[str, ...]] = {
        "outer_combine": ("divide", "reciprocal", "reciprocals", "divide_top"),
        "outer_apply": ("reciprocal",),
        "outer_overflow": ("one", "infinity"),
        "scale_order": ("outer_first",),
        "scale_underflow": ("zero", "zeros", "zero_scale"),
        "scale_apply": ("reciprocal", "outer_reciprocal"),
        "divisor_apply": ("reciprocal",),
        "rounding": tuple(ROUNDINGS),
        "scale_rounding": ("up",),
    }
    chosen: dict[str, Any] = {name: rng.choice(some) for name, some in words.items() if rng.random() < 0.4}
    chosen = {name: str(word) for name, word in chosen.items()}
    return spec_of(rng, lambda: names[rng.integers(len(names))], chosen)


def drawn_pair(seed: int, draw: Callable[[np.random.Generator], sq.Spec] = drawn_spec) -> tuple[sq.Spec, Any, Any]:
    """A spec, an input with ragged tails and some odd numbers, and what the spec makes of it."""
    rng = np.random.default_rng(seed)
    shapes = [(64, 96), (33, 200), (7, 300), (4, 40, 70), (500,), (300, 33), (3, 1000)]
    dtypes = [np.float32, np.float32, ml_dtypes.bfloat16, np.float16, np.float64]
    while True:
        made, shape = draw(rng), shapes[rng.integers(len(shapes))]
        made = sq.spec(made, axis=int(rng.choice([-1, -1, 0])))
        x = rng.standard_normal(shape) * np.exp2(rng.integers(-3, 4, shape))
        if rng.random() < 0.3:
            x *= np.exp2(rng.integers(-12, 8, (*shape[:-1], 1)))
        if rng.random() < 0.1:
            x.flat[rng.integers(x.size)] = [np.nan, np.inf, -np.inf, -0.0, 1e-40][rng.integers(5)]
        x = x.astype(dtypes[rng.integers(len(dtypes))])
        try:
            y = sq.emulate(x, made, inexact="round")
        except ValueError:  # NaN or Inf without a code for it
            continue
        if not np.array_equal(x.astype(np.float64), y.astype(np.float64), equal_nan=True):
            return made, x, y


def check_drawn(seed: int, draw: Callable[[np.random.Generator], sq.Spec] = drawn_spec) -> None:
    """The spec itself is found, or another that makes the same bits and that an input tells from it."""
    made, x, y = drawn_pair(seed, draw)
    found = sq.identify(x, y)
    assert found.best is not None and found.best.zero_signs, f"{seed}: {made}\n{found}"
    for one in found.matches[:4]:
        if one.zero_signs:
            assert_same_bits(sq.emulate(x, one.spec, inexact="round"), y, f"{seed}: {made} is not {one.label}")
    for group in found.indistinguishable:
        check_apart(found, group.pairs)


def check_apart(found: sq.Identification, pairs: tuple[Apart, ...]) -> None:
    """Inputs that are said to tell specs apart do."""
    specs = {one.label: one.spec for one in found.matches}
    for pair in pairs:
        if pair.input is not None:
            x = pair.input.tensor()
            assert outcome(specs[pair.first], x) != outcome(specs[pair.second], x), str(pair)


@pytest.mark.parametrize("seed", [*range(1000, 1008), 2050, 2113, 2115, 2154, 2175])
def test_a_drawn_spec_or_one_of_the_same_bits_is_found(seed: int) -> None:
    check_drawn(seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(2000, 2200))
def test_many_drawn_specs_are_found(seed: int) -> None:
    check_drawn(seed)


@pytest.mark.parametrize("seed", range(3000, 3004))
def test_a_drawn_scale_above_others_is_found(seed: int) -> None:
    check_drawn(seed, drawn_two_level_spec)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(3004, 3030))
def test_many_drawn_scales_above_others_are_found(seed: int) -> None:
    check_drawn(seed, drawn_two_level_spec)


@pytest.mark.parametrize("seed", [5000, 5058, 5061])
def test_drawn_choices_of_any_fields_are_found(seed: int) -> None:
    check_drawn(seed, drawn_spec_of_any_fields)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(5100, 5300))
def test_many_drawn_choices_of_any_fields_are_found(seed: int) -> None:
    check_drawn(seed, drawn_spec_of_any_fields)


def normal(shape: tuple[int, ...] = (64, 256), seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_one_changed_element_leaves_nothing_that_matches() -> None:
    x = normal()
    y = sq.emulate(x, "mxfp4", like="torchao-main/rceil")
    y[5, 7] *= 2
    found = sq.identify(x, y)
    near = found.nearest[0]
    assert found.matches == () and near.label == "mxfp4 scale_rule=rceil"
    assert near.differing == 1 and near.index == (5, 7) and sum(near.kinds.values()) == 1
    assert near.y_bits == f"0x{int(y.view(np.uint32)[5, 7]):08X}" != near.our_bits
    assert "nothing matches" in str(found) and near.our_bits in str(found)


def test_a_scale_that_is_one_off_is_said_to_be_one() -> None:
    x = normal()
    y = sq.emulate(x, "mxint8")
    y[3, 32:64] = sq.emulate(x[3, 32:64], "mxint8", scales=sq.encode(x[3, 32:64], "mxint8").scales + 1)
    near = sq.identify(x, y).nearest[0]
    assert near.label == "mxint8" and near.blocks == 1 and near.kinds == {"scales": near.differing}


def test_ties_that_go_elsewhere_are_said_to_be_ties() -> None:
    x = np.round(normal() * 8) / 8
    y = sq.emulate(x, "mxfp4")
    ties = np.flatnonzero(y != sq.emulate(x, "mxfp4", rounding="nearest_zero"))
    y.flat[ties[:4]] = sq.emulate(x, "mxfp4", rounding="nearest_zero").flat[ties[:4]]
    near = sq.identify(x, y).nearest[0]
    assert near.label == "mxfp4" and near.kinds == {"ties": 4}


@pytest.mark.parametrize("steps", [20.3, pytest.param(6.5, marks=pytest.mark.exhaustive)])
def test_a_made_up_quantizer_matches_nothing(steps: float) -> None:
    x = normal((32, 96))
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(steps)
    found = sq.identify(x, np.trunc(x / scale) * scale * np.float32(1.0371))
    assert found.matches == () and 1 <= len(found.nearest) <= 3
    assert found.nearest[0].differing > 100 and found.nearest[0].index


def test_specs_that_the_tensor_cannot_tell_apart_come_with_inputs_that_do() -> None:
    x = np.abs(normal())
    found = sq.identify(x, sq.emulate(x, "mxfp4"))
    assert found.best is not None and found.best.label == "mxfp4" and "ocp" in found.best.presets
    assert "torchao-main/floor" in found.best.presets  # one spec with several names
    (group,) = found.indistinguishable
    assert "mxfp4 signed_zero=drop" in group.specs and "nearest_away" in found.undecided["rounding"]
    check_apart(found, group.pairs)
    told = {(pair.first, pair.second): pair for pair in group.pairs}
    pair = told["mxfp4", "mxfp4 signed_zero=drop"]
    assert pair.input is not None and len(pair.input.elements) == 1
    assert (pair.first_bits, pair.second_bits) == ("0x80000000", "0x00000000")


def test_a_zero_of_the_other_sign_is_a_match_with_a_flag() -> None:
    x = normal()
    y = sq.emulate(x, "mxfp4")
    y[(y == 0) & (np.arange(y.size).reshape(y.shape) % 2 == 0)] = 0.0
    found = sq.identify(x, y)
    assert found.best is not None and not found.best.zero_signs and found.best.label == "mxfp4"


@pytest.mark.parametrize("order", ["sparsify_first", "quantize_first"])
def test_sparsity_shows_in_the_zeros(order: str) -> None:
    x = normal()
    found = sq.identify(x, sq.emulate(x, "mxfp8", sparsity="2:4", order=order))
    assert found.best is not None and found.best.spec == sq.spec("mxfp8", sparsity="2:4", order=found.best.spec.order)
    assert found.facts["sparsity"]["-1"] == "2:4"
    assert_same_bits(sq.emulate(x, found.best.spec), sq.emulate(x, "mxfp8", sparsity="2:4", order=order))


def test_a_mask_of_torch_s_topk_is_told_from_other_ties() -> None:
    x = torch.from_numpy(np.round(normal() * 8) / 8)
    mask = torch.zeros(x.shape).view(-1, 4).scatter_(-1, x.abs().view(-1, 4).topk(2).indices, 1).view(x.shape)
    found = sq.identify(x, sq.emulate(x * mask, "mxfp8"))
    assert found.best is not None and found.best.spec == sq.spec("mxfp8", sparsity="2:4", ties="topk")
    assert found.best.label == "mxfp8_e4m3 sparsity=2:4 ties=topk" and "ties" not in found.undecided


def test_ties_are_undecided_where_there_are_none() -> None:
    x = np.random.default_rng(6).permutation(np.arange(1.0, 64 * 128 + 1, dtype=np.float32)).reshape(64, 128)
    found = sq.identify(x, sq.emulate(x, "mxfp8", sparsity="2:4"))
    assert found.undecided["ties"] == ("highest_index", "topk")


def test_blocks_and_axes_are_found() -> None:
    x = normal((96, 160)) * np.exp2(np.random.default_rng(1).integers(-6, 6, (96, 160))).astype(np.float32)
    for block, axis in ((16, 0), ("row", 0), ("16x16", -1), ("tensor", -1)):
        made = sq.spec("mxfp6", block=block, axis=axis)
        found = sq.identify(x, sq.emulate(x, made))
        assert found.best is not None and found.best.spec == made
        assert sq.identify(x, sq.emulate(x, made), axis=axis).best is not None


def test_dtypes_may_differ_and_torch_tensors_are_taken() -> None:
    x = torch.from_numpy(normal()).to(torch.bfloat16)
    found = sq.identify(x, sq.emulate(x.float(), "nvfp4"))
    assert found.best is not None and found.best.label == "nvfp4" and found.dtypes == ("bfloat16", "float32")


def test_bad_input_is_refused_before_any_work() -> None:
    x = normal()
    with pytest.raises(ValueError, match=r"y: shape \(64, 128\); needed the shape of x, \(64, 256\)"):
        sq.identify(x, x[:, :128])
    with pytest.raises(TypeError, match="y: dtype int64"):
        sq.identify(x, x.astype(np.int64))
    with pytest.raises(TypeError, match="x: needed a NumPy array or a torch tensor, got list"):
        sq.identify([1.0], x)
    with pytest.raises(ValueError, match="has no elements"):
        sq.identify(x[:0], x[:0])
    with pytest.raises(ValueError, match="y equals x everywhere: the identity, or any format that holds these numbers"):
        sq.identify(x, x.astype(np.float64))
    with pytest.raises(ValueError, match="axis=2: the array has 2 axes"):
        sq.identify(x, x + 1, axis=2)
    with pytest.raises(ValueError, match="threads=0"):
        sq.identify(x, x + 1, threads=0)


def test_results_are_the_same_every_time_and_are_json() -> None:
    x = normal((300, 70))
    y = sq.emulate(x, "int8", scale_compute="bf16")
    one, other = sq.identify(x, y), sq.identify(x, y, threads=2)
    assert one == other and one.best is not None
    data = json.loads(one.to_json())
    assert data["matches"][0]["label"] == one.best.label == "int8 scale_compute=bf16"
    assert sq.Spec.from_json(json.dumps(data["matches"][0]["spec"])) == one.best.spec
    assert data["nearest"] == [] and data["seconds"] >= 0 and one.whole_runs <= 512


def test_the_command_reads_the_files_of_rank(tmp_path: Path) -> None:
    x = normal((16, 64))
    before, after = tmp_path / "before.npy", tmp_path / "after.npy"
    np.save(before, x)
    np.save(after, sq.emulate(x, "mxfp4", like="quark-0.13/even"))
    run = CliRunner().invoke(app, ["identify", str(before), str(after)])
    assert run.exit_code == 0 and "quark-0.13/even" in run.output
    run = CliRunner().invoke(app, ["identify", str(before), str(after), "--json", "--axis", "-1"])
    assert "quark-0.13/even" in json.loads(run.output)["matches"][0]["presets"]
    np.save(after, np.where(x == x.max(), 0, sq.emulate(x, "mxfp4")))
    assert CliRunner().invoke(app, ["identify", str(before), str(after)]).exit_code == 1
    np.savez(tmp_path / "two.npz", a=x, b=x)
    run = CliRunner().invoke(app, ["identify", str(tmp_path / "two.npz"), str(after)])
    assert isinstance(run.exception, ValueError) and "name one with --tensor" in str(run.exception)
