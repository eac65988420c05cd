"""What an `Accelerator` refuses when it is made, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sparq_sim as sq
from conftest import element_record
from oracle import ELEMENTS


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("scale", {"weights": "mxfp8", "activations": "fp8_e4m3", "datapath": "hopper_fp8"}),
        ("scale", {"weights": "fp8_e4m3", "activations": "mxfp8_e5m2", "datapath": "hopper_fp8"}),
        ("scale", {"datapath": "hopper_fp8"}),
        ("does not take", {"weights": "bf16", "activations": "fp8_e4m3", "datapath": "hopper_fp8"}),
        ("does not take", {"weights": "fp8_e4m3", "activations": "bf16", "datapath": "hopper_fp8"}),
        ("does not take", {"weights": "int8", "activations": "int8", "datapath": "hopper_fp8"}),
        ("output=mxfp8.*without scales", {"output": "mxfp8"}),
        ("output=int8.*without scales", {"output": "int8"}),
        ("output=fp8_e4m3.*without scales", {"output": "fp8_e4m3"}),
        ("unknown format 'mxfp5'.*mxfp4", {"weights": "mxfp5"}),
        ("unknown format 'mxfp5'.*mxfp4", {"activations": "mxfp5"}),
        ("unknown format 'fp33'", {"output": "fp33"}),
        ("unknown datapath 'hopper'.*hopper_fp8", {"datapath": "hopper"}),
        ("sparsity", {"weight_sparsity": "4"}),
        ("sparsity", {"weight_sparsity": "5:4"}),
        ("sparsity", {"activation_sparsity": "0:4"}),
        ("sparsity", {"activation_sparsity": "2:64"}),
        ("conv_blocks='row'.*tap, window", {"rules": {"conv_blocks": "row"}}),
        ("conv_k_order='hwc'.*khwc, chw", {"rules": {"conv_blocks": "window", "conv_k_order": "hwc"}}),
        ("conv_k_order='chw' needs conv_blocks='window'", {"rules": {"conv_k_order": "chw"}}),
        ("block", {"rules": {"block": 0}}),
        ("block='column'", {"rules": {"block": "column"}}),
        ("scale_rule|unknown|median", {"rules": {"scale_rule": "median"}}),
        ("rounding|unknown|upward", {"rules": {"rounding": "upward"}}),
        ("block=32: bf16 has no scales", {"weights": "bf16", "rules": {"block": 32}}),
    ],
)
def test_what_no_machine_can_do_is_refused_when_it_is_made(words: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        sq.Accelerator(**arguments)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("blok", {"rules": {"blok": 16}}),
        ("conv_order", {"rules": {"conv_order": "chw"}}),
        ("format", {"weights": 8}),
        ("format", {"activations": None}),
        ("datapath", {"datapath": 3}),
        ("datapath", {"datapath": None}),
        ("sparsity", {"weight_sparsity": 24}),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_when_it_is_made(words: str, arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        sq.Accelerator(**arguments)


def test_a_rule_that_no_operand_can_follow_is_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="ties"):
        sq.Accelerator("mxfp4", "mxfp8", weight_sparsity="2:4", rules={"ties": "first"})
    with pytest.raises((TypeError, ValueError), match="order"):
        sq.Accelerator("mxfp4", "mxfp8", weight_sparsity="2:4", rules={"order": "later"})


def test_a_users_datapath_names_the_operands_it_takes() -> None:
    path = sq.datapaths()["block_fp32"].record.with_operands([element_record(ELEMENTS["e4m3"])])
    assert str(sq.Accelerator("mxfp8", "mxfp8", datapath=path)).endswith("on user")
    with pytest.raises(ValueError, match="does not take"):
        sq.Accelerator("mxfp4", "mxfp8", datapath=path)
    with pytest.raises(ValueError, match="does not take"):
        sq.Accelerator("mxfp8", "mxfp4", datapath=path)


def test_a_users_datapath_without_block_scales_refuses_them() -> None:
    path = sq.Datapath(reduce="exact", block_scales=False)
    with pytest.raises(ValueError, match="scale"):
        sq.Accelerator("mxfp8", "bf16", datapath=path)
    with pytest.raises(ValueError, match="scale"):
        sq.Accelerator("bf16", "mxfp8", datapath=path)
    sq.Accelerator("bf16", "fp8_e4m3", datapath=path)


@pytest.mark.parametrize("name", ["mine.json", "MINE.JSON"])
def test_a_machine_of_a_file_is_what_the_file_said_when_it_was_made(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"reduce": "blocks", "group": 8}')
    machine = sq.Accelerator("mxfp8", "mxfp8", datapath=str(file))
    same = sq.Accelerator("mxfp8", "mxfp8", datapath=sq.Datapath(reduce="blocks", group=8))
    file.write_text('{"reduce": "blocks", "group": 4}')
    assert machine.path == same.path and machine == same and hash(machine) == hash(same)
    file.unlink()
    assert machine.path.group == 8


def test_an_aligning_machine_needs_a_group_and_bits() -> None:
    for numbers in ({"group": 0, "fraction_bits": 13}, {"group": 16, "fraction_bits": 0}):
        with pytest.raises(ValueError):
            sq.Accelerator("fp8_e4m3", "fp8_e4m3", datapath=sq.Datapath(reduce="align", block_scales=False, **numbers))


def test_the_text_names_formats_sparsity_datapath_and_output() -> None:
    machine = sq.Accelerator(
        "mxfp4", "mxfp8", weight_sparsity="2:4", activation_sparsity="4:8", datapath="fma32", output="bf16"
    )
    assert str(machine) == "mxfp4 2:4 x mxfp8_e4m3 4:8 on fma32 to bf16"
    assert machine.datapath_name == "fma32"
    assert sq.Accelerator(
        datapath=sq.datapaths()["hopper_fp8"].record, weights="fp8_e4m3", activations="fp8_e5m2"
    ).path == (sq.datapaths()["hopper_fp8"].record)


def test_rules_reach_both_operands_and_are_copied() -> None:
    rules: dict[str, Any] = {"scale_rule": "rceil", "block": 16, "conv_blocks": "window", "conv_k_order": "chw"}
    machine = sq.Accelerator("mxfp4", "mxfp8", rules=rules)
    rules["block"] = 8
    for made in (machine.weight_spec, machine.activation_spec):
        assert made.format.block == 16 and made.conversion.scale_rule == "rceil" and made.axis == -1
    assert (machine.conv_blocks, machine.conv_k_order) == ("window", "chw")
    assert (sq.Accelerator().conv_blocks, sq.Accelerator().conv_k_order) == ("tap", "khwc")


def test_the_axis_of_a_given_spec_is_ignored_and_its_choices_are_kept() -> None:
    made = sq.spec("mxfp4", axis=0, block=8, rounding="toward_zero", sparsity="1:2", order="quantize_first")
    machine = sq.Accelerator(made, "mxfp8")
    assert machine.weight_spec.axis == -1
    assert machine.weight_spec.format == made.format
    assert machine.weight_spec.sparsity == made.sparsity
    assert machine.weight_spec.order == "quantize_first"


def test_a_machine_cannot_be_changed() -> None:
    machine = sq.Accelerator()
    with pytest.raises(AttributeError):
        machine.datapath = "fma32"  # type: ignore[misc]
