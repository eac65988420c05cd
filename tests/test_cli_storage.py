"""Commands about what memory holds, run as a user runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparq_sim as sq
from test_cli import sparq, table


def test_layouts_are_listed() -> None:
    rows = table("layouts")
    assert [row["name"] for row in rows] == list(sq.layouts())
    assert {row["name"]: row["evidence"] for row in rows} == {one.name: one.evidence for one in sq.layouts().values()}
    assert "gguf_q4_0" in sparq("layouts").stdout


def test_size_says_both_numbers() -> None:
    made = table("size", "mxfp6", "--sparsity", "2:4", "--shape", "1024x1024", "--gemm", "16x1024x1024")
    assert made["bits_per_element"] == 4.25 and round(made["elements_alone_against_fp32"], 1) == 10.7
    assert made["gemm"]["b_bytes"] == 1024 * 1024 * 4.25 / 8
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
