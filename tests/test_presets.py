"""Presets against what the libraries made: every row of every recorded file that a preset speaks of, bit for bit.

Rows that differ are data, in preset_exceptions.py, and exactly those must differ. tests/golden/README.md says whence
the files come. The blocks are 609 of 32: random, ties, edges of every scale rule, NaN, Inf, tiny and huge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf.quants
import ml_dtypes
import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import Array, assert_same_bits, bits_of
from preset_exceptions import DIFFERENCES

FOLDER = Path(__file__).parent / "golden" / "quant"
ROWS = 609
NVFP4_TENSORS = ("normal", "normal_1e-6", "zero_blocks", "nan_one", "tiny", "neg_zero")
RULES = ("floor", "rceil", "ceil", "even")

#: Preset -> folder, variant: for each of its formats there is a file <folder>/<format>__<variant>.npz.
BLOCKS = {
    **{f"torchao-0.18/{rule}": ("torchao", rule) for rule in RULES},
    **{f"torchao-main/{rule}": ("torchao_main", rule) for rule in RULES},
    **{f"microxcaling-cuda/{word}": ("microxcaling_cuda_host", word) for word in ("nearest", "even", "floor")},
    **{f"microxcaling-python/{word}": ("microxcaling", word) for word in ("nearest", "even", "floor")},
    **{f"neural-compressor-3.10/{word}": ("neural_compressor", word) for word in ("nearest", "even")},
    **{f"auto-round-0.16/{rule}": ("auto_round", rule) for rule in ("floor", "rceil")},
    **{f"quark-0.13/{rule}": ("amd_quark", rule) for rule in ("even", "floor", "ceil")},
    "quark-0.13/bfp16": ("amd_quark", "default"),
    "quark-0.13/mx6": ("amd_quark", "default"),
    "quark-0.13/mx9": ("amd_quark", "default"),
    "modelopt-0.47/qtensor": ("modelopt", "qtensor"),
    "modelopt-0.47/cuda": ("modelopt_cuda_host", "fused"),
    "compressed-tensors-0.20": ("compressed_tensors", "default"),
    "brevitas-0.13": ("brevitas", "default"),
    "qtorch-0.3": ("qtorch", "default"),
    "gfloat-0.5": ("gfloat", "default"),
    "ocp": ("torchao_main", "floor"),
}
#: Formats whose file has another name, or is another library's.
FILES = {
    ("quark-0.13/bfp16", "bfp16_quark"): "amd_quark/bfp16__default",
    ("ocp", "mxint8"): "microxcaling_cuda_host/mxint8__even",
}
#: The same, with bfloat16 input and output.
BFLOAT16 = {
    **{f"torchao-0.18/{rule}": ("torchao", f"bf16in_0.18_bf16_{rule.upper()}") for rule in ("floor", "rceil", "even")},
    **{f"quark-0.13/{rule}": ("amd_quark", f"bf16in_bf16_{rule}") for rule in ("even", "floor")},
    "compressed-tensors-0.20": ("compressed_tensors", "bf16in_bf16"),
}
BFLOAT16_FILES = {
    ("modelopt-0.47/qtensor", "mxfp4"): "modelopt/mxfp4__bf16in_MXFP4QTensor_bf16",
    ("modelopt-0.47/qtensor", "mxfp8_e4m3"): "modelopt/mxfp8_e4m3__bf16in_MXFP8QTensor_bf16",
}
#: torchao's other rules make the same of NVFP4, which has no scaling mode.
NVFP4 = {
    ("torchao-0.18/floor", "nvfp4"): "torchao/nvfp4__two_level",
    ("torchao-0.18/floor", "nvfp4_one_level"): "torchao/nvfp4__one_level",
    ("torchao-main/floor", "nvfp4"): "torchao_main/nvfp4__two_level",
    ("torchao-main/floor", "nvfp4_one_level"): "torchao_main/nvfp4__one_level",
    ("modelopt-0.47/qtensor", "nvfp4"): "modelopt/nvfp4__qtensor",
    ("compressed-tensors-0.20", "nvfp4"): "compressed_tensors/nvfp4__default",
    ("auto-round-0.16/floor", "nvfp4"): "auto_round/nvfp4__default",
    ("modelopt-0.47/cuda", "nvfp4"): "modelopt_cuda_host/nvfp4__fused",
}
#: Presets that the tests hold against something else than recorded blocks.
OTHERWISE = ("ggml", "torch-2.13", "ml_dtypes-0.6", "transformer-engine", "cudnn", "tenstorrent", "xdna", "paper")


@dataclass(frozen=True)
class Claim:
    """A preset, a format and the file that a library made."""

    preset: str
    format: str
    file: str
    #: The tensor of an NVFP4 file, or "bfloat16"; else blocks of 32 in float32.
    case: str = ""

    def __str__(self) -> str:
        return f"{self.preset}-{self.format}-{self.case}".rstrip("-").replace("/", "-")


def claims() -> Iterator[Claim]:
    for name, (folder, variant) in BLOCKS.items():
        for format in sq.presets()[name].formats:
            if not format.startswith("nvfp4"):
                file = FILES.get((name, format), f"{folder}/{format}__{variant}")
                yield Claim(name, format, file)
    for name, (folder, variant) in BFLOAT16.items():
        for format in ("mxfp4", "mxfp6_e2m3", "mxfp8_e4m3", "mxint8"):
            if (FOLDER / folder / f"{format}__{variant}.npz").exists():
                yield Claim(name, format, f"{folder}/{format}__{variant}", "bfloat16")
    for (name, format), file in BFLOAT16_FILES.items():
        yield Claim(name, format, file, "bfloat16")
    for (name, format), file in NVFP4.items():
        for tensor in NVFP4_TENSORS:
            yield Claim(name, format, file, tensor)


CLAIMS = tuple(claims())


def recorded(file: str) -> dict[str, Array]:
    with np.load(FOLDER / f"{file}.npz") as opened:
        return {key: opened[key] for key in opened}


def with_one_nan(values: Array) -> Array:
    """NaN payloads are not significant in these files."""
    return np.where(np.isnan(values), values.dtype.type(np.nan), values)


def with_one_nan_code(codes: Array, element: sq.ElementFormat) -> Array:
    """The same of codes, whose NaN may have a sign."""
    if element.nan_code is None:
        return codes
    nan = np.array([element.is_nan(code) for code in range(1 << element.code_bits)])
    return np.where(nan[codes], codes.dtype.type(element.nan_code), codes)


def unpacked(packed: Array, shape: tuple[int, ...]) -> Array:
    """Two codes of 4 bits to a byte, low nibble first."""
    codes: Array = np.stack([packed & 15, packed >> 4], axis=-1).reshape(shape)
    return codes


def differ(got: Array, wanted: Array) -> Array:
    """Whether the bits (of floats, with one NaN) or numbers of each row differ."""
    if got.dtype.kind == "f":
        got, wanted = bits_of(with_one_nan(got)), bits_of(with_one_nan(wanted))
    assert got.shape == wanted.shape
    different: Array = (got != wanted).reshape(len(got), -1).any(axis=1)
    return different


def different_rows(claim: Claim) -> list[int]:
    """Rows of the input of which a value, a scale or a code is another one."""
    file = recorded(claim.file)
    if claim.case == "bfloat16":
        bits = recorded("inputs_bf16")["x_bits"].reshape(-1, 32)
        made = sq.emulate(torch.from_numpy(bits).view(torch.bfloat16), claim.format, like=claim.preset)
        got = made.view(torch.int16).numpy()
        return np.flatnonzero(differ(got, file["dq_bits"].reshape(-1, 32))).tolist()
    if claim.case:
        return different_rows_of_nvfp4(claim, file)
    x = recorded("inputs_block32")["x"]
    assert x.shape == (ROWS, 32) and x.dtype == np.float32
    encoded = sq.encode(x, claim.format, like=claim.preset)
    values = sq.emulate(x, claim.format, like=claim.preset, inexact="round", dtype=file["dq"].dtype)
    assert_same_bits(encoded.decode(inexact="round", dtype=file["dq"].dtype), values)
    wanted_values = file["dq"]
    if encoded.format.element.signedness == "twos_complement":
        # Some libraries decode -0, for which there is no code.
        wanted_values = np.where(wanted_values == 0, wanted_values.dtype.type(0), wanted_values)
    rows = differ(values, wanted_values)
    if "scale" in file:
        assert isinstance(encoded.scales, np.ndarray)
        wanted = file["scale"]
        if wanted.dtype == np.float32:  # as numbers; 2^128 is the code of NaN
            wanted = np.where(np.isfinite(wanted), np.log2(wanted) + 127, 255).astype(np.uint8)
        rows |= differ(encoded.scales[:, 0], wanted)
    if "codes" in file:
        codes = file["codes"]
        if codes.shape != x.shape:
            codes = unpacked(codes, x.shape)
        # A block of NaN scale has no meaningful elements: libraries write anything there, we write 0.
        rows |= differ(encoded.codes, with_one_nan_code(codes, encoded.format.element)) & (file["scale"] != 255)
        assert not encoded.codes[encoded.scales[:, 0] == 255].any()
    return np.flatnonzero(rows).tolist()


def different_rows_of_nvfp4(claim: Claim, file: dict[str, Array]) -> list[int]:
    x = recorded("inputs_nvfp4")[claim.case]
    encoded = sq.encode(x, claim.format, like=claim.preset)
    values = sq.emulate(x, claim.format, like=claim.preset)
    assert_same_bits(encoded.decode(), values)
    rows = differ(values, file[f"{claim.case}/dq"])
    *outer, scales = encoded.scale_planes
    if f"{claim.case}/scale" not in file:  # a kernel that writes values alone
        return np.flatnonzero(rows).tolist()
    if outer:
        total = file[f"{claim.case}/global_scale"].reshape(1, 1)
        if (bits_of(outer[0]) != bits_of(with_one_nan(total))).any():
            return list(range(len(x)))
        if np.isnan(total):  # everything is NaN, and no scale or code means anything
            return np.flatnonzero(rows).tolist()
    wanted = file[f"{claim.case}/scale"].reshape(scales.shape)
    wanted = np.where(wanted & 0x7F == 0x7F, np.uint8(0x7F), wanted)  # NaN, whatever its sign
    rows |= differ(scales, wanted)
    if f"{claim.case}/codes" not in file:
        return np.flatnonzero(rows).tolist()
    codes = unpacked(file[f"{claim.case}/codes"], x.shape)
    numbers = np.repeat(wanted != 0x7F, 16, axis=1)
    drops = sq.spec(claim.format, like=claim.preset).conversion.signed_zero == "drop"
    if drops:  # a library whose decoding makes no -0 may store its code all the same
        codes = np.where(codes == 8, 0, codes)
    rows |= differ(np.where(numbers, encoded.codes, 0), np.where(numbers, codes, 0))
    return np.flatnonzero(rows).tolist()


def listed_rows(text: str) -> list[int]:
    """Rows as written in preset_exceptions.py: "3 7-9", or "20-29:3" for every third one."""
    rows: list[int] = []
    for part in text.split():
        run, _, step = part.partition(":")
        first, _, last = run.partition("-")
        rows += range(int(first), int(last or first) + 1, int(step or 1))
    return rows


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_rows_are_those_of_the_library_but_for_the_listed_ones(claim: Claim, isa: str) -> None:
    listed = [
        row
        for one in DIFFERENCES
        if claim.preset in one.presets and claim.format in one.formats and claim.case == one.case
        for row in listed_rows(one.rows)
    ]
    assert different_rows(claim) == sorted(listed)


def test_the_recorded_inputs_reach_the_corners() -> None:
    x = recorded("inputs_block32")["x"]
    with np.errstate(invalid="ignore"):
        assert np.isnan(x).any() and np.isinf(x).any() and (np.abs(x) > 2.0**126).any()
        assert ((x != 0) & (np.abs(x) < 2.0**-126)).any() and (np.signbit(x) & (x == 0)).any()
        assert (~x.any(axis=1)).any()


def test_every_listed_difference_says_something_of_a_claim() -> None:
    spoken = {(claim.preset, claim.format, claim.case) for claim in CLAIMS}
    for one in DIFFERENCES:
        assert one.count == len(listed_rows(one.rows)) > 0 and one.cause
        assert {(preset, format, one.case) for preset in one.presets for format in one.formats} <= spoken


def test_every_preset_is_held_against_something() -> None:
    assert {claim.preset for claim in CLAIMS} == set(BLOCKS) and set(BLOCKS) | set(OTHERWISE) == set(sq.presets())
    for name in BLOCKS:
        held = {claim.format for claim in CLAIMS if claim.preset == name}
        for format in set(sq.presets()[name].formats) - held:
            assert format.startswith("nvfp4")
            assert sq.spec(format, like=name) == sq.spec(format, like=f"{name.partition('/')[0]}/floor")
    for name, preset in sq.presets().items():
        assert preset.name == name and preset.source
        assert set(preset.formats) <= set(sq.formats()) | set(sq.elements()) and set(preset.by_format) <= set(
            preset.formats
        )
        assert preset.evidence in ("recorded", "host", "run", "documented")


def plain(name: str) -> sq.Format:
    """A format without scales that has the name of its element, unless the catalog has it."""
    return sq.formats().get(name) or sq.Format(name, sq.elements()[name].record)


def cast(x: Array, name: str, like: str) -> Array:
    return sq.emulate(x, plain(name), like=like, inexact="round")


TORCH_CASTS = {
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e5m2fnuz": "float8_e5m2fnuz",
}


@pytest.mark.parametrize("name", TORCH_CASTS)
def test_casts_of_torch_to_8_bits(name: str, isa: str) -> None:
    file = recorded(f"torch_cast/{TORCH_CASTS[name]}__to")
    x, codes = file["x"], sq.encode(file["x"], plain(name), like="torch-2.13").codes
    numbers = ~np.isnan(x)  # torch's NaN of E5M2 is 0x7F, ours 0x7E
    assert np.array_equal(codes[numbers], file["codes"][numbers])
    record = sq.elements()[name].record
    assert all(record.is_nan(int(code)) for code in [*codes[~numbers], *file["codes"][~numbers]])


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_casts_of_torch_to_16_bits(name: str, isa: str) -> None:
    x = recorded("inputs_block32")["x"]
    wanted = torch.from_numpy(x).to(torch.bfloat16 if name == "bf16" else torch.float16).float().numpy()
    assert not differ(cast(x, name, "torch-2.13"), wanted).any()


ML_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    **TORCH_CASTS,
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "e4m3_ieee": "float8_e4m3",
    "e3m4": "float8_e3m4",
    "e2m3": "float6_e2m3fn",
    "e3m2": "float6_e3m2fn",
    "e2m1": "float4_e2m1fn",
}


@pytest.mark.parametrize("name", ML_DTYPES)
def test_casts_of_ml_dtypes(name: str, isa: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    x = np.concatenate([halves, recorded("torch_cast/float8_e4m3fn__to")["x"], recorded("inputs_block32")["x"].ravel()])
    dtype = np.dtype(getattr(ml_dtypes, ML_DTYPES[name], None) or ML_DTYPES[name])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = x.astype(dtype).astype(np.float32)
    got = cast(x, name, "ml_dtypes-0.6")
    if not sq.elements()[name].record.has_nan:  # NaN is -0 there, +0 here
        assert not got[np.isnan(x)].any() and not wanted[np.isnan(x)].any()
        got, wanted = got[~np.isnan(x)], wanted[~np.isnan(x)]
    assert not differ(got, wanted).any()


def test_mxfp4_of_ggml_is_that_of_gguf(isa: str) -> None:
    # Where a scale is below 2^-127, GGML's code wraps round; NaN and Inf are not looked for.
    x = recorded("inputs_block32")["x"]
    with np.errstate(invalid="ignore"):
        amax = np.abs(x).max(axis=1)
    x = x[np.isfinite(x).all(axis=1) & ((amax >= 2.0**-124) & (amax < 2.0**127) | (amax == 0))]
    with np.errstate(over="ignore"):
        raw = gguf.quants.MXFP4.quantize(x).reshape(len(x), 17)
    codes = np.concatenate([raw[:, 1:] & 15, raw[:, 1:] >> 4], axis=1)  # low halves first
    encoded = sq.encode(x, "mxfp4", like="ggml")
    assert isinstance(encoded.scales, np.ndarray) and len(x) > 500
    assert np.array_equal(encoded.scales[:, 0], raw[:, 0])
    assert np.array_equal(encoded.codes, codes)
    assert sq.spec("q4_0", like="ggml") == sq.spec("q4_0")


@pytest.mark.parametrize("like", ["transformer-engine", "cudnn"])
def test_mxfp8_of_nvidia_is_the_least_scale_without_saturation(like: str, isa: str) -> None:
    x = recorded("inputs_block32")["x"]
    finite = np.isfinite(x).all(axis=1)
    for format in ("mxfp8_e4m3", "mxfp8_e5m2"):
        file, encoded = recorded(f"torchao_main/{format}__rceil"), sq.encode(x, format, like=like)
        assert np.array_equal(encoded.codes[finite], file["codes"][finite])
        assert isinstance(encoded.scales, np.ndarray) and np.array_equal(encoded.scales[:, 0], file["scale"])


def test_nvfp4_of_cudnn_rounds_its_scale_up(isa: str) -> None:
    x = recorded("inputs_nvfp4")["normal"]
    encoded = sq.encode(x, "nvfp4_one_level", like="cudnn")
    assert isinstance(encoded.scales, np.ndarray)
    quotient = np.abs(x).reshape(64, 4, 16).max(axis=2) / np.float32(6)
    scale = encoded.scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    below = (encoded.scales - 1).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert (quotient <= scale).all() and (below < quotient).all()
    elements = (x.reshape(64, 4, 16) / scale[:, :, None]).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert_same_bits(encoded.decode(), (elements * scale[:, :, None]).reshape(x.shape))


@pytest.mark.parametrize("name", ["tenstorrent", "xdna"])
def test_formats_of_a_machine_are_as_it_makes_them(name: str) -> None:
    for format in sq.presets()[name].formats:
        assert sq.spec(format, like=name) == sq.spec(format) and sq.spec(format).format.evidence == "implementation"


def published_hbfp(x: Array, bits: int) -> Array:
    """HBFP as published: 2^e above amax + 10^-8, steps of 2^(e - bits), sign and `bits` bits of magnitude."""
    blocks = x.reshape(-1, 64)
    amax = np.abs(blocks).max(axis=1, keepdims=True) + np.float32(1e-8)
    above = np.exp2(np.ceil(np.log2(amax)))
    step = above / np.float32(2**bits)
    values: Array = np.clip(np.rint(blocks / step) * step, step - above, above - step)
    return values.reshape(x.shape)


@pytest.mark.parametrize("bits", [7, 5, 3])
def test_hbfp_of_the_paper(bits: int, isa: str) -> None:
    random = np.random.default_rng(bits)
    x = random.standard_normal((256, 64), dtype=np.float32) * np.exp2(random.integers(-20, 20, (256, 1))).astype("f4")
    for row, exponent in enumerate(range(-2, 20)):  # amax a power of two: the largest element saturates
        x[row] = np.clip(x[row], -1, 1)
        x[row, 5] = 1
        x[row] *= np.float32(2.0**exponent)
    assert_same_bits(sq.emulate(x, f"hbfp{bits + 1}", like="paper"), published_hbfp(x, bits))
    small = np.float32([[2.0**-3] + [0.0] * 63])  # where 10^-8 shows
    assert published_hbfp(small, bits)[0, 0] == small[0, 0] > sq.emulate(small, f"hbfp{bits + 1}", like="paper")[0, 0]


def test_int8_of_the_paper(isa: str) -> None:
    x = np.random.default_rng(8).standard_normal((64, 96), dtype=np.float32)
    amax = np.abs(x).max(axis=1, keepdims=True)
    scale = (amax + amax) / np.float32(255)
    codes = np.clip(np.rint(x / scale) + np.float32(128), 0, 255) - np.float32(128)
    assert_same_bits(sq.emulate(x, "int8", like="paper"), scale * codes)
    assert codes.min() == -128


def test_explicit_choices_override_those_of_a_preset() -> None:
    made = sq.spec("mxfp4", like="torchao-main/rceil", scale_rule="ceil", block=16)
    assert made == sq.spec("mxfp4", scale_rule="ceil", block=16)
    assert sq.spec("mxfp4", like="ocp", scale_rule=None) == sq.spec("mxfp4")


def test_a_spec_does_not_remember_the_preset() -> None:
    named, said = (
        sq.spec("mxint8", like="quark-0.13/even"),
        sq.spec("mxint8", scale_rule="even", even_bits=8, scale_minimum=7, infinite="top"),
    )
    assert named == said and named.digest == said.digest and "quark" not in named.to_json()


def test_a_preset_starts_from_what_a_spec_has() -> None:
    base = sq.spec("mxfp4", block=16, rounding="up")
    assert sq.spec(base, like="torchao-main/ceil") == sq.spec("mxfp4", block=16, rounding="up", scale_rule="ceil")


def test_everything_that_takes_choices_takes_a_preset() -> None:
    x = np.float32([[7.0, 1.0]])
    assert sq.emulate(x, "mxfp4", like="torchao-main/rceil").tolist() == [[8.0, 1.0]]
    assert sq.encode(x, "mxfp4", like="torchao-main/rceil").spec == sq.spec("mxfp4", scale_rule="rceil")
    machine = sq.Accelerator("mxfp4", "mxfp8_e4m3", rules={"like": "torchao-main/ceil"})
    assert machine.weight_spec.conversion.scale_rule == machine.activation_spec.conversion.scale_rule == "ceil"
    ranking = sq.rank(np.float32([[7.0, 1.0] * 16]), ["mxfp4", "hbfp8"], like="torchao-main/rceil")
    assert [row.name for row in ranking.rows] == ["mxfp4 scale_rule=rceil", "hbfp8"]
    assert ranking.rows[1].refused and "says nothing of hbfp8" in ranking.rows[1].note


def test_unknown_presets_and_formats_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'torchao-0.18/recil'; known: torchao-0.18/rceil, "):
        sq.spec("mxfp4", like="torchao-0.18/recil")
    with pytest.raises(ValueError, match=r"unknown preset 'q'; known: ocp, torchao-0.18/floor, .*, paper$"):
        sq.find_preset("q")
    with pytest.raises(ValueError, match=r"like='gfloat-0.5': says nothing of hbfp8; formats: mxfp4, .*, mxint8$"):
        sq.emulate(np.float32([1.0]), "hbfp8", like="gfloat-0.5")
    with pytest.raises(TypeError, match="like: needed the name of a preset, got int"):
        sq.spec("mxfp4", like=3)  # type: ignore[arg-type]


def test_presets_are_frozen() -> None:
    preset = sq.find_preset("quark-0.13/even")
    with pytest.raises(TypeError):
        preset.choices["scale_rule"] = "floor"  # type: ignore[index]
    with pytest.raises(TypeError):
        preset.by_format["mxint8"]["even_bits"] = 7  # type: ignore[index]
    sq.presets().clear()
    assert (
        preset.choices_for("mxfp4") == {"scale_rule": "even", "infinite": "top", "signed_zero": "drop"}
        and len(sq.presets()) > 20
    )
