"""Section 10 of docs/numerics.md, machine by machine: recorded hardware, other people's models, and `machines.py`.

Vectors come from tests/golden, whose README says who made them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import machines
import oracle
import sparq_sim as sq
from conftest import ISAS, Array, bits_of, element_record, forced_isa
from machines import Line, machine_dot, with_half_result
from oracle import ELEMENTS, Element
from sparq_sim.bounds import Problem, datapath_bound
from sparq_sim.variants import with_fields

GOLDEN = Path(__file__).parent / "golden"

# Recorded hardware

_HARDWARE = json.loads((GOLDEN / "hw" / "manifest.json").read_text())
_GPUS = {"V100": "volta", "A100": "ampere", "Ada": "ada", "H100": "hopper", "B200": "blackwell"}


def hardware_machine(entry: dict[str, Any]) -> str:
    gpu = _GPUS[entry["gpu"]]
    if entry["a_fmt"] in ("fp16", "bf16"):
        return f"{gpu}_16"
    if entry["a_fmt"] == "tf32":
        return {"hopper": "hopper_mma_sync_tf32"}.get(gpu, f"{gpu}_tf32")
    return {
        "ada": "ada_fp8",
        "hopper": "hopper_fp8" if entry["d_fmt"] == "fp32" else "hopper_fp8_mma_sync",
        "blackwell": "blackwell_mma_sync_fp8",
    }[gpu]


def result_values(bits: Array, result: str) -> Array:
    width = {"fp32": (np.uint32, np.float32), "fp16": (np.uint16, np.float16)}[result]
    return np.ascontiguousarray(bits.astype(width[0])).view(width[1])


@pytest.mark.parametrize("entry", _HARDWARE, ids=lambda entry: Path(entry["file"]).stem)
def test_every_recorded_dot_product_of_hardware_is_reproduced(entry: dict[str, Any]) -> None:
    """Rows are dots of their own: of a product of all rows by all rows, the diagonal."""
    with np.load(GOLDEN / "hw" / entry["file"]) as file:
        a, b, c, d = (file[name] for name in "abcd")
    formats = {"a_format": entry["a_fmt"], "b_format": entry["b_fmt"], "result": entry["d_fmt"]}
    name = hardware_machine(entry)
    assert sq.datapaths()[name].evidence in ("hardware", "model")
    for first in range(0, len(a), 100):
        rows = slice(first, first + 100)
        start = np.repeat(result_values(c[rows], entry["d_fmt"])[:, None], len(a[rows]), axis=1)
        got = sq.matmul(a[rows], b[rows], c=start, datapath=name, **formats)
        assert np.array_equal(np.diagonal(bits_of(got)), d[rows]), (name, first)


# MMA-Sim

_INSTRUCTIONS = sorted((GOLDEN / "mma_sim").glob("*.json"))
_MMA_FORMATS = {"f16": "fp16", "f32": "fp32", "xf32": "tf32", "fp8": "e4m3fnuz", "bf8": "e5m2fnuz"}


def modelled_machine(info: dict[str, Any]) -> str:
    """The machine of an instruction."""
    name, a = info["name"], info["a"]
    family = name.split("_")[0].removeprefix("rtx")
    if info["scale"]:
        if a != "e2m1":
            return "blackwell_mxf8"
        return "blackwell_nvf4" if info["scale"] == "ue4m3" else "blackwell_mxf4"
    if a == "f32":
        return "fma32"
    if a in ("f16", "bf16"):
        return f"{family}_16"
    if a in ("tf32", "xf32"):
        return f"{family}_{a}"
    return "blackwell_f8f6f4" if family == "blackwell" else f"{family}_fp8"


def nibbles(packed: Array) -> Array:
    """Two codes per byte along the last axis, the low one first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


@pytest.mark.parametrize("path", _INSTRUCTIONS, ids=lambda path: path.stem)
def test_every_dot_product_of_mma_sim_is_reproduced(path: Path) -> None:
    info = json.loads(path.read_text())
    name, half = modelled_machine(info), info["d"] == "f16"
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    a, b = arrays["A"], arrays["B"].transpose(0, 2, 1)
    if info["packing"]:
        a, b = nibbles(a), nibbles(b)
    formats = {"a_format": _MMA_FORMATS.get(info["a"], info["a"]), "b_format": _MMA_FORMATS.get(info["b"], info["b"])}
    for tile in range(len(a)):
        scales = {}
        if "SA" in arrays:
            scales = {"a_scales": arrays["SA"][tile], "b_scales": arrays["SB"][tile].T}
        c = result_values(arrays["C"][tile], "fp16" if half else "fp32")
        result = "fp16" if half else "fp32"
        got = bits_of(sq.matmul(a[tile], b[tile], c=c, datapath=name, result=result, **formats, **scales))
        wanted = arrays["D"][tile]
        nan = 0x7C00 if half else 0x7F800000
        same = got == wanted
        if name.startswith(("cdna", "fma")):  # payload and sign of their NaN are not defined
            same |= ((got & 0x7FFFFFFF) > nan) & ((wanted & 0x7FFFFFFF) > nan)
        assert bool(same.all()), (name, tile, info["categories"][arrays["cat"][tile]])


# mmaemu


@pytest.mark.parametrize("path", sorted((GOLDEN / "gemm").glob("*.npz")), ids=lambda path: path.stem)
def test_every_gemm_of_mmaemu_is_reproduced(path: Path) -> None:
    device, speed = path.stem.split("_")[:2]
    name = f"{device}_fp8" + ("_promoted" if speed == "slow" else "")
    with np.load(path) as file:
        arrays = dict(file)
    formats = {"a_format": "e4m3", "b_format": "e4m3", "datapath": name}
    got = sq.matmul(arrays["x"], arrays["w"], **formats)
    assert np.array_equal(bits_of(got), arrays["acc_f32"])
    scales = {"a_tensor_scale": float(arrays["scale_a"]), "b_tensor_scale": float(arrays["scale_b"])}
    scaled = sq.matmul(arrays["x"], arrays["w"], **formats, **scales)
    assert np.array_equal(bits_of(scaled), arrays["y_f32"])
    for output, wanted in (("bf16", "y_bf16"), ("fp16", "y_f16"), ("e4m3", "y_e4m3")):
        rounded = sq.matmul(arrays["x"], arrays["w"], output=output, **formats, **scales)
        assert np.array_equal(rounded.view(f"u{rounded.itemsize}"), arrays[wanted].view(f"u{rounded.itemsize}"))


# Probes

_PROBED = {
    "V100 f16->f32": ("volta_16", "fp16"),
    "A100 f16->f32": ("ampere_16", "fp16"),
    "A100 bf16": ("ampere_16", "bf16"),
    "H100 mma f16": ("hopper_16", "fp16"),
    "H100 wgmma e4m3": ("hopper_fp8", "e4m3"),
    "Ada mma e4m3": ("ada_fp8", "e4m3"),
    "Blackwell tcgen05 e4m3": ("blackwell_f8f6f4", "e4m3"),
    "CDNA3 f16": ("cdna3_16", "fp16"),
    "CDNA3 fp8": ("cdna3_fp8", "e4m3fnuz"),
}
_DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
}
_PROBES = json.loads((GOLDEN / "tiny_vectors.json").read_text())


def alignment_width(machine: str, dtype: Any) -> int:
    """The largest n such that 1 - 1 + 2^-n is not lost, products of 2^-(n/2) and 2^-(n - n/2)."""
    best = 0
    for n in range(40):
        a, b = np.float64([[1, 1, 2.0 ** -(n // 2)]]), np.float64([[1, -1, 2.0 ** -(n - n // 2)]])
        left, right = a.astype(dtype), b.astype(dtype)
        if not np.array_equal(left.astype(float), a) or not np.array_equal(right.astype(float), b):
            break
        if float(sq.matmul(left, right, datapath=machine)[0, 0]) == 2.0**-n:
            best = n
    return best


@pytest.mark.parametrize("probe", _PROBES, ids=lambda probe: f"{probe['op']}-{probe['name'].split(':')[0]}")
def test_every_probe_of_one_property_is_answered(probe: dict[str, Any]) -> None:
    machine, element = _PROBED[probe["op"]]
    if "a" not in probe:
        width = alignment_width(machine, _DTYPES[element])
        assert probe["d"] == (
            min(width, 18) if element.startswith("e4m3") else width
        )  # the probe's fp8 products end there
        return
    a, b = (np.float64([probe[side]]).astype(_DTYPES[element]) for side in "ab")
    c = np.float32([[probe["c"]]])
    assert float(sq.matmul(a, b, c=c, datapath=machine)[0, 0]) == probe["d"]


def test_fp8_sums_stick_where_fourteen_bits_end(isa: str) -> None:
    """A sum of K ones: known of H100 (DeepSeek-V3, mmaemu)."""
    ones = np.ones((1, 32768), ml_dtypes.float8_e4m3fn)
    assert float(sq.matmul(ones, ones, datapath="hopper_fp8")[0, 0]) == 16384
    assert float(sq.matmul(ones, ones, datapath="hopper_fp8_promoted")[0, 0]) == 32768


# The model in Python's integers


@dataclass(frozen=True)
class Side:
    """Codes of several rows, with scale codes."""

    element: str
    codes: Array
    scales: Array | None = None
    block: int = 0
    scale_element: str = "e8m0"

    def line(self, row: int) -> Line:
        scales = None if self.scales is None else self.scales[row].tolist()
        scale = None if self.scales is None else ELEMENTS[self.scale_element]
        return Line(ELEMENTS[self.element], self.codes[row].tolist(), scales, self.block, scale)


def store(element: Element) -> Any:
    return np.uint8 if element.width <= 8 else np.uint16 if element.width <= 16 else np.uint32


STYLES = ("any", "near", "cancel", "tiny", "huge", "wide", "sparse")


def drawn_codes(rng: np.random.Generator, name: str, shape: tuple[int, int], style: str) -> Array:
    """Codes: of any bits, of neighbouring exponents, pairs that cancel, subnormal, near the largest, zeros between."""
    element = ELEMENTS[name]
    codes = rng.integers(0, 1 << element.width, shape, dtype=np.uint32)
    if style == "any":
        return codes.astype(store(element))
    sign = codes & element.sign_bit
    top, one = element.largest_code, element.bias << element.mantissa_bits
    mantissa = (1 << element.mantissa_bits) - 1
    if element.exponent_bits == 0 or element.signedness == "twos_complement":
        magnitude = rng.integers(0, mantissa + 1, shape)
        low = {"tiny": 3, "near": mantissa // 2, "sparse": mantissa}.get(style, mantissa)
        magnitude = magnitude % (low + 1) if style != "huge" else mantissa - magnitude % 2
        codes = np.where(sign != 0, (1 << element.width) - magnitude, magnitude) % (1 << element.width)
        if element.signedness != "twos_complement":
            codes = sign | magnitude.astype(np.uint32)
    elif style == "tiny":
        codes = sign | rng.integers(0, 3 << element.mantissa_bits, shape, dtype=np.uint32) % np.uint32(top)
    elif style == "huge":
        codes = sign | (np.uint32(top) - rng.integers(0, 2 << element.mantissa_bits, shape, dtype=np.uint32))
    elif style in ("near", "cancel"):
        spread = rng.integers(0, 3, shape, dtype=np.uint32) << element.mantissa_bits
        codes = sign | np.minimum(one - mantissa - 1 + spread + (codes & mantissa), top).astype(np.uint32)
    else:
        codes = sign | codes % np.uint32(top + 1)
    if style == "cancel":
        half = shape[1] // 2
        codes[:, half : 2 * half] = codes[:, :half] ^ element.sign_bit
        codes[:, : shape[1] - 2 * half] ^= 1
    if style == "sparse":
        codes[rng.random(shape) < 0.7] = 0
    return codes.astype(store(element))


def drawn_starts(rng: np.random.Generator, shape: tuple[int, int], half: bool, style: str) -> Array:
    """Bits of c: zeros of both signs, numbers of every size, a few NaN and Inf."""
    width, fraction, bias = (16, 10, 15) if half else (32, 23, 127)
    dtype = np.uint16 if half else np.uint32
    any_bits = rng.integers(0, 1 << width, shape, dtype=np.uint32)
    near = {"tiny": -bias + 1, "huge": bias - 2}.get(style, 0)
    field = np.clip(near + rng.integers(-6, 8, shape) + bias, 0, 2 * bias)
    sign = any_bits >> (width - 1) << (width - 1)
    close = sign | field.astype(np.uint32) << fraction | any_bits & ((1 << fraction) - 1)
    kind = rng.random(shape)
    bits = np.where(kind < 0.25, sign, np.where(kind < 0.85, close, any_bits))
    return bits.astype(dtype)


def run(
    machine: Any, a: Side, b: Side, c: Array | None, result: str | None = None, threads: int | None = None
) -> Array:
    scales = {f"{side}_scales": x.scales for side, x in (("a", a), ("b", b)) if x.scales is not None}
    start = None
    if c is not None:
        start = c.view({"fp16": np.float16, "int32": np.int32}.get(str(result), np.float32))
    return bits_of(
        sq.matmul(
            a.codes, b.codes, datapath=machine, c=start, a_format=a.element, b_format=b.element, result=result,
            threads=threads, **scales,
        )
    )  # fmt: skip


def model(fields: dict[str, Any], a: Side, b: Side, c: Array | None) -> Array:
    half = fields.get("half", False)
    out = np.zeros((len(a.codes), len(b.codes)), np.uint16 if half else np.uint32)
    for i, j in np.ndindex(out.shape):
        out[i, j] = machine_dot(fields, a.line(i), b.line(j), None if c is None else int(c[i, j]))
    return out


MODELLED = [name for name, machine in sq.datapaths().items() if machine.record.reduce != "exact"]
# Where `operands` is empty the machine takes anything.
_FLOATS = ("fp16", "bf16", "fp32", "e5m2")
_ANY_OPERANDS = {"block_fp32": ("e4m3", "e2m3", "int8"), "fma32": _FLOATS, "tree32": _FLOATS}


def operand_names(record: sq.Datapath, name: str) -> tuple[str, ...]:
    # A machine that drops bits reads words: to it tf32 is fp32 cut short.
    names = [
        n for n, e in sq.elements().items() if e.record in record.operands and not (record.dropped_bits and n == "tf32")
    ]
    return tuple(names) or _ANY_OPERANDS[name]


def drawn_problem(
    rng: np.random.Generator, record: sq.Datapath, names: tuple[str, str], style: str, k: int
) -> tuple[Side, Side]:
    sides = []
    for name in names:
        rows = 3
        codes = drawn_codes(rng, name, (rows, k), style)
        side = Side(name, codes)
        if record.block_scales and record.reduce != "tree":
            block = next(b for b in (32, 16, 10, 7, 4, 3, 2, 1) if (k % b == 0 and b % record.presum == 0) or b == 1)
            if record.presum > 1 and k % 16:
                return sides[0] if sides else side, side  # no scales where blocks would not fit
            block = block if record.presum == 1 or block >= 16 else 16
            short = record.scale != sq.elements()["e8m0"].record
            middle, spread = (0x38, 24) if short else (127, 12 if style != "wide" else 100)
            scales = np.clip(
                middle + rng.integers(-spread, spread + 1, (rows, k // block)), 0, 254 if not short else 126
            )
            scales[rng.random(scales.shape) < 0.02] = 0xFF if not short else 0x7F
            scales[rng.random(scales.shape) < 0.05] = 0
            side = replace(
                side, scales=scales.astype(np.uint8), block=block, scale_element="ue4m3" if short else "e8m0"
            )
        sides.append(side)
    return sides[0], sides[1]


@pytest.mark.parametrize("name", MODELLED)
def test_every_machine_equals_its_rules_in_integers(name: str) -> None:
    """Random and adversarial operands, on every ISA."""
    record = sq.datapaths()[name].record
    elements = operand_names(record, name)
    rng = np.random.default_rng(sum(map(ord, name)))
    lengths = (1, 5, 16, 40, 64, 128 + 16, 75)
    for number, style in enumerate(STYLES):
        pair = (elements[number % len(elements)], elements[(number * 7 + number // 3) % len(elements)])
        k = lengths[number % len(lengths)] if record.presum == 1 else (16, 64, 80, 128)[number % 4]
        a, b = drawn_problem(rng, record, pair, style, k)
        results = ("fp32", "fp16") if record.output == "fp32_or_fp16" else (record.output,)
        for result in results:
            fields = record.to_dict()
            fields = with_half_result(fields) if result == "fp16" else fields
            c = drawn_starts(rng, (3, 3), result == "fp16", style) if number % 3 != 2 else None
            wanted = model(fields, a, b, c)
            for isa in ISAS:
                with forced_isa(isa):
                    got = run(name, a, b, c, result)
                assert np.array_equal(got, wanted), (name, pair, style, k, result, isa, got, wanted)


def assert_equals_its_rules(record: sq.Datapath, a: Side, b: Side, c: Array | None) -> None:
    wanted = model(record.to_dict(), a, b, c)
    for isa in ISAS:
        with forced_isa(isa):
            got = run(record, a, b, c)
        assert np.array_equal(got, wanted), (record, a.element, b.element, isa, got, wanted)


ROUNDINGS = ("toward_zero", "nearest_even", "nearest_away", "down", "to_odd")


# Machines of the catalog with their choices changed: every field, also those that no named machine uses.
_TAKEN = {"align": ("fp16", "e4m3", "bf16", "tf32"), "integer": ("int8", "hbfp8_element", "int4")}


def drawn_machine(rng: np.random.Generator) -> dict[str, Any]:
    """An aligning machine with random fields."""
    group = int(rng.choice([1, 2, 3, 4, 8, 16, 32]))
    fields: dict[str, Any] = {
        "reduce": "align",
        "group": group,
        "fraction_bits": int(rng.integers(4, 36)),
        "align_rounding": str(rng.choice(["toward_zero", "down", "nearest_even", "to_odd"])),
        "accumulator_rounding": str(rng.choice(ROUNDINGS)),
        "accumulator_fraction": int(rng.choice([23, 23, 13, 10, 7, 3])),
        "accumulator_exponent_bits": int(rng.choice([8, 8, 6, 5])),
        "overflow": str(rng.choice(["infinity", "saturate"])),
        "zero_products": str(rng.choice(["absent", "lowest"])),
        "exponent_floor": int(rng.choice([-1000, -132, -20])),
        "normalize": bool(rng.integers(2)),
        "product_overflow": bool(rng.integers(2)),
        "start": str(rng.choice(["aligned", "after_instruction", "late_floor"])),
        "block_scales": bool(rng.integers(2)),
    }
    ways = int(rng.choice([1, 1, 2, 4]))
    if ways > 1:
        fields["instruction"] = ways * group
        fields["run"] = int(rng.choice([r for r in range(1, group + 1) if group % r == 0]))
    if rng.random() < 0.3:
        fields["chunk"] = ways * group * int(rng.integers(1, 4))
    if fields["start"] == "late_floor":
        fields["sum_fraction"] = int(rng.integers(8, 36))
        fields["start_fraction"] = int(rng.integers(4, fields["sum_fraction"] + 1))
        fields["start_reach"] = int(rng.choice([0, 3, 25]))
        fields["lanes"] = int(rng.choice([1, 2, 4]))
    return fields


def test_machines_with_any_choices_equal_their_rules() -> None:
    rng = np.random.default_rng(11)
    used: dict[str, set[Any]] = {}
    for number in range(300):
        chosen = drawn_machine(rng)
        record = sq.Datapath(**chosen)
        for field, value in chosen.items():
            used.setdefault(field, set()).add(value)
        pair = tuple(str(rng.choice(_TAKEN["align"])) for _ in range(2))
        k = int(rng.choice([1, 7, 24, 65]))
        a, b = drawn_problem(rng, record, (pair[0], pair[1]), STYLES[number % len(STYLES)], k)
        c = drawn_starts(rng, (3, 3), False, STYLES[number % len(STYLES)])
        assert_equals_its_rules(record, a, b, c)
    assert all(len(values) > 1 for field, values in used.items() if field != "reduce")


def drawn_chain(rng: np.random.Generator, reduce: str) -> dict[str, Any]:
    """A machine of fused multiply-adds, exact segments or trees, and its accumulator."""
    chosen: dict[str, Any] = {
        "reduce": reduce,
        "accumulator_exponent_bits": int(rng.choice([8, 8, 5, 4, 2])),
        "accumulator_fraction": int(rng.choice([23, 22, 13, 10, 7, 3, 1])),
        "accumulator_rounding": str(rng.choice(ROUNDINGS)),
        "overflow": str(rng.choice(["infinity", "saturate"])),
    }
    if reduce != "fma":
        chosen["group"] = int(rng.choice([0, 1, 3, 8]))
    if reduce == "tree":
        chosen |= {"flush_inputs": bool(rng.integers(2)), "flush_results": bool(rng.integers(2))}
    return chosen


@pytest.mark.parametrize("reduce", ("fma", "blocks", "tree"))
def test_sums_are_rounded_to_any_accumulator(reduce: str) -> None:
    rng = np.random.default_rng(16)
    used: dict[str, set[Any]] = {}
    for number in range(120):
        chosen = drawn_chain(rng, reduce)
        for field, value in chosen.items():
            used.setdefault(field, set()).add(value)
        record = sq.Datapath(**chosen)
        pair = tuple(str(rng.choice(["fp16", "bf16", "e4m3", "e2m1", "int8", "fp32"])) for _ in range(2))
        style = STYLES[number % len(STYLES)]
        a, b = drawn_problem(rng, record, (pair[0], pair[1]), style, int(rng.choice([1, 7, 24, 65])))
        c = drawn_starts(rng, (3, 3), False, style) if number % 3 else None
        assert_equals_its_rules(record, a, b, c)
    assert all(len(values) > 1 for field, values in used.items() if field != "reduce")


@pytest.mark.parametrize("reduce", ("fma", "tree"))
@pytest.mark.parametrize(("dtype", "exponent_bits", "fraction"), [(np.float16, 5, 10), (ml_dtypes.bfloat16, 8, 7)])
def test_accumulators_of_sixteen_bits_are_those_of_numpy(
    reduce: str, dtype: Any, exponent_bits: int, fraction: int
) -> None:
    """Rounded products, added one by one in NumPy's arithmetic; or where products are exact, fused multiply-adds."""
    record = sq.Datapath(reduce=reduce, accumulator_exponent_bits=exponent_bits, accumulator_fraction=fraction,
                         **({"group": 1} if reduce == "tree" else {}))  # fmt: skip
    rng = np.random.default_rng(17)
    # Products of few bits for the fused ones: NumPy rounds a sum of two numbers of its type once.
    shape, bits = (12, 40), 3 if reduce == "fma" else fraction
    drawn = (
        rng.integers(-(2 << bits), 2 << bits, shape) * 2.0 ** rng.integers(-6 - bits, 4 - bits, shape) for _ in "ab"
    )
    a, b = (np.float32(x).astype(dtype) for x in drawn)
    acc = np.zeros((12, 12), dtype)
    for k in range(shape[1]):
        product = np.multiply.outer(a[:, k], b[:, k])
        assert reduce == "tree" or np.array_equal(
            product.astype(np.float64), np.multiply.outer(a[:, k].astype(np.float64), b[:, k].astype(np.float64))
        )
        acc = (acc + product).astype(dtype)
    for isa in ISAS:
        with forced_isa(isa):
            got = sq.matmul(a, b, datapath=record)
        assert np.array_equal(bits_of(got), bits_of(acc.astype(np.float32))), isa


@pytest.mark.parametrize("zeros", ("absent", "lowest"))
def test_terms_under_a_scale_of_zero_are_zeros(zeros: str) -> None:
    """Whatever the exponent of the other scale is; c may be far below it."""
    rng = np.random.default_rng(15)
    for number in range(48):
        rounding = ("toward_zero", "down", "nearest_even", "to_odd")[number // 4 % 4]
        record = with_fields(
            sq.datapaths()["blackwell_nvf4"].record, {"zero_products": zeros, "align_rounding": rounding}
        )
        a, b = drawn_problem(rng, record, ("e2m1", "e2m1"), STYLES[number % len(STYLES)], (16, 64, 80, 192)[number % 4])
        sides = []
        for side in (a, b):
            assert side.scales is not None
            zero = rng.random(side.scales.shape) < 0.5
            sides.append(replace(side, scales=np.where(zero, 0, np.minimum(side.scales, 0x7E)).astype(np.uint8)))
        c = (rng.standard_normal((3, 3)) * 2.0 ** rng.integers(-60, 4, (3, 3))).astype(np.float32).view(np.uint32)
        wanted = model(record.to_dict(), sides[0], sides[1], c)
        for isa in ISAS:
            with forced_isa(isa):
                got = run(record, sides[0], sides[1], c)
            assert np.array_equal(got, wanted), (number, isa, got, wanted)


def fused(terms: list[tuple[Fraction, Fraction]], start: Fraction, exponent_bits: int, fraction: int) -> float:
    """acc = a * b + acc with one rounding each to nearest even, from the definition; zeros are +0."""
    emax = 2 ** (exponent_bits - 1) - 1
    acc = start
    for a, b in terms:
        exact = a * b + acc
        if not exact:
            acc = Fraction(0)
            continue
        exponent = max(math.floor(math.log2(abs(exact))) if abs(exact) > 2**-1000 else -1000, 1 - emax)
        while exponent > 1 - emax and abs(exact) < Fraction(2) ** exponent:
            exponent -= 1
        while abs(exact) >= Fraction(2) ** (exponent + 1):
            exponent += 1
        quantum = Fraction(2) ** (exponent - fraction)
        acc = round(exact / quantum) * quantum
        if abs(acc) >= Fraction(2) ** (emax + 1):
            return math.copysign(math.inf, acc)
    return float(acc)


@pytest.mark.parametrize(("format", "exponent_bits", "fraction"), [
    ("fp16", 5, 10), ("bf16", 8, 7), ("bf16", 8, 23), ("e4m3", 8, 5), ("e5m2", 5, 3), ("bf16", 6, 9),
])  # fmt: skip
def test_a_sticky_bit_makes_fused_multiply_adds_into_any_accumulator(
    format: str, exponent_bits: int, fraction: int
) -> None:
    # Subnormal operands lie so far below their exponent.
    bits = fraction + 3 + 2 * sq.elements()[format].record.mantissa_bits
    record = sq.Datapath(
        reduce="align", group=1, fraction_bits=bits, align_rounding="to_odd", accumulator_exponent_bits=exponent_bits,
        accumulator_fraction=fraction, accumulator_rounding="nearest_even",
    )  # fmt: skip
    cut = sq.Datapath(**{**record.to_dict(), "align_rounding": "toward_zero", "scale": record.scale})
    dtype = np.dtype(getattr(ml_dtypes, {"bf16": "bfloat16", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}[format])
                     if format != "fp16" else np.float16)  # fmt: skip
    rng = np.random.default_rng(14)
    other = 0
    for scale in (1.0, 2.0**-4, 2.0**-7, 2.0**5):
        mantissas = rng.integers(-255, 256, (2, 60, 9)) / 128
        powers = 2.0 ** rng.integers(-14, 8, (2, 60, 9))  # what is far below a tie breaks it
        a, b = ((m * p * scale).astype(np.float32).astype(dtype) for m, p in zip(mantissas, powers, strict=True))
        a = np.where(np.isfinite(a.astype(np.float32)), a, dtype.type(1))
        b = np.where(np.isfinite(b.astype(np.float32)), b, dtype.type(1))
        wanted = np.float32([
            [fused([(Fraction(float(x)), Fraction(float(y))) for x, y in zip(row, line, strict=True)],
                   Fraction(0), exponent_bits, fraction) for line in b] for row in a
        ])  # fmt: skip
        for isa in ISAS:
            with forced_isa(isa):
                assert np.array_equal(bits_of(sq.matmul(a, b, datapath=record)), bits_of(wanted)), (scale, isa)
        other += np.count_nonzero(bits_of(sq.matmul(a, b, datapath=cut)) != bits_of(wanted))
        if fraction == 23:
            assert np.array_equal(bits_of(sq.matmul(a, b, datapath="fma32")), bits_of(wanted))
    # Without the sticky bit, ties are not what they seem; sums of fp16 in fp16 are too short for that.
    assert other or fraction in (10, 23)


def test_subnormal_elements_are_flushed_before_their_scales() -> None:
    """A scale makes no subnormal of a normal element, and no normal of a subnormal one."""
    rng = np.random.default_rng(12)
    for number in range(24):
        flushes = {"flush_inputs": True, "flush_results": bool(number % 2)}
        record = sq.Datapath(reduce="tree", group=int(rng.integers(0, 5)), **flushes)
        pair = [("fp16", "e4m3", "bf16", "int8")[int(rng.integers(4))] for _ in range(2)]
        sides = []
        for name in pair:
            scales = (127 + rng.integers(-30, 31, (3, 3))).astype(np.uint8)
            codes = drawn_codes(rng, name, (3, 21), ("tiny", "near", "any")[number % 3])
            sides.append(Side(name, codes, scales, 7))
        wanted = model(record.to_dict(), sides[0], sides[1], None)
        for isa in ISAS:
            with forced_isa(isa):
                assert np.array_equal(run(record, sides[0], sides[1], None), wanted), (record, pair, isa)
    half = np.float16([[2**-6, 2**-13]])
    for isa in ISAS:
        with forced_isa(isa):
            got = sq.matmul(half, half, datapath="cdna2_16", a_scales=np.float32([2**-10]))
        assert float(got[0, 0]) == (2**-12 + 2**-26) * 2**-10


def test_products_of_two_or_more_count_one_higher_on_every_way() -> None:
    """Terms of int32 and of int64, steps of any length, the accumulator within them or after them."""
    rng = np.random.default_rng(14)
    for number in range(48):
        group, fraction_bits = int(rng.choice([1, 4, 16, 32])), int(rng.choice([13, 20, 24, 28, 29, 34]))
        late: dict[str, Any] = {"start": "late_floor", "sum_fraction": 31, "start_fraction": 24}
        chosen: dict[str, Any] = {
            "reduce": "align", "group": group, "fraction_bits": fraction_bits, "normalize": True,
            "instruction": group * int(rng.choice([1, 2])), "accumulator_rounding": "toward_zero",
            "zero_products": ("absent", "lowest")[number % 2], **(late, {}, {"start": "after_instruction"})[number % 3],
        }  # fmt: skip
        name = ("e4m3", "fp16", "bf16", "e2m1")[number % 4]
        a, b = (Side(name, drawn_codes(rng, name, (3, 70), ("near", "cancel", "any")[number % 3])) for _ in range(2))
        c = drawn_starts(rng, (3, 3), False, "near")
        wanted = model(sq.Datapath(**chosen).to_dict(), a, b, c)
        for isa in ISAS:
            with forced_isa(isa):
                assert np.array_equal(run(sq.Datapath(**chosen), a, b, c), wanted), (chosen, name, isa)


def test_a_c_that_is_too_small_for_a_narrow_accumulator_becomes_plus_zero() -> None:
    """Of either sign: zeros of accumulators are +0, also where one is rounded to it (section 10, step 4)."""
    zeros, fields = np.zeros((2, 8), np.uint8), {"accumulator_exponent_bits": 5, "accumulator_fraction": 10}
    align: dict[str, Any] = {"reduce": "align", "group": 4, "fraction_bits": 20}
    late = {"sum_fraction": 24, "start_fraction": 24, "start": "late_floor"}
    c = np.float32([[-(2.0**-40), 2.0**-40], [-0.0, -(2.0**-25)]])
    for chosen in (
        {**align, "start": "after_instruction"}, {**align, "accumulator_rounding": "nearest_even"},
        {**align, **late, "accumulator_rounding": "toward_zero"}, {"reduce": "integer", "integer_bits": 16},
    ):  # fmt: skip
        record = sq.Datapath(**chosen, **fields)
        side = Side("int8" if record.reduce == "integer" else "e4m3", zeros)
        wanted = model(record.to_dict(), side, side, c.view(np.uint32))
        for isa in ISAS:
            with forced_isa(isa):
                got = run(record, side, side, c.view(np.uint32))
            assert np.array_equal(got, wanted) and not got.any(), (chosen, isa, got)


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_integer_accumulators_of_any_width_equal_pythons_integers(overflow: str) -> None:
    rng = np.random.default_rng(5)
    for bits in (2, 8, 14, 16, 20, 32, 48):
        for tree in (0, 1, 3):
            chosen = {
                "reduce": "integer", "integer_bits": bits, "integer_tree": tree, "integer_overflow": overflow,
                "group": int(rng.choice([0, 5])), "accumulator_fraction": int(rng.choice([23, 7, 10])),
                "accumulator_exponent_bits": int(rng.choice([8, 5])),
                "overflow": str(rng.choice(["infinity", "saturate"])),
            }  # fmt: skip
            record = sq.Datapath(**chosen)
            name, k = str(rng.choice(_TAKEN["integer"])), int(rng.choice([12, 20, 32]))
            a, b = drawn_problem(rng, record, (name, name), "huge" if tree else "any", k)
            wanted = model(record.to_dict(), a, b, None)
            for isa in ISAS:
                with forced_isa(isa):
                    assert np.array_equal(run(record, a, b, None), wanted), (chosen, name, k, isa)


def test_int32_sums_start_at_c_and_wrap_or_saturate(isa: str) -> None:
    ones = np.full((1, 3), 127, np.int8)
    c = np.array([[2**31 - 10]], np.int32)
    assert int(sq.matmul(ones, ones, datapath="int8_int32", c=c)[0, 0]) == 2**31 - 10 + 3 * 127 * 127 - 2**32
    fields = {**sq.datapath_to_dict(sq.datapaths()["int8_int32"].record), "integer_overflow": "saturate"}
    assert int(sq.matmul(ones, ones, datapath=sq.datapath_from_dict(fields), c=c)[0, 0]) == 2**31 - 1
    wide = np.random.default_rng(3).integers(-128, 128, (5, 1000), dtype=np.int8)
    assert np.array_equal(sq.matmul(wide, wide, datapath="int8_int32"), wide.astype(np.int32) @ wide.astype(np.int32).T)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hypothesis_finds_no_operands_that_a_kernel_adds_otherwise(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(MODELLED))
    record = sq.datapaths()[name].record
    element = data.draw(st.sampled_from(operand_names(record, name)))
    width = ELEMENTS[element].width
    k = data.draw(st.integers(1, 40))
    codes = st.lists(st.integers(0, (1 << width) - 1), min_size=k, max_size=k)
    a, b = (Side(element, np.array([data.draw(codes)], store(ELEMENTS[element]))) for _ in range(2))
    c = np.uint32([[data.draw(st.integers(0, 2**32 - 1))]])
    wanted = model(record.to_dict(), a, b, c)
    for isa in ISAS:
        with forced_isa(isa):
            assert np.array_equal(run(name, a, b, c, record.output.split("_")[0]), wanted), (name, isa)


# What a machine says of itself


def test_a_machine_comes_back_from_json(tmp_path: Path) -> None:
    for name, machine in sq.datapaths().items():
        text = json.dumps(sq.datapath_to_dict(machine.record))
        assert sq.datapath_from_dict(json.loads(text)) == machine.record, name
        file = tmp_path / f"{name}.json"
        file.write_text(text)
        assert sq.load_datapath(file) == machine.record
    ones = np.ones((1, 4), ml_dtypes.float8_e4m3fn)
    for path in (tmp_path / "hopper_fp8.json", str(tmp_path / "hopper_fp8.json")):
        assert float(sq.matmul(ones, ones, datapath=path)[0, 0]) == 4
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        sq.load_datapath(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="object"):
        (tmp_path / "bad.json").write_text("[]")
        sq.load_datapath(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="nine"):
        sq.datapath_from_dict({"operands": ["nine"]})
    with pytest.raises(ValueError, match=r"bad\.json: fields that reduce='fma' does not read: group=5:"):
        (tmp_path / "bad.json").write_text('{"reduce": "fma", "group": 5}')
        sq.load_datapath(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"gone\.json: cannot be read"):
        sq.load_datapath(tmp_path / "gone.json")
    with pytest.raises(TypeError, match="no field"):
        sq.datapath_from_dict({"reduces": "align"})


def test_results_that_a_machine_does_not_offer_are_refused() -> None:
    x = np.ones((2, 4), ml_dtypes.float8_e4m3fn)
    for name, result in (("exact", "fp16"), ("hopper_fp8_promoted", "fp16"), ("hopper_fp8", "int32")):
        with pytest.raises(ValueError, match="this datapath gives"):
            sq.matmul(x, x, datapath=name, result=result)
    with pytest.raises(TypeError, match="needed float16"):
        sq.matmul(x, x, datapath="hopper_fp8", result="fp16", c=np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="float scales"):
        sq.matmul(x, x, datapath="hopper_fp8", result="fp16", a_tensor_scale=0.5)


@pytest.mark.parametrize(
    "fields",
    [
        {"reduce": "align", "group": 32, "fraction_bits": 45},
        {"reduce": "align", "group": 4096, "fraction_bits": 44},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "instruction": 12},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "instruction": 16, "run": 3},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "chunk": 12},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "lanes": 2},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "presum": 3},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "presum": 4, "normalize": True},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "presum": 4, "product_overflow": True},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "start": "late_floor"},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "integer_bits": 8},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "flush_inputs": True},
        {"reduce": "align", "group": 8, "fraction_bits": 24, "output": "int32"},
        {"reduce": "exact", "group": 4},
        {"reduce": "fma", "chunk": 128},
        {"reduce": "tree", "output": "fp32_or_fp16"},
        {"reduce": "integer"},
        {"reduce": "integer", "integer_bits": 49},
        {"reduce": "integer", "integer_bits": 33, "output": "int32", "block_scales": False},
        {"reduce": "integer", "integer_bits": 32, "output": "int32"},
        {"reduce": "integer", "integer_bits": 32, "output": "int32", "block_scales": False, "accumulator_fraction": 10},
        {"reduce": "integer", "integer_bits": 32, "output": "int32", "block_scales": False, "nan_bits": 0x7FFFFFFF},
        {"reduce": "integer", "integer_bits": 32, "output": "int32", "block_scales": False, "group": 8},
        {"reduce": "blocks", "group": -1},
    ],
)
def test_fields_that_mean_nothing_together_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        sq.datapath_from_dict(fields)


def test_a_product_that_its_block_scales_take_beyond_float32_overflows(isa: str) -> None:
    fields = sq.datapath_to_dict(sq.datapaths()["blackwell_mxf8"].record)
    plus = np.full((1, 64), 0x38, np.uint8)
    both = plus.copy()
    both[:, 16:32] |= 0x80
    both[:, 32:] = 0
    top = np.full((1, 2), 254, np.uint8)
    raw = {"a_format": "e4m3", "b_format": "e4m3", "a_scales": top, "b_scales": top}
    for overflow, wanted in ((False, [0.0, np.inf]), (True, [np.nan, np.inf])):
        machine = sq.datapath_from_dict({**fields, "product_overflow": overflow})
        got = sq.matmul(plus, np.vstack([both, plus]), datapath=machine, **raw | {"b_scales": np.vstack([top, top])})
        assert np.array_equal(got[0], np.float32(wanted), equal_nan=True)


def test_a_product_of_zero_never_overflows_whatever_its_scales(isa: str) -> None:
    fields = {"reduce": "align", "group": 2, "fraction_bits": 20, "product_overflow": True}
    top = np.full((1, 1), 254, np.uint8)
    raw = {"a_format": "e4m3", "b_format": "e4m3", "a_scales": top, "b_scales": top}
    for rule in ("absent", "lowest"):
        machine = sq.datapath_from_dict({**fields, "zero_products": rule})
        got = sq.matmul(np.uint8([[0, 0x38]]), np.uint8([[0x7E, 0]]), datapath=machine, **raw)
        assert bits_of(got).tolist() == [[0]]


def test_where_k_has_ended_a_machine_adds_zeros(isa: str) -> None:
    """Written out or left to it, they do the same: also where zeros count in the alignment."""
    rng, told = np.random.default_rng(6), 0
    for number in range(120):
        record = sq.Datapath(**drawn_machine(rng))
        a, b = (Side("e4m3", drawn_codes(rng, "e4m3", (3, 3), STYLES[number % len(STYLES)])) for _ in range(2))
        length = record.instruction or record.group
        padded = [np.pad(side.codes, ((0, 0), (0, -3 % length))) for side in (a, b)]
        c = (2.0 ** rng.integers(-140, -20, (3, 3))).astype(np.float32)
        whole = [Side("e4m3", codes) for codes in padded]
        start = c.view(np.uint32) if record.accumulator_exponent_bits == 8 else None
        got = run(record, a, b, start)
        assert np.array_equal(got, run(record, *whole, start)), record
        told += record.zero_products == "lowest" and length > 3
    assert told > 20


def test_long_products_on_either_way_have_the_bits_of_the_reference() -> None:
    """At K = 8192 fewer rows are packed together; an Inf in c sends a row the general way."""
    rng = np.random.default_rng(8)
    codes = (rng.integers(0x20, 0x50, (2, 3, 8192)) | rng.choice([0, 0x80], (2, 3, 8192))).astype(np.uint8)
    c = np.float32([[1, np.inf, -2]] * 3)
    keywords: dict[str, Any] = {"a_format": "e4m3", "b_format": "e4m3", "c": c}
    for name in ("hopper_fp8", "hopper_fp8_mma_sync", "blackwell_f8f6f4"):
        with forced_isa("reference"):
            wanted = bits_of(sq.matmul(*codes, datapath=name, **keywords))
        for isa in ISAS:
            with forced_isa(isa):
                assert np.array_equal(bits_of(sq.matmul(*codes, datapath=name, **keywords)), wanted), (name, isa)


def test_an_nvfp4_tensor_goes_to_its_machine_with_its_codes(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((3, 64)).astype(np.float32), rng.standard_normal((2, 64)).astype(np.float32)
    a, b = sq.encode(x, "nvfp4"), sq.encode(w, "nvfp4")
    got = sq.matmul(a, b, datapath="blackwell_nvf4")
    raw = {"a_format": "e2m1", "b_format": "e2m1", "a_scales": a.scales[1], "b_scales": b.scales[1]}
    outer = {"a_tensor_scale": float(a.scales[0].item()), "b_tensor_scale": float(b.scales[0].item())}
    assert np.array_equal(bits_of(got), bits_of(sq.matmul(a.codes, b.codes, datapath="blackwell_nvf4", **raw, **outer)))
    machine = sq.Accelerator("nvfp4", "nvfp4", datapath="blackwell_nvf4")
    assert np.array_equal(bits_of(sq.linear(x, w, accelerator=machine)), bits_of(got))


def test_tf32_is_a_float32_word_where_the_machine_reads_one(isa: str) -> None:
    word = np.uint32([[0x3F801FFF, 0x40000000]])  # the low 13 bits are not read
    codes = word >> 13
    for left, name in ((word, "tf32"), (word, "fp32")):
        got = sq.matmul(left, left, datapath="ampere_tf32", a_format=name, b_format=name)
        assert float(got[0, 0]) == 5
    assert float(sq.matmul(codes, codes, datapath="exact", a_format="tf32", b_format="tf32")[0, 0]) == 5
    floats = word.view(np.float32)
    assert float(sq.matmul(floats, floats, datapath="ampere_tf32")[0, 0]) == 5
    tensor = sq.encode(np.float32([[1.0, 2.0]]), "tf32")
    assert float(sq.matmul(tensor, tensor, datapath="ampere_tf32")[0, 0]) == 5


@pytest.mark.parametrize("fraction_bits", [13, 20, 23, 24, 25, 30, 36])
def test_zeros_add_up_to_zero_whatever_is_kept_of_them(fraction_bits: int, isa: str) -> None:
    record = sq.Datapath(reduce="align", group=8, fraction_bits=fraction_bits, block_scales=False)
    zeros = np.zeros((2, 20), np.float16)
    assert bits_of(sq.matmul(zeros, zeros, datapath=record)).tolist() == [[0, 0], [0, 0]]
    minus = np.full((2, 2), -0.0, np.float32)
    assert bits_of(sq.matmul(zeros, -zeros, datapath=record, c=minus)).tolist() == [[0, 0], [0, 0]]


def test_threads_and_shapes_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(8)
    record = sq.datapaths()["hopper_16"].record
    a, b = drawn_problem(rng, record, ("fp16", "bf16"), "near", 300)
    a, b = replace(a, codes=np.tile(a.codes, (40, 1))), replace(b, codes=np.tile(b.codes, (30, 1)))
    whole = run("hopper_16", a, b, None, "fp32", threads=1)
    assert np.array_equal(run("hopper_16", a, b, None, "fp32", threads=3), whole)
    assert np.array_equal(whole, np.tile(whole[:3, :3], (40, 30)))
    assert np.array_equal(run("hopper_16", b, a, None, "fp32"), whole.T)


def test_the_rules_in_integers_are_those_of_the_oracle() -> None:
    """Two models of hopper_fp8, of different hands."""
    fields = sq.datapaths()["hopper_fp8"].record.to_dict()
    rng = np.random.default_rng(21)
    for style in STYLES:
        a, b = (Side(n, drawn_codes(rng, n, (2, 70), style)) for n in ("e4m3", "e5m2"))
        c = drawn_starts(rng, (2, 2), False, style)
        for i, j in np.ndindex(2, 2):
            sides = (oracle.Operand(ELEMENTS[x.element], x.codes[r].tolist()) for x, r in ((a, i), (b, j)))
            assert machine_dot(fields, a.line(i), b.line(j), int(c[i, j])) == oracle.dot(
                "hopper_fp8", *sides, int(c[i, j])
            )


def test_every_element_of_the_model_reads_as_the_catalog_says() -> None:
    for name in ("e4m3", "e5m2", "e4m3fnuz", "e5m2fnuz", "e3m2", "e2m3", "e2m1", "ue4m3", "hbfp8_element", "int8"):
        element, record = ELEMENTS[name], element_record(ELEMENTS[name])
        for code in range(1 << element.width):
            term, value = machines.read(element, code), record.value(code)
            if np.isnan(value):
                assert term.special == "nan"
            elif np.isinf(value):
                assert term.special == ("+inf" if value > 0 else "-inf")
            else:
                assert term.signed * 2.0**term.unit == value, (name, code)


# Error bounds


def value_of(term: machines.Term) -> Fraction:
    return Fraction(term.signed) * Fraction(2) ** term.unit


def bound_ratios(record: sq.Datapath, a: Side, b: Side, c: Array | None) -> list[float]:
    """|machine - exact| over the bound of every dot that is finite and did not saturate."""
    fields, found = record.to_dict(), []
    got = run(record, a, b, c)
    read = {side: [[machines.operand(x.line(r), k, {**fields, "flush_inputs": False}) for k in range(x.codes.shape[1])]
                   for r in range(len(x.codes))] for side, x in (("a", a), ("b", b))}  # fmt: skip
    scales = {side: [[x.line(r).scale(k) for k in range(x.codes.shape[1])] for r in range(len(x.codes))]
              for side, x in (("a", a), ("b", b))}  # fmt: skip
    if any(t.special for rows in (*read.values(), *scales.values()) for row in rows for t in row):
        return []
    values = {
        side: [
            [value_of(t) * value_of(s) for t, s in zip(row, own, strict=True)]
            for row, own in zip(read[side], scales[side], strict=True)
        ]
        for side in "ab"
    }
    tops = {side: max((abs(v) for row in rows for v in row), default=Fraction(0)) for side, rows in values.items()}
    largest = {side: max(2.0**t.exponent * 2 for row in rows for t in row) for side, rows in scales.items()}
    for i, j in np.ndindex(got.shape):
        d = machines.read(oracle.FP32, int(got[i, j]))
        start = machines.read(oracle.FP32, 0 if c is None else int(c[i, j]))
        if d.special or start.special:
            continue
        products = [x * y for x, y in zip(values["a"][i], values["b"][j], strict=True)]
        total = float(sum(map(abs, products)) + abs(value_of(start))) * (1 + 2.0**-50) + 5e-324
        problem = Problem(
            total=np.array([total]),
            k=len(products),
            segments=sum(1 if x.scales is None else x.scales.shape[1] for x in (a, b)),
            a=element_record(ELEMENTS[a.element]),
            b=element_record(ELEMENTS[b.element]),
            a_max=float(tops["a"]) * (1 + 2.0**-50),
            b_max=float(tops["b"]) * (1 + 2.0**-50),
            float_scaled=False,
            a_block_scale=largest["a"],
            b_block_scale=largest["b"],
        )
        error = abs(value_of(d) - sum(products) - value_of(start))
        found.append(float(error / Fraction(float(datapath_bound(record, problem)[0]))))
    return found


EXACT_INTEGERS = {"reduce": "integer", "integer_bits": 48, "accumulator_fraction": 10}
BOUNDED = [*(n for n in MODELLED if not n.startswith(("hbfp8", "int8", "block"))), "integer"]


@pytest.mark.parametrize("name", BOUNDED)
def test_no_machine_exceeds_its_bound_and_no_bound_is_silly(name: str) -> None:
    record = sq.Datapath(**EXACT_INTEGERS) if name == "integer" else sq.datapaths()[name].record
    elements = ("int8",) if name == "integer" else operand_names(record, name)
    rng, worst = np.random.default_rng(17), 0.0
    for number in range(30):
        pair = (elements[number % len(elements)], elements[number // 2 % len(elements)])
        k = int(rng.choice([1, 3, 16, 33, 64])) if record.presum == 1 else 64
        style = ("near", "cancel", "sparse", "tiny", "wide")[number % 5]
        a, b = drawn_problem(rng, record, pair, style, k)
        c = drawn_starts(rng, (3, 3), False, style) if number % 2 else None
        worst = max([worst, *bound_ratios(record, a, b, c)])
    assert 1 / 100 < worst <= 1, worst


def test_no_machine_of_any_choices_exceeds_its_bound() -> None:
    rng = np.random.default_rng(23)
    for number in range(120):
        chosen = {**drawn_machine(rng), "overflow": "infinity"}
        if chosen["accumulator_exponent_bits"] == 5 or chosen["accumulator_exponent_bits"] == 6:
            chosen["accumulator_exponent_bits"] = 8
        pair = [str(rng.choice(_TAKEN["align"])) for _ in range(2)]
        style = ("near", "cancel", "sparse", "tiny")[number % 4]
        a, b = (Side(n, drawn_codes(rng, n, (2, 33), style)) for n in pair)
        c = drawn_starts(rng, (2, 2), False, style)
        assert max(bound_ratios(sq.Datapath(**chosen), a, b, c), default=0) <= 1, (chosen, pair, style)
