"""Which choices account for two outputs of one input: made-up mixtures, whose causes are known block by block."""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import combinations, product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import Array, assert_same_bits, bits_of, plane_bits
from sparq_sim import places
from sparq_sim.fields import changed_fields, fields_of, mixed
from sparq_sim.formats import words_of

#: Blocks of four for MXFP4 with scale_rule even and rounding away from zero against the format's own choices, and which
#: field each of them is for.
BLOCKS = {
    (4.0, 0.25, 0.0, 1.0): "rounding",  # a quarter under 1 is a tie
    (7.0, 1.0, 2.0, 0.0): "scale_rule",  # 7 is promoted, and 7 / 2 is a tie that goes to 4 either way
    (6.0, 1.0, 2.0, 3.0): "",
    (4.0, -2.5, 1.0, 0.0): "rounding",
    (7.5, 2.0, 4.0, 1.0): "scale_rule",
    (7.0, 0.5, 0.0, 0.0): "rounding + scale_rule",  # .5 / 2 is a tie
    (5.0, 1.0, 0.0, 0.0): "rounding",
    (3.0, 1.0, 0.5, 0.25): "",
}
CHOICES: dict[str, Any] = {"scale_rule": "even", "rounding": "nearest_away"}


def mixture() -> tuple[Array, list[str]]:
    return np.array(list(BLOCKS), np.float32), list(BLOCKS.values())


def counts(made: sq.Explanation) -> dict[str, int]:
    return {cause.text: cause.blocks for cause in made.causes}


def test_a_mixture_is_attributed_exactly(isa: str) -> None:
    x, fields = mixture()
    made = sq.explain(x, {}, CHOICES, format=sq.spec("mxfp4", block=4))
    assert counts(made) == {"rounding": 3, "scale_rule": 2, "rounding + scale_rule": 1}
    assert (made.blocks, made.different_blocks, made.unattributed) == (8, 6, 0)
    for cause in made.causes:
        assert cause.place == (fields.index(cause.text), 0)
    a, b = sq.encode(x, "mxfp4"), sq.encode(x, "mxfp4", **CHOICES)
    different = (bits_of(a.decode()) != bits_of(b.decode())) | (a.codes != b.codes)
    assert made.different_elements == np.count_nonzero(different)
    assert sum(cause.elements for cause in made.causes) == made.different_elements


def test_blocks_of_one_line_are_told_apart() -> None:
    x, fields = mixture()
    made = sq.explain(x.reshape(1, -1), {}, CHOICES, format=sq.spec("mxfp4", block=4))
    assert counts(made) == {"rounding": 3, "scale_rule": 2, "rounding + scale_rule": 1}
    assert {cause.text: cause.place for cause in made.causes} == {
        text: (0, 4 * fields.index(text)) for text in counts(made)
    }


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis(axis: int) -> None:
    x, _ = mixture()
    turned = np.moveaxis(np.stack([x, x]), 2, axis)
    a, b = (sq.spec("mxfp4", axis=axis, **words) for words in ({}, CHOICES))
    made = sq.explain(turned, a, b)
    assert counts(made) == {"rounding": 6, "scale_rule": 4, "rounding + scale_rule": 2}
    assert made.blocks == 16


def test_the_first_block_is_worked_out() -> None:
    x, _ = mixture()
    made = sq.explain(x[1:], ("mxfp4", "torchao-main/floor"), ("mxfp4", "torchao-main/even"))
    assert made.names == ("torchao-main/floor", "torchao-main/even")
    assert made.first is not None and made.first.place == (0, 0)
    block = made.first.example
    assert (block.amax, block.exponent, block.x, block.bits[0]) == (7.0, 2, (7.0, 1.0, 2.0, 0.0), "0x40E00000")
    assert (block.a.scales, block.b.scales) == (("0x7F",), ("0x80",))
    assert (block.a.scaled, block.b.scaled) == ((7.0, 1.0, 2.0, 0.0), (3.5, 0.5, 1.0, 0.0))
    assert (block.a.codes, block.b.codes) == (("0x7", "0x2", "0x4", "0x0"), ("0x6", "0x1", "0x2", "0x0"))
    assert (block.a.values, block.b.values) == ((6.0, 1.0, 2.0, 0.0), (8.0, 1.0, 2.0, 0.0))
    assert (block.a.reason, block.b.reason) == (
        "floor: X = 2 - 2 = 0",
        "even: t = 1.75 >= 1.75, X = 2 - 2 + 1 = 1",
    )
    assert block.different == (0, 1, 2) and block.decides == "scale"
    text = str(made)
    for part in ("torchao-main/floor against torchao-main/even", "amax = 7 = 1.75 * 2^2", "0x40C00000", "first block"):
        assert part in text


def test_fields_that_do_it_alike_are_alternatives() -> None:
    """2^-135 is a subnormal number, and an element below the normal ones."""
    x = np.float32([[2.0**-135], [2.0**-134], [1.0]])
    made = sq.explain(x, {}, {"input_subnormals": "flush", "subnormals": "flush"}, format="mxfp8")
    # Flushed input leaves a block of zeros, and flushed elements do too: the scale is the least either way.
    assert counts(made) == {"subnormals or input_subnormals": 2}
    assert made.causes[0].fields == (("subnormals",), ("input_subnormals",))


def test_no_smaller_set_of_fields_accounts_for_a_block() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((80, 8)) * np.exp2(rng.integers(-3, 3, (80, 1)))).astype(np.float32)
    x[7, 0], x[9, 3], x[11] = np.nan, np.inf, 0
    words: dict[str, Any] = {
        "scale_rule": "rceil", "rounding": "up", "signed_zero": "drop", "nonfinite": "ignore", "zero_scale": 127,
    }  # fmt: skip
    plain = {"scale_rule": "floor", "rounding": "nearest_even", "signed_zero": "keep", "nonfinite": "poison"}
    plain["zero_scale"] = -1  # type: ignore[assignment]
    made = sq.explain(x, {}, words, format="mxfp4")

    def line(row: int, chosen: dict[str, Any]) -> tuple[bytes, ...]:
        tensor = sq.encode(x[row], "mxfp4", **chosen)
        return tensor.codes.tobytes(), bits_of(tensor.decode()).tobytes(), *(p.tobytes() for p in plane_bits(tensor))

    wanted: dict[str, int] = {}
    order = [change.name for change in made.fields]
    for row in range(len(x)):
        if line(row, plain) == line(row, words):
            continue
        for size in range(1, 6):
            good = [names for names in combinations(order, size)
                    if line(row, plain | {name: words[name] for name in names}) == line(row, words)]  # fmt: skip
            if good:
                key = " or ".join(" + ".join(names) for names in good)
                wanted[key] = wanted.get(key, 0) + 1
                break
    assert counts(made) == wanted and len(wanted) > 4 and made.unattributed == 0


def test_fields_that_mean_nothing_alone_come_together() -> None:
    x = np.float32([[7.3, 1.0], [6.5, 1.0]])
    made = sq.explain(x, {}, {"scale_rule": "rceil", "divisor": 7.25}, format="mxfp4")
    assert counts(made) == {"scale_rule": 1}  # 7.3 alone: without the divisor it is promoted as well
    made = sq.explain(x, {"scale_rule": "rceil"}, {"scale_rule": "rceil", "divisor": 7.25}, format="mxfp4")
    assert counts(made) == {"divisor": 1}
    even = {"scale_rule": "even", "even_bits": 0}
    assert counts(sq.explain(np.float32([[6.0, 0.0]]), {}, even, format="mxfp4")) == {"scale_rule + even_bits": 1}


def test_tiles_are_blocks() -> None:
    x = np.zeros((4, 6), np.float32)
    x[0, 0], x[1, 1] = 1, 7  # one tile
    x[3, 5] = 7.5  # another
    a, b = (sq.spec("mxfp4", block=(2, 3), scale_rule=rule) for rule in ("floor", "even"))
    made = sq.explain(x, a, b)
    assert (made.blocks, made.different_blocks) == (4, 2)
    assert made.causes[0].place == (0, 0) and made.causes[0].example.size == 6
    assert made.causes[0].example.x == (1, 0, 0, 0, 7, 0)


def test_a_scale_of_the_tensor_makes_one_block_of_it() -> None:
    x = np.random.default_rng(0).standard_normal((30, 20), dtype=np.float32)
    made = sq.explain(x, {}, {"rounding": "toward_zero"}, format=sq.spec("int8", block="tensor"))
    assert (made.blocks, made.different_blocks) == (1, 1)
    block = made.causes[0].example
    assert block.size == 600 and len(block.places) <= 256 and block.different_count > len(block.different)
    assert block.amax == float(np.abs(x).max())
    rows = sq.explain(x, {}, {"rounding": "toward_zero"}, format="int8")
    assert rows.blocks == 30


def test_elements_without_scales_are_their_own_blocks() -> None:
    x = np.float32([1 + 2.0**-8, 1.0, 1 + 3 * 2.0**-8])
    made = sq.explain(x, {}, {"rounding": "toward_zero"}, format="bf16")
    assert (made.blocks, made.different_blocks) == (3, 1)
    assert made.causes[0].place == (2,) and made.causes[0].example.decides == "tie"


def test_two_levels_and_their_scales_are_worked_out() -> None:
    x = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    x[2, 16:32] = 0
    x[3] *= 1e-5
    made = sq.explain(x, {}, "torchao-main/floor", format="nvfp4")
    assert counts(made) == {"scale_minimum": 5}
    block = made.causes[0].example
    assert block.decides == "scale of zeros" and block.a.scales[0] == block.b.scales[0]
    assert (block.a.scales[1], block.b.scales[1]) == ("0x01", "0x08")


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "torch"])
def test_inputs_of_every_type(kind: str) -> None:
    x, _ = mixture()
    given: Any = (
        torch.from_numpy(x) if kind == "torch" else x.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    )
    made = sq.explain(given, {}, CHOICES, format="mxfp4")
    assert counts(made) == {"rounding": 3, "scale_rule": 2, "rounding + scale_rule": 1}
    width = {"float16": 4, "bfloat16": 4, "float64": 16, "torch": 8}[kind]
    assert all(len(bits) == 2 + width for cause in made.causes for bits in cause.example.bits)


def test_arrays_are_attributed_by_the_spec_that_makes_them() -> None:
    x = np.random.default_rng(0).standard_normal((20, 96), dtype=np.float32)
    a = sq.emulate(x, "mxfp4", like="torchao-main/floor")
    b = sq.emulate(x, "mxfp4", like="quark-0.13/even")
    made = sq.explain(x, a, b, format="mxfp4")
    specs = sq.explain(x, {}, "quark-0.13/even", format="mxfp4")
    assert made.specs == specs.specs and made.unattributed == 0
    values = bits_of(a) != bits_of(b)
    assert made.different_elements == np.count_nonzero(values)
    assert made.different_blocks == np.count_nonzero(values.reshape(-1, 32).any(axis=1))
    assert sum(cause.blocks for cause in made.causes) == made.different_blocks
    assert any("b is taken for quark-0.13/even, which makes 60 of its 60 blocks" in note for note in made.notes)


def test_choices_that_no_preset_has_are_looked_for() -> None:
    x = np.random.default_rng(0).standard_normal((20, 96), dtype=np.float32)
    words = {"scale_rule": "even", "rounding": "up", "signed_zero": "drop"}
    b = sq.emulate(x, "mxfp4", **words)
    made = sq.explain(x, {}, b, format="mxfp4")
    assert made.specs is not None and made.unattributed == 0
    assert made.specs[1] == str(sq.spec("mxfp4", **words))


def test_what_no_choice_makes_is_not_accounted_for() -> None:
    x = np.random.default_rng(0).standard_normal((20, 96), dtype=np.float32)
    b = sq.emulate(x, "mxfp4", scale_rule="even")
    b[3, 40] += 0.125
    b[9, 1] *= 3
    made = sq.explain(x, {}, b, format="mxfp4")
    assert made.unattributed == 2 and made.unattributed_place in [(3, i) for i in range(32, 64)]
    assert counts(made).keys() == {"scale_rule"}
    assert "not accounted for: 2 blocks, from [3, " in str(made)
    assert made.different_blocks == made.causes[0].blocks + 2


def test_arrays_alone_are_only_compared() -> None:
    x = np.float32([[1.3, 2.0]])
    made = sq.explain(x, np.float32([[1.0, 2.0]]), np.float32([[1.5, 2.0]]))
    assert (made.different_elements, made.unattributed, made.unattributed_place) == (1, 1, (0, 0))
    assert made.causes == () and made.specs is None and "without format=" in str(made)
    same = sq.explain(x, x, x)
    assert same.unattributed == 0 and same.unattributed_place is None


def test_arrays_of_bfloat16_are_compared_as_such() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    a, b = (sq.emulate(x, "mxfp8", scale_rule=rule) for rule in ("floor", "even"))
    made = sq.explain(x, a, b, format="mxfp8")
    assert counts(made).keys() <= {"scale_rule"} and made.unattributed == 0


def test_equal_outputs_have_no_cause() -> None:
    x, _ = mixture()
    made = sq.explain(x, {}, "ocp", format="mxfp4")
    assert made.causes == () and made.first is None and made.fields == () and made.tables() == []
    assert "0 of 8 blocks differ" in str(made)


def test_json_is_the_same_record() -> None:
    x, _ = mixture()
    x[0, 1] = np.nan
    made = sq.explain(x, {}, CHOICES | {"nonfinite": "ignore"}, format="mxfp4")
    data = json.loads(made.to_json())
    assert data == made.to_dict() and data["different_blocks"] == made.different_blocks
    assert {" or ".join(" + ".join(names) for names in cause["fields"]) for cause in data["causes"]} == set(
        counts(made)
    )
    assert "NaN" in json.dumps(data["causes"])


def with_level(format: str, at: int, **changes: Any) -> sq.Spec:
    """A format of the catalog with another level."""
    made = sq.formats()[format]
    level = made.levels[at]
    fields: dict[str, Any] = {"format": level.format, "along": level.along, "across": level.across}
    levels = list(made.levels)
    levels[at] = sq.ScaleLevel(**{**fields, "combine": level.combine, **changes})
    return sq.Spec(dataclasses.replace(made, levels=levels))


def sparse(**changes: Any) -> sq.Spec:
    """MXFP4 with a pattern."""
    return sq.Spec(sq.formats()["mxfp4"], sq.Sparsity(**{"kept": 2, "group": 4, **changes}))


#: For fields of the records of a spec: two specs that differ in it, and the name that `explain` has for it.
PAIRS: dict[str, tuple[sq.Spec, sq.Spec, str]] = {
    "Spec.sparsity": (sq.spec("mxfp4"), sparse(), "sparsity"),
    "Spec.order": (sparse(), sq.spec(sparse(), order="quantize_first"), "order"),
    "Spec.scale_space": (
        sq.spec("mxfp4", sparsity="2:4", block=64),
        sq.spec("mxfp4", sparsity="2:4", scale_space="stored"),
        "scale_space",
    ),
    "Sparsity.kept": (sparse(), sparse(kept=1), "sparsity"),
    "Sparsity.group": (sparse(), sparse(group=8), "sparsity"),
    "Sparsity.unit": (sparse(kept=4, group=8), sparse(kept=4, group=8, unit=2), "sparsity"),
    "Sparsity.ties": (sparse(), sparse(ties="highest_index"), "ties"),
    "ScaleLevel.along": (sq.spec("mxfp4"), with_level("mxfp4", 0, along=16), "block"),
    "ScaleLevel.across": (sq.spec("mxfp4"), with_level("mxfp4", 0, across=32), "block"),
    "ScaleLevel.across of an outer level": (sq.spec("nvfp4"), with_level("nvfp4", 0, across=1), "outer_block"),
    "ScaleLevel.along of an inner level": (sq.spec("mx9"), with_level("mx9", 1, along=4), "inner_blocks"),
    "ScaleLevel.combine": (sq.spec("nvfp4"), with_level("nvfp4", 0, combine="divide"), "outer_combine"),
}
#: Fields that are no choice between two specs of one format, and what is said of specs that differ in them.
REFUSED: dict[str, tuple[sq.Spec, sq.Spec, str]] = {
    "Spec.axis": (sq.spec("mxfp4"), sq.spec("mxfp4", axis=0), "axis=-1 and axis=0: needed the same"),
    "Format.element": (sq.spec("mxfp4"), sq.spec("mxint4"), "two formats"),
    "ScaleLevel.format": (sq.spec("fp8_e4m3_1x128"), sq.spec("fp8_e4m3_1x128_ue8m0"), "two formats"),
    "ScaleLevel.combine of an inner level": (
        sq.spec("mx9"),
        with_level("mx9", 1, combine="multiply"),
        "two formats",
    ),
}
#: Fields that hold no bits: records of the above, and words for people.
NO_BITS = {
    "Spec.format": "a record, whose fields are looked at",
    "Format.levels": "records, whose fields are looked at",
    "Format.conversion": "a record, whose fields are looked at",
    "Format.name": "of people",
    "Format.source": "of people",
    "Format.evidence": "of people",
}


def record_fields() -> set[str]:
    """Every field of the records that a spec is made of, but those of `Conversion`."""
    own = {"Spec": sq.Spec, "Format": type(sq.formats()["mxfp4"])}
    named = {f"{name}.{field.name}" for name, one in own.items() for field in dataclasses.fields(one)}
    core = {"ScaleLevel": sq.ScaleLevel, "Sparsity": sq.Sparsity}
    return named | {f"{name}.{field}" for name, one in core.items() for field in one.fields}


def test_every_field_of_a_spec_is_covered() -> None:
    listed = {name.partition(" ")[0] for name in (*PAIRS, *REFUSED)} | set(NO_BITS)
    assert listed == record_fields()
    assert set(fields_of(sq.spec("mxfp4"))) == {
        *sq.Conversion.fields, *(name for _, _, name in PAIRS.values()),
    }  # fmt: skip


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in PAIRS.items()])
def test_a_field_of_the_records_is_named_and_can_be_taken(pair: tuple[sq.Spec, sq.Spec, str]) -> None:
    x = np.random.default_rng(3).standard_normal((64, 128)) * np.exp2(np.arange(64) % 5)[:, None]
    x = np.round(x * 4).astype(np.float32) / 4  # with equal magnitudes in a group
    for a, b in (pair[:2], pair[1::-1]):
        made = sq.explain(x, a, b)
        names = {change.name for change in made.fields}
        assert pair[2] in names and names <= {pair[2], "ties"}
        assert mixed(a, b, names) == b and mixed(a, b, ()) == a
        same = np.array_equal(bits_of(sq.emulate(x, a)), bits_of(sq.emulate(x, b)))
        # Where blocks of scales are counted changes what a spec says, and no bits of the same blocks.
        assert same == (pair[2] == "scale_space") and (made.different_blocks == 0) == same
        assert made.unattributed == 0 and {cause.text for cause in made.causes} == (set() if same else {pair[2]})


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in REFUSED.items()])
def test_other_fields_are_no_choice_between_two_ways(pair: tuple[sq.Spec, sq.Spec, str]) -> None:
    with pytest.raises(ValueError, match=pair[2]):
        sq.explain(np.ones((2, 64), np.float32), *pair[:2])


def test_every_field_of_a_conversion_is_named() -> None:
    """Of some spec of the catalog that takes another word or number for it."""
    numbers: dict[str, list[Any]] = {
        "divisor": [7.25], "even_bits": [0], "zero_scale": [127], "align_bits": [4], "cut_offset": [0.5],
        "scale_minimum": [8], "random_bits": [8],
    }  # fmt: skip
    company: list[dict[str, Any]] = [
        {}, {"scale_rule": "even"}, {"scale_rule": "rceil"}, {"rounding": "toward_zero"}, {"align_bits": 4},
        {"outer_combine": "divide"}, {"rounding": "stochastic"}, {"scale_rule": "fit"},
    ]  # fmt: skip
    missing = set(sq.Conversion.fields)
    for field in sorted(missing):
        for format, base, word in product(sq.formats(), company, numbers.get(field) or words_of(field)):
            try:
                a, b = sq.spec(format, **base), sq.spec(format, **{**base, field: word})
            except ValueError:
                continue
            if a != b:
                assert [change.name for change in changed_fields(a, b)] == [field]
                assert mixed(a, b, [field]) == b
                missing.discard(field)
                break
    assert missing == set()


def test_a_pattern_comes_with_where_its_blocks_were_counted() -> None:
    """Stored elements mean nothing without a pattern: before the field was one, nothing accounted for such a pair."""
    x = np.random.default_rng(3).standard_normal((8, 256), dtype=np.float32)
    made = sq.explain(x, sq.spec("mxfp4", sparsity="2:4", scale_space="stored"), "ocp", format="mxfp4")
    assert {"block", "sparsity", "scale_space"} <= {change.name for change in made.fields}
    assert made.unattributed == 0 and all("sparsity + scale_space" in cause.text for cause in made.causes)


def test_a_field_with_the_words_of_another_is_looked_for() -> None:
    x = np.float32([[2.0**-111, 2.0**-127], [2.0**-111, -(2.0**-128)], [1.0, 2.0]])  # over 2^-126, elements are normal
    theirs = sq.emulate(x, "mxfp8_e5m2", input_subnormals="flush")
    made = sq.explain(x, {}, theirs, format="mxfp8_e5m2")
    assert made.unattributed == 0 and counts(made) == {"input_subnormals": 2}


@pytest.mark.parametrize("words", [{"ties": "highest_index"}, {"ties": "topk"}, {"order": "quantize_first"}])
def test_patterns_of_arrays_are_looked_for(words: dict[str, str]) -> None:
    x = np.round(np.random.default_rng(3).standard_normal((32, 128)) * 4).astype(np.float32)
    base = sq.spec("mxfp4", sparsity="2:4")
    made = sq.explain(x, {}, sq.emulate(x, base, **words), format=base)
    assert made.specs is not None and made.specs[1] == str(sq.spec(base, **words)) and made.unattributed == 0


def test_what_is_named_is_looked_at_before_anything_is_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = mixture()
    module = sys.modules["sparq_sim.explain"]  # the package has a function of that name
    monkeypatch.setattr(module, "_closest", lambda *_: pytest.fail("searched"))
    with pytest.raises(ValueError, match="unknown preset 'opc'"):
        sq.explain(x, x, "opc", format="mxfp4")


@pytest.mark.parametrize("shape", [(7,), (3, 70), (2, 3, 40), ()])
@pytest.mark.parametrize("format", ["mxfp4", "nvfp4", "mx9", "int8", "nvfp4_16x16", "bf16", "fp8_e4m3"])
def test_every_element_knows_its_scales(format: str, shape: tuple[int, ...]) -> None:
    """Codes times the scales that an element is told are its values."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    spec = sq.spec(format)
    tensor = sq.encode(x, spec)
    axis = max(0, len(shape) - 1)
    power, factor = np.ones(shape), np.ones(shape, np.float32)
    for level, plane in zip(spec.format.levels, tensor.scale_planes, strict=True):
        spread = places.spread(level, plane, shape, axis)
        assert spread.shape == shape
        values = spread if level.format.code_bytes == 4 else np.vectorize(level.format.value)(spread)
        if level.format.is_power_of_two_scale:
            power = power / values if level.combine == "divide" else power * values
        else:
            factor = values.astype(np.float32) * factor
    element = np.vectorize(spec.format.element.value)(tensor.codes) * power
    # Float scales multiply in float32 (docs/numerics.md section 4); powers of two are exact.
    wanted = element.astype(np.float32) * factor if spec.format.scale_kind == "float" else element
    assert_same_bits(np.asarray(wanted, np.float64), tensor.decode("float64"))
    blocks = places.blocks_of(shape, [spec])
    assert blocks.count == (
        tensor.scale_planes[spec.format.block_format.main_level].size if spec.format.levels else x.size
    )
    assert set(np.unique(blocks.ids)) == set(range(blocks.count))


@pytest.mark.parametrize(
    ("arguments", "format", "error", "message"),
    [
        (("ocp", "quark-0.13/even"), None, ValueError, "a='ocp': needed format="),
        (("ocp", "nope"), "mxfp4", ValueError, "unknown preset 'nope'"),
        (({}, {"rounding": "stochastic"}), "mxfp4", ValueError, "needs random bits"),
        ((sq.spec("mxfp4"), sq.spec("mxfp8")), None, ValueError, "are two formats"),
        ((np.zeros((2, 2), np.float32), np.zeros((8, 4), np.float32)), None, ValueError, r"a: shape \(2, 2\); needed"),
        ((np.zeros((8, 4), np.float32), "ocp"), None, ValueError, "needed beside an array"),
        ((3, {}), "mxfp4", TypeError, "a: needed the name of a preset"),
        ((np.zeros((8, 4), np.int32), {}), "mxfp4", TypeError, "needed: float16"),
    ],
)
def test_errors_say_what_is_needed(arguments: Any, format: Any, error: type[Exception], message: str) -> None:
    x, _ = mixture()
    with pytest.raises(error, match=message):
        sq.explain(x, *arguments, format=format)


def test_input_that_a_side_refuses_is_an_error() -> None:
    with pytest.raises(ValueError, match="nonfinite='error'"):
        sq.explain(np.float32([np.nan]), {}, {"nonfinite": "error"}, format="mxfp4")
