"""Files of encoded tensors: what is saved comes back, and anything else is an error."""

from __future__ import annotations

import itertools
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparq_sim as sq
from conftest import assert_same_bits
from sparq_sim import disk
from sparq_sim.packing import Packed
from sparq_sim.stored import STORE_VERSION

KEY = "sparq_storage"


def some_tensors() -> dict[str, sq.BlockTensor]:
    x = np.random.default_rng(0).standard_normal((32, 64), dtype=np.float32)
    return {
        "fc.weight": sq.encode(x, "mxfp4", sparsity="2:4"),
        "two": sq.encode(x, "nvfp4", axis=0),
        "three": sq.encode(x.astype(np.float16), "mx9"),
        "four": sq.encode(x, "int4_affine_g128", sparsity="1:4"),
        "five": sq.encode(x, "mxfp4", sparsity="4:8/2", scale_space="stored"),
        "none": sq.encode(x[:0], "mxfp8"),
        "one": sq.encode(np.float32(3.0), "mxfp8"),
    }


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_with(path: Path, header: dict[str, Any], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    tensors = some_tensors()
    sq.save(tmp_path / "all.safetensors", tensors, metadata={"made_by": "a test"})
    assert list(sq.contents(tmp_path / "all.safetensors")) == sorted(tensors)
    for name, tensor in tensors.items():
        back = sq.load(tmp_path / "all.safetensors", name)
        assert back == tensor and back.dtype == tensor.dtype
        assert_same_bits(back.decode(inexact="round"), tensor.decode(inexact="round"))
        tensor.save(tmp_path / "one.safetensors")
        assert sq.load(tmp_path / "one.safetensors") == tensor
    with safetensors.safe_open(tmp_path / "all.safetensors", "np") as file:
        assert file.metadata()["made_by"] == "a test"
    # A file of a torch tensor decodes to torch tensors again.
    sq.encode(torch.ones(4, 32), "mxfp4").save(tmp_path / "torch.safetensors")
    assert isinstance(sq.load(tmp_path / "torch.safetensors").decode(), torch.Tensor)


def test_any_layout_can_be_saved_and_makers_names_are_kept(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((64, 64), dtype=np.float32)
    path = tmp_path / "named.safetensors"
    packed = {
        "a.weight": sq.encode(x, "nvfp4", tensor_scale=0.25).pack("compressed_tensors_nvfp4"),
        "b.weight": sq.encode(x, "mxfp4").pack("compressed_tensors_mxfp4"),
        "c": sq.encode(x, "mxfp4").pack("gpt_oss"),
        "d": sq.encode(x, "bf16", sparsity="2:4").pack("compressed_tensors_sparse24"),
        "e": sq.encode(x, "q4_0").pack("gguf_q4_0"),
    }
    sq.save(path, packed)
    with safetensors.safe_open(path, "pt") as file:
        found = {name: (str(file.get_tensor(name).dtype), tuple(file.get_tensor(name).shape)) for name in file.keys()}  # noqa: SIM118
    assert found == {
        "a.weight_packed": ("torch.uint8", (64, 32)),
        "a.weight_scale": ("torch.float8_e4m3fn", (64, 4)),
        "a.weight_global_scale": ("torch.float32", (1,)),
        "b.weight_packed": ("torch.uint8", (64, 32)),
        "b.weight_scale": ("torch.uint8", (64, 2)),
        "c.blocks": ("torch.uint8", (64, 2, 16)),
        "c.scales": ("torch.uint8", (64, 2)),
        "d.compressed": ("torch.bfloat16", (64, 32)),
        "d.bitmask": ("torch.uint8", (64, 8)),
        "e.elements": ("torch.uint8", (1, 64 * 2 * 18)),
    }
    for name, one in packed.items():
        assert sq.load(path, name) == sq.unpack(one)
    with safetensors.safe_open(path, "pt") as file:
        assert float(file.get_tensor("a.weight_global_scale")) == 4.0
    own = sq.Layout("own", elements=sq.Plane(container_bits=8, align="high"))
    tensor = sq.encode(x, "mxfp6")
    tensor.save(path, layout=own)
    assert sq.contents(path)["tensor"].layout == own and sq.load(path) == tensor


def test_one_of_many_is_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    x = np.ones((256, 1024), np.float32)
    sq.save(path, {f"t{i}": sq.encode(x * i, "mxfp8") for i in range(8)})
    # Damage to the bytes of the others is not seen.
    header, _ = header_of(path)
    start, end = header["t3.elements"]["data_offsets"]
    scales = header["t3.scales"]["data_offsets"]
    raw = bytearray(path.read_bytes())
    base = len(raw) - max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    for at in range(base, len(raw)):
        if not (start <= at - base < end or scales[0] <= at - base < scales[1]):
            raw[at] ^= 0xFF
    path.write_bytes(raw)
    assert sq.load(path, "t3") == sq.encode(x * 3, "mxfp8")
    assert sq.load(path, "t4") != sq.encode(x * 4, "mxfp8")
    with pytest.raises(ValueError, match=r"8 tensors; name one of 't0', "):
        sq.load(path)
    with pytest.raises(ValueError, match="no tensor 't9'"):
        sq.load(path, "t9")


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    old = sq.encode(np.ones((2, 32), np.float32), "mxfp4")
    old.save(path)

    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(ValueError, match=rf"file\{suffix}: cannot be written \(the disk is full\)"):
        sq.encode(np.zeros((2, 32), np.float32), "mxfp4").save(path)
    assert sq.load(path) == old
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(ValueError, match="cannot write there"):
        old.save(tmp_path / "no" / path.name)
    with pytest.raises(ValueError, match=r"needed a file named \*\.safetensors"):
        old.save(tmp_path / "file.npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_what_no_reader_would_take_is_refused_before_the_old_file_is_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    old: Any = sq.encode(np.ones((2, 32), np.float32), "mxfp4")
    old.save(path)
    is_gguf, x = suffix == ".gguf", {"x": old}
    for tensors, metadata, error, message in (
        (x, {"k": 1.0}, TypeError, "metadata 'k' is float; needed str" + " or int" * is_gguf),
        (x, {"k": True}, TypeError, "metadata 'k' is bool; needed str" + " or int" * is_gguf),
        (x, {"k": -1 if is_gguf else 1}, ValueError if is_gguf else TypeError, "metadata 'k' is"),
        (x, {1: "k"}, TypeError, "metadata: names are str, got int"),
        (x, "kv", TypeError, r"metadata: needed a mapping of str to str"),
        (x, {"a\ud800": "v"}, ValueError, r"metadata 'a\\ud800' has half of a pair of UTF-16, which files do not hold"),
        (x, {"k": "\ud800"}, ValueError, r"metadata 'k' has half of a pair"),
        (x, {KEY: "v"}, ValueError, "metadata 'sparq_storage' is written by the library"),
        ({"a\ud800": old}, None, ValueError, r"tensor 'a\\ud800' has half of a pair"),
        ({1: old}, None, TypeError, "tensors: names are str, got int"),
        ({"x": np.ones((2, 32))}, None, TypeError, r"tensor 'x' is ndarray; needed BlockTensor or Packed: sq\.encode"),
        (old, None, TypeError, r"tensors: needed a mapping of names to tensors, got BlockTensor; BlockTensor\.save"),
    ):
        with pytest.raises(error, match=message):
            sq.save(path, tensors, metadata=metadata)
        assert sq.load(path) == old
    with pytest.raises(TypeError, match=r"path: needed str or pathlib\.Path, got dict"):
        sq.save(x, path)
    with pytest.raises(TypeError, match=r"path: needed str or pathlib\.Path, got BlockTensor"):
        sq.save(old, path)


def test_a_safetensors_header_is_no_longer_than_its_readers_take(tmp_path: Path) -> None:
    """100 million bytes: MAX_HEADER_SIZE of safetensors."""
    path, tensor = tmp_path / "x.safetensors", {"x": sq.encode(np.ones((2, 32), np.float32), "mxfp4")}
    sq.save(path, tensor, metadata={"k": ""})
    beside = int.from_bytes(path.read_bytes()[:8], "little")
    most = 100_000_000 - beside - 8
    sq.save(path, tensor, metadata={"k": "x" * most})
    assert sq.load(path) == tensor["x"]
    with pytest.raises(ValueError, match=r"x\.safetensors: a header of 100000\d\d\d bytes.*no more than 100000000"):
        sq.save(path, tensor, metadata={"k": "x" * (most + 16)})
    assert sq.load(path) == tensor["x"]


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    """Names with what patterns would obey, and files that are no such remains."""
    path, tensor = tmp_path / "x[0-9]*.safetensors", sq.encode(np.ones((2, 32), np.float32), "mxfp4")
    kept = {".x[0-9]*.safetensors.backup", ".x1.safetensors.0123456789abcdef", ".x[0-9]*.safetensors.0123456789abcdefg"}
    for name in kept:
        (tmp_path / name).write_bytes(b"of the user")

    def remains() -> set[str]:
        return set(os.listdir(tmp_path)) - kept - {path.name}

    code = f"""if True:
        import sys, time
        from pathlib import Path
        from sparq_sim.disk import write_whole

        def put(file):
            file.write(b"half")
            print("writes", flush=True)
            sys.stdin.read()

        write_whole(Path({str(path)!r}), put)
    """
    for killed in (False, True):
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None and other.stdout.readline() == b"writes\n"
            tensor.save(path)
            assert len(remains()) == 1 and sq.load(path) == tensor
            if killed:
                other.kill()
        assert (other.returncode, path.read_bytes() == b"half") == ((-9, False) if killed else (0, True))
    assert len(remains()) == 1
    tensor.save(path)
    assert not remains() and sq.load(path) == tensor
    assert all((tmp_path / name).read_bytes() == b"of the user" for name in kept)


def test_a_file_that_another_takes_for_abandoned_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its locking, or while the other holds the lock."""
    path, lock, raced = tmp_path / "x.safetensors", disk._lock, []

    def late(handle: int) -> bool | None:
        if len(raced) < 2:
            raced.append(handle)
            (made,) = [one for one in tmp_path.iterdir() if one.name != path.name]
            made.unlink()
            if len(raced) == 2:
                return False
        return lock(handle)

    monkeypatch.setattr(disk, "_lock", late)
    tensor = sq.encode(np.ones((2, 32), np.float32), "mxfp4")
    tensor.save(path)
    assert sq.load(path) == tensor and os.listdir(tmp_path) == [path.name] and len(raced) == 2


def test_files_have_the_mode_that_the_user_s_umask_leaves_or_their_own(tmp_path: Path) -> None:
    tensor, path = sq.encode(np.ones((2, 32), np.float32), "mxfp4"), tmp_path / "x.safetensors"
    before = os.umask(0o027)
    try:
        tensor.save(path)
        assert path.stat().st_mode & 0o777 == 0o640
        for mode in (0o600, 0o666):  # more and less than the umask leaves
            path.chmod(mode)
            tensor.save(path)
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_files_that_the_system_has_no_room_for_are_errors_with_their_path(tmp_path: Path, suffix: str) -> None:
    """A limit of the size of files stands for a full disk: both are refused while bytes are written."""
    path = tmp_path / f"file{suffix}"
    old = sq.encode(np.ones((2, 32), np.float32), "q8_0")
    old.save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(ValueError, match=rf"file\{suffix}: cannot be written \(File too large\)"):
            sq.encode(np.ones((512, 512), np.float32), "q8_0").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sq.load(path) == old and os.listdir(tmp_path) == [path.name]


def test_other_files_and_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    sq.encode(np.ones((2, 32), np.float32), "mxfp4", sparsity="2:4").save(path)
    header, data = header_of(path)
    said = json.loads(header["__metadata__"][KEY])

    def changed(change: Any) -> Path:
        record = json.loads(json.dumps(said))
        change(record)
        return write_with(tmp_path / "changed.safetensors", {**header, "__metadata__": {KEY: json.dumps(record)}}, data)

    tensor = "tensor"
    for change, message in (
        (lambda r: r.update(version=STORE_VERSION + 1), f"version {STORE_VERSION + 1} of encoded tensors"),
        (lambda r: r["tensors"][tensor]["spec"].update(axis=0), "not that of its digest"),
        (lambda r: r["tensors"][tensor].update(digest="0" * 16), "not that of its digest"),
        (lambda r: r.update(version=True), "version True of encoded tensors"),
        (lambda r: r.update(version=1.0), r"version 1\.0 of encoded tensors"),
        (lambda r: r["tensors"][tensor]["layout"].update(scales=None), "damaged .None where a dict was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(elements=None), "damaged .None where a dict was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(fill=1), "damaged .1 where a str was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(patterns=[1]), "damaged .1 where a str was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(formats=[[]]), r"damaged .\[\] where a str was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(by_block=1), "damaged .1 where a bool was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(multiple=[1, 1.0]), r"damaged .1\.0 where a int was needed"),
        (lambda r: r["tensors"][tensor]["layout"].update(multiple=[1, 1, 1]), "damaged"),
        (lambda r: r["tensors"][tensor]["layout"].update(chunk=2**31), "damaged .number 2147483648"),
        (lambda r: r["tensors"][tensor]["layout"]["elements"].update(slices=[[-1, 4]], run=32), "damaged .slices"),
        (lambda r: r["tensors"][tensor]["layout"]["elements"].update(slices=[[0, 65]], run=32), "damaged .slices"),
        (lambda r: r["tensors"][tensor].update(shape=[2, -32]), "shape"),
        (lambda r: r["tensors"][tensor].update(shape=[2, 2**60]), "shape"),
        (lambda r: r["tensors"][tensor].update(shape=[2, 64]), "bytes; needed"),
        (lambda r: r["tensors"][tensor].update(shape=[2, 2**40]), "bytes; needed"),
        (lambda r: r["tensors"][tensor].update(dtype="int8"), "dtype 'int8'"),
        (lambda r: r["tensors"][tensor].update(planes=["elements"]), "no plane 'scales'"),
        (lambda r: r["tensors"][tensor].update(planes=["elements", "else"]), "has no tensor.else"),
        (lambda r: r["tensors"][tensor]["layout"].update(chunk="x"), "damaged"),
        (lambda r: r["tensors"][tensor]["layout"].update(chunk=7), "holds dense tensors"),
        (lambda r: r["tensors"][tensor]["layout"].update(more=1), "damaged"),
        (lambda r: r["tensors"][tensor]["layout"]["elements"].update(order="k"), "damaged"),
        (lambda r: r["tensors"][tensor]["layout"]["elements"].update(run=32, run_bytes=4), "does not fit 4 bytes"),
        (lambda r: r["tensors"].pop(tensor), "0 tensors"),
        (lambda r: r.update(tensors=[]), "damaged"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            sq.load(changed(change))
    for metadata, message in (
        ({}, "holds no encoded tensors"),
        ({KEY: "{"}, "damaged"),
        ({KEY: "[" * 9999}, "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            sq.load(write_with(tmp_path / "m.safetensors", {**header, "__metadata__": metadata}, data))
    with pytest.raises(ValueError, match="no such file"):
        sq.load(tmp_path / "none.safetensors")


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_errors_or_other_tensors(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good.safetensors"
    if not good.exists():
        sq.save(good, {name: tensor for name, tensor in some_tensors().items() if name in ("fc.weight", "three")})
    raw = bytearray(good.read_bytes())
    kind = data.draw(st.sampled_from(("cut", "byte", "length", "grown", "number")))
    if kind == "cut":
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    elif kind == "byte":
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "length":
        raw[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    elif kind == "grown":
        raw += bytes(data.draw(st.integers(1, 50)))
    else:
        text = raw.decode("latin1")
        places = [i for i, c in enumerate(text[: len(text) // 2]) if c.isdigit()]
        at = data.draw(st.sampled_from(places))
        raw = bytearray(
            (text[:at] + data.draw(st.sampled_from(("9", "-1", "99999999999", "1e9"))) + text[at + 1 :]).encode(
                "latin1"
            )
        )
    read_or_refuse(folder / "bad.safetensors", bytes(raw))


def read_or_refuse(path: Path, raw: bytes) -> None:
    """What is in a file is decoded, or an error says why not."""
    path.write_bytes(raw)
    try:
        for name in sq.contents(path):
            sq.load(path, name).decode(inexact="round")
    except ValueError as error:
        assert str(path) in str(error) or "bytes" in str(error)


def held_by(layout: str) -> Packed:
    """Some tensor in a layout."""
    x = np.random.default_rng(1).standard_normal((64, 128), dtype=np.float32)
    for format_, sparsity in itertools.product(sq.formats(), (None, "2:4", "1:4", "1:2", "4:8/2")):
        try:
            return sq.encode(x, format_, sparsity=sparsity).pack(layout)
        except ValueError:
            continue
    raise AssertionError(f"nothing is held by {layout}")


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", sq.layouts())
def test_damaged_files_of_every_layout_are_errors_or_other_tensors(tmp_path: Path, layout: str) -> None:
    good = tmp_path / "good.safetensors"
    sq.save(good, {"weight": held_by(layout)})
    raw = good.read_bytes()
    header = 8 + struct.unpack("<Q", raw[:8])[0]
    digits = [i for i in range(header) if 48 <= raw[i] < 58]
    rng = np.random.default_rng(len(raw))
    for _ in range(300):
        made = bytearray(raw)
        for at in rng.integers(0, (8, header, len(raw))[rng.integers(3)], rng.integers(1, 5)):
            made[at] = rng.integers(256)
        if rng.random() < 0.5:
            # A number of the header, which keeps its length and so stays readable more often.
            made = bytearray(raw)
            for at in rng.choice(digits, rng.integers(1, 4)):
                made[at] = 48 + rng.integers(10)
        read_or_refuse(tmp_path / "bad.safetensors", bytes(made))


# An honest count


def test_bits_are_what_the_bytes_are() -> None:
    rng = np.random.default_rng(2)
    for format_ in ("mxfp4", "mxfp6", "nvfp4", "mx9", "int4_affine_g128", "fp8_e4m3_128x128", "hif4", "bf16"):
        for sparsity in (None, "2:4", "4:8/2", "3:5"):
            for shape, axis in (((33, 70), -1), ((70, 9), 0), ((2, 3, 40), -1)):
                tensor = sq.encode(rng.standard_normal(shape, dtype=np.float32), format_, sparsity=sparsity, axis=axis)
                for layout in ("row_major", "nvidia_128x4", "bytes"):
                    if layout == "bytes" and format_ == "bf16":
                        continue
                    counted = tensor.storage(layout)
                    assert counted.total == 8 * tensor.pack(layout).nbytes and counted.padding >= 0
                    kept = tensor.mask.sum() if tensor.mask is not None else tensor.codes.size
                    assert counted.elements == kept * tensor.format.element.code_bits
                    assert counted == sq.storage(tensor.spec, shape, layout=layout)


def test_the_paper_s_numbers_stand_beside_the_honest_ones() -> None:
    # 8 and 6 bits at 50 %: 8 and 10.7 times, counting codes alone; 6.1 to 7.8 times with positions and scales.
    eight, six = (sq.storage(f, (4096, 4096), sparsity="2:4") for f in ("mxfp8", "mxfp6"))
    assert eight.elements_alone_against_fp32 == 8.0 and round(six.elements_alone_against_fp32, 1) == 10.7
    assert (eight.bits_per_element, six.bits_per_element) == (5.25, 4.25)
    assert round(eight.against_fp32, 1) == 6.1 and round(six.against_fp32, 1) == 7.5
    assert round(sq.storage("hbfp6", (4096, 4096), sparsity="2:4").against_fp32, 1) == 7.8


@pytest.mark.parametrize(
    ("format_", "sparsity", "encoding", "space", "bits"),
    (
        ("fp16", "2:4", "index", None, 9.0),
        ("fp8_e4m3", "2:4", "index", None, 5.0),
        ("mxfp8", "2:4", "index", "stored", 5.125),
        ("mxfp4", "2:4", "index", "stored", 3.125),
        ("mxfp4", "4:8/2", "index", "stored", 2.625),
        ("nvfp4", "4:8/2", "index", "stored", 2.75),
        ("mxfp4", "8:16", "rank", None, 3.125),
        ("tf32", "1:2", "halves", None, 11.5),
    ),
)
def test_known_counts(format_: str, sparsity: str, encoding: str, space: str | None, bits: float) -> None:
    counted = sq.storage(format_, (1 << 12, 1 << 12), sparsity=sparsity, encoding=encoding, scale_space=space)
    assert abs(counted.bits_per_element - bits) < 0.003  # scales of lines and of the tensor
    assert counted.padding == 0


def test_traffic_of_a_product() -> None:
    moved = sq.traffic(16, 4096, 2048, "mxfp8", sq.spec("mxfp4", sparsity="2:4"), "fp16")
    assert moved.a == 16 * 2048 + 16 * 64
    assert moved.b == 4096 * (1024 // 2 + 2048 // 8 + 64)
    assert (moved.result, moved.operations) == (2 * 16 * 4096, 2 * 16 * 4096 * 2048)
    assert moved.total == moved.a + moved.b + moved.result
    assert moved.intensity == moved.operations / moved.total
    # b in the layout and encoding of one's own.
    for how in ({"encoding": "rank"}, {"layout": "bytes", "encoding": "bitmask"}):
        b = sq.spec("mxfp4", sparsity="2:4")
        assert sq.traffic(16, 100, 100, "mxfp8", b, **how).b == sq.storage(b, (100, 100), **how).total // 8


def test_sizes_that_are_none_are_refused() -> None:
    assert sq.storage("mxfp4", 4096).bits_per_element == 4.25
    with pytest.raises(ValueError, match="below zero"):
        sq.storage("mxfp4", (-4, 32))
    for shape in ((4.0, 32), True, "4x32"):
        with pytest.raises(TypeError, match="shape: needed integers"):
            sq.storage("mxfp4", shape)  # type: ignore[arg-type]
    int8 = sq.spec("int8", sparsity="2:4")
    tensor = sq.encode(np.ones((4, 32), np.float32), int8)
    for call in (lambda: sq.storage(int8, (4, 32), layout="ascend", encoding="rank"),
                 lambda: tensor.pack("ascend", encoding="rank")):  # fmt: skip
        with pytest.raises(ValueError, match="layout ascend: positions: 3 bits do not divide a byte"):
            call()


def test_size_against_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((32, 64), dtype=np.float32), rng.standard_normal((16, 48)).astype(np.float16)
    found = sq.tradeoff({"x": x, "y": y}, ["mxfp8", "mxfp4"], [None, "1:4"])
    assert [(row.format, row.sparsity) for row in found.rows] == [
        ("mxfp4", "1:4"), ("mxfp8", "1:4"), ("mxfp4", None), ("mxfp8", None)
    ]  # fmt: skip
    for row in found.rows:
        signal = noise = bits = 0.0
        for one in (x, y):
            wide = one.astype(np.float64)
            error = sq.emulate(wide, row.format, sparsity=row.sparsity) - wide
            signal, noise = signal + (wide**2).sum(), noise + (error**2).sum()
            bits += sq.encode(one, row.format, sparsity=row.sparsity).storage().total
        assert row.bits_per_element == bits / (x.size + y.size)
        assert row.snr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-6)
    front = [row.snr_db for row in found.rows if row.on_frontier]
    assert front == sorted(front) and found.rows[0].on_frontier and found.rows[-1].on_frontier
    safetensors.numpy.save_file({"x": x, "bias": x[0]}, tmp_path / "m.safetensors")
    for source in (tmp_path, tmp_path / "m.safetensors"):
        from_file = sq.tradeoff(source, ["mxfp8"], ["2:4"])
        assert (from_file.tensors, from_file.elements) == (1, x.size)
    found.plot(tmp_path / "drawing.svg")
    assert "mxfp4" in (tmp_path / "drawing.svg").read_text()
    with pytest.raises(ValueError, match="no elements"):
        sq.tradeoff({}, ["mxfp8"])


# The bits of a block


def test_the_bits_of_a_block() -> None:
    x = np.zeros((4, 64), np.float32)
    x[2, 32:36] = [0.3, -6, 2, 1]
    tensor = sq.encode(x, "mxfp4", sparsity="2:4")
    block = sq.inspect_block(tensor, (2, 40))
    assert [(s.bits, s.value) for s in block.scales] == [("0x7F", 1.0)]
    assert len(block.elements) == 32 and block.elements[0].index == (2, 32)
    kept = [(one.index[1], one.position, one.code, one.fields, one.value) for one in block.elements[:4] if one.kept]
    assert kept == [(33, 1, 0xF, "1 11 1", -6.0), (34, 2, 0x4, "0 10 0", 2.0)]
    assert [(s.first, s.count, s.combine) for s in block.scales] == [(0, 32, "multiply")]
    nested = sq.inspect_block(sq.encode(x, "nvfp4", axis=0), (0, 33))
    assert [one.index for one in nested.elements] == [(k, 33) for k in range(4)]
    assert nested.scales[0].value == float(np.float32(6 / 2688))
    with pytest.raises(ValueError, match="needed one of a tensor of shape"):
        sq.inspect_block(tensor, (4, 0))


def test_a_block_along_stored_k_is_shown_as_it_decodes() -> None:
    x = np.random.default_rng(9).standard_normal((3, 256)).astype(np.float32)
    for format in ("mxfp4", "nvfp4"):
        tensor = sq.encode(x, format, sparsity="2:4", scale_space="stored")
        values = tensor.decode("float64", inexact="round")
        for index in ((0, 0), (1, 70), (2, 255)):
            block = sq.inspect_block(tensor, index)
            assert index in [one.index for one in block.elements]
            assert all(one.value == values[one.index] for one in block.elements)
            assert all(scale.first == 0 and scale.count == len(block.elements) for scale in block.scales)
            assert sum(one.kept for one in block.elements) == len(block.elements) // 2


# Scales under a scale of the tensor meet that one first, in float32.
@pytest.mark.parametrize("format", [name for name, one in sq.formats().items() if one.outer_combine is None])
def test_scales_and_elements_of_a_block_make_its_values(format: str) -> None:
    """Those that are shown with each element, and nothing else."""
    x = np.random.default_rng(8).standard_normal((3, 96)).astype(np.float32) * np.float32(8)
    tensor = sq.encode(x, format)
    combine = {"multiply": np.multiply, "divide": np.divide, "subtract": np.subtract}
    for index in ((0, 0), (2, 70), (1, 95)):
        block = sq.inspect_block(tensor, index)
        assert index in [one.index for one in block.elements]
        for place, one in enumerate(block.elements):
            value = np.float64(one.element)
            for scale in reversed(block.scales):
                if scale.first <= place < scale.first + scale.count:
                    value = combine[scale.combine](value, np.float64(scale.value))
            assert one.value == tensor.decode("float64", inexact="round")[one.index], (index, place)
            assert np.float32(value) == np.float32(one.value), (index, place)  # float scales round to float32
