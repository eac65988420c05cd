"""Traits of a spec: no counter-example where one is claimed, a counter-example where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sparq_sim as sq
from conftest import Array

CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"rounding": "nearest_away"},
    {"rounding": "toward_zero"},
    {"rounding": "up"},
    {"rounding": "down"},
    {"rounding": "to_odd"},
    {"rounding": "stochastic"},
    {"scale_rule": "ceil"},
    {"scale_rule": "rceil"},
    {"scale_rule": "even"},
    {"scale_rule": "nearest"},
    {"scale_rule": "mse"},
    {"scale_rule": "rceil", "divisor": 2.9},
    {"divisor": 2.0},
    {"rounding": "nearest_up"},
    {"integer_range": "full"},
    {"subnormals": "flush"},
    {"preround": "bf16"},
    {"align_bits": 2},
)
FORMATS = (
    "mxfp4", "mxfp6_e2m3", "mxfp8_e4m3", "mxint8", "hbfp4", "mx6", "bfp16", "bfp4_b", "nvfp4", "nvfp4_one_level",
    "int8", "fp8_e4m3", "bf16", "fp16", "int8_affine", "int4_affine_g128",
)  # fmt: skip


def cases() -> list[Any]:
    made = []
    for name in FORMATS:
        for choices in CHOICES:
            try:
                sq.spec(name, **choices)
            except ValueError:
                continue  # a choice that this format does not take
            words = "-".join(f"{key}={value}" for key, value in choices.items())
            made.append(pytest.param(name, choices, id=f"{name}-{words}" if words else name))
    return made


def tensors(name: str) -> list[Array]:
    """Blocks of many sizes, some with ties of the grid, all within the range of normal numbers."""
    rng = np.random.default_rng([1, *name.encode()])
    made = []
    for spread in (1, 3, 9):
        x = rng.standard_normal((60, 64)) * 2.0 ** rng.integers(-spread, spread, (60, 64))
        made.append(x * 2.0 ** rng.integers(-4, 3, (60, 1)))
    made.append(rng.integers(-40, 41, (60, 64)) / 8)
    # Whole blocks near the small end of short scales.
    made.append(rng.standard_normal((60, 64)) * 2.0 ** rng.integers(-9, 3, (60, 1)))
    return [x.astype(np.float32) for x in made]


def all_tensors(trait: str, name: str) -> list[Array]:
    """Idempotence is claimed for subnormal numbers too."""
    rng = np.random.default_rng(2)
    tiny = np.rint(rng.uniform(-1, 1, (400, 64)) * rng.integers(1, 900, (400, 1))) * 2.0**-149
    return [*tensors(name), tiny.astype(np.float32)] if trait == "idempotent" else tensors(name)


def emulated(x: Array, name: str, choices: dict[str, Any]) -> Array:
    random = {"random": sq.Philox(5)} if choices.get("rounding") == "stochastic" else {}
    values: Array = sq.emulate(x, name, dtype="float64", inexact="round", **choices, **random)
    return values


def same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b))  # zeros of either sign are equal


def is_idempotent(x: Array, name: str, choices: dict[str, Any]) -> bool:
    once = emulated(x, name, choices)
    return same(emulated(once, name, choices), once)


def is_sign_symmetric(x: Array, name: str, choices: dict[str, Any]) -> bool:
    return same(emulated(-x, name, choices), -emulated(x, name, choices))


def is_monotone(x: Array, name: str, choices: dict[str, Any]) -> bool:
    """Sorted blocks stay sorted."""
    format_ = sq.formats()[name]
    block = format_.block if isinstance(format_.block, int) else 64
    blocks = np.sort(x.reshape(len(x), -1, min(block, 64)), axis=-1).reshape(x.shape)
    made = emulated(blocks, name, choices).reshape(len(x), -1, min(block, 64))
    return bool((np.diff(made, axis=-1) >= 0).all())


def is_shift_invariant(x: Array, name: str, choices: dict[str, Any]) -> bool:
    return same(emulated(x * np.float32(8), name, choices), 8 * emulated(x, name, choices))


def stays_within_half_a_step(x: Array, name: str, choices: dict[str, Any]) -> bool:
    """Against the grid under the scales that were chosen: the values of all codes."""
    random = {"random": sq.Philox(5)} if choices.get("rounding") == "stochastic" else {}
    encoded = sq.encode(x, name, **choices, **random)
    element, planes = encoded.format.element, list(encoded.scale_planes)
    finite = [element.value(code) for code in range(element.max_code + 1)]
    grid = np.unique([*finite, *(-value for value in finite)])
    ones = sq.BlockTensor(
        np.full_like(encoded.codes, finite.index(1.0)), encoded.scales, None, encoded.spec, "float32", "numpy"
    )
    scale = ones.decode("float64", inexact="round")  # of each element, micro-exponents included
    assert len(planes) < 4
    v, got = x.astype(np.float64) / scale, encoded.decode("float64", inexact="round") / scale
    within = np.abs(v) <= grid[-1]
    above = np.searchsorted(grid, v).clip(1, len(grid) - 1)
    step = grid[above] - grid[above - 1]
    return bool((np.abs(got - v) <= step / 2)[within].all())


TESTS: dict[str, Callable[[Array, str, dict[str, Any]], bool]] = {
    "idempotent": is_idempotent,
    "sign_symmetric": is_sign_symmetric,
    "monotone": is_monotone,
    "half_step": stays_within_half_a_step,
    "shift_invariant": is_shift_invariant,
}


@pytest.mark.parametrize(("name", "choices"), cases())
def test_a_trait_holds_on_every_tensor_where_it_is_claimed(name: str, choices: dict[str, Any]) -> None:
    claimed = sq.traits(name, **choices)
    for trait, holds in TESTS.items():
        if getattr(claimed, trait):
            assert all(holds(x, name, choices) for x in all_tensors(trait, name)), trait


#: Where a trait is not claimed, a format and choices that show why.
SHOWN = [
    ("idempotent", "int8", {}),
    ("idempotent", "bfp16", {}),
    ("idempotent", "bfp16_quark", {}),
    ("idempotent", "nvfp4_one_level", {}),
    ("idempotent", "mxfp4", {"scale_rule": "nearest"}),
    ("idempotent", "mxfp4", {"scale_rule": "rceil", "divisor": 2.9}),
    ("idempotent", "mxfp4", {"divisor": 2.0}),
    ("sign_symmetric", "mxfp4", {"rounding": "nearest_up"}),
    ("shift_invariant", "fp16", {}),
    ("shift_invariant", "nvfp4_one_level", {}),
    ("sign_symmetric", "mxfp4", {"rounding": "up"}),
    ("sign_symmetric", "bf16", {"rounding": "down"}),
    ("sign_symmetric", "bfp16", {"rounding": "nearest_even"}),
    ("monotone", "mxfp4", {"rounding": "stochastic"}),
    ("monotone", "mx6", {}),
    ("half_step", "mxfp4", {"rounding": "toward_zero"}),
    ("half_step", "mxfp4", {"rounding": "to_odd"}),
    ("half_step", "hbfp4", {"align_bits": 2}),
    ("half_step", "mxfp8_e4m3", {"subnormals": "flush"}),
]


@pytest.mark.parametrize(("trait", "name", "choices"), SHOWN)
def test_a_trait_that_is_not_claimed_has_a_counter_example(trait: str, name: str, choices: dict[str, Any]) -> None:
    assert not getattr(sq.traits(name, **choices), trait)
    assert not all(TESTS[trait](x, name, choices) for x in all_tensors(trait, name))


def test_float32_steps_break_traits_next_to_halves_and_powers_of_two(isa: str) -> None:
    half, power = {"half_sum": "fp32"}, {"element_exponent": "log2", "rounding": "toward_zero"}
    assert not sq.traits("mxfp4", **half).half_step and not sq.traits("mxfp4", **power).monotone
    x = np.float32([[4, 0.25 - 2.0**-26]])
    assert sq.emulate(x, "mxfp4", **half).tolist() == [[4, 0.5]]  # farther than half of the step of 0.5
    y = np.float32([[8 - 2.0**-21, 7]])
    assert sq.emulate(y, "mxfp4", **power).tolist() == [[4, 6]]
