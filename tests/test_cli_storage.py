"""Commands about what memory holds, run as a user runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import sparq_sim as sq
from commands import sparq, table
from gguf_files import Tensor, gguf


def test_layouts_are_listed() -> None:
    rows = table("layouts")
    assert [row["name"] for row in rows] == list(sq.layouts())
    assert {row["name"]: row["evidence"] for row in rows} == {one.name: one.evidence for one in sq.layouts().values()}
    assert "gguf_q4_0" in sparq("layouts").stdout


def test_size_says_both_numbers() -> None:
    made = table("size", "mxfp6", "--sparsity", "2:4", "--shape", "1024x1024", "--gemm", "16x1024x1024")
    assert made["bits_per_element"] == 4.25 and round(made["elements_alone_against_fp32"], 1) == 10.7
    assert made["gemm"]["b_bytes"] == 1024 * 1024 * 4.25 / 8
    rank = table("size", "mxfp4", "--sparsity", "2:4", "--encoding", "rank", "--gemm", "16x100x100")
    assert rank["gemm"]["b_bytes"] == sq.storage("mxfp4", (100, 100), sparsity="2:4", encoding="rank").total // 8
    shown = sparq("size", "mxfp6", "--sparsity", "2:4").stdout
    assert "7.529 times smaller" in shown and "10.67 times (what papers often count)" in shown


def test_tradeoff_measures_a_model() -> None:
    made = table("tradeoff", "tests/data/digits_cnn.safetensors", "-f", "mxfp6", "-f", "mxfp4", "--sparsity", "2:4")
    assert [row["format"] for row in made["rows"]] == ["mxfp4", "mxfp6"] and made["rows"][0]["sparsity"] == "2:4"
    assert made["rows"][0]["snr_db"] < made["rows"][1]["snr_db"]


def test_inspect_lists_tensors_and_shows_the_bits_of_a_block(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    path = tmp_path / "two.safetensors"
    sq.save(path, {"a": sq.encode(x, "mxfp4", sparsity="2:4"), "b": sq.encode(x, "nvfp4")})
    assert [(row["name"], row["bits_per_element"]) for row in table("inspect", path)] == [("a", 3.25), ("b", 4.625)]
    block = table("inspect", path, "--tensor", "a", "--index", "3,40")
    assert block["elements"][0]["index"] == [3, 32] and len(block["elements"]) == 32
    assert [one["value"] for one in block["elements"]] == sq.load(path, "a").decode()[3, 32:].tolist()
    assert "1 11 1" in sparq("inspect", path, "--tensor", "a").stdout


def test_inspect_lists_gguf_files_and_shows_the_bits_of_a_block(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    blocks = sq.encode(x, "q4_0").pack("gguf_q4_0").planes["elements"].tobytes()
    path = tmp_path / "model.gguf"
    tensors = [
        Tensor("blk.0.w", (64, 4), 2, blocks),
        Tensor("norm", (64,), 0, x[0].tobytes()),
        Tensor("[red]k\x1b", (256,), 12, bytes(144)),
        Tensor("new", (3,), 99),
    ]
    path.write_bytes(gguf([], tensors))
    listed = [(r["name"], r.get("layout"), r.get("type"), r["bits_per_element"]) for r in table("inspect", path)]
    assert listed == [
        ("blk.0.w", "gguf_q4_0", None, 4.5),
        ("norm", "row_major", None, 32),
        ("[red]k\x1b", None, "Q4_K", 4.5),
        ("new", None, "type 99", None),
    ]
    shown = sparq("inspect", path).stdout
    assert "Q4_K" in shown and "'[red]k\\x1b'" in shown and "\x1b" not in shown
    block = table("inspect", path, "--tensor", "blk.0.w", "--index", "3,40")
    assert block["elements"][0]["index"] == [3, 32] and len(block["elements"]) == 32
    assert [one["value"] for one in block["elements"]] == sq.load(path, "blk.0.w").decode()[3, 32:].tolist()
    assert block["scales"][0]["bits"] == f"0x{int.from_bytes(blocks[18 * 7 : 18 * 7 + 2], 'little'):04X}"
    assert "tensor 'new' is of ggml's type 99; read are F32" in sparq("inspect", path, "--tensor", "new", code=2).stderr


def test_inspect_lists_what_lies_beside_encoded_tensors(tmp_path: Path) -> None:
    model, out = tmp_path / "in", tmp_path / "out"
    model.mkdir()
    rng = np.random.default_rng(1)
    w, bias = rng.standard_normal((4, 64), dtype=np.float32), rng.standard_normal(4).astype(np.float16)
    safetensors.numpy.save_file({"w": w, "bias": bias}, model / "m.safetensors")
    sparq("encode", model, "-f", "mxfp4", "-o", out)
    rows = table("inspect", out / "m.safetensors")
    assert [(r["name"], r.get("type"), r["bits_per_element"]) for r in rows] == [("w", None, 4.25), ("bias", "F16", 16)]
    done = sparq("inspect", out / "m.safetensors", "--tensor", "bias", code=2)
    assert "tensor 'bias' is F16 that is not encoded" in done.stderr


def test_a_directory_is_answered_with_the_files_that_can_be_inspected(tmp_path: Path) -> None:
    needed = f"error: {tmp_path}: is a directory; needed one of its safetensors or GGUF files"
    assert sparq("inspect", tmp_path, code=2).stderr == f"{needed}, and there are none\n"
    for number in range(5):
        sq.encode(np.ones((2, 32), np.float32), "mxfp4").save(tmp_path / f"model-0000{number + 1}-of-00005.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    listed = ", ".join(f"model-0000{number}-of-00005.safetensors" for number in (1, 2, 3))
    for done in (
        sparq("inspect", tmp_path, code=2),
        sparq("emulate", tmp_path, "-f", "mxfp4", "-o", tmp_path / "out.npy", code=2),
    ):
        assert done.stderr == f"{needed}: {listed} and 2 more\n"
    for read in (sq.load, sq.contents, sq.others):
        with pytest.raises(ValueError, match="is a directory"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("size", "mxfp4", "--layout", "none"), "unknown layout 'none'; known: row_major"),
        (("size", "mxfp4", "--shape", "4x"), "--shape 4x: needed sizes such as 4096x4096"),
        (("size", "mxfp4", "--gemm", "4x4"), "--gemm 4x4: needed sizes such as MxNxK"),
        (("size", "mxfp4", "--sparsity", "2:4", "--layout", "amd_32x8"), "has no place for positions"),
        (("inspect", "none.safetensors"), "none.safetensors: no such file"),
        (("inspect", "tests/data/digits_cnn.safetensors"), "holds no encoded tensors"),
    ],
)
def test_wrong_arguments_are_one_line_of_error(arguments: tuple[str, ...], message: str) -> None:
    done = sparq(*arguments, code=2)
    assert message in done.stderr and done.stderr.count("\n") == 1
