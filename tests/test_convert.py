"""Checkpoints, converted a tensor at a time, and bit flips in what is stored."""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sparq_sim as sq
from commands import sparq, table
from gguf_files import Tensor, gguf
from sparq_sim.convert import convert
from sparq_sim.packing import layout_for


def checkpoint(folder: Path, shards: int = 2, size: int = 64) -> dict[str, torch.Tensor]:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    everything: dict[str, torch.Tensor] = {}
    weight_map = {}
    for number in range(shards):
        tensors = {
            f"layers.{number}.fc.weight": torch.randn(size, 2 * size, generator=generator),
            f"layers.{number}.out.weight": torch.randn(size, size, generator=generator).bfloat16(),
            f"layers.{number}.norm.weight": torch.ones(size),
            f"layers.{number}.ids": torch.arange(12).reshape(3, 4),
        }
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        everything |= tensors
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "none"}')
    return everything


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_gguf_file_of_floats_is_encoded(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    half, path, out = x.astype(np.float16), tmp_path / "m.gguf", tmp_path / "out"
    plain = [
        Tensor("w", (64, 8), 1, half.tobytes()),
        Tensor("norm", (64,), 0, x[0].tobytes()),
        Tensor("ids", (4, 2), 26, np.arange(8, dtype=np.int32).tobytes()),
    ]
    path.write_bytes(gguf([], plain))
    done = table("encode", path, "-f", "mxfp4", "-o", out)
    assert (done["tensors"], done["others"]) == (1, 2) and [one.name for one in out.iterdir()] == ["m.safetensors"]
    assert sq.load(out / "m.safetensors") == sq.encode(half, "mxfp4")
    kept = load_file(out / "m.safetensors")
    assert kept["norm"].numpy().tobytes() == x[0].tobytes() and kept["ids"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    found = sq.tradeoff(path, ["mxfp4"], [None])
    assert (found.tensors, found.rows[0].snr_db) == (1, sq.tradeoff({"w": half}, ["mxfp4"], [None]).rows[0].snr_db)
    before = files_of(tmp_path / "out")
    path.write_bytes(gguf([], [*plain, Tensor("k", (256, 2), 12, bytes(288))]))
    for source, output, message in (
        (path, out, "m.gguf: k: is Q4_K, which safetensors files do not hold"),
        (path, tmp_path, "is the input, or where it lies"),
        (tmp_path / "none.gguf", out, "no such file or directory"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(source, output, sq.spec("mxfp4"), sq.find_layout("row_major"))
    assert files_of(out) == before


def test_a_checkpoint_is_encoded_tensor_by_tensor(tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path / "in")
    done = table("encode", tmp_path / "in", "-f", "mxfp4", "--sparsity", "2:4", "-o", tmp_path / "out")
    assert (done["tensors"], done["others"], done["skipped"]) == (4, 4, [])
    assert done["bytes_before"] == 2 * (64 * 128 * 4 + 64 * 64 * 2)
    assert done["bytes_after"] == round(2 * (64 * 128 + 64 * 64) * 3.25 / 8)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert (tmp_path / "out" / "config.json").read_text() == '{"model_type": "none"}'
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16) or tensor.ndim < 2:
            assert torch.equal(load_file(tmp_path / "out" / index["weight_map"][name])[name], tensor)
            continue
        back = sq.load(tmp_path / "out" / index["weight_map"][f"{name}.elements"], name)
        wanted = sq.encode(tensor, "mxfp4", sparsity="2:4")
        assert back.codes.tobytes() == wanted.codes.tobytes() and back.mask.tobytes() == wanted.mask.tobytes()
        assert back.scales.tobytes() == wanted.scales.tobytes()
        assert back.dtype == wanted.dtype and back.spec == wanted.spec
    sizes = sum(entry.stat().st_size for entry in (tmp_path / "out").glob("*.safetensors"))
    assert index["metadata"]["total_size"] < sizes


def test_names_of_other_makers_and_what_is_left_out(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in", shards=1)

    def run(**chosen: list[str]) -> None:
        layout = sq.layouts()["compressed_tensors_mxfp4"]
        convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), layout, **chosen)

    run(exclude=["*.out.*"])
    made = load_file(tmp_path / "out" / "model-00001-of-00001.safetensors")
    assert sorted(made) == [
        "layers.0.fc.weight_packed", "layers.0.fc.weight_scale", "layers.0.ids", "layers.0.norm.weight",
        "layers.0.out.weight",
    ]  # fmt: skip
    run(include=["*.out.*"])
    made = load_file(tmp_path / "out" / "model-00001-of-00001.safetensors")
    assert "layers.0.out.weight_packed" in made and "layers.0.fc.weight" in made


def test_a_checkpoint_can_be_encoded_in_two_passes(tmp_path: Path) -> None:
    """What the first encoded stays, also codes that are stored as floats."""
    tensors = checkpoint(tmp_path / "in", shards=1)
    name, row_major = "model-00001-of-00001.safetensors", sq.find_layout("row_major")
    convert(tmp_path / "in", tmp_path / "one", sq.spec("bf16"), row_major, include=["*.fc.*"])
    convert(tmp_path / "one", tmp_path / "two", sq.spec("mxfp4"), row_major)
    assert set(sq.contents(tmp_path / "two" / name)) == {"layers.0.fc.weight", "layers.0.out.weight"}
    for one, format in (("layers.0.fc.weight", "bf16"), ("layers.0.out.weight", "mxfp4")):
        back, wanted = sq.load(tmp_path / "two" / name, one), sq.encode(tensors[one], format)
        assert back.codes.tobytes() == wanted.codes.tobytes() and torch.equal(
            torch.from_numpy(back.decode(np.float32)), wanted.decode(torch.float32)
        )
    with pytest.raises(ValueError, match="two: nothing to encode"):
        convert(tmp_path / "two", tmp_path / "three", sq.spec("mxfp4"), row_major)
    (tmp_path / "both").mkdir()
    path, w = tmp_path / "both" / "both.safetensors", torch.ones(2, 32)
    sq.encode(w, "mxfp4").save(path, layout="compressed_tensors_mxfp4", name="w")
    with safe_open(path, "pt") as file:
        said = file.metadata()
    save_file({**load_file(path), "w": w}, path, metadata=said)
    with pytest.raises(ValueError, match=r"both\.safetensors: 'w' would be the name of two tensors"):
        convert(path, tmp_path / "three", sq.spec("mxfp4"), row_major)


@pytest.mark.parametrize(
    ("format", "strategy", "scale"),
    [("mxfp4", "group", "torch.uint8"), ("nvfp4", "tensor_group", "torch.float8_e4m3fn")],
)
def test_config_json_says_how_weights_are_stored(tmp_path: Path, format: str, strategy: str, scale: str) -> None:
    """As `QuantizationConfig` of compressed-tensors 0.20 writes its MXFP4A16 and NVFP4A16."""
    checkpoint(tmp_path / "in")
    spec = sq.spec(format, like="compressed-tensors-0.20")
    convert(tmp_path / "in", tmp_path / "out", spec, sq.layouts()[f"compressed_tensors_{format}"], exclude=["*.out.*"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.pop("model_type") == "none"
    weights = {
        "num_bits": 4, "type": "float", "symmetric": True, "group_size": 32 if format == "mxfp4" else 16,
        "strategy": strategy, "dynamic": False, "scale_dtype": scale,
    }  # fmt: skip
    name = f"{format}-pack-quantized"
    group = {"targets": ["layers.0.fc", "layers.1.fc"], "weights": weights, "format": name}
    assert config == {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": name,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": [],
        }
    }
    # Layouts that checkpoints do not name, and checkpoints without the file.
    convert(tmp_path / "in", tmp_path / "plain", sq.spec(format), sq.layouts()["row_major"])
    assert (tmp_path / "plain" / "config.json").read_bytes() == (tmp_path / "in" / "config.json").read_bytes()
    (tmp_path / "in" / "config.json").unlink()
    convert(tmp_path / "in", tmp_path / "bare", spec, sq.layouts()[f"compressed_tensors_{format}"])
    assert not (tmp_path / "bare" / "config.json").exists()


def test_a_family_of_layouts_holds_what_one_of_them_does(tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path / "in")
    of_compressed_tensors = ("--sparsity", "2:4", "--layout", "compressed-tensors")
    pruned = table("encode", tmp_path / "in", "-f", "mxfp4", *of_compressed_tensors, "-o", tmp_path / "out")
    assert pruned["layout"] == "compressed_tensors_mxfp4"
    back = sq.load(tmp_path / "out" / "model-00001-of-00002.safetensors", "layers.0.fc.weight")
    wanted = sq.emulate(tensors["layers.0.fc.weight"], "mxfp4", sparsity="2:4")
    assert back.spec.sparsity is None and np.array_equal(back.decode(), wanted.numpy())
    assert np.mean(back.decode() == 0) >= 0.5
    said = table("encode", tmp_path / "in", "-f", "q8_0", "--layout", "gguf", "-o", tmp_path / "gguf")
    assert said["layout"] == "gguf_q8_0"
    said = table("encode", tmp_path / "in", "-f", "int8", *of_compressed_tensors, "-o", tmp_path / "int8")
    assert said["layout"] == "compressed_tensors_sparse24"


def test_a_family_that_holds_none_or_several_is_refused() -> None:
    with pytest.raises(ValueError, match=r"holds nvfp4; mxfp8_e4m3 is none of them.*holds mxfp4; mxfp8_e4m3"):
        layout_for("compressed-tensors", sq.spec("mxfp8_e4m3"))
    with pytest.raises(ValueError, match="'nvidia' could be nvidia_align16 or nvidia_128x4"):
        layout_for("nvidia", sq.spec("mxfp6_e2m3"))
    with pytest.raises(ValueError, match="unknown layout 'compresse'"):
        layout_for("compresse", sq.spec("mxfp4"))


@pytest.mark.parametrize("content", ["{", "[]", '{"quantization_config": {}}'])
def test_a_config_json_that_nothing_can_be_added_to_is_refused_before_any_work(tmp_path: Path, content: str) -> None:
    checkpoint(tmp_path / "in", shards=1)
    (tmp_path / "in" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: .*quantiz"):
        convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), sq.layouts()["compressed_tensors_mxfp4"])
    assert not (tmp_path / "out").exists()


def test_a_killed_run_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in", shards=6, size=512)
    command = [sys.executable, "-m", "sparq_sim.cli", "encode", str(tmp_path / "in"), "-f", "mxfp6", "-o"]
    convert(tmp_path / "in", tmp_path / "whole", sq.spec("mxfp6"), sq.layouts()["row_major"])
    running = subprocess.Popen([*command, str(tmp_path / "out")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(tmp_path.glob("out/model-*.safetensors")):
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    left = files_of(tmp_path / "out")
    finished = [name for name in left if name.endswith(".safetensors") and not name.startswith(".")]
    assert finished
    whole = files_of(tmp_path / "whole")
    assert all(left[name] == whole[name] for name in finished)
    (tmp_path / "out" / ".model-00006-of-00006.safetensors.0123456789abcdef").write_bytes(b"of a killed run")
    first = {name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in finished}
    again = convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp6"), sq.layouts()["row_major"])
    assert sorted(again.skipped) == sorted(finished)
    assert files_of(tmp_path / "out") == whole
    assert all(os.stat(tmp_path / "out" / name).st_mtime_ns == stamp for name, stamp in first.items())
    # Other arguments: everything again.
    again = convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), sq.layouts()["row_major"])
    assert again.skipped == () and files_of(tmp_path / "out") != whole


def test_a_source_that_changed_is_encoded_again_however_alike_its_file_is(tmp_path: Path) -> None:
    """Same name, size and times, as tools leave them that keep times."""
    checkpoint(tmp_path / "in")
    path, out = tmp_path / "in" / "model-00002-of-00002.safetensors", tmp_path / "out"

    def run() -> tuple[str, ...]:
        return convert(tmp_path / "in", out, sq.spec("mxfp4"), sq.find_layout("row_major")).skipped

    assert run() == ()
    before, old = path.stat(), load_file(path)
    save_file(old | {"layers.1.fc.weight": old["layers.1.fc.weight"] + 1}, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run() == ("model-00001-of-00002.safetensors",)
    wanted = sq.encode(old["layers.1.fc.weight"] + 1, "mxfp4")
    assert sq.load(out / path.name, "layers.1.fc.weight") == wanted
    # The same content under another time is the same.
    os.utime(path, ns=(0, 0))
    assert run() == ("model-00001-of-00002.safetensors", path.name)


def test_a_disk_that_is_full_is_one_line_of_error(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in", shards=1, size=512)
    command = [sys.executable, "-m", "sparq_sim.cli", "encode", str(tmp_path / "in"), "-f", "mxfp4", "-o"]

    def encoded(limit: int) -> subprocess.CompletedProcess[str]:
        """Files of no more bytes stand for a disk that is full."""
        limited = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        return subprocess.run(
            [*command, str(tmp_path / "out")], preexec_fn=limited, capture_output=True, text=True, check=False
        )

    done = encoded(1 << 16)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "out/model-00001-of-00001.safetensors: cannot be written (File too large)" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
    assert encoded(1 << 24).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_is_full_is_one_line_of_error(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "sparq_sim.cli", "layouts", *options]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


@pytest.mark.parametrize("when", ["planned", "read"])
def test_a_source_that_changes_while_it_is_read_is_an_error(tmp_path: Path, when: str) -> None:
    checkpoint(tmp_path / "in", shards=1)
    path = next((tmp_path / "in").glob("*.safetensors"))

    def change(*_: object) -> None:
        stamp = path.stat()
        with path.open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(bytes(8))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    told: dict[str, Any] = {"started" if when == "planned" else "advanced": change}
    with pytest.raises(ValueError, match=r"model-00001-of-00001\.safetensors: changed while it was read"):
        convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), sq.find_layout("row_major"), **told)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_that_is_not_whole_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in")
    index = tmp_path / "in" / "model.safetensors.index.json"
    said = json.loads(index.read_text())["weight_map"]
    one, two = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))

    def refused(text: str, message: str) -> None:
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), sq.find_layout("row_major"))
        assert not (tmp_path / "out").exists()

    def mapped(changed: dict[str, object]) -> str:
        return json.dumps({"weight_map": said | changed})

    refused(mapped({"lost": one}), rf"index\.json: names tensor 'lost', which {one} does not hold")
    refused(mapped({"layers.0.ids": two}), rf"index\.json: names tensor 'layers\.0\.ids', which {two} does not hold")
    refused(mapped({"lost": "model-3.safetensors"}), r"index\.json: names model-3\.safetensors, which is not there")
    for text in ("{", "[]", "{}", '{"weight_map": []}', mapped({"lost": 3}), "[" * 9999):
        refused(text, r"index\.json: is no index of shards")
    (tmp_path / "in" / "other.safetensors.index.json").write_text(mapped({}))
    refused(mapped({}), r"other\.safetensors\.index\.json: is an index beside model\.safetensors\.index\.json")
    (tmp_path / "in" / "other.safetensors.index.json").unlink()
    (tmp_path / "in" / two).unlink()
    refused(mapped({}), rf"index\.json: names {two}, which is not there")
    with pytest.raises(ValueError, match=rf"index\.json: names {two}, which is not there"):
        sq.tradeoff(tmp_path / "in", ["mxfp4"])
    done = sparq("encode", tmp_path / "in", "-f", "mxfp4", "-o", tmp_path / "out", code=2)
    assert two in done.stderr and done.stderr.count("\n") == 1


def test_an_index_keeps_its_name(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in")
    name = "diffusion_pytorch_model.safetensors.index.json"
    (tmp_path / "in" / "model.safetensors.index.json").rename(tmp_path / "in" / name)
    convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), sq.find_layout("row_major"))
    assert [path.name for path in (tmp_path / "out").glob("*index*")] == [name]
    assert "layers.1.fc.weight.scales" in json.loads((tmp_path / "out" / name).read_text())["weight_map"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"include": ["*.fc.*", "*.fd.*"]},
            r"--include \*\.fd\.\*: matches none of 8 tensors: 'layers\.0\.\w+.*, \.\.\.$",
        ),
        ({"exclude": ["lm_head*"]}, r"--exclude lm_head\*: matches none of 8 tensors"),
        (
            {"include": ["*.norm.*"]},
            r"--include \*\.norm\.\*: matches only .*two and more axes.*: 'layers\.0\.norm\.weight'",
        ),
        ({"include": ["*.fc.*"], "exclude": ["layers*"]}, r"in: nothing to encode"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(tmp_path: Path, chosen: dict[str, list[str]], message: str) -> None:
    checkpoint(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "in", tmp_path / "out", sq.spec("mxfp4"), sq.find_layout("row_major"), **chosen)
    assert not (tmp_path / "out").exists()


def test_directories_of_others_are_left_alone(tmp_path: Path) -> None:
    """An output directory is new, or what an earlier run left, whatever its choices were."""
    checkpoint(tmp_path / "in")
    out = tmp_path / "out"
    own, plain = "model-00001-of-00002.safetensors", {"w": torch.ones(2, 32)}

    def refused(message: str) -> None:
        before = files_of(out)
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "in", out, sq.spec("mxfp4"), sq.find_layout("row_major"))
        assert files_of(out) == before

    def run() -> None:
        convert(tmp_path / "in", out, sq.spec("mxfp4"), sq.find_layout("row_major"))

    out.mkdir()
    (out / "notes.txt").write_text("of the user")
    (out / "config.json").write_text("{}")
    refused(r"config\.json: is there already, and no earlier run wrote it; give a new directory")
    (out / "config.json").unlink()
    save_file(plain, out / own)
    refused(rf"{own}: is there already, and no earlier run wrote it")
    (out / own).write_bytes(b"no safetensors file")
    refused(rf"{own}: is there already, and no earlier run wrote it")
    (out / own).unlink()
    run()
    run()
    assert (out / "notes.txt").read_text() == "of the user"
    for name in ("model-00001-of-00003.safetensors", "other.safetensors.index.json"):
        shutil.copy(out / own, out / name)
        refused(rf"{name}: is none of the files that come of {tmp_path / 'in'}; give a new directory")
        (out / name).unlink()
    run()


def test_errors_come_before_anything_is_written(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in", shards=2)

    def run(source: str, output: str, layout: str = "row_major", **choices: str) -> None:
        convert(tmp_path / source, tmp_path / output, sq.spec("mxfp4", **choices), sq.find_layout(layout))

    with pytest.raises(ValueError, match="holds q8_0; mxfp4 is none of them; --exclude leaves"):
        run("in", "out", "gguf_q8_0")
    with pytest.raises(ValueError, match="is the input"):
        run("in", "in")
    with pytest.raises(ValueError, match="no such file or directory"):
        run("no", "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        run("empty", "out")
    bad = {"layers.0.fc.weight": torch.full((2, 32), float("nan"))}
    (tmp_path / "nan").mkdir()
    save_file(bad, tmp_path / "nan" / "model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.0\.fc\.weight: x has NaN or Inf"):
        run("nan", "nan_out", nonfinite="error")
    assert list((tmp_path / "nan_out").iterdir()) == []  # not half a file
    path = next((tmp_path / "in").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        run("in", "out")
    assert not (tmp_path / "out").exists()


# Bit flips


def flipped(tensor: sq.BlockTensor, **how: Any) -> sq.BlockTensor:
    made = sq.flip_bits(tensor, **how)
    assert made == sq.flip_bits(tensor, **how)  # the same seed
    return made


def ones(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.unpackbits(a.view(np.uint8).ravel() ^ b.view(np.uint8).ravel()).sum())


@pytest.mark.parametrize("format_", ("mxfp4", "mxfp8", "nvfp4", "int8", "mx9", "bf16", "hif4"))
def test_as_many_bits_are_flipped_as_were_asked_for(format_: str) -> None:
    x = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    for sparsity in (None, "2:4"):
        tensor = sq.encode(x, format_, sparsity=sparsity)
        stored = tensor.codes.size if tensor.mask is None else int(tensor.mask.sum())
        for how, wanted in (
            ({}, 1),
            ({"count": 17}, 17),
            ({"rate": 0.01}, round(0.01 * stored * tensor.format.element.code_bits)),
        ):
            made = flipped(tensor, seed=3, **how)
            assert ones(made.codes, tensor.codes) == wanted
            assert tensor.mask is None or not bool((made.codes != tensor.codes)[~tensor.mask].any())
            assert made.decode(inexact="round").shape == x.shape
        assert flipped(tensor, seed=4) != flipped(tensor, seed=5)
        made = flipped(tensor, count=stored, bit=0)
        assert bool(((made.codes ^ tensor.codes) == (1 if tensor.mask is None else tensor.mask)).all())
        if tensor.scale_planes:
            main = tensor.format.block_format.main_level
            made = flipped(tensor, where="scales", count=3, seed=1)
            assert ones(made.scale_planes[main], tensor.scale_planes[main]) == 3
            assert made.codes.tobytes() == tensor.codes.tobytes()
            made.decode(inexact="round")
        if len(tensor.scale_planes) > 1:
            made = flipped(tensor, where="scales", level=0, bit=1)
            assert ones(made.scale_planes[0], tensor.scale_planes[0]) == 1


@pytest.mark.parametrize("pattern", ("2:4", "1:4", "4:8/2", "3:5"))
def test_flipped_positions_move_elements_within_their_groups(pattern: str) -> None:
    x = np.random.default_rng(1).standard_normal((6, 43), dtype=np.float32)
    for axis, values in ((-1, x), (0, x.T)):
        tensor = sq.encode(np.ascontiguousarray(values), "mxfp8", sparsity=pattern, axis=axis)
        made = flipped(tensor, where="positions", count=9, seed=2)
        assert ones(made.positions, tensor.positions) == 9
        assert made.compressed()[0].tobytes() == tensor.compressed()[0].tobytes()
        assert made.mask.sum() == tensor.mask.sum() and made.scales.tobytes() == tensor.scales.tobytes()
        assert sq.unpack(made.pack()) == sq.unpack(tensor.pack()) or made != tensor


def test_places_are_those_of_the_words_one_after_the_other() -> None:
    """As the docstring says, drawn one by one."""
    tensor = sq.encode(np.random.default_rng(4).standard_normal((40, 64), dtype=np.float32), "mxfp4")
    total, wanted = tensor.codes.size * 4, tensor.codes.size * 3
    words = sq.Philox(9).words(40 * total).astype(np.uint64)
    seen: dict[int, None] = {}
    for first, second in words.reshape(-1, 2).tolist():
        if len(seen) < wanted:
            seen.setdefault((first << 32 | second) % total)
    codes = tensor.codes.copy().ravel()
    for place in seen:
        codes[place // 4] ^= 1 << place % 4
    assert len(seen) == wanted
    assert np.array_equal(sq.flip_bits(tensor, count=wanted, seed=9).codes.ravel(), codes)
    assert np.array_equal(sq.flip_bits(tensor, rate=1.0, seed=9).codes, tensor.codes ^ 15)


def test_flips_that_mean_nothing_are_refused() -> None:
    dense = sq.encode(np.ones((2, 32), np.float32), "mxfp4")
    sparse = sq.encode(np.ones((2, 32), np.float32), "mxfp4", sparsity="2:4")
    for how, message in (
        ({"where": "bytes"}, "choose one of codes, scales, positions"),
        ({"where": "positions"}, "the tensor is dense"),
        ({"count": 1, "rate": 0.5}, "give one"),
        ({"count": 257}, "count=257: there are 256 such bits"),
        ({"bit": 4}, "bit=4: needed 0 to 3"),
        ({"rate": 1.5}, "needed 0 to 1"),
        ({"level": 0}, "is one of scales"),
        ({"where": "scales", "level": 1}, "level=1: needed 0 to 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sq.flip_bits(dense, **how)
    for count in (1.5, True, "3"):
        with pytest.raises(TypeError, match="needed an integer"):
            sq.flip_bits(dense, count=count)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no more than [0-9]+ flips leave a tensor"):
        sq.flip_bits(sparse, "positions", count=60)
    with pytest.raises(ValueError, match="bf16 has no scales"):
        sq.flip_bits(sq.encode(np.ones(4, np.float32), "bf16"), "scales")
    # A float32 scale never becomes negative.
    rows = sq.encode(np.ones((64, 8), np.float32), "int8")
    with pytest.raises(ValueError, match="no more than 0 flips"):
        sq.flip_bits(rows, "scales", bit=31)
