"""Every worked example of docs/numerics.md, reproduced by every implementation of the library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
import sparq_sim as sq
from conftest import Array, bits_of, codes_tensor, from_bits, plain_format, plane_bits
from numerics_examples import Example, Patterns, load_examples

CARRIER_OF_DIGITS = {8: "fp32", 16: "fp64"}
DTYPE_OF_DIGITS = {8: "float32", 16: "float64"}
#: Numbers of examples of each operation when this was written: the page may gain some, never lose any.
AT_LEAST = {
    "decode": 3,
    "quantize": 20,
    "sparsify": 3,
    "matmul": 5,
    "epilogue": 3,
    "requantize": 7,
    "store": 5,
    "pack": 4,
}


#: Choices that are numbers.
NUMBERS = {
    "scale_minimum": int,
    "zero_scale": int,
    "align_bits": int,
    "even_bits": int,
    "divisor": float,
    "tensor_scale": float,
    "cut_offset": float,
}


def floats(patterns: Patterns) -> Array:
    return from_bits(patterns.values, CARRIER_OF_DIGITS[patterns.digits])


def hexes(values: Any) -> list[str]:
    """Readable in a failing assertion."""
    return [f"{int(v):#x}" for v in np.ravel(values)]


def check_decode(example: Example) -> None:
    wanted = example.lists["values"]
    codes = np.array(example.lists["codes"].values)
    format_ = plain_format(oracle.ELEMENTS[example.format])
    got = codes_tensor(codes, format_).decode(DTYPE_OF_DIGITS[wanted.digits])
    assert hexes(bits_of(got)) == hexes(wanted.values)


def check_quantize(example: Example) -> None:
    arguments: dict[str, Any] = dict(example.options)
    if arguments.get("block", "").isdigit():
        arguments["block"] = int(arguments["block"])
    if "scales" in arguments:
        arguments["scales"] = np.array([int(c, 16) for c in arguments["scales"].split(",")], dtype=np.uint8)
    if "random" in example.lists:
        arguments["random"] = np.array(example.lists["random"].values, dtype=np.uint32)
        arguments["random_bits"] = int(arguments["random_bits"])
    for name, kind in NUMBERS.items():
        if name in arguments:
            arguments[name] = kind(arguments[name])
    inexact = arguments.pop("inexact", None)
    x = floats(example.lists["x"])
    if "shape" in arguments:
        x = x.reshape([int(extent) for extent in arguments.pop("shape").split("x")])
    encoded = sq.encode(x, example.format, **arguments)
    planes, main = plane_bits(encoded), encoded.format.block_format.main_level
    values = sq.emulate(x, example.format, inexact=inexact, **arguments)
    produced = {"codes": encoded.codes, "values": bits_of(values)}
    inside = ["zero"] if encoded.format.has_zero_points else ["micro", "inner"]
    produced |= dict(zip([*(["outer"] if main == 1 else []), "scale", *inside], planes, strict=False))
    wanted = {name: patterns for name, patterns in example.lists.items() if name not in ("x", "random")}
    for name, patterns in wanted.items():
        assert hexes(produced[name]) == hexes(patterns.values), name
    assert bits_of(encoded.decode(inexact=inexact)).tobytes() == bits_of(values).tobytes()


def check_sparsify(example: Example) -> None:
    values, mask = sq.sparsify(floats(example.lists["x"]), example.format, **example.options)
    assert hexes(mask) == hexes(example.lists["mask"].values)
    if "values" in example.lists:
        assert hexes(bits_of(values)) == hexes(example.lists["values"].values)


def check_matmul(example: Example) -> None:
    options: dict[str, Any] = dict(example.options)
    options.pop("block", None)  # follows from the numbers of codes and scales
    operands = []
    for side in "ab":
        width = oracle.ELEMENTS[options[f"{side}_format"]].width
        store = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
        shape = [int(extent) for extent in options.pop(f"{side}_shape", "1x-1").split("x")]
        operands.append(np.array(example.lists[side].values, dtype=store).reshape(shape))
        if f"{side}_scales" in options:
            codes = [int(code, 16) for code in options[f"{side}_scales"].split(",")]
            options[f"{side}_scales"] = np.array([codes], dtype=np.uint8)
    if "c" in example.lists:
        options["c"] = floats(example.lists["c"]).reshape(1, 1)
    if "split_k" in options:
        order = options.pop("split_order", "")
        numbers = tuple(int(number) for number in order.split(",")) if order else "ascending"
        options["split_k"] = sq.SplitK(int(options["split_k"]), order=numbers)
    if "compressed" in options:  # the pattern of a, whose elements that are not 0 are kept
        element = sq.elements()[options.pop("a_format")].record
        tensor = sq.BlockTensor.from_codes(operands[0], format=sq.Format("a", element), mask=operands[0] != 0)
        operands[0], options["compressed"] = tensor.structured(options["compressed"]), "a"
    got = sq.matmul(*operands, datapath=example.format, **options)
    assert hexes(bits_of(got)) == hexes(example.lists["d"].values)


def check_epilogue(example: Example) -> None:
    options, lists = example.options, {name: floats(patterns) for name, patterns in example.lists.items()}
    alpha, beta = (float(from_bits([int(options[name], 16)], "fp32")[0]) for name in ("alpha", "beta"))
    epilogue = sq.Epilogue(
        alpha=alpha, beta=beta, source=lists["source"], bias=lists["bias"], precision=example.format,
        order=tuple(options["order"].split(",")), fused=options["fused"] == "True",
    )  # fmt: skip
    got = sq.matmul(lists["d"].reshape(-1, 1), np.ones((1, 1), np.float32), epilogue=epilogue)
    assert hexes(bits_of(got)) == hexes(example.lists["y"].values)


def check_requantize(example: Example) -> None:
    given: dict[str, Any] = {name: int(text, 0) for name, text in example.options.items()}
    if "scale" in given:
        given["scale"] = float(from_bits([given["scale"]], "fp32")[0])
    sums = np.array([example.lists["v"].values], np.uint32).view(np.int32)
    ones = np.ones((1, 0), np.int8)
    got = sq.matmul(
        ones, np.ones((sums.size, 0), np.int8), c=sums, datapath="int8_int32",
        epilogue=sq.Requantization(example.format, **given),
    )  # fmt: skip
    assert hexes(bits_of(got)) == hexes(example.lists["q"].values)


def check_store(example: Example) -> None:
    codes, mask = (np.array(example.lists[name].values) for name in ("codes", "mask"))
    format_ = sq.formats()["int8"]
    scales = np.ones(1, np.float32)
    spec = sq.Spec(format_)
    tensor = sq.BlockTensor(codes.astype(np.uint8), scales, mask.astype(bool), spec, "float32", "numpy")
    sparse = tensor.structured(example.format)
    stored, places = sparse.compressed(example.options["fill"])
    assert hexes(stored) == hexes(example.lists["stored"].values)
    assert hexes(places) == hexes(example.lists["positions"].values)
    assert hexes(sparse.pack(**example.options).planes["positions"]) == hexes(example.lists["bytes"].values)


def check_pack(example: Example) -> None:
    codes = np.array(example.lists["codes"].values, np.uint8)
    scales = np.array(example.lists["scale"].values if "scale" in example.lists else [127], np.uint8)
    spec = sq.Spec(sq.formats()[example.format])
    tensor = sq.BlockTensor(codes, scales, None, spec, "float32", "numpy")
    packed = tensor.pack(example.options["layout"])
    assert hexes(packed.planes["elements"]) == hexes(example.lists["elements"].values)
    assert sq.unpack(packed) == tensor


CHECKS = {
    "decode": check_decode,
    "quantize": check_quantize,
    "sparsify": check_sparsify,
    "matmul": check_matmul,
    "epilogue": check_epilogue,
    "requantize": check_requantize,
    "store": check_store,
    "pack": check_pack,
}


@pytest.mark.parametrize("example", load_examples(), ids=lambda example: example.name)
def test_the_library_reproduces_the_example(example: Example, isa: str) -> None:
    CHECKS[example.operation](example)


def test_no_example_is_skipped() -> None:
    operations = [example.operation for example in load_examples()]
    assert set(operations) == set(CHECKS)
    assert all(operations.count(name) >= count for name, count in AT_LEAST.items())


def test_matmul_exists() -> None:
    assert callable(sq.matmul)
