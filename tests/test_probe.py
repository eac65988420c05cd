"""probe: our own machines as black boxes show what their records say, and torch shows its order of summation."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import sparq_sim as sq
from commands import sparq, table
from sparq_sim.summation import START, Node, chain_of, exact_groups, places_text, tree_of
from sparq_sim.variants import arithmetic
from test_datapaths import operand_names

# What outputs do not show, with the reason; everything else must be that of the record.
HIDDEN = {
    "exponent_floor": "only sums of subnormal size see it",
    "zero_products": "operands so unequal that a zero product's exponent is the largest are not asked",
    "product_overflow": "Inf is not asked",
    "flush_inputs": "subnormals are not asked",
    "flush_results": "subnormals are not asked",
}
# Other words for the same sums.
SAME = {
    "agilex_bfp": "20 bits hold every sum of ten, so they are exact",
    "int8_int32": "32 bits hold every sum of 64",
    "block_fp32": "without scales there is one segment, whose sum is exact",
    "hbfp8_wrap": "the tree changes nothing where sums wrap",
}
NO_RECORD = {
    "blackwell_mxf4": "products of E2M1 have few sizes: alignment 35 bits down is out of reach",
    "blackwell_nvf4": "the same",
}


def probed(name: str, element: str, k: int, result: str | None = None, with_c: bool = True) -> sq.Probe:
    def box(a: Any, b: Any, c: Any = None) -> Any:
        return sq.matmul(a, b, c=c, datapath=name, a_format=element, b_format=element, result=result)

    kind = {"fp16": "float16", "int32": "int32"}.get(result or sq.datapaths()[name].record.output, "float32")
    return sq.probe(box, k, a_format=element, operands="codes", c_dtype=kind if with_c else None)


def first_element(name: str) -> str:
    return "fp16" if name in ("exact", "fma32") else operand_names(sq.datapaths()[name].record, name)[0]


@pytest.mark.parametrize("name", sq.datapaths())
def test_every_machine_of_the_catalog_is_recovered_from_its_outputs(name: str) -> None:
    record = sq.datapaths()[name].record
    k = 288 if record.chunk else 128 if record.presum > 1 else 72
    found = probed(name, first_element(name), k)
    assert name in found.names
    if name in NO_RECORD:
        assert found.record is None and len(found.unknowns) >= 1
        assert [len(step) for step in found.steps] == [64, 64] and found.output_rounding == "toward_zero"
        with pytest.raises(ValueError, match="alignment was not found"):
            found.datapath()
        return
    made = found.datapath()
    assert found.equal == found.total == 1024
    if name in SAME:
        return
    wanted, got = arithmetic(record), arithmetic(made)
    different = {field for field in wanted if wanted[field] != got[field]} - set(HIDDEN)
    assert not different, (name, {field: (wanted[field], got[field]) for field in different})


@pytest.mark.parametrize("name", ["volta_16", "hopper_16", "hopper_fp8", "blackwell_f8f6f4", "hopper_fp8_mma_sync"])
def test_with_fp16_results_groups_and_alignment_are_recovered(name: str) -> None:
    record = sq.datapaths()[name].record
    found = probed(name, first_element(name), 64, "fp16")
    made = found.datapath()
    assert (made.group, made.fraction_bits, made.start) == (record.group, record.fraction_bits, record.start)
    assert (found.output_fraction, found.output_rounding) == (10, "nearest_even")
    assert found.equal == found.total


def test_without_c_the_order_is_the_same() -> None:
    for name in ("ampere_16", "hopper_fp8", "hopper_fp8_mma_sync", "cdna2_16", "mxdotp", "fma32"):
        element = first_element(name)
        with_c, without = probed(name, element, 64), probed(name, element, 64, with_c=False)
        if name != "fma32":  # without c two products come first
            assert without.steps == with_c.steps and without.instructions == with_c.instructions
        assert arithmetic(without.datapath()) == arithmetic(with_c.datapath())


@pytest.mark.parametrize(
    "fields",
    [
        {"group": 8, "fraction_bits": 20, "align_rounding": "nearest_even", "accumulator_fraction": 15},
        {"group": 5, "fraction_bits": 18, "align_rounding": "down", "accumulator_fraction": 23},
        {"group": 16, "fraction_bits": 16, "accumulator_fraction": 18, "accumulator_rounding": "toward_zero"},
        {"group": 4, "instruction": 16, "run": 1, "fraction_bits": 22, "start": "after_instruction"},
        {"group": 1, "fraction_bits": 24, "accumulator_fraction": 10, "accumulator_rounding": "toward_zero"},
        {"group": 1, "fraction_bits": 25, "accumulator_fraction": 16},
    ],
)
def test_machines_of_no_catalog_are_recovered(fields: dict[str, Any]) -> None:
    machine = sq.Datapath(reduce="align", block_scales=False, **fields)

    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, c=c, datapath=machine)

    found = sq.probe(box, 64, a_format="bf16", c_dtype="float32")
    assert found.equal == found.total, str(found)
    assert {name: value for name, value in fields.items() if getattr(found.datapath(), name) != value} == {}


@pytest.mark.parametrize("reduce", ["fma", "tree"])
@pytest.mark.parametrize(("exponent_bits", "fraction"), [(8, 7), (5, 10), (5, 13), (8, 10), (8, 23)])
@pytest.mark.parametrize("rounding", ["nearest_even", "toward_zero", "nearest_away", "down"])
def test_chains_into_any_accumulator_are_recovered(
    reduce: str, exponent_bits: int, fraction: int, rounding: str
) -> None:
    machine = sq.Datapath(
        reduce=reduce, group=int(reduce == "tree"), accumulator_exponent_bits=exponent_bits,
        accumulator_fraction=fraction, accumulator_rounding=rounding,
    )  # fmt: skip

    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, c=c, datapath=machine)

    # float32 rounds few products of other elements.
    found = sq.probe(box, 24, a_format="fp32" if fraction == 23 else "bf16", c_dtype="float32")
    assert found.datapath() == machine, str(found)


@pytest.mark.parametrize(
    "fields",
    [
        {"reduce": "blocks", "group": 4, "accumulator_fraction": 13, "accumulator_rounding": "toward_zero"},
        {"reduce": "blocks", "group": 8, "accumulator_fraction": 10, "accumulator_exponent_bits": 5},
        {"reduce": "tree", "group": 4, "accumulator_fraction": 10, "accumulator_rounding": "nearest_away"},
        {"reduce": "tree", "group": 8, "accumulator_fraction": 7},
        {"reduce": "fma", "accumulator_exponent_bits": 5, "accumulator_fraction": 10, "overflow": "saturate"},
    ],
)
def test_groups_and_trees_into_any_accumulator_are_recovered(fields: dict[str, Any]) -> None:
    machine = sq.Datapath(**fields)

    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, c=c, datapath=machine)

    found = sq.probe(box, 32, a_format="bf16", c_dtype="float32")
    assert arithmetic(found.datapath()) == arithmetic(machine), str(found)


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "fp16"), (ml_dtypes.bfloat16, "bf16")])
@pytest.mark.parametrize("fused", [True, False])
def test_sums_of_sixteen_bits_are_told_from_rounded_ones(dtype: Any, name: str, fused: bool) -> None:
    def box(a: Any, b: Any, c: Any) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(a.shape[1]):
                exact = np.multiply.outer(a[:, k].astype(np.float64), b[:, k].astype(np.float64))
                product = exact if fused else exact.astype(dtype).astype(np.float64)
                c = (c.astype(np.float64) + product).astype(dtype)
        return c

    found = sq.probe(box, 24, a_format=name, c_dtype=np.dtype(dtype).name)
    bits = (
        {"accumulator_fraction": 10, "accumulator_exponent_bits": 5} if name == "fp16" else {"accumulator_fraction": 7}
    )
    wanted = {"reduce": "fma"} if fused else {"reduce": "tree", "group": 1}
    assert found.datapath() == sq.Datapath(**wanted, **bits), str(found)

    def late(a: Any, b: Any) -> Any:
        return sq.matmul(a, b, datapath="fma32").astype(dtype)

    assert sq.probe(late, 24, a_format=name).datapath() == sq.Datapath(reduce="fma")


def test_a_result_of_another_width_than_the_accumulator_is_seen() -> None:
    def box(a: Any, b: Any) -> Any:
        return sq.matmul(a, b, datapath="hopper_16").astype(ml_dtypes.bfloat16)

    found = sq.probe(box, 64, a_format="bf16")
    assert (found.accumulator_fraction, found.accumulator_rounding) == (23, "toward_zero")
    assert (found.output_fraction, found.output_rounding) == (7, "nearest_even")
    assert found.datapath().group == 16


@pytest.mark.parametrize("k", [16, 200])
def test_the_order_of_torch_is_a_tree_that_gives_its_bits(k: int) -> None:
    torch.manual_seed(1)
    found = sq.probe(lambda a, b: a @ b.T, k, a_format="fp32", operands="torch")
    assert found.tree is not None and found.tree.members == tuple(range(k)) and found.output_fraction == 23
    a, b = torch.randn(16, k), torch.randn(16, k)
    x, y = a.numpy(), b.numpy()

    def added(node: Node) -> Any:
        """Products join by fused multiply-adds, sums by additions."""
        total = np.zeros((16, 16), np.float32)
        for below in node.nodes:
            total = total + added(below)
        for place in sorted(node.leaves):
            column = [np.ascontiguousarray(side[:, place : place + 1]) for side in (x, y)]
            total = sq.matmul(*column, c=total, datapath="fma32")
        return total

    assert np.array_equal(added(found.tree), (a @ b.T).numpy())
    assert found.record is None or found.equal == found.total


def test_trees_and_groups_are_read_from_sizes() -> None:
    tree = Node((START, 0), (Node((1, 2)), Node((3,), (Node((4, 5)),))))
    leaves = (0, 1, 2, 3, 4, 5, START)
    sizes = np.zeros((7, 7), np.int64)

    def fill(node: Node) -> None:
        places = [leaves.index(leaf) for leaf in node.members]
        sizes[np.ix_(places, places)] = node.size
        for below in node.nodes:
            fill(below)

    fill(tree)
    found = tree_of(sizes, leaves)
    assert found is not None and found.members == tree.members
    assert {node.members for node in found.nodes} == {node.members for node in tree.nodes}
    sizes[0, 1] = sizes[1, 0] = 4
    assert tree_of(sizes, leaves) is None
    lost = np.array([[0, 0, 1, 1, 3], [0, 0, 1, 1, 3], [1, 1, 0, 0, 3], [1, 1, 0, 0, 3], [3, 3, 3, 3, 0]])
    assert exact_groups(lost, range(5)) == ((0, 1), (2, 3), (4,))
    lost[0, 4] = lost[4, 0] = 2
    assert exact_groups(lost, range(5)) is None
    assert chain_of(tree) is None and places_text((START, 0, 1, 2, 5)) == "c, 0..2, 5"


def test_the_command_looks_into_a_machine() -> None:
    shown = sparq("probe", "hopper_fp8_mma_sync").stdout
    assert "in groups of 16, sums of 32 join the sum before them" in shown and "c          added to the sum of" in shown
    made = table("probe", "ada_fp8", "--result", "fp16")
    assert made["fraction_bits"] == 13 and made["record"]["group"] == 16 and made["output_fraction"] == 10
    json.dumps(made, allow_nan=False)


def test_wrong_arguments_are_refused() -> None:
    def good(a: Any, b: Any) -> Any:
        return sq.matmul(a, b)

    for call, error, message in (
        (lambda: sq.probe("hopper_16", 8), TypeError, "needed a callable, got str"),  # type: ignore[arg-type]
        (lambda: sq.probe(good, 2), ValueError, "k=2: needed an integer, at least 3"),
        (lambda: sq.probe(good, 8, tile=0), ValueError, "tile=0"),
        (lambda: sq.probe(good, 8, operands="jax"), ValueError, "operands='jax'; known: numpy, torch, codes"),
        (lambda: sq.probe(good, 8, a_format="fp12"), ValueError, "a_format='fp12'; known"),
        (lambda: sq.probe(good, 8, c_dtype="fp32"), ValueError, "c_dtype='fp32'; known"),
        (lambda: sq.probe(good, 8, a_format="hbfp8_element"), ValueError, "has no dtype; give operands='codes'"),
        (lambda: sq.probe(lambda a, b: good(a, b)[0], 8), ValueError, r"gave shape \(16,\); needed \[M, N\]"),
        (lambda: sq.probe(lambda a, b: good(a, b) > 0, 8), TypeError, "gave bool; needed float32"),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize(("bits", "found"), [(19, 19), (20, 20), (21, None)])
def test_integers_are_driven_by_the_largest_products(bits: int, found: int | None, overflow: str) -> None:
    """64 products of 127 * 127 need 21 bits, and so fit no less."""
    fields = {"reduce": "integer", "integer_bits": bits, "integer_overflow": overflow, "output": "int32"}
    machine = sq.datapath_from_dict({**fields, "block_scales": False})

    def box(a: Any, b: Any) -> Any:
        return sq.matmul(a, b, datapath=machine, a_format="int8", b_format="int8")

    got = sq.probe(box, 64, a_format="int8", operands="codes")
    assert got.integer_bits == found and got.integer_overflow == (overflow if found else None)


@pytest.mark.parametrize("k", [3, 16, 64])
def test_a_function_that_adds_no_products_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="at place 0 of K: it adds up no products"):
        sq.probe(lambda a, b: np.zeros((16, 16), np.float32), k)
