"""identify_datapath: machines are recognised by what they compute, and what is not recognised is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import sparq_sim as sq
from commands import sparq, table
from conftest import Array, bits_of
from sparq_sim.variants import changed, variants, with_fields
from test_datapaths import Side, drawn_problem, operand_names

GOLDEN = Path(__file__).parent / "golden"


def e4m3(rng: np.random.Generator, rows: int, k: int) -> Array:
    return rng.standard_normal((rows, k)).astype(ml_dtypes.float8_e4m3fn)


def spread_e4m3(rng: np.random.Generator, rows: int, k: int) -> Array:
    """Of many sizes, so that few bits do not hold their sums."""
    wide = rng.standard_normal((rows, k)) * np.exp2(rng.integers(-6, 7, (rows, k)))
    return wide.astype(ml_dtypes.float8_e4m3fn)


def operands(name: str, rng: np.random.Generator) -> tuple[Side, Side, dict[str, Any]]:
    record = sq.datapaths()[name].record
    element = "fp16" if name in ("exact", "fma32") else operand_names(record, name)[0]
    a, b = drawn_problem(rng, record if record.reduce not in ("exact", "fma") else sq.Datapath(reduce="tree"),
                         (element, element), "near", 96 if record.presum == 1 else 128)  # fmt: skip
    scales = {f"{side}_scales": x.scales for side, x in (("a", a), ("b", b)) if x.scales is not None}
    return a, b, {"a_format": element, "b_format": element, **scales}


@pytest.mark.parametrize("name", sq.datapaths())
def test_every_machine_of_the_catalog_is_recognised(name: str) -> None:
    a, b, options = operands(name, np.random.default_rng(len(name)))
    d = sq.matmul(a.codes, b.codes, datapath=name, **options)
    found = sq.identify_datapath(a.codes, b.codes, d, **options)
    assert name in {other for match in found.matches for other in match.names}
    assert all(match.equal == match.total == d.size and match.index is None for match in found.matches)
    assert set(found.refused) & {other for match in found.matches for other in match.names} == set()


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("hopper_fp8", {"group": 16, "fraction_bits": 14}),
        ("hopper_fp8", {"accumulator_fraction": 11, "align_rounding": "nearest_even"}),
        ("blackwell_f8f6f4", {"accumulator_rounding": "nearest_even"}),
        ("mxdotp", {"group": 16}),
        ("mxdotp", {"accumulator_fraction": 10}),
        ("fma32", {"accumulator_fraction": 7}),
        ("fma32", {"accumulator_rounding": "toward_zero"}),
    ],
)
def test_a_machine_in_no_catalog_is_found_by_turning_knobs(base: str, changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    a, b = spread_e4m3(rng, 24, 384), spread_e4m3(rng, 24, 384)
    record = with_fields(sq.datapaths()[base].record, changes)
    assert record is not None
    found = sq.identify_datapath(a, b, sq.matmul(a, b, datapath=record))
    best = found.best
    assert best is not None and best.exact and best.names == ()
    # Perhaps under the name of a machine that is as near.
    assert changed(best.record, record) == {} and len(best.changes) <= len(changes)
    assert best.label.split(" with ")[0] in sq.datapaths()
    assert np.array_equal(sq.matmul(a, b, datapath=best.record), sq.matmul(a, b, datapath=record))


def test_a_promotion_is_the_same_as_parts() -> None:
    rng = np.random.default_rng(3)
    a, b = spread_e4m3(rng, 24, 384), spread_e4m3(rng, 24, 384)
    record = with_fields(sq.datapaths()["hopper_fp8_promoted"].record, {"chunk": 64})
    assert record is not None
    d = sq.matmul(a, b, datapath=record)
    found = sq.identify_datapath(a, b, d)
    labels = [one.label for one in found.matches]
    assert labels[0] == "hopper_fp8 in parts of 64 of K"
    assert any(one.endswith("with chunk 64") for one in found.same_everywhere)
    assert not any("chunk" in one and "parts" in one for one in labels)
    assert np.array_equal(sq.matmul(a, b, datapath="hopper_fp8", split_k=found.matches[0].split), d)


@pytest.mark.parametrize(
    ("base", "k", "split", "result"),
    [
        ("hopper_16", 256, sq.SplitK(parts=4), None),
        ("ampere_16", 200, sq.SplitK(length=64, order="tree"), None),
        ("fma32", 192, sq.SplitK(parts=3), None),
        ("hopper_16", 256, sq.SplitK(parts=2), "fp16"),
    ],
)
def test_products_in_parts_of_k_are_found(base: str, k: int, split: sq.SplitK, result: str | None) -> None:
    rng = np.random.default_rng(14)
    a, b = (rng.standard_normal((20, k)).astype(np.float16) for _ in range(2))
    d = sq.matmul(a, b, datapath=base, split_k=split, result=result)
    found = sq.identify_datapath(a, b, d)
    best = found.best
    assert best is not None and best.exact and best.split is not None and base in best.names
    assert best.split.ends(k, best.record) == split.ends(k, best.record) and best.split.order == split.order
    assert best.label == f"{best.names[0]} in {best.split}"
    again = sq.matmul(a, b, datapath=best.record, split_k=best.split, result=best.result)
    assert np.array_equal(bits_of(again), bits_of(d))
    assert found.to_dict()["candidates"][0]["split_k"]["length"] == best.split.length
    # One wrong output is traced through its parts.
    d[3, 4] = np.nextafter(d[3, 4], d.dtype.type(np.inf))
    near = sq.identify_datapath(a, b, d).best
    assert near is not None and near.index == (3, 4) and near.split == best.split
    trace = near.trace()
    assert trace.bits == int(bits_of(again)[3, 4]) and sum(step.what == "part" for step in trace.steps) > 0


def test_a_given_machine_is_named() -> None:
    rng = np.random.default_rng(4)
    a, b = e4m3(rng, 8, 64), e4m3(rng, 8, 64)
    mine = sq.Datapath(reduce="align", group=8, fraction_bits=9, accumulator_fraction=9)
    found = sq.identify_datapath(a, b, sq.matmul(a, b, datapath=mine), machines=[mine])
    assert found.matches[0].names == ("given 0",)


def test_what_no_machine_makes_has_its_nearest_and_where_that_differs() -> None:
    rng = np.random.default_rng(5)
    a, b = e4m3(rng, 20, 256), e4m3(rng, 12, 256)
    d = sq.matmul(a, b, datapath="hopper_fp8")
    d[3, 4] = np.nextafter(d[3, 4], np.float32(np.inf))
    found = sq.identify_datapath(a, b, d)
    best = found.best
    assert best is not None and not found.matches
    assert (best.names, best.equal, best.total, best.index) == (("hopper_fp8",), 239, 240, (3, 4))
    assert best.given_bits == f"0x{bits_of(d)[3, 4]:08X}"
    trace = best.trace()
    assert f"0x{trace.bits:08X}" == best.our_bits and trace.steps[0].what == "step" and len(trace.steps) == 8
    assert "nearest is hopper_fp8, 99.6% of 240 outputs" in str(found)
    shares = [one.share for one in found.candidates]
    assert shares == sorted(shares, reverse=True)
    for one in found.candidates:  # what is counted is what is computed
        again = bits_of(sq.matmul(a, b, datapath=one.record, result=one.result))
        assert one.equal == int((again == bits_of(d)).sum()), one.label
    with pytest.raises(ValueError, match="no output differs"):
        sq.identify_datapath(a, b, sq.matmul(a, b, datapath="hopper_fp8")).matches[0].trace()


def test_inputs_are_given_that_tell_matches_apart() -> None:
    """Up to 128 elements a promoted machine is the plain one."""
    rng = np.random.default_rng(6)
    a, b = e4m3(rng, 8, 128), e4m3(rng, 8, 128)
    found = sq.identify_datapath(a, b, sq.matmul(a, b, datapath="hopper_fp8"))
    names = [name for match in found.matches for name in match.names]
    assert {"hopper_fp8", "hopper_fp8_promoted"} <= set(names)
    assert found.telling
    pairs = {(one.first, one.second) for one in found.telling}
    assert ("hopper_fp8", "hopper_fp8_promoted") in pairs
    machines = {match.label: match.record for match in found.matches}
    for one in found.telling:
        x, y = np.uint8([one.a]), np.uint8([one.b])
        for label, bits in ((one.first, one.first_bits), (one.second, one.second_bits)):
            made = sq.matmul(x, y, datapath=machines[label], a_format="e4m3", b_format="e4m3")
            assert f"0x{bits_of(made)[0, 0]:08X}" == bits, str(one)
        assert one.first_bits != one.second_bits
        assert sum(code != 0 for code in one.a) <= 16, str(one)


def test_outputs_of_sixteen_bits_are_the_machines_own_or_rounded() -> None:
    rng = np.random.default_rng(8)
    a, b = (rng.standard_normal((16, 64)).astype(np.float16) for _ in range(2))
    wide = sq.matmul(a, b, datapath="hopper_16")
    best = {
        "own": sq.identify_datapath(a, b, sq.matmul(a, b, datapath="hopper_16", result="fp16")).best,
        "fp16": sq.identify_datapath(a, b, wide.astype(np.float16)).best,
        "bf16": sq.identify_datapath(a, b, wide.astype(ml_dtypes.bfloat16)).best,
    }
    assert all(one is not None and one.exact for one in best.values())
    said = {key: (one.result, one.rounded) for key, one in best.items() if one is not None}
    assert said == {"own": ("fp16", None), "fp16": ("fp32", "fp16"), "bf16": ("fp32", "bf16")}
    bits = wide.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert sq.identify_datapath(a, b, bits, d_format="bf16").best == best["bf16"]


def test_where_c_enters_is_seen() -> None:
    rng = np.random.default_rng(9)
    a, b = e4m3(rng, 16, 96), e4m3(rng, 16, 96)
    c = (rng.standard_normal((16, 16)) * 1000).astype(np.float32)
    for name in ("hopper_fp8", "hopper_fp8_mma_sync", "blackwell_f8f6f4"):
        found = sq.identify_datapath(a, b, sq.matmul(a, b, datapath=name, c=c), c=c)
        assert found.best is not None and found.best.exact and name in found.best.names
    late = sq.matmul(a, b, datapath="hopper_fp8") + c  # one float32 addition after everything
    best = sq.identify_datapath(a, b, late, c=c).best
    assert best is not None and best.exact and best.record.chunk >= 96


def test_sums_of_torch_come_with_shares() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(32, 300), torch.randn(32, 300)
    found = sq.identify_datapath(a, b, a @ b.T)
    assert found.best is not None and found.best.total == 1024
    assert "hopper_fp8" in found.refused and "does not take" in found.refused["hopper_fp8"]


def test_turned_knobs_are_valid_machines_that_differ() -> None:
    for machine in sq.datapaths().values():
        if machine.record.reduce in ("exact", "fma"):
            continue  # nothing to turn
        made = list(variants(machine.record, 96))
        assert made and all(one != machine.record for one in made)


def test_wrong_arguments_are_refused() -> None:
    x, d = np.ones((2, 4), np.float16), np.ones((2, 2), np.float32)
    for call, error, message in (
        (lambda: sq.identify_datapath(x, x[:, :3], d), ValueError, "K does not match"),
        (lambda: sq.identify_datapath(x, x, d[:1]), ValueError, r"d: shape \(1, 2\); needed \[M, N\] = \(2, 2\)"),
        (lambda: sq.identify_datapath(x, x, d.astype(np.float64)), TypeError, "d: dtype float64; needed float32"),
        (lambda: sq.identify_datapath(x, x, d[0]), ValueError, r"d: shape \(2,\)"),
        (lambda: sq.identify_datapath(x, x, d, c=d[:1]), ValueError, "c: shape"),
        (lambda: sq.identify_datapath(x, x, d, c=d.astype(np.float64)), TypeError, "c: dtype float64"),
        (lambda: sq.identify_datapath(x, x, d, d_format="e4m3"), ValueError, "d_format='e4m3'; known"),
        (lambda: sq.identify_datapath(x, x, d, d_format="fp32"), TypeError, "unsigned integers of its width"),
        (lambda: sq.identify_datapath(x, x, d, machines=["none"]), ValueError, "none"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_command_names_the_machine_of_recorded_products(tmp_path: Path) -> None:
    file = GOLDEN / "gemm" / "hopper_slow_randn_48x32x512.npz"
    options = ("--a-format", "e4m3", "--b-format", "e4m3")
    made = table("identify-datapath", f"{file}:x", f"{file}:w", f"{file}:acc_f32", "--d-format", "fp32", *options)
    assert made["candidates"][0]["names"] == ["hopper_fp8_promoted"] and made["candidates"][0]["equal"] == 48 * 32
    with np.load(file) as arrays:
        wrong = arrays["acc_f32"].copy()
        wrong[1, 2] ^= 1
    np.save(tmp_path / "d.npy", wrong.view(np.float32))
    shown = sparq("identify-datapath", f"{file}:x", f"{file}:w", tmp_path / "d.npy", "--trace", *options, code=1)
    assert "nearest is hopper_fp8_promoted" in shown.stdout and "[1, 2]" in shown.stdout
    assert "step 0: accumulator 0" in shown.stdout
    error = sparq("identify-datapath", f"{file}:x", f"{file}:w", str(file), *options, code=2).stderr
    assert "name one as" in error and error.count("\n") == 1
    json.dumps(made, allow_nan=False)
