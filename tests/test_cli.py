"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import sparq_sim as sq
from commands import sparq, table
from gguf_files import Tensor, gguf


def test_a_process_says_what_this_one_says() -> None:
    command = [sys.executable, "-m", "sparq_sim.cli"]
    for arguments, code in ((["show", "mxfp4"], 0), (["show", "mxfp5"], 2), (["--no-such-option"], 2)):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        own = sparq(*arguments, code=code)
        assert (done.returncode, done.stdout) == (code, own.stdout)
        if arguments[0] == "show":
            assert done.stderr == own.stderr


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 80)).astype(np.float32)


def test_formats_lists_the_catalog() -> None:
    rows = table("formats")
    assert [row["name"] for row in rows] == list(sq.formats())
    assert next(row for row in rows if row["name"] == "mxfp4")["bits_per_element"] == 4.25
    assert {row["name"]: row["evidence"] for row in rows} == {f.name: f.evidence for f in sq.formats().values()}
    assert "mxfp6_e2m3" in sparq("formats").stdout and "inferred" in sparq("formats").stdout


def test_show_prints_every_code_of_an_element() -> None:
    shown = table("show", "mxfp4")
    assert [row["value"] for row in shown["codes"]][:8] == ["0.0", "0.5", "1.0", "1.5", "2.0", "3.0", "4.0", "6.0"]
    assert shown["codes"][8]["value"] == "-0.0"
    assert table("show", "e8m0")["codes"][255]["value"] == "nan"
    assert table("show", "ue5m3")["codes"][254]["value"] == "114688.0"
    assert shown["evidence"] == shown["format"]["evidence"] == "specification"
    assert table("show", "msfp13")["evidence"] == "inferred"
    assert "0 10 1" in sparq("show", "e2m1").stdout and "(specification)" in sparq("show", "e2m1").stdout


def test_show_names_what_it_knows() -> None:
    assert "unknown format, element or datapath 'mxfp5'; known: mxfp" in sparq("show", "mxfp5", code=2).stderr
    assert "'hoper_fp8'; known: hopper_fp8, " in sparq("show", "hoper_fp8", code=2).stderr


def test_show_reads_a_machine_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"reduce": "align", "group": 8, "fraction_bits": 20, "operands": ["e4m3"]}')
    shown = table("show", str(file))
    assert shown["fields"] == {"reduce": "align", "group": 8, "fraction_bits": 20}
    assert shown["operands"] == ["e4m3"] and shown["evidence"] == "user" and shown["name"] == str(file)
    assert "group" in sparq("show", str(file)).stdout
    file.write_text('{"reduce": "align", "groups": 8}')
    assert "mine.json: Datapath has no field 'groups'" in sparq("show", str(file), code=2).stderr
    file.write_text('{"reduce": "align", "reduce": "fma"}')
    assert "mine.json: no JSON of a machine: a field is given twice" in sparq("show", str(file), code=2).stderr
    file.write_text("[" * 99999)
    assert "mine.json: no JSON of a machine" in sparq("show", str(file), code=2).stderr
    for command in (["show"], ["probe"], ["check", "--datapath"]):
        stderr = sparq(*command, str(tmp_path / "nothing.json"), code=2).stderr
        assert "nothing.json: cannot be read (No such file or directory)" in stderr


def test_presets_are_listed_with_their_choices() -> None:
    rows = {row["name"]: row for row in table("presets")}
    assert list(rows) == list(sq.presets())
    for name, preset in sq.presets().items():
        assert tuple(rows[name]["formats"]) == preset.formats
        for format in preset.formats:
            assert {**rows[name]["choices"], **rows[name]["by_format"].get(format, {})} == preset.choices_for(format)
    assert "quark-0.13/even" in sparq("presets").stdout and "even_bits=8" in sparq("presets").stdout


def test_show_takes_a_preset() -> None:
    shown = table("show", "mxint8", "--like", "quark-0.13/even")["format"]
    assert shown["scale_rule"] == "even" and shown["choices"] == {"even_bits": 8, "infinite": "top", "scale_minimum": 7}
    assert "says nothing of hbfp8; formats: mxfp4" in sparq("show", "hbfp8", "--like", "ocp", code=2).stderr
    assert "presets choose for formats" in sparq("show", "e4m3", "--like", "ocp", code=2).stderr


def test_emulate_takes_a_preset_and_choices_override_it(tmp_path: Path, weights: np.ndarray) -> None:
    np.save(tmp_path / "in.npy", weights)
    common = ("emulate", tmp_path / "in.npy", "-f", "mxfp4", "-o", tmp_path / "out.npy", "--like", "torchao-main/rceil")
    assert table(*common)["digest"] == sq.spec("mxfp4", scale_rule="rceil").digest
    assert np.load(tmp_path / "out.npy").tobytes() == sq.emulate(weights, "mxfp4", scale_rule="rceil").tobytes()
    assert table(*common, "--choice", "scale_rule=ceil")["digest"] == sq.spec("mxfp4", scale_rule="ceil").digest


def test_emulate_writes_what_emulate_returns(tmp_path: Path, weights: np.ndarray) -> None:
    np.save(tmp_path / "in.npy", weights)
    rows = table("emulate", tmp_path / "in.npy", "-f", "mxfp4", "-o", tmp_path / "out.npy", "--sparsity", "2:4")
    expected = sq.emulate(weights, "mxfp4", sparsity="2:4")
    assert np.load(tmp_path / "out.npy").tobytes() == expected.tobytes()
    assert rows["digest"] == sq.spec("mxfp4", sparsity="2:4").digest
    assert rows["tensors"][0]["shape"] == list(weights.shape)


def test_emulate_rounds_stochastically_by_a_seed(tmp_path: Path, weights: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", b=weights, a=weights)
    out, words = tmp_path / "out.npz", ("--choice", "rounding=stochastic")
    sparq("emulate", tmp_path / "in.npz", "-f", "mxfp4", "-o", out, *words, "--seed", "7")
    with np.load(out) as made:
        for stream, name in enumerate("ab"):
            expected = sq.emulate(weights, "mxfp4", rounding="stochastic", random=sq.Philox(7, stream))
            assert made[name].tobytes() == expected.tobytes()
    # A tensor alone gets the numbers that it gets among the others.
    sparq("emulate", tmp_path / "in.npz", "-f", "mxfp4", "-o", out, *words, "--seed", "7", "--tensor", "b")
    with np.load(out) as made:
        assert list(made) == ["b"]
        assert made["b"].tobytes() == expected.tobytes()
    refused = sparq("emulate", tmp_path / "in.npz", "-f", "mxfp4", "-o", out, *words, code=2)
    assert "needs --seed" in refused.stderr


def test_emulate_reads_and_writes_archives(tmp_path: Path, weights: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", a=weights, b=weights.astype(np.float64))
    sparq("emulate", tmp_path / "in.npz", "-f", "hbfp8", "-o", tmp_path / "out.npz", "--choice", "rounding=toward_zero")
    with np.load(tmp_path / "out.npz") as out:
        for name, dtype in (("a", np.float32), ("b", np.float64)):
            expected = sq.emulate(weights.astype(dtype), "hbfp8", rounding="toward_zero")
            assert out[name].dtype == dtype and out[name].tobytes() == expected.tobytes()


def test_safetensors_keep_their_dtypes_and_carry_the_spec(tmp_path: Path, weights: np.ndarray) -> None:
    tensors = {"w": torch.from_numpy(weights), "h": torch.from_numpy(weights).bfloat16(), "f": torch.ones(3).half()}
    save_file(tensors, tmp_path / "in.safetensors")
    sparq("emulate", tmp_path / "in.safetensors", "-f", "mxfp8", "-o", tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    for name, tensor in tensors.items():
        assert out[name].dtype == tensor.dtype
        assert torch.equal(out[name], sq.emulate(tensor, "mxfp8"))
    with safetensors.safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert sq.Spec.from_json(file.metadata()["sparq_spec"]) == sq.spec("mxfp8")


def test_commands_read_the_plain_tensors_of_gguf_files(tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((4, 64), dtype=np.float32)
    half, brain = x.astype(np.float16), sq.encode(x, "bf16").codes
    path, out = tmp_path / "model.gguf", tmp_path / "out.safetensors"
    plain = [
        Tensor("f", (64, 4), 0, x.tobytes()),
        Tensor("h", (64, 4), 1, half.tobytes()),
        Tensor("b", (64, 4), 30, brain.tobytes()),
        Tensor("i", (3,), 26, np.int32([1, 2, 3]).tobytes()),
    ]
    path.write_bytes(gguf([], [*plain, Tensor("k", (256,), 12, bytes(144))]))
    said = sparq("emulate", path, "-f", "mxfp4", "-o", out, code=2).stderr
    assert "tensor 'k' is Q4_K; needed one of plain numbers" in said and not out.exists()
    sparq("emulate", path, "-f", "mxfp4", "-o", out, *(w for name in "fhbi" for w in ("--tensor", name)))
    made = load_file(out)
    assert made["f"].numpy().tobytes() == sq.emulate(x, "mxfp4").tobytes()
    assert made["h"].numpy().tobytes() == sq.emulate(half, "mxfp4").tobytes()
    assert made["b"].dtype == torch.bfloat16 and made["i"].tolist() == [1, 2, 3]
    assert torch.equal(
        made["b"], sq.emulate(torch.from_numpy(brain.view(np.int16).copy()).view(torch.bfloat16), "mxfp4")
    )
    assert table("rank", path, "-f", "int8", "--tensor", "f")["rows"][0]["name"] == "int8"
    assert table("identify", path, out, "--tensor", "f")["matches"][0]["label"] == "mxfp4"
    words = ("identify-datapath", f"{path}:f", f"{path}:k", f"{path}:f")
    assert "tensor 'k' is Q4_K; needed one of plain numbers" in sparq(*words, code=2).stderr
    path.write_bytes(gguf([], plain)[:-100])
    assert "not a readable GGUF file (tensor 'b' needs bytes" in sparq("rank", path, code=2).stderr
    path.write_bytes(gguf([], plain))
    refused = sparq("emulate", path, "-f", "mxfp4", "-o", tmp_path / "x.gguf", code=2).stderr
    assert "x.gguf: needed a file named *.npy, *.npz, *.safetensors" in refused


def test_a_damaged_file_is_an_error_and_writes_nothing(tmp_path: Path, weights: np.ndarray) -> None:
    np.save(tmp_path / "good.npy", weights)
    good = (tmp_path / "good.npy").read_bytes()
    save_file({"w": torch.from_numpy(weights)}, tmp_path / "good.safetensors")
    np.savez(tmp_path / "good.npz", a=weights)
    damaged = {
        "cut.npy": good[:200],
        "text.npy": b"hello",
        "empty.npz": b"",
        "cut.npz": (tmp_path / "good.npz").read_bytes()[:300],
        "cut.safetensors": (tmp_path / "good.safetensors").read_bytes()[:-40],
        "text.safetensors": b"\xff" * 64,
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        out = tmp_path / f"out{Path(name).suffix}"
        message = sparq("emulate", tmp_path / name, "-f", "mxfp4", "-o", out, code=2).stderr
        assert "not a readable" in message and "pickle" not in message
        assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"-f": "mxfp5"}, "unknown format"),
        ({"-o": "out.txt"}, r"needed a file named \*.npy"),
        ({"-o": "missing/out.npy"}, "cannot write there"),
        ({"--sparsity": "5:4"}, "1 <= N <= M"),
        ({"--choice": "rounding=upward"}, "choose one of nearest_even"),
        ({"--choice": "rounding"}, "needed name=word"),
        ({"--axis": "7"}, "the array has 2 axes"),
    ],
)
def test_wrong_arguments_are_one_line_of_error(
    tmp_path: Path, weights: np.ndarray, change: dict[str, str], message: str
) -> None:
    np.save(tmp_path / "in.npy", weights)
    options = {"-f": "mxfp4", "-o": "out.npy", **change}
    options["-o"] = str(tmp_path / options["-o"])
    stderr = sparq("emulate", tmp_path / "in.npy", *[w for pair in options.items() for w in pair], code=2).stderr
    assert re.search(message, stderr), stderr
    assert len(stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy"]


def test_tensors_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.arange(4))
    stderr = sparq("emulate", tmp_path / "in.npy", "-f", "mxfp4", "-o", tmp_path / "o.npy", code=2).stderr
    assert "holds int64; needed a tensor of float16, bfloat16, float32, float64" in stderr


def test_an_operand_that_the_machine_cannot_take_is_refused_before_any_work() -> None:
    stderr = sparq("check", "--weights", "mxfp8", "--datapath", "hopper_fp8", code=2).stderr
    assert "this datapath takes no scales that vary along K" in stderr


def test_diff_prints_both_sides() -> None:
    common = ("diff", "mxfp4", "--like", "torchao-main/floor")
    shown = sparq(*common, "--like", "quark-0.13/even").stdout
    assert "smallest input that tells them apart: [-0 (0x80000000)]" in shown and "signed_zero" in shown
    data = table(*common, "--with", "scale_rule=rceil,divisor=7.25", "--seed", "3")
    assert data == sq.diff("mxfp4", "torchao-main/floor", {"scale_rule": "rceil", "divisor": 7.25}, seed=3).to_dict()
    assert "the same spec" in sparq(*common, "--with", "").stdout


def test_diff_measures_a_file(tmp_path: Path) -> None:
    x = np.random.default_rng(5).standard_normal((4, 96), dtype=np.float32)
    np.savez(tmp_path / "two.npz", a=x, b=np.arange(4))
    data = table("diff", "mxfp4", "--with", "", "--with", "scale_rule=even", "--data", tmp_path / "two.npz")
    assert data == sq.diff("mxfp4", {}, {"scale_rule": "even"}, data=x).to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mxfp4", "--like", "ocp"), "1 sides: needed two"),
        (("mxfp4", "--like", "ocp", "--like", "opc"), "unknown preset 'opc'; known: ocp"),
        (("mxfp4", "--like", "ocp", "--with", "even"), "--with even: needed name=word"),
        (("mxfp4", "--like", "ocp", "--with", "", "--data", "missing.npy"), "missing.npy: no such file"),
    ],
)
def test_wrong_arguments_of_diff_are_one_line_of_error(arguments: tuple[str, ...], message: str) -> None:
    stderr = sparq("diff", *arguments, code=2).stderr
    assert message in stderr and len(stderr.strip().splitlines()) == 1


def outputs_of(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x.npy, and a.npy and b.npy by two rules of scales."""
    x = np.random.default_rng(5).standard_normal((4, 96), dtype=np.float32)
    a, b = sq.emulate(x, "mxfp4"), sq.emulate(x, "mxfp4", scale_rule="even", rounding="up")
    for name, array in (("x", x), ("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", array)
    return x, a, b


def test_explain_takes_files_presets_and_choices(tmp_path: Path) -> None:
    x, a, b = outputs_of(tmp_path)
    files = [tmp_path / f"{name}.npy" for name in "xab"]
    assert table("explain", *files, "-f", "mxfp4") == sq.explain(x, a, b, format="mxfp4").to_dict()
    assert table("explain", *files) == sq.explain(x, a, b).to_dict()
    sides = ("--like", "torchao-main/even", "--with", "")
    assert table("explain", files[0], "-f", "mxfp4", *sides, "--choice", "block=16", "--axis", "0") == (
        sq.explain(x, "torchao-main/even", {}, format=sq.spec("mxfp4", block=16, axis=0)).to_dict()
    )
    shown = sparq("explain", *files[:2], "-f", "mxfp4", "--with", "scale_rule=even").stdout
    assert "a is taken for" in shown and "which makes 12 of its 12 blocks" in shown and "│ scale_rule │" in shown


def test_explain_compares_bfloat16_as_such(tmp_path: Path) -> None:
    """Values of NVFP4 need more bits than bfloat16 has: they are rounded before they are compared."""
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    a, b = sq.emulate(x, "nvfp4", inexact="round"), sq.emulate(x, "nvfp4", rounding="up", inexact="round")
    save_file({"x": x, "a": a, "b": b}, tmp_path / "all.safetensors")
    for name in "xab":
        save_file({name: {"x": x, "a": a, "b": b}[name], "n": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    one = [tmp_path / f"{name}.safetensors" for name in "xab"]
    stderr = sparq("explain", *one, "-f", "nvfp4", code=2).stderr
    assert "2 tensors of floats; name one with --tensor: n, x" in stderr
    for name, tensor in (("x", x), ("a", a), ("b", b)):
        save_file({"w": tensor}, tmp_path / f"{name}.safetensors")
    data = table("explain", *one, "-f", "nvfp4", "--tensor", "w")
    assert data == sq.explain(x, a, b, format="nvfp4").to_dict()
    assert data["unattributed"] == 0 and data["causes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.npy",), "1 sides: needed two, of files A and B, --like PRESET and --with CHOICES"),
        (("a.npy", "b.npy", "--like", "ocp", "-f", "mxfp4"), "3 sides: needed two"),
        (("a.npy", "--like", "ocp"), "--format: needed beside --like"),
        (("a.npy", "missing.npy", "-f", "mxfp4"), "missing.npy: no such file"),
        (("a.npy", "small.npy"), r"small.npy: shape \(4, 95\); needed that of .*x.npy, \(4, 96\)"),
        (("a.npy", "ints.npy"), "ints.npy: holds int64; needed a tensor of float16"),
        (("a.npy", "b.npy", "-f", "mxfp5"), "unknown format 'mxfp5'"),
        (("missing.npy", "--like", "opc", "-f", "mxfp4"), "unknown preset 'opc'; known: ocp"),
        (("missing.npy", "--with", "scale_rule=odd", "-f", "mxfp4"), "scale_rule 'odd'|scale_rule='odd'"),
    ],
)
def test_wrong_arguments_of_explain_are_one_line_of_error(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    outputs_of(tmp_path)
    np.save(tmp_path / "small.npy", np.zeros((4, 95), np.float32))
    np.save(tmp_path / "ints.npy", np.zeros((4, 96), np.int64))
    given = [tmp_path / word if word.endswith(".npy") else word for word in arguments]
    stderr = sparq("explain", tmp_path / "x.npy", *given, code=2).stderr
    assert re.search(message, stderr) and len(stderr.strip().splitlines()) == 1, stderr


def test_datapaths_and_one_machine_are_shown() -> None:
    listed = json.loads(sparq("datapaths", "--json").stdout)
    assert [row["name"] for row in listed] == list(sq.datapaths())
    assert {row["evidence"] for row in listed} == {"definition", "hardware", "model", "inferred"}
    table = sparq("datapaths").stdout
    assert all(name in table for name in sq.datapaths())
    shown = sparq("show", "hopper_fp8").stdout
    assert "fraction_bits" in shown and "13" in shown and "e4m3 e5m2" in shown and "0x7fffffff" in shown
    assert json.loads(sparq("show", "hopper_fp8", "--json").stdout)["fields"]["group"] == 32
    assert "presets choose for formats" in sparq("show", "hopper_fp8", "--like", "x", code=2).stderr
